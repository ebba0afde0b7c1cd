//! What stops a bucket, under which name, and when it is tried again: the one table of it.
//!
//! Whoever meets a failure says what kind it was ([`Cause`]) and what a person needs to know
//! ([`Trouble`]); nobody else decides about retries. Invariant: there is no cause without a retry,
//! so a cause that goes away by itself, or that somebody mends, never needs a restart.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::ErrorKind;

/// Time since the loop began. The state machines take it as an argument and never ask a clock.
pub(crate) type Moment = Duration;

/// Why a bucket, or a table, does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The catalog has no table for the topic: it is being created, or was dropped.
    NoTable,
    /// The same, where others may be members of the group: a table of theirs would starve.
    UnknownTable,
    /// The object store, the catalog or the log does not answer.
    Unavailable,
    /// The table or the topic was not what it had been a moment before.
    Unsettled,
    /// The log goes on, and nothing of it arrives.
    LogStalled,
    Denied,
    /// The catalog has the table, the log has no such topic.
    TopicMissing,
    /// The table's topic is outside of the prefix whose topics are read.
    TopicElsewhere,
    /// The topic of that name is another than the one the table was filled from.
    TopicReplaced,
    /// The log ends before the watermark.
    LogCutBack,
    /// The log begins after the watermark.
    RetentionOverrun,
    /// The topic has partitions that an upsert table can't have.
    PartitionsAdded,
    PartitionsMissing,
    /// The table has rows of the bucket but no watermark.
    WatermarkLost,
    /// What the log delivered can't be what was written.
    LogDamaged,
    /// Stored bytes contradict themselves, or a listing had a gap.
    Corrupt,
    /// The log takes a re-publication or a dead letter under no circumstances.
    LogRefused,
    /// Commits fail again and again; the rows wait in memory.
    FlushFailing,
    /// Commits fail, and the memory of the rows was needed elsewhere: they are read again.
    GaveWay,
    /// The table changed so that the rows can't be committed any more.
    Unfit,
    Bug,
}

impl Cause {
    /// The stable word of metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoTable => "no_table",
            Self::UnknownTable => "unknown_table",
            Self::Unavailable => "unavailable",
            Self::Unsettled => "unsettled",
            Self::LogStalled => "log_stalled",
            Self::Denied => "denied",
            Self::TopicMissing => "topic_missing",
            Self::TopicElsewhere => "topic_elsewhere",
            Self::TopicReplaced => "topic_replaced",
            Self::LogCutBack => "log_cut_back",
            Self::RetentionOverrun => "retention_overrun",
            Self::PartitionsAdded => "partitions_added",
            Self::PartitionsMissing => "partitions_missing",
            Self::WatermarkLost => "watermark_lost",
            Self::LogDamaged => "log_damaged",
            Self::Corrupt => "corrupt",
            Self::LogRefused => "log_refused",
            Self::FlushFailing => "flush_failing",
            Self::GaveWay => "gave_way",
            Self::Unfit => "unfit",
            Self::Bug => "bug",
        }
    }

    /// The wait before try `tries` (from 0): it doubles from the first to the longest.
    pub(crate) fn retry(self, tries: u32) -> Duration {
        let (first_ms, longest_ms) = match self {
            Self::NoTable | Self::UnknownTable | Self::Unavailable | Self::Unsettled => {
                (1_000, 10_000)
            }
            // One look at the log and the catalog: cheap, and mended by a person.
            Self::Denied
            | Self::LogStalled
            | Self::TopicMissing
            | Self::TopicElsewhere
            | Self::TopicReplaced
            | Self::LogCutBack
            | Self::RetentionOverrun
            | Self::PartitionsAdded
            | Self::PartitionsMissing
            | Self::WatermarkLost => (1_000, 30_000),
            // Each try reads a share of the memory at most.
            Self::GaveWay => (2_000, 10_000),
            // Each try reads rows again.
            Self::LogDamaged
            | Self::Corrupt
            | Self::LogRefused
            | Self::FlushFailing
            | Self::Unfit
            | Self::Bug => (2_000, 300_000),
        };
        let factor = 1u64 << tries.min(16);
        Duration::from_millis((first_ms * factor).min(longest_ms))
    }

    /// True where people are told after `tries` failures in a row (from 1). What passes by itself
    /// gets a few seconds.
    pub(crate) fn is_loud(self, tries: u32) -> bool {
        match self {
            Self::NoTable => false,
            // A minute: a topic is made before its table, and outlives it.
            Self::UnknownTable => tries >= 10,
            Self::Unavailable | Self::Unsettled => tries >= 3,
            _ => true,
        }
    }

    /// True where the catalog has no such table.
    pub(crate) fn is_no_table(self) -> bool {
        matches!(self, Self::NoTable | Self::UnknownTable)
    }

    /// True where what the table's watermark says of the log can't be relied upon: records may be
    /// uncovered although the numbers look even.
    pub(crate) fn doubts_watermark(self) -> bool {
        matches!(
            self,
            Self::TopicReplaced
                | Self::TopicMissing
                | Self::LogCutBack
                | Self::RetentionOverrun
                | Self::WatermarkLost
                | Self::LogDamaged
        )
    }

    /// True where only a commit shows that it has passed; opening the table shows nothing.
    pub(crate) fn outlives_opening(self) -> bool {
        matches!(
            self,
            // What is damaged may be read by a commit alone: a deletion vector, a key index.
            Self::Corrupt
                | Self::LogRefused
                | Self::FlushFailing
                | Self::GaveWay
                | Self::Unfit
                | Self::Bug
        )
    }
}

