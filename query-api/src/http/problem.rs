//! Errors as HTTP answers: what to do about each, and what its text may tell.
//!
//! Owns hints, and what is told of an error beside its text; status, code and title are the table's
//! ([`crate::problem`]).

use tidelake_manifest::ManifestError;
use tidelake_service::{Problem, chain};
use tidelake_table::TableError;

use crate::error::QueryError;
use crate::problem::Condition;

impl From<&QueryError> for Problem {
    fn from(error: &QueryError) -> Self {
        let condition = error.condition();
        let entry = condition.entry();
        if let Some(kind) = condition.bare_kind() {
            return Self::from_kind(kind, chain(error)).sqlstate(entry.sqlstate);
        }
        let problem = Self::new(entry.status, entry.code, entry.title)
            .detail(detail(error, condition))
            .position(error.position())
            .sqlstate(entry.sqlstate);
        let problem = named(problem, error);
        let problem = match hint(error, condition) {
            Some(hint) => problem.hint(hint),
            None => problem,
        };
        match condition.retry_after_s() {
            Some(seconds) => problem.retry_after_s(seconds),
            None => problem,
        }
    }
}

/// What a client may read of the error, and what only the server's log keeps.
fn detail(error: &QueryError, condition: Condition) -> String {
    match condition {
        Condition::StoreAway => {
            tracing::warn!(error = chain(error), "the object store refuses");
            "the object store does not answer as it should".to_owned()
        }
        // Its path would be the store's.
        Condition::FileGone if !matches!(error, QueryError::FileGone(_)) => {
            tracing::warn!(error = chain(error), "a file of a table is gone");
            "a file that this version is made of is not in the store any more".to_owned()
        }
        Condition::TableUnusable => {
            tracing::warn!(error = chain(error), "a table can't be used");
            chain(error)
        }
        Condition::LogGap => {
            let error = error.to_string();
            tracing::error!(error, "retention overran the table's watermark");
            error
        }
        Condition::LogAway => chain(error),
        Condition::NoVersion => match manifest_of(error) {
            Some(source) => source.to_string(),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

/// The error of a table's own log, without what was put around it.
fn manifest_of(error: &QueryError) -> Option<&ManifestError> {
    let mut source = match error {
        QueryError::Manifest(source) => source.as_ref(),
        QueryError::Table(source) => match source.as_ref() {
            TableError::Manifest(source) => source,
            _ => return None,
        },
        _ => return None,
    };
    loop {
        source = match source {
            ManifestError::Shared(shared) => shared,
            ManifestError::VectorOf { source, .. } => source,
            found => return Some(found),
        };
    }
}

/// The field or the row that it is about.
fn named(problem: Problem, error: &QueryError) -> Problem {
    match error {
        QueryError::Request { field, .. } => problem.field(*field),
        QueryError::UnknownField(field) => problem.field(field.as_str()),
        QueryError::Token(_) => problem.field("token"),
        QueryError::Key(rejection) => {
            let problem = problem.row(rejection.row as u64);
            match &rejection.field {
                Some(field) => problem.field(field.as_str()),
                None => problem,
            }
        }
        _ => problem,
    }
}

/// What to do about it.
fn hint(error: &QueryError, condition: Condition) -> Option<String> {
    match error {
        QueryError::TableNotFound {
            nearest: Some(nearest),
            ..
        } => return Some(format!("did you mean {nearest}?")),
        QueryError::SnapshotNotFound { table, .. } => {
            return Some(format!(
                "SELECT * FROM table_snapshots('{}') lists them; a version's number stands \
                 without quotes",
                table.table
            ));
        }
        _ => {}
    }
    of_request(condition)
        .or_else(|| of_state(condition))
        .map(str::to_owned)
}

fn of_request(condition: Condition) -> Option<&'static str> {
    Some(match condition {
        Condition::UnknownField => {
            "known fields are sql, params, as_of_version, as_of_timestamp, consistency, token, \
             max_rows, timeout_ms"
        }
        Condition::Body => "send a JSON object such as {\"sql\":\"SELECT 1\"}",
        Condition::MediaType => "send application/json, or the bare statement as application/sql",
        Condition::NotAcceptable => {
            "formats are application/json, application/x-ndjson, text/csv, \
             application/vnd.apache.arrow.stream, application/vnd.apache.parquet"
        }
        Condition::ReadOnly => "send the statement by POST",
        Condition::NotAllowed => {
            "allowed are SELECT, WITH, VALUES, EXPLAIN, DESCRIBE, SHOW TABLES and SHOW COLUMNS \
             over the tenant's tables, CREATE SNAPSHOT and DROP SNAPSHOT"
        }
        Condition::NoTable => "SHOW TABLES lists the tables",
        Condition::SnapshotExists => "drop it first, or take another name",
        Condition::SnapshotsFull => "drop those that are not needed any more",
        Condition::NoKey => "rows of append tables are found by SQL",
        _ => return None,
    })
}

fn of_state(condition: Condition) -> Option<&'static str> {
    Some(match condition {
        Condition::FileGone => "ask again; a past version may have expired",
        Condition::TokenNotCovered => "ask again, or ask with \"consistency\":\"latest\"",
        Condition::LogGap => {
            "\"consistency\":\"committed\" reads what was committed; raise the topic's retention \
             and look after the flusher"
        }
        Condition::TopicReplaced | Condition::TopicPartitions | Condition::TopicCutBack => {
            "\"consistency\":\"committed\" reads what was committed"
        }
        Condition::TailTooLarge => {
            "ask with \"consistency\":\"committed\", or once the flusher caught up"
        }
        Condition::TailBehind => {
            "ask again, with a longer timeout_ms, or with \"consistency\":\"committed\""
        }
        Condition::LogAway => "\"consistency\":\"committed\" does without the log",
        Condition::ResultTooLarge => {
            "accept application/x-ndjson or application/vnd.apache.arrow.stream, which stream, or \
             set max_rows"
        }
        Condition::Memory => "narrow the query, or ask again when fewer queries run",
        Condition::Timeout => "narrow the query or raise timeout_ms",
        Condition::NotRead => "read the answer without long breaks, or ask for less at a time",
        Condition::TableUnusable => {
            "another engine may have changed the table; its rows are kept as they are"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
