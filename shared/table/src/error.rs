//! What can go wrong between rows and a commit.

use tidelake_core::ErrorKind;
use tidelake_manifest::ManifestError;
use tidelake_schema::SchemaError;
use tidelake_storage::StorageError;

/// A failure of the table engine. Nothing of the flush is visible; files that were uploaded are
/// orphans, named by no version.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the rows do not fit the table's schema")]
    Schema(#[from] SchemaError),
    #[error("encode a data file: {0}")]
    Encode(String),
    #[error("store a data file")]
    Storage(#[from] StorageError),
    #[error("commit to the table's log")]
    Manifest(#[from] ManifestError),
    #[error("the encoder stopped: {0}")]
    Worker(String),
}

impl TableError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Schema(error) => error.kind(),
            Self::Encode(_) | Self::Worker(_) => ErrorKind::Bug,
            Self::Storage(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
        }
    }
}

impl From<parquet::errors::ParquetError> for TableError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Encode(error.to_string())
    }
}

impl From<arrow::error::ArrowError> for TableError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Encode(error.to_string())
    }
}
