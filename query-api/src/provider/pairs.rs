//! Pairs up the rows that are gone with those that came, once both stand sorted by key.
//!
//! ```text
//!  key  side      next row                 becomes
//!  1    gone      same key, same sequence  nothing: the row was moved
//!  1    came                               nothing
//!  2    gone      same key                 update_preimage
//!  2    came                               update_postimage
//!  3    gone      another key              delete
//!  4    came                               insert
//! ```
//! A row needs its neighbour only: of a batch at most the last row waits for the next one. In an
//! append table the sequence is the key, so that there are no updates. A key or sequence with a null
//! equals none.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::compute::{SortOptions, concat_batches, filter_record_batch};
use datafusion::arrow::datatypes::{Int8Type, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
    PhysicalExpr, PlanProperties, RecordBatchStream, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt};

use super::changes::{CHANGE_TYPE, COMMIT_VERSION};

/// The input's last column: which side a row is of.
pub(super) const SIDE: &str = "__side";

/// Which of the two versions has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum Side {
    Gone = 0,
    Came = 1,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct PairsExec {
    input: Arc<dyn ExecutionPlan>,
    rule: Arc<Rule>,
    properties: Arc<PlanProperties>,
}

/// What rows are compared by, and what becomes of them.
#[derive(Debug)]
struct Rule {
    /// Places in the input.
    key: Vec<usize>,
    sequence: Vec<usize>,
    /// Two rows of one key are an update.
    updates: bool,
    output: SchemaRef,
    version: ScalarValue,
}

impl PairsExec {
    /// `output` names columns of the input, the type of change and the version.
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        key: Vec<usize>,
        sequence: Vec<usize>,
        updates: bool,
        output: SchemaRef,
        version: ScalarValue,
    ) -> Result<Self> {
        let rule = Rule {
            key,
            sequence,
            updates,
            output,
            version,
        };
        Ok(Self::with_rule(input, Arc::new(rule)))
    }

    fn with_rule(input: Arc<dyn ExecutionPlan>, rule: Arc<Rule>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&rule.output)),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(
                input.output_partitioning().partition_count(),
            ),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            input,
            rule,
            properties: Arc::new(properties),
        }
    }

    fn column(&self, place: usize) -> Arc<dyn PhysicalExpr> {
        let schema = self.input.schema();
        Arc::new(Column::new(schema.field(place).name(), place))
    }
}

impl DisplayAs for PairsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairsExec: updates={}", self.rule.updates)
    }
}

impl ExecutionPlan for PairsExec {
    fn name(&self) -> &'static str {
        "PairsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        let rule = Arc::clone(&self.rule);
        Ok(Arc::new(Self::with_rule(children.swap_remove(0), rule)))
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        let key = self.rule.key.iter().map(|place| self.column(*place));
        vec![Distribution::KeyPartitioned(key.collect())]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let side = self.input.schema().fields().len() - 1;
        let columns = self.rule.key.iter().copied().chain([side]);
        let options = SortOptions::default();
        let ordering = LexOrdering::new(
            columns.map(|place| PhysicalSortExpr::new(self.column(place), options)),
        );
        vec![ordering.map(OrderingRequirements::from)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(Pairs {
            input: self.input.execute(partition, context)?,
            rule: Arc::clone(&self.rule),
            waiting: None,
            ended: false,
        }))
    }
}

struct Pairs {
    input: SendableRecordBatchStream,
    rule: Arc<Rule>,
    /// A row that is gone, and may have its partner in the next batch.
    waiting: Option<RecordBatch>,
    ended: bool,
}

impl Stream for Pairs {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            let next = ready!(self.input.poll_next_unpin(context));
            let made = match next {
                Some(Ok(batch)) => self.push(batch),
                Some(Err(error)) => Err(error),
                None => {
                    self.ended = true;
                    let last = self.waiting.take();
                    last.map(|row| self.rule.apply(&row)).transpose()
                }
            };
            match made {
                Ok(None) => {}
                Ok(Some(batch)) if batch.num_rows() == 0 => {}
                Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl RecordBatchStream for Pairs {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.rule.output)
    }
}

impl Pairs {
    fn push(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        let batch = match self.waiting.take() {
            Some(row) => concat_batches(&batch.schema(), [&row, &batch])?,
            None => batch,
        };
        let last = batch.num_rows() - 1;
        let sides = sides(&batch)?;
        if sides[last] != Side::Gone as i8 {
            return self.rule.apply(&batch).map(Some);
        }
        self.waiting = Some(batch.slice(last, 1));
        self.rule.apply(&batch.slice(0, last)).map(Some)
    }
}

fn sides(batch: &RecordBatch) -> Result<&[i8]> {
    let column = batch.columns().last();
    let side = column.and_then(|column| column.as_primitive_opt::<Int8Type>());
    side.map(|side| side.values().as_ref())
        .ok_or_else(|| DataFusionError::Internal("rows without a side".into()))
}

impl Rule {
    /// Rows whose neighbours are known: what is left of them, and what happened to each.
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let sides = sides(batch)?;
        let paired = self.equal_next(batch, &self.key)?;
        let same = self.equal_next(batch, &self.sequence)?;
        // Of row i and row i + 1.
        let is_pair = |row: usize| {
            row + 1 < rows
                && paired.value(row)
                && sides[row] == Side::Gone as i8
                && sides[row + 1] == Side::Came as i8
        };
        let is_moved = |row: usize| is_pair(row) && same.value(row);
        let before = |row: usize, is: &dyn Fn(usize) -> bool| row > 0 && is(row - 1);
        let keep: BooleanBuffer = (0..rows)
            .map(|row| !is_moved(row) && !before(row, &is_moved))
            .collect();
        let kinds = (0..rows).filter(|row| keep.value(*row)).map(|row| {
            match (sides[row] == Side::Gone as i8, self.updates) {
                (true, true) if is_pair(row) => "update_preimage",
                (true, _) => "delete",
                (false, true) if before(row, &is_pair) => "update_postimage",
                (false, _) => "insert",
            }
        });
        let kinds: ArrayRef = Arc::new(StringArray::from_iter_values(kinds));
        let kept = filter_record_batch(batch, &BooleanArray::from(keep))?;
        let columns = self
            .output
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                CHANGE_TYPE => Ok(Arc::clone(&kinds)),
                COMMIT_VERSION => self.version.to_array_of_size(kept.num_rows()),
                name => kept.column_by_name(name).cloned().ok_or_else(|| {
                    DataFusionError::Internal(format!("column {name} was not read"))
                }),
            });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        let output = Arc::clone(&self.output);
        Ok(RecordBatch::try_new_with_options(
            output, columns, &options,
        )?)
    }

    /// Of each row but the last, whether its columns at `places` equal those of the next.
    fn equal_next(&self, batch: &RecordBatch, places: &[usize]) -> Result<BooleanBuffer> {
        let pairs = batch.num_rows().saturating_sub(1);
        let mut equal = BooleanBuffer::new_set(pairs);
        for place in places {
            let column = batch.column(*place);
            let (left, right) = (
                column.slice(0, pairs),
                column.slice(1.min(column.len()), pairs),
            );
            let found = eq(&left, &right)?;
            let (values, nulls) = found.into_parts();
            equal = &equal & &values;
            if let Some(nulls) = nulls {
                equal = &equal & nulls.inner();
            }
        }
        Ok(equal)
    }
}
