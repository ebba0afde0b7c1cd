//! What of a table its messages are read by, as the gateway tells it.

use serde_json::Value;
use tidelake_core::TableName;
use tidelake_intake::TableKind;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use crate::client::Client;
use crate::failure::{Exit, Failure};

/// A table at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    pub(super) name: TableName,
    pub(super) kind: TableKind,
    pub(super) schema: TableSchema,
    /// What columns are called in files, where that differs.
    pub(super) names: PhysicalNames,
    pub(super) topic: String,
    topic_id: String,
    pub(super) buckets: u32,
}

impl Described {
    pub(super) async fn ask(client: &Client, name: &TableName) -> Result<Self, Failure> {
        Self::of(name, &client.get(&format!("/v1/tables/{name}")).await?)
    }

    pub(super) fn of(name: &TableName, told: &Value) -> Result<Self, Failure> {
        let schema = TableSchema::from_iceberg_value(&told["schema"]).map_err(|error| {
            Failure::of("the table's schema can't be read", error.kind(), &error)
        })?;
        let text = |part: &str| told[part].as_str().unwrap_or_default().to_owned();
        let names = match &told["physical_names"] {
            Value::Null => PhysicalNames::default(),
            names => serde_json::from_value(names.clone()).map_err(|error| {
                Failure::failed(format!("the table's physical names can't be read: {error}"))
            })?,
        };
        Ok(Self {
            name: name.clone(),
            kind: match told["mode"].as_str() {
                _ if name.dead_letters_of().is_some() => TableKind::DeadLetters,
                Some("upsert") => TableKind::Upsert,
                _ => TableKind::Append,
            },
            schema,
            names,
            topic: text("topic"),
            topic_id: text("topic_id"),
            buckets: u32::try_from(told["buckets"].as_u64().unwrap_or(0)).unwrap_or(0),
        })
    }

    /// The same table, filled from the same topic: what was read so far has to do with it.
    pub(super) fn still(&self, now: &Self) -> Result<(), Failure> {
        if (&self.topic, &self.topic_id, self.buckets) == (&now.topic, &now.topic_id, now.buckets) {
            return Ok(());
        }
        let message = format!("table {} has another topic by now", self.name);
        Err(Failure::new(Exit::Conflict, message).hint("start again to follow that"))
    }
}
