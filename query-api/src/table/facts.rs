//! What is known of one data file without reading it: size, counts, bounds, deleted rows.
//!
//! A view into the arrays of its [`Segment`], made for a file that a query reads. What is read of the
//! file or of its deletion vector is kept by [`Readers`], not here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::schema::types::SchemaDescriptor;
use tidelake_core::Bucket;
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{DataFile, DeltaTable};
use tidelake_table::{RowSet, TAG_INDEX};
use tokio::sync::OnceCell;

use super::readers::Readers;
use super::row_bytes;
use super::segment::{Bound, Segment};
use super::shape::Shape;
use crate::error::QueryError;

/// Footers that are read at a time, of files whose rows the log does not count.
const FOOTERS_IN_FLIGHT_MAX: usize = 8;

/// One live file of a version.
#[derive(Clone)]
pub(crate) struct FileFacts {
    table: Arc<DeltaTable>,
    segment: Arc<Segment>,
    place: usize,
    /// Where only these rows count, whatever the deletion vector says.
    picked: Option<Arc<Picked>>,
}

#[derive(Debug)]
struct Picked {
    rows: DeletedRows,
    selection: OnceCell<Arc<RowSelection>>,
}

impl fmt::Debug for FileFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileFacts")
            .field("file", self.file())
            .finish_non_exhaustive()
    }
}

impl FileFacts {
    /// Of a file by itself.
    pub(crate) fn new(table: &Arc<DeltaTable>, file: &Arc<DataFile>, shape: &Arc<Shape>) -> Self {
        let segment = Segment::new(shape, vec![Arc::clone(file)]);
        Self::of(table, &Arc::new(segment), 0)
    }

    pub(super) fn of(table: &Arc<DeltaTable>, segment: &Arc<Segment>, place: usize) -> Self {
        Self {
            table: Arc::clone(table),
            segment: Arc::clone(segment),
            place,
            picked: None,
        }
    }

    /// The same file, of which `rows` (positions) and no others count.
    pub(crate) fn picked(
        table: &Arc<DeltaTable>,
        file: &Arc<DataFile>,
        shape: &Arc<Shape>,
        rows: DeletedRows,
    ) -> Self {
        let selection = OnceCell::new();
        Self {
            picked: Some(Arc::new(Picked { rows, selection })),
            ..Self::new(table, file, shape)
        }
    }

    fn file(&self) -> &Arc<DataFile> {
        &self.segment.files[self.place]
    }

    /// Relative to the table.
    pub(crate) fn name(&self) -> &str {
        self.file().path()
    }

    pub(crate) fn size(&self) -> u64 {
        self.file().size()
    }

    /// The buckets that it has rows of, where its writer says so.
    pub(crate) fn buckets(&self) -> Option<Vec<Bucket>> {
        self.file().buckets()
    }

    /// Where the sidecar lies that holds the keys of all its rows, if it has one: only a file of one
    /// bucket can.
    pub(crate) fn sidecar(&self) -> Option<Path> {
        let is_of_one = matches!(self.buckets().as_deref(), Some([_]));
        let name = self.file().tag(TAG_INDEX).filter(|_| is_of_one)?;
        Some(self.table.store().path(name))
    }

    /// Physical rows.
    pub(crate) fn records(&self) -> Option<u64> {
        self.file().num_records()
    }

    pub(crate) fn deleted(&self) -> u64 {
        self.file().deleted_rows()
    }

    pub(crate) fn live_rows(&self) -> Option<u64> {
        match &self.picked {
            Some(picked) => Some(picked.rows.len()),
            None => self.file().live_rows(),
        }
    }

    pub(crate) fn modified_ms(&self) -> i64 {
        self.file().add.modification_time
    }

    pub(crate) fn tags_json(&self) -> String {
        let tags = self.file().add.tags.clone().unwrap_or_default();
        serde_json::to_string(&tags).unwrap_or_else(|_| "{}".to_owned())
    }

    fn location(&self) -> Path {
        self.table.store().path(self.name())
    }

