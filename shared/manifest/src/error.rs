//! What can go wrong with a table's log.

use tidelake_core::{ErrorKind, TableVersion};
use tidelake_schema::SchemaError;
use tidelake_storage::StorageError;

use crate::vector::VectorError;

/// Outcome of a call on a table's log.
pub type Result<T, E = ManifestError> = std::result::Result<T, E>;

/// Why a table could not be read or written. A lost race is not among these: that is a
/// [`crate::CommitOutcome`].
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("no Delta table at {at}: its `_delta_log` has no commit")]
    NoTable { at: String },
    #[error("version {version} of {at} is gone: the earliest that can be read is {earliest}")]
    VersionGone {
        at: String,
        version: TableVersion,
        earliest: TableVersion,
    },
    #[error("{at} has no version {version} yet: the latest is {latest}")]
    VersionAhead {
        at: String,
        version: TableVersion,
        latest: TableVersion,
    },
    #[error(
        "{at} has no version as old as {asked_ms} (milliseconds since 1970): the earliest that can \
         be read is version {earliest} of {earliest_ms}"
    )]
    BeforeFirst {
        at: String,
        asked_ms: i64,
        earliest: TableVersion,
        earliest_ms: i64,
    },
    #[error(
        "{at} can't be read: it needs the Delta reader features {features:?}, which Tidelake does \
         not have"
    )]
    ReaderFeatures { at: String, features: Vec<String> },
    #[error(
        "{at} can't be written: it needs {features:?}, which Tidelake does not have; drop what \
         another engine enabled there, or write to another table"
    )]
    WriterFeatures { at: String, features: Vec<String> },
    #[error(
        "{at} is partitioned by {columns:?}: Tidelake reads and writes unpartitioned tables only"
    )]
    Partitioned { at: String, columns: Vec<String> },
    #[error("{at} is damaged: {reason}")]
    Corrupt { at: String, reason: String },
    #[error("this can't be written to {at}: {reason}")]
    Forbidden { at: String, reason: &'static str },
    #[error("property {key:?} can't be set to {value:?}: {reason}")]
    Property {
        key: String,
        value: String,
        reason: &'static str,
    },
    #[error(
        "version {version} was written below the cleaned end of the log of {at}, where it does not \
         count: this writer slept longer than the log is kept; start again from the latest version"
    )]
    BelowCleanedLog { at: String, version: TableVersion },
    #[error("{at} is so contended that {attempts} attempts to commit lost; try again later")]
    Contended { at: String, attempts: u32 },
    #[error("a commit to {at} breaks an invariant of ours and was not made")]
    Invariant { at: String, source: Violation },
    #[error("a checkpoint of {at} could not be made")]
    Checkpoint {
        at: String,
        source: parquet::errors::ParquetError,
    },
    #[error("a deletion vector of {at} is unusable")]
    Vector { at: String, source: VectorError },
    #[error("the deletion vector of {file}, which lies in {object}, can't be read")]
    VectorOf {
        file: String,
        object: String,
        source: Box<ManifestError>,
    },
    #[error("the schema of {at} is unusable")]
    Schema { at: String, source: SchemaError },
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What somebody else's look at the same log met, told to all who waited for it.
    #[error(transparent)]
    Shared(std::sync::Arc<ManifestError>),
}

/// A broken predicate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{predicate}: {detail}")]
pub struct Violation {
    /// The name of the function that says what should hold.
    pub predicate: &'static str,
    pub detail: String,
}

impl ManifestError {
    /// True where the table is there and sound, and the version that was asked for is not.
    pub fn is_no_such_version(&self) -> bool {
        matches!(
            self,
            Self::VersionGone { .. } | Self::VersionAhead { .. } | Self::BeforeFirst { .. }
        )
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoTable { .. }
            | Self::VersionGone { .. }
            | Self::VersionAhead { .. }
            | Self::BeforeFirst { .. } => ErrorKind::NotFound,
            Self::ReaderFeatures { .. }
            | Self::WriterFeatures { .. }
            | Self::Partitioned { .. }
            | Self::Forbidden { .. }
            | Self::Property { .. } => ErrorKind::Invalid,
            Self::Corrupt { .. } | Self::Vector { .. } => ErrorKind::Corrupt,
            Self::BelowCleanedLog { .. } => ErrorKind::Fenced,
            Self::Contended { .. } => ErrorKind::Unavailable,
            Self::Invariant { .. } | Self::Checkpoint { .. } => ErrorKind::Bug,
            Self::VectorOf { source, .. } => source.kind(),
            Self::Schema { source, .. } => source.kind(),
            Self::Storage(error) => error.kind(),
            Self::Shared(error) => error.kind(),
        }
    }
}
