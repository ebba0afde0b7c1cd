//! Another engine renames, exchanges or drops columns while packed messages are on their way:
//! values follow their columns, and none becomes a dead letter.
//!
//! Values are read from the statistics of the files, which say them where a file has one row.

use bytes::Bytes;
use serde_json::{Value, json};
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::packed::{ENCODING, Wire};
use tidelake_core::headers;
use tidelake_manifest::action::{Action, Txn, write_commit};
use tidelake_manifest::{MarkMove, Snapshot};
use tidelake_schema::delta::{PhysicalNames, mapped_schema_string};
use tidelake_schema::evolution::Columns;

use super::*;

/// A column: its field id, its name, and what it is called in files.
type Column = (i32, &'static str, &'static str);

const BEFORE: [Column; 3] = [(1, "k", "k"), (2, "a", "a"), (3, "b", "b")];

fn schema(columns: &[Column]) -> TableSchema {
    let field = |(id, name, _): &Column| {
        let required = *id == columns[0].0;
        json!({"id": id, "name": name, "required": required, "type": "long"})
    };
    let fields: Vec<Value> = columns.iter().map(field).collect();
    let key = columns[0].0;
    let schema = json!({
        "type": "struct", "schema-id": 0, "identifier-field-ids": [key], "fields": fields,
    });
    TableSchema::from_iceberg_json(&schema.to_string()).unwrap()
}

fn names(columns: &[Column]) -> PhysicalNames {
    let names = columns.iter();
    names
        .map(|(id, _, file)| (*id, (*file).to_owned()))
        .collect()
}

/// Another engine's commit: it gives the table these columns, with column mapping.
async fn remap(delta: &DeltaTable, columns: &[Column]) {
    let base = delta.snapshot().await.unwrap();
    let mut metadata = base.metadata().clone();
    metadata.schema_string = mapped_schema_string(&schema(columns), &names(columns));
    let set = &mut metadata.configuration;
    set.insert("delta.columnMapping.mode".into(), "name".into());
    set.insert("delta.columnMapping.maxColumnId".into(), "9".into());
    let mut protocol = base.protocol().clone();
    for features in [&mut protocol.reader_features, &mut protocol.writer_features] {
        let features = features.get_or_insert_default();
        if !features.iter().any(|feature| feature == "columnMapping") {
            features.push("columnMapping".into());
        }
    }
    (protocol.min_reader_version, protocol.min_writer_version) = (3, 7);
    commit(
        delta,
        &base,
        &[Action::Protocol(protocol), Action::Metadata(metadata)],
    )
    .await;
}

async fn commit(delta: &DeltaTable, base: &Snapshot, actions: &[Action]) {
    let name = format!("_delta_log/{:020}.json", base.version().next().0);
    let bytes = write_commit(actions);
    delta.store().put(&name, bytes.into()).await.unwrap();
}

/// A row as the gateway packs it for a table of these columns.
fn packed(entry: &TableEntry, bucket: u32, columns: &[Column], row: &Value) -> Message {
    let (schema, names) = (schema(columns), names(columns));
    let mut rows = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
    rows.push_record(row.to_string().as_bytes()).unwrap();
    let wire = Wire::new(Columns {
        schema: &schema,
        names: &names,
    });
    let value = wire.encode(&rows.finish().unwrap()).unwrap();
    let mut message = Message::new(entry.topic.as_str(), Bucket(bucket), value);
    let encoding = Bytes::from_static(ENCODING.as_bytes());
    message.headers.push((headers::ENCODING.into(), encoding));
    message
}

