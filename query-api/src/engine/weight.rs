//! How large a plan's conditions may become.
//!
//! A condition is moved down to the rows that it is about, and takes the expressions of the columns
//! on its way in. `x + x AS x` through forty nested queries, with one condition on top, becomes 2^40
//! additions: planning would end neither by a deadline nor for want of memory. So it is weighed before:
//! a column weighs what its expression does, in the terms of the columns below it.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::QueryError;

/// Expressions of one condition, once all columns are replaced by what they stand for.
const WEIGHT_MAX: u64 = 100_000;

/// Refuses a plan whose conditions would not end.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut heaviest = 0;
    columns(plan, &mut heaviest)?;
    if heaviest <= WEIGHT_MAX {
        return Ok(());
    }
    Err(QueryError::Invalid(format!(
        "a condition of the statement stands for more than {WEIGHT_MAX} expressions, with the columns \
         replaced by what nested queries compute them from: compute less of it from itself, or take \
         a DISTINCT, a LIMIT or an aggregate in between"
    )))
}

/// The weight of each column of a plan's output.
fn columns(plan: &LogicalPlan, heaviest: &mut u64) -> Result<Vec<u64>, QueryError> {
    let inputs = plan.inputs();
    let mut below = Vec::with_capacity(inputs.len());
    for input in &inputs {
        below.push(columns(input, heaviest)?);
    }
    let width = plan.schema().fields().len();
    let same = |mut below: Vec<Vec<u64>>| match below.pop() {
        Some(weights) if below.is_empty() && weights.len() == width => weights,
        _ => vec![1; width],
    };
    Ok(match plan {
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let weights = below.pop().unwrap_or_default();
            let exprs = projection.expr.iter();
            exprs.map(|expr| weigh(expr, schema, &weights)).collect()
        }
        LogicalPlan::Filter(filter) => {
            let schema = filter.input.schema();
            let weights = same(below);
            *heaviest = weigh(&filter.predicate, schema, &weights).max(*heaviest);
            weights
        }
        LogicalPlan::Sort(sort) => {
            let schema = sort.input.schema();
            let weights = same(below);
            for expr in &sort.expr {
                *heaviest = weigh(&expr.expr, schema, &weights).max(*heaviest);
            }
            weights
        }
        LogicalPlan::Join(join) => {
            let weights = below.concat();
            let both = join.left.schema().join(join.right.schema())?;
            let on = join.on.iter().flat_map(|(left, right)| [left, right]);
            for expr in on.chain(&join.filter) {
                *heaviest = weigh(expr, &both, &weights).max(*heaviest);
            }
            match weights.len() == width {
                true => weights,
                false => vec![1; width],
            }
        }
        LogicalPlan::Union(_) => {
            let mut most = vec![1; width];
            for weights in below {
                for (most, weight) in most.iter_mut().zip(weights) {
                    *most = weight.max(*most);
                }
            }
            most
        }
        LogicalPlan::Aggregate(aggregate) => {
            let schema = aggregate.input.schema();
            let weights = below.pop().unwrap_or_default();
            let keys = aggregate.group_expr.iter();
            let mut own: Vec<u64> = keys.map(|expr| weigh(expr, schema, &weights)).collect();
            own.resize(width, 1);
            own
        }
        _ => same(below),
    })
}

fn weigh(expr: &Expr, schema: &DFSchema, weights: &[u64]) -> u64 {
    let mut sum: u64 = 0;
    // The visit itself can't fail.
    let _visited = expr.apply(|expr| {
        let own = match expr {
            Expr::Column(column) => place(column, schema).map_or(1, |place| weights[place]),
            _ => 1,
        };
        sum = sum.saturating_add(own);
        Ok(TreeNodeRecursion::Continue)
    });
    sum
}

fn place(column: &Column, schema: &DFSchema) -> Option<usize> {
    schema.maybe_index_of_column(column)
}
