//! Why a schema, or a batch that should fit one, was refused.

use tidelake_core::ErrorKind;
use tidelake_core::limits::{FIELDS_MAX, SCHEMA_DEPTH_MAX};

use crate::types::COLUMN_NAME_BYTES_MAX;

/// A schema that was refused: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The text is not JSON at all.
    #[error("schema is not valid JSON: {0}")]
    Json(String),
    /// Wrong as a whole.
    #[error("schema: {0}")]
    Table(Problem),
    /// Wrong at one field; `path` is dotted, `element`, `key` and `value` stand for the insides of
    /// lists and maps.
    #[error("schema field {path:?}: {problem}")]
    Field {
        /// Where.
        path: String,
        /// What.
        problem: Problem,
    },
    /// A batch that is not of the table's Arrow schema.
    #[error(
        "batch does not match the table schema at {path:?}: expected {expected}, found {found}"
    )]
    Batch {
        /// The column.
        path: String,
        /// The type that the table schema asks for.
        expected: String,
        /// What the batch has.
        found: String,
    },
    /// Arrow refused to build a column.
    #[error("batch cannot be converted: {0}")]
    Arrow(String),
}

impl SchemaError {
    pub(crate) fn at(path: &str, problem: Problem) -> Self {
        if path.is_empty() {
            Self::Table(problem)
        } else {
            Self::Field {
                path: path.to_owned(),
                problem,
            }
        }
    }

    /// A refused schema is the caller's to mend; a batch of the wrong shape is our own mistake.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Table(Problem::TooManyFields { .. })
            | Self::Field {
                problem: Problem::TooDeep | Problem::NameTooLong,
                ..
            } => ErrorKind::TooLarge,
            Self::Json(_) | Self::Table(_) | Self::Field { .. } => ErrorKind::Invalid,
            Self::Batch { .. } | Self::Arrow(_) => ErrorKind::Bug,
        }
    }
}

/// What is wrong with a schema or a field, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{key:?} is missing: expected {expected}")]
    Missing {
        key: &'static str,
        expected: &'static str,
    },
    #[error("{key:?} must be {expected}, found {found}")]
    WrongJson {
        key: &'static str,
        expected: &'static str,
        found: String,
    },
    #[error("key {0:?} is not known here; remove it")]
    UnknownKey(String),
    #[error("key {0:?} is not supported: column defaults cannot be kept; remove it")]
    Unsupported(String),
    #[error("a schema is an object {{\"type\":\"struct\",\"fields\":[…]}}, found {0}")]
    NotASchema(String),
    #[error(
        "type {0:?} is not known; use boolean, byte, short, int, long, float, double, decimal(p,s), \
         date, time, timestamp, timestamptz, timestamp_ns, timestamptz_ns, string, uuid, fixed[n], \
         binary, or an object of type struct, list or map"
    )]
    UnknownType(String),
    #[error("type {0:?} of a Delta table is not supported")]
    UnknownDeltaType(String),
    #[error(
        "decimal({precision},{scale}) is not valid: precision is 1 to 38, scale 0 to precision"
    )]
    Decimal { precision: u8, scale: i8 },
    #[error("fixed[{0}] is not valid: a length is 1 to 2147483647")]
    FixedLength(u32),
    #[error("has no fields; give it at least one")]
    NoFields,
    #[error("a field without a name; give it one")]
    EmptyName,
    #[error("the name is too long; use at most {COLUMN_NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("the name contains a control character; remove it")]
    ControlInName,
    #[error("names that start with \"__\" are reserved for hidden columns; choose another")]
    ReservedName,
    #[error("the name is already taken by {other:?} (names are compared without case); rename one")]
    DuplicateName { other: String },
    #[error("id {id} is not valid; ids start at 1")]
    InvalidId { id: i64 },
    #[error(
        "id {id} is already taken by {other:?}; give each field, element, key and value its own"
    )]
    DuplicateId { id: i32, other: String },
    #[error("has no id while others have one; give ids to all or to none")]
    MixedIds,
    #[error("{found} fields, nested ones included; use at most {FIELDS_MAX}")]
    TooManyFields { found: usize },
    #[error("nested deeper than {SCHEMA_DEPTH_MAX} levels; flatten it")]
    TooDeep,
    #[error("identifier field id {0} is not the id of a top-level field")]
    UnknownIdentifier(i32),
    #[error("identifier field id {0} is given twice")]
    DuplicateIdentifier(i32),
    #[error("an identifier field must be required; set \"required\": true")]
    OptionalIdentifier,
    #[error(
        "it is part of the primary key and may be null, which another engine allowed; make it NOT \
         NULL again there"
    )]
    NullableKey,
    #[error(
        "another engine changed its type from {was} to {now}: what files hold can't be read so, and \
         rows on their way don't fit; change it back there, or drop the table and create it anew"
    )]
    Retyped { was: String, now: String },
    #[error(
        "it is part of the primary key, and another engine changed its type from {was} to {now}: \
         keys would be other keys; change it back there, or load the rows into a new table"
    )]
    KeyRetyped { was: String, now: String },
    #[error(
        "another engine changed the primary key from ({was}) to ({now}): records lie in buckets by \
         their keys; change it back there, or load the rows into a new table"
    )]
    KeyChanged { was: String, now: String },
    #[error("an identifier field cannot be a {0}; use another column as key")]
    IdentifierType(String),
    #[error("declared as {declared:?} but stored as {stored:?}")]
    DeclaredType { declared: String, stored: String },
}
