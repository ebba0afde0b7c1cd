//! Dead-letter tables: each table has one, which is made with it and goes with it.
//!
//! The catalog shows it from its table's entry; made here is what stands behind it, the topic and
//! the Delta log, before the catalog is told. Tables of older programs get theirs later: when a
//! gateway starts ([`give_all`]), or when somebody asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{TableId, TopicId};
use tidelake_log::{LogError, TopicCreated, TopicSpec, topics};
use tidelake_schema::dead_letters;
use tidelake_service::{Problem, Shutdown};

use super::create::retention;
use super::live::{LiveTable, Tables};
use crate::problem::Answer;

/// Between two tries while the log or the store is away.
const TRY_INTERVAL: Duration = Duration::from_secs(5);

impl LiveTable {
    /// Refuses what only Tidelake does to a dead-letter table.
    pub(crate) fn check_own(&self) -> Result<(), Answer> {
        let id = &self.entry.id;
        match id.dead_letters_of() {
            None => Ok(()),
            Some(of) => Err(Problem::new(
                422,
                "DEAD_LETTER_TABLE",
                "Tidelake alone writes, flushes and drops a dead-letter table",
            )
            .detail(format!(
                "table {} holds the dead letters of table {}",
                id.table, of.table
            ))
            .hint("query it with SQL; it is dropped with its table")
            .into()),
        }
    }
}

impl Tables {
    /// Topic and Delta log of a table's dead letters; both may be there already. `empty`: the topic
    /// must hold no records, which would be somebody else's.
    pub(super) async fn make_dead_letters(
        &self,
        of: &TableId,
        retention_ms: i64,
        empty: bool,
    ) -> Result<TopicId, Answer> {
        let name = topics::dead_letter_topic(&self.topic_prefix, of);
        let spec = TopicSpec {
            name: name.clone(),
            buckets: 1,
            retention_ms: Some(retention_ms),
            config: BTreeMap::new(),
        };
        let created = self.log.create_topic(&spec).await?;
        let topic = self.log.describe(&name).await?;
        let topic = topic.ok_or_else(|| LogError::NoTopic(name.clone()))?;
        if created == TopicCreated::Exists && empty {
            self.check_adoptable(of, 1, &name, topic.buckets).await?;
        }
        let id = of.dead_letters();
        let schema = dead_letters::schema();
        self.make_delta(&id, TableMode::Upsert, schema, &BTreeMap::new())
            .await?;
        Ok(topic.id)
    }

    /// Gives a table of an older program its dead-letter table, if it has none yet.
    pub(super) async fn give_dead_letters(&self, entry: &TableEntry) -> Result<(), Answer> {
        if entry.is_dead_letters() || entry.dead_letters_topic_id.is_some() {
            return Ok(());
        }
        let retention_ms = retention(&entry.properties, self.settings())?;
        let topic_id = self
            .make_dead_letters(&entry.id, retention_ms, false)
            .await?;
        if self.catalog.add_dead_letters(entry, topic_id).await? {
            tracing::info!(table = %entry.id, "its dead letters are a table now");
        }
        Ok(())
    }
}

/// Gives every table of older programs its dead-letter table; tries until all have one.
pub(crate) async fn give_all(tables: Arc<Tables>, shutdown: Shutdown) {
    let mut tries = tokio::time::interval(TRY_INTERVAL);
    while !shutdown.is_requested() {
        tries.tick().await;
        let mut left = 0;
        for entry in tables.catalog.list_all() {
            if let Err(Answer(problem)) = tables.give_dead_letters(&entry).await {
                tracing::warn!(table = %entry.id, detail = problem.detail, "no dead-letter table yet");
                left += 1;
            }
        }
        if left == 0 {
            return;
        }
    }
}
