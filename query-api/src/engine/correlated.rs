//! Queries within others that the engine inside would answer wrongly.
//!
//! A query with an aggregate that depends on the row around it is made a join: grouped by the inner
//! columns that its conditions compare. Where a condition compares a cast of such a column, the
//! column below the cast is taken instead: its values that are one after the cast become groups, and
//! rows, of their own. So these are refused.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, Subquery};

use crate::error::QueryError;

/// Refuses what would be grouped by the wrong column.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut wrong = false;
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                let within = match expr {
                    Expr::ScalarSubquery(query) => query,
                    Expr::InSubquery(InSubquery { subquery, .. })
                    | Expr::Exists(Exists { subquery, .. }) => subquery,
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                wrong = wrong || compares_casts(within)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match wrong {
        false => Ok(()),
        true => Err(QueryError::Unsupported(
            "a query within another one that has an aggregate, and compares a cast of its own column \
             with a value of the row around it, is not supported: name the cast in a query below it, \
             as in FROM (SELECT *, ts::date AS day FROM t) AS y WHERE y.day = …"
                .into(),
        )),
    }
}

fn compares_casts(query: &Subquery) -> DfResult<bool> {
    if query.outer_ref_columns.is_empty() {
        return Ok(false);
    }
    let (mut aggregates, mut casts) = (false, false);
    query.subquery.apply(|plan| {
        match plan {
            LogicalPlan::Aggregate(_) => aggregates = true,
            LogicalPlan::Filter(filter) => {
                filter.predicate.apply(|expr| {
                    if let Expr::BinaryExpr(BinaryExpr {
                        left,
                        op: Operator::Eq,
                        right,
                    }) = expr
                    {
                        casts |= left.contains_outer() && is_own_cast(right)
                            || right.contains_outer() && is_own_cast(left);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(aggregates && casts)
}

fn is_own_cast(side: &Expr) -> bool {
    matches!(side, Expr::Cast(_) | Expr::TryCast(_)) && !side.contains_outer()
}
