//! Rows from where they are: of files only the pages that hold them, of the tail from memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, new_null_array};
use datafusion::arrow::compute::{CastOptions, concat_batches};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::cast_column;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescriptor;
use tidelake_core::ErrorKind;
use tidelake_table::LookupError;

use crate::error::QueryError;
use crate::formats::OddFloats;
use crate::formats::objects::Objects;
use crate::table::facts::FileFacts;
use crate::table::pinned::Pinned;
use crate::table::readers::Readers;
use crate::table::shape::Shape;
use crate::tail::{Found, Piece};

/// Files that are read at a time.
const FILES_IN_FLIGHT_MAX: usize = 8;

/// Rows that are read before it is looked how large they are: at first, and later.
const PART_FIRST: usize = 64;
const PART_MIN: usize = 16;
const PART_MAX: usize = 4096;

/// Rows in the order that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// The table's columns; types may be those of the files where JSON shows the same.
    batches: Vec<RecordBatch>,
    /// Batch and row of each; none where there is no such row.
    places: Vec<Option<(usize, usize)>>,
}

impl Rows {
    pub(super) fn new(batches: Vec<RecordBatch>, places: Vec<Option<(usize, usize)>>) -> Self {
        Self { batches, places }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Batch and row of one.
    pub(super) fn place(&self, place: usize) -> Option<(usize, usize)> {
        *self.places.get(place)?
    }

    /// Batch and row of those that are there.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.places.iter().copied().flatten()
    }

    pub(super) fn batch(&self, place: usize) -> &RecordBatch {
        &self.batches[place]
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.places.truncate(rows);
    }

    pub(crate) fn batch_of(&self, place: usize) -> Option<(&RecordBatch, usize)> {
        let (batch, row) = (*self.places.get(place)?)?;
        Some((&self.batches[batch], row))
    }

