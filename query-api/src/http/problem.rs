//! Errors as answers: status, stable code, and what to do about it.

use tidelake_core::ErrorKind;
use tidelake_manifest::ManifestError;
use tidelake_service::{Problem, chain};
use tidelake_storage::StorageError;
use tidelake_table::TableError;

use crate::error::QueryError;

impl From<&QueryError> for Problem {
    fn from(error: &QueryError) -> Self {
        let told = of_request(error)
            .or_else(|| of_sql(error))
            .or_else(|| of_name(error))
            .or_else(|| of_log(error))
            .or_else(|| of_bounds(error));
        told.unwrap_or_else(|| match error {
            QueryError::Store(_) => away(error),
            QueryError::Manifest(source) => of_manifest(error, source),
            QueryError::Table(source) => of_table(error, source),
            QueryError::Schema(source) => of_state(error, source.kind()),
            QueryError::Catalog(source) => of_state(error, source.kind()),
            _ => Self::from_kind(error.kind(), chain(error)),
        })
    }
}

/// What was asked can't be understood, or not be done as it was asked.
fn of_request(error: &QueryError) -> Option<Problem> {
    let detail = error.to_string();
    Some(match error {
        QueryError::Request { field, .. } => {
            invalid("INVALID_REQUEST", "the request is not valid", detail).field(*field)
        }
        QueryError::UnknownField(field) => invalid(
            "UNKNOWN_FIELD",
            "the request has a field that does not exist",
            detail,
        )
        .field(field.as_str())
        .hint(
            "known fields are sql, params, as_of_version, as_of_timestamp, \
                         consistency, token, max_rows, timeout_ms",
        ),
        QueryError::Body(_) => invalid("MALFORMED_BODY", "the body is malformed", detail)
            .hint("send a JSON object such as {\"sql\":\"SELECT 1\"}"),
        QueryError::Query(_) => invalid("INVALID_REQUEST", "the request is not valid", detail),
        QueryError::MediaType(_) => Problem::new(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "the body's type is not supported",
        )
        .detail(detail)
        .hint("send application/json, or the bare statement as application/sql"),
        QueryError::NotAcceptable(_) => Problem::new(406, "NOT_ACCEPTABLE", "no such format")
            .detail(detail)
            .hint(
                "formats are application/json, application/x-ndjson, text/csv, \
                     application/vnd.apache.arrow.stream, application/vnd.apache.parquet",
            ),
        QueryError::ReadOnly(_) => Problem::new(405, "READ_ONLY", "a GET request only reads")
            .detail(detail)
            .hint("send the statement by POST"),
        QueryError::Token(_) => {
            invalid("INVALID_TOKEN", "the token can't be used", detail).field("token")
        }
        QueryError::Key(rejection) => {
            let problem = Problem::new(422, "INVALID_KEY", "a key does not fit the table's schema")
                .detail(detail)
                .row(rejection.row as u64);
            match &rejection.field {
                Some(field) => problem.field(field.as_str()),
                None => problem,
            }
        }
        _ => return None,
    })
}

/// What the statement is, or does.
fn of_sql(error: &QueryError) -> Option<Problem> {
    let detail = error.to_string();
    Some(match error {
        QueryError::Syntax(_) => invalid("SQL_SYNTAX", "the SQL can't be parsed", detail),
        QueryError::NotAllowed(_) => invalid("SQL_NOT_ALLOWED", "this SQL is not allowed", detail)
            .hint(
                "allowed are SELECT, WITH, VALUES, EXPLAIN, DESCRIBE, SHOW TABLES and SHOW \
                     COLUMNS over the tenant's tables, CREATE SNAPSHOT and DROP SNAPSHOT",
            ),
        QueryError::Unsupported(_) => {
            invalid("SQL_NOT_SUPPORTED", "this SQL is not supported", detail)
        }
        QueryError::Invalid(_) => invalid("SQL_INVALID", "the SQL has no meaning", detail),
        QueryError::Failed(_) => invalid("QUERY_FAILED", "the query failed on its data", detail),
        _ => return None,
    })
}

