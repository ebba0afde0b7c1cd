//! Creating a table: checks first, then topic, Delta log, catalog.

mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidelake_catalog::{AddTable, TableEntry, TableMode, location};
use tidelake_core::{Bucket, Offset, TableId, TableVersion, TopicId};
use tidelake_log::{TopicCreated, TopicSpec, topics};
use tidelake_manifest::{CreateOutcome, CreateTable, Snapshot};
use tidelake_schema::TableSchema;
use tidelake_service::Problem;

use super::live::{LiveTable, Tables};
use crate::moment;
use crate::problem::{Answer, table_exists};
use request::NewTable;
pub(super) use request::{parse, retention};

/// Tries while others create and drop the same name.
const ATTEMPTS_MAX: usize = 5;

/// How long another maker, whose traces stand in the way, may take to finish.
const MAKER_WAIT_MAX: Duration = Duration::from_secs(1);
const MAKER_LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl Tables {
    /// Makes the table. Of several makers of one name exactly one gets it; the others are told
    /// TABLE_EXISTS.
    pub(super) async fn create(&self, new: NewTable) -> Result<Arc<LiveTable>, Answer> {
        for _ in 0..ATTEMPTS_MAX {
            self.catalog.refresh().await?;
            self.finish_purge(&new.id).await?;
            let mark = self.catalog.mark(&new.id);
            if self.catalog.get(&new.id).is_some() {
                return Err(table_exists(&new.id).into());
            }
            let entry = match self.make(&new).await {
                Ok(entry) => entry,
                Err(answer) => {
                    // What stood in the way may be what others made, or left, of the name meanwhile.
                    self.catalog.refresh().await?;
                    if self.catalog.mark(&new.id) == mark {
                        return Err(answer);
                    }
                    continue;
                }
            };
            match self.catalog.add_table_since(entry, mark).await? {
                AddTable::Added(entry) => {
                    tracing::info!(table = %new.id, buckets = new.buckets, "table created");
                    return Ok(self.live(&entry));
                }
                AddTable::Exists(_) => return Err(table_exists(&new.id).into()),
                AddTable::Moved => {}
            }
        }
        Err(
            Problem::new(409, "TABLE_BEING_DROPPED", "the name is not free yet")
                .detail(format!(
                    "others keep creating and dropping table {}",
                    new.id.table
                ))
                .retry_after_s(1)
                .into(),
        )
    }

    /// Topics and logs of a table that the catalog does not have yet.
    async fn make(&self, new: &NewTable) -> Result<TableEntry, Answer> {
        let topic = topics::table_topic(&self.topic_prefix, &new.id);
        let topic_id = self.make_topic(new, &topic).await?;
        self.make_delta(&new.id, new.mode, &new.schema, &new.properties)
            .await?;
        let dead_letters = self
            .make_dead_letters(&new.id, new.retention_ms, true)
            .await?;
        Ok(TableEntry {
            id: new.id.clone(),
            mode: new.mode,
            schema: new.schema.clone(),
            buckets: new.buckets,
            topic,
            topic_id,
            properties: new.properties.clone(),
            created_ms: self.clock.now_ms(),
            dead_letters_topic_id: Some(dead_letters),
            restores: 0,
        })
    }

    async fn make_topic(&self, new: &NewTable, topic: &str) -> Result<TopicId, Answer> {
        let spec = TopicSpec {
            name: topic.to_owned(),
            buckets: new.buckets,
            retention_ms: Some(new.retention_ms),
            config: BTreeMap::new(),
        };
        let created = self.log.create_topic(&spec).await?;
        let info = self
            .log
            .describe(topic)
            .await?
            .ok_or_else(|| tidelake_log::LogError::NoTopic(topic.to_owned()))?;
        if created == TopicCreated::Exists {
            self.check_adoptable(&new.id, new.buckets, topic, info.buckets)
                .await?;
        }
        Ok(info.id)
    }

    /// A topic that is there before its table: left by a maker that died, made by hand, or by a
    /// maker at work right now.
    pub(super) async fn check_adoptable(
        &self,
        id: &TableId,
        wanted: u32,
        topic: &str,
        buckets: u32,
    ) -> Result<(), Answer> {
        let all: Vec<_> = (0..buckets).map(Bucket).collect();
        let ends = self.log.end_offsets(topic, &all).await?;
        let reason = if ends.iter().any(|(_, end)| *end > Offset(0)) {
            "holds messages".to_owned()
        } else if buckets != wanted {
            format!("has {buckets} buckets, and the table wants {wanted}")
        } else {
            return Ok(());
        };
        self.refuse_leftover(
            id,
            "TOPIC_EXISTS",
            format!("topic {topic} exists and {reason}"),
        )
        .await
    }

    pub(super) async fn make_delta(
        &self,
        id: &TableId,
        mode: TableMode,
        schema: &TableSchema,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), Answer> {
        let location = location(id);
        let spec = CreateTable {
            name: id.table.to_string(),
            schema: schema.clone(),
            append_only: mode == TableMode::Append,
            properties: properties.clone(),
            first_version: self.first_version(id),
        };
        // Boxed, or the compiler can't see that the whole future is `Send`.
        let made = self.delta(&location).create(spec).boxed().await?;
        match made {
            CreateOutcome::Created(_) => Ok(()),
            CreateOutcome::Exists(found) if is_as_made(&found, schema) => Ok(()),
            CreateOutcome::Exists(_) => {
                let detail =
                    format!("a Delta table that the catalog does not know is in {location}");
                self.refuse_leftover(id, "LOCATION_TAKEN", detail).await
            }
        }
    }

    /// Where the log of a new table of this name begins: above every version that an earlier one
    /// had, and one more, which a late writer of that one may still take.
    fn first_version(&self, id: &TableId) -> TableVersion {
        let last = self.catalog.last_version(id);
        last.map_or(TableVersion(0), |last| last.next().next())
    }

    /// Says TABLE_EXISTS where what stands in the way turns out to be somebody else's new table.
    async fn refuse_leftover(
        &self,
        id: &TableId,
        code: &'static str,
        detail: String,
    ) -> Result<(), Answer> {
        let started = moment::now();
        let mut looks = tokio::time::interval(MAKER_LOOK_INTERVAL);
        while moment::age(started) < MAKER_WAIT_MAX {
            looks.tick().await;
            if self.catalog.find_fresh(id).await?.is_some() {
                return Err(table_exists(id).into());
            }
        }
        Err(
            Problem::new(409, code, "something else has the table's place")
                .detail(detail)
                .hint("remove it if nothing needs it, or choose another name")
                .into(),
        )
    }
}

/// True where `found` is what is to be made, and nothing was written to it.
fn is_as_made(found: &Snapshot, schema: &TableSchema) -> bool {
    found.version() == found.first_version()
        && found.file_count() == 0
        && found.schema().fields == schema.fields
        && found.schema().identifier_field_ids == schema.identifier_field_ids
}
