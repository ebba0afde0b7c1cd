//! Leaves out deleted rows of data files, after they were decoded.
//!
//! A row selection of scattered deletes is millions of selectors, which DataFusion builds, splits and
//! joins again for every file of every query. A bitset and the rows' numbers do the same for a few
//! bits each: the scan below adds two columns, which file and which physical row; this plan takes
//! them off again together with the rows that do not count.
//!
//! Filters go through to the scan, where they prune; limits do not, since the scan counts deleted
//! rows too.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, UInt32Type,
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::RowNumber;
use tidelake_table::RowSet;

/// The column that numbers the files of a scan.
const FILE: &str = "__scanned_file";
/// The column that numbers the rows of a file.
const ROW: &str = "__scanned_row";

/// Deleted rows of the files of one scan, by the file's number; none where all count.
pub(super) type DeletedByFile = Arc<Vec<Option<Arc<RowSet>>>>;

/// The column of the file's number: the value of a partition.
pub(super) fn file_column() -> FieldRef {
    Arc::new(Field::new(FILE, DataType::UInt32, false))
}

/// The column of the row's number, which the Parquet reader makes.
pub(super) fn row_column() -> FieldRef {
    Arc::new(Field::new(ROW, DataType::Int64, false).with_extension_type(RowNumber))
}

/// See the module.
#[derive(Debug)]
pub(super) struct LiveRows {
    /// The columns of `schema`, then the file's number, then the row's.
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    deleted: DeletedByFile,
    /// Of the live rows, while nothing below filters.
    statistics: Arc<Statistics>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl LiveRows {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        deleted: DeletedByFile,
        statistics: Arc<Statistics>,
    ) -> Self {
        let scanned = input.schema();
        let width = scanned.fields().len().saturating_sub(2);
        let schema = Arc::new(Schema::new(scanned.fields()[..width].to_vec()));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            input.properties().partitioning.clone(),
            input.properties().emission_type,
            input.properties().boundedness,
        );
        Self {
            input,
            schema,
            deleted,
            statistics,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for LiveRows {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = self.deleted.iter().flatten().map(|rows| rows.len());
        write!(f, "LiveRows: deleted={}", deleted.sum::<u32>())
    }
}

impl ExecutionPlan for LiveRows {
    fn name(&self) -> &'static str {
        "LiveRows"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return Err(DataFusionError::Internal("LiveRows has one input".into()));
        };
        let (deleted, statistics) = (Arc::clone(&self.deleted), Arc::clone(&self.statistics));
        Ok(Arc::new(Self::new(input, deleted, statistics)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (schema, deleted) = (Arc::clone(&self.schema), Arc::clone(&self.deleted));
        let measured = BaselineMetrics::new(&self.metrics, partition);
        let live = input
            .map(move |batch| {
                let _timer = measured.elapsed_compute().timer();
                let live = live(&batch?, &schema, &deleted)?;
                measured.record_output(live.num_rows());
                Ok(live)
            })
            .try_filter(|batch| std::future::ready(batch.num_rows() > 0));
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, live)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    /// The scan's are exact as long as no filter went down to it: then ours are.
    fn statistics_from_inputs(
        &self,
        input: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let Some(scanned) = input.first() else {
            return Ok(Arc::new(Statistics::new_unknown(&self.schema)));
        };
        let exact = matches!(
            scanned.num_rows,
            datafusion::common::stats::Precision::Exact(_)
        );
        if args.partition().is_none() && exact {
            return Ok(Arc::clone(&self.statistics));
        }
        let mut inexact = scanned.as_ref().clone().to_inexact();
        inexact
            .column_statistics
            .truncate(self.schema.fields().len());
        Ok(Arc::new(inexact))
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }
}

/// The rows of a batch that count, without the two columns.
fn live(
    batch: &RecordBatch,
    schema: &SchemaRef,
    deleted: &[Option<Arc<RowSet>>],
) -> Result<RecordBatch> {
    let width = schema.fields().len();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns()[..width].to_vec();
    let kept = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
    let n = batch.num_rows();
    if n == 0 {
        return Ok(kept);
    }
    let files = batch.column(width).as_primitive::<UInt32Type>().values();
    let rows = batch.column(width + 1).as_primitive::<Int64Type>().values();
    let set = |file: u32| deleted.get(file as usize).and_then(Option::as_ref);
    let (first, last) = (rows[0], rows[n - 1]);
    let of_one_file = files[0] == files[n - 1];
    let mask = if of_one_file && last - first == n as i64 - 1 {
        match set(files[0]) {
            Some(set) => run(set, usize::try_from(first).unwrap_or(usize::MAX), n),
            None => return Ok(kept),
        }
    } else {
        // Pages were skipped, or rows filtered already.
        BooleanBuffer::collect_bool(n, |at| {
            let row = u32::try_from(rows[at]).unwrap_or(u32::MAX);
            set(files[at]).is_none_or(|set| !set.contains(row))
        })
    };
    let live = mask.count_set_bits();
    if live == n {
        return Ok(kept);
    }
    if width == 0 {
        let options = RecordBatchOptions::new().with_row_count(Some(live));
        return Ok(RecordBatch::try_new_with_options(
            Arc::clone(schema),
            Vec::new(),
            &options,
        )?);
    }
    Ok(filter_record_batch(&kept, &BooleanArray::new(mask, None))?)
}

/// Which of the rows `first..first + n` are not in the set.
pub(super) fn run(set: &RowSet, first: usize, n: usize) -> BooleanBuffer {
    let words = set.words();
    let (from, to) = (first / 64, (first + n).div_ceil(64));
    let known = words.get(from..to.min(words.len())).unwrap_or_default();
    let mut live: Vec<u64> = known.iter().map(|word| !word).collect();
    live.resize(to - from, u64::MAX);
    BooleanBuffer::new(Buffer::from_vec(live), first % 64, n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_is_what_the_set_says(
            rows in prop::collection::btree_set(0..700u32, 0..200),
            first in 0..800usize,
            n in 1..300usize,
        ) {
            let set: RowSet = rows.iter().copied().collect();
            let mask = run(&set, first, n);
            prop_assert_eq!(mask.len(), n);
            for at in 0..n {
                prop_assert_eq!(mask.value(at), !rows.contains(&((first + at) as u32)));
            }
        }
    }
}
