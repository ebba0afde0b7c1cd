//! An instant and an interval, by the clocks of a zone.
//!
//! Months and days are steps in the calendar of the zone, in this order, and what the clocks show
//! stays; hours and what is less are so much time. Arrow's arithmetic does the same, and fails where
//! a step ends on a time that the clocks skip or show twice: here that is read as everywhere
//! ([`super::clocks`]).

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Days, Months, NaiveDateTime, Offset, TimeZone};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Datum, PrimitiveArray, new_null_array};
use datafusion::arrow::compute::try_binary;
use datafusion::arrow::datatypes::{
    DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr_common::datum::apply;
use tidelake_schema::arrow::UTC;

use super::clocks::instant_of;
use super::micros::rewrite;

/// Sums and differences of instants and intervals, behind the coercion of types.
pub(super) fn steps_in(plan: LogicalPlan) -> Result<LogicalPlan> {
    rewrite(plan, &|expr, schema| {
        expr.transform_up(|expr| {
            let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &expr else {
                return Ok(Transformed::no(expr));
            };
            let (Ok(of_left), Ok(of_right)) = (left.get_type(schema), right.get_type(schema))
            else {
                return Ok(Transformed::no(expr));
            };
            let (instant, step) = match op {
                Operator::Plus | Operator::Minus if is_zoned(&of_left) && is_step(&of_right) => {
                    (left, right)
                }
                Operator::Plus if is_step(&of_left) && is_zoned(&of_right) => (right, left),
                _ => return Ok(Transformed::no(expr)),
            };
            let func = match op {
                Operator::Minus => &BACK,
                _ => &FORTH,
            };
            let args = vec![instant.as_ref().clone(), step.as_ref().clone()];
            let func = Arc::clone(func);
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction {
                func,
                args,
            })))
        })
    })
}

/// In UTC no clock is ever changed.
fn is_zoned(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if **zone != *UTC
    )
}

fn is_step(data_type: &DataType) -> bool {
    *data_type == DataType::Interval(IntervalUnit::MonthDayNano)
}

static FORTH: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made("zoned +", 1));
static BACK: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made("zoned -", -1));

