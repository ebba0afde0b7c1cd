//! What can go wrong in the key index.

use tidelake_core::ErrorKind;

/// A failure of the key index. The index is a cache: whatever fails here, the data files are whole,
/// and the index can be built from their key columns again.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Rows that cannot have a key: a broken caller, since keys are checked where records come in.
    #[error("key column {column}: {problem}")]
    Key { column: String, problem: String },
    #[error("the batch has {found} columns, expected {expected}")]
    Columns { expected: usize, found: usize },
    /// Bytes that contradict themselves: forget them, build the index from the data files.
    #[error("damaged index of {name}: {problem}")]
    Corrupt { name: String, problem: &'static str },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
}

impl IndexError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Key { .. } | Self::Columns { .. } => ErrorKind::Invalid,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Io { .. } => ErrorKind::Unavailable,
        }
    }
}

/// What decoding found wrong; whoever knows the run's name makes an [`IndexError`] of it.
pub(super) type Damage = &'static str;
