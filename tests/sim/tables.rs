//! The tables of a simulation, and how they are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use tidelake_catalog::{Catalog, TableEntry, TableMode};
use tidelake_core::{TableId, TableName, TableVersion, TenantId, TopicId};
use tidelake_log::{LogAdmin, TopicSpec, topics};
use tidelake_manifest::{CreateTable, DeltaTable};
use tidelake_schema::{TableSchema, dead_letters};
use tidelake_service::Runtime;
use tidelake_storage::Store;

use crate::model::Kind;

pub(crate) const PREFIX: &str = "tidelake";

/// One table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub name: &'static str,
    pub kind: Kind,
    pub buckets: u32,
    pub entry: TableEntry,
}

impl Table {
    pub(crate) fn topic(&self) -> Arc<str> {
        self.entry.topic.as_str().into()
    }
}

/// What is needed to make one.
#[derive(Debug)]
pub(crate) struct Maker {
    pub store: Store,
    pub catalog: Catalog,
    pub admin: Arc<dyn LogAdmin>,
    pub runtime: Runtime,
}

/// A key and a value, whole numbers both.
fn schema(kind: Kind) -> Result<TableSchema> {
    let key = match kind {
        Kind::Append => "",
        Kind::Upsert => r#""identifier-field-ids":[1],"#,
    };
    let text = format!(
        r#"{{"type":"struct","schema-id":0,{key}"fields":[
        {{"id":1,"name":"id","required":true,"type":"long"}},
        {{"id":2,"name":"value","required":false,"type":"long"}}]}}"#
    );
    Ok(TableSchema::from_iceberg_json(&text)?)
}

impl Maker {
    async fn topic(&self, name: &str, buckets: u32) -> Result<TopicId> {
        let spec = TopicSpec {
            name: name.to_owned(),
            buckets,
            retention_ms: None,
            config: BTreeMap::new(),
        };
        self.admin.create_topic(&spec).await?;
        let found = self.admin.describe(name).await?;
        Ok(found.context("the topic that was made")?.id)
    }

    async fn delta(
        &self,
        id: &TableId,
        mode: TableMode,
        schema: TableSchema,
    ) -> Result<DeltaTable> {
        let location = tidelake_catalog::location(id);
        let Runtime { clock, ids, .. } = &self.runtime;
        let delta = DeltaTable::new(self.store.scoped(&location), clock.clone(), ids.clone());
        let last = self.catalog.last_version(id);
        let create = CreateTable {
            name: id.table.to_string(),
            schema,
            append_only: mode == TableMode::Append,
            properties: BTreeMap::new(),
            first_version: last.map_or(TableVersion(0), |last| last.next().next()),
        };
        delta.create(create).await?;
        Ok(delta)
    }

    pub(crate) async fn make(&self, name: &'static str, kind: Kind, buckets: u32) -> Result<Table> {
        let id = TableId::new(TenantId::default(), TableName::new(name)?);
        let mode = match kind {
            Kind::Append => TableMode::Append,
            Kind::Upsert => TableMode::Upsert,
        };
        let topic = topics::table_topic(PREFIX, &id);
        let topic_id = self.topic(&topic, buckets).await?;
        let of_dead_letters = topics::dead_letter_topic(PREFIX, &id);
        let dead_letters_topic_id = Some(self.topic(&of_dead_letters, 1).await?);
        let letters = dead_letters::schema().clone();
        self.delta(&id.dead_letters(), TableMode::Upsert, letters)
            .await?;
        let schema = schema(kind)?;
        self.delta(&id, mode, schema.clone()).await?;
        let entry = TableEntry {
            id,
            mode,
            schema,
            buckets,
            topic,
            topic_id,
            properties: BTreeMap::new(),
            created_ms: self.runtime.clock.now_ms(),
            dead_letters_topic_id,
            restores: 0,
        };
        self.catalog.add_table(entry.clone()).await?;
        Ok(Table {
            name,
            kind,
            buckets,
            entry,
        })
    }
}
