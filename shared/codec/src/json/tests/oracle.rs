//! Slow and obvious: serde_json's raw values, converted by the table of types in the module head.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Timelike};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tidelake_schema::{Field, Primitive, TableSchema, Type};

/// The record as `write_rows` prints it; none where it must be refused.
pub(super) fn canonical(schema: &TableSchema, json: &[u8]) -> Option<String> {
    let raw: &RawValue = serde_json::from_slice(json).ok()?;
    object(raw, &schema.fields)
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, &RawValue>()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(All)
    }
}

fn pairs(raw: &RawValue) -> Option<Vec<(String, &RawValue)>> {
    let pairs: Pairs<'_> = serde_json::from_str(raw.get()).ok()?;
    let mut names: Vec<_> = pairs.0.iter().map(|(name, _)| name).collect();
    names.sort();
    names
        .windows(2)
        .all(|pair| pair[0] != pair[1])
        .then_some(pairs.0)
}

fn object(raw: &RawValue, fields: &[Field]) -> Option<String> {
    let pairs = pairs(raw)?;
    if !pairs
        .iter()
        .all(|(name, _)| fields.iter().any(|field| field.name == *name))
    {
        return None;
    }
    let mut out = Vec::new();
    for field in fields {
        let given = pairs.iter().find(|(name, _)| *name == field.name);
        let value = position(given.map(|(_, raw)| *raw), field.required, &field.ty)?;
        out.push(format!("{}:{value}", quote(&field.name)));
    }
    Some(format!("{{{}}}", out.join(",")))
}

fn position(raw: Option<&RawValue>, required: bool, ty: &Type) -> Option<String> {
    match raw.map(RawValue::get) {
        None | Some("null") => (!required).then(|| "null".to_owned()),
        Some(_) => value(raw?, ty),
    }
}

pub(super) fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn value(raw: &RawValue, ty: &Type) -> Option<String> {
    match ty {
        Type::Primitive(primitive) => scalar(raw, *primitive),
        Type::Struct(fields) => object(raw, fields),
        Type::List(list) => {
            let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
            let element =
                |raw: &&RawValue| position(Some(*raw), list.element_required, &list.element);
            let elements: Option<Vec<_>> = elements.iter().map(element).collect();
            Some(format!("[{}]", elements?.join(",")))
        }
        Type::Map(map) => {
            let as_object = matches!(
                map.key,
                Type::Primitive(Primitive::String | Primitive::Uuid)
            );
            let mut entries = Vec::new();
            if as_object {
                for (name, value) in pairs(raw)? {
                    let name = RawValue::from_string(quote(&name)).unwrap();
                    let value = position(Some(value), map.value_required, &map.value)?;
                    entries.push((position(Some(&name), true, &map.key)?, value));
                }
            } else {
                let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
                for element in elements {
                    let pairs = pairs(element)?;
                    if !pairs
                        .iter()
                        .all(|(name, _)| name == "key" || name == "value")
                    {
                        return None;
                    }
                    let get = |wanted| pairs.iter().find(|(n, _)| n == wanted).map(|(_, raw)| *raw);
                    let value = position(get("value"), map.value_required, &map.value)?;
                    entries.push((position(get("key"), true, &map.key)?, value));
                }
            }
            let mut keys: Vec<_> = entries
                .iter()
                .map(|(key, _)| {
                    if key == "-0.0" {
                        "0.0".to_owned()
                    } else {
                        key.clone()
                    }
                })
                .collect();
            keys.sort();
            if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                return None;
            }
            let print = |(key, value): &(String, String)| {
                if as_object {
                    format!("{key}:{value}")
                } else {
                    format!("{{\"key\":{key},\"value\":{value}}}")
                }
            };
            let entries: Vec<_> = entries.iter().map(print).collect();
            let entries = entries.join(",");
            Some(if as_object {
                format!("{{{entries}}}")
            } else {
                format!("[{entries}]")
            })
        }
    }
}