/// A cause and what a person needs to know of it: what was found, what was expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub cause: Cause,
    pub text: Arc<str>,
}

impl Trouble {
    pub(crate) fn new(cause: Cause, text: impl Into<Arc<str>>) -> Self {
        Self {
            cause,
            text: text.into(),
        }
    }

    /// The trouble behind an error of the store, the catalog or the table engine.
    pub(crate) fn of(kind: ErrorKind, error: &(dyn std::error::Error + 'static)) -> Self {
        let cause = match kind {
            ErrorKind::NotFound => Cause::NoTable,
            ErrorKind::Unavailable | ErrorKind::TooLarge | ErrorKind::Closed => Cause::Unavailable,
            ErrorKind::Denied => Cause::Denied,
            ErrorKind::Corrupt => Cause::Corrupt,
            ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Fenced => Cause::Unfit,
            ErrorKind::Bug => Cause::Bug,
        };
        Self::new(cause, chain(error))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.cause.as_str())
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Cause; 20] = [
        Cause::NoTable,
        Cause::UnknownTable,
        Cause::Unavailable,
        Cause::Unsettled,
        Cause::LogStalled,
        Cause::Denied,
        Cause::TopicMissing,
        Cause::TopicReplaced,
        Cause::LogCutBack,
        Cause::RetentionOverrun,
        Cause::PartitionsAdded,
        Cause::PartitionsMissing,
        Cause::WatermarkLost,
        Cause::LogDamaged,
        Cause::Corrupt,
        Cause::LogRefused,
        Cause::FlushFailing,
        Cause::GaveWay,
        Cause::Unfit,
        Cause::Bug,
    ];

    #[test]
    fn every_cause_is_tried_again_within_minutes_and_not_in_a_hot_loop() {
        for cause in ALL {
            let waits: Vec<_> = (0..40).map(|tries| cause.retry(tries)).collect();
            assert!(waits[0] >= Duration::from_secs(1), "{cause:?}");
            assert!(waits.is_sorted(), "{cause:?}");
            assert!(waits[39] <= Duration::from_secs(300), "{cause:?}");
        }
    }

    #[test]
    fn a_topic_of_no_table_is_told_after_a_minute() {
        let cause = Cause::UnknownTable;
        let told = (1u32..).find(|tries| cause.is_loud(*tries)).unwrap();
        let until_then: Duration = (0..told - 1).map(|tries| cause.retry(tries)).sum();
        let minute = Duration::from_secs(60);
        assert!(
            until_then >= minute && until_then < minute * 2,
            "{until_then:?}"
        );
        assert!((1..99).all(|tries| !Cause::NoTable.is_loud(tries)));
    }

    #[test]
    fn every_cause_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), ALL.len());
    }
}
