//! What may go wrong with a query, in the words of every door: one table.
//!
//! Owns, for each [`Condition`], its stable code, HTTP status, gRPC status, SQLSTATE and title, and
//! which condition each [`QueryError`] is. Does not own how a door tells it: `http/problem.rs` does
//! for HTTP.
//!
//! Invariants: an error has one condition, whatever door it leaves by; an error without a condition,
//! or a condition without an entry, does not compile. A code may have several conditions: clients of
//! HTTP branch on the code, those of SQL on the SQLSTATE, which tells more.

use tidelake_core::ErrorKind;
use tidelake_manifest::ManifestError;
use tidelake_service::codes;
use tidelake_storage::StorageError;
use tidelake_table::TableError;

use crate::error::{DataFault, PlanFault, QueryError};

/// A status of gRPC; its number is the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Grpc {
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
}

/// How a condition is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Of HTTP.
    pub status: u16,
    /// The stable word that clients branch on.
    pub code: &'static str,
    pub grpc: Grpc,
    /// Class and condition as PostgreSQL has them.
    pub sqlstate: &'static str,
    pub title: &'static str,
}

macro_rules! conditions {
    ($($name:ident: ($status:literal, $code:expr, $grpc:ident, $sqlstate:literal, $title:literal),)+) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Condition {
            $($name,)+
        }

        impl Condition {
            /// Every condition, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            pub fn entry(self) -> Entry {
                match self {
                    $(Self::$name => Entry {
                        status: $status,
                        code: $code,
                        grpc: Grpc::$grpc,
                        sqlstate: $sqlstate,
                        title: $title,
                    },)+
                }
            }
        }
    };
}

