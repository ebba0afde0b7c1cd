//! What a parameter's value is where a statement takes literals only: versions, moments, keys.
//!
//! Parameters have types of their own; JSON is one of their producers ([`crate::request`]). Text is
//! read as whatever its place asks for, as a literal in quotes is; numbers, moments and decimals
//! stand for the text that they would be written as.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;

use super::{KeyPart, Literal};

/// The value of `$1`, `$2`, ….
pub(super) fn param<'a>(name: &str, params: &'a [ScalarValue]) -> Option<&'a ScalarValue> {
    let place: usize = name.strip_prefix('$')?.parse().ok()?;
    params.get(place.checked_sub(1)?)
}

/// The value as it would be written; none where no literal is.
pub(super) fn text(value: &ScalarValue) -> Option<String> {
    if let Some(text) = value.try_as_str() {
        return text.map(str::to_owned);
    }
    match value {
        value if value.is_null() || is_binary(value) => None,
        ScalarValue::Boolean(_) => None,
        ScalarValue::Float32(_) | ScalarValue::Float64(_) => Some(json(value)?.to_string()),
        value => array_value_to_string(&value.to_array().ok()?, 0).ok(),
    }
}

/// The value as a part of a key.
pub(super) fn key_part(value: &ScalarValue) -> Option<KeyPart> {
    if value.is_null() {
        return None;
    }
    if let Some(value) = json(value) {
        return Some(KeyPart::Value(value));
    }
    match binary(value) {
        Some(bytes) => Some(KeyPart::Text(BASE64_STANDARD.encode(bytes))),
        None => text(value).map(KeyPart::Text),
    }
}

/// The value as a literal beside a column. A null equals nothing, which is the planner's to say.
pub(super) fn literal(value: &ScalarValue) -> Option<Literal> {
    if value.is_null() {
        return None;
    }
    if let Some(text) = value.try_as_str() {
        return Some(Literal::Text(text?.to_owned()));
    }
    Some(match value {
        ScalarValue::Boolean(Some(value)) => Literal::Boolean(*value),
        ScalarValue::Int8(Some(value)) => Literal::Integer((*value).into()),
        ScalarValue::Int16(Some(value)) => Literal::Integer((*value).into()),
        ScalarValue::Int32(Some(value)) => Literal::Integer((*value).into()),
        ScalarValue::Int64(Some(value)) => Literal::Integer(*value),
        ScalarValue::Date32(_)
        | ScalarValue::Time64Microsecond(_)
        | ScalarValue::TimestampMicrosecond(..)
        | ScalarValue::Decimal128(..)
        | ScalarValue::Binary(_) => Literal::Typed(value.clone()),
        _ => return None,
    })
}

/// Booleans and numbers, as JSON has them without loss.
fn json(value: &ScalarValue) -> Option<serde_json::Value> {
    let float = |value: f64| serde_json::Number::from_f64(value).map(Into::into);
    match value {
        ScalarValue::Boolean(Some(value)) => Some((*value).into()),
        ScalarValue::Int8(Some(value)) => Some((*value).into()),
        ScalarValue::Int16(Some(value)) => Some((*value).into()),
        ScalarValue::Int32(Some(value)) => Some((*value).into()),
        ScalarValue::Int64(Some(value)) => Some((*value).into()),
        ScalarValue::UInt8(Some(value)) => Some((*value).into()),
        ScalarValue::UInt16(Some(value)) => Some((*value).into()),
        ScalarValue::UInt32(Some(value)) => Some((*value).into()),
        ScalarValue::UInt64(Some(value)) => Some((*value).into()),
        ScalarValue::Float32(Some(value)) => float((*value).into()),
        ScalarValue::Float64(Some(value)) => float(*value),
        _ => None,
    }
}

fn is_binary(value: &ScalarValue) -> bool {
    binary(value).is_some()
}

fn binary(value: &ScalarValue) -> Option<&[u8]> {
    match value {
        ScalarValue::Binary(Some(bytes))
        | ScalarValue::LargeBinary(Some(bytes))
        | ScalarValue::BinaryView(Some(bytes))
        | ScalarValue::FixedSizeBinary(_, Some(bytes)) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_for_what_would_be_written() {
        let micros = |value| ScalarValue::TimestampMicrosecond(Some(value), Some("UTC".into()));
        for (value, wanted) in [
            (ScalarValue::from("x"), Some("x")),
            (ScalarValue::Utf8View(Some("x".into())), Some("x")),
            (ScalarValue::Int64(Some(-7)), Some("-7")),
            (
                ScalarValue::UInt64(Some(u64::MAX)),
                Some("18446744073709551615"),
            ),
            (ScalarValue::Float64(Some(1.5)), Some("1.5")),
            (ScalarValue::Decimal128(Some(861), 9, 2), Some("8.61")),
            (ScalarValue::Date32(Some(1)), Some("1970-01-02")),
            (micros(1_500_000), Some("1970-01-01T00:00:01.500Z")),
            (ScalarValue::Boolean(Some(true)), None),
            (ScalarValue::Binary(Some(vec![1])), None),
            (ScalarValue::Utf8(None), None),
            (ScalarValue::Null, None),
        ] {
            assert_eq!(text(&value).as_deref(), wanted, "{value:?}");
        }
        let moment = text(&micros(1_500_000)).unwrap();
        assert_eq!(crate::sql::parse_timestamp(&moment), Ok(1500));
        let part = key_part(&ScalarValue::Binary(Some(b"ab".to_vec())));
        assert_eq!(part, Some(KeyPart::Text("YWI=".into())));
        let part = key_part(&ScalarValue::Int32(Some(7)));
        assert_eq!(part, Some(KeyPart::Value(7.into())));
    }
}
