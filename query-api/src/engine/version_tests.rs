//! Versions of upsert tables against a model: an ordered map for each version.
//!
//! Histories are written as a flusher and a compactor would: a file for each bucket, vectors over
//! superseded rows (inline and in files of several), files without live rows removed, rewrites that
//! move rows. What queries show of every version, of the difference between any two and of every key
//! must be what the maps say.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::Request as HttpRequest;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidelake_core::{Bucket, Watermark, ids};
use tidelake_intake::decode::{MessageDecoder, WireMessage};
use tidelake_manifest::action::TAG_BUCKET;
use tidelake_manifest::vector::{DeletedRows, VectorFile};
use tidelake_manifest::{Add, Remove, Transaction, vector};
use tidelake_table::{Chunk, FileLayout, FileSettings, Positions, Sealed, encode};

use crate::settings::QuerySettings;
use crate::testing::{TestTable, World};

const BUCKETS: u32 = 2;
/// The key is (region, id): not in the order of the columns.
const SCHEMA: &str = r#"{"type": "struct", "identifier-field-ids": [2, 1], "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "Region", "type": "string", "required": true},
    {"id": 3, "name": "note", "type": "string", "required": false},
    {"id": 4, "name": "at", "type": "time", "required": false}]}"#;

type Key = (String, i64);

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    note: Option<String>,
    /// Unique for each write.
    offset: i64,
}

type Model = BTreeMap<Key, Row>;

#[derive(Debug, Clone)]
struct Stored {
    add: Add,
    rows: Vec<(Key, Row)>,
    dead: BTreeSet<u64>,
}

/// A table, what it should hold at each version, and its files.
struct Case {
    world: World,
    table: TestTable,
    versions: Vec<Model>,
    files: BTreeMap<String, Stored>,
    writes: i64,
    names: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// Upserts (with a note) and deletes, in this order.
    Flush(Vec<(Key, Option<Option<String>>)>),
    /// Files by number are rewritten as one for each bucket.
    Compact(Vec<prop::sample::Index>),
}

impl Case {
    async fn new() -> Self {
        Self::with(QuerySettings::default()).await
    }

    async fn with(settings: QuerySettings) -> Self {
        let world = World::new(settings).await;
        let table = world.table("orders", SCHEMA, BUCKETS).await;
        Self {
            world,
            table,
            versions: vec![Model::new()],
            files: BTreeMap::new(),
            writes: 0,
            names: 0,
        }
    }