conditions! {
    // The request.
    Request: (400, "INVALID_REQUEST", InvalidArgument, "22023", "the request is not valid"),
    UnknownField: (400, "UNKNOWN_FIELD", InvalidArgument, "22023",
        "the request has a field that does not exist"),
    Body: (400, "MALFORMED_BODY", InvalidArgument, "08P01", "the body is malformed"),
    MediaType: (415, "UNSUPPORTED_MEDIA_TYPE", InvalidArgument, "0A000",
        "the body's type is not supported"),
    NotAcceptable: (406, "NOT_ACCEPTABLE", InvalidArgument, "0A000", "no such format"),
    ReadOnly: (405, "READ_ONLY", FailedPrecondition, "25006", "a GET request only reads"),
    Token: (400, "INVALID_TOKEN", InvalidArgument, "22023", "the token can't be used"),
    Key: (422, "INVALID_KEY", InvalidArgument, "22P02",
        "a key does not fit the table's schema"),
    // The statement.
    Syntax: (400, "SQL_SYNTAX", InvalidArgument, "42601", "the SQL can't be parsed"),
    NotAllowed: (400, "SQL_NOT_ALLOWED", InvalidArgument, "42501", "this SQL is not allowed"),
    NotSupported: (400, "SQL_NOT_SUPPORTED", Unimplemented, "0A000",
        "this SQL is not supported"),
    Invalid: (400, "SQL_INVALID", InvalidArgument, "42000", "the SQL has no meaning"),
    NoColumn: (400, "SQL_INVALID", InvalidArgument, "42703", "there is no such column"),
    AmbiguousColumn: (400, "SQL_INVALID", InvalidArgument, "42702",
        "a column's name may mean several"),
    DuplicateColumn: (400, "SQL_INVALID", InvalidArgument, "42701", "a column is named twice"),
    NoFunction: (400, "SQL_INVALID", InvalidArgument, "42883", "there is no such function, or it takes other arguments"),
    Types: (400, "SQL_INVALID", InvalidArgument, "42804",
        "an operator or a function does not take these types"),
    OtherFunction: (400, "SQL_INVALID", InvalidArgument, "42809", "a function can't have this clause"),
    // What it is computed of.
    Failed: (400, "QUERY_FAILED", InvalidArgument, "22000", "the query failed on its data"),
    DivisionByZero: (400, "QUERY_FAILED", InvalidArgument, "22012",
        "the query failed on its data: a division by zero"),
    OutOfRange: (400, "QUERY_FAILED", InvalidArgument, "22003",
        "the query failed on its data: a value out of range"),
    Unreadable: (400, "QUERY_FAILED", InvalidArgument, "22P02",
        "the query failed on its data: a value that its type can't read"),
    // Names.
    NoTable: (404, "TABLE_NOT_FOUND", NotFound, "42P01", "there is no such table"),
    NoVersion: (404, "VERSION_NOT_FOUND", NotFound, "42704", "there is no such version"),
    NoSnapshot: (404, "SNAPSHOT_NOT_FOUND", NotFound, "42704", "there is no such snapshot"),
    SnapshotExists: (409, "SNAPSHOT_EXISTS", AlreadyExists, "42710",
        "there is such a snapshot already"),
    SnapshotsFull: (409, "TOO_MANY_SNAPSHOTS", FailedPrecondition, "54000",
        "the table has too many snapshots"),
    SchemaChanged: (409, "SCHEMA_CHANGED", Aborted, "0A000",
        "a table's schema changed since the statement was prepared"),
    NoRow: (404, "ROW_NOT_FOUND", NotFound, "02000", "there is no such row"),
    NoKey: (409, "NO_PRIMARY_KEY", FailedPrecondition, "55000",
        "the table has no primary key"),
    QueryIdInUse: (409, "QUERY_ID_IN_USE", AlreadyExists, "55006", "the query id is in use"),
    NoQuery: (404, "QUERY_NOT_FOUND", NotFound, "42704", "there is no such query"),
    FileGone: (410, "FILE_GONE", Aborted, "58P01", "a file of this version was removed"),
    PositionGone: (410, "POSITION_GONE", Aborted, "72000",
        "the log does not reach back to what was asked for"),
    // The log.
    TokenNotCovered: (503, "TOKEN_NOT_COVERED", Unavailable, "55000",
        "the token is not covered yet"),
    LogGap: (500, "LOG_GAP", DataLoss, "XX001",
        "acknowledged rows are missing from the log"),
    TopicReplaced: (409, codes::TOPIC_REPLACED, FailedPrecondition, "55000",
        "the table's topic is not the one it was filled from"),
    TopicPartitions: (409, codes::TOPIC_PARTITIONS_CHANGED, FailedPrecondition, "55000",
        "the table's topic is not the one it was filled from"),
    TopicCutBack: (409, codes::LOG_CUT_BACK, FailedPrecondition, "55000",
        "the table's topic is not the one it was filled from"),
    TailTooLarge: (503, "TAIL_TOO_LARGE", ResourceExhausted, "53000",
        "too many rows are not flushed yet"),
    TailBehind: (503, "TAIL_BEHIND", Unavailable, "55000", "the newest rows are not read yet"),
    LogAway: (503, "LOG_UNAVAILABLE", Unavailable, "58030", "the log does not answer"),
    // Bounds and ends.
    ResultTooLarge: (413, "RESULT_TOO_LARGE", ResourceExhausted, "54000",
        "the answer is too large for this format"),
    Memory: (503, "QUERY_MEMORY_EXCEEDED", ResourceExhausted, "53200",
        "the query ran out of memory"),
    Timeout: (504, "QUERY_TIMEOUT", DeadlineExceeded, "57014", "the query took too long"),
    NotRead: (504, "ANSWER_NOT_READ", DeadlineExceeded, "57014",
        "the answer was not read in time"),
    Cancelled: (409, "QUERY_CANCELLED", Cancelled, "57014", "the query was cancelled"),
    TenantBusy: (429, "TOO_MANY_QUERIES", ResourceExhausted, "53300",
        "too many queries at a time"),
    Busy: (503, "TOO_MANY_QUERIES", Unavailable, "53300", "too many queries at a time"),
    // What is stored, and the process itself.
    StoreAway: (503, "STORE_UNAVAILABLE", Unavailable, "58030",
        "the object store does not answer"),
    TableUnusable: (503, "TABLE_UNAVAILABLE", FailedPrecondition, "55000",
        "the table can't be used now"),
    Denied: (403, "DENIED", PermissionDenied, "42501", "not allowed"),
    Fenced: (503, "FENCED", Aborted, "40001", "another worker has taken over: retry"),
    Away: (503, "UNAVAILABLE", Unavailable, "58000", "not available now: retry"),
    Closed: (503, "SHUTTING_DOWN", Unavailable, "57P01", "shutting down: retry elsewhere"),
    Corrupt: (500, "CORRUPT", DataLoss, "XX001", "stored data contradicts itself"),
    Bug: (500, "INTERNAL", Internal, "XX000", "internal error"),
}

impl Condition {
    /// Seconds after which asking again makes sense, where it does.
    pub fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::TailTooLarge | Self::Memory => Some(5),
            Self::TableUnusable => None,
            Self::TenantBusy => Some(1),
            other => (other.entry().status == 503).then_some(1),
        }
    }

    /// The kind, where nothing but the kind is told.
    pub(crate) fn bare_kind(self) -> Option<ErrorKind> {
        Some(match self {
            Self::Denied => ErrorKind::Denied,
            Self::Fenced => ErrorKind::Fenced,
            Self::Away => ErrorKind::Unavailable,
            Self::Closed => ErrorKind::Closed,
            Self::Corrupt => ErrorKind::Corrupt,
            Self::Bug => ErrorKind::Bug,
            _ => return None,
        })
    }
}

