//! Whether the log behind a table is still the one that the table was filled from.
//!
//! A watermark speaks of one incarnation of one topic. Behind it lies a table's tail only as long
//! as the topic is that one: another's rows would be shown as the table's, and some of them
//! skipped. The flusher stops such a table by the same rules; what is committed can be read all the time.
//!
//! Invariants:
//! - what the log said of a topic counts for [`TOPIC_AGE_MAX`], and not at all once its ends went
//!   back;
//! - an append table's tail reaches over all partitions that its topic has; an upsert table's
//!   over its buckets, and records in any other partition refuse the answer.

use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{Bucket, ErrorKind, Offset, Watermark};
use tidelake_log::TopicInfo;
use tidelake_service::codes::{
    LOG_CUT_BACK as CUT_BACK, TOPIC_PARTITIONS_CHANGED as PARTITIONS, TOPIC_REPLACED as REPLACED,
};
use tokio::time::Instant;

use super::TailLog;
use crate::error::QueryError;
use crate::moment;

/// A topic that is queried without a break is described once in this time.
const TOPIC_AGE_MAX: Duration = Duration::from_secs(1);

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
    let (id, topic) = (&entry.id, &entry.topic);
    let Some(found) = found else {
        let text = format!("table {id}: its topic {topic} is not there; its rows are kept");
        return Err(changed(entry, REPLACED, text));
    };
    if found.id != entry.topic_id {
        let text = format!(
            "table {id}: topic {topic} was deleted and made again (its id is {}, the table was \
             filled from {})",
            found.id, entry.topic_id
        );
        return Err(changed(entry, REPLACED, text));
    }
    if found.buckets < entry.buckets {
        let text = format!(
            "table {id}: topic {topic} has {} partitions, the table has {}",
            found.buckets, entry.buckets
        );
        return Err(changed(entry, PARTITIONS, text));
    }
    Ok(found)
}

fn of_table(
    entry: &TableEntry,
    info: TopicInfo,
    mut ends: Vec<(Bucket, Offset)>,
) -> Result<Vec<(Bucket, Offset)>, QueryError> {
    if entry.mode == TableMode::Append {
        return Ok(ends);
    }
    let added = |(bucket, _): &&(Bucket, Offset)| bucket.0 >= entry.buckets;
    if let Some((bucket, end)) = ends.iter().filter(added).find(|(_, end)| end.0 > 0) {
        let text = format!(
            "table {} bucket {bucket}: topic {} was given more partitions ({}) than the table has \
             buckets ({}), so keys would live in two; {end} records of this partition wait in \
             the log",
            entry.id, entry.topic, info.buckets, entry.buckets
        );
        return Err(changed(entry, PARTITIONS, text));
    }
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
    if end.0 >= watermark.0 {
        return Ok(());
    }
    let text = format!(
        "table {} bucket {bucket}: the log ends at {end}, before the table's watermark \
         {watermark}: it was cut back",
        entry.id
    );
    Err(changed(entry, CUT_BACK, text))
}

/// What was found and the commands that resolve it.
fn changed(entry: &TableEntry, code: &'static str, found: String) -> QueryError {
    // A dead-letter table comes and goes with its table.
    let of = entry.id.table.dead_letters_of();
    let table = of.as_ref().unwrap_or(&entry.id.table);
    let found = format!(
        "{found}: keep what you need of it (`tidelake query \"SELECT * FROM {table}\" \
         --consistency committed -o json`), then run `tidelake table drop {table}` and \
         `tidelake table create {table} …`, and load it again"
    );
    QueryError::TopicChanged { code, found }
}