    fn model(&self) -> &Model {
        self.versions.last().unwrap()
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Flush(changes) => self.flush(changes).await,
            Step::Compact(picks) => self.compact(picks).await,
        }
    }

    async fn flush(&mut self, changes: &[(Key, Option<Option<String>>)]) {
        let mut newest: BTreeMap<Key, Option<Row>> = BTreeMap::new();
        for (key, change) in changes {
            self.writes += 1;
            let offset = self.writes;
            let row = change.clone().map(|note| Row { note, offset });
            newest.insert(key.clone(), row);
        }
        let mut model = self.model().clone();
        let before = self.files.clone();
        for (key, row) in &newest {
            for stored in self.files.values_mut() {
                let place = stored.rows.iter().position(|(found, _)| found == key);
                stored.dead.extend(place.map(|place| place as u64));
            }
            match row {
                Some(row) => model.insert(key.clone(), row.clone()),
                None => model.remove(key),
            };
        }
        let rows = newest
            .into_iter()
            .filter_map(|(key, row)| Some((key, row?)));
        self.write(rows.collect()).await;
        self.commit(before, model, true).await;
    }

    async fn compact(&mut self, picks: &[prop::sample::Index]) {
        let names: Vec<_> = self.files.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let before = self.files.clone();
        let picked: BTreeSet<_> = picks.iter().map(|pick| pick.get(&names)).collect();
        let mut rows = Vec::new();
        for name in picked {
            let stored = self.files.remove(name).unwrap();
            let live = stored.rows.into_iter().enumerate();
            let live = live.filter(|(place, _)| !stored.dead.contains(&(*place as u64)));
            rows.extend(live.map(|(_, row)| row));
        }
        // Moved rows stand in another order.
        rows.reverse();
        self.write(rows).await;
        let model = self.model().clone();
        self.commit(before, model, false).await;
    }

    /// One file for each bucket that has rows.
    async fn write(&mut self, rows: Vec<(Key, Row)>) {
        let mut by_bucket: BTreeMap<u32, Vec<(Key, Row)>> = BTreeMap::new();
        for (key, row) in rows {
            let text = json!([key.0, key.1]).to_string();
            let bucket = tidelake_core::partition::bucket_of(text.as_bytes(), BUCKETS);
            by_bucket.entry(bucket.0).or_default().push((key, row));
        }
        for (bucket, rows) in by_bucket {
            let settings = FileSettings {
                row_group_rows_max: 3,
                ..FileSettings::default()
            };
            let schema = &self.table.schema;
            let sealed = self.sealed(bucket, &rows);
            let layout = FileLayout::plain(schema);
            let file = encode(&layout, &[sealed], settings).unwrap().unwrap();
            self.names += 1;
            let path = format!("upsert-{:05}.parquet", self.names);
            let size = file.bytes.len() as i64;
            let store = self.table.delta.store();
            store.put(&path, file.bytes).await.unwrap();
            let tags = [(TAG_BUCKET.to_owned(), Some(bucket.to_string()))];
            let add = Add {
                path: path.clone(),
                size,
                stats: Some(file.stats.to_json()),
                tags: Some(tags.into()),
                ..Add::default()
            };
            let dead = BTreeSet::new();
            self.files.insert(path, Stored { add, rows, dead });
        }
    }

    fn sealed(&self, bucket: u32, rows: &[(Key, Row)]) -> Sealed {
        let mut decoder = MessageDecoder::upsert(&self.table.schema, None).unwrap();
        for ((region, id), row) in rows {
            let record = json!({"id": id, "Region": region, "note": row.note,
                "at": format!("10:00:{:02}", row.offset % 60)});
            decoder
                .push(&WireMessage {
                    offset: row.offset,
                    timestamp_ms: 0,
                    key: None,
                    value: Some(record.to_string().as_bytes()),
                    encoding: None,
                    op: None,
                    dead_letter: None,
                })
                .unwrap();
        }
        let decoded = decoder.finish().unwrap().rows;
        let chunks = decoded.into_iter().map(|part| {
            let positions = Positions {
                offsets: part.offsets,
                rows: part.rows,
                timestamps_ms: part.timestamps_ms,
            };
            Chunk::new(part.batch, positions)
        });
        Sealed {
            bucket: Bucket(bucket),
            from: Watermark(0),
            to: Watermark(0),
            chunks: chunks.collect(),
            deletes: Default::default(),
            rows: rows.len(),
            bytes: 0,
        }
    }

    /// Commits the way from `before` to the files of now.
    async fn commit(&mut self, before: BTreeMap<String, Stored>, model: Model, data_change: bool) {
        let mut pen = VectorFile::new(ids::random().next_uuid());
        let mut tx = Transaction {
            operation: if data_change { "FLUSH" } else { "COMPACT" }.into(),
            ..Transaction::default()
        };
        let all_dead = |stored: &Stored| stored.dead.len() == stored.rows.len();
        self.files.retain(|_, stored| !all_dead(stored));
        let remove = |stored: &Stored| -> Remove { stored.add.to_remove(1, data_change) };
        for (name, old) in &before {
            match self.files.get(name) {
                Some(new) if new.dead == old.dead => {}
                _ => tx.removes.push(remove(old)),
            }
        }
        for (place, (name, new)) in self.files.iter_mut().enumerate() {
            let old = before.get(name);
            if old.is_some_and(|old| old.dead == new.dead) {
                continue;
            }
            new.add.data_change = data_change;
            if !new.dead.is_empty() {
                let dead: DeletedRows = new.dead.iter().copied().collect();
                let inline = (place + self.names).is_multiple_of(2);
                new.add.deletion_vector = Some(match inline {
                    true => vector::inline(&dead),
                    false => pen.push(&dead),
                });
                let stats = tidelake_manifest::DataFile::of(new.add.clone())
                    .unwrap()
                    .widened_stats();
                new.add.stats = Some(stats.unwrap());
            }
            tx.adds.push(new.add.clone());
        }
        for (name, bytes) in pen.finish() {
            let store = self.table.delta.store();
            store.put(&name, bytes.into()).await.unwrap();
        }
        self.world.clock.advance(std::time::Duration::from_secs(1));
        let version = self.table.commit(tx).await;
        self.versions.push(model);
        assert_eq!(version.0, self.versions.len() as u64 - 1);
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        let body = json!({"sql": sql, "consistency": "committed"});
        sorted(self.world.rows_of(body).await)
    }

    async fn check_version(&self, version: usize) {
        let sql = format!("SELECT * FROM orders VERSION AS OF {version}");
        let wanted = self.versions[version]
            .iter()
            .map(|(key, row)| shown(key, row));
        let mut wanted: Vec<_> = wanted.map(|row| Value::from(row).to_string()).collect();
        wanted.sort();
        assert_eq!(self.rows(&sql).await, wanted, "version {version}");
    }

    async fn check_changes(&self, from: usize, to: usize) {
        let (a, b) = (&self.versions[from], &self.versions[to]);
        let mut wanted = Vec::new();
        let keys: BTreeSet<&Key> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let mut tell = |row: &Row, kind: &str| {
                let mut columns = shown(key, row);
                columns.extend([json!(kind), json!(to)]);
                wanted.push(Value::from(columns));
            };
            match (a.get(key), b.get(key)) {
                (Some(old), Some(new)) if old == new => {}
                (Some(old), Some(new)) => {
                    tell(old, "update_preimage");
                    tell(new, "update_postimage");
                }
                (Some(old), None) => tell(old, "delete"),
                (None, Some(new)) => tell(new, "insert"),
                (None, None) => {}
            }
        }
        let all = sorted(Value::from(wanted.clone()));
        let sql = format!("SELECT * FROM table_changes('orders', {from}, {to})");
        assert_eq!(self.rows(&sql).await, all, "{sql}");
        // The key's columns alone, in another order, and filters on both sides of the pairing.
        let few = wanted.iter().filter(|row| row[0].as_i64() < Some(3));
        let few = few.map(|row| json!([row[4], row[1], row[0]]));
        let sql = format!(
            "SELECT _change_type, region, id FROM table_changes('orders', {from}, {to}) WHERE id < 3"
        );
        assert_eq!(self.rows(&sql).await, sorted(few.collect()), "{sql}");
        let noted = wanted.iter().filter(|row| row[2] == "x").cloned();
        let sql = format!("SELECT * FROM table_changes('orders', {from}, {to}) WHERE note = 'x'");
        assert_eq!(self.rows(&sql).await, sorted(noted.collect()), "{sql}");
    }

    async fn check_key(&self, key: &Key) {
        let mut wanted = Vec::new();
        let mut before: Option<&Row> = None;
        for (version, model) in self.versions.iter().enumerate() {
            let now = model.get(key);
            let kind = match (before, now) {
                (None, Some(_)) => "insert",
                (Some(_), None) => "delete",
                (Some(old), Some(new)) if old != new => "update",
                _ => continue,
            };
            let mut row = vec![json!(version), json!(kind)];
            match now {
                Some(now) => row.extend(shown(key, now)),
                None => row.extend([json!(key.1), json!(key.0), Value::Null, Value::Null]),
            }
            wanted.push(Value::from(row));
            before = now;
        }
        wanted.reverse();
        let sql = format!(
            "SELECT _commit_version, _change_type, id, region, note, at \
             FROM key_history('orders', '{}', {})",
            key.0, key.1
        );
        assert_eq!(self.world.rows(&sql).await, Value::from(wanted), "{sql}");
    }
}

