//! Keys of which no index tells where their rows are: a scan with the keys as filters.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions::string::expr_fn::lower;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::TryStreamExt;
use tidelake_table::TableError;
use tidelake_table::index::Keys;

use super::fetch::{Rows, bytes_of};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::provider::scan::PinnedRows;
use crate::table::keys::TableKeys;
use crate::table::pinned::Pinned;

/// Values that still stand in a list; more become a range.
const LIST_MAX: usize = 1000;

/// The live row of each key.
pub(super) async fn points(
    engine: &Engine,
    pinned: &Arc<Pinned>,
    known: &TableKeys,
    keys: &RecordBatch,
) -> Result<Rows, QueryError> {
    let mut filters = Vec::with_capacity(keys.num_columns());
    if keys.num_rows() == 0 {
        return Ok(Rows::default());
    }
    for (held, column) in held(pinned, known).iter().zip(keys.columns()) {
        filters.push(one_of(held, column.as_ref())?);
    }
    let plan = engine.rows_where(pinned, filters)?.build()?;
    let wanted = spec_keys(known, keys)?;
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    for (place, key) in wanted.iter().enumerate() {
        places.entry(key).or_default().push(place);
    }
    let mut found = vec![None; keys.num_rows()];
    let mut kept = Vec::new();
    let bytes_max = engine.settings().json_bytes_max;
    let mut bytes = 0;
    let mut stream = engine.stream(pinned, &plan).await?;
    while let Some(batch) = stream.try_next().await? {
        // Filters of several columns let combinations through that nobody asked for.
        let have = spec_keys(known, &key_columns(known, &batch)?)?;
        let mut rows = Vec::new();
        for (row, key) in have.iter().enumerate() {
            if let Some(places) = places.get(&key) {
                for place in places {
                    found[*place] = Some((kept.len(), rows.len()));
                }
                rows.push(row as u32);
            }
        }
        if !rows.is_empty() {
            let rows = take_record_batch(&batch, &UInt32Array::from(rows))?;
            bytes += bytes_of(&rows);
            if bytes > bytes_max {
                return Err(QueryError::ResultTooLarge { bytes_max });
            }
            kept.push(rows);
        }
    }
    Ok(Rows::new(kept, found))
}

/// Live rows in key order, from a key on, up to another; true where they are not all, because they
/// became too large.
pub(super) async fn range(
    engine: &Engine,
    pinned: &Arc<Pinned>,
    known: &TableKeys,
    (from, to): (Option<&RecordBatch>, Option<&RecordBatch>),
    limit: usize,
) -> Result<(Rows, bool), QueryError> {
    let mut filters = Vec::new();
    let held = held(pinned, known);
    if let Some(from) = from {
        let further = |column: Expr, value| column.gt(value);
        filters.push(beyond(&held, from, &further, true)?);
    }
    if let Some(to) = to {
        let before = |column: Expr, value| column.lt(value);
        filters.push(beyond(&held, to, &before, false)?);
    }
    let order = held.into_iter().map(|column| column.sort(true, false));
    let plan = engine
        .rows_where(pinned, filters)?
        .sort_with_limit(order.collect::<Vec<_>>(), Some(limit))?
        .build()?;
    let mut stream = engine.stream(pinned, &plan).await?;
    let (mut batches, mut bytes) = (Vec::<RecordBatch>::new(), 0);
    let mut is_cut = false;
    while let Some(batch) = stream.try_next().await? {
        bytes += bytes_of(&batch);
        batches.push(batch);
        is_cut = bytes > engine.settings().json_bytes_max;
        if is_cut {
            break;
        }
    }
    let places = batches
        .iter()
        .enumerate()
        .flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| Some((batch, row))));
    let places = places.collect();
    Ok((Rows::new(batches, places), is_cut))
}

fn spec_keys(known: &TableKeys, keys: &RecordBatch) -> Result<Keys, QueryError> {
    Ok(known.spec().keys(keys).map_err(TableError::from)?)
}

fn key_columns(known: &TableKeys, batch: &RecordBatch) -> Result<RecordBatch, QueryError> {
    Ok(batch.project(known.spec().columns())?)
}

/// The columns of the key, as keys are compared: other engines may have written uuids in capitals, of
/// which no bounds tell.
fn held(pinned: &Pinned, known: &TableKeys) -> Vec<Expr> {
    let any_case = pinned.files.iter().any(|file| file.sidecar().is_none());
    let columns = known.schema().fields().iter().zip(pinned.shape.key());
    let columns = columns.map(|(field, place)| {
        let column = col(Column::from_name(field.name()));
        match any_case && pinned.shape.is_uuid(place) {
            true => lower(column),
            false => column,
        }
    });
    columns.collect()
}

/// The column holds one of the values; so many of them that it lies among them.
fn one_of(column: &Expr, values: &dyn Array) -> Result<Expr, QueryError> {
    let all: Result<Vec<ScalarValue>, _> = (0..values.len())
        .map(|row| ScalarValue::try_from_array(values, row))
        .collect();
    let mut all = all?;
    all.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    all.dedup();
    if let (true, Some(first), Some(last)) = (all.len() > LIST_MAX, all.first(), all.last()) {
        return Ok(column
            .clone()
            .between(lit(first.clone()), lit(last.clone())));
    }
    Ok(column
        .clone()
        .in_list(all.into_iter().map(lit).collect(), false))
}

/// The key lies behind (or before) another, column by column.
fn beyond(
    held: &[Expr],
    key: &RecordBatch,
    strictly: &dyn Fn(Expr, Expr) -> Expr,
    or_equal: bool,
) -> Result<Expr, QueryError> {
    let mut beyond = lit(or_equal);
    for (column, values) in held.iter().cloned().zip(key.columns()).rev() {
        let value = lit(ScalarValue::try_from_array(values, 0)?);
        let further = strictly(column.clone(), value.clone());
        beyond = further.or(column.eq(value).and(beyond));
    }
    Ok(beyond)
}

impl Engine {
    fn rows_where(
        &self,
        pinned: &Arc<Pinned>,
        filters: Vec<Expr>,
    ) -> Result<LogicalPlanBuilder, QueryError> {
        // The index was asked before: it does not tell.
        let rows = Arc::new(PinnedRows {
            index: None,
            ..self.committed_rows(pinned)
        });
        let table = pinned.entry.id.table.as_str();
        let mut plan = LogicalPlanBuilder::scan(table, provider_as_source(rows), None)?;
        for filter in filters {
            plan = plan.filter(filter)?;
        }
        Ok(plan)
    }

    async fn stream(
        &self,
        pinned: &Arc<Pinned>,
        plan: &LogicalPlan,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let state = self.plain_session(&pinned.entry.id.tenant);
        let plan = state.create_physical_plan(plan).await?;
        Ok(execute_stream(plan, state.task_ctx())?)
    }
}
