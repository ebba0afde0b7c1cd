//! Slow and obvious: serde_json's raw values, converted by the table of types in the module head.
//! Also random schemas and records.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Timelike};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tidelake_schema::{Field, ListType, MapType, Primitive, TableSchema, Type};

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

fn quote(text: &str) -> String {
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

/// xorshift64: a seed from proptest decides everything, so a failure prints all that is needed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

pub(crate) fn random_schema(rng: &mut Rng) -> TableSchema {
    let mut id = 0;
    let fields = random_fields(rng, &mut id, 0);
    TableSchema {
        schema_id: 0,
        fields,
        identifier_field_ids: Vec::new(),
    }
}

fn next_id(id: &mut i32) -> i32 {
    *id += 1;
    *id
}

fn random_fields(rng: &mut Rng, id: &mut i32, depth: usize) -> Vec<Field> {
    const NAMES: [&str; 8] = [
        "id",
        "a",
        "long name",
        "é",
        "q\"uote",
        "back\\slash",
        "x.y",
        "z",
    ];
    let start = rng.below(NAMES.len());
    let field = |index: usize, rng: &mut Rng, id: &mut i32| Field {
        id: next_id(id),
        name: NAMES[(start + index) % NAMES.len()].to_owned(),
        required: rng.below(3) == 0,
        ty: random_type(rng, id, depth),
        doc: None,
    };
    (0..1 + rng.below(4))
        .map(|index| field(index, rng, id))
        .collect()
}

fn random_type(rng: &mut Rng, id: &mut i32, depth: usize) -> Type {
    use Primitive as P;
    if depth < 3 && rng.below(4) == 0 {
        return match rng.below(3) {
            0 => Type::Struct(random_fields(rng, id, depth + 1)),
            1 => Type::List(Box::new(ListType {
                element_id: next_id(id),
                element_required: rng.below(3) == 0,
                element: random_type(rng, id, depth + 1),
            })),
            _ => Type::Map(Box::new(MapType {
                key_id: next_id(id),
                key: if rng.below(2) == 0 {
                    Type::Primitive(P::String)
                } else {
                    random_type(rng, id, depth + 1)
                },
                value_id: next_id(id),
                value_required: rng.below(3) == 0,
                value: random_type(rng, id, depth + 1),
            })),
        };
    }
    let precision = 1 + rng.below(38) as u8;
    let scale = rng.below(usize::from(precision) + 1) as i8;
    Type::Primitive(match rng.below(22) {
        0 => P::Boolean,
        1 => P::Int,
        2 => P::Float,
        3 => P::Decimal { precision, scale },
        4 => P::Date,
        5 => P::Time,
        6 => P::Timestamp,
        7 => P::TimestampTz,
        8 => P::TimestampNs,
        9 => P::TimestampTzNs,
        10 => P::Uuid,
        11 => P::Fixed(1 + rng.below(5) as u32),
        12 => P::Binary,
        13..=15 => P::Long,
        16..=17 => P::Double,
        18 => P::Byte,
        19 => P::Short,
        _ => P::String,
    })
}

/// A record that fits: fields in any order, some nullable ones missing, white space anywhere.
pub(crate) fn random_record(schema: &TableSchema, rng: &mut Rng) -> String {
    let mut out = String::new();
    write_object(&schema.fields, rng, &mut out);
    out
}

fn space(rng: &mut Rng) -> &'static str {
    match rng.below(12) {
        0 => " ",
        1 => "\t ",
        2 => "\n",
        3 => "\r\n",
        _ => "",
    }
}

fn write_object(fields: &[Field], rng: &mut Rng, out: &mut String) {
    let mut fields: Vec<_> = fields.iter().collect();
    if rng.below(3) == 0 {
        let turn = rng.below(fields.len());
        fields.rotate_left(turn);
    }
    fields.retain(|field| field.required || rng.below(5) > 0);
    out.push('{');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(space(rng));
        out.push_str(&quoted(&field.name, rng));
        out.push_str(space(rng));
        out.push(':');
        write_position(field.required, &field.ty, rng, out);
    }
    out.push_str(space(rng));
    out.push('}');
}

fn write_position(required: bool, ty: &Type, rng: &mut Rng, out: &mut String) {
    out.push_str(space(rng));
    if !required && rng.below(6) == 0 {
        out.push_str("null");
    } else {
        match ty {
            Type::Primitive(primitive) => out.push_str(&random_scalar(*primitive, rng)),
            Type::Struct(fields) => write_object(fields, rng, out),
            Type::List(list) => {
                out.push('[');
                for index in 0..rng.below(4) {
                    if index > 0 {
                        out.push(',');
                    }
                    write_position(list.element_required, &list.element, rng, out);
                }
                out.push(']');
            }
            Type::Map(map) => write_map(map, rng, out),
        }
    }
    out.push_str(space(rng));
}

fn write_map(map: &MapType, rng: &mut Rng, out: &mut String) {
    match map.key {
        Type::Primitive(Primitive::String) => {
            out.push('{');
            for index in 0..rng.below(4) {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(&format!("k{index}é"), rng));
                out.push(':');
                write_position(map.value_required, &map.value, rng, out);
            }
            out.push('}');
        }
        Type::Primitive(Primitive::Uuid) => {
            out.push('{');
            if rng.below(2) == 0 {
                out.push_str(&random_scalar(Primitive::Uuid, rng));
                out.push(':');
                write_position(map.value_required, &map.value, rng, out);
            }
            out.push('}');
        }
        _ => {
            out.push('[');
            if rng.below(3) > 0 {
                out.push_str("{\"key\":");
                write_position(true, &map.key, rng, out);
                out.push_str(",\"value\":");
                write_position(map.value_required, &map.value, rng, out);
                out.push('}');
            }
            out.push(']');
        }
    }
}