fn shown(key: &Key, row: &Row) -> Vec<Value> {
    let at = format!("10:00:{:02}", row.offset % 60);
    vec![json!(key.1), json!(key.0), json!(row.note), json!(at)]
}

fn sorted(rows: Value) -> Vec<String> {
    let mut rows: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    rows.sort();
    rows
}

fn key(region: &str, id: i64) -> Key {
    (region.into(), id)
}

fn upsert(region: &str, id: i64, note: &str) -> (Key, Option<Option<String>>) {
    (key(region, id), Some(Some(note.into())))
}

fn delete(region: &str, id: i64) -> (Key, Option<Option<String>>) {
    (key(region, id), None)
}

fn any_key() -> impl Strategy<Value = Key> {
    (prop::sample::select(vec!["eu", "us"]), 0i64..6).prop_map(|(region, id)| key(region, id))
}

fn any_step() -> impl Strategy<Value = Step> {
    let note = prop::option::of(prop::sample::select(vec!["x", "y"]).prop_map(str::to_owned));
    let change = prop_oneof![4 => note.prop_map(Some), 1 => Just(None)];
    let flush = prop::collection::vec((any_key(), change), 1..8).prop_map(Step::Flush);
    let picks = prop::collection::vec(any::<prop::sample::Index>(), 1..4).prop_map(Step::Compact);
    prop_oneof![4 => flush, 1 => picks]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn every_version_difference_and_key_is_as_the_model_says(
        steps in prop::collection::vec(any_step(), 1..9),
        pairs in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 4),
        keys in prop::collection::vec(any_key(), 4),
        named in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut case = Case::new().await;
            for step in &steps {
                case.step(step).await;
            }
            let count = case.versions.len();
            let named = named.index(count);
            case.world.rows(&format!(
                "CREATE SNAPSHOT kept FOR TABLE orders AS OF VERSION {named}"
            )).await;
            for version in 0..count {
                case.check_version(version).await;
            }
            for (a, b) in pairs {
                let (a, b) = (a.index(count), b.index(count));
                case.check_changes(a.min(b), a.max(b)).await;
            }
            for key in &keys {
                case.check_key(key).await;
            }
            // A later flush changes nothing of what the name stands for.
            case.step(&Step::Flush(vec![upsert("eu", 0, "later"), delete("us", 0)])).await;
            let by_name = case.rows("SELECT * FROM orders VERSION AS OF 'kept'").await;
            let by_number = format!("SELECT * FROM orders VERSION AS OF {named}");
            assert_eq!(by_name, case.rows(&by_number).await);
            case.check_version(named).await;
            case.check_changes(named, count).await;
        });
    }
}

