//! What can go wrong with the log.

use std::time::Duration;

use tidelake_core::{Bucket, ErrorKind};

/// A failure of the log or of a request to it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error("kafka client setting {name}: {reason}")]
    Setting { name: String, reason: String },
    #[error("the log does not answer ({what}): {reason}")]
    Unavailable { what: String, reason: String },
    #[error("topic {0} does not exist")]
    NoTopic(String),
    #[error("the message of {bytes} bytes is larger than topic {topic} takes")]
    MessageTooLarge { topic: String, bytes: usize },
    /// The message is not in the log, nor will it be as long as the topic's settings stay.
    #[error("topic {topic} does not take the message: {reason}")]
    Refused {
        topic: String,
        because: RefusedFor,
        reason: String,
    },
    #[error("the producer's queue is full")]
    QueueFull,
    /// The message may or may not be in the log.
    #[error("no acknowledgement for a message to {topic}/{bucket}: {reason}")]
    Unacknowledged {
        topic: String,
        bucket: Bucket,
        reason: String,
    },
    /// Retention has overrun the offset, or the log was cut back or made again. `start` and `end`
    /// are the range that is there; -1 where the log did not say.
    #[error(
        "offset {offset} of {topic}/{bucket} is not in the log: expected {start} to {end}; \
         retention has overrun it, or the log was cut back or made again"
    )]
    OffsetOutOfRange {
        topic: String,
        bucket: Bucket,
        offset: i64,
        start: i64,
        end: i64,
    },
    /// What the log holds there can't be read, or contradicts itself.
    #[error(
        "{topic}/{bucket} is damaged at offset {offset}: {reason}; expected a record batch that \
         can be read: restore it, or move the table past it"
    )]
    Damaged {
        topic: String,
        bucket: Bucket,
        offset: i64,
        reason: String,
    },
    /// Goes on by itself once the log answers.
    #[error(
        "{topic}/{bucket} stands still at offset {offset}: nothing was delivered for \
         {waited:?} although the log goes on to {end}"
    )]
    Stalled {
        topic: String,
        bucket: Bucket,
        offset: i64,
        end: i64,
        waited: Duration,
    },
    #[error("not allowed by the log: {0}")]
    Denied(String),
    #[error("this group member was replaced by another with the same instance id: {0}")]
    Fenced(String),
    #[error("the log client failed: {0}")]
    Client(String),
    #[error("the log client is closed")]
    Closed,
}

/// What of a message a topic does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedFor {
    /// The record: a compacted topic takes none that has no key.
    Record,
    /// Its timestamp, which is too far from the time by the log's clock.
    Timestamp,
    /// A policy of whoever runs the log.
    Policy,
}

impl LogError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } | Self::Refused { .. } => ErrorKind::Invalid,
            Self::NoTopic(_) => ErrorKind::NotFound,
            Self::MessageTooLarge { .. } => ErrorKind::TooLarge,
            Self::Denied(_) => ErrorKind::Denied,
            Self::Fenced(_) => ErrorKind::Fenced,
            Self::Closed => ErrorKind::Closed,
            Self::OffsetOutOfRange { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Client(_) => ErrorKind::Bug,
            Self::Unavailable { .. }
            | Self::QueueFull
            | Self::Unacknowledged { .. }
            | Self::Stalled { .. } => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn unavailable(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Unavailable {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}