fn made(name: &'static str, sign: i32) -> Arc<ScalarUDF> {
    let signature = Signature::any(2, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(ZonedStep {
        name,
        sign,
        signature,
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ZonedStep {
    name: &'static str,
    sign: i32,
    signature: Signature,
}

impl ScalarUDFImpl for ZonedStep {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [instant, _] = take_function_args(self.name, arg_types)?;
        Ok(instant.clone())
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [instants, steps] = take_function_args(self.name, args.args)?;
        apply(&instants, &steps, |instants, steps| {
            stepped(instants, steps, self.sign)
        })
    }
}

type Instants = PrimitiveArray<TimestampMicrosecondType>;

/// Of each instant the one that the step leads to; one value of either kind is of all rows.
fn stepped(instants: &dyn Datum, steps: &dyn Datum, sign: i32) -> Result<ArrayRef, ArrowError> {
    let ((at, one_instant), (by, one_step)) = (instants.get(), steps.get());
    let DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) = at.data_type() else {
        let reason = format!("a step from a {}", at.data_type());
        return Err(ArrowError::InvalidArgumentError(reason));
    };
    let of: Tz = zone.parse()?;
    let (at, by) = (
        at.as_primitive::<TimestampMicrosecondType>(),
        by.as_primitive::<IntervalMonthDayNanoType>(),
    );
    let step = |at: i64, by: IntervalMonthDayNano| {
        step(at, by, sign, of).ok_or_else(|| {
            let reason = format!("{at} µs since 1970 and {by:?} lead out of the calendar");
            ArrowError::ArithmeticOverflow(reason)
        })
    };
    let rows = if one_instant { by.len() } else { at.len() };
    let stepped: Instants = match (one_instant, one_step) {
        (_, true) if by.is_null(0) => return Ok(new_null_array(at.data_type(), rows)),
        (true, _) if at.is_null(0) => return Ok(new_null_array(at.data_type(), rows)),
        (_, true) => at.try_unary(|at| step(at, by.value(0)))?,
        (true, false) => by.try_unary(|by| step(at.value(0), by))?,
        (false, false) => try_binary(at, by, step)?,
    };
    Ok(Arc::new(stepped.with_timezone(Arc::clone(zone))))
}

fn step(at: i64, by: IntervalMonthDayNano, sign: i32, zone: Tz) -> Option<i64> {
    let months = by.months.checked_mul(sign)?;
    let days = by.days.checked_mul(sign)?;
    let nanos = by.nanoseconds.checked_mul(sign.into())?;
    let at = by_calendar(at, months != 0, zone, |local| match months {
        0.. => local.checked_add_months(Months::new(months.unsigned_abs())),
        _ => local.checked_sub_months(Months::new(months.unsigned_abs())),
    })?;
    let at = by_calendar(at, days != 0, zone, |local| match days {
        0.. => local.checked_add_days(Days::new(days.unsigned_abs().into())),
        _ => local.checked_sub_days(Days::new(days.unsigned_abs().into())),
    })?;
    at.checked_add(nanos.div_euclid(1_000))
}

/// A step from what the clocks show to what they shall show.
fn by_calendar(
    at: i64,
    moves: bool,
    zone: Tz,
    to: impl Fn(NaiveDateTime) -> Option<NaiveDateTime>,
) -> Option<i64> {
    if !moves {
        return Some(at);
    }
    let utc = DateTime::from_timestamp_micros(at)?.naive_utc();
    let offset = zone.offset_from_utc_datetime(&utc).fix();
    instant_of(to(utc.checked_add_offset(offset)?)?, zone, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stepped_in_berlin(at: &str, months: i32, days: i32, hours: i64) -> String {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        let at: DateTime<chrono::FixedOffset> = at.parse().unwrap();
        let by = IntervalMonthDayNano::new(months, days, hours * 3_600_000_000_000);
        let at = step(at.timestamp_micros(), by, 1, zone).unwrap();
        // And back by the same hours.
        let at_utc = DateTime::from_timestamp_micros(at).unwrap();
        at_utc.with_timezone(&zone).to_rfc3339()
    }

    /// As PostgreSQL answers them.
    #[test]
    fn days_and_months_are_of_the_calendar_and_hours_are_time() {
        for (at, [months, days], hours, wanted) in [
            // Before the clocks go forward, and into the hour that they skip.
            (
                "2026-03-28T12:00:00+01:00",
                [0, 1],
                0,
                "2026-03-29T12:00:00+02:00",
            ),
            (
                "2026-03-28T12:00:00+01:00",
                [0, 0],
                24,
                "2026-03-29T13:00:00+02:00",
            ),
            (
                "2026-03-28T02:30:00+01:00",
                [0, 1],
                0,
                "2026-03-29T03:30:00+02:00",
            ),
            (
                "2026-02-28T02:30:00+01:00",
                [1, 1],
                0,
                "2026-03-29T03:30:00+02:00",
            ),
            (
                "2026-03-30T02:30:00+02:00",
                [0, -1],
                0,
                "2026-03-29T03:30:00+02:00",
            ),
            // Before they go back, and into the hour that they show twice.
            (
                "2026-10-24T12:00:00+02:00",
                [0, 1],
                0,
                "2026-10-25T12:00:00+01:00",
            ),
            (
                "2026-10-24T12:00:00+02:00",
                [0, 0],
                24,
                "2026-10-25T11:00:00+01:00",
            ),
            (
                "2026-10-24T02:30:00+02:00",
                [0, 1],
                0,
                "2026-10-25T02:30:00+01:00",
            ),
            (
                "2026-10-25T02:30:00+02:00",
                [0, 0],
                1,
                "2026-10-25T02:30:00+01:00",
            ),
            (
                "2026-10-25T02:30:00+02:00",
                [0, 1],
                0,
                "2026-10-26T02:30:00+01:00",
            ),
            (
                "2026-01-31T12:00:00+01:00",
                [1, 0],
                0,
                "2026-02-28T12:00:00+01:00",
            ),
            (
                "2026-01-31T12:00:00+01:00",
                [1, 1],
                -24,
                "2026-02-28T12:00:00+01:00",
            ),
        ] {
            let found = stepped_in_berlin(at, months, days, hours);
            assert_eq!(found, wanted, "{at} {months} {days} {hours}");
        }
        let far = IntervalMonthDayNano::new(i32::MAX, 0, 0);
        assert_eq!(step(0, far, 1, "Europe/Berlin".parse().unwrap()), None);
    }
}
