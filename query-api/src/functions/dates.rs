//! Dates beside instants, and beside intervals.
//!
//! A date beside a `timestamptz` is the instant at which its day begins in the zone of that; to
//! DataFusion both are times without a zone. A date and an interval are a timestamp, as in
//! PostgreSQL: DataFusion makes a date of them and drops the hours. It stays a date where a constant
//! of whole months and days is added, so that bounds such as `d >= DATE '…' - INTERVAL '7 days'`
//! are of the column's type.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::compared::change;
use super::micros::to;

/// Makes dates among the values instants, where one is an instant. True where something changed.
pub(super) fn alike(values: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types = values.iter().map(|value| value.get_type(schema).ok());
    let types: Vec<_> = types.collect();
    let Some(instants) = instants_among(types.iter().flatten()) else {
        return false;
    };
    let mut changed = false;
    for (value, data_type) in values.iter_mut().zip(&types) {
        if data_type.as_ref().is_some_and(is_date) {
            change(value, |value| to(value, instants.clone()));
            changed = true;
        }
    }
    changed
}

/// The type that dates beside these have, where one is of instants.
pub(super) fn instants_among<'a>(
    mut types: impl Iterator<Item = &'a DataType>,
) -> Option<DataType> {
    types.find_map(|data_type| match data_type {
        DataType::Timestamp(_, Some(zone)) => Some(DataType::Timestamp(
            TimeUnit::Microsecond,
            Some(Arc::clone(zone)),
        )),
        _ => None,
    })
}

pub(super) fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// Plans sums of dates with what has hours.
#[derive(Debug)]
pub(crate) struct DatesWithHours;

impl ExprPlanner for DatesWithHours {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr {
            op,
            mut left,
            mut right,
        } = expr;
        let is_sum = op == BinaryOperator::Plus;
        // The right side of a chain is short, so it is asked first.
        if (is_sum || op == BinaryOperator::Minus)
            && has_hours(&right, schema)
            && is_dated(&left, schema)
        {
            left = timestamp(left);
        } else if is_sum && is_dated(&right, schema) && has_hours(&left, schema) {
            right = timestamp(right);
        }
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn is_dated(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|of| is_date(&of))
}

fn timestamp(date: Expr) -> Expr {
    to(date, DataType::Timestamp(TimeUnit::Microsecond, None))
}

fn has_hours(added: &Expr, schema: &DFSchema) -> bool {
    match added {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(step)), _) => step.nanoseconds != 0,
        Expr::Negative(inner) => has_hours(inner, schema),
        other => matches!(
            other.get_type(schema),
            Ok(DataType::Interval(_) | DataType::Duration(_))
        ),
    }
}
