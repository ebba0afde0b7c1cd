//! Intervals as ISO 8601 has them: `P1Y2M3DT4H5M6.5S`.
//!
//! Months, days and the time of day are apart, since none is a fixed number of the next: each part
//! has a sign of its own (`P1M-2DT-0.5S`), as PostgreSQL writes it. Nothing at all is `PT0S`.

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{
    DataType, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType,
};

const NANOS_A_SECOND: i64 = 1_000_000_000;

/// The text of a row that is not null; none where the array is none of intervals.
pub(super) fn text(array: &dyn Array, row: usize) -> Option<String> {
    let DataType::Interval(unit) = array.data_type() else {
        return None;
    };
    Some(match unit {
        IntervalUnit::YearMonth => {
            let months = array.as_primitive::<IntervalYearMonthType>().value(row);
            written(months, 0, 0)
        }
        IntervalUnit::DayTime => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(row);
            written(0, value.days, i64::from(value.milliseconds) * 1_000_000)
        }
        IntervalUnit::MonthDayNano => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            written(value.months, value.days, value.nanoseconds)
        }
    })
}

fn written(months: i32, days: i32, nanos: i64) -> String {
    let mut date = String::new();
    let parts = [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')];
    for (value, unit) in parts {
        if value != 0 {
            date.push_str(&format!("{value}{unit}"));
        }
    }
    let mut time = String::new();
    let (seconds, rest) = (nanos / NANOS_A_SECOND, nanos % NANOS_A_SECOND);
    for (value, unit) in [(seconds / 3600, 'H'), (seconds / 60 % 60, 'M')] {
        if value != 0 {
            time.push_str(&format!("{value}{unit}"));
        }
    }
    let seconds = seconds % 60;
    if seconds != 0 || rest != 0 {
        let sign = if nanos < 0 { "-" } else { "" };
        let fraction = format!("{:09}", rest.abs());
        let fraction = match fraction.trim_end_matches('0') {
            "" => String::new(),
            digits => format!(".{digits}"),
        };
        time.push_str(&format!("{sign}{}{fraction}S", seconds.abs()));
    }
    match (date.is_empty(), time.is_empty()) {
        (true, true) => "PT0S".to_owned(),
        (_, true) => format!("P{date}"),
        (_, false) => format!("P{date}T{time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_sign() {
        const HOUR: i64 = 3600 * NANOS_A_SECOND;
        for (months, days, nanos, wanted) in [
            (0, 0, 0, "PT0S"),
            (
                14,
                3,
                4 * HOUR + 5 * 60 * NANOS_A_SECOND + 6_500_000_000,
                "P1Y2M3DT4H5M6.5S",
            ),
            (1, -2, -500_000_000, "P1M-2DT-0.5S"),
            (-14, 0, 0, "P-1Y-2M"),
            (0, 0, 30 * HOUR, "PT30H"),
            (0, 0, -61 * NANOS_A_SECOND, "PT-1M-1S"),
            (0, 0, 1, "PT0.000000001S"),
            (i32::MIN, i32::MAX, 0, "P-178956970Y-8M2147483647D"),
            (0, 0, i64::MIN, "PT-2562047H-47M-16.854775808S"),
        ] {
            assert_eq!(written(months, days, nanos), wanted);
        }
    }
}
