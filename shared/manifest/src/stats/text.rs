//! Statistics as text: what must survive a change of the statistics digit for digit.
//!
//! Owns reading what others wrote without giving up on all of it ([`understood`]), and the text of
//! a file's statistics after rows of it were deleted ([`widened`]).

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

const NUM_RECORDS: &str = "numRecords";
const TIGHT_BOUNDS: &str = "tightBounds";

/// A value, or the default of its type where it is null or has another form.
pub(crate) fn understood<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = Value::deserialize(from)?;
    Ok(T::deserialize(value).unwrap_or_default())
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
