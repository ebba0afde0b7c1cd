//! `date_trunc` of instants as the clocks of a zone show them, whatever their year.
//!
//! DataFusion's counts nanoseconds on the way, so it ends in 2262. The rules of time ([`super::micros`])
//! put this one in its place where a zone is not UTC. Where the clocks skip the moment that a part
//! begins with (some zones change at midnight), the part begins as they do so; where they show it
//! twice, it is the one under the offset of the instant.

use std::sync::Arc;

use chrono::{DateTime, Datelike, Duration, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::clocks::{instant_of, out_of_range};

/// What instants are truncated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    /// So many microseconds, no more than a second.
    Micros(i64),
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

/// Truncates instants of microseconds in a zone.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ZonedTrunc {
    part: Part,
    signature: Signature,
}

/// The function for a part; none where it is DataFusion's to refuse.
pub(super) fn zoned_trunc(part: &str) -> Option<Arc<ScalarUDF>> {
    let part = match part.to_lowercase().as_str() {
        "microsecond" => Part::Micros(1),
        "millisecond" => Part::Micros(1_000),
        "second" => Part::Micros(1_000_000),
        "minute" => Part::Minute,
        "hour" => Part::Hour,
        "day" => Part::Day,
        "week" => Part::Week,
        "month" => Part::Month,
        "quarter" => Part::Quarter,
        "year" => Part::Year,
        _ => return None,
    };
    let signature = Signature::any(1, Volatility::Immutable);
    let function = ZonedTrunc { part, signature };
    Some(Arc::new(ScalarUDF::new_from_impl(function)))
}

impl ScalarUDFImpl for ZonedTrunc {
    fn name(&self) -> &'static str {
        "date_trunc"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let of = arg_types.first().cloned();
        of.ok_or_else(|| internal_datafusion_err!("date_trunc without a time"))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let time = args.args.into_iter().next();
        let zone = match time.as_ref().map(ColumnarValue::data_type) {
            Some(DataType::Timestamp(TimeUnit::Microsecond, Some(zone))) => zone,
            other => return Err(internal_datafusion_err!("date_trunc of {other:?}")),
        };
        let of: Tz = zone.parse()?;
        let begin = |at: i64| begin_of(at, self.part, of).ok_or_else(|| out_of_range(at));
        Ok(match time {
            Some(ColumnarValue::Array(array)) => {
                let times = array.as_primitive::<TimestampMicrosecondType>();
                let begins = times.try_unary::<_, TimestampMicrosecondType, _>(begin)?;
                ColumnarValue::Array(Arc::new(begins.with_timezone(zone)))
            }
            Some(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(Some(at), _))) => {
                let begin = Some(begin(at)?);
                ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(begin, Some(zone)))
            }
            _ => ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(None, Some(zone))),
        })
    }
}

/// When the part began that an instant lies in.
fn begin_of(at: i64, part: Part, zone: Tz) -> Option<i64> {
    if let Part::Micros(width) = part {
        return at.checked_sub(at.rem_euclid(width));
    }
    let utc = DateTime::from_timestamp_micros(at)?.naive_utc();
    let offset = zone.offset_from_utc_datetime(&utc).fix();
    let begin = part.begin(utc.checked_add_offset(offset)?)?;
    instant_of(begin, zone, Some(offset))
}

impl Part {
    /// Where a part begins on the clock.
    fn begin(self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let day = local.date();
        let day = match self {
            Self::Micros(_) => return None,
            Self::Minute => return day.and_hms_opt(local.hour(), local.minute(), 0),
            Self::Hour => return day.and_hms_opt(local.hour(), 0, 0),
            Self::Day => Some(day),
            Self::Week => {
                let since = local.weekday().num_days_from_monday();
                day.checked_sub_signed(Duration::days(since.into()))
            }
            Self::Month => day.with_day(1),
            Self::Quarter => NaiveDate::from_ymd_opt(day.year(), day.month0() / 3 * 3 + 1, 1),
            Self::Year => NaiveDate::from_ymd_opt(day.year(), 1, 1),
        };
        day?.and_hms_opt(0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    fn begin(at: &str, part: &str, zone: &str) -> String {
        let at: DateTime<FixedOffset> = at.parse().unwrap();
        let part = match part {
            "hour" => Part::Hour,
            "day" => Part::Day,
            "week" => Part::Week,
            "quarter" => Part::Quarter,
            _ => Part::Year,
        };
        let zone: Tz = zone.parse().unwrap();
        let begin = begin_of(at.timestamp_micros(), part, zone).unwrap();
        let begin = DateTime::from_timestamp_micros(begin).unwrap();
        begin.with_timezone(&zone).to_rfc3339()
    }

    #[test]
    fn parts_begin_as_the_zones_clocks_show_them() {
        let berlin = "Europe/Berlin";
        for (at, part, zone, wanted) in [
            (
                "2026-07-01T22:30:00Z",
                "day",
                berlin,
                "2026-07-02T00:00:00+02:00",
            ),
            (
                "2026-03-29T12:00:00Z",
                "day",
                berlin,
                "2026-03-29T00:00:00+01:00",
            ),
            (
                "9999-12-31T23:30:00Z",
                "quarter",
                "-01:00",
                "9999-10-01T00:00:00-01:00",
            ),
            (
                "1650-01-01T12:00:00Z",
                "year",
                "UTC",
                "1650-01-01T00:00:00+00:00",
            ),
            (
                "2026-07-01T20:00:00Z",
                "week",
                "Asia/Kolkata",
                "2026-06-29T00:00:00+05:30",
            ),
            (
                "2026-07-01T20:15:00Z",
                "hour",
                "Asia/Kolkata",
                "2026-07-02T01:00:00+05:30",
            ),
            // Two o'clock comes twice.
            (
                "2026-10-25T00:30:00Z",
                "hour",
                berlin,
                "2026-10-25T02:00:00+02:00",
            ),
            (
                "2026-10-25T01:30:00Z",
                "hour",
                berlin,
                "2026-10-25T02:00:00+01:00",
            ),
            // The day begins at one o'clock.
            (
                "2018-11-04T12:00:00Z",
                "day",
                "America/Sao_Paulo",
                "2018-11-04T01:00:00-02:00",
            ),
        ] {
            assert_eq!(begin(at, part, zone), wanted, "{at} {part} {zone}");
        }
    }
}