/// Versions: 1 and 2 write, 3 compacts, 4 updates one row to the same value and deletes another.
async fn small() -> Case {
    let mut case = Case::new().await;
    let all = (0..6).map(|id| upsert("eu", id, "a")).collect();
    case.step(&Step::Flush(all)).await;
    case.step(&Step::Flush(vec![upsert("eu", 1, "b")])).await;
    let names: Vec<_> = case.files.keys().cloned().collect();
    let before = case.files.clone();
    let mut rows = Vec::new();
    for name in names {
        let stored = case.files.remove(&name).unwrap();
        let live = stored.rows.into_iter().enumerate();
        rows.extend(
            live.filter(|(at, _)| !stored.dead.contains(&(*at as u64)))
                .map(|(_, r)| r),
        );
    }
    case.write(rows).await;
    let model = case.model().clone();
    case.commit(before, model, false).await;
    let changes = vec![upsert("eu", 2, "a"), delete("eu", 3)];
    case.step(&Step::Flush(changes)).await;
    case
}

#[tokio::test]
async fn compaction_is_no_change_and_the_same_value_again_is() {
    let case = small().await;
    let moved = case
        .rows("SELECT * FROM table_changes('orders', 2, 3)")
        .await;
    assert_eq!(moved, Vec::<String>::new());
    let changes = "SELECT id, _change_type FROM table_changes('orders', 3) ORDER BY id, 2 DESC";
    let wanted = json!([
        [2, "update_preimage"],
        [2, "update_postimage"],
        [3, "delete"]
    ]);
    assert_eq!(case.world.rows(changes).await, wanted);
    let none = case
        .rows("SELECT * FROM table_changes('orders', 4, 4)")
        .await;
    assert_eq!(none, Vec::<String>::new());
    let counted = "SELECT count(*) FROM table_changes('orders', 0, 4)";
    assert_eq!(case.world.rows(counted).await, json!([[5]]));
}

#[tokio::test]
async fn unchanged_files_are_not_read() {
    let mut case = small().await;
    let untouched: Vec<_> = case.files.keys().cloned().collect();
    // A row that no file has: nothing of the older files changes.
    case.step(&Step::Flush(vec![upsert("us", 9, "new")])).await;
    for name in untouched {
        case.table.delta.store().delete(&name).await.unwrap();
    }
    let changes = "SELECT id, note, _change_type FROM table_changes('orders', 4, 5)";
    assert_eq!(
        case.world.rows(changes).await,
        json!([[9, "new", "insert"]])
    );
}

