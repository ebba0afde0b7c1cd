//! Broker, store and flusher of one test, and tables made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_catalog::{Catalog, TableEntry, TableMode};
use tidelake_core::{Bucket, TableId, TableName, TableVersion, TenantId, Watermark};
use tidelake_flusher::Settings;
use tidelake_log::topics::{dead_letter_topic, table_topic};
use tidelake_log::{Admin, Message, Producer, ProducerSettings, TopicSpec};
use tidelake_manifest::{CreateTable, DeltaTable, Snapshot};
use tidelake_schema::{TableSchema, dead_letters};
use tidelake_service::{Running, Runtime};
use tidelake_storage::{Store, StoreOptions};
use tidelake_testkit::{EmbeddedBroker, WAIT_MAX, wait_until};

pub(crate) use tidelake_catalog::TableMode as Mode;

pub(crate) struct Room {
    pub broker: EmbeddedBroker,
    pub admin: Admin,
    pub producer: Producer,
    pub runtime: Runtime,
    store: Store,
    catalog: Catalog,
    flusher: Option<Running>,
}

/// A second flusher.
pub(crate) struct Another {
    pub runtime: Runtime,
    running: Running,
}

impl Another {
    pub(crate) async fn stop(self) {
        self.runtime.shutdown.trigger();
        self.running.wait().await.unwrap();
    }
}

pub(crate) struct Table {
    pub entry: TableEntry,
    pub delta: DeltaTable,
}

impl Room {
    pub(crate) async fn new() -> Self {
        let broker = EmbeddedBroker::start().await.unwrap();
        let store = Store::open(&store_url(&broker), &StoreOptions::default()).unwrap();
        let runtime = Runtime::new();
        let catalog = Catalog::open(&store, runtime.clock.clone(), runtime.ids.clone());
        Self {
            admin: Admin::new(&broker.settings()).unwrap(),
            producer: Producer::new(&broker.settings(), ProducerSettings::default()).unwrap(),
            catalog: catalog.await.unwrap(),
            broker,
            store,
            runtime,
            flusher: None,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            store: store_url(&self.broker),
            kafka: self.broker.settings(),
            listen: "127.0.0.1:0".into(),
            flush_age_ms: 100,
            discovery_ms: 100,
            index_dir: self.broker.dir().join("index").display().to_string(),
            announce: false,
            ..Settings::default()
        }
    }

    /// Starts the flusher.
    pub(crate) async fn start(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings();
        change(&mut settings);
        let runtime = self.runtime.clone();
        self.flusher = Some(tidelake_flusher::start(settings, runtime).await.unwrap());
    }

    /// One more flusher of the same group.
    pub(crate) async fn another(&self) -> Another {
        let runtime = Runtime::new();
        let settings = Settings {
            index_dir: self.broker.dir().join("other").display().to_string(),
            ..self.settings()
        };
        let running = tidelake_flusher::start(settings, runtime.clone()).await;
        Another {
            runtime,
            running: running.unwrap(),
        }
    }

    pub(crate) async fn stop(mut self) {
        self.runtime.shutdown.trigger();
        if let Some(flusher) = self.flusher.take() {
            flusher.wait().await.unwrap();
        }
        self.broker.stop().await.unwrap();
    }

    /// A table of `buckets` over a topic of `partitions`.
    pub(crate) async fn table(
        &self,
        name: &str,
        mode: Mode,
        buckets: u32,
        partitions: u32,
    ) -> Table {
        let id = TableId::new(TenantId::default(), TableName::new(name).unwrap());
        let schema = schema(mode);
        let topic = table_topic("tidelake", &id);
        let topic_id = self.topic(&topic, partitions).await;
        let dead_topic = dead_letter_topic("tidelake", &id);
        let dead_id = self.topic(&dead_topic, 1).await;
        let entry = TableEntry {
            id: id.clone(),
            mode,
            schema: schema.clone(),
            buckets,
            topic,
            topic_id,
            properties: BTreeMap::new(),
            created_ms: 0,
            dead_letters_topic_id: Some(dead_id),
            restores: 0,
        };
        let dead = entry.dead_letters().unwrap();
        self.create(&dead, dead_letters::schema().clone()).await;
        let delta = self.create(&entry, schema).await;
        self.catalog.add_table(entry.clone()).await.unwrap();
        Table { entry, delta }
    }