/// What is named is not there, or is there already.
fn of_name(error: &QueryError) -> Option<Problem> {
    let detail = error.to_string();
    Some(match error {
        QueryError::TableNotFound { nearest, .. } => {
            let problem = Problem::new(404, "TABLE_NOT_FOUND", "there is no such table");
            let problem = problem.detail(detail);
            match nearest {
                Some(nearest) => problem.hint(format!("did you mean {nearest}?")),
                None => problem.hint("SHOW TABLES lists the tables"),
            }
        }
        QueryError::VersionNotFound { .. } => {
            Problem::new(404, "VERSION_NOT_FOUND", "there is no such version").detail(detail)
        }
        QueryError::SnapshotNotFound { table, .. } => {
            let title = "there is no such snapshot";
            let hint = format!(
                "SELECT * FROM table_snapshots('{}') lists them; a version's number stands \
                     without quotes",
                table.table
            );
            Problem::new(404, "SNAPSHOT_NOT_FOUND", title)
                .detail(detail)
                .hint(hint)
        }
        QueryError::SnapshotExists { .. } => {
            Problem::new(409, "SNAPSHOT_EXISTS", "there is such a snapshot already")
                .detail(detail)
                .hint("drop it first, or take another name")
        }
        QueryError::SnapshotsFull(_) => Problem::new(
            409,
            "TOO_MANY_SNAPSHOTS",
            "the table has too many snapshots",
        )
        .detail(detail)
        .hint("drop those that are not needed any more"),
        QueryError::RowNotFound { .. } => {
            Problem::new(404, "ROW_NOT_FOUND", "there is no such row").detail(detail)
        }
        QueryError::NoKey(_) => Problem::new(409, "NO_PRIMARY_KEY", "the table has no primary key")
            .detail(detail)
            .hint("rows of append tables are found by SQL"),
        QueryError::DuplicateId(_) => {
            Problem::new(409, "QUERY_ID_IN_USE", "the query id is in use").detail(detail)
        }
        QueryError::QueryNotFound(_) => {
            Problem::new(404, "QUERY_NOT_FOUND", "there is no such query").detail(detail)
        }
        QueryError::FileGone(_) => {
            Problem::new(410, "FILE_GONE", "a data file of this version was removed")
                .detail(detail)
                .hint("ask again; a past version may have expired")
        }
        _ => return None,
    })
}

/// What is newest can't be told, or not yet.
fn of_log(error: &QueryError) -> Option<Problem> {
    let detail = error.to_string();
    Some(match error {
        QueryError::TokenNotCovered { .. } => {
            Problem::new(503, "TOKEN_NOT_COVERED", "the token is not covered yet")
                .detail(detail)
                .hint("ask again, or ask with \"consistency\":\"latest\"")
                .retry_after_s(1)
        }
        QueryError::LogGap { .. } => {
            tracing::error!(error = detail, "retention overran the table's watermark");
            Problem::new(500, "LOG_GAP", "acknowledged rows are missing from the log")
                .detail(detail)
                .hint(
                    "\"consistency\":\"committed\" reads what was committed; raise the topic's \
                         retention and look after the flusher",
                )
        }
        QueryError::TopicChanged { code, .. } => Problem::new(
            409,
            code,
            "the table's topic is not the one it was filled from",
        )
        .detail(detail)
        .hint("\"consistency\":\"committed\" reads what was committed"),
        QueryError::TailTooLarge { .. } => {
            Problem::new(503, "TAIL_TOO_LARGE", "too many rows are not flushed yet")
                .detail(detail)
                .hint("ask with \"consistency\":\"committed\", or once the flusher caught up")
                .retry_after_s(5)
        }
        QueryError::TailBehind { .. } => {
            Problem::new(503, "TAIL_BEHIND", "the newest rows are not read yet")
                .detail(detail)
                .hint("ask again, with a longer timeout_ms, or with \"consistency\":\"committed\"")
                .retry_after_s(1)
        }
        // A topic that is not there for a moment is no missing table: the catalog has that.
        QueryError::Log(source)
            if !matches!(
                source.kind(),
                ErrorKind::Corrupt | ErrorKind::Bug | ErrorKind::Closed
            ) =>
        {
            Problem::new(503, "LOG_UNAVAILABLE", "the log does not answer")
                .detail(chain(error))
                .hint("\"consistency\":\"committed\" does without the log")
                .retry_after_s(1)
        }
        _ => return None,
    })
}