/// The rows that differ take several times the memory that there is.
#[tokio::test]
async fn a_large_difference_is_sorted_on_disk() {
    const ROWS: i64 = 6000;
    let mut case = Case::with(QuerySettings {
        memory_bytes_max: 32 << 20,
        target_partitions: 1,
        batch_rows: 256,
        ..QuerySettings::default()
    })
    .await;
    let note = |id: i64, text: &str| format!("{id:05}{}", text.repeat(5000));
    let all = (0..ROWS)
        .map(|id| upsert("eu", id, &note(id, "a")))
        .collect();
    case.step(&Step::Flush(all)).await;
    let before = std::mem::take(&mut case.files);
    let model: Model = case.model().clone();
    let rewritten = model.into_iter().map(|(key, row)| {
        let row = Row {
            note: Some(note(key.1, "b")),
            offset: row.offset + ROWS,
        };
        (key, row)
    });
    let model: Model = rewritten.collect();
    case.write(model.clone().into_iter().collect()).await;
    case.commit(before, model, true).await;
    let sql = "SELECT _change_type, count(*), sum(length(note)), min(note) < 'b', count(DISTINCT id) \
               FROM table_changes('orders', 1, 2) GROUP BY 1";
    let wanted = json!([
        ["update_postimage", ROWS, ROWS * 5005, true, ROWS],
        ["update_preimage", ROWS, ROWS * 5005, true, ROWS],
    ]);
    assert_eq!(sorted(case.world.rows(sql).await), sorted(wanted));
    let plan = case
        .world
        .rows(&format!("EXPLAIN ANALYZE {sql}"))
        .await
        .to_string();
    let spills: u64 = plan
        .split("spill_count=")
        .skip(1)
        .filter_map(|rest| rest.split([',', ']']).next()?.parse::<u64>().ok())
        .sum();
    assert!(spills > 0, "{plan}");
}