impl QueryError {
    pub fn condition(&self) -> Condition {
        use Condition as C;
        match self {
            Self::Request { .. } | Self::Query(_) => C::Request,
            Self::UnknownField(_) => C::UnknownField,
            Self::Body(_) => C::Body,
            Self::MediaType(_) => C::MediaType,
            Self::NotAcceptable(_) => C::NotAcceptable,
            Self::ReadOnly(_) => C::ReadOnly,
            Self::Token(_) => C::Token,
            Self::Key(_) => C::Key,
            Self::Syntax { .. } => C::Syntax,
            Self::NotAllowed(_) => C::NotAllowed,
            Self::Unsupported(_) => C::NotSupported,
            Self::Invalid(_) => C::Invalid,
            Self::Plan { fault, .. } => of_plan(*fault),
            Self::Data { fault, .. } => of_data(*fault),
            Self::TableNotFound { .. } => C::NoTable,
            Self::VersionNotFound { .. } => C::NoVersion,
            Self::SnapshotNotFound { .. } => C::NoSnapshot,
            Self::SnapshotExists { .. } => C::SnapshotExists,
            Self::SnapshotsFull(_) => C::SnapshotsFull,
            Self::SchemaChanged => C::SchemaChanged,
            Self::RowNotFound { .. } => C::NoRow,
            Self::NoKey(_) => C::NoKey,
            Self::DuplicateId(_) => C::QueryIdInUse,
            Self::QueryNotFound(_) => C::NoQuery,
            Self::FileGone(_) => C::FileGone,
            Self::PositionGone { .. } => C::PositionGone,
            Self::TokenNotCovered { .. } => C::TokenNotCovered,
            Self::LogGap { .. } => C::LogGap,
            Self::TopicChanged { code, .. } => match *code {
                codes::TOPIC_PARTITIONS_CHANGED => C::TopicPartitions,
                codes::LOG_CUT_BACK => C::TopicCutBack,
                _ => C::TopicReplaced,
            },
            Self::TailTooLarge { .. } => C::TailTooLarge,
            Self::TailBehind { .. } => C::TailBehind,
            // A topic that is not there for a moment is no missing table: the catalog has that.
            Self::Log(source) => match source.kind() {
                ErrorKind::Corrupt => C::Corrupt,
                ErrorKind::Bug => C::Bug,
                ErrorKind::Closed => C::Closed,
                _ => C::LogAway,
            },
            Self::ResultTooLarge { .. } => C::ResultTooLarge,
            Self::Memory(_) => C::Memory,
            Self::Timeout(_) => C::Timeout,
            Self::Stalled(_) => C::NotRead,
            Self::Cancelled => C::Cancelled,
            Self::Overloaded { of_tenant } => match of_tenant {
                Some(_) => C::TenantBusy,
                None => C::Busy,
            },
            Self::Store(_) => C::StoreAway,
            Self::Manifest(source) => of_manifest(source),
            Self::Table(source) => match source.as_ref() {
                TableError::Manifest(source) => of_manifest(source),
                TableError::Storage(source) => of_storage(source),
                source => of_state(source.kind()),
            },
            Self::Schema(source) => of_state(source.kind()),
            Self::Catalog(source) => of_state(source.kind()),
            Self::Corrupt(_) => C::Corrupt,
            Self::Engine(_) => C::Bug,
            Self::Closed => C::Closed,
        }
    }
}

fn of_plan(fault: PlanFault) -> Condition {
    match fault {
        PlanFault::NoColumn => Condition::NoColumn,
        PlanFault::AmbiguousColumn => Condition::AmbiguousColumn,
        PlanFault::DuplicateColumn => Condition::DuplicateColumn,
        PlanFault::NoFunction => Condition::NoFunction,
        PlanFault::Types => Condition::Types,
        PlanFault::OtherFunction => Condition::OtherFunction,
        PlanFault::Other => Condition::Invalid,
    }
}

fn of_data(fault: DataFault) -> Condition {
    match fault {
        DataFault::DivisionByZero => Condition::DivisionByZero,
        DataFault::OutOfRange => Condition::OutOfRange,
        DataFault::Unreadable => Condition::Unreadable,
        DataFault::Other => Condition::Failed,
    }
}

/// Why a table's own log, which the catalog has, could not be read.
fn of_manifest(source: &ManifestError) -> Condition {
    match source {
        ManifestError::Storage(storage) => of_storage(storage),
        ManifestError::Shared(shared) => of_manifest(shared),
        ManifestError::VectorOf { source, .. } => of_manifest(source),
        _ if source.is_no_such_version() => Condition::NoVersion,
        _ => of_state(source.kind()),
    }
}

fn of_storage(source: &StorageError) -> Condition {
    match source.kind() {
        ErrorKind::Corrupt => Condition::Corrupt,
        ErrorKind::Bug => Condition::Bug,
        ErrorKind::NotFound => Condition::FileGone,
        _ => Condition::StoreAway,
    }
}

/// By what has to happen first: a table that Tidelake can't read as it stands is neither absent nor
/// a mistake of the request, and no repetition helps until somebody changes it.
fn of_state(kind: ErrorKind) -> Condition {
    match kind {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::TooLarge | ErrorKind::Conflict => {
            Condition::TableUnusable
        }
        ErrorKind::Denied => Condition::Denied,
        ErrorKind::Fenced => Condition::Fenced,
        ErrorKind::Unavailable => Condition::Away,
        ErrorKind::Closed => Condition::Closed,
        ErrorKind::Corrupt => Condition::Corrupt,
        ErrorKind::Bug => Condition::Bug,
    }
}

#[cfg(test)]
mod tests;
