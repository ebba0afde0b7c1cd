//! Whether the log behind a table is still the one that the table was filled from.
//!
//! A watermark speaks of one incarnation of one topic. Behind it lies a table's tail only as long
//! as the topic is that one: another's rows would be shown as the table's, and some of them
//! skipped. The flusher stops such a table by the same rules; what is committed can be read all the time.
//!
//! Invariants:
//! - what the log said of a topic counts for [`TOPIC_AGE_MAX`], and not at all once its ends went
//!   back; a query that waited for longer asks again before it shows what came;
//! - an append table's tail reaches over all partitions that its topic has; an upsert table's
//!   over its buckets, and records in any other partition refuse the answer.

use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::{FoundTopic, TableEntry, TableMode, TopicChanged, TopicFault};
use tidelake_core::{Bucket, ErrorKind, Offset, Watermark};
use tidelake_log::TopicInfo;
use tidelake_service::codes;
use tokio::time::Instant;

use super::TailLog;
use crate::error::QueryError;
use crate::moment;

/// A topic that is queried without a break is described once in this time.
pub(super) const TOPIC_AGE_MAX: Duration = Duration::from_secs(1);

/// What was learned of a followed table's topic.
#[derive(Debug, Default)]
pub(super) struct TopicSeen {
    last: Mutex<Option<Last>>,
}

#[derive(Debug, Clone)]
struct Last {
    at: Instant,
    info: TopicInfo,
    ends: Vec<(Bucket, Offset)>,
}

impl TopicSeen {
    /// The ends of all partitions that belong to the table.
    ///
    /// # Errors
    /// [`QueryError::TopicChanged`] where the topic is not the table's any more.
    pub(super) async fn ends(
        &self,
        source: &TailLog,
        entry: &TableEntry,
    ) -> Result<Vec<(Bucket, Offset)>, QueryError> {
        let last = self.last.lock().clone();
        if let Some(last) = &last
            && moment::age(last.at) < TOPIC_AGE_MAX
        {
            match source.ends(&entry.topic, last.info.buckets).await {
                Ok(ends) if !went_back(&last.ends, &ends) => {
                    self.note(last.at, last.info, &ends);
                    return of_table(entry, last.info, ends);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        *self.last.lock() = None;
        let at = moment::now();
        let buckets = last.map_or(entry.buckets, |last| last.info.buckets);
        let (info, ends) = ask(source, entry, buckets).await?;
        self.note(at, info, &ends);
        of_table(entry, info, ends)
    }

    fn note(&self, at: Instant, info: TopicInfo, ends: &[(Bucket, Offset)]) {
        let ends = ends.to_vec();
        *self.last.lock() = Some(Last { at, info, ends });
    }
}

/// The ends of the table's partitions, with nothing known of its topic.
pub(crate) async fn look(
    source: &TailLog,
    entry: &TableEntry,
) -> Result<Vec<(Bucket, Offset)>, QueryError> {
    let (info, ends) = ask(source, entry, entry.buckets).await?;
    of_table(entry, info, ends)
}

/// What the topic is, and its ends: at once where it has as many partitions as are believed.
async fn ask(
    source: &TailLog,
    entry: &TableEntry,
    buckets: u32,
) -> Result<(TopicInfo, Vec<(Bucket, Offset)>), QueryError> {
    let topic = &entry.topic;
    let (found, ends) = tokio::join!(source.describe(topic), source.ends(topic, buckets));
    let info = check(entry, found?)?;
    let ends = match info.buckets == buckets {
        true => ends?,
        false => source.ends(topic, info.buckets).await?,
    };
    Ok((info, ends))
}

/// True where a bucket ends before it did.
fn went_back(before: &[(Bucket, Offset)], now: &[(Bucket, Offset)]) -> bool {
    let now_of = |bucket| now.iter().find(|(found, _)| *found == bucket);
    before
        .iter()
        .any(|(bucket, end)| now_of(*bucket).is_none_or(|(_, now)| now < end))
}

fn check(entry: &TableEntry, found: Option<TopicInfo>) -> Result<TopicInfo, QueryError> {
    let topic = found.map(|found| FoundTopic {
        id: found.id,
        partitions: found.buckets,
    });
    entry.check_topic(topic).map_err(changed)?;
    // One that is not there was refused.
    found.ok_or_else(|| tidelake_log::LogError::NoTopic(entry.topic.clone()).into())
}

fn of_table(
    entry: &TableEntry,
    info: TopicInfo,
    mut ends: Vec<(Bucket, Offset)>,
) -> Result<Vec<(Bucket, Offset)>, QueryError> {
    if entry.mode == TableMode::Append {
        return Ok(ends);
    }
    entry
        .check_added(info.buckets, ends.iter().copied())
        .map_err(changed)?;
    ends.retain(|(bucket, _)| bucket.0 < entry.buckets);
    Ok(ends)
}

/// Refuses a log that ends before a watermark. Its ends were asked for after the watermark was
/// read.
pub(super) fn check_end(
    entry: &TableEntry,
    bucket: Bucket,
    end: Offset,
    watermark: Watermark,
) -> Result<(), QueryError> {
    entry.check_end(bucket, end, watermark).map_err(changed)
}

/// What was found and the commands that resolve it.
fn changed(changed: TopicChanged) -> QueryError {
    let code = match changed.fault {
        TopicFault::Missing | TopicFault::Replaced => codes::TOPIC_REPLACED,
        TopicFault::PartitionsMissing | TopicFault::PartitionsAdded => {
            codes::TOPIC_PARTITIONS_CHANGED
        }
        TopicFault::CutBack => codes::LOG_CUT_BACK,
    };
    let found = changed.to_string();
    QueryError::TopicChanged { code, found }
}
