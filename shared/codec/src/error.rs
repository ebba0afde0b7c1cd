//! What goes wrong without being the record's fault.

use arrow::error::ArrowError;
use tidelake_core::ErrorKind;

/// Arrow refused what this crate built for it.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A broken assumption of our own.
    #[error("arrow columns could not be built or encoded")]
    Arrow(#[from] ArrowError),
    /// More than one message can carry.
    #[error("a packed batch has {found} {what}; use at most {max}")]
    TooLarge {
        /// Rows or bytes.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        max: usize,
    },
}

impl CodecError {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Arrow(_) => ErrorKind::Bug,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
        }
    }
}
