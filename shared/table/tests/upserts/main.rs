//! Random histories of an upsert table against an ordered map: two flushers with states of their
//! own, deletes and rewrites by other writers in between, every version read back row by row.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod doctor;
mod loading;
mod schema_changes;
mod two_writers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use tidelake_core::{Bucket, TableVersion, TopicId, Watermark, clock, ids};
use tidelake_manifest::action::{Action, Add, CommitInfo, TAG_BUCKET, write_commit};
use tidelake_manifest::stats::widened;
use tidelake_manifest::{
    CommitOutcome, Conflict, CreateTable, DataFile, DeltaTable, Snapshot, Transaction, vector,
};
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::{Identity, conform, to_arrow};
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::check::check;
use tidelake_table::index::{IndexHome, KeySpec};
use tidelake_table::{
    BucketState, Chunk, Deletes, FileLayout, FileSettings, Flush, FlushOutcome, FlushRows,
    Memtable, Owners, Positions, StateLoader, TAG_INDEX, UpsertBucket, VECTOR_IDS, encode,
};

const TOPIC: TopicId = TopicId([7; 16]);
const KEYS: u32 = 40;

/// What the primary key is made of.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Long,
    TextAndInt,
    /// All keys begin alike, for longer than any prefix that an index could keep.
    LongText,
}

impl Shape {
    fn schema(self) -> TableSchema {
        let (key, ids) = match self {
            Self::Long => (
                r#"{"id":1,"name":"k","required":true,"type":"long"}"#,
                "[1]",
            ),
            Self::LongText => (
                r#"{"id":1,"name":"k","required":true,"type":"string"}"#,
                "[1]",
            ),
            Self::TextAndInt => (
                r#"{"id":1,"name":"k","required":true,"type":"string"},
                   {"id":2,"name":"n","required":true,"type":"int"}"#,
                "[2,1]",
            ),
        };
        TableSchema::from_iceberg_json(&format!(
            r#"{{"type":"struct","schema-id":0,"identifier-field-ids":{ids},"fields":[{key},
                {{"id":3,"name":"v","required":false,"type":"long"}}]}}"#
        ))
        .unwrap()
    }

    fn key_columns(self, keys: &[u32]) -> Vec<ArrayRef> {
        let texts = |text: fn(u32) -> String| -> ArrayRef {
            Arc::new(
                keys.iter()
                    .map(|key| Some(text(*key)))
                    .collect::<StringArray>(),
            )
        };
        match self {
            Self::Long => {
                let longs = keys
                    .iter()
                    .map(|key| i64::from(*key) * 1_000_003 - 20_000_000);
                vec![Arc::new(longs.collect::<Int64Array>())]
            }
            Self::LongText => vec![texts(|key| format!("https://example.org/items/{key:05}"))],
            Self::TextAndInt => {
                let ints = keys.iter().map(|key| (*key % 5) as i32 - 2);
                vec![
                    texts(|key| format!("a\0{}", key / 5)),
                    Arc::new(ints.collect::<Int32Array>()),
                ]
            }
        }
    }

    /// Key columns in key order, as deletes have them.
    fn delete_columns(self, keys: &[u32]) -> Vec<ArrayRef> {
        let mut columns = self.key_columns(keys);
        columns.reverse();
        columns
    }

    /// The bucket of each key: whether it is odd.
    fn owners(self) -> Owners {
        Owners::new(2, move |keys| {
            let columns = keys.columns().len();
            // In the table's order again.
            let places: Vec<usize> = (0..columns).rev().collect();
            let table = keys.project(&places).unwrap();
            let buckets = (0..keys.num_rows()).map(|row| self.key_of(&table, row) % 2);
            Ok(buckets.collect())
        })
    }

    fn key_of(self, batch: &RecordBatch, row: usize) -> u32 {
        match self {
            Self::Long => {
                let value = batch.column(0).as_primitive::<Int64Type>().value(row);
                ((value + 20_000_000) / 1_000_003) as u32
            }
            Self::LongText => {
                let text = batch.column(0).as_string::<i32>().value(row);
                text.rsplit('/').next().unwrap().parse().unwrap()
            }
            Self::TextAndInt => {
                let text = batch.column(0).as_string::<i32>().value(row);
                let int = batch.column(1).as_primitive::<Int32Type>().value(row);
                text.trim_start_matches("a\0").parse::<u32>().unwrap() * 5 + (int + 2) as u32
            }
        }
    }
}

