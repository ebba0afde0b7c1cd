//! What a table is described by: its log, its topic, and whether that is still its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::{Committed, Description, TopicNote};
use tidelake_core::{Bucket, Watermark};
use tidelake_manifest::Snapshot;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use super::live::LiveTable;
use crate::Gateway;
use crate::problem::Answer;

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
    let committed = Committed {
        schema: TableSchema::clone(snapshot.schema()),
        physical_names: PhysicalNames::clone(snapshot.physical_names()),
        version: snapshot.version(),
        rows: snapshot.total_rows(),
        files: snapshot.file_count(),
        bytes: snapshot.total_bytes(),
        watermarks: table.watermarks_of(table.buckets_read(), snapshot),
    };
    Description::new(&table.entry, committed, end_offsets)
}
