//! Large constants that would stand in every row of a batch.
//!
//! `SELECT repeat('x', 1000000) FROM t` is one megabyte while it is planned, and one for each row
//! once it runs. A comparison with a constant keeps it once; everything else may write it out.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::error::QueryError;

/// Constants up to this size are not looked at.
const SMALL_BYTES: usize = 4 << 10;

/// Refuses plans whose constants take more than a batch may.
#[derive(Debug)]
pub(crate) struct LargeConstants {
    pub bytes_max: usize,
    pub batch_rows: usize,
}

impl OptimizerRule for LargeConstants {
    fn name(&self) -> &'static str {
        "large_constants"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        plan.apply_with_subqueries(|node| {
            let inputs = node.inputs();
            let rows = inputs.iter().map(|input| input.max_rows());
            // A node that has no input makes one row.
            let rows = rows
                .into_iter()
                .try_fold(1, |most: usize, rows| Some(most.max(rows?)));
            let rows = rows.unwrap_or(self.batch_rows).min(self.batch_rows);
            node.apply_expressions(|expr| {
                let bytes = spread(expr).saturating_mul(rows);
                if bytes <= self.bytes_max {
                    return Ok(TreeNodeRecursion::Continue);
                }
                let reason = format!(
                    "a constant value would take {bytes} bytes in the {rows} rows of a batch; {} \
                     is the most: compute it in a query of one row and join that",
                    self.bytes_max
                );
                Err(QueryError::Memory(reason).into())
            })
        })?;
        Ok(Transformed::no(plan))
    }
}

/// Bytes of the large constants of an expression that may stand in every row.
fn spread(expr: &Expr) -> usize {
    let mut bytes = 0_usize;
    let walked = expr.apply(|expr| {
        match expr {
            Expr::Literal(value, _) => {
                let size = value.size();
                bytes = bytes.saturating_add(if size > SMALL_BYTES { size } else { 0 });
            }
            // What is compared with a literal is no literal: that would be folded.
            Expr::BinaryExpr(_) | Expr::Like(_) | Expr::InList(_) | Expr::Between(_) => {
                return Ok(TreeNodeRecursion::Jump);
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // The walk itself never fails.
    walked.map_or(usize::MAX, |_| bytes)
}
