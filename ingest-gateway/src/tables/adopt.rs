//! `POST /v1/tables/{t}/adopt-topic`: a table goes on with the topic that is in the place of the one
//! that it was filled from.
//!
//! ```text
//!  topics looked at ─► ADOPT TOPIC: one commit of the table's log ─► catalog: adopt_topic
//! ```
//! Watermarks are kept by the topic's id, so the table begins at the beginning of the topic that it
//! adopts, and none of its records counts twice or is passed over. What was in the old topic and in
//! no commit is gone with it. The commit is what others can prove the change by, and it is a fence:
//! - it moves the watermarks of the old topic, so a flush of an upsert table that still hangs loses
//!   against it ([`tidelake_manifest::Conflict::WatermarkMoved`]): its rows are older than those of
//!   the new topic, and would supersede them. Rows of an append table supersede none: such a flush
//!   may come late.
//! - it puts the new topic's watermarks behind what retention removed there before.
//!
//! Dead letters are named by partition and offset: one of the new topic takes the place of one of the
//! old topic that stood there, in the dead-letter table's newest version.
//!
//! A crash before the catalog is told leaves the table stopped as before; asking again goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tidelake_catalog::{TableEntry, TableMode, Topics};
use tidelake_core::{Bucket, Offset, TableId, TopicId, Watermark};
use tidelake_log::{LogError, TopicInfo, TopicSpec};
use tidelake_manifest::{CommitOutcome, MarkMove, Snapshot, Transaction, Txn, app_id};
use tidelake_service::Problem;

use super::create::retention;
use super::died;
use super::live::Tables;
use crate::Gateway;
use crate::problem::{self, Answer};
use crate::request::Table;

/// Flushes that the fence may lose against.
const FENCE_ATTEMPTS_MAX: u32 = 20;

#[derive(Debug, Serialize)]
pub(crate) struct Adopted {
    name: String,
    topic: String,
    /// The incarnation that the table is filled from.
    topic_id: TopicId,
    /// The one that it was filled from; none where it is the same.
    left_topic_id: Option<TopicId>,
    /// Where the table begins in it.
    begins: BTreeMap<Bucket, Watermark>,
}

/// See the module.
pub(crate) async fn adopt_topic(
    State(gateway): State<Gateway>,
    Table(id): Table,
) -> Result<Json<Adopted>, Answer> {
    gateway.tables.current(&id).await?.check_own()?;
    let tables = Arc::clone(&gateway.tables);
    // The rest goes on even if the client goes away.
    let adopted = tokio::spawn(async move { tables.adopt_topic(&id).await }).await;
    Ok(Json(adopted.map_err(died)??))
}

impl Tables {
    async fn adopt_topic(&self, id: &TableId) -> Result<Adopted, Answer> {
        let entry = self.catalog.find_fresh(id).await?;
        let entry = entry.ok_or_else(|| problem::no_table(id.table.as_str()))?;
        let retention_ms = retention(&entry.properties, self.settings())?;
        let found = self.topic_to_adopt(&entry, retention_ms).await?;
        let dead_letters = match entry.dead_letters() {
            Some(of) => {
                let found = self.topic_to_adopt(&of, retention_ms).await?;
                Some((of, found))
            }
            None => None,
        };
        let to = Topics {
            table: found.id,
            dead_letters: dead_letters.as_ref().map(|(_, found)| found.id),
        };
        let begins = self.leave_topic(&entry, found).await?;
        if let Some((of, found)) = &dead_letters {
            self.leave_topic(of, *found).await?;
        }
        if to != entry.topics() {
            let adopted = self.catalog.adopt_topic(&entry, to).await?;
            adopted.ok_or_else(|| problem::table_replaced(id))?;
            tracing::info!(table = %id, from = %entry.topic_id, to = %to.table, "topic adopted");
            self.forget(id);
            self.forget(&id.dead_letters());
        }
        Ok(Adopted {
            name: id.table.to_string(),
            topic: entry.topic.clone(),
            topic_id: to.table,
            left_topic_id: (to.table != entry.topic_id).then_some(entry.topic_id),
            begins,
        })
    }