#[tokio::test]
async fn what_can_not_be_compared_is_refused() {
    let case = small().await;
    let world = &case.world;
    for (sql, status, code) in [
        (
            "SELECT * FROM table_changes('orders', 3, 2)",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM table_changes('orders', 3, 99)",
            404,
            "VERSION_NOT_FOUND",
        ),
        (
            "SELECT * FROM table_changes('orders', 99)",
            404,
            "VERSION_NOT_FOUND",
        ),
        (
            "SELECT * FROM table_changes('orders', 'nothing')",
            404,
            "SNAPSHOT_NOT_FOUND",
        ),
        (
            "SELECT * FROM table_changes('order', 1)",
            404,
            "TABLE_NOT_FOUND",
        ),
        (
            "SELECT * FROM key_history('orders', 'eu')",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM key_history('orders', 'eu', 'x')",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM key_history('orders', 1, 1)",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM orders VERSION AS OF 'nothing'",
            404,
            "SNAPSHOT_NOT_FOUND",
        ),
    ] {
        assert_eq!(
            world.code(json!({"sql": sql})).await,
            (status, code.into()),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn a_key_s_history_begins_where_the_log_does() {
    let case = small().await;
    let store = case.table.delta.store();
    let second = case
        .table
        .delta
        .snapshot_at(tidelake_core::TableVersion(2))
        .await
        .unwrap();
    case.table.delta.write_checkpoint(&second).await.unwrap();
    for version in 0..2 {
        store
            .delete(&format!("_delta_log/{version:020}.json"))
            .await
            .unwrap();
    }
    let of = |id| {
        format!("SELECT _commit_version, _change_type, note FROM key_history('orders', 'eu', {id})")
    };
    assert_eq!(case.world.rows(&of(1)).await, json!([[2, "existing", "b"]]));
    let by_text = "SELECT note FROM key_history('orders', '[\"eu\",1]')";
    assert_eq!(case.world.rows(by_text).await, json!([["b"]]));
    let gone = json!([[4, "delete", null], [2, "existing", "a"]]);
    assert_eq!(case.world.rows(&of(3)).await, gone);
    assert_eq!(case.world.rows(&of(77)).await, json!([]));
}

/// Its rows have no sequence, so that only the commit can say whether they are others.
#[tokio::test]
async fn rows_that_another_engine_rewrote_are_told_by_its_commit() {
    let mut case = small().await;
    let of = "SELECT _commit_version, note FROM key_history('orders', 'eu', 5)";
    for (data_change, wanted) in [
        (false, json!([[1, "a"]])),
        (true, json!([[6, "a"], [1, "a"]])),
    ] {
        let held = |stored: &&Stored| {
            let place = stored
                .rows
                .iter()
                .position(|(held, _)| *held == key("eu", 5));
            place.is_some_and(|place| !stored.dead.contains(&(place as u64)))
        };
        let stored = case.files.values().find(held).unwrap().clone();
        case.files.remove(&stored.add.path);
        let live = stored.rows.iter().enumerate();
        let live = live.filter(|(place, _)| !stored.dead.contains(&(*place as u64)));
        let live: Vec<_> = live.map(|(_, row)| row.clone()).collect();
        let batch = case.sealed(0, &live).chunks[0].batch.clone();
        let add = Add {
            data_change,
            ..case.table.write(&batch).await
        };
        let remove = stored.add.to_remove(1, data_change);
        let path = add.path.clone();
        let (rows, dead) = (live, BTreeSet::new());
        let stored = Stored {
            add: add.clone(),
            rows,
            dead,
        };
        case.files.insert(path, stored);
        let tx = Transaction {
            operation: "OPTIMIZE".into(),
            adds: vec![add],
            removes: vec![remove],
            ..Transaction::default()
        };
        case.table.commit(tx).await;
        assert_eq!(case.world.rows(of).await, wanted);
    }
    let changes = "SELECT _change_type, note FROM table_changes('orders', 4) WHERE id = 5";
    let updated = json!([["update_preimage", "a"], ["update_postimage", "a"]]);
    assert_eq!(case.world.rows(changes).await, updated);
}

#[tokio::test]
async fn an_append_table_has_inserts_and_deletes_only() {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true}]}"#;
    let mut table = world.table("events", schema, 1).await;
    let rows: Vec<_> = (0..4).map(|id| json!({"id": id})).collect();
    table.push(0, &rows);
    table.flush(0, 2).await;
    table.flush(0, 4).await;
    table.delete("part-00001.parquet", &[1]).await;
    let changes = |from, to| {
        format!(
            "SELECT id, _change_type, _commit_version FROM table_changes('events', {from}, {to}) ORDER BY 1"
        )
    };
    assert_eq!(
        world.rows(&changes(1, 2)).await,
        json!([[2, "insert", 2], [3, "insert", 2]])
    );
    assert_eq!(world.rows(&changes(2, 3)).await, json!([[1, "delete", 3]]));
    let all = json!([[0, "insert", 3], [2, "insert", 3], [3, "insert", 3]]);
    assert_eq!(world.rows(&changes(0, 3)).await, all);
    let case = json!({"sql": "SELECT * FROM key_history('events', 1)"});
    assert_eq!(world.code(case).await, (400, "SQL_INVALID".into()));
}

#[tokio::test]
async fn history_tells_rows_that_came_and_went() {
    let case = small().await;
    let sql = "SELECT version, operation, rows_added, rows_deleted, engine LIKE 'Tidelake/%', watermarks \
               FROM table_history('orders') WHERE version IN (1, 2)";
    let wanted = json!([
        [2, "FLUSH", 1, 1, true, "{}"],
        [1, "FLUSH", 6, 0, true, "{}"]
    ]);
    assert_eq!(case.world.rows(sql).await, wanted);
}

