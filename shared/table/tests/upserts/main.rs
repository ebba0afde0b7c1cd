//! Random histories of an upsert table against an ordered map: two flushers with states of their
//! own; deletes, rewrites, restores and changes of the columns by other writers in between; every
//! version read back row by row.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod alters;
mod compacts;
mod doctor;
mod failing;
mod loading;
mod others;
mod reading;
mod schema_changes;
mod shape;
mod two_writers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
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
    Memtable, Positions, StateLoader, TAG_INDEX, UpsertBucket, VECTOR_IDS, encode,
};

use alters::{Change, Columns};
use compacts::{Compaction, compaction};
use shape::{Shape, shapes};

const TOPIC: TopicId = TopicId([7; 16]);
const KEYS: u32 = 40;

/// One record: key, and its value or none for a delete.
type Record = (u32, Option<Option<i64>>);

#[derive(Debug, Clone)]
enum Step {
    /// A flusher commits records of a bucket.
    Flush {
        writer: usize,
        buckets: Vec<(u32, Vec<Vec<Record>>)>,
        on: Base,
    },
    /// Another engine deletes some rows.
    Delete { every: u64, file: usize },
    /// Our compactor ends a rewrite.
    Compact(Compaction),
    /// Another writer rewrites a file.
    Rewrite { file: usize },
    /// Another engine restores an older version: rows come back to life.
    Restore { version: usize, columns: bool },
    /// Another engine changes the columns.
    Alter(Change),
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

/// What a flusher knows of the table as it commits.
#[derive(Debug, Clone, Copy)]
enum Base {
    /// The newest version, which its rows were decoded by.
    Newest,
    /// The newest version; its rows were decoded before.
    Late,
    /// What it knew last.
    Old,
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
    let base = prop_oneof![5 => Just(Base::Newest), 3 => Just(Base::Late), 3 => Just(Base::Old)];
    let present = any::<i64>().prop_map(|value| Some(Some(value)));
    let records = prop::collection::vec((0..KEYS, present), 1..12);
    prop_oneof![
        8 => (0..2usize, buckets, base)
            .prop_map(|(writer, buckets, on)| Step::Flush { writer, buckets, on }),
        2 => (2..5u64, any::<usize>()).prop_map(|(every, file)| Step::Delete { every, file }),
        4 => compaction().prop_map(Step::Compact),
        2 => any::<usize>().prop_map(|file| Step::Rewrite { file }),
        1 => (any::<usize>(), any::<bool>())
            .prop_map(|(version, columns)| Step::Restore { version, columns }),
        3 => alters::change().prop_map(Step::Alter),
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
    /// By whose columns its rows are decoded.
    decoded_by: Arc<Snapshot>,
    home: Arc<IndexHome>,
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
    /// The last version that changed the columns, and the last that restored older ones.
    altered: u64,
    restored: u64,
    /// The last version that brought older rows back.
    revived: u64,
    /// Columns that were ever added.
    extras: u32,
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
            let home = Arc::new(home);
            Writer {
                table: table.clone(),
                base: Arc::clone(&base),
                decoded_by: Arc::clone(&base),
                loader: loader(shape, &base, &home),
                home,
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
            altered: 0,
            restored: 0,
            revived: 0,
            extras: 0,
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
                on,
            } => {
                match on {
                    Base::Newest => self.reopen(*writer).await,
                    Base::Late => self.look(*writer).await,
                    Base::Old => {}
                }
                self.commit_rows(*writer, buckets).await;
            }
            Step::Delete { every, file } => self.delete(*every, *file).await,
            Step::Compact(how) => self.compact(how).await,
            Step::Rewrite { file } => self.rewrite(*file).await,
            Step::Restore { version, columns } => self.restore(*version, *columns).await,
            Step::Alter(change) => self.change(change).await,
            Step::Insert { bucket, records } => self.insert(*bucket, records).await,
            Step::Optimize => self.optimize().await,
            Step::Restart { writer } => self.writers[*writer].states.clear(),
        }
        let snapshot = self.latest().await;
        self.versions
            .insert(snapshot.version().0, self.model.clone());
    }

