//! Makes plans stoppable: where an operator works long without asking its inputs, it asks whether
//! it shall go on.
//!
//! Tasks end where they wait. A join that compares millions of pairs none of which match, an unnested
//! array or a product never wait, so their filters and outputs are wrapped: each batch looks at a
//! flag, and after some batches others of its runtime have their turn.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, RecordBatchStream,
    SendableRecordBatchStream,
};
use futures::Stream;

use crate::error::QueryError;

/// Batches that an operator hands on before others of its runtime have their turn.
const BATCHES_IN_A_ROW_MAX: u32 = 64;

/// Whether a query's plan shall stop. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            // Nobody reads it: whoever set the flag has told why.
            true => Err(QueryError::Cancelled.into()),
            false => Ok(()),
        }
    }
}

/// The same plan, stoppable.
pub(super) fn stoppable(
    plan: Arc<dyn ExecutionPlan>,
    interrupt: &Interrupt,
) -> Result<Arc<dyn ExecutionPlan>> {
    let wrapped = plan.transform_up(|plan| {
        if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let Some(filter) = join.filter() else {
                return Ok(Transformed::yes(guarded(plan, interrupt)));
            };
            let join = NestedLoopJoinExecBuilder::from(join)
                .with_filter(Some(watched(filter, interrupt)))
                .build()?;
            return Ok(Transformed::yes(guarded(Arc::new(join), interrupt)));
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            let Some(filter) = join.filter() else {
                return Ok(Transformed::yes(guarded(plan, interrupt)));
            };
            let filter = watched(filter, interrupt);
            let join = join.builder().with_filter(Some(filter)).build()?;
            return Ok(Transformed::yes(guarded(Arc::new(join), interrupt)));
        }
        if plan.is::<CrossJoinExec>() || plan.is::<UnnestExec>() {
            return Ok(Transformed::yes(guarded(plan, interrupt)));
        }
        Ok(Transformed::no(plan))
    });
    Ok(wrapped?.data)
}

fn guarded(plan: Arc<dyn ExecutionPlan>, interrupt: &Interrupt) -> Arc<dyn ExecutionPlan> {
    let interrupt = interrupt.clone();
    Arc::new(Guarded { plan, interrupt })
}

fn watched(filter: &JoinFilter, interrupt: &Interrupt) -> JoinFilter {
    let expression = Watched {
        inner: Arc::clone(filter.expression()),
        interrupt: interrupt.clone(),
    };
    JoinFilter::new(
        Arc::new(expression),
        filter.column_indices().to_vec(),
        Arc::clone(filter.schema()),
    )
}

/// An operator whose output can be cut off.
#[derive(Debug)]
struct Guarded {
    plan: Arc<dyn ExecutionPlan>,
    interrupt: Interrupt,
}

impl DisplayAs for Guarded {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stoppable")
    }
}

impl ExecutionPlan for Guarded {
    fn name(&self) -> &'static str {
        "Stoppable"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.plan]
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
        match children.pop() {
            Some(plan) => Ok(guarded(plan, &self.interrupt)),
            None => Ok(self),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(GuardedStream {
            inner: self.plan.execute(partition, context)?,
            in_a_row: 0,
            interrupt: self.interrupt.clone(),
        }))
    }
}

struct GuardedStream {
    inner: SendableRecordBatchStream,
    /// Batches since it let others have their turn. A count of its own: the task's budget is one for
    /// all operators, and many of them within each other would use it up before the first batch.
    in_a_row: u32,
    interrupt: Interrupt,
}

impl Stream for GuardedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(error) = self.interrupt.check() {
            return Poll::Ready(Some(Err(error)));
        }
        if self.in_a_row >= BATCHES_IN_A_ROW_MAX {
            self.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.inner).poll_next(context);
        self.in_a_row = if polled.is_ready() {
            self.in_a_row + 1
        } else {
            0
        };
        polled
    }
}

impl RecordBatchStream for GuardedStream {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

/// A filter that looks at the flag before each batch.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn PhysicalExpr>,
    interrupt: Interrupt,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Watched {}

impl Hash for Watched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl PhysicalExpr for Watched {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.interrupt.check()?;
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match children.pop() {
            Some(inner) => Ok(Arc::new(Self {
                inner,
                interrupt: self.interrupt.clone(),
            })),
            None => Ok(self),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