#[tokio::test]
async fn names_are_made_listed_read_and_dropped_by_statements() {
    let case = small().await;
    let world = &case.world;
    let run = |sql: &'static str| json!({"sql": sql});
    let made = world
        .rows("CREATE SNAPSHOT first FOR TABLE orders AS OF VERSION 1")
        .await;
    assert_eq!((&made[0][0], &made[0][1]), (&json!("first"), &json!(1)));
    let newest = world.rows("CREATE SNAPSHOT newest FOR TABLE orders").await;
    assert_eq!(newest[0][1], 4);
    let at = world
        .rows("SELECT name, version FROM table_snapshots('orders') ORDER BY 1")
        .await;
    assert_eq!(at, json!([["first", 1], ["newest", 4]]));
    let same = "SELECT (SELECT timestamp FROM table_snapshots('orders') WHERE name = 'first') = \
                (SELECT timestamp FROM table_history('orders') WHERE version = 1)";
    assert_eq!(world.rows(same).await, json!([[true]]));
    let counted = json!({"sql": "SELECT count(*) FROM orders", "as_of_version": "first"});
    assert_eq!(world.rows_of(counted).await, json!([[6]]));
    let between = "SELECT count(*) FROM table_changes('orders', 'first', 'newest')";
    assert_eq!(world.rows(between).await, json!([[5]]));

    for (sql, status, code) in [
        (
            "CREATE SNAPSHOT first FOR TABLE orders",
            409,
            "SNAPSHOT_EXISTS",
        ),
        (
            "CREATE SNAPSHOT x FOR TABLE orders AS OF VERSION 9",
            404,
            "VERSION_NOT_FOUND",
        ),
        (
            "CREATE SNAPSHOT x FOR TABLE nothing",
            404,
            "TABLE_NOT_FOUND",
        ),
        (
            "DROP SNAPSHOT x FOR TABLE orders",
            404,
            "SNAPSHOT_NOT_FOUND",
        ),
    ] {
        let (parts, body) = world.sql(run(sql)).await;
        assert_eq!(
            (parts.status.as_u16(), body["code"].as_str()),
            (status, Some(code)),
            "{sql}"
        );
        if code == "SNAPSHOT_EXISTS" {
            assert!(
                body["detail"]
                    .as_str()
                    .unwrap()
                    .ends_with("keeps version 1"),
                "{body}"
            );
        }
    }
    let read_only = "/v1/sql?sql=DROP%20SNAPSHOT%20first%20FOR%20TABLE%20orders";
    let (parts, _) = world
        .http(HttpRequest::get(read_only).body(Body::empty()).unwrap())
        .await;
    assert_eq!(parts.status, 405);
    world.rows("DROP SNAPSHOT first FOR TABLE orders").await;
    let gone = json!({"sql": "SELECT 1 FROM orders", "as_of_version": "first"});
    assert_eq!(world.code(gone).await, (404, "SNAPSHOT_NOT_FOUND".into()));
}

#[tokio::test]
async fn names_are_made_listed_and_dropped_by_routes() {
    let case = small().await;
    let call = async |method: &str, path: &str, body: Value| {
        let request = HttpRequest::builder().method(method).uri(path);
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (parts, bytes) = case.world.http(request).await;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (parts.status.as_u16(), body)
    };
    let all = "/v1/tables/orders/snapshots";
    let (status, made) = call("POST", all, json!({"name": "a", "version": 2})).await;
    assert_eq!(
        (status, &made["version"], &made["name"]),
        (201, &json!(2), &json!("a"))
    );
    assert_eq!(call("POST", all, json!({"name": "a"})).await.0, 409);
    assert_eq!(
        call("POST", all, json!({"name": "b", "version": "a"}))
            .await
            .1["version"],
        2
    );
    assert_eq!(
        call("POST", all, json!({"name": "c"})).await.1["version"],
        4
    );
    let (status, listed) = call("GET", all, Value::Null).await;
    assert_eq!(
        (status, listed["snapshots"].as_array().unwrap().len()),
        (200, 3)
    );
    assert_eq!(listed["snapshots"][0], made);
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": "A"}), "name"),
        (json!({"name": 1}), "name"),
        (json!({"name": "d", "version": -1}), "version"),
        (
            json!({"name": "d", "version": 1, "timestamp": "2026-01-01"}),
            "timestamp",
        ),
        (json!({"name": "d", "timestamp": "soon"}), "timestamp"),
    ] {
        let (status, problem) = call("POST", all, body.clone()).await;
        assert_eq!(
            (status, problem["field"].as_str()),
            (400, Some(field)),
            "{body}"
        );
    }
    assert_eq!(call("POST", all, json!({"name": "d", "x": 1})).await.0, 400);
    assert_eq!(
        call("DELETE", &format!("{all}/a"), Value::Null).await.0,
        204
    );
    assert_eq!(
        call("DELETE", &format!("{all}/a"), Value::Null).await.0,
        404
    );
    assert_eq!(
        call("GET", "/v1/tables/nothing/snapshots", Value::Null)
            .await
            .0,
        404
    );
    assert_eq!(
        call("GET", "/v1/tables/No%20table/snapshots", Value::Null)
            .await
            .0,
        404
    );
}