/// With escapes here and there that need not be.
fn quoted(text: &str, rng: &mut Rng) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        if rng.below(20) == 0 {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            let escaped = quote(&char.to_string());
            out.push_str(&escaped[1..escaped.len() - 1]);
        }
    }
    out.push('"');
    out
}

fn random_scalar(primitive: Primitive, rng: &mut Rng) -> String {
    let pick = |rng: &mut Rng, choices: &[&str]| rng.one_of(choices).to_owned();
    match primitive {
        Primitive::Boolean => pick(rng, &["true", "false"]),
        Primitive::Byte => match rng.below(3) {
            0 => pick(rng, &["0", "-0", "127", "-128"]),
            _ => (rng.next() as i8).to_string(),
        },
        Primitive::Short => match rng.below(3) {
            0 => pick(rng, &["0", "-0", "32767", "-32768"]),
            _ => (rng.next() as i16).to_string(),
        },
        Primitive::Int => match rng.below(3) {
            0 => pick(rng, &["0", "-0", "2147483647", "-2147483648"]),
            _ => (rng.next() as i32).to_string(),
        },
        Primitive::Long => match rng.below(3) {
            0 => pick(
                rng,
                &["0", "-1", "9223372036854775807", "-9223372036854775808"],
            ),
            1 => (rng.next() as i64).to_string(),
            _ => rng.below(100_000).to_string(),
        },
        Primitive::Float => match rng.below(3) {
            0 => pick(
                rng,
                &["0", "-0.0", "1e10", "3.4028235e38", "1E-40", "16777217"],
            ),
            _ => format!("{}.{}", rng.next() as i16, rng.below(1000)),
        },
        Primitive::Double => match rng.below(4) {
            0 => pick(
                rng,
                &[
                    "0",
                    "-0.0",
                    "1e+300",
                    "5e-324",
                    "1E5",
                    "123456789012345678901",
                ],
            ),
            1 => match f64::from_bits(rng.next()) {
                value if value.is_finite() => format!("{value:?}"),
                _ => "1.5".to_owned(),
            },
            _ => format!("{}.{:02}", rng.next() as i32, rng.below(100)),
        },
        Primitive::Decimal { precision, scale } => {
            let digits = usize::from(precision) - usize::try_from(scale).unwrap();
            let mut text = if rng.below(2) == 0 {
                "-".to_owned()
            } else {
                String::new()
            };
            let whole: String = (0..digits.min(1 + rng.below(digits + 1)))
                .map(|_| char::from(b'1' + rng.below(9) as u8))
                .collect();
            text.push_str(if whole.is_empty() { "0" } else { &whole });
            if scale > 0 && rng.below(3) > 0 {
                text.push('.');
                (0..scale).for_each(|_| text.push(char::from(b'0' + rng.below(10) as u8)));
                text.push_str(pick(rng, &["", "0", "e0", "E-0"]).as_str());
            }
            if rng.below(2) == 0 {
                text
            } else {
                format!("\"{text}\"")
            }
        }
        Primitive::Date => format!("\"{}\"", random_date(rng)),
        Primitive::Time => format!("\"{}\"", random_time(rng, 6)),
        Primitive::Timestamp => random_stamp(rng, 6, ""),
        Primitive::TimestampNs => random_stamp(rng, 9, ""),
        Primitive::TimestampTz | Primitive::TimestampTzNs => {
            let zone = pick(rng, &["Z", "z", "+00:00", "+05:30", "-23:59", "-00:00"]);
            let digits = if primitive == Primitive::TimestampTz {
                6
            } else {
                9
            };
            random_stamp(rng, digits, &zone)
        }
        Primitive::String => {
            let text = pick(
                rng,
                &[
                    "",
                    "plain text",
                    "exactly8",
                    "sixteen bytes ok",
                    "é€𝄞 and more of it",
                    "tab\tquote\"slash/back\\",
                    "\u{0}\u{1f}\u{7f}\u{8}\u{c}",
                    "a longer text, well over thirty-two bytes of it",
                ],
            );
            let cut = rng.below(text.chars().count() + 1);
            quoted(&text.chars().skip(cut / 2).collect::<String>(), rng)
        }
        Primitive::Uuid => {
            let hex = format!("{:016x}{:016X}", rng.next(), rng.next());
            let groups = [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ];
            format!("\"{}\"", groups.join("-"))
        }
        Primitive::Fixed(length) => random_bytes(length as usize, rng),
        Primitive::Binary => {
            let length = rng.below(12);
            random_bytes(length, rng)
        }
    }
}

fn random_bytes(length: usize, rng: &mut Rng) -> String {
    let bytes: Vec<u8> = (0..length).map(|_| rng.next() as u8).collect();
    quoted(&STANDARD.encode(bytes), rng)
}

fn random_date(rng: &mut Rng) -> String {
    let year = 1700 + rng.below(500);
    format!("{year}-{:02}-{:02}", 1 + rng.below(12), 1 + rng.below(28))
}

fn random_time(rng: &mut Rng, digits: usize) -> String {
    let (h, m, s) = (rng.below(24), rng.below(60), rng.below(60));
    let fraction = match rng.below(3) {
        0 => String::new(),
        _ => {
            let length = 1 + rng.below(digits);
            let digits = (0..length).map(|_| char::from(b'0' + rng.below(10) as u8));
            format!(".{}", digits.collect::<String>())
        }
    };
    format!("{h:02}:{m:02}:{s:02}{fraction}")
}

fn random_stamp(rng: &mut Rng, digits: usize, zone: &str) -> String {
    let between = rng.one_of(&["T", "T", "t", " "]);
    format!(
        "\"{}{between}{}{zone}\"",
        random_date(rng),
        random_time(rng, digits)
    )
}
