//! Intervals beside each other, and beside differences of times.
//!
//! A day more or less of a month is nothing that an interval knows, so PostgreSQL compares intervals
//! by how long they are with months of 30 days and days of 24 hours: `'1 month'` equals `'30 days'`.
//! Arrow compares their months, then their days, then the rest, and a difference of timestamps has
//! only the rest: nine days were less than `'1 day'`. Here both sides become how long they are.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, TimeUnit,
};
use datafusion::common::{DFSchema, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::compared::change;
use super::micros::{is_text_type, to};
use super::single::Single;

/// Of all intervals: their nanoseconds.
pub(super) const SPAN: DataType = DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0);

const DAY_NS: i128 = 86_400_000_000_000;
const MILLI_NS: i128 = 1_000_000;
const MONTH_DAYS: i128 = 30;

pub(super) fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_))
}

/// Makes values that are compared how long they are, where one is an interval. True where something changed.
pub(super) fn alike(values: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types = values.iter().map(|value| value.get_type(schema).ok());
    let Some(types) = types.collect::<Option<Vec<_>>>() else {
        return false;
    };
    if !are_intervals(&types) {
        return false;
    }
    for (value, data_type) in values.iter_mut().zip(&types) {
        change(value, |value| span(value, data_type));
    }
    true
}

/// Whether values of these types are compared as intervals.
pub(super) fn are_intervals(types: &[DataType]) -> bool {
    let is_duration = |of: &DataType| matches!(of, DataType::Duration(_));
    let known = |of: &DataType| is_interval(of) || is_duration(of) || is_unknown(of);
    types.iter().any(is_interval) && types.iter().all(known)
}

/// What the other side says what it is.
fn is_unknown(data_type: &DataType) -> bool {
    is_text_type(data_type) || data_type.is_null()
}

/// How long the value is.
pub(super) fn span(value: Expr, data_type: &DataType) -> Expr {
    Single::Span.of(match is_unknown(data_type) {
        true => to(value, DataType::Interval(IntervalUnit::MonthDayNano)),
        false => value,
    })
}

/// How many nanoseconds the intervals have.
pub(super) fn nanos(values: &dyn Array) -> Result<ArrayRef> {
    use IntervalUnit::{DayTime, MonthDayNano, YearMonth};
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    let days = |days: i32| i128::from(days) * DAY_NS;
    let months = |months: i32| i128::from(months) * MONTH_DAYS * DAY_NS;
    Ok(match values.data_type() {
        DataType::Interval(MonthDayNano) => spans::<IntervalMonthDayNanoType>(values, |of| {
            months(of.months) + days(of.days) + i128::from(of.nanoseconds)
        }),
        DataType::Interval(DayTime) => spans::<IntervalDayTimeType>(values, |of| {
            days(of.days) + i128::from(of.milliseconds) * MILLI_NS
        }),
        DataType::Interval(YearMonth) => spans::<IntervalYearMonthType>(values, months),
        DataType::Duration(Second) => times::<DurationSecondType>(values, 1_000 * MILLI_NS),
        DataType::Duration(Millisecond) => times::<DurationMillisecondType>(values, MILLI_NS),
        DataType::Duration(Microsecond) => times::<DurationMicrosecondType>(values, 1_000),
        DataType::Duration(Nanosecond) => times::<DurationNanosecondType>(values, 1),
        other => return internal_err!("{other} is no interval"),
    })
}

fn times<T: ArrowPrimitiveType<Native = i64>>(values: &dyn Array, unit: i128) -> ArrayRef {
    spans::<T>(values, |of| i128::from(of) * unit)
}

fn spans<T: ArrowPrimitiveType>(values: &dyn Array, span: impl Fn(T::Native) -> i128) -> ArrayRef {
    let spans = values.as_primitive::<T>();
    let spans = spans.unary::<_, Decimal128Type>(span);
    Arc::new(spans.with_data_type(SPAN))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{DurationSecondArray, IntervalMonthDayNanoArray};
    use datafusion::arrow::datatypes::IntervalMonthDayNano;

    use super::*;

    #[test]
    fn intervals_of_every_size_have_a_length() {
        let month = IntervalMonthDayNano::new(1, -1, 1);
        let most = IntervalMonthDayNano::new(i32::MIN, i32::MIN, i64::MIN);
        let array = IntervalMonthDayNanoArray::from(vec![Some(month), Some(most), None]);
        let found = nanos(&array).unwrap();
        let found = found.as_primitive::<Decimal128Type>();
        assert_eq!(found.value(0), 29 * DAY_NS + 1);
        let days = i128::from(i32::MIN) * (MONTH_DAYS + 1);
        assert_eq!(found.value(1), days * DAY_NS + i128::from(i64::MIN));
        assert!(found.is_null(2));
        let long = nanos(&DurationSecondArray::from(vec![i64::MAX])).unwrap();
        let long = long.as_primitive::<Decimal128Type>().value(0);
        assert_eq!(long, i128::from(i64::MAX) * 1_000_000_000);
    }
}