/// A bound was reached, or somebody has ended it.
fn of_bounds(error: &QueryError) -> Option<Problem> {
    let detail = error.to_string();
    Some(match error {
        QueryError::ResultTooLarge { .. } => Problem::new(
            413,
            "RESULT_TOO_LARGE",
            "the answer is too large for this format",
        )
        .detail(detail)
        .hint(
            "accept application/x-ndjson or application/vnd.apache.arrow.stream, which \
                         stream, or set max_rows",
        ),
        QueryError::Memory(_) => {
            Problem::new(503, "QUERY_MEMORY_EXCEEDED", "the query ran out of memory")
                .detail(detail)
                .hint("narrow the query, or ask again when fewer queries run")
                .retry_after_s(5)
        }
        QueryError::Timeout(_) => Problem::new(504, "QUERY_TIMEOUT", "the query took too long")
            .detail(detail)
            .hint("narrow the query or raise timeout_ms"),
        QueryError::Stalled(_) => {
            Problem::new(504, "ANSWER_NOT_READ", "the answer was not read in time")
                .detail(detail)
                .hint("read the answer without long breaks, or ask for less at a time")
        }
        QueryError::Cancelled => {
            Problem::new(409, "QUERY_CANCELLED", "the query was cancelled").detail(detail)
        }
        QueryError::Overloaded { of_tenant } => {
            let status = if of_tenant.is_some() { 429 } else { 503 };
            Problem::new(status, "TOO_MANY_QUERIES", "too many queries at a time")
                .detail(detail)
                .retry_after_s(1)
        }
        _ => return None,
    })
}

/// Why a table's own log, which the catalog has, could not be read.
fn of_manifest(error: &QueryError, source: &ManifestError) -> Problem {
    match source {
        ManifestError::Storage(storage) => of_store(error, storage),
        ManifestError::Shared(shared) => of_manifest(error, shared),
        ManifestError::VectorOf { source, .. } => of_manifest(error, source),
        _ if source.is_no_such_version() => {
            Problem::new(404, "VERSION_NOT_FOUND", "there is no such version")
                .detail(source.to_string())
        }
        _ => of_state(error, source.kind()),
    }
}

fn of_table(error: &QueryError, source: &TableError) -> Problem {
    match source {
        TableError::Manifest(source) => of_manifest(error, source),
        TableError::Storage(storage) => of_store(error, storage),
        _ => of_state(error, source.kind()),
    }
}

/// What is told does not name the store's paths; the server's log does.
fn of_store(error: &QueryError, source: &StorageError) -> Problem {
    match source.kind() {
        kind @ (ErrorKind::Corrupt | ErrorKind::Bug) => Problem::from_kind(kind, chain(error)),
        ErrorKind::NotFound => {
            tracing::warn!(error = chain(error), "a file of a table is gone");
            Problem::new(410, "FILE_GONE", "a file of this version was removed")
                .detail("a file that this version is made of is not in the store any more")
                .hint("ask again; a past version may have expired")
        }
        _ => away(error),
    }
}

fn away(error: &QueryError) -> Problem {
    tracing::warn!(error = chain(error), "the object store refuses");
    Problem::new(503, "STORE_UNAVAILABLE", "the object store does not answer")
        .detail("the object store does not answer as it should")
        .retry_after_s(1)
}

/// By what has to happen first: a table that Tidelake can't read as it stands is neither absent nor
/// a mistake of the request, and no repetition helps until somebody changes it.
fn of_state(error: &QueryError, kind: ErrorKind) -> Problem {
    match kind {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::TooLarge | ErrorKind::Conflict => {
            tracing::warn!(error = chain(error), "a table can't be used");
            Problem::new(503, "TABLE_UNAVAILABLE", "the table can't be used now")
                .detail(chain(error))
                .hint("another engine may have changed the table; its rows are kept as they are")
        }
        kind => Problem::from_kind(kind, chain(error)),
    }
}

fn invalid(code: &'static str, title: &str, detail: String) -> Problem {
    Problem::new(400, code, title).detail(detail)
}

#[cfg(test)]
mod tests;
