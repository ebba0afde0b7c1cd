//! `GROUP BY`: the sets that it comes to, and the columns that it names by their place.

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, GroupByWithModifier, SelectItem, Value};

use super::clauses::{Checked, forbidden, refused_if, unsupported};
use crate::error::QueryError;

/// Expressions of one `CUBE`, and sets that a `GROUP BY` may come to.
const CUBE_MAX: usize = 12;
const GROUPING_SETS_MAX: usize = 1 << CUBE_MAX;
/// Expressions of all these sets together.
const GROUPING_EXPRESSIONS_MAX: usize = GROUPING_SETS_MAX * 64;
/// Positions within sets, each of which is written out.
const POSITIONS_MAX: usize = 64;

/// Checks a `GROUP BY`, and writes out what the planner does not know of it.
pub(super) fn grouped(group_by: &mut GroupByExpr, projection: &[SelectItem]) -> Checked {
    let (exprs, modifiers) = match group_by {
        GroupByExpr::All(modifiers) => {
            return refused_if(
                !modifiers.is_empty(),
                "GROUP BY ALL takes no modifier; name the columns: GROUP BY ROLLUP (a, b)",
            );
        }
        GroupByExpr::Expressions(exprs, modifiers) => (exprs, modifiers),
    };
    let sets = |exprs: &mut Vec<Expr>| exprs.drain(..).map(|expr| vec![expr]).collect();
    let grouped = match modifiers.as_slice() {
        [] => {
            exprs
                .iter_mut()
                .try_for_each(|expr| positions(expr, projection))?;
            return grouping_sets(exprs);
        }
        [GroupByWithModifier::Rollup] => Expr::Rollup(sets(exprs)),
        [GroupByWithModifier::Cube] => Expr::Cube(sets(exprs)),
        [GroupByWithModifier::Totals] => {
            return Err(unsupported(
                "WITH TOTALS is not supported; GROUP BY GROUPING SETS ((a), ()) has a row for all",
            ));
        }
        [GroupByWithModifier::GroupingSets(sets)] => {
            return Err(unsupported(format!(
                "GROUP BY … {sets:.60} is not supported; write GROUP BY GROUPING SETS (…) \
                 without columns before it"
            )));
        }
        _ => {
            return Err(unsupported(
                "GROUP BY takes one of WITH ROLLUP and WITH CUBE",
            ));
        }
    };
    modifiers.clear();
    *exprs = vec![grouped];
    exprs
        .iter_mut()
        .try_for_each(|expr| positions(expr, projection))?;
    grouping_sets(exprs)
}

/// Positions of columns within sets: the planner would group by these numbers.
fn positions(expr: &mut Expr, projection: &[SelectItem]) -> Checked {
    let (Expr::Rollup(sets) | Expr::Cube(sets) | Expr::GroupingSets(sets)) = expr else {
        return Ok(());
    };
    let mut positions = 0;
    for expr in sets.iter_mut().flatten() {
        let Some(position) = position(expr) else {
            continue;
        };
        positions += 1;
        refused_if(
            positions > POSITIONS_MAX,
            "more than 64 positions within ROLLUP, CUBE and GROUPING SETS are not supported; name \
             the columns",
        )?;
        *expr = at(position, projection)?;
    }
    Ok(())
}

fn position(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits),
            _ => None,
        },
        Expr::Nested(inner) => position(inner),
        _ => None,
    }
}

/// What stands at the position of the `SELECT` list, from 1.
fn at(position: &str, projection: &[SelectItem]) -> Result<Expr, QueryError> {
    use SelectItem::{ExprWithAlias, UnnamedExpr};
    let place = position.parse::<usize>().unwrap_or_default();
    let is_one = |item: &SelectItem| matches!(item, UnnamedExpr(_) | ExprWithAlias { .. });
    refused_if(
        !projection.iter().take(place).all(is_one),
        "positions behind * within ROLLUP, CUBE and GROUPING SETS are not supported; name the columns",
    )?;
    let found = place.checked_sub(1).and_then(|at| projection.get(at));
    match found {
        Some(UnnamedExpr(expr) | ExprWithAlias { expr, .. }) => Ok(expr.clone()),
        _ => Err(QueryError::Invalid(format!(
            "GROUP BY position {position} is none of the {} columns of SELECT",
            projection.len()
        ))),
    }
}

/// The planner writes out every set, and of several `CUBE`s, `ROLLUP`s and `GROUPING SETS` each set
/// of one with each of the others.
fn grouping_sets(exprs: &[Expr]) -> Checked {
    let (mut sets, mut width) = (1_usize, 0_usize);
    for expr in exprs {
        let (more, wide) = match expr {
            Expr::Cube(parts) if parts.len() > CUBE_MAX => {
                return Err(forbidden(format!(
                    "CUBE has {} expressions; {CUBE_MAX} is the most: name the sets that are \
                     needed, GROUP BY GROUPING SETS ((a, b), (a), ())",
                    parts.len()
                )));
            }
            Expr::Cube(parts) => (1_usize << parts.len(), expressions(parts)),
            Expr::Rollup(parts) => (1 + parts.len(), expressions(parts)),
            Expr::GroupingSets(parts) => {
                let widest = parts.iter().map(Vec::len).max();
                (parts.len(), widest.unwrap_or_default())
            }
            _ => (1, 1),
        };
        sets = sets.saturating_mul(more);
        width = width.saturating_add(wide);
    }
    let instead = "name the sets that are needed in one GROUPING SETS, or group in several queries";
    if sets > GROUPING_SETS_MAX {
        return Err(forbidden(format!(
            "GROUP BY comes to {sets} sets; {GROUPING_SETS_MAX} is the most: {instead}"
        )));
    }
    let written_out = sets.saturating_mul(width);
    if sets > 1 && written_out > GROUPING_EXPRESSIONS_MAX {
        return Err(forbidden(format!(
            "GROUP BY comes to {sets} sets of up to {width} expressions, {written_out} together; \
             {GROUPING_EXPRESSIONS_MAX} is the most: {instead}"
        )));
    }
    Ok(())
}

fn expressions(parts: &[Vec<Expr>]) -> usize {
    parts.iter().map(Vec::len).sum()
}