/// The one row of the newest file, by the names of the columns in files.
fn row(snapshot: &Snapshot, id: i64) -> Value {
    let stats = snapshot.files().map(|file| {
        let stats = file.add.stats.as_deref().unwrap();
        serde_json::from_str::<Value>(stats).unwrap()
    });
    let mut rows = stats.map(|stats| stats["minValues"].clone());
    let row = rows.find(|row| row["k"] == id).expect("the row");
    let own = row.as_object().unwrap().iter();
    let own = own.filter(|(name, _)| !name.starts_with('_'));
    own.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What the engine makes of the columns, and how a row of [`BEFORE`] stands in files then.
fn changes() -> [(&'static str, Vec<Column>, Value); 5] {
    let [k, a, _] = BEFORE;
    [
        (
            "rename",
            vec![k, a, (3, "c", "b")],
            json!({"k": 1, "a": 10, "b": 20}),
        ),
        (
            "exchange",
            vec![k, (2, "b", "a"), (3, "a", "b")],
            json!({"k": 1, "a": 10, "b": 20}),
        ),
        ("drop", vec![k, a], json!({"k": 1, "a": 10})),
        (
            "again",
            vec![k, a, (4, "b", "col-4")],
            json!({"k": 1, "a": 10}),
        ),
        (
            "recount",
            vec![k, (3, "a", "a"), (2, "b", "b")],
            json!({"k": 1, "a": 10, "b": 20}),
        ),
    ]
}

struct World {
    runtime: Runtime,
    log: MemoryLog,
    bench: Workbench,
    entry: TableEntry,
    delta: DeltaTable,
}

impl World {
    async fn new(mode: TableMode, buckets: u32) -> Self {
        let runtime = Runtime::new();
        let log = MemoryLog::new(runtime.clock.clone());
        let bench = workbench(&log, &runtime).await;
        let (entry, delta) = table_with(&bench, "t", buckets, mode, schema(&BEFORE)).await;
        Self {
            runtime,
            log,
            bench,
            entry,
            delta,
        }
    }

    fn start(&self, flush_age_ms: u64) -> Worker {
        let settings = Settings {
            flush_age_ms,
            ..Settings::default()
        };
        let (runtime, bench) = (self.runtime.clone(), self.bench.clone());
        Worker::start(settings, runtime, bench, &self.log).unwrap()
    }

    async fn send(&self, message: Message) {
        self.bench.writer.send(message).await.unwrap();
    }

    async fn ends(self, worker: Worker) {
        let metrics = self.runtime.metrics.render();
        let mut lines = metrics.lines();
        let dead = lines.find(|line| line.starts_with("tidelake_dead_letters_total{"));
        assert!(dead.is_none_or(|line| line.ends_with(" 0")), "{dead:?}");
        self.runtime.shutdown.trigger();
        worker.wait().await.unwrap();
    }
}

/// Each change to each kind of table, all side by side.
async fn each(run: impl AsyncFn(TableMode, Vec<Column>, Value, String)) {
    let modes = [TableMode::Append, TableMode::Upsert];
    let runs = modes.into_iter().flat_map(|mode| {
        let run = &run;
        changes().map(|(what, after, wanted)| run(mode, after, wanted, format!("{what} {mode:?}")))
    });
    futures::future::join_all(runs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_in_the_log_follow_their_columns() {
    each(async |mode, after, wanted, what| {
        let world = World::new(mode, 1).await;
        let first = json!({"k": 1, "a": 10, "b": 20});
        world.send(packed(&world.entry, 0, &BEFORE, &first)).await;
        remap(&world.delta, &after).await;
        let worker = world.start(100);
        let snapshot = covered((&world.entry, &world.delta), 0, 1).await;
        assert_eq!(snapshot.total_rows(), 1);
        assert_eq!(row(&snapshot, 1), wanted, "{what}");
        world.ends(worker).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_memory_follow_their_columns() {
    each(async |mode, after, wanted, what| {
        let world = World::new(mode, 1).await;
        let worker = world.start(2000);
        let first = json!({"k": 1, "a": 10, "b": 20});
        world.send(packed(&world.entry, 0, &BEFORE, &first)).await;
        let taken = "tidelake_flusher_records_total{table=\"t\",tenant=\"default\"} 1";
        shown(&world.runtime, taken).await;
        remap(&world.delta, &after).await;
        let snapshot = covered((&world.entry, &world.delta), 0, 1).await;
        assert_eq!(snapshot.total_rows(), 1);
        assert_eq!(row(&snapshot, 1), wanted, "{what}");
        world.ends(worker).await;
    })
    .await;
}

/// The gateway knows a column that the flusher's version of the table does not have yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_a_column_that_came_meanwhile_is_never_lost() {
    for mode in [TableMode::Append, TableMode::Upsert] {
        let world = World::new(mode, 1).await;
        let worker = world.start(1000);
        let first = json!({"k": 1, "a": 10, "b": 20});
        world.send(packed(&world.entry, 0, &BEFORE, &first)).await;
        covered((&world.entry, &world.delta), 0, 1).await;
        let [k, a, b] = BEFORE;
        let after = [k, a, b, (4, "c", "col-4")];
        remap(&world.delta, &after).await;
        let second = json!({"k": 2, "a": 11, "b": 21, "c": 31});
        world.send(packed(&world.entry, 0, &after, &second)).await;
        let snapshot = covered((&world.entry, &world.delta), 0, 2).await;
        let wanted = json!({"k": 2, "a": 11, "b": 21, "col-4": 31});
        assert_eq!(row(&snapshot, 2), wanted, "{mode:?}");
        world.ends(worker).await;
    }
}

/// A record that the flusher's version of the table refuses, and the newest one takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_the_newest_columns_is_no_dead_letter() {
    let world = World::new(TableMode::Append, 1).await;
    let admin = &world.bench.opener.admin;
    let spec = TopicSpec {
        name: topics::dead_letter_topic(&world.bench.opener.topic_prefix, &world.entry.id),
        buckets: 1,
        retention_ms: None,
        config: Default::default(),
    };
    admin.create_topic(&spec).await.unwrap();
    let worker = world.start(500);
    let topic: Arc<str> = world.entry.topic.as_str().into();
    let send = async |row: Value| {
        let record = row.to_string();
        world
            .send(Message::new(topic.clone(), Bucket(0), record))
            .await;
    };
    send(json!({"k": 1, "a": 10, "b": 20})).await;
    covered((&world.entry, &world.delta), 0, 1).await;
    let [k, a, b] = BEFORE;
    remap(&world.delta, &[k, a, b, (4, "c", "col-4")]).await;
    send(json!({"k": 2, "a": 11, "b": 21, "c": 31})).await;
    let snapshot = covered((&world.entry, &world.delta), 0, 2).await;
    let wanted = json!({"k": 2, "a": 11, "b": 21, "col-4": 31});
    assert_eq!(row(&snapshot, 2), wanted);
    let dead = async || admin.end_offsets(&spec.name, &[Bucket(0)]).await.unwrap();
    assert_eq!(dead().await, [(Bucket(0), Offset(0))]);
    // What no version takes is one, once.
    send(json!({"k": 3, "no": 1})).await;
    covered((&world.entry, &world.delta), 0, 3).await;
    assert_eq!(dead().await, [(Bucket(0), Offset(1))]);
    world.runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}

/// A version with other columns comes to a bucket by the way, as another flusher takes its
/// neighbour: what it decoded before must not be matched by ids that were counted anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_memory_are_not_matched_by_ids_that_another_engine_counted_anew() {
    let world = World::new(TableMode::Append, 2).await;
    let worker = world.start(1000);
    let open = "tidelake_flusher_records_total{table=\"t\",tenant=\"default\"} ";
    for (bucket, id) in [(0, 1), (1, 2)] {
        let first = json!({"k": id, "a": 10, "b": 20});
        world
            .send(packed(&world.entry, bucket, &BEFORE, &first))
            .await;
    }
    for bucket in 0..2 {
        covered((&world.entry, &world.delta), bucket, 1).await;
    }
    let third = json!({"k": 3, "a": 10, "b": 20});
    world.send(packed(&world.entry, 0, &BEFORE, &third)).await;
    shown(&world.runtime, &format!("{open}3")).await;
    // Another flusher commits the third, and another engine changes the columns.
    let base = world.delta.snapshot().await.unwrap();
    let mark = MarkMove {
        topic_id: world.entry.topic_id,
        bucket: Bucket(0),
        from: Watermark(1),
        to: Watermark(2),
    };
    let txn = Txn {
        app_id: mark.app_id(),
        version: 2,
        last_updated: None,
    };
    commit(&world.delta, &base, &[Action::Txn(txn)]).await;
    let [k, ..] = BEFORE;
    remap(&world.delta, &[k, (3, "a", "a"), (2, "b", "b")]).await;
    let conflict = "tidelake_commit_conflicts_total";
    let overtaken = tidelake_testkit::wait_until("the conflict", WAIT, async || {
        let metrics = world.runtime.metrics.render();
        let mut lines = metrics.lines();
        lines
            .any(|line| line.starts_with(conflict) && line.ends_with(" 1"))
            .then_some(())
    });
    overtaken.await.unwrap();
    let fourth = json!({"k": 4, "a": 10, "b": 20});
    world.send(packed(&world.entry, 1, &BEFORE, &fourth)).await;
    let snapshot = covered((&world.entry, &world.delta), 1, 2).await;
    assert_eq!(row(&snapshot, 4), json!({"k": 4, "a": 10, "b": 20}));
    world.ends(worker).await;
}