    /// The file as the object store knows it: no request is needed.
    pub(crate) fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            location: self.location(),
            last_modified: chrono::DateTime::from_timestamp_millis(self.modified_ms())
                .unwrap_or_default(),
            size: self.size(),
            e_tag: None,
            version: None,
        }
    }

    /// The table's columns among the file's (root columns by place, rising).
    pub(crate) fn columns(&self, file: &SchemaDescriptor) -> Arc<[usize]> {
        let shape = &self.segment.shape;
        let roots = file.root_schema().get_fields().iter().enumerate();
        let roots = roots.filter(|(_, root)| shape.is_scanned(root.name()));
        roots.map(|(place, _)| place).collect()
    }

    /// What is known of a column of the table.
    pub(crate) fn bound(&self, place: usize) -> Bound {
        self.segment.bound(place, self.place)
    }

    /// Statistics as plans use them, of the columns of interest; the others are unknown, which spares
    /// a wide table most of the work. `hidden` rows do not count.
    pub(crate) fn statistics(
        &self,
        schema: &SchemaRef,
        columns: &BTreeSet<usize>,
        hidden: u64,
    ) -> Arc<Statistics> {
        let mut statistics = Statistics::new_unknown(schema);
        let rows = match &self.picked {
            Some(picked) => Some(picked.rows.len()),
            None => self.records().map(|rows| rows.saturating_sub(hidden)),
        };
        if let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) {
            statistics.num_rows = Precision::Exact(rows);
        }
        let size = usize::try_from(self.size()).unwrap_or(usize::MAX);
        statistics.total_byte_size = Precision::Inexact(size);
        let hiding = hidden > 0 || self.picked.is_some();
        for &place in columns {
            statistics.column_statistics[place] = column(&self.bound(place), hiding);
        }
        Arc::new(statistics)
    }

    /// The rows that count, where they were picked.
    pub(crate) async fn selection(
        &self,
        readers: &Readers,
    ) -> Result<Option<Arc<RowSelection>>, QueryError> {
        let Some(picked) = &self.picked else {
            return Ok(None);
        };
        let read = || self.pick(&picked.rows, readers);
        let selection = picked.selection.get_or_try_init(read).await?;
        Ok(Some(Arc::clone(selection)))
    }

    /// The rows that the deletion vectors of files of one table name; none of files without one, or
    /// of which rows were picked. Those that are not known yet and lie in one object are read with
    /// one request.
    pub(crate) async fn deleted_rows(
        files: &[Arc<Self>],
        readers: &Readers,
    ) -> Result<Vec<Option<Arc<RowSet>>>, QueryError> {
        let mut deleted = vec![None; files.len()];
        let mut unread = Vec::new();
        for (place, facts) in files.iter().enumerate() {
            let vector = facts.file().dv().filter(|_| facts.picked.is_none());
            let Some(vector) = vector else {
                continue;
            };
            deleted[place] = readers.deleted(&facts.location(), vector);
            if deleted[place].is_none() {
                unread.push(place);
            }
        }
        let Some(first) = unread.first() else {
            return Ok(deleted);
        };
        let of = unread.iter().map(|place| Arc::clone(files[*place].file()));
        let of: Vec<_> = of.collect();
        let rows = files[*first].table.deleted_rows_of(&of).await?;
        // Futures before the stream: a closure over borrowed ones makes one that can't be sent.
        let mut reading = Vec::with_capacity(unread.len());
        for (place, rows) in unread.into_iter().zip(rows) {
            let facts = &files[place];
            reading.push(async move {
                let rows = facts.usable(&rows, readers).await?;
                Ok::<_, QueryError>((place, rows))
            });
        }
        let read = futures::stream::iter(reading).buffer_unordered(FOOTERS_IN_FLIGHT_MAX);
        let read: Vec<_> = read.try_collect::<Vec<_>>().await?;
        for (place, rows) in read {
            if let Some(vector) = files[place].file().dv() {
                readers.keep_deleted(&files[place].location(), vector, &rows);
            }
            deleted[place] = Some(rows);
        }
        Ok(deleted)
    }

    /// What a vector names, where all of it is in the file.
    async fn usable(
        &self,
        rows: &DeletedRows,
        readers: &Readers,
    ) -> Result<Arc<RowSet>, QueryError> {
        let total = self.physical_rows(readers).await?;
        let beyond = rows.max().is_some_and(|last| last >= total);
        let set = RowSet::from_deleted_rows(rows).filter(|_| !beyond);
        let set = set.ok_or_else(|| self.unusable_vector(&"it names rows beyond the end"))?;
        Ok(Arc::new(set))
    }

    async fn pick(
        &self,
        rows: &DeletedRows,
        readers: &Readers,
    ) -> Result<Arc<RowSelection>, QueryError> {
        let total = self.physical_rows(readers).await?;
        let selection = only(rows, total)
            .ok_or_else(|| self.unusable_vector(&"it names rows beyond the end"))?;
        Ok(Arc::new(selection))
    }

    /// What a row of these columns (by the names that files use) takes once it is decoded.
    pub(crate) async fn row_bytes(
        &self,
        readers: &Readers,
        is_read: impl Fn(&str) -> bool,
    ) -> Result<u64, QueryError> {
        let footer = readers.footer(&self.location(), self.size()).await;
        let footer = footer.map_err(DataFusionError::from)?;
        Ok(row_bytes::of(&footer, is_read))
    }

    /// By the log, or else by the file's footer.
    pub(crate) async fn physical_rows(&self, readers: &Readers) -> Result<u64, QueryError> {
        if let Some(total) = self.records() {
            return Ok(total);
        }
        let footer = readers.footer(&self.location(), self.size()).await;
        let footer = footer.map_err(DataFusionError::from)?;
        Ok(u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0))
    }

    fn unusable_vector(&self, reason: &dyn fmt::Display) -> QueryError {
        QueryError::Corrupt(format!(
            "the deletion vector of {}: {reason}",
            self.location()
        ))
    }
}

/// `hiding`: some rows of the file do not count.
fn column(bound: &Bound, hiding: bool) -> ColumnStatistics {
    let value = |value: &Option<ScalarValue>| match value {
        Some(value) if bound.exact && !hiding => Precision::Exact(value.clone()),
        Some(value) => Precision::Inexact(value.clone()),
        None => Precision::Absent,
    };
    let null_count = match bound.nulls.and_then(|nulls| usize::try_from(nulls).ok()) {
        // Without deleted rows the count is exact; none is none in any case.
        Some(nulls) if nulls == 0 || !hiding => Precision::Exact(nulls),
        Some(nulls) => Precision::Inexact(nulls),
        None => Precision::Absent,
    };
    let (min_value, max_value) = (value(&bound.min), value(&bound.max));
    ColumnStatistics {
        null_count,
        min_value,
        max_value,
        ..ColumnStatistics::new_unknown()
    }
}

/// These rows of `total`.
fn only(rows: &DeletedRows, total: u64) -> Option<RowSelection> {
    if rows.max().is_some_and(|last| last >= total) {
        return None;
    }
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for row in rows {
        let row = usize::try_from(row).ok()?;
        match ranges.last_mut() {
            Some(range) if range.end == row => range.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    let total = usize::try_from(total).ok()?;
    Some(RowSelection::from_consecutive_ranges(
        ranges.into_iter(),
        total,
    ))
}