fn scalar(raw: &RawValue, primitive: Primitive) -> Option<String> {
    let token = raw.get();
    let number = token
        .starts_with(|c: char| c == '-' || c.is_ascii_digit())
        .then_some(token);
    let integer = number.filter(|text| !text.contains(['.', 'e', 'E']));
    let string = || serde_json::from_str::<String>(token).ok();
    Some(match primitive {
        Primitive::Boolean => token.parse::<bool>().ok()?.to_string(),
        Primitive::Byte => integer?.parse::<i8>().ok()?.to_string(),
        Primitive::Short => integer?.parse::<i16>().ok()?.to_string(),
        Primitive::Int => integer?.parse::<i32>().ok()?.to_string(),
        Primitive::Long => integer?.parse::<i64>().ok()?.to_string(),
        Primitive::Float => {
            let value: f32 = number?.parse().ok()?;
            value.is_finite().then(|| format!("{value:?}"))?
        }
        Primitive::Double => {
            let value: f64 = number?.parse().ok()?;
            value.is_finite().then(|| format!("{value:?}"))?
        }
        Primitive::Decimal { precision, scale } => {
            let text = number.map(str::to_owned).or_else(string)?;
            quote(&decimal(
                &text,
                precision.into(),
                usize::try_from(scale).unwrap(),
            )?)
        }
        Primitive::Date => {
            let text = string()?;
            let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?;
            (date.to_string() == text && text.len() == 10).then(|| quote(&text))?
        }
        Primitive::Time => {
            let time = clock(&string()?, 6)?;
            let micros = i64::from(time.num_seconds_from_midnight()) * 1_000_000
                + i64::from(time.nanosecond() / 1000);
            let stamp = DateTime::from_timestamp_micros(micros)?;
            let text = stamp.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            quote(&text[11..text.len() - 1])
        }
        Primitive::Timestamp | Primitive::TimestampNs => {
            let nanos = primitive == Primitive::TimestampNs;
            let stamp = local(&string()?, if nanos { 9 } else { 6 })?.and_utc();
            if nanos {
                stamp.timestamp_nanos_opt()?;
            }
            let text = stamp.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            quote(text.trim_end_matches('Z'))
        }
        Primitive::TimestampTz | Primitive::TimestampTzNs => {
            let nanos = primitive == Primitive::TimestampTzNs;
            let text = string()?;
            let cut = if text.ends_with(['Z', 'z']) { 1 } else { 6 };
            let (stamp, zone) = text.split_at_checked(text.len().checked_sub(cut)?)?;
            let stamp = local(stamp, if nanos { 9 } else { 6 })?;
            let zone = zone.as_bytes();
            let east = if cut == 1 {
                0
            } else {
                let number = |range: std::ops::Range<usize>| -> Option<i64> {
                    let digits = &zone[range];
                    digits.iter().all(u8::is_ascii_digit).then_some(())?;
                    std::str::from_utf8(digits).ok()?.parse().ok()
                };
                let (hours, minutes) = (number(1..3)?, number(4..6)?);
                let sign = match zone[0] {
                    b'+' => 1,
                    b'-' => -1,
                    _ => return None,
                };
                (zone[3] == b':' && hours < 24 && minutes < 60).then_some(())?;
                sign * (hours * 3600 + minutes * 60)
            };
            let stamp = (stamp - chrono::TimeDelta::seconds(east)).and_utc();
            if nanos {
                stamp.timestamp_nanos_opt()?;
            }
            let text = stamp.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            // Beyond the years of RFC 3339 an offset can lead by a day.
            if text.starts_with('-') || text.starts_with('+') {
                let mut out = Vec::new();
                let micros = stamp.timestamp_micros();
                crate::temporal::print_timestamp(micros, 1_000_000, true, &mut out);
                return Some(quote(&String::from_utf8(out).unwrap()));
            }
            quote(&text)
        }
        Primitive::String => quote(&string()?),
        Primitive::Uuid => {
            let text = string()?;
            let groups: Vec<_> = text.split('-').map(str::len).collect();
            let hex = text.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
            (groups == [8, 4, 4, 4, 12] && hex).then(|| quote(&text.to_lowercase()))?
        }
        Primitive::Fixed(length) => {
            let bytes = STANDARD.decode(string()?).ok()?;
            (bytes.len() == length as usize).then(|| quote(&STANDARD.encode(bytes)))?
        }
        Primitive::Binary => quote(&STANDARD.encode(STANDARD.decode(string()?).ok()?)),
    })
}

fn clock(text: &str, digits: usize) -> Option<NaiveTime> {
    let (seconds, fraction) = match text.split_once('.') {
        Some((seconds, fraction)) => (seconds, Some(fraction)),
        None => (text, None),
    };
    let time = NaiveTime::parse_from_str(seconds, "%H:%M:%S").ok()?;
    // Chrono takes less than two digits, spaces and leap seconds.
    (time.to_string() == seconds && time.nanosecond() < 1_000_000_000).then_some(())?;
    let Some(fraction) = fraction else {
        return Some(time);
    };
    (!fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    let (kept, lost) = fraction.split_at(fraction.len().min(digits));
    lost.bytes().all(|b| b == b'0').then_some(())?;
    time.with_nanosecond(format!("{kept:0<9}").parse().ok()?)
}

fn local(text: &str, digits: usize) -> Option<NaiveDateTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let parsed = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    (parsed.to_string() == date).then_some(())?;
    Some(parsed.and_time(clock(time, digits)?))
}

/// By writing the number out in full.
fn decimal(text: &str, precision: usize, scale: usize) -> Option<String> {
    let (negative, text) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
            let size = digits.parse::<i64>().unwrap_or(i64::MAX).min(400);
            (
                number,
                if exponent.starts_with('-') {
                    -size
                } else {
                    size
                },
            )
        }
        None => (text, 0),
    };
    let (whole, behind) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, behind)) => (whole, behind),
        None => (number, ""),
    };
    let digits = format!("{whole}{behind}");
    (!whole.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    let pad = "0".repeat(500);
    let digits = format!("{pad}{digits}{pad}");
    let point = usize::try_from(500 + whole.len() as i64 + exponent).ok()?;
    let (whole, behind) = digits.split_at(point);
    let whole = whole.trim_start_matches('0');
    let behind = behind.trim_end_matches('0');
    if behind.len() > scale {
        return None;
    }
    let behind = format!("{behind:0<scale$}");
    let significant = format!("{whole}{behind}");
    let significant = significant.trim_start_matches('0');
    if significant.len() > precision {
        return None;
    }
    let sign = if negative && !significant.is_empty() {
        "-"
    } else {
        ""
    };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{behind}"))
}