/// One record: key, and its value or none for a delete.
type Record = (u32, Option<Option<i64>>);

#[derive(Debug, Clone)]
enum Step {
    /// A flusher commits records of a bucket; `fresh`: it looked at the newest version before.
    Flush {
        writer: usize,
        buckets: Vec<(u32, Vec<Vec<Record>>)>,
        fresh: bool,
    },
    /// Another engine deletes some rows.
    Delete { every: u64, file: usize },
    /// Another writer rewrites a file.
    Rewrite { file: usize },
    /// Another engine restores an older version: rows come back to life.
    Restore { version: usize },
    /// Another engine inserts rows of keys that have none, in a file of a bucket or of all of them.
    Insert {
        bucket: Option<u32>,
        records: Vec<Record>,
    },
    /// Another engine writes all live rows anew, into one file of all buckets.
    Optimize,
    /// A flusher forgets all it knows.
    Restart { writer: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        6 => any::<i64>().prop_map(|value| Some(Some(value))),
        1 => Just(Some(None)),
        2 => Just(None),
    ];
    let message = prop::collection::vec((0..KEYS, value), 1..6);
    let messages = prop::collection::vec(message, 1..6);
    let buckets = (0..2u32, messages).prop_map(|(bucket, messages)| {
        let messages = messages.into_iter().map(|records| of(bucket, records));
        (bucket, messages.collect::<Vec<_>>())
    });
    let buckets = prop::collection::vec(buckets, 1..3);
    let present = any::<i64>().prop_map(|value| Some(Some(value)));
    let records = prop::collection::vec((0..KEYS, present), 1..12);
    prop_oneof![
        8 => (0..2usize, buckets, prop::bool::weighted(0.7))
            .prop_map(|(writer, buckets, fresh)| Step::Flush { writer, buckets, fresh }),
        2 => (2..5u64, any::<usize>()).prop_map(|(every, file)| Step::Delete { every, file }),
        2 => any::<usize>().prop_map(|file| Step::Rewrite { file }),
        1 => any::<usize>().prop_map(|version| Step::Restore { version }),
        1 => (0..2u32, records.clone())
            .prop_map(|(bucket, records)| Step::Insert { bucket: Some(bucket), records: of(bucket, records) }),
        2 => records.prop_map(|records| Step::Insert { bucket: None, records }),
        1 => Just(Step::Optimize),
        1 => (0..2usize).prop_map(|writer| Step::Restart { writer }),
    ]
}

/// Records of a bucket: of keys that belong to it.
fn of(bucket: u32, records: Vec<Record>) -> Vec<Record> {
    let records = records.into_iter();
    records
        .map(|(key, value)| (key / 2 * 2 + bucket, value))
        .collect()
}

/// Buckets with their messages.
type Records = [(u32, Vec<Vec<Record>>)];

/// What records do, by the rules that users know.
fn apply(rows: &mut Rows, records: &Records) {
    for (bucket, messages) in records {
        for (key, value) in messages.iter().flatten() {
            match value {
                Some(value) => rows.insert((*bucket, *key), *value),
                None => rows.remove(&(*bucket, *key)),
            };
        }
    }
}

type Rows = BTreeMap<(u32, u32), Option<i64>>;

/// Physical row to bucket, key and value.
type FileRows = BTreeMap<u64, (u32, u32, Option<i64>)>;

struct Writer {
    /// As this writer reaches it: its requests may fail or wait.
    table: DeltaTable,
    base: Arc<Snapshot>,
    loader: StateLoader,
    states: BTreeMap<Bucket, BucketState>,
}

struct World {
    shape: Shape,
    schema: TableSchema,
    table: DeltaTable,
    writers: Vec<Writer>,
    model: Rows,
    versions: BTreeMap<u64, Rows>,
    homes: tempfile::TempDir,
}

