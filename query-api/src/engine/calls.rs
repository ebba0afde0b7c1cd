//! What stands around a call, and only aggregates or window functions heed: `FILTER`, `DISTINCT`,
//! `ORDER BY`, `WITHIN GROUP`, `OVER`, the treatment of nulls.
//!
//! The planner takes a scalar function's name and arguments and drops the rest. Every struct is taken
//! apart field by field, without `..`: what the parser learns next year does not compile until somebody
//! has decided about it.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, Spanned, visit_expressions,
};
use tidelake_service::Position;

use crate::error::{PlanFault, QueryError};
use crate::sql::folded;

/// What the planner makes of rows itself.
const UNNESTING: [&str; 2] = ["unnest", "unnest_outer"];

/// What a function is of which all that may stand around a call is dropped, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    Window,
}

/// Refuses calls of which a part would be dropped.
pub(super) fn check(state: &SessionState, statement: &Statement) -> Result<(), QueryError> {
    let inner = match statement {
        Statement::Statement(inner) => inner,
        Statement::Explain(explain) => return check(state, &explain.statement),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => {
            return Ok(());
        }
    };
    let checked = visit_expressions(inner.as_ref(), |expr| match expr {
        Expr::Function(function) => match call(state, function) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refused) => ControlFlow::Break(refused),
        },
        _ => ControlFlow::Continue(()),
    });
    match checked {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refused) => Err(refused),
    }
}

fn call(state: &SessionState, function: &Function) -> Result<(), QueryError> {
    let name = match function.name.0.as_slice() {
        [part] => part.as_ident().map(folded).unwrap_or_default(),
        _ => return Ok(()),
    };
    let Some(kind) = kind(state, &name) else {
        return Ok(());
    };
    match dropped(function, kind) {
        Some((clause, wanted)) => {
            let start = function.name.span().start;
            Err(QueryError::Plan {
                fault: PlanFault::OtherFunction,
                reason: format!("{clause} specified, but {name} is not {wanted}"),
                at: Position::at(start.line, start.column),
            })
        }
        None => Ok(()),
    }
}

/// In the order in which the planner looks for a name.
fn kind(state: &SessionState, name: &str) -> Option<Kind> {
    if state.scalar_functions().contains_key(name)
        || state.higher_order_functions().contains_key(name)
        || UNNESTING.contains(&name)
    {
        return Some(Kind::Scalar);
    }
    // Where a name is an aggregate's and a window function's, the aggregate is taken.
    let is_window = state.window_functions().contains_key(name)
        && !state.aggregate_functions().contains_key(name);
    is_window.then_some(Kind::Window)
}

/// The first clause that would be dropped, and what it is for.
fn dropped(function: &Function, kind: Kind) -> Option<(&'static str, &'static str)> {
    const AGGREGATE: &str = "an aggregate function";
    let Function {
        name: _,
        uses_odbc_syntax: _,
        // Refused by what checks the text.
        parameters: _,
        args,
        filter,
        null_treatment,
        over,
        within_group,
    } = function;
    let is_scalar = kind == Kind::Scalar;
    let (mut distinct, mut ordered, mut nulls) = (false, false, null_treatment.is_some());
    match args {
        FunctionArguments::None => {}
        FunctionArguments::Subquery(_) => return Some(("a query as the arguments", AGGREGATE)),
        FunctionArguments::List(list) => {
            let FunctionArgumentList {
                duplicate_treatment,
                args: _,
                clauses,
            } = list;
            // ALL is what is meant without it.
            distinct = *duplicate_treatment == Some(DuplicateTreatment::Distinct);
            for clause in clauses {
                match clause {
                    FunctionArgumentClause::OrderBy(_) => ordered = true,
                    FunctionArgumentClause::IgnoreOrRespectNulls(_) => nulls = true,
                    // Refused by the planner, of whatever function.
                    FunctionArgumentClause::Limit(_)
                    | FunctionArgumentClause::OnOverflow(_)
                    | FunctionArgumentClause::Having(_)
                    | FunctionArgumentClause::Separator(_)
                    | FunctionArgumentClause::JsonNullClause(_)
                    | FunctionArgumentClause::JsonReturningClause(_) => {}
                }
            }
        }
    }
    let found = [
        (distinct, "DISTINCT", AGGREGATE),
        (ordered, "ORDER BY", AGGREGATE),
        (filter.is_some(), "FILTER", AGGREGATE),
        (
            !within_group.is_empty(),
            "WITHIN GROUP",
            "an ordered-set aggregate function",
        ),
        (
            is_scalar && over.is_some(),
            "OVER",
            "a window function nor an aggregate function",
        ),
        (
            is_scalar && nulls,
            "IGNORE NULLS or RESPECT NULLS",
            "a window function",
        ),
    ];
    let (_, clause, wanted) = found.into_iter().find(|(is_there, ..)| *is_there)?;
    Some((clause, wanted))
}
