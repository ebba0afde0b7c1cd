//! Why a record was refused: the row, the field, the reason.
//!
//! The first bad record rejects its whole batch, so one [`Rejection`] is all there is to say.
//! Messages quote at most 40 characters of the user's value.

use std::fmt;

use tidelake_core::ErrorKind;

/// Characters of a user's value that a message may quote.
pub const EXCERPT_CHARS_MAX: usize = 40;

/// A record that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Counted from 0 within the input.
    pub row: usize,
    /// Where in the record: `pt.x`, `tags[2]`, `m.key`; none for the record as a whole.
    pub field: Option<String>,
    /// Why.
    pub reason: Reason,
}

impl Rejection {
    /// A rejection of a whole record.
    pub fn of_row(row: usize, reason: Reason) -> Self {
        Self {
            row,
            field: None,
            reason,
        }
    }

    /// The same rejection, where the input was a part of a larger one that began `rows` earlier.
    #[must_use]
    pub fn shifted(mut self, rows: usize) -> Self {
        self.row += rows;
        self
    }

    /// See [`Reason::code`].
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self.reason {
            Reason::TooLarge { .. }
            | Reason::DecodedTooLarge { .. }
            | Reason::BatchTooLarge { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::Invalid,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}", self.row)?;
        if let Some(field) = &self.field {
            write!(f, ", field {field:?}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for Rejection {}

/// What is wrong with a value. `found` is the value as a message may show it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("not valid JSON at byte {offset} of the record: {detail}")]
    Malformed { offset: usize, detail: &'static str },
    #[error("not valid UTF-8 at byte {offset} of the record")]
    InvalidUtf8 { offset: usize },
    #[error("expected a JSON object, found {found}")]
    NotAnObject { found: String },
    #[error("no such column in the table; remove the field or add the column")]
    UnknownField,
    #[error("the field is given twice")]
    DuplicateField,
    #[error("the key is given twice in one map")]
    DuplicateKey,
    #[error("a required field is missing")]
    MissingField,
    #[error("null in a required field")]
    NullInRequired,
    #[error("expected {expected}, found {found}")]
    WrongType { expected: String, found: String },
    #[error("expected {expected}, found {found}: not an integer")]
    NotAnInteger { expected: String, found: String },
    #[error("expected {expected}, found {found}: out of range")]
    OutOfRange { expected: String, found: String },
    #[error("expected {expected}, found {found}: cannot be kept exactly")]
    Inexact { expected: String, found: String },
    #[error("expected {expected}, found {found}: {detail}")]
    InvalidValue {
        expected: String,
        found: String,
        detail: &'static str,
    },
    #[error("nested deeper than {max} levels")]
    TooDeep { max: usize },
    #[error("{what} is larger than {max} bytes; make it smaller")]
    TooLarge { what: &'static str, max: usize },
    #[error(
        "decoded it would take more than {max} bytes; make it smaller, or send fewer rows at a time"
    )]
    DecodedTooLarge { max: usize },
    #[error(
        "a message of the Arrow stream has {found} {what}, at most {max} are taken; write smaller \
         batches (pyarrow: `write_table(table, max_chunksize=65536)`)"
    )]
    BatchTooLarge {
        what: &'static str,
        found: i64,
        max: usize,
    },
    #[error("a record without a value removes a key, but the table has no primary key")]
    Tombstone,
    #[error("a record without a value removes the key it carries, and this one carries none")]
    MissingKey,
    #[error("{found} is no key of this table: {detail}")]
    InvalidKey { found: String, detail: String },
    #[error(
        "the key belongs to bucket {owner}, and the batch came through bucket {bucket}; \
         pack the rows of one bucket: (murmur2(key text) & 0x7fffffff) % buckets"
    )]
    WrongBucket { owner: u32, bucket: u32 },
    #[error("expected 0 (upsert) or 1 (delete), found {found}")]
    UnknownOperation { found: String },
    #[error("operations need a primary key, and the table has none; remove the column")]
    NoPrimaryKey,
    #[error("the request says already what it does; remove the column or `op`")]
    OperationTwice,
    #[error("{what} is not supported yet")]
    Unsupported { what: &'static str },
    #[error("not a valid Arrow stream: {detail}")]
    CorruptArrow { detail: String },
}