impl World {
    async fn new(shape: Shape) -> Self {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let table = DeltaTable::new(store, clock::system(), ids::random());
        let schema = shape.schema();
        let created = table
            .create(CreateTable {
                name: "t".into(),
                schema: schema.clone(),
                append_only: false,
                properties: BTreeMap::new(),
                first_version: TableVersion(0),
            })
            .await
            .unwrap();
        let base = Arc::clone(created.snapshot());
        let homes = tempfile::tempdir().unwrap();
        let writers = (0..2).map(|writer| {
            let home = IndexHome::open(&homes.path().join(writer.to_string()), 256).unwrap();
            let delta_schema = &base.metadata().schema_string;
            let loader = StateLoader::new(&schema, delta_schema, shape.owners(), Arc::new(home));
            let loader = loader.unwrap();
            Writer {
                table: table.clone(),
                base: Arc::clone(&base),
                loader: loader.unwrap(),
                states: BTreeMap::new(),
            }
        });
        Self {
            shape,
            writers: writers.collect(),
            schema,
            table,
            model: Rows::new(),
            versions: BTreeMap::new(),
            homes,
        }
    }

    async fn latest(&self) -> Arc<Snapshot> {
        self.table.snapshot().await.unwrap()
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Flush {
                writer,
                buckets,
                fresh,
            } => self.flush(*writer, buckets, *fresh).await,
            Step::Delete { every, file } => self.delete(*every, *file).await,
            Step::Rewrite { file } => self.rewrite(*file).await,
            Step::Restore { version } => self.restore(*version).await,
            Step::Insert { bucket, records } => self.insert(*bucket, records).await,
            Step::Optimize => self.optimize().await,
            Step::Restart { writer } => self.writers[*writer].states.clear(),
        }
        let snapshot = self.latest().await;
        self.versions
            .insert(snapshot.version().0, self.model.clone());
    }

    /// What a writer would commit, on top of what it knows.
    async fn request(&self, writer: usize, records: &Records) -> Flush {
        let own = &self.writers[writer];
        let mut memtables: BTreeMap<u32, Memtable> = BTreeMap::new();
        for (bucket, messages) in records {
            let at = Bucket(*bucket);
            let from = own.base.watermark(&TOPIC, at).unwrap_or_default();
            let memtable = memtables
                .entry(*bucket)
                .or_insert_with(|| Memtable::new(at, from));
            for message in messages {
                let offset = memtable.to().0;
                fill(self.shape, &self.schema, memtable, offset, message);
            }
        }
        let mut buckets = Vec::new();
        for memtable in memtables.values_mut() {
            let sealed = memtable.seal();
            let previous = own.states.get(&sealed.bucket);
            let load = own
                .loader
                .load(&self.table, &own.base, sealed.bucket, previous);
            let (state, _) = load.await.unwrap();
            let file_id = uuid();
            buckets.push(UpsertBucket {
                sealed,
                state,
                file_id,
            });
        }
        Flush {
            topic_id: TOPIC,
            rows: FlushRows::Upsert {
                loader: own.loader.clone(),
                buckets,
                vector_ids: (0..VECTOR_IDS).map(|_| uuid()).collect(),
            },
            txns: Vec::new(),
            files: FileSettings::default(),
            reason: "test",
            now_ms: 1,
        }
    }

    async fn flush(&mut self, writer: usize, records: &Records, fresh: bool) {
        let latest = self.latest().await;
        if fresh {
            self.writers[writer].base = latest.clone();
        }
        let request = self.request(writer, records).await;
        let FlushRows::Upsert { buckets, .. } = &request.rows else {
            panic!("an upsert table")
        };
        let fenced = buckets.iter().any(|held| {
            let mark = latest.watermark(&TOPIC, held.sealed.bucket);
            mark.unwrap_or_default() != held.sealed.from
        });
        let own = &mut self.writers[writer];
        let flushed = request.run(&own.table, &own.base).await.unwrap();
        own.states.extend(flushed.states);
        match flushed.outcome {
            FlushOutcome::Committed(flushed) => {
                assert!(!fenced, "a zombie committed");
                assert_eq!(flushed.version, latest.version().next());
                own.base = flushed.snapshot;
                apply(&mut self.model, records);
            }
            FlushOutcome::Conflicted(Conflict::WatermarkMoved { .. }) => assert!(fenced),
            FlushOutcome::Conflicted(other) => panic!("unexpected conflict: {other}"),
        }
    }

    /// What another engine commits: by rules of its own, which are fewer than ours.
    async fn commit_of_others(&self, base: &Snapshot, tx: Transaction) {
        let info = CommitInfo {
            timestamp: Some(base.timestamp_ms() + 1),
            operation: Some(tx.operation),
            engine_info: Some("another".into()),
            ..CommitInfo::default()
        };
        let mut actions = vec![Action::CommitInfo(info)];
        actions.extend(tx.removes.into_iter().map(Action::Remove));
        actions.extend(tx.adds.into_iter().map(Action::Add));
        let name = format!("_delta_log/{:020}.json", base.version().next().0);
        let bytes = write_commit(&actions);
        self.table.store().put(&name, bytes.into()).await.unwrap();
    }

    async fn delete(&mut self, every: u64, file: usize) {
        let snapshot = self.latest().await;
        let files: Vec<_> = snapshot.files().cloned().collect();
        if files.is_empty() {
            return;
        }
        let file = &files[file % files.len()];
        let rows = self.rows_of(file).await;
        let mut deleted = self.dead(file).await;
        for (row, (bucket, key, _)) in &rows {
            if row % every == 0 && deleted.insert(*row) {
                self.model.remove(&(*bucket, *key));
            }
        }
        let all = deleted.len() as usize == rows.len();
        let vector = vector::inline(&deleted);
        let tx = Transaction {
            operation: "DELETE".into(),
            removes: vec![file.add.to_remove(1, true)],
            adds: (!all)
                .then(|| Add {
                    deletion_vector: Some(vector),
                    stats: Some(widened(file.add.stats.as_deref(), rows.len() as u64)),
                    ..file.add.clone()
                })
                .into_iter()
                .collect(),
            ..Transaction::default()
        };
        self.commit_of_others(&snapshot, tx).await;
    }

    /// Writes a file's live rows anew.
    async fn rewrite(&mut self, file: usize) {
        let snapshot = self.latest().await;
        let files: Vec<_> = snapshot.files().cloned().collect();
        if files.is_empty() {
            return;
        }
        let file = &files[file % files.len()];
        let dead = self.dead(file).await;
        let rows = self.rows_of(file).await;
        let live = rows.iter().filter(|(row, _)| !dead.contains(**row));
        let live: Vec<_> = live.map(|(_, row)| *row).collect();
        let mut adds = Vec::new();
        if let Some((bucket, ..)) = live.first() {
            let records: Vec<Record> = live.iter().rev().map(|(_, k, v)| (*k, Some(*v))).collect();
            adds.push(Add {
                data_change: false,
                ..match file.tag(TAG_BUCKET) {
                    Some(_) => self.file_of(*bucket, &records).await,
                    None => self.foreign_file(&records).await,
                }
            });
        }
        let tx = Transaction {
            operation: "OPTIMIZE".into(),
            removes: vec![file.add.to_remove(1, false)],
            adds,
            ..Transaction::default()
        };
        self.commit_of_others(&snapshot, tx).await;
    }

    /// Writes all live rows anew, as one file.
    async fn optimize(&mut self) {
        let snapshot = self.latest().await;
        let mut records: Vec<Record> = Vec::new();
        for file in snapshot.files() {
            let dead = self.dead(file).await;
            for (row, (_, key, value)) in self.rows_of(file).await {
                if !dead.contains(row) {
                    records.push((key, Some(value)));
                }
            }
        }
        if records.is_empty() {
            return;
        }
        let add = self.foreign_file(&records).await;
        let tx = Transaction {
            operation: "OPTIMIZE".into(),
            removes: snapshot
                .files()
                .map(|file| file.add.to_remove(1, false))
                .collect(),
            adds: vec![Add {
                data_change: false,
                ..add
            }],
            ..Transaction::default()
        };
        self.commit_of_others(&snapshot, tx).await;
    }

    /// A data file as other engines leave it: keys of all buckets, no tags, no hidden columns, and
    /// statistics or none.
    async fn foreign_file(&self, records: &[Record]) -> Add {
        let (keys, values): (Vec<u32>, Vec<Option<i64>>) = records
            .iter()
            .map(|(key, value)| (*key, value.unwrap()))
            .unzip();
        let mut columns = self.shape.key_columns(&keys);
        columns.push(Arc::new(Int64Array::from(values)));
        let fields = to_arrow(&self.schema);
        let fields = fields.fields().iter();
        // Most engines write no field ids.
        let fields = fields.map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
        let schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        let name = format!("part-{}.parquet", uuid().simple());
        let size = bytes.len() as i64;
        self.table.store().put(&name, bytes.into()).await.unwrap();
        let counted = !records.len().is_multiple_of(3);
        Add {
            path: name,
            size,
            data_change: true,
            stats: counted.then(|| format!(r#"{{"numRecords":{}}}"#, records.len())),
            ..Add::default()
        }
    }

    /// A data file of one bucket as another compactor leaves it: without an index sidecar.
    async fn file_of(&self, bucket: u32, records: &[Record]) -> Add {
        let mut memtable = Memtable::new(Bucket(bucket), Watermark(0));
        fill(self.shape, &self.schema, &mut memtable, 0, records);
        let sealed = [memtable.seal()];
        let layout = FileLayout::plain(&self.schema);
        let encoded = encode(&layout, &sealed, FileSettings::default());
        let encoded = encoded.unwrap().unwrap();
        let name = format!("{}.parquet", uuid().simple());
        let size = encoded.bytes.len() as i64;
        self.table.store().put(&name, encoded.bytes).await.unwrap();
        Add {
            path: name,
            size,
            data_change: true,
            stats: Some(encoded.stats.to_json()),
            tags: Some(BTreeMap::from([(
                TAG_BUCKET.into(),
                Some(bucket.to_string()),
            )])),
            ..Add::default()
        }
    }

    /// Inserts those of the records whose keys have no row.
    async fn insert(&mut self, bucket: Option<u32>, records: &[Record]) {
        let mut fresh = Rows::new();
        for (key, value) in records {
            let at = (key % 2, *key);
            if let Some(value) = value.filter(|_| !self.model.contains_key(&at)) {
                fresh.insert(at, value);
            }
        }
        if fresh.is_empty() {
            return;
        }
        let records: Vec<Record> = fresh.iter().map(|((_, k), v)| (*k, Some(*v))).collect();
        let tx = Transaction {
            operation: "WRITE".into(),
            adds: vec![match bucket {
                Some(bucket) => self.file_of(bucket, &records).await,
                None => self.foreign_file(&records).await,
            }],
            ..Transaction::default()
        };
        let base = self.latest().await;
        self.commit_of_others(&base, tx).await;
        self.model.extend(fresh);
    }

    /// The doctor finds nothing; and finds what is damaged on purpose.
    async fn check_doctor(&self) {
        let snapshot = self.latest().await;
        let loader = Some(&self.writers[0].loader);
        let checked = check(&self.table, &snapshot, &TOPIC, loader, false)
            .await
            .unwrap();
        assert!(checked.is_sound(), "{checked:?}");
        assert_eq!(checked.keys as usize, self.model.len());
        let Some(file) = snapshot.files().find(|file| file.tag(TAG_INDEX).is_some()) else {
            return;
        };
        let name = file.tag(TAG_INDEX).unwrap();
        let sidecar = self.table.store().get(name).await.unwrap();
        let mut damaged = sidecar.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        self.table.store().put(name, damaged.into()).await.unwrap();
        let checked = check(&self.table, &snapshot, &TOPIC, loader, false)
            .await
            .unwrap();
        assert_eq!(checked.problems, 1, "{checked:?}");
        // A reader goes by the file meanwhile.
        let bucket = file.buckets().unwrap()[0];
        let load = self.writers[0]
            .loader
            .load(&self.table, &snapshot, bucket, None);
        let (state, loaded) = load.await.unwrap();
        assert_eq!((loaded.damaged, state.live_rows() > 0), (1, true));
        let mended = check(&self.table, &snapshot, &TOPIC, loader, true)
            .await
            .unwrap();
        assert!(
            mended.is_sound() && mended.findings.len() == 1,
            "{mended:?}"
        );
        assert_eq!(self.table.store().get(name).await.unwrap(), sidecar);
        // A file of live keys comes in a second time.
        let twin = "twin.parquet";
        let bytes = self.table.store().get(file.path()).await.unwrap();
        self.table.store().put(twin, bytes).await.unwrap();
        let add = Add {
            path: twin.into(),
            ..file.add.clone()
        };
        let tx = Transaction::flush(vec![add], Vec::new());
        let outcome = self.table.commit(&snapshot, tx).await.unwrap();
        let CommitOutcome::Committed { snapshot, .. } = outcome else {
            panic!("no contention")
        };
        let checked = check(&self.table, &snapshot, &TOPIC, loader, true)
            .await
            .unwrap();
        let live = file.live_rows().unwrap();
        assert_eq!(checked.problems, live, "{checked:?}");
        assert!(
            checked
                .findings
                .iter()
                .all(|found| found.check == "each_key_is_live_once")
        );
    }

    async fn restore(&mut self, version: usize) {
        let versions: Vec<u64> = self.versions.keys().copied().collect();
        if versions.is_empty() {
            return;
        }
        let version = versions[version % versions.len()];
        let (now, then) = (
            self.latest().await,
            self.table.snapshot_at(TableVersion(version)).await.unwrap(),
        );
        let other = |file: &DataFile, in_: &Snapshot| {
            let found = in_.file(file.path());
            found.is_none_or(|found| found.dv() != file.dv())
        };
        let gone = now.files().filter(|file| other(file, &then));
        let back = then.files().filter(|file| other(file, &now));
        let tx = Transaction {
            operation: "RESTORE".into(),
            removes: gone.map(|file| file.add.to_remove(1, true)).collect(),
            adds: back.map(|file| file.add.clone()).collect(),
            ..Transaction::default()
        };
        if tx.removes.is_empty() && tx.adds.is_empty() {
            return;
        }
        self.commit_of_others(&now, tx).await;
        self.model = self.versions[&version].clone();
    }

    async fn dead(&self, file: &DataFile) -> vector::DeletedRows {
        match file.dv() {
            Some(dv) => self.table.deleted_rows(dv).await.unwrap(),
            None => vector::DeletedRows::new(),
        }
    }

    /// Physical row to bucket, key and value.
    async fn rows_of(&self, file: &DataFile) -> FileRows {
        let bytes = self.table.store().get(file.path()).await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap();
        let mut rows = BTreeMap::new();
        for batch in reader {
            let batch = batch.unwrap();
            let columns = self.schema.fields.len();
            let own = batch.schema();
            let names = self.schema.fields.iter().map(|field| field.name.as_str());
            let places: Vec<usize> = names.map(|name| own.index_of(name).unwrap()).collect();
            let stored = batch.project(&places).unwrap();
            let batch = conform(&stored, &to_arrow(&self.schema), Identity::Name).unwrap();
            let values = batch
                .column(columns - 1)
                .as_primitive::<Int64Type>()
                .clone();
            for row in 0..batch.num_rows() {
                let key = self.shape.key_of(&batch, row);
                let value = (!values.is_null(row)).then(|| values.value(row));
                rows.insert(rows.len() as u64, (key % 2, key, value));
            }
        }
        rows
    }

    /// Every version holds what the model says, each key once.
    async fn check_versions(&self) {
        for (version, model) in &self.versions {
            let snapshot = self
                .table
                .snapshot_at(TableVersion(*version))
                .await
                .unwrap();
            let mut found = Rows::new();
            for file in snapshot.files() {
                let dead = self.dead(file).await;
                let rows = self.rows_of(file).await;
                assert!(
                    (dead.len() as usize) < rows.len(),
                    "a file without live rows stays"
                );
                for (row, (bucket, key, value)) in rows {
                    if !dead.contains(row) {
                        let before = found.insert((bucket, key), value);
                        assert_eq!(before, None, "key {key} is live twice at {version}");
                    }
                }
            }
            assert_eq!(&found, model, "version {version}");
        }
    }

    /// The states say where every key is, in key order, and what is not there.
    async fn check_states(&self) {
        let snapshot = self.latest().await;
        let spec = KeySpec::of(&self.schema).unwrap();
        let mut contents: HashMap<String, FileRows> = HashMap::new();
        for file in snapshot.files() {
            contents.insert(file.path().to_owned(), self.rows_of(file).await);
        }
        let all: Vec<u32> = (0..KEYS).chain(0..3).collect();
        let key_fields = self.schema.identifier_fields();
        let fields = key_fields.iter().map(|field| {
            let own = to_arrow(&self.schema);
            Arc::new(own.field_with_name(&field.name).unwrap().clone())
        });
        let key_schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
        let keys = RecordBatch::try_new(key_schema, self.shape.delete_columns(&all)).unwrap();
        let keys = spec.keys(&keys).unwrap();
        for writer in &self.writers {
            for bucket in 0..2 {
                let previous = writer.states.get(&Bucket(bucket));
                let load = writer
                    .loader
                    .load(&self.table, &snapshot, Bucket(bucket), previous);
                let (state, _) = load.await.unwrap();
                let found = state.find(&keys).unwrap();
                for (key, place) in all.iter().zip(&found) {
                    let value = place.as_ref().map(|place| {
                        let (at, found, value) = contents[&*place.file][&u64::from(place.row)];
                        assert_eq!((at, found), (bucket, *key));
                        value
                    });
                    assert_eq!(value, self.model.get(&(bucket, *key)).copied(), "key {key}");
                }
                let everything = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                let range = state.range(everything.0, everything.1, usize::MAX).unwrap();
                let live = self.model.keys().filter(|(at, _)| *at == bucket).count();
                assert_eq!(range.len(), live);
                let first: Vec<_> = state.range(everything.0, everything.1, 3).unwrap();
                assert_eq!(first, range[..live.min(3)]);
                let mut sorted: Vec<u32> = all[..KEYS as usize].to_vec();
                sorted.sort_by_key(|key| keys.get(*key as usize));
                let live = sorted
                    .iter()
                    .filter(|key| self.model.contains_key(&(bucket, **key)));
                let in_order = live.map(|key| found[*key as usize].clone().unwrap());
                assert_eq!(range, in_order.collect::<Vec<_>>(), "not in key order");
            }
        }
        assert!(self.homes.path().exists());
    }
}

fn uuid() -> uuid::Uuid {
    ids::random().next_uuid()
}

/// One message's records into a memtable.
fn fill(
    shape: Shape,
    schema: &TableSchema,
    memtable: &mut Memtable,
    offset: i64,
    records: &[Record],
) {
    let positions = |rows: &[u32]| Positions {
        offsets: vec![offset; rows.len()],
        rows: rows.to_vec(),
        timestamps_ms: vec![0; rows.len()],
    };
    let numbered = || records.iter().enumerate();
    let (mut rows, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (row, (key, value)) in numbered() {
        if let Some(value) = value {
            rows.push(row as u32);
            keys.push(*key);
            values.push(*value);
        }
    }
    if !rows.is_empty() {
        let mut columns = shape.key_columns(&keys);
        columns.push(Arc::new(Int64Array::from(values)));
        let batch = RecordBatch::try_new(to_arrow(schema), columns).unwrap();
        memtable.push(Chunk::new(batch, positions(&rows)));
    }
    let deleted: Vec<(u32, u32)> = numbered()
        .filter(|(_, (_, value))| value.is_none())
        .map(|(row, (key, _))| (row as u32, *key))
        .collect();
    if !deleted.is_empty() {
        let (rows, keys): (Vec<u32>, Vec<u32>) = deleted.into_iter().unzip();
        let columns = shape.delete_columns(&keys);
        let own = to_arrow(schema);
        let fields = schema.identifier_fields();
        let fields: Vec<_> = fields
            .iter()
            .map(|field| Arc::new(own.field_with_name(&field.name).unwrap().clone()))
            .collect();
        let key_schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let keys = RecordBatch::try_new(key_schema, columns).unwrap();
        memtable.delete(Deletes::new(keys, positions(&rows)));
    }
    memtable.advance(Watermark(offset + 1));
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Long),
        Just(Shape::TextAndInt),
        Just(Shape::LongText)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_version_is_the_model_s(
        shape in shapes(),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(shape).await;
            for step in &steps {
                world.run(step).await;
            }
            world.check_versions().await;
            world.check_states().await;
            world.check_doctor().await;
        });
    }
}
