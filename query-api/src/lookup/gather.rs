//! Rows that were fetched by key, as one batch of a query's answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;

use super::fetch::Rows;
use crate::error::QueryError;
use crate::formats::output_batch;

/// The rows that are there, each once whatever the number of keys that named it, in no order: these
/// of the table's columns, under this schema.
pub(crate) fn gathered(
    rows: &Rows,
    columns: &[usize],
    schema: &SchemaRef,
) -> Result<RecordBatch, QueryError> {
    let mut wanted: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
    for (batch, row) in rows.places() {
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        wanted.entry(batch).or_default().insert(row);
    }
    let mut parts = Vec::with_capacity(wanted.len());
    for (batch, wanted) in wanted {
        let batch = rows.batch(batch).project(columns)?;
        let batch = match (wanted.len(), wanted.first()) {
            (1, Some(row)) => batch.slice(*row as usize, 1),
            (count, _) if count == batch.num_rows() => batch,
            _ => take_record_batch(&batch, &UInt32Array::from_iter_values(wanted))?,
        };
        parts.push(output_batch(&batch, schema)?);
    }
    match parts.len() {
        0 => Ok(RecordBatch::new_empty(Arc::clone(schema))),
        1 => Ok(parts.remove(0)),
        _ => Ok(concat_batches(schema, &parts)?),
    }
}