    /// Rows as objects, `null` where there is none, separated by commas, as many of the first as
    /// `bytes_max` has room for. Gives their number.
    pub(crate) fn write(
        &self,
        odd: OddFloats,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, QueryError> {
        let objects = self.batches.iter().map(|batch| Objects::new(batch, odd));
        let objects: Vec<Objects<'_>> = objects.collect::<Result<_, _>>()?;
        for (at, place) in self.places.iter().enumerate() {
            let before = out.len();
            if at > 0 {
                out.push(b',');
            }
            match place {
                Some((batch, row)) => objects[*batch].write(*row, out),
                None => out.extend_from_slice(b"null"),
            }
            if out.len() > bytes_max {
                out.truncate(before);
                return Ok(at);
            }
        }
        Ok(self.places.len())
    }
}

pub(super) fn bytes_of(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size()
}

/// Reads rows in their order until all are there, or those that are take more than `bytes_max`: fewer
/// rows than were asked for tell that.
pub(crate) async fn fetch(
    readers: &Readers,
    pinned: &Pinned,
    found: &[Option<Found>],
    bytes_max: usize,
) -> Result<Rows, QueryError> {
    let mut reading = Reading::default();
    let (mut left, mut part) = (found, PART_FIRST);
    while !left.is_empty() {
        let (now, later) = left.split_at(part.min(left.len()));
        reading.part(readers, pinned, now).await?;
        if reading.decoded > bytes_max {
            break;
        }
        // As many more as there is room for, should they be as large as those so far.
        let each = (reading.decoded / reading.rows.len().max(1)).max(1);
        part = ((bytes_max - reading.decoded) / each).clamp(PART_MIN, PART_MAX);
        left = later;
    }
    Ok(reading.rows)
}

/// Rows that were read so far.
#[derive(Default)]
struct Reading {
    rows: Rows,
    /// Bytes that rows of files were decoded to. Those of the tail were there before.
    decoded: usize,
    /// Batches of the tail by their address: many rows lie in one.
    held: HashMap<usize, usize>,
}

impl Reading {
    /// Reads rows. Each file is read once, whatever the number of its rows.
    async fn part(
        &mut self,
        readers: &Readers,
        pinned: &Pinned,
        found: &[Option<Found>],
    ) -> Result<(), QueryError> {
        let shape = &pinned.shape;
        let first = self.rows.places.len();
        self.rows.places.resize(first + found.len(), None);
        let mut by_file: BTreeMap<Arc<str>, BTreeMap<u32, Vec<usize>>> = BTreeMap::new();
        for (place, found) in (first..).zip(found) {
            match found {
                None => {}
                Some(Found::File { path, row }) => {
                    let of_file = by_file.entry(Arc::clone(path)).or_default();
                    of_file.entry(*row).or_default().push(place);
                }
                Some(Found::Tail { piece, row }) => self.of_tail(piece, *row, place)?,
            }
        }
        let reads = by_file.into_iter().map(|(path, wanted)| async move {
            let file = pinned.indexed_file(&path)?;
            let numbers: Vec<u32> = wanted.keys().copied().collect();
            let batch = read(readers, &file, shape, &numbers).await?;
            Ok::<_, QueryError>((batch, wanted))
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(FILES_IN_FLIGHT_MAX);
        while let Some((batch, wanted)) = reads.try_next().await? {
            for (row, places) in wanted.into_values().enumerate() {
                for place in places {
                    self.rows.places[place] = Some((self.rows.batches.len(), row));
                }
            }
            self.decoded += bytes_of(&batch);
            self.rows.batches.push(batch);
        }
        Ok(())
    }

    fn of_tail(&mut self, piece: &Piece, row: u32, place: usize) -> Result<(), QueryError> {
        let Some((batch, row)) = piece.locate(row) else {
            let name = &piece.name;
            return Err(QueryError::Engine(format!("{name} has no row {row}")));
        };
        let batches = &mut self.rows.batches;
        let at = self.held.entry(std::ptr::from_ref(batch).addr());
        let at = *at.or_insert_with(|| {
            batches.push(batch.clone());
            batches.len() - 1
        });
        self.rows.places[place] = Some((at, row));
        Ok(())
    }
}

/// The rows of a file by number: rising, each once.
async fn read(
    readers: &Readers,
    file: &FileFacts,
    shape: &Shape,
    rows: &[u32],
) -> Result<RecordBatch, QueryError> {
    let meta = file.meta();
    let path = &meta.location;
    let failed = |error| QueryError::from(DataFusionError::from(error));
    let columns = |schema: &SchemaDescriptor| file.columns(schema);
    let opened = readers.rows(path, meta.size, columns).await;
    let batch = match opened.map_err(failed)? {
        Some((opened, pages)) => {
            let wrong = |error: LookupError| match error.kind() {
                ErrorKind::Corrupt => QueryError::Corrupt(format!("{path}: {error}")),
                _ => QueryError::Engine(format!("{path}: {error}")),
            };
            let read = opened.plan(rows, Some(&pages)).map_err(wrong)?;
            let bytes = readers.ranges(path, read.ranges()).await;
            read.decode(bytes.map_err(failed)?).map_err(wrong)?
        }
        None => streamed(readers, file, &meta, rows).await?,
    };
    shown(&batch, shape)
}

/// The same of a file that has no index of its pages.
async fn streamed(
    readers: &Readers,
    file: &FileFacts,
    meta: &ObjectMeta,
    rows: &[u32],
) -> Result<RecordBatch, QueryError> {
    let failed = |error| QueryError::from(DataFusionError::from(error));
    let builder = readers.stream(&meta.location, meta.size).await;
    let builder = builder.map_err(failed)?;
    let (groups, selection) = selection(builder.metadata(), rows).ok_or_else(|| {
        QueryError::Corrupt(format!("the key index names rows beyond {}", meta.location))
    })?;
    let schema = builder.parquet_schema();
    let mask = ProjectionMask::roots(schema, file.columns(schema).iter().copied());
    let stream = builder
        .with_projection(mask)
        .with_row_groups(groups)
        .with_row_selection(selection)
        .with_batch_size(rows.len())
        .build()
        .map_err(failed)?;
    let mut batches: Vec<RecordBatch> = stream.try_collect().await.map_err(failed)?;
    let batch = match batches.len() {
        1 => batches.remove(0),
        0 => {
            return Err(QueryError::Corrupt(format!(
                "{} has no rows",
                meta.location
            )));
        }
        _ => concat_batches(&batches[0].schema(), &batches)?,
    };
    if batch.num_rows() != rows.len() {
        return Err(QueryError::Corrupt(format!(
            "{} has {} of {} rows that the key index names",
            meta.location,
            batch.num_rows(),
            rows.len()
        )));
    }
    Ok(batch)
}

/// The row groups that hold the rows, and which of their rows these are; `None` where the file has
/// fewer.
fn selection(metadata: &ParquetMetaData, rows: &[u32]) -> Option<(Vec<usize>, RowSelection)> {
    let (mut groups, mut ranges) = (Vec::new(), Vec::with_capacity(rows.len()));
    let (mut begin, mut kept) = (0, 0);
    let mut left = rows;
    for (group, metadata) in metadata.row_groups().iter().enumerate() {
        let count = usize::try_from(metadata.num_rows()).ok()?;
        let within = left.partition_point(|row| (*row as usize) < begin + count);
        if within > 0 {
            groups.push(group);
            let (own, rest) = left.split_at(within);
            ranges.extend(own.iter().map(|row| {
                let at = *row as usize - begin + kept;
                at..at + 1
            }));
            (left, kept) = (rest, kept + count);
        }
        begin += count;
    }
    let selection = RowSelection::from_consecutive_ranges(ranges.into_iter(), kept);
    left.is_empty().then_some((groups, selection))
}

/// The table's columns of today from a file's of then.
fn shown(batch: &RecordBatch, shape: &Shape) -> Result<RecordBatch, QueryError> {
    let scanned = batch.schema();
    let columns = shape
        .scan
        .fields()
        .iter()
        .map(|field| -> Result<ArrayRef, QueryError> {
            let Ok(place) = scanned.index_of(field.name()) else {
                return Ok(new_null_array(field.data_type(), batch.num_rows()));
            };
            let column = batch.column(place);
            Ok(match (column.data_type(), field.data_type()) {
                (have, want) if have == want => Arc::clone(column),
                (DataType::Utf8, DataType::Utf8View) | (DataType::Binary, DataType::BinaryView) => {
                    Arc::clone(column)
                }
                _ => cast_column(column, field.data_type(), &CastOptions::default())?,
            })
        });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    let named = shape.schema.fields().iter().zip(&columns);
    let named = named.map(|(field, column)| (field.name().as_str(), Arc::clone(column), true));
    Ok(RecordBatch::try_from_iter_with_nullable(named)?)
}
