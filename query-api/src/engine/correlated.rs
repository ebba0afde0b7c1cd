//! Queries within others that the engine inside would answer wrongly.
//!
//! A query that depends on the row around it is made a join: it is computed once for all rows, and
//! its conditions on the row around it are taken out and become the join's. What counts or cuts the
//! rows below them would then count and cut those of all rows around it together: `LIMIT`, window
//! functions, the side of an outer join that gives nulls. An aggregate is grouped by the inner columns
//! that the conditions compare, and a group without rows is none: only the value of a query, and a
//! `LATERAL` one, get a row for it, where nothing lies above the aggregate. And where a condition
//! compares a cast of an inner column, the column below the cast is taken instead: its values that are
//! one after the cast become groups, and rows, of their own. All these are refused.

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, FetchType, Join, LogicalPlan, Operator, SkipType, Subquery,
};

use crate::error::QueryError;

const CASTS: &str = "an aggregate, and compares a cast of its own column with a value of the row around it: name \
     the cast in a query below it, as in FROM (SELECT *, ts::date AS day FROM t) AS y WHERE \
     y.day = …";
const CUT: &str = "LIMIT, OFFSET or FETCH above what depends on the row around it: number its rows with \
     row_number() OVER (PARTITION BY …) in a query that does not depend on it, and join that";
const WINDOW: &str = "a window function above what depends on the row around it: compute it with PARTITION BY in a \
     query that does not depend on it, and join that";
const NULLS: &str = "an outer join, EXCEPT or NOT IN of what depends on the row around it: compare with that row \
     in a WHERE above it";
const TOTALS: &str =
    "grouping sets above what depends on the row around it: write a query for each set";
const AGGREGATE: &str = "an aggregate without GROUP BY above what depends on the row around it, in EXISTS or IN or \
     below another step: compare its value, as in (SELECT count(*) FROM y WHERE y.k = x.k) > 1, or \
     GROUP BY the columns that are compared";

/// Where a query stands, and so what is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Exists,
    In,
    Value,
    Lateral,
}

/// Refuses what would be computed of the wrong rows.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut wrong = None;
    plan.apply_with_subqueries(|plan| {
        // Those of expressions are none of its inputs.
        for input in plan.inputs() {
            if let LogicalPlan::Subquery(within) = input {
                wrong = wrong.or(fault(within, Place::Lateral)?);
            }
        }
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                let (within, place) = match expr {
                    Expr::ScalarSubquery(query) => (query, Place::Value),
                    Expr::InSubquery(InSubquery { subquery, .. }) => (subquery, Place::In),
                    Expr::Exists(Exists { subquery, .. }) => (subquery, Place::Exists),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                wrong = wrong.or(fault(within, place)?);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(QueryError::Unsupported(format!(
            "not supported is, in a query within another one, {wrong}"
        ))),
    }
}

/// What of a query would be computed of other rows than those of the row around it.
fn fault(query: &Subquery, place: Place) -> DfResult<Option<&'static str>> {
    if query.outer_ref_columns.is_empty() {
        return Ok(None);
    }
    let harmless = harmless(&query.subquery, place);
    let mut wrong = compares_casts(query)?.then_some(CASTS);
    query.subquery.apply(|plan| {
        let is_harmless = harmless.is_some_and(|step| std::ptr::eq(step, plan));
        let found = match plan {
            _ if is_harmless || wrong.is_some() => None,
            // What depends on a row within this query is looked at by itself.
            LogicalPlan::Subquery(_) => return Ok(TreeNodeRecursion::Jump),
            LogicalPlan::Limit(_) => depends(plan)?.then_some(CUT),
            LogicalPlan::Window(_) => depends(plan)?.then_some(WINDOW),
            LogicalPlan::Join(join) => gives_nulls_for(join)?.then_some(NULLS),
            LogicalPlan::Aggregate(aggregate) if depends(plan)? => misses_groups(aggregate),
            _ => None,
        };
        wrong = wrong.or(found);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(wrong)
}

/// Whether a step or what is below it names columns of the row around the query.
fn depends(plan: &LogicalPlan) -> DfResult<bool> {
    let mut found = false;
    plan.apply(|plan| {
        if matches!(plan, LogicalPlan::Subquery(_)) {
            return Ok(TreeNodeRecursion::Jump);
        }
        plan.apply_expressions(|expr| {
            found |= expr.contains_outer();
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// The one step of the query that is made something right of: the aggregate of which all of a value
/// is computed, and the `LIMIT` of an `EXISTS`, which asks for one row anyway.
fn harmless(query: &LogicalPlan, place: Place) -> Option<&LogicalPlan> {
    let mut plan = query;
    loop {
        plan = match plan {
            LogicalPlan::Projection(step) => &step.input,
            LogicalPlan::SubqueryAlias(step) => &step.input,
            // A HAVING without a row is a value that is null; a row of LATERAL would be missing.
            LogicalPlan::Filter(step) if place == Place::Value => &step.input,
            LogicalPlan::Limit(limit) if place == Place::Exists => {
                let all = matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
                let some = matches!(limit.get_fetch_type(), Ok(FetchType::Literal(_)));
                return (all && some).then_some(plan);
            }
            LogicalPlan::Aggregate(aggregate)
                if matches!(place, Place::Value | Place::Lateral)
                    && aggregate.group_expr.is_empty() =>
            {
                return Some(plan);
            }
            _ => return None,
        };
    }
}

/// Without rows there are groups, too, that the join would not have.
fn misses_groups(aggregate: &Aggregate) -> Option<&'static str> {
    let groups = &aggregate.group_expr;
    match groups.is_empty() {
        true => Some(AGGREGATE),
        false => groups
            .iter()
            .any(|group| matches!(group, Expr::GroupingSet(_)))
            .then_some(TOTALS),
    }
}

/// Whether a side depends on the row around the query, of which the join asks what is not there.
fn gives_nulls_for(join: &Join) -> DfResult<bool> {
    match join.join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => Ok(false),
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => depends(&join.right),
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => depends(&join.left),
        JoinType::Full => Ok(depends(&join.left)? || depends(&join.right)?),
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
