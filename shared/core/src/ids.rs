//! Names and numbers that identify things, and the seam that mints new ones.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::limits::NAME_BYTES_MAX;

/// Ends the name of a table's dead-letter table: `orders` has `orders__dead_letters`.
pub const DEAD_LETTERS_SUFFIX: &str = "__dead_letters";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} name {name:?} is not valid: it must match [a-z][a-z0-9_]{{0,62}}")]
pub struct NameError {
    what: &'static str,
    name: String,
}

fn check_name(what: &'static str, name: &str) -> Result<Arc<str>, NameError> {
    let bytes = name.as_bytes();
    let ok = matches!(bytes.first(), Some(b'a'..=b'z'))
        && bytes.len() <= NAME_BYTES_MAX
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if ok {
        Ok(Arc::from(name))
    } else {
        let name = name.chars().take(80).collect();
        Err(NameError { what, name })
    }
}

/// The suffix of dead-letter tables does not count.
fn check_table_name(what: &'static str, name: &str) -> Result<Arc<str>, NameError> {
    match name.strip_suffix(DEAD_LETTERS_SUFFIX) {
        Some(of) => check_name(what, of)
            .map(|_| Arc::from(name))
            .map_err(|error| NameError {
                name: error.name + DEAD_LETTERS_SUFFIX,
                ..error
            }),
        None => check_name(what, name),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        name_type!($(#[$doc])* $type, $what, check_name);
    };
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `[a-z][a-z0-9_]{0,62}`.
            pub fn new(name: &str) -> Result<Self, NameError> {
                $check($what, name).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The unit of isolation: names, topics, storage prefix, keys, quotas.
    TenantId,
    "tenant"
);
name_type!(
    /// A table's name within its tenant. That of a dead-letter table may be longer by
    /// [`DEAD_LETTERS_SUFFIX`].
    TableName,
    "table",
    check_table_name
);
name_type!(
    /// The name of a version of a table that is kept until it is dropped.
    SnapshotName,
    "snapshot"
);

impl TableName {
    /// The name of this table's dead-letter table.
    pub fn dead_letters(&self) -> Self {
        Self(Arc::from(format!("{self}{DEAD_LETTERS_SUFFIX}")))
    }

    /// The table whose dead letters a table of this name holds.
    pub fn dead_letters_of(&self) -> Option<Self> {
        let of = self.0.strip_suffix(DEAD_LETTERS_SUFFIX)?;
        Some(Self(Arc::from(of)))
    }
}

impl Default for TenantId {
    /// The tenant of an open (unauthenticated) installation: `default`.
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

/// A table's full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    pub tenant: TenantId,
    pub table: TableName,
}

impl TableId {
    pub fn new(tenant: TenantId, table: TableName) -> Self {
        Self { tenant, table }
    }

    /// The dead-letter table of this table.
    pub fn dead_letters(&self) -> Self {
        Self::new(self.tenant.clone(), self.table.dead_letters())
    }

    /// The table whose dead letters this one holds.
    pub fn dead_letters_of(&self) -> Option<Self> {
        let of = self.table.dead_letters_of()?;
        Some(Self::new(self.tenant.clone(), of))
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.table)
    }
}

/// One Kafka partition of a table's topic, and the rows that came through it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Bucket(pub u32);

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a Delta commit: what a snapshot is named by.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct TableVersion(pub u64);

impl TableVersion {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for TableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Kafka's id of one incarnation of a topic, in Kafka's text form (22 characters of URL-safe base64).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// Reads Kafka's 22-character form.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TopicId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TopicId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a topic id")))
    }
}

/// Mints ids. A seam, so that a simulation can repeat a run.
pub trait IdSource: fmt::Debug + Send + Sync {
    /// A new id; ids of one source rise in the order they were minted (UUID version 7).
    fn next_uuid(&self) -> Uuid;
}

/// An id source that can be handed around cheaply.
pub type SharedIds = Arc<dyn IdSource>;

/// UUID version 7 from the machine's clock and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn next_uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// The machine's id source, shared.
pub fn random() -> SharedIds {
    Arc::new(RandomIds)
}

/// Ids 1, 2, 3, … for tests.
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn next_uuid(&self) -> Uuid {
        Uuid::from_u64_pair(0, self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_pattern() {
        for good in ["a", "orders", "a1_b", &"x".repeat(63)] {
            assert!(TableName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "1a",
            "_a",
            "Orders",
            "a-b",
            "a.b",
            "a/b",
            "é",
            &"x".repeat(64),
        ] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_table_name_has_room_for_its_dead_letters() {
        for name in ["a", &"x".repeat(63)] {
            let table = TableName::new(name).unwrap();
            let dead_letters = table.dead_letters();
            assert_eq!(dead_letters.as_str(), format!("{name}__dead_letters"));
            assert_eq!(
                TableName::new(dead_letters.as_str()),
                Ok(dead_letters.clone())
            );
            assert_eq!(dead_letters.dead_letters_of(), Some(table.clone()));
            assert_eq!(table.dead_letters_of(), None);
        }
        for bad in [
            "__dead_letters",
            &format!("{}__dead_letters", "x".repeat(64)),
        ] {
            let error = TableName::new(bad).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert!(TenantId::new(&format!("{}__dead_letters", "x".repeat(60))).is_err());
    }

    #[test]
    fn a_topic_id_survives_its_text_form() {
        let id = TopicId(*b"0123456789abcdef");
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(TopicId::parse(&id.to_string()), Some(id));
        assert_eq!(TopicId::parse("short"), None);
    }
}
