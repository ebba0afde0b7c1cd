//! Statistics as text: what must survive reading and every change digit for digit.
//!
//! Owns reading what others wrote without giving up on all of it for one odd member ([`parse`],
//! [`tell`]),
//! and the text of a file's statistics after rows of it were deleted ([`widened`]).

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::Stats;

const NUM_RECORDS: &str = "numRecords";
const TIGHT_BOUNDS: &str = "tightBounds";

/// What is told of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Least,
    Greatest,
    /// How many values are null.
    Nulls,
}

/// Shows `each` what the text of `add.stats` tells of top-level columns, in the order in which it
/// stands there, and gives `tightBounds`. Reads as [`Stats::parse`] does, and keeps nothing.
///
/// # Errors
/// Where the text is no object: then it tells nothing.
pub fn tell(
    text: &str,
    each: &mut dyn FnMut(Told, &str, Value),
) -> Result<Option<bool>, serde_json::Error> {
    let mut tight = None;
    for (name, value) in serde_json::from_str::<Members<'_>>(text)?.0 {
        let told = match name.as_ref() {
            "minValues" => Told::Least,
            "maxValues" => Told::Greatest,
            "nullCount" => Told::Nulls,
            TIGHT_BOUNDS => {
                tight = serde_json::from_str(value.get()).ok();
                continue;
            }
            _ => continue,
        };
        let members = serde_json::from_str::<Members<'_>>(value.get());
        for (column, value) in members.map_or_else(|_| Vec::new(), |members| members.0) {
            each(told, &column, exact(value));
        }
    }
    Ok(tight)
}

/// See [`Stats::parse`].
pub(super) fn parse(text: &str) -> Result<Stats, serde_json::Error> {
    let mut stats = Stats::default();
    for (name, value) in serde_json::from_str::<Members<'_>>(text)?.0 {
        match name.as_ref() {
            NUM_RECORDS => stats.num_records = serde_json::from_str(value.get()).ok(),
            TIGHT_BOUNDS => stats.tight_bounds = serde_json::from_str(value.get()).ok(),
            "minValues" => stats.min_values = members_of(value),
            "maxValues" => stats.max_values = members_of(value),
            "nullCount" => stats.null_count = members_of(value),
            _ => {}
        }
    }
    Ok(stats)
}

fn members_of(value: &RawValue) -> Map<String, Value> {
    let members = serde_json::from_str::<Members<'_>>(value.get());
    let members = members.map_or_else(|_| Vec::new(), |members| members.0);
    let members = members.into_iter();
    let members = members.map(|(name, value)| (name.into_owned(), exact(value)));
    members.collect()
}

/// The value of a bound. `serde_json` reads a float without its last digit; the standard library
/// reads the number that was written.
fn exact(value: &RawValue) -> Value {
    let text = value.get();
    if let Ok(integer) = text.parse::<i64>() {
        return Value::from(integer);
    }
    match text.as_bytes().first() {
        Some(b'{') => Value::Object(members_of(value)),
        Some(b'-' | b'0'..=b'9') if text.contains(['.', 'e', 'E']) => text
            .parse()
            .ok()
            .and_then(Number::from_f64)
            .map_or(Value::Null, Value::Number),
        _ => serde_json::from_str(text).unwrap_or(Value::Null),
    }
}

/// The text of `add.stats` after rows of the file were deleted: bounds are no longer tight, and
/// everything else stands as it stood, byte for byte.
///
/// `rows` are the file's physical rows. A file with a deletion vector must tell them: they are
/// filled in where the text lacks them, and make up the whole text where there is none that can be
/// read.
pub fn widened(text: Option<&str>, rows: u64) -> String {
    let members: Vec<(Cow<'_, str>, &RawValue)> = text
        .and_then(|text| serde_json::from_str::<Members<'_>>(text).ok())
        .map_or_else(Vec::new, |members| members.0);
    let mut widened = String::with_capacity(text.map_or(0, str::len) + 48);
    widened.push('{');
    let counted = members.iter().any(|(name, value)| {
        name == NUM_RECORDS && serde_json::from_str::<u64>(value.get()).is_ok()
    });
    if !counted {
        widened.push_str(&format!("\"{NUM_RECORDS}\":{rows},"));
    }
    for (name, value) in &members {
        if name != TIGHT_BOUNDS && (counted || name != NUM_RECORDS) {
            let name = Value::from(name.as_ref());
            widened.push_str(&format!("{name}:{},", value.get()));
        }
    }
    widened.push_str(&format!("\"{TIGHT_BOUNDS}\":false}}"));
    widened
}

/// The members of an object in order, their values unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A name as it stands in the text, where nothing in it is escaped.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(name))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(name.to_owned()))
            }
        }

        from.deserialize_str(Visit).map(Self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Self::Value = Vec::with_capacity(8);
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(members)
            }
        }

        from.deserialize_map(Visit).map(Self)
    }
}