    /// A writer looks at the newest version, and holds rows that were decoded before. Columns that
    /// were restored may have the ids of others that are gone: such rows are decoded again.
    async fn look(&mut self, writer: usize) {
        let latest = self.latest().await;
        let own = &mut self.writers[writer];
        if own.base.metadata().schema_string != latest.metadata().schema_string {
            own.loader = loader(self.shape, &latest, &own.home);
            own.states.clear();
        }
        if own.decoded_by.version().0 < self.restored {
            own.decoded_by = Arc::clone(&latest);
        }
        own.base = latest;
    }

    /// A writer begins anew from the newest version.
    async fn reopen(&mut self, writer: usize) {
        self.look(writer).await;
        let own = &mut self.writers[writer];
        own.decoded_by = Arc::clone(&own.base);
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
                let columns = Columns::of(&own.decoded_by);
                fill(self.shape, &columns, memtable, offset, message);
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
        if fresh {
            self.reopen(writer).await;
        }
        self.commit_rows(writer, records).await;
    }

    /// A writer commits on top of what it knows, and learns from how that ends.
    async fn commit_rows(&mut self, writer: usize, records: &Records) {
        let latest = self.latest().await;
        let request = self.request(writer, records).await;
        let FlushRows::Upsert { buckets, .. } = &request.rows else {
            panic!("an upsert table")
        };
        let fenced = buckets.iter().any(|held| {
            let mark = latest.watermark(&TOPIC, held.sealed.bucket);
            mark.unwrap_or_default() != held.sealed.from
        });
        let own = &self.writers[writer];
        let rows = buckets.iter().any(|held| !held.sealed.chunks.is_empty());
        let fits = !rows || alters::same_columns(&own.decoded_by, &own.base);
        let altered = own.base.version().0 < self.altered;
        let schema = |snapshot: &Snapshot| snapshot.metadata().schema_string.clone();
        // Columns that came and went again while the writer lost another race don't matter.
        let same = schema(&own.base) == schema(&latest);
        let own = &mut self.writers[writer];
        let flushed = request.run(&own.table, &own.base).await.unwrap();
        own.states.extend(flushed.states);
        match flushed.outcome {
            FlushOutcome::Committed(flushed) => {
                assert!(!fenced, "a zombie committed");
                assert!(same && fits, "rows of other columns were committed");
                assert_eq!(flushed.version, latest.version().next());
                own.base = flushed.snapshot;
                apply(&mut self.model, records);
                // What the writer did not know before may be older than a column.
                self.check_new_files(&latest, writer).await;
                self.check_new_vectors(&latest, writer);
            }
            FlushOutcome::Conflicted(Conflict::WatermarkMoved { .. }) => assert!(fenced),
            FlushOutcome::Conflicted(
                Conflict::SchemaChanged | Conflict::PropertiesChanged | Conflict::ProtocolChanged,
            ) => {
                assert!(altered || !fits, "nothing had changed");
                self.reopen(writer).await;
            }
            FlushOutcome::Conflicted(other) => panic!("unexpected conflict: {other}"),
        }
    }
}

fn loader(shape: Shape, base: &Snapshot, home: &Arc<IndexHome>) -> StateLoader {
    let delta_schema = &base.metadata().schema_string;
    let loader = StateLoader::new(
        base.schema(),
        delta_schema,
        shape.owners(),
        Arc::clone(home),
    );
    loader.unwrap().unwrap()
}

fn uuid() -> uuid::Uuid {
    ids::random().next_uuid()
}

/// One message's records into a memtable.
fn fill(shape: Shape, columns: &Columns, memtable: &mut Memtable, offset: i64, records: &[Record]) {
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
        let batch = columns.rows(shape.key_columns(&keys), &values);
        memtable.push(Chunk::new(batch, positions(&rows)));
    }
    let deleted: Vec<(u32, u32)> = numbered()
        .filter(|(_, (_, value))| value.is_none())
        .map(|(row, (key, _))| (row as u32, *key))
        .collect();
    if !deleted.is_empty() {
        let (rows, keys): (Vec<u32>, Vec<u32>) = deleted.into_iter().unzip();
        let keys = columns.keys(shape.delete_columns(&keys));
        memtable.delete(Deletes::new(keys, positions(&rows)));
    }
    memtable.advance(Watermark(offset + 1));
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
            world.reopen(0).await;
            world.reopen(1).await;
            world.check_versions().await;
            world.check_states().await;
            world.check_doctor().await;
        });
    }
}
