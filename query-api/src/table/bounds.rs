//! Bounds as Delta's statistics hold them, to values of the declared type.
//!
//! A bound is never narrower than what the file holds: where text or rounding lost digits, it is
//! widened; where it can't be trusted, there is none.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::ScalarValue;
use serde_json::Value;
use tidelake_schema::Primitive;

/// Digits that a JSON number keeps when it is read as a double.
const DOUBLE_DIGITS: usize = 15;
const DAYS_TO_UNIX_EPOCH: i32 = 719_163;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    Least,
    Greatest,
}

/// The bound as a value of the column's Arrow type, but for strings, which are plain text.
pub(super) fn bound(value: &Value, primitive: Primitive, edge: Edge) -> Option<ScalarValue> {
    use chrono::Datelike;
    let utc = || Some("UTC".into());
    Some(match primitive {
        Primitive::Byte => ScalarValue::Int8(Some(i8::try_from(value.as_i64()?).ok()?)),
        Primitive::Short => ScalarValue::Int16(Some(i16::try_from(value.as_i64()?).ok()?)),
        Primitive::Int => ScalarValue::Int32(Some(i32::try_from(value.as_i64()?).ok()?)),
        Primitive::Long => ScalarValue::Int64(Some(value.as_i64()?)),
        Primitive::Float => {
            // The text was read as a double, then rounded: step over both errors.
            let value = value.as_f64()? as f32;
            if value.is_nan() {
                return None;
            }
            ScalarValue::Float32(Some(match edge {
                Edge::Least => value.next_down(),
                Edge::Greatest => value.next_up(),
            }))
        }
        Primitive::Double => {
            let value = value.as_f64()?;
            if value.is_nan() {
                return None;
            }
            ScalarValue::Float64(Some(match edge {
                Edge::Least => value.next_down(),
                Edge::Greatest => value.next_up(),
            }))
        }
        Primitive::Decimal { precision, scale } => {
            let unscaled = decimal(value, precision, scale)?;
            ScalarValue::Decimal128(Some(unscaled), precision, scale)
        }
        Primitive::Date => {
            let date = NaiveDate::parse_from_str(value.as_str()?, "%Y-%m-%d").ok()?;
            ScalarValue::Date32(Some(date.num_days_from_ce() - DAYS_TO_UNIX_EPOCH))
        }
        Primitive::Time => ScalarValue::Time64Microsecond(Some(value.as_i64()?)),
        Primitive::Timestamp => {
            ScalarValue::TimestampMicrosecond(Some(micros(value.as_str()?, edge)?), None)
        }
        Primitive::TimestampTz => {
            ScalarValue::TimestampMicrosecond(Some(micros(value.as_str()?, edge)?), utc())
        }
        Primitive::TimestampNs => ScalarValue::TimestampNanosecond(Some(value.as_i64()?), None),
        Primitive::TimestampTzNs => ScalarValue::TimestampNanosecond(Some(value.as_i64()?), utc()),
        Primitive::String | Primitive::Uuid => ScalarValue::Utf8(Some(value.as_str()?.to_owned())),
        Primitive::Boolean | Primitive::Fixed(_) | Primitive::Binary => return None,
    })
}

/// Writers may cut timestamps down to milliseconds: the greatest may lie up to 999 µs higher.
fn micros(text: &str, edge: Edge) -> Option<i64> {
    let moment = match DateTime::parse_from_rfc3339(text) {
        Ok(zoned) => zoned.naive_utc(),
        Err(_) => ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?,
    };
    let micros = moment.and_utc().timestamp_micros();
    match edge {
        Edge::Greatest if micros % 1000 == 0 => micros.checked_add(999),
        _ => Some(micros),
    }
}

/// The unscaled value, where no digit was lost on the way.
fn decimal(value: &Value, precision: u8, scale: i8) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            if !(number.is_i64() || number.is_u64()) && digits > DOUBLE_DIGITS {
                return None;
            }
            text
        }
        _ => return None,
    };
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.as_str()),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let scale = usize::try_from(scale).ok()?;
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || fraction.len() > scale {
        return None;
    }
    let digits = format!("{whole}{fraction:0<scale$}");
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let unscaled: i128 = digits
        .trim_start_matches('0')
        .parse()
        .or_else(|error| {
            if digits.bytes().all(|byte| byte == b'0') {
                Ok(0)
            } else {
                Err(error)
            }
        })
        .ok()?;
    let fits = unscaled < 10i128.checked_pow(u32::from(precision))?;
    fits.then_some(sign * unscaled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decimals_are_exact_or_nothing() {
        let cases = [
            (json!("-12.30"), Some(-1230)),
            (json!(12.3), Some(1230)),
            (json!(5), Some(500)),
            (json!("0.00"), Some(0)),
            (json!("1.234"), None),
            (json!("1e3"), None),
            (json!(0.123_456_789_012_345_68), None),
            (json!("99999999999.00"), None),
            (json!(null), None),
        ];
        for (value, wanted) in cases {
            assert_eq!(decimal(&value, 10, 2), wanted, "{value}");
        }
    }

    #[test]
    fn bounds_are_never_narrower_than_the_file() {
        let least = bound(&json!(0.1), Primitive::Double, Edge::Least).unwrap();
        let greatest = bound(&json!(0.1), Primitive::Double, Edge::Greatest).unwrap();
        assert!(least < ScalarValue::from(0.1) && ScalarValue::from(0.1) < greatest);
        let cut = json!("2026-11-21T12:34:56.789Z");
        assert_eq!(
            bound(&cut, Primitive::TimestampTz, Edge::Greatest),
            Some(ScalarValue::TimestampMicrosecond(
                Some(1_795_264_496_789_999),
                Some("UTC".into())
            ))
        );
        assert_eq!(
            bound(
                &json!("2026-11-21T12:34:56.789"),
                Primitive::Timestamp,
                Edge::Least
            ),
            Some(ScalarValue::TimestampMicrosecond(
                Some(1_795_264_496_789_000),
                None
            ))
        );
    }

    #[test]
    fn dates_count_from_1970() {
        let day = bound(&json!("1970-01-02"), Primitive::Date, Edge::Least);
        assert_eq!(day, Some(ScalarValue::Date32(Some(1))));
    }
}
