//! Errors to answers: which error gets which status, code and advice.

mod body;

use axum::response::{IntoResponse, Response};
use tidelake_catalog::{CatalogError, TopicChanged, TopicFault};
use tidelake_core::{ErrorKind, TableId};
use tidelake_log::{LogError, RefusedFor};
use tidelake_manifest::ManifestError;
pub(crate) use tidelake_service::chain;
use tidelake_service::{Problem, codes};
use tidelake_storage::StorageError;

use crate::admission::Overloaded;
use crate::produce::ProduceError;
use crate::request::RefusalCode;

/// A refusal on its way to the client; boxed, since it is rare and large.
#[derive(Debug)]
pub(crate) struct Answer(pub Box<Problem>);

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let code = self.0.code;
        tracing::debug!(
            status = self.0.status,
            code,
            detail = self.0.detail,
            "refused"
        );
        let mut response = self.0.into_response();
        response.extensions_mut().insert(RefusalCode(code));
        response
    }
}

/// The refusal as an outcome.
pub(crate) fn refuse<T>(problem: Problem) -> Result<T, Answer> {
    Err(problem.into())
}

pub(crate) async fn no_such_route() -> Answer {
    tidelake_service::no_such_route()
        .hint("tables are at /v1/tables, records go to /v1/tables/{table}/records")
        .into()
}

pub(crate) async fn method_not_allowed() -> Answer {
    tidelake_service::method_not_allowed().into()
}

pub(crate) fn no_table(name: &str) -> Problem {
    Problem::new(404, "TABLE_NOT_FOUND", "there is no such table").detail(format!(
        "table {name} does not exist, or is not yours to see"
    ))
}

pub(crate) fn table_exists(id: &TableId) -> Problem {
    Problem::new(409, "TABLE_EXISTS", "the table exists")
        .detail(format!("table {} exists already", id.table))
        .hint("choose another name, or drop the table first")
}

pub(crate) fn unsupported_type(found: &str) -> Problem {
    Problem::new(
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "the content type is not supported",
    )
    .detail(format!(
        "content type {found} is not one that records can come in"
    ))
    .hint("send application/json, application/x-ndjson or application/vnd.apache.arrow.stream")
}

pub(crate) fn unsupported_coding(found: &str) -> Problem {
    Problem::new(
        415,
        "UNSUPPORTED_ENCODING",
        "the content encoding is not supported",
    )
    .detail(format!("content encoding {found} is not supported"))
    .hint("send gzip, zstd or identity")
}

fn unavailable(code: &'static str, title: &str, detail: impl Into<String>) -> Problem {
    Problem::new(503, code, title)
        .detail(detail)
        .retry_after_s(1)
}

impl From<Overloaded> for Answer {
    fn from(error: Overloaded) -> Self {
        unavailable(
            "OVERLOADED",
            "too many requests at a time",
            error.to_string(),
        )
        .hint("nothing was written: send it again later")
        .into()
    }
}

impl From<CatalogError> for Answer {
    fn from(error: CatalogError) -> Self {
        of_store(error.kind(), &error)
    }
}

/// A table that exists and can't be used now.
pub(crate) fn table_unavailable(detail: impl Into<String>) -> Problem {
    unavailable("TABLE_UNAVAILABLE", "the table can't be used now", detail)
}

/// A table whose own log can't be read, or needs what Tidelake does not have.
pub(crate) fn unreadable(id: &TableId, error: &ManifestError) -> Answer {
    match error.kind() {
        ErrorKind::Unavailable => of_store(ErrorKind::Unavailable, error),
        _ => {
            tracing::warn!(table = %id, error = chain(error), "the table's log is unusable");
            let reason = match error {
                ManifestError::NoTable { .. } => {
                    "its log has no commit, or says that it was dropped".to_owned()
                }
                // Paths of the store stand in it, which are no client's business.
                ManifestError::Storage(_) => "its log can't be read".to_owned(),
                _ => chain(error),
            };
            table_unavailable(format!("table {}: {reason}", id.table))
                .hint("nothing was written; the server's log has the details")
                .into()
        }
    }
}

impl From<ManifestError> for Answer {
    fn from(error: ManifestError) -> Self {
        match &error {
            ManifestError::Property { key, .. } => {
                Problem::new(422, "INVALID_PROPERTY", "the table can't be made like this")
                    .detail(error.to_string())
                    .field(format!("properties.{key}"))
                    .into()
            }
            _ => of_store(error.kind(), &error),
        }
    }
}

impl From<StorageError> for Answer {
    fn from(error: StorageError) -> Self {
        of_store(error.kind(), &error)
    }
}