impl Reason {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "MALFORMED_JSON",
            Self::InvalidUtf8 { .. } => "INVALID_UTF8",
            Self::NotAnObject { .. } => "NOT_AN_OBJECT",
            Self::UnknownField => "UNKNOWN_FIELD",
            Self::DuplicateField => "DUPLICATE_FIELD",
            Self::DuplicateKey => "DUPLICATE_KEY",
            Self::MissingField => "MISSING_FIELD",
            Self::NullInRequired => "NULL_IN_REQUIRED",
            Self::WrongType { .. } => "WRONG_TYPE",
            Self::NotAnInteger { .. } => "NOT_AN_INTEGER",
            Self::OutOfRange { .. } => "OUT_OF_RANGE",
            Self::Inexact { .. } => "INEXACT",
            Self::InvalidValue { .. } => "INVALID_VALUE",
            Self::TooDeep { .. } => "TOO_DEEP",
            Self::TooLarge { .. } | Self::DecodedTooLarge { .. } | Self::BatchTooLarge { .. } => {
                "TOO_LARGE"
            }
            Self::Tombstone => "TOMBSTONE",
            Self::MissingKey => "MISSING_KEY",
            Self::InvalidKey { .. } => "INVALID_KEY",
            Self::WrongBucket { .. } => "WRONG_BUCKET",
            Self::UnknownOperation { .. } => "UNKNOWN_OPERATION",
            Self::NoPrimaryKey => "NO_PRIMARY_KEY",
            Self::OperationTwice => "OPERATION_TWICE",
            Self::Unsupported { .. } => "UNSUPPORTED",
            Self::CorruptArrow { .. } => "CORRUPT_ARROW",
        }
    }

    /// True where the input is broken as such, whatever the table's schema.
    pub fn is_malformed(&self) -> bool {
        matches!(
            self,
            Self::Malformed { .. }
                | Self::InvalidUtf8 { .. }
                | Self::NotAnObject { .. }
                | Self::TooDeep { .. }
                | Self::CorruptArrow { .. }
        )
    }
}

/// At most [`EXCERPT_CHARS_MAX`] characters of `text`, on one line.
pub(crate) fn excerpt(text: &[u8]) -> String {
    // Four bytes a character at most; a cut character at the end is dropped with the rest.
    let window = &text[..text.len().min(4 * EXCERPT_CHARS_MAX + 4)];
    let window = String::from_utf8_lossy(window);
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut chars = window.chars().map(visible);
    let shown: String = chars.by_ref().take(EXCERPT_CHARS_MAX).collect();
    if chars.next().is_none() && window.len() >= text.len() {
        return shown;
    }
    shown
        .chars()
        .take(EXCERPT_CHARS_MAX - 1)
        .chain(['…'])
        .collect()
}

/// A reason on its way out of nested values: each level adds its step in front.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// Innermost first.
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Name(String),
    Index(usize),
}

/// Boxed: the way without a fault must stay one word wide.
pub(crate) type Checked<T> = Result<T, Box<Fault>>;

impl Fault {
    #[cold]
    pub(crate) fn new(reason: Reason) -> Box<Self> {
        Box::new(Self {
            reason,
            steps: Vec::new(),
        })
    }

    #[cold]
    pub(crate) fn inside(mut self: Box<Self>, name: &str) -> Box<Self> {
        let name = if name.len() <= EXCERPT_CHARS_MAX {
            name.to_owned()
        } else {
            excerpt(name.as_bytes())
        };
        self.steps.push(Step::Name(name));
        self
    }

    #[cold]
    pub(crate) fn at_index(mut self: Box<Self>, index: usize) -> Box<Self> {
        self.steps.push(Step::Index(index));
        self
    }

    #[cold]
    pub(crate) fn into_rejection(self, row: usize) -> Rejection {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Name(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Step::Index(index) => {
                    path.push('[');
                    path.push_str(&index.to_string());
                    path.push(']');
                }
            }
        }
        let field = (!self.steps.is_empty()).then_some(path);
        Rejection {
            row,
            field,
            reason: self.reason,
        }
    }
}
