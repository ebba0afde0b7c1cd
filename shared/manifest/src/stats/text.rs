//! Statistics as text: what must survive reading and every change digit for digit.
//!
//! Owns reading what others wrote without giving up on all of it for one odd member ([`parse`]),
//! and the text of a file's statistics after rows of it were deleted ([`widened`]).

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::Stats;

const NUM_RECORDS: &str = "numRecords";
const TIGHT_BOUNDS: &str = "tightBounds";

/// See [`Stats::parse`].
pub(super) fn parse(text: &str) -> Result<Stats, serde_json::Error> {
    let mut stats = Stats::default();
    for (name, value) in serde_json::from_str::<Members<'_>>(text)?.0 {
        match name.as_str() {
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
    members.map(|(name, value)| (name, exact(value))).collect()
}

/// The value of a bound. `serde_json` reads a float without its last digit; the standard library
/// reads the number that was written.
fn exact(value: &RawValue) -> Value {
    let text = value.get();
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
    let members: Vec<(String, &RawValue)> = text
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
            let name = Value::from(name.as_str());
            widened.push_str(&format!("{name}:{},", value.get()));
        }
    }
    widened.push_str(&format!("\"{TIGHT_BOUNDS}\":false}}"));
    widened
}

/// The members of an object in order, their values unread.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Self::Value = Vec::with_capacity(8);
                while let Some(name) = map.next_key::<String>()? {
                    members.push((name, map.next_value()?));
                }
                Ok(members)
            }
        }

        from.deserialize_map(Visit).map(Self)
    }
}
