//! Rows by key as Arrow batches, for doors that send columns.
//!
//! Owns [`KeyedBatches`]: the gathered rows in the order of their keys, under the types that queries
//! answer with. JSON is the other rendering of the same rows ([`super::serve`]). Invariant: what is
//! made takes no more bytes than allowed and one part; a row that several keys name is counted as
//! often as it comes.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::{interleave_record_batch, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;

use super::fetch::Rows;
use crate::error::QueryError;
use crate::formats::{output_batch, output_schema};

/// Rows and bytes of one batch.
const PART_ROWS: usize = 1024;
const PART_BYTES: usize = 1 << 20;

/// Rows by key, as columns.
#[derive(Debug, Clone)]
pub struct KeyedBatches {
    /// Of every batch, as SQL answers it.
    pub schema: SchemaRef,
    /// The rows that are there, in the order of their keys.
    pub batches: Vec<RecordBatch>,
    /// Of each key whether it has a row. Of a range all have.
    pub present: Vec<bool>,
}

/// As many of the first rows as `bytes_max` has room for: fewer than there are tell that.
pub(super) fn batches(
    rows: &Rows,
    schema: &SchemaRef,
    bytes_max: usize,
) -> Result<KeyedBatches, QueryError> {
    let schema = output_schema(schema);
    let compact = Compact::of(rows, &schema)?;
    let sources: Vec<&RecordBatch> = compact.batches.iter().collect();
    let mut made = KeyedBatches {
        schema,
        batches: Vec::new(),
        present: Vec::with_capacity(rows.len()),
    };
    let (mut part, mut part_bytes, mut bytes) = (Vec::new(), 0, 0);
    for place in 0..rows.len() {
        let Some(at) = rows.place(place) else {
            made.present.push(false);
            continue;
        };
        let (batch, row) = compact.places[&at];
        let size = bytes_of_row(sources[batch], row)?;
        if bytes + size > bytes_max {
            break;
        }
        (bytes, part_bytes) = (bytes + size, part_bytes + size);
        made.present.push(true);
        part.push((batch, row));
        if part.len() == PART_ROWS || part_bytes >= PART_BYTES {
            made.batches.push(interleave_record_batch(&sources, &part)?);
            part.clear();
            part_bytes = 0;
        }
    }
    if !part.is_empty() {
        made.batches.push(interleave_record_batch(&sources, &part)?);
    }
    Ok(made)
}

/// The rows that are named, each once, all under one schema: a batch of the tail may have thousands
/// that nobody asks for.
struct Compact {
    batches: Vec<RecordBatch>,
    /// Where a row of the gathered batches is now.
    places: BTreeMap<(usize, usize), (usize, usize)>,
}

impl Compact {
    fn of(rows: &Rows, schema: &SchemaRef) -> Result<Self, QueryError> {
        let mut wanted: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (batch, row) in rows.places() {
            wanted.entry(batch).or_default().insert(row);
        }
        let mut batches = Vec::with_capacity(wanted.len());
        let mut places = BTreeMap::new();
        for (batch, of_batch) in wanted {
            let indices = of_batch
                .iter()
                .map(|row| u32::try_from(*row).unwrap_or(u32::MAX));
            let indices = UInt32Array::from_iter_values(indices);
            let taken = take_record_batch(rows.batch(batch), &indices)?;
            for (at, row) in of_batch.into_iter().enumerate() {
                places.insert((batch, row), (batches.len(), at));
            }
            batches.push(output_batch(&taken, schema)?);
        }
        Ok(Self { batches, places })
    }
}

fn bytes_of_row(batch: &RecordBatch, row: usize) -> Result<usize, QueryError> {
    let columns = batch.columns().iter();
    let sizes = columns.map(|column| column.slice(row, 1).to_data().get_slice_memory_size());
    Ok(sizes.sum::<Result<usize, _>>()?)
}
