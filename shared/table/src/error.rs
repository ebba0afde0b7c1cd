//! What can go wrong between rows and a commit.

use tidelake_core::ErrorKind;
use tidelake_manifest::ManifestError;
use tidelake_schema::SchemaError;
use tidelake_storage::StorageError;

use crate::index::IndexError;

/// A failure of the table engine. Nothing of the flush is visible, and what it stored is deleted,
/// unless the outcome of its commit is unknown.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the rows do not fit the table's schema")]
    Schema(#[from] SchemaError),
    #[error("encode a data file: {0}")]
    Encode(String),
    #[error("store or read a data file")]
    Storage(#[from] StorageError),
    #[error("commit to the table's log")]
    Manifest(#[from] ManifestError),
    #[error("the encoder stopped: {0}")]
    Worker(String),
    #[error("key index")]
    Index(#[from] IndexError),
    #[error("{what} is damaged: {reason}")]
    Damaged { what: String, reason: String },
    #[error(
        "the new deletion vector of {path} would bring rows back: {reason}; load the bucket's state \
         anew and flush again"
    )]
    RowsRevived { path: String, reason: String },
    #[error(
        "the rows were decoded by another schema than the table has now: {reason}; decode them again"
    )]
    OtherSchema { reason: String },
    #[error("gave up after {attempts} tries against other writers of the same files")]
    Contended { attempts: usize },
}

/// True where the store takes nothing until somebody mends that, or makes room.
pub(crate) fn is_refusal(error: &StorageError) -> bool {
    matches!(error, StorageError::Full { .. }) || error.kind() == ErrorKind::Denied
}

impl TableError {
    /// True where the store takes nothing until somebody mends that, or makes room: trying again
    /// soon is no use.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Storage(error) | Self::Manifest(ManifestError::Storage(error)) => {
                is_refusal(error)
            }
            _ => false,
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Schema(error) => error.kind(),
            Self::Encode(_) | Self::Worker(_) | Self::RowsRevived { .. } => ErrorKind::Bug,
            Self::Storage(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::Index(error) => error.kind(),
            Self::OtherSchema { .. } => ErrorKind::Conflict,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Contended { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<parquet::errors::ParquetError> for TableError {
    /// A store that fails below a reader stays a store that fails: that may pass.
    fn from(error: parquet::errors::ParquetError) -> Self {
        let parquet::errors::ParquetError::External(source) = error else {
            return Self::Encode(error.to_string());
        };
        match source.downcast::<StorageError>() {
            Ok(error) => Self::Storage(*error),
            Err(other) => Self::Encode(other.to_string()),
        }
    }
}

impl From<arrow::error::ArrowError> for TableError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Encode(error.to_string())
    }
}
