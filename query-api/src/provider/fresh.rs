//! Rows of the tail that count, as batches.

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result;

use super::live;
use crate::tail::View;

/// The rows of the tail that count.
pub(super) fn rows(view: &View, projection: Option<&Vec<usize>>) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for tail in view.buckets.values() {
        for piece in &tail.pieces {
            let fresh = tail.upsert.as_ref().map(|upsert| &upsert.fresh);
            let dead = fresh.and_then(|fresh| fresh.deleted(&piece.name));
            let mut first = 0;
            for rows in &piece.chunks {
                let count = rows.shown.num_rows();
                let batch = project(&rows.shown, projection)?;
                let batch = match dead {
                    Some(dead) if !dead.is_empty() => {
                        let live = live::run(dead, first, count);
                        only(&batch, BooleanArray::new(live, None))?
                    }
                    _ => batch,
                };
                first += count;
                if batch.num_rows() > 0 {
                    batches.push(batch);
                }
            }
        }
    }
    Ok(batches)
}

pub(super) fn project(batch: &RecordBatch, projection: Option<&Vec<usize>>) -> Result<RecordBatch> {
    Ok(match projection {
        Some(places) => batch.project(places)?,
        None => batch.clone(),
    })
}

fn only(batch: &RecordBatch, live: BooleanArray) -> Result<RecordBatch> {
    if batch.num_columns() > 0 {
        return Ok(filter_record_batch(batch, &live)?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(live.true_count()));
    let (schema, columns) = (batch.schema(), Vec::new());
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}