    async fn create(&self, entry: &TableEntry, schema: TableSchema) -> DeltaTable {
        let delta = self.delta(entry);
        let create = CreateTable {
            name: entry.id.table.to_string(),
            schema,
            append_only: entry.mode == TableMode::Append,
            properties: BTreeMap::new(),
            first_version: TableVersion(0),
        };
        delta.create(create).await.unwrap();
        delta
    }

    fn delta(&self, entry: &TableEntry) -> DeltaTable {
        let store = self.store.scoped(&entry.location());
        DeltaTable::new(store, self.runtime.clock.clone(), self.runtime.ids.clone())
    }

    pub(crate) fn dead_letters(&self, table: &Table) -> DeltaTable {
        self.delta(&table.entry.dead_letters().unwrap())
    }

    /// Makes a topic and gives its id.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) -> tidelake_core::TopicId {
        let spec = TopicSpec {
            name: name.into(),
            buckets: partitions,
            retention_ms: None,
            config: BTreeMap::new(),
        };
        self.admin.create_topic(&spec).await.unwrap();
        self.admin.describe(name).await.unwrap().unwrap().id
    }

    /// Writes one record for each id.
    pub(crate) async fn write(
        &self,
        table: &Table,
        bucket: u32,
        ids: std::ops::Range<u64>,
        pad: usize,
    ) {
        let topic: Arc<str> = Arc::from(table.entry.topic.as_str());
        let text = "x".repeat(pad);
        let mut waiting = Vec::new();
        for id in ids {
            let value = format!("{{\"id\":{id},\"s\":\"{text}\"}}");
            let mut message = Message::new(topic.clone(), Bucket(bucket), value);
            message.key = Some(id.to_string().into());
            waiting.push(self.producer.enqueue_waiting(message).await.unwrap());
        }
        for delivery in waiting {
            delivery.await.unwrap();
        }
    }

    /// Waits until the table covers so many offsets of the bucket.
    pub(crate) async fn covered(&self, table: &Table, bucket: u32, offsets: i64) -> Arc<Snapshot> {
        let what = format!("{} covers {offsets} of bucket {bucket}", table.entry.id);
        let outcome = wait_until(&what, WAIT_MAX, async || {
            let snapshot = table.delta.snapshot().await.ok()?;
            let mark = snapshot.watermark(&table.entry.topic_id, Bucket(bucket));
            (mark == Some(Watermark(offsets))).then_some(snapshot)
        });
        let outcome = outcome.await;
        outcome.unwrap_or_else(|error| panic!("{error}\n{}", self.shown()))
    }

    /// Waits for a line of the metrics.
    pub(crate) async fn shows(&self, line: &str) {
        let outcome = wait_until(line, WAIT_MAX, async || {
            let text = self.runtime.metrics.render();
            text.lines()
                .any(|shown| shown.starts_with(line))
                .then_some(())
        });
        let outcome = outcome.await;
        outcome.unwrap_or_else(|error| panic!("{error}\n{}", self.shown()));
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.runtime.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line?.trim().parse().ok()
    }

    /// Why the flusher is not ready.
    pub(crate) fn reason(&self) -> String {
        let report = self.runtime.health.report();
        let reason = report.components["flusher"].reason.clone();
        reason.unwrap_or_default()
    }

    pub(crate) fn shown(&self) -> String {
        let text = self.runtime.metrics.render();
        let ours = text.lines().filter(|line| line.starts_with("tidelake_"));
        let ours: Vec<_> = ours.collect();
        format!("not ready: {}\n{}", self.reason(), ours.join("\n"))
    }
}

pub(crate) fn is_stopped(table: &str, reason: &str) -> String {
    format!("tidelake_table_stopped{{reason=\"{reason}\",table=\"{table}\",tenant=\"default\"}} 1")
}

fn store_url(broker: &EmbeddedBroker) -> String {
    format!("file://{}", broker.dir().join("store").display())
}

fn schema(mode: Mode) -> TableSchema {
    let keys = if mode == TableMode::Upsert {
        "[1]"
    } else {
        "[]"
    };
    let text = format!(
        r#"{{"type":"struct","schema-id":0,"identifier-field-ids":{keys},"fields":[
            {{"id":1,"name":"id","required":true,"type":"long"}},
            {{"id":2,"name":"s","required":false,"type":"string"}}]}}"#
    );
    TableSchema::from_iceberg_json(&text).unwrap()
}
