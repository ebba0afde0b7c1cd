//! The loop on a log that is made up.

mod adopted;
mod made_again;
mod renamed;
mod silent;
mod world;

use std::pin::Pin;

use tidelake_catalog::{Catalog, TableEntry, TableMode};
use tidelake_core::{TableId, TableName, TableVersion, TenantId, Watermark};
use tidelake_log::memory::MemoryLog;
use tidelake_log::{
    BucketReader, KafkaLog, KafkaSettings, LogAdmin, Message, ProducerSettings, Start, TopicSpec,
    TopicWriter,
};
use tidelake_manifest::{CreateTable, DeltaTable};
use tidelake_schema::TableSchema;
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::Encoders;
use tidelake_table::index::IndexHome;
use tokio::sync::Semaphore;

use super::*;
use crate::group::Group;
use crate::metrics::FlusherMetrics;
use crate::opener::Opener;

mod retyped;

/// A log whose messages never stop: some event is always ready.
#[derive(Debug)]
struct Busy {
    first: std::sync::Mutex<Vec<LogEvent>>,
    commands: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

impl Busy {
    fn note(&self, command: &'static str) {
        self.commands.lock().unwrap().push(command);
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl GroupLog for Busy {
    fn next<'a, 'b>(&'a mut self) -> Boxed<'b, Option<LogEvent>>
    where
        'a: 'b,
        Self: 'b,
    {
        // Taken when it is asked for, not before: whoever waits may drop the wait.
        Box::pin(async {
            let event = self.first.get_mut().unwrap().pop();
            let more = || LogEvent::Messages(MessageBatch::owned(Vec::new()));
            Some(event.unwrap_or_else(more))
        })
    }

    fn begin(&self, _: Vec<Start>, _: Vec<TopicBucket>) {
        self.note("begin");
    }

    fn restart(&self, _: Vec<Start>) {
        self.note("restart");
    }

    fn release(&self, _: Vec<TopicBucket>) {
        self.note("release");
    }

    fn pause(&self, _: Vec<TopicBucket>) {}

    fn resume(&self, _: Vec<TopicBucket>) {}

    fn commit(&self, _: Vec<(TopicBucket, Offset)>) {}

    fn end_offset_seen(&self, _: &TopicBucket) -> Option<Offset> {
        None
    }

    fn close<'b>(self: Box<Self>) -> Boxed<'b, ()>
    where
        Self: 'b,
    {
        Box::pin(std::future::ready(()))
    }
}

/// Clients of a log that does not answer, but for its group.
#[derive(Debug)]
struct Client {
    log: KafkaLog,
    group: std::sync::Mutex<Option<Busy>>,
}

impl LogClient for Client {
    fn admin(&self) -> Arc<dyn LogAdmin> {
        self.log.admin()
    }

    fn reader(&self) -> Arc<dyn BucketReader> {
        self.log.reader()
    }

    fn writer(&self, settings: ProducerSettings) -> Result<Arc<dyn TopicWriter>, LogError> {
        self.log.writer(settings)
    }

    fn join(&self, _: &ConsumerSettings) -> Result<Box<dyn GroupLog>, LogError> {
        let group = self.group.lock().unwrap().take();
        Ok(Box::new(group.expect("one member")))
    }
}

async fn workbench(client: &dyn LogClient, runtime: &Runtime) -> Workbench {
    let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
    workbench_over(store, client, runtime, &Settings::default()).await
}

async fn workbench_over(
    store: Store,
    client: &dyn LogClient,
    runtime: &Runtime,
    settings: &Settings,
) -> Workbench {
    let catalog = Catalog::open(&store, runtime.clock.clone(), runtime.ids.clone());
    let group = Group::of(&settings.group, &store, runtime.ids.as_ref()).await;
    let folder = std::env::temp_dir().join(format!("tidelake-loop-{}", std::process::id()));
    Workbench {
        opener: Opener {
            catalog: catalog.await.unwrap(),
            store,
            admin: client.admin(),
            topic_prefix: settings.kafka.topic_prefix.clone(),
            group: group.unwrap(),
            runtime: runtime.clone(),
            snapshots: tidelake_manifest::SnapshotCache::new(1 << 20),
            turns: Arc::new(Semaphore::new(1)),
        },
        writer: client.writer(ProducerSettings::default()).unwrap(),
        reader: client.reader(),
        metrics: FlusherMetrics::new(&runtime.metrics),
        files: settings.files(),
        encoders: Encoders::default(),
        index_home: Arc::new(IndexHome::open(&folder, 1 << 10).unwrap()),
        announce: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_ticks_although_messages_never_stop() {
    let runtime = Runtime::new();
    let at = TopicBucket {
        topic: Arc::from("tidelake.default.t"),
        bucket: Bucket(0),
    };
    let commands = Arc::default();
    // Taken from the end.
    let first = vec![
        LogEvent::Revoked(vec![at.clone()]),
        LogEvent::Trouble {
            at: None,
            error: Some(LogError::Closed),
        },
        LogEvent::Assigned(vec![at]),
    ];
    let group = Busy {
        first: std::sync::Mutex::new(first),
        commands: Arc::clone(&commands),
    };
    let client = Client {
        log: KafkaLog::new(KafkaSettings::default()).unwrap(),
        group: std::sync::Mutex::new(Some(group)),
    };
    let bench = workbench(&client, &runtime).await;
    let worker = Worker::start(Settings::default(), runtime.clone(), bench, &client).unwrap();
    let reported = || {
        let report = runtime.health.report();
        let reason = report.components["flusher"].reason.clone();
        reason.is_some_and(|reason| reason.contains("log_stalled"))
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !reported() {
            looks.tick().await;
        }
    });
    outcome.await.expect("health is told");
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
    assert_eq!(*commands.lock().unwrap(), ["begin", "release"]);
}

/// A table over a topic of the log in memory.
async fn table(bench: &Workbench, name: &str, buckets: u32) -> (TableEntry, DeltaTable) {
    table_of(bench, name, buckets, TableMode::Append).await
}

async fn table_of(
    bench: &Workbench,
    name: &str,
    buckets: u32,
    mode: TableMode,
) -> (TableEntry, DeltaTable) {
    let text = r#"{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[
        {"id":1,"name":"id","required":true,"type":"long"}]}"#;
    let schema = TableSchema::from_iceberg_json(text).unwrap();
    table_with(bench, name, buckets, mode, schema).await
}

async fn table_with(
    bench: &Workbench,
    name: &str,
    buckets: u32,
    mode: TableMode,
    schema: TableSchema,
) -> (TableEntry, DeltaTable) {
    let opener = &bench.opener;
    let id = TableId::new(TenantId::default(), TableName::new(name).unwrap());
    let topic = topics::table_topic(&opener.topic_prefix, &id);
    let spec = TopicSpec {
        name: topic.clone(),
        buckets,
        retention_ms: None,
        config: Default::default(),
    };
    opener.admin.create_topic(&spec).await.unwrap();
    let entry = TableEntry {
        id,
        mode,
        schema: schema.clone(),
        buckets,
        topic_id: opener.admin.describe(&topic).await.unwrap().unwrap().id,
        topic,
        properties: Default::default(),
        created_ms: 0,
        dead_letters_topic_id: None,
        restores: 0,
    };
    let store = opener.store.scoped(&entry.location());
    let runtime = &opener.runtime;
    let delta = DeltaTable::new(store, runtime.clock.clone(), runtime.ids.clone());
    let last = opener.catalog.last_version(&entry.id);
    let create = CreateTable {
        name: name.into(),
        schema,
        append_only: mode == TableMode::Append,
        properties: Default::default(),
        first_version: last.map_or(TableVersion(0), |last| last.next().next()),
    };
    delta.create(create).await.unwrap();
    opener.catalog.add_table(entry.clone()).await.unwrap();
    (entry, delta)
}

const WAIT: Duration = Duration::from_secs(30);

/// Waits until the table covers so many offsets of the bucket.
async fn covered(table: (&TableEntry, &DeltaTable), bucket: u32, offset: i64) -> Arc<Snapshot> {
    let (entry, delta) = table;
    let what = format!("{} covers {offset} of bucket {bucket}", entry.id);
    let covered = tidelake_testkit::wait_until(&what, WAIT, async || {
        let snapshot = delta.snapshot().await.ok()?;
        let mark = snapshot.watermark(&entry.topic_id, Bucket(bucket));
        (mark == Some(Watermark(offset))).then_some(snapshot)
    });
    covered.await.unwrap()
}

/// Waits for a line of the metrics.
async fn shown(runtime: &Runtime, line: &str) {
    let shown = tidelake_testkit::wait_until(line, WAIT, async || {
        runtime.metrics.render().contains(line).then_some(())
    });
    if let Err(error) = shown.await {
        panic!("{error}\n{}", runtime.metrics.render());
    }
}

/// Markers of transactions at a log's end: no record lies behind them, so the table is not behind,
/// and retention that removes them has removed nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_without_a_message_are_covered_although_nothing_follows_them() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let (entry, delta) = table(&bench, "t", 1).await;
    let topic: Arc<str> = entry.topic.as_str().into();
    let at = TopicBucket {
        topic: topic.clone(),
        bucket: Bucket(0),
    };
    let settings = Settings {
        flush_age_ms: 100,
        ..Settings::default()
    };
    let writer = bench.writer.clone();
    let worker = Worker::start(settings, runtime.clone(), bench, &log).unwrap();
    let message = Message::new(topic.clone(), at.bucket, "{\"id\":1}");
    writer.send(message).await.unwrap();
    covered((&entry, &delta), 0, 1).await;
    log.skip_offsets(&at, 3);
    let snapshot = covered((&entry, &delta), 0, 4).await;
    assert_eq!(snapshot.total_rows(), 1);
    shown(
        &runtime,
        "tidelake_table_lag_records{table=\"t\",tenant=\"default\"} 0",
    )
    .await;
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}
