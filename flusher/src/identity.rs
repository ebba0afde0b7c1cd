//! Whether the log is still the one that a table was filled from: a pure comparison.
//!
//! A watermark speaks of one incarnation of one topic. Where the topic was made anew, cut back, or
//! overrun by its retention, going on would pass acknowledged records over in silence; where it got
//! more partitions, keys would live in two buckets. Each of these stops the bucket, and the text
//! says what was found, what was expected, and the commands that resolve it.

use std::collections::BTreeMap;

use tidelake_catalog::{FoundTopic, TableEntry, TableMode, TopicChanged, TopicFault};
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_log::TopicInfo;
use tidelake_manifest::Snapshot;

use crate::policy::{Cause, Trouble};

/// What the log says of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicState {
    /// None where there is no such topic.
    pub info: Option<TopicInfo>,
    pub starts: BTreeMap<Bucket, Offset>,
    /// Asked for after the table's log was read: a watermark never runs ahead of them.
    pub ends: BTreeMap<Bucket, Offset>,
}

/// What the table says of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub bucket: Bucket,
    pub watermark: Option<Watermark>,
    /// Live files of ours hold rows of the bucket, and no transaction tells how far they reach.
    pub lost: bool,
}

impl Mark {
    pub(crate) fn of(entry: &TableEntry, snapshot: &Snapshot, bucket: Bucket) -> Self {
        let watermark = snapshot.watermark(&entry.topic_id, bucket);
        Self {
            bucket,
            watermark,
            lost: watermark.is_none() && has_orphaned_rows(snapshot, bucket),
        }
    }
}

/// True where files of ours have rows of the bucket while no incarnation of the topic has a
/// watermark for it: somebody removed the table's transactions, and the log would be read from its
/// beginning.
fn has_orphaned_rows(snapshot: &Snapshot, bucket: Bucket) -> bool {
    let suffix = format!("/{bucket}");
    let known = |app_id: &str| {
        let rest = app_id
            .strip_prefix("tidelake/")
            .and_then(|rest| rest.strip_suffix(&suffix));
        rest.is_some_and(|topic| !topic.contains('/'))
    };
    if snapshot.txns().any(|txn| known(&txn.app_id)) {
        return false;
    }
    snapshot.files().any(|file| {
        file.buckets()
            .is_some_and(|buckets| buckets.contains(&bucket))
    })
}

/// Whether the topic as a whole is the table's.
pub(crate) fn check_topic(entry: &TableEntry, found: Option<&TopicInfo>) -> Result<(), Trouble> {
    let found = found.map(|found| FoundTopic {
        id: found.id,
        partitions: found.buckets,
    });
    entry
        .check_topic(found)
        .map_err(|changed| trouble(&changed))
}

fn trouble(changed: &TopicChanged) -> Trouble {
    let cause = match changed.fault {
        TopicFault::Missing => Cause::TopicMissing,
        TopicFault::Replaced => Cause::TopicReplaced,
        TopicFault::PartitionsMissing => Cause::PartitionsMissing,
        TopicFault::PartitionsAdded => Cause::PartitionsAdded,
        TopicFault::CutBack => Cause::LogCutBack,
    };
    Trouble::new(cause, changed.to_string())
}

/// Whether a bucket can be consumed from its watermark.
pub(crate) fn check_bucket(
    entry: &TableEntry,
    topic: &TopicState,
    mark: &Mark,
) -> Result<(), Trouble> {
    let (id, bucket) = (&entry.id, mark.bucket);
    let at = format!("table {id} bucket {bucket}");
    if bucket.0 >= entry.buckets && entry.mode == TableMode::Upsert {
        let partitions = topic.info.map_or(0, |info| info.buckets);
        let waiting = "what is written to this partition waits in the log";
        return Err(trouble(&entry.added(bucket, partitions, waiting)));
    }
    if mark.lost {
        let text = format!(
            "{at}: the table has rows of it but no watermark (expected a transaction \
             tidelake/{}/{bucket} in its log); reading from the log's beginning would double \
             them: {}",
            entry.topic_id,
            entry.begin_anew()
        );
        return Err(Trouble::new(Cause::WatermarkLost, text));
    }
    let watermark = mark.watermark.unwrap_or_default();
    if let Some(end) = topic.ends.get(&bucket) {
        let checked = entry.check_end(bucket, *end, watermark);
        checked.map_err(|changed| trouble(&changed))?;
    }
    if let Some(start) = topic.starts.get(&bucket)
        && start.0 > watermark.0
    {
        let text = format!(
            "{at}: the log begins at {start}, after the table's watermark {watermark}: retention \
             removed {} records that no commit covers: {}",
            start.0 - watermark.0,
            entry.begin_anew()
        );
        return Err(Trouble::new(Cause::RetentionOverrun, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