/// What clients are told of the store does not name its paths; the server's log does.
fn of_store(kind: ErrorKind, error: &(dyn std::error::Error + 'static)) -> Answer {
    let chain = chain(error);
    match kind {
        ErrorKind::Corrupt | ErrorKind::Bug => Problem::from_kind(kind, chain).into(),
        _ => {
            tracing::warn!(error = chain, "the object store refuses");
            unavailable(
                "STORE_UNAVAILABLE",
                "the object store is not available",
                "the object store does not answer as it should",
            )
            .into()
        }
    }
}

impl From<LogError> for Answer {
    fn from(error: LogError) -> Self {
        tracing::warn!(error = chain(&error), "the log refuses");
        log_unavailable("the log does not answer as it should").into()
    }
}

fn log_unavailable(detail: &str) -> Problem {
    unavailable("LOG_UNAVAILABLE", "the log is not available", detail)
}

pub(crate) fn table_replaced(id: &TableId) -> Problem {
    Problem::new(409, "TABLE_REPLACED", "the table is another one by now")
        .detail(format!(
            "table {} was created anew, or given another topic, meanwhile",
            id.table
        ))
        .hint("nothing was written: send it again")
}

/// What became of the records of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    NotWritten,
    /// They are in the topic.
    Written,
    /// The log has not said yet, or never will.
    Unknown,
}

/// A topic that is not the table's.
pub(crate) fn of_topic(changed: &TopicChanged, fate: Fate) -> Answer {
    let (code, title) = match changed.fault {
        TopicFault::Missing | TopicFault::Replaced => (
            codes::TOPIC_REPLACED,
            "the table's topic is gone or another one",
        ),
        TopicFault::PartitionsMissing | TopicFault::PartitionsAdded => (
            codes::TOPIC_PARTITIONS_CHANGED,
            "the topic's partitions are not what the table can take",
        ),
        TopicFault::CutBack => (
            codes::LOG_CUT_BACK,
            "the topic ends before what the table has of it",
        ),
    };
    let became = match fate {
        Fate::Written => {
            "the records of this request are in the topic as it is now, not in the table"
        }
        Fate::NotWritten => "nothing was written",
        Fate::Unknown => {
            "the records of this request were not acknowledged, and what is in that topic is not \
             in the table"
        }
    };
    Problem::new(409, code, title)
        .detail(format!("{}; {became}", changed.found))
        .hint(changed.resolve.clone())
        .into()
}

/// A topic whose settings keep the table's records out, however often they are sent.
fn refused(id: &TableId, topic: &str, because: RefusedFor, reason: &str) -> Problem {
    let (what, cure) = of_refusal(topic, because);
    Problem::new(
        409,
        codes::TOPIC_REFUSES,
        "the table's topic does not take its records",
    )
    .detail(format!(
        "topic {topic} of table {} refuses the records ({reason}): {what}; what was refused is not \
         in the table",
        id.table
    ))
    .hint(format!("{cure}, then send the records again"))
}

/// What a topic does not take of the records, and what lets it take them.
pub(crate) fn of_refusal(topic: &str, because: RefusedFor) -> (&'static str, String) {
    match because {
        RefusedFor::Record => (
            "they may have no key, which a compacted topic asks for",
            format!(
                "set cleanup.policy=delete on topic {topic} (kafka-configs --alter --topic {topic} \
                 --add-config cleanup.policy=delete)"
            ),
        ),
        RefusedFor::Timestamp => (
            "they have the time of their writing by the gateway's clock, which the topic holds to \
             be too far off",
            format!(
                "compare the clocks of the gateway and of the log's brokers, or raise \
                 message.timestamp.before.max.ms and message.timestamp.after.max.ms of topic \
                 {topic}"
            ),
        ),
        RefusedFor::Policy => (
            "a policy of the log keeps them out",
            format!("ask whoever runs the log which policy is meant, let it except topic {topic}"),
        ),
    }
}

/// A body that was checked, and did not get through to the log for sure.
pub(crate) fn of_produce(id: &TableId, error: &ProduceError) -> Answer {
    tracing::warn!(table = %id, error = chain(error), "records were not acknowledged");
    match error {
        ProduceError::Nothing(LogError::Refused {
            topic,
            because,
            reason,
        })
        | ProduceError::Unknown(LogError::Refused {
            topic,
            because,
            reason,
        }) => refused(id, topic, *because, reason).into(),
        ProduceError::Nothing(_) => log_unavailable("the log does not take the records")
            .hint("nothing was written: send it again later")
            .into(),
        ProduceError::Unknown(_) | ProduceError::Silent(_) | ProduceError::SpoolCut(_) => {
            log_unavailable("the log did not acknowledge all records: the outcome is unknown")
                .hint("some or all records may be in the table: sending again may repeat them")
                .into()
        }
        ProduceError::Spool(error) => body::of_spool(error).into(),
    }
}