    /// The topic of the table's name; made where there is none.
    async fn topic_to_adopt(
        &self,
        entry: &TableEntry,
        retention_ms: i64,
    ) -> Result<TopicInfo, Answer> {
        let topic = &entry.topic;
        let found = match self.log.describe(topic).await? {
            Some(found) => found,
            None => {
                let spec = TopicSpec {
                    name: topic.clone(),
                    buckets: entry.buckets,
                    retention_ms: Some(retention_ms),
                    config: BTreeMap::new(),
                };
                self.log.create_topic(&spec).await?;
                let made = self.log.describe(topic).await?;
                made.ok_or_else(|| LogError::NoTopic(topic.clone()))?
            }
        };
        let fits = match entry.mode {
            TableMode::Append => found.buckets >= entry.buckets,
            TableMode::Upsert => found.buckets == entry.buckets,
        };
        if found.id == entry.topic_id || fits {
            return Ok(found);
        }
        let title = "the topic's partitions are not what the table can take";
        Err(Problem::new(409, "TOPIC_PARTITIONS_CHANGED", title)
            .detail(format!(
                "topic {topic} has {} partitions, and table {} was made with {} buckets: records \
                 of a key would live in two",
                found.buckets, entry.id, entry.buckets
            ))
            .hint(format!(
                "delete the topic with a Kafka tool if nothing needs it, and adopt again: the \
                 topic is made then; or {}",
                entry.begin_anew()
            ))
            .into())
    }

    /// Sees to it that nobody goes on with the topic that the table is filled from, and answers where
    /// the table begins in the other one.
    async fn leave_topic(
        &self,
        entry: &TableEntry,
        to: TopicInfo,
    ) -> Result<BTreeMap<Bucket, Watermark>, Answer> {
        let delta = self.delta(&entry.location());
        let all: Vec<_> = (0..to.buckets).map(Bucket).collect();
        for _ in 0..FENCE_ATTEMPTS_MAX {
            let base = delta.snapshot().await;
            let base = base.map_err(|error| problem::unreadable(&entry.id, &error))?;
            if base.is_dropped() {
                return Err(problem::no_table(entry.id.table.as_str()).into());
            }
            if to.id == entry.topic_id {
                return Ok(base.watermarks(&to.id));
            }
            let starts = self.log.start_offsets(&entry.topic, &all).await?;
            check_unknown(entry, &base, to, &starts)?;
            let begins = starts.iter().map(|(bucket, at)| (*bucket, Watermark(at.0)));
            let fence = fence(entry, &base, to, &starts, self.now_ms());
            match delta.commit(&base, fence).await {
                Ok(CommitOutcome::Committed { .. }) => return Ok(begins.collect()),
                // A flush came before.
                Ok(CommitOutcome::Conflicted(conflict)) => {
                    tracing::debug!(table = %entry.id, %conflict, "adopting again");
                }
                Err(error) => return Err(problem::unreadable(&entry.id, &error)),
            }
        }
        Err(problem::table_unavailable(format!(
            "table {}: others commit to it all the time",
            entry.id
        ))
        .into())
    }
}

/// Refuses a topic that the table was filled from before: its watermarks are no beginnings.
fn check_unknown(
    entry: &TableEntry,
    base: &Snapshot,
    to: TopicInfo,
    starts: &[(Bucket, Offset)],
) -> Result<(), Answer> {
    let known = starts.iter().find_map(|(bucket, start)| {
        let mark = base.watermark(&to.id, *bucket)?;
        (mark.0 > start.0).then_some((bucket, mark))
    });
    let Some((bucket, mark)) = known else {
        return Ok(());
    };
    let title = "the table was filled from this topic before";
    Err(Problem::new(409, "TOPIC_REPLACED", title)
        .detail(format!(
            "table {} has rows of topic {} (id {}) up to offset {mark} of partition {bucket}, and \
             left it since",
            entry.id, entry.topic, to.id
        ))
        .hint(entry.begin_anew())
        .into())
}

/// The commit by which a table leaves one topic for another.
fn fence(
    entry: &TableEntry,
    base: &Snapshot,
    to: TopicInfo,
    starts: &[(Bucket, Offset)],
    now_ms: i64,
) -> Transaction {
    let left = match entry.mode {
        TableMode::Append => 0,
        TableMode::Upsert => entry.buckets,
    };
    let left = (0..left).map(|bucket| {
        let mark = base.watermark(&entry.topic_id, Bucket(bucket));
        Txn {
            app_id: app_id(&entry.topic_id, Bucket(bucket)),
            // Whoever goes on from the mark finds another one.
            version: mark.unwrap_or_default().0 + 1,
            last_updated: Some(now_ms),
        }
    });
    let begins = starts.iter().filter_map(|(bucket, start)| {
        let mark = base.watermark(&to.id, *bucket).unwrap_or_default();
        (start.0 > mark.0).then_some(MarkMove {
            topic_id: to.id,
            bucket: *bucket,
            from: mark,
            to: Watermark(start.0),
        })
    });
    let parameters = [
        ("topic", entry.topic.clone()),
        ("from", entry.topic_id.to_string()),
        ("to", to.id.to_string()),
    ];
    Transaction {
        operation: "ADOPT TOPIC".into(),
        parameters: parameters
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        txns: left.collect(),
        marks: begins.collect(),
        ..Transaction::default()
    }
}
