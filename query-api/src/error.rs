//! Why a query was not answered.

mod engine;

use std::sync::Arc;

use tidelake_catalog::CatalogError;
use tidelake_codec::Rejection;
use tidelake_core::{Bucket, ErrorKind, SnapshotName, TableId, TableVersion};
use tidelake_log::LogError;
use tidelake_manifest::{ManifestError, NAMED_SNAPSHOTS_MAX};
use tidelake_schema::SchemaError;
use tidelake_service::Position;
use tidelake_table::TableError;

/// What the parser found where the text is over; it names no place then.
const PARSER_AT_END: &str = "found: EOF";

/// A query's failure. Its code is the stable word that clients see.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// A part of the request other than its SQL.
    #[error("{reason}")]
    Request { field: &'static str, reason: String },
    #[error("unknown field {0:?}")]
    UnknownField(String),
    #[error("the body is not a query: {0}")]
    Body(String),
    #[error("a body of {0} can't be read as a query")]
    MediaType(String),
    #[error("none of the formats of accept: {0} can be answered")]
    NotAcceptable(String),
    #[error("{reason}")]
    Syntax {
        reason: String,
        at: Option<Position>,
    },
    #[error("{0}")]
    NotAllowed(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Invalid(String),
    /// The planner can't make sense of it.
    #[error("{reason}")]
    Plan {
        fault: PlanFault,
        reason: String,
        at: Option<Position>,
    },
    /// The rows are none that the statement can be computed of.
    #[error("{reason}")]
    Data { fault: DataFault, reason: String },
    #[error("table {name} does not exist")]
    TableNotFound {
        name: String,
        nearest: Option<String>,
        at: Option<Position>,
    },
    #[error("table {table} has no version {asked}: {reason}")]
    VersionNotFound {
        table: TableId,
        asked: String,
        reason: String,
    },
    #[error("table {table} has no snapshot {name}")]
    SnapshotNotFound { table: TableId, name: SnapshotName },
    #[error("table {table} has a snapshot {name} already: it keeps version {version}")]
    SnapshotExists {
        table: TableId,
        name: SnapshotName,
        version: TableVersion,
    },
    #[error("table {0} has {NAMED_SNAPSHOTS_MAX} snapshots, which is the most")]
    SnapshotsFull(TableId),
    /// Since the statement was prepared.
    #[error(
        "a table that the statement reads has another schema than when the statement was \
         prepared: prepare it again"
    )]
    SchemaChanged,
    #[error("the path or its query can't be read: {0}")]
    Query(String),
    #[error("{0}")]
    ReadOnly(String),
    #[error("{0}")]
    Token(String),
    #[error(
        "the token asks for table {table} bucket {bucket} up to offset {wanted}, reached is {reached}"
    )]
    TokenNotCovered {
        table: TableId,
        bucket: Bucket,
        wanted: i64,
        reached: i64,
    },
    #[error(
        "rows of table {table} bucket {bucket} are lost: the log begins at offset {start}, the table \
         is committed up to {watermark}"
    )]
    LogGap {
        table: TableId,
        bucket: Bucket,
        start: i64,
        watermark: i64,
    },
    /// What was asked for exactly can't be read again.
    #[error(
        "table {table} version {version} can't be read with what followed it any more: the log of \
         bucket {bucket} begins at offset {start}, the version ends at {watermark}; ask for a newer \
         version"
    )]
    PositionGone {
        table: TableId,
        version: TableVersion,
        bucket: Bucket,
        start: i64,
        watermark: i64,
    },
    /// The log behind the table is not the one that it was filled from.
    #[error("{found}")]
    TopicChanged { code: &'static str, found: String },
    #[error(
        "the unflushed rows of table {table} take more than {bytes_max} bytes ({left} messages left)"
    )]
    TailTooLarge {
        table: TableId,
        bytes_max: usize,
        left: i64,
    },
    #[error(
        "table {table} bucket {bucket} is not read up to offset {wanted} yet, reached is {reached} ({} \
         behind)", wanted - reached
    )]
    TailBehind {
        table: TableId,
        bucket: Bucket,
        wanted: i64,
        reached: i64,
    },
    #[error("a key does not fit: {0}")]
    Key(Rejection),
    #[error("table {table} has no row with key {key}")]
    RowNotFound { table: String, key: String },
    #[error("table {0} has no primary key")]
    NoKey(TableId),
    #[error("the answer takes more than {bytes_max} bytes as application/json")]
    ResultTooLarge { bytes_max: usize },
    #[error("the query needs more memory than there is: {0}")]
    Memory(String),
    #[error("the query did not end within {0} ms")]
    Timeout(u64),
    #[error("the query was cancelled")]
    Cancelled,
    /// With the number of the tenant's own queries, where these are too many.
    #[error("{}", match of_tenant {
        Some(open) => format!("{open} queries of this tenant are open already"),
        None => "too many queries are open at the moment".to_owned(),
    })]
    Overloaded { of_tenant: Option<usize> },
    /// The execution waited for whoever reads the answer.
    #[error("the answer was not read for {0} ms")]
    Stalled(u64),
    #[error("query {0} is running already")]
    DuplicateId(String),
    #[error("no query {0} is running")]
    QueryNotFound(String),
    #[error("data file {0} is gone")]
    FileGone(String),
    #[error("the table's log could not be read")]
    Manifest(#[source] Arc<ManifestError>),
    #[error("the catalog could not be read")]
    Catalog(#[source] Arc<CatalogError>),
    #[error("the log could not be read")]
    Log(#[from] LogError),
    #[error("the table's rows could not be found")]
    Table(#[source] Arc<TableError>),
    #[error("the table's schema could not be used")]
    Schema(#[source] Arc<SchemaError>),
    #[error("the store could not be read: {0}")]
    Store(String),
    #[error("stored data could not be decoded: {0}")]
    Corrupt(String),
    #[error("the engine failed: {0}")]
    Engine(String),
    #[error("shutting down")]
    Closed,
}

/// What of a statement has no meaning, as far as the planner tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanFault {
    NoColumn,
    AmbiguousColumn,
    DuplicateColumn,
    NoFunction,
    /// Operators and functions that don't take what they are given.
    Types,
    /// What only an aggregate or a window function can have.
    OtherFunction,
    Other,
}

/// What of the rows a statement failed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFault {
    DivisionByZero,
    OutOfRange,
    /// A value that can't be read as the type it is asked for.
    Unreadable,
    Other,
}

impl QueryError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Request { .. }
            | Self::UnknownField(_)
            | Self::Body(_)
            | Self::Query(_)
            | Self::MediaType(_)
            | Self::NotAcceptable(_)
            | Self::Syntax { .. }
            | Self::NotAllowed(_)
            | Self::Unsupported(_)
            | Self::Invalid(_)
            | Self::Plan { .. }
            | Self::Data { .. }
            | Self::Key(_)
            | Self::NoKey(_)
            | Self::ReadOnly(_)
            | Self::Token(_) => ErrorKind::Invalid,
            Self::TableNotFound { .. }
            | Self::VersionNotFound { .. }
            | Self::RowNotFound { .. }
            | Self::SnapshotNotFound { .. }
            | Self::QueryNotFound(_)
            | Self::PositionGone { .. }
            | Self::FileGone(_) => ErrorKind::NotFound,
            Self::TokenNotCovered { .. }
            | Self::TailTooLarge { .. }
            | Self::TailBehind { .. }
            | Self::Memory(_)
            | Self::Timeout(_)
            | Self::Stalled(_)
            | Self::Overloaded { .. }
            | Self::Store(_) => ErrorKind::Unavailable,
            Self::ResultTooLarge { .. } => ErrorKind::TooLarge,
            Self::Cancelled
            | Self::DuplicateId(_)
            | Self::SnapshotExists { .. }
            | Self::TopicChanged { .. }
            | Self::SchemaChanged
            | Self::SnapshotsFull(_) => ErrorKind::Conflict,
            Self::LogGap { .. } | Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Manifest(error) => of_state(error.kind()),
            Self::Catalog(error) => of_state(error.kind()),
            Self::Log(error) => of_state(error.kind()),
            Self::Schema(error) => of_state(error.kind()),
            Self::Table(error) => of_state(error.kind()),
            Self::Engine(_) => ErrorKind::Bug,
            Self::Closed => ErrorKind::Closed,
        }
    }

    /// How the query ended, for metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Stalled(_) => "stalled",
            Self::Cancelled => "cancelled",
            Self::Overloaded { .. } => "refused",
            Self::TopicChanged { .. }
            | Self::Manifest(_)
            | Self::Catalog(_)
            | Self::Log(_)
            | Self::Schema(_)
            | Self::Table(_) => "failed",
            _ => match self.kind() {
                ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict => "invalid",
                _ => "failed",
            },
        }
    }

    /// Where in the statement's text the error is, if that is known.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Syntax { at, .. } | Self::Plan { at, .. } | Self::TableNotFound { at, .. } => *at,
            _ => None,
        }
    }

    /// The error with its place counted in characters, too, of the text that it is about.
    #[must_use]
    pub(crate) fn in_text(mut self, text: &str) -> Self {
        match &mut self {
            Self::Syntax { at: Some(at), .. }
            | Self::Plan { at: Some(at), .. }
            | Self::TableNotFound { at: Some(at), .. } => *at = at.in_text(text),
            // Nothing stands where the parser missed something.
            Self::Syntax { reason, at } if reason.ends_with(PARSER_AT_END) => {
                *at = Some(Position::at_end(text));
            }
            _ => {}
        }
        self
    }

    pub(crate) fn request(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Request {
            field,
            reason: reason.into(),
        }
    }
}

/// What is stored or set up in a way that can't be used is no fault of whoever asks, and is not
/// absent either: somebody else has to change it first.
fn of_state(kind: ErrorKind) -> ErrorKind {
    match kind {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::TooLarge => ErrorKind::Conflict,
        other => other,
    }
}

impl From<ManifestError> for QueryError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(Arc::new(error))
    }
}

impl From<CatalogError> for QueryError {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(Arc::new(error))
    }
}

impl From<TableError> for QueryError {
    fn from(error: TableError) -> Self {
        Self::Table(Arc::new(error))
    }
}

impl From<SchemaError> for QueryError {
    fn from(error: SchemaError) -> Self {
        Self::Schema(Arc::new(error))
    }
}
