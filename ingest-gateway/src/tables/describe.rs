//! A table as clients see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidelake_catalog::TableMode;
use tidelake_core::{Bucket, TableName, TenantId, TopicId, Watermark};
use tidelake_manifest::Snapshot;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use super::live::LiveTable;
use crate::Gateway;
use crate::problem::Answer;

#[derive(Debug, Serialize)]
pub(crate) struct Description {
    name: TableName,
    tenant: TenantId,
    mode: TableMode,
    /// The key's columns in key order; empty for append tables.
    primary_key: Vec<String>,
    buckets: u32,
    topic: String,
    topic_id: TopicId,
    schema: TableSchema,
    /// What columns are called in files, by id, where that differs: packed messages go by it.
    #[serde(skip_serializing_if = "PhysicalNames::is_empty")]
    physical_names: PhysicalNames,
    properties: BTreeMap<String, String>,
    created_ms: i64,
    version: u64,
    rows: u64,
    files: usize,
    bytes: u64,
    watermarks: BTreeMap<Bucket, Watermark>,
    /// Null while the log does not answer.
    end_offsets: Option<BTreeMap<Bucket, Watermark>>,
    /// Messages in the log that the table does not cover yet; null while the log does not answer, or
    /// has another topic in its place.
    lag_records: Option<i64>,
    /// Why the table takes no records: its topic is another by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_changed: Option<TopicNote>,
    /// The folder below the store's root.
    location: String,
}

/// A topic that is not the table's, as writes are told.
#[derive(Debug, Serialize)]
struct TopicNote {
    code: &'static str,
    detail: String,
    hint: Option<String>,
}

pub(super) async fn describe_one(
    gateway: &Gateway,
    table: &Arc<LiveTable>,
) -> Result<Description, Answer> {
    // First, so that the partitions that the topic has are known.
    let changed = topic_note(gateway, table).await;
    let mut description = describe_within(gateway, table, Duration::ZERO).await?;
    description.note_topic(changed);
    Ok(description)
}

/// As of a moment ago. The topic is looked at where it does not say how far it reaches: one that is
/// not there is in nobody's hands, and no flusher names its table.
pub(super) async fn describe_for_list(
    gateway: &Gateway,
    table: &Arc<LiveTable>,
    age_max: Duration,
) -> Result<Description, Answer> {
    let mut description = describe_within(gateway, table, age_max).await?;
    if description.end_offsets.is_none() {
        description.note_topic(topic_note(gateway, table).await);
    }
    Ok(description)
}

impl Description {
    fn note_topic(&mut self, changed: Option<TopicNote>) {
        if changed.is_some() {
            self.lag_records = None;
            self.topic_changed = changed;
        }
    }
}

async fn topic_note(gateway: &Gateway, table: &Arc<LiveTable>) -> Option<TopicNote> {
    let Answer(problem) = gateway.tables.check_topic(table).await.err()?;
    Some(TopicNote {
        code: problem.code,
        detail: problem.detail,
        hint: problem.hint,
    })
}

async fn describe_within(
    gateway: &Gateway,
    table: &LiveTable,
    age_max: Duration,
) -> Result<Description, Answer> {
    let snapshot = gateway.tables.snapshot(table, age_max).await?;
    let end_offsets = match gateway.tables.end_offsets(table).await {
        Ok(ends) => Some(ends),
        Err(Answer(problem)) => {
            tracing::warn!(table = %table.entry.id, detail = problem.detail, "no end offsets");
            None
        }
    };
    Ok(description(table, &snapshot, end_offsets))
}

fn description(
    table: &LiveTable,
    snapshot: &Snapshot,
    end_offsets: Option<BTreeMap<Bucket, Watermark>>,
) -> Description {
    let entry = &table.entry;
    let watermarks = table.watermarks_of(table.buckets_read(), snapshot);
    let lag = |ends: &BTreeMap<Bucket, Watermark>| {
        let mark = |bucket| watermarks.get(bucket).copied().unwrap_or_default();
        ends.iter()
            .map(|(bucket, end)| (end.0 - mark(bucket).0).max(0))
            .sum()
    };
    let key = snapshot.schema().identifier_fields();
    Description {
        name: entry.id.table.clone(),
        tenant: entry.id.tenant.clone(),
        mode: entry.mode,
        primary_key: key.iter().map(|field| field.name.clone()).collect(),
        buckets: entry.buckets,
        topic: entry.topic.clone(),
        topic_id: entry.topic_id,
        schema: TableSchema::clone(snapshot.schema()),
        physical_names: PhysicalNames::clone(snapshot.physical_names()),
        properties: entry.properties.clone(),
        created_ms: entry.created_ms,
        version: snapshot.version().0,
        rows: snapshot.total_rows(),
        files: snapshot.file_count(),
        bytes: snapshot.total_bytes(),
        lag_records: end_offsets.as_ref().map(lag),
        topic_changed: None,
        watermarks,
        end_offsets,
        location: entry.location(),
    }
}
