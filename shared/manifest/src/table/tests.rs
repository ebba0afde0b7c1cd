use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use object_store::memory::InMemory;
use proptest::prelude::*;
use tidelake_core::clock::{Clock, ManualClock};
use tidelake_core::ids::CountingIds;
use tidelake_core::{Bucket, ErrorKind, TopicId, Watermark};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::schema_string;
use tidelake_storage::faults::{Fault, FaultStore, Gate, Odds, Rule};
use tidelake_storage::{Operation, RetryPolicy, StorageError};

use super::*;
use crate::action::{
    Action, Add, Format, Metadata, NullableMap, Protocol, Remove, TAG_BUCKET, Txn, write_commit,
};
use crate::checkpointer::checkpoint_of;
use crate::commit_file::Commit;
use crate::conflict::Conflict;
use crate::features::NewTable;
use crate::lifetime::{CreateOutcome, CreateTable};
use crate::log_files::checkpoint_name;
use crate::rebase::{Rebased, rebase};
use crate::stats::Stats;

use crate::transaction::{CommitOutcome, MarkMove, Transaction};

mod engines;
mod lifetime;
mod sleepers;

const TOPIC: TopicId = TopicId(*b"0123456789abcdef");
const NOON_MS: i64 = 1_795_262_400_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A table in memory, with faults on demand and a clock that is moved by hand.
struct Fixture {
    faults: FaultStore,
    clock: Arc<ManualClock>,
    table: DeltaTable,
}

impl Fixture {
    fn new() -> Self {
        let faults = FaultStore::new(Arc::new(InMemory::new()));
        let store = Store::with_policy(Arc::new(faults.clone()), "memory://", RetryPolicy::QUICK);
        let clock = Arc::new(ManualClock::at(NOON_MS));
        let table = DeltaTable::new(
            store.scoped("t"),
            clock.clone(),
            Arc::new(CountingIds::default()),
        );
        Self {
            faults,
            clock,
            table,
        }
    }

    async fn created(append_only: bool) -> (Self, Arc<Snapshot>) {
        let fixture = Self::new();
        let outcome = fixture.table.create(spec(append_only)).await.unwrap();
        let CreateOutcome::Created(snapshot) = outcome else {
            panic!("{outcome:?}")
        };
        (fixture, snapshot)
    }

    /// Another engine commits.
    async fn foreign(&self, version: u64, lines: &[&str]) {
        let name = format!("_delta_log/{version:020}.json");
        self.table
            .store()
            .put(&name, lines.join("\n").into())
            .await
            .unwrap();
    }

    async fn delete_log_below(&self, version: u64) {
        for commit in 0..version {
            let name = format!("_delta_log/{commit:020}.json");
            self.table.store().delete(&name).await.unwrap();
        }
    }
}

fn spec(append_only: bool) -> CreateTable {
    let schema = r#"{"type": "struct", "schema-id": 3, "fields": [
        {"id": 1, "name": "id", "type": "long", "required": true},
        {"id": 2, "name": "at", "type": "timestamp", "required": false}]}"#;
    CreateTable {
        name: "orders".into(),
        schema: TableSchema::from_iceberg_json(schema).unwrap(),
        append_only,
        properties: BTreeMap::from([("tidelake.mode".into(), "append".into())]),
        first_version: TableVersion(0),
    }
}

fn add(path: &str, rows: u64) -> Add {
    let stats = Stats {
        num_records: Some(rows),
        tight_bounds: Some(true),
        ..Stats::default()
    };
    let tags = [
        ("tidelake.bucket", "0,3"),
        ("tidelake.offsets", r#"{"0":[0,5],"3":[7,9]}"#),
    ];
    let tags: NullableMap = tags
        .into_iter()
        .map(|(k, v)| (k.to_owned(), Some(v.to_owned())))
        .collect();
    Add {
        path: path.into(),
        size: 100 + rows as i64,
        modification_time: NOON_MS,
        data_change: true,
        stats: Some(stats.to_json()),
        tags: Some(tags),
        ..Add::default()
    }
}

fn mark(bucket: u32, from: i64, to: i64) -> MarkMove {
    MarkMove {
        topic_id: TOPIC,
        bucket: Bucket(bucket),
        from: Watermark(from),
        to: Watermark(to),
    }
}

fn flush(path: &str, rows: u64, marks: Vec<MarkMove>) -> Transaction {
    Transaction::flush(vec![add(path, rows)], marks)
}

fn committed(outcome: Result<CommitOutcome>) -> Arc<Snapshot> {
    match outcome.unwrap() {
        CommitOutcome::Committed { version, snapshot } => {
            assert_eq!(version, snapshot.version());
            snapshot
        }
        CommitOutcome::Conflicted(conflict) => panic!("{conflict}"),
    }
}

fn conflicted(outcome: Result<CommitOutcome>) -> Conflict {
    match outcome.unwrap() {
        CommitOutcome::Conflicted(conflict) => conflict,
        CommitOutcome::Committed { version, .. } => panic!("committed as {version}"),
    }
}

/// All that a snapshot says, in a form that compares.
type State = (
    BTreeMap<String, (Option<String>, Option<u64>)>,
    BTreeMap<String, i64>,
);

fn state(snapshot: &Snapshot) -> State {
    let files = snapshot.files().map(|file| {
        let vector = file.dv().map(VectorDescriptor::unique_id);
        (file.path().to_owned(), (vector, file.live_rows()))
    });
    let txns = snapshot.txns().map(|txn| (txn.app_id.clone(), txn.version));
    let (files, txns): State = (files.collect(), txns.collect());
    let rows: u64 = files.values().filter_map(|(_, rows)| *rows).sum();
    assert_eq!(snapshot.total_rows(), rows, "sums follow the files");
    assert_eq!(snapshot.file_count(), files.len());
    let bytes: u64 = snapshot.files().map(|file| file.size()).sum();
    assert_eq!(snapshot.total_bytes(), bytes);
    (files, txns)
}

#[tokio::test]
async fn a_new_table_has_the_protocol_that_other_engines_read() {
    let (fixture, snapshot) = Fixture::created(true).await;
    let protocol = snapshot.protocol();
    assert_eq!(
        (protocol.min_reader_version, protocol.min_writer_version),
        (3, 7)
    );
    assert_eq!(
        protocol.reader_features.as_deref().unwrap(),
        ["timestampNtz"]
    );
    let writer = protocol.writer_features.as_deref().unwrap();
    assert_eq!(writer, ["timestampNtz", "appendOnly", "invariants"]);
    let properties = snapshot.properties();
    assert!(!properties.contains_key("delta.columnMapping.mode"));
    assert_eq!(properties["delta.columnMapping.maxColumnId"], "2");
    assert!(!properties.contains_key("delta.appendOnly"));
    assert_eq!(snapshot.schema().schema_id, 3);
    assert_eq!(*snapshot.schema().as_ref(), spec(true).schema);
    let again = fixture.table.create(spec(true)).await.unwrap();
    let CreateOutcome::Exists(found) = again else {
        panic!("{again:?}")
    };
    assert_eq!(found.metadata().id, snapshot.metadata().id);
}

#[tokio::test]
async fn an_upsert_table_takes_deletion_vectors_and_an_append_table_does_not() {
    let (_, upsert) = Fixture::created(false).await;
    assert!(crate::features::takes_vectors(
        upsert.protocol(),
        upsert.metadata()
    ));
    let (fixture, base) = Fixture::created(true).await;
    let mut tx = flush("a.parquet", 9, vec![]);
    tx.adds[0].deletion_vector = Some(vector::inline(&[1].into_iter().collect()));
    let error = fixture.table.commit(&base, tx).await.unwrap_err();
    let ManifestError::Invariant { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.predicate, "vectors_are_allowed_and_sound");
}

#[tokio::test]
async fn harmful_properties_are_refused() {
    for key in [
        "delta.setTransactionRetentionDuration",
        "delta.enableTypeWidening",
    ] {
        let mut spec = spec(true);
        spec.properties.insert(key.into(), "x".into());
        let error = Fixture::new().table.create(spec).await.unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn flushes_of_different_buckets_all_land() {
    let (fixture, base) = Fixture::created(true).await;
    let table = &fixture.table;
    let writers = (0..8u32).map(|bucket| {
        let tx = flush(&format!("{bucket}.parquet"), 1, vec![mark(bucket, 0, 10)]);
        table.commit(&base, tx)
    });
    let outcomes = futures::future::join_all(writers).await;
    let versions: BTreeSet<_> = outcomes
        .into_iter()
        .map(|outcome| committed(outcome).version().0)
        .collect();
    assert_eq!(versions, (1..=8).collect());
    let snapshot = table.refresh(&base).await.unwrap();
    assert_eq!(snapshot.watermarks(&TOPIC).len(), 8);
    assert_eq!(snapshot.total_rows(), 8);
    let file = snapshot.file("3.parquet").unwrap();
    assert_eq!(file.buckets().unwrap(), [Bucket(0), Bucket(3)]);
    assert_eq!(file.offsets().unwrap()[&Bucket(3)].1.0, 9);
}

#[tokio::test]
async fn a_zombie_is_stopped_whatever_its_base() {
    let (fixture, base) = Fixture::created(true).await;
    let fresh = fixture
        .table
        .commit(&base, flush("a.parquet", 1, vec![mark(0, 0, 10)]))
        .await;
    let fresh = committed(fresh);
    let expected = Conflict::WatermarkMoved {
        topic_id: TOPIC,
        bucket: Bucket(0),
        expected: Watermark(0),
        found: Watermark(10),
    };
    for base in [&base, &fresh] {
        let zombie = flush("z.parquet", 1, vec![mark(1, 0, 4), mark(0, 0, 7)]);
        let conflict = conflicted(fixture.table.commit(base, zombie).await);
        assert_eq!(conflict, expected);
        assert_eq!(conflict.kind(), ErrorKind::Fenced);
    }
    let now = fixture.table.refresh(&base).await.unwrap();
    assert_eq!(
        state(&now),
        state(&fresh),
        "nothing of the zombie is in the log"
    );
}

#[tokio::test]
async fn broken_transactions_are_not_made() {
    let (fixture, base) = Fixture::created(true).await;
    let cases: Vec<(&str, Transaction)> = vec![
        (
            "no_name_twice",
            Transaction::flush(vec![add("a", 1), add("%61", 1)], vec![]),
        ),
        (
            "watermarks_move_on_from_the_snapshot",
            flush("a", 1, vec![mark(0, 0, 0)]),
        ),
        (
            "one_transaction_for_an_application",
            flush("a", 1, vec![mark(0, 0, 1), mark(0, 0, 2)]),
        ),
        ("names_lie_inside_the_table", flush("../a", 1, vec![])),
        (
            "statistics_are_present",
            Transaction::flush(
                vec![Add {
                    stats: None,
                    ..add("a", 1)
                }],
                vec![],
            ),
        ),
    ];
    for (predicate, tx) in cases {
        let error = fixture.table.commit(&base, tx).await.unwrap_err();
        let ManifestError::Invariant { source, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(source.predicate, predicate);
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
    assert_eq!(
        fixture.table.snapshot().await.unwrap().version(),
        TableVersion(0)
    );
}

/// Where the first writer stands while the second one commits.
#[derive(Debug, Clone, Copy)]
enum Step {
    BeforePut,
    AfterPut,
    AfterPutWithLostAnswer,
}

#[tokio::test]
async fn two_writers_interleave_at_every_step() {
    for step in [
        Step::BeforePut,
        Step::AfterPut,
        Step::AfterPutWithLostAnswer,
    ] {
        for same_bucket in [false, true] {
            interleave(step, same_bucket).await;
        }
    }
}

async fn interleave(step: Step, same_bucket: bool) {
    let (fixture, base) = Fixture::created(true).await;
    let gate = Gate::new();
    let first_number = "00000000000000000001.json";
    let hold = match step {
        Step::BeforePut => Rule::new(Fault::HoldBefore(gate.clone())).on(Operation::Create),
        Step::AfterPut => Rule::new(Fault::HoldAfter(gate.clone())).on(Operation::Create),
        Step::AfterPutWithLostAnswer => {
            // The answer is lost; then the writer stands at the read that resolves it.
            let lose = Rule::new(Fault::LoseAnswer).on(Operation::Create).times(1);
            fixture.faults.inject(lose);
            Rule::new(Fault::HoldBefore(gate.clone())).on(Operation::Get)
        }
    };
    fixture.faults.inject(hold.at(first_number).times(1));
    let slow = tokio::spawn({
        let (table, base) = (fixture.table.clone(), Arc::clone(&base));
        async move {
            table
                .commit(&base, flush("slow", 1, vec![mark(0, 0, 5)]))
                .await
        }
    });
    gate.reached().await;
    let bucket = u32::from(!same_bucket);
    let fast = fixture
        .table
        .commit(&base, flush("fast", 2, vec![mark(bucket, 0, 7)]))
        .await;
    gate.open();
    let slow = slow.await.unwrap();
    let slow_is_first = !matches!(step, Step::BeforePut);
    let (first, second) = if slow_is_first {
        (slow, fast)
    } else {
        (fast, slow)
    };
    assert_eq!(committed(first).version(), TableVersion(1), "{step:?}");
    let now = fixture.table.snapshot().await.unwrap();
    if same_bucket {
        let conflict = conflicted(second);
        assert!(
            matches!(conflict, Conflict::WatermarkMoved { .. }),
            "{step:?} {conflict}"
        );
        assert_eq!((now.version(), now.file_count()), (TableVersion(1), 1));
    } else {
        assert_eq!(committed(second).version(), TableVersion(2), "{step:?}");
        assert_eq!(now.total_rows(), 3);
    }
}

#[tokio::test]
async fn a_silent_store_leaves_the_outcome_open_and_the_same_commit_may_be_repeated() {
    let (fixture, base) = Fixture::created(true).await;
    fixture
        .faults
        .inject(Rule::new(Fault::LoseAnswer).on(Operation::Create));
    fixture
        .faults
        .inject(Rule::new(Fault::FailBefore).on(Operation::Get));
    let tx = Transaction {
        id: Some("me".into()),
        ..flush("a", 1, vec![mark(0, 0, 5)])
    };
    let error = fixture.table.commit(&base, tx.clone()).await.unwrap_err();
    assert!(matches!(
        error,
        ManifestError::Storage(StorageError::OutcomeUnknown { .. })
    ));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    fixture.faults.heal();
    let other = flush("b", 1, vec![mark(1, 0, 5)]);
    committed(fixture.table.commit(&base, other).await);
    let snapshot = committed(fixture.table.commit(&base, tx).await);
    assert_eq!(
        snapshot.version(),
        TableVersion(1),
        "it had landed the first time"
    );
    assert_eq!(
        fixture.table.snapshot().await.unwrap().version(),
        TableVersion(2)
    );
}

#[tokio::test]
async fn what_other_engines_do_is_understood() {
    let (fixture, base) = Fixture::created(false).await;
    let base = committed(
        fixture
            .table
            .commit(&base, flush("a b.parquet", 9, vec![]))
            .await,
    );
    // A DELETE by vector, on a path that the other engine encodes; then its own file; then
    // OPTIMIZE.
    let lines = [
        r#"{"commitInfo":{"operation":"DELETE","operationParameters":{"predicate":"[\"x\"]"}}}"#,
        r#"{"add":{"path":"a%20b.parquet","partitionValues":{},"size":109,"modificationTime":1,"dataChange":true,"stats":"{\"numRecords\":9,\"tightBounds\":false}","tags":{"tidelake.bucket":"0,3"},"deletionVector":{"storageType":"u","pathOrInlineDv":"vBn[lx{q8@P<9BNH/isA","offset":1,"sizeInBytes":36,"cardinality":2}}}"#,
        r#"{"remove":{"path":"a%20b.parquet","deletionTimestamp":5,"dataChange":true,"extendedFileMetadata":true,"partitionValues":{},"size":109}}"#,
    ];
    fixture.foreign(2, &lines).await;
    let other = r#"{"add":{"path":"part-0.parquet","partitionValues":{},"size":7,"modificationTime":1,"dataChange":true}}"#;
    fixture.foreign(3, &[other]).await;
    let deleted = fixture.table.refresh(&base).await.unwrap();
    let file = deleted.file("a b.parquet").unwrap();
    assert_eq!((file.num_records(), file.live_rows()), (Some(9), Some(7)));
    assert_eq!(file.buckets().unwrap().len(), 2, "tags survive");
    assert_eq!(
        (deleted.total_rows(), deleted.totals().files_uncounted),
        (7, 1)
    );
    let vector = r#""deletionVector":{"storageType":"u","pathOrInlineDv":"vBn[lx{q8@P<9BNH/isA","offset":1,"sizeInBytes":36,"cardinality":2}"#;
    let remove = format!(
        r#"{{"remove":{{"path":"a%20b.parquet","deletionTimestamp":6,"dataChange":false,{vector}}}}}"#
    );
    let merged = r#"{"add":{"path":"part-1.parquet","partitionValues":{},"size":9,"modificationTime":1,"dataChange":false,"stats":"{\"numRecords\":7}"}}"#;
    fixture.foreign(4, &[&remove, merged]).await;
    let optimized = fixture.table.refresh(&deleted).await.unwrap();
    assert_eq!(
        optimized
            .files()
            .map(|f| f.path())
            .collect::<BTreeSet<_>>()
            .len(),
        2
    );
    assert_eq!(
        state(&optimized),
        state(&fixture.table.snapshot().await.unwrap())
    );

    // A compaction of ours that was planned before the DELETE, and one planned before OPTIMIZE.
    let rewrite = |of: &Snapshot| Transaction {
        removes: vec![
            of.file("a b.parquet")
                .unwrap()
                .add
                .to_remove(NOON_MS, false),
        ],
        ..Transaction::flush(
            vec![Add {
                data_change: false,
                ..add("c", 9)
            }],
            vec![],
        )
    };
    let conflict = conflicted(fixture.table.commit(&base, rewrite(&base)).await);
    assert!(
        matches!(&conflict, Conflict::VectorChanged { path, found: Some(_) } if path == "a b.parquet")
    );
    let conflict = conflicted(fixture.table.commit(&deleted, rewrite(&deleted)).await);
    assert_eq!(
        conflict,
        Conflict::FileRemoved {
            path: "a b.parquet".into()
        }
    );
}

#[tokio::test]
async fn two_live_vectors_of_one_file_are_corruption() {
    let (fixture, base) = Fixture::created(false).await;
    let base = committed(fixture.table.commit(&base, flush("a", 9, vec![])).await);
    let add = r#"{"add":{"path":"a","partitionValues":{},"size":1,"modificationTime":1,"dataChange":true,"deletionVector":{"storageType":"i","pathOrInlineDv":"00000","sizeInBytes":4,"cardinality":1}}}"#;
    fixture.foreign(2, &[add]).await;
    let error = fixture.table.refresh(&base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("count twice"), "{error}");
}

#[tokio::test]
async fn a_change_of_the_schema_or_the_protocol_stops_a_flush() {
    let (fixture, base) = Fixture::created(true).await;
    let changed = Metadata {
        schema_string: schema_string(&TableSchema {
            fields: spec(true).schema.fields[..1].to_vec(),
            ..spec(true).schema
        }),
        ..base.metadata().clone()
    };
    let tx = Transaction {
        metadata: Some(changed),
        ..Transaction::default()
    };
    let after = committed(fixture.table.commit(&base, tx).await);
    assert_eq!(after.schema().fields.len(), 1);
    let conflict = conflicted(fixture.table.commit(&base, flush("a", 1, vec![])).await);
    assert_eq!(conflict, Conflict::SchemaChanged);

    let mut protocol = after.protocol().clone();
    protocol
        .writer_features
        .as_mut()
        .unwrap()
        .push("rowTracking".into());
    let line = serde_json::to_string(&Action::Protocol(protocol.clone())).unwrap();
    fixture.foreign(2, &[&line]).await;
    let conflict = conflicted(fixture.table.commit(&after, flush("a", 1, vec![])).await);
    assert_eq!(conflict, Conflict::ProtocolChanged);
    // What another engine asks of writers does not keep us from reading.
    let now = fixture.table.refresh(&after).await.unwrap();
    let error = fixture
        .table
        .commit(&now, flush("a", 1, vec![]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ManifestError::WriterFeatures { features, .. } if features == &["rowTracking"])
    );

    protocol
        .reader_features
        .as_mut()
        .unwrap()
        .push("typeWidening".into());
    let line = serde_json::to_string(&Action::Protocol(protocol)).unwrap();
    fixture.foreign(3, &[&line]).await;
    for error in [
        fixture.table.refresh(&now).await,
        fixture.table.snapshot().await,
    ] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("typeWidening"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_partitioned_table_is_refused_by_name() {
    let (fixture, base) = Fixture::created(true).await;
    let metadata = Metadata {
        partition_columns: vec!["at".into()],
        ..base.metadata().clone()
    };
    let line = serde_json::to_string(&Action::Metadata(metadata)).unwrap();
    fixture.foreign(1, &[&line]).await;
    let error = fixture.table.snapshot().await.unwrap_err();
    assert!(
        error.to_string().contains(r#"partitioned by ["at"]"#),
        "{error}"
    );
}

#[tokio::test]
async fn an_idle_table_costs_one_request_to_refresh_and_a_commit_costs_one_put() {
    let (fixture, base) = Fixture::created(true).await;
    let store = fixture.table.store().clone();
    let before = store.requests();
    let same = fixture.table.refresh(&base).await.unwrap();
    assert!(Arc::ptr_eq(&same, &base));
    assert_eq!(store.requests().since(&before).total(), 1);
    let before = store.requests();
    committed(fixture.table.commit(&base, flush("a", 1, vec![])).await);
    assert_eq!(store.requests().since(&before).total(), 1);
}

/// Fifteen flushes with a checkpoint after the tenth.
async fn checkpointed() -> (Fixture, Vec<Arc<Snapshot>>) {
    let (fixture, mut snapshot) = Fixture::created(false).await;
    let mut versions = vec![Arc::clone(&snapshot)];
    for i in 0..15i64 {
        fixture.clock.advance(Duration::from_secs(60));
        let mut tx = flush(
            &format!("{i}.parquet"),
            10 + i as u64,
            vec![mark(0, i, i + 1)],
        );
        if i > 3 {
            // Every file loses a row, and every third one is replaced altogether.
            let old = snapshot.file(&format!("{}.parquet", i - 2)).unwrap();
            tx.removes
                .push(old.add.to_remove(fixture.clock.now_ms(), true));
            if i % 3 > 0 {
                let rows = [i as u64].into_iter().collect();
                let stats = old.widened_stats().unwrap();
                let vector = Some(vector::inline(&rows));
                let changed = Add {
                    deletion_vector: vector,
                    stats: Some(stats),
                    ..old.add.clone()
                };
                tx.adds.push(changed);
            }
        }
        snapshot = committed(fixture.table.commit(&snapshot, tx).await);
        if i == 9 {
            snapshot = fixture.table.write_checkpoint(&snapshot).await.unwrap();
            assert_eq!(snapshot.commits_since_checkpoint(), 0);
        }
        versions.push(Arc::clone(&snapshot));
    }
    (fixture, versions)
}

fn same_table(a: &Snapshot, b: &Snapshot) {
    assert_eq!(state(a), state(b));
    assert_eq!(
        (a.version(), a.timestamp_ms()),
        (b.version(), b.timestamp_ms())
    );
    assert_eq!((a.protocol(), a.metadata()), (b.protocol(), b.metadata()));
    assert_eq!(a.schema(), b.schema());
    for file in a.files() {
        let other = &b.file(file.path()).unwrap().add;
        assert_eq!(
            Add {
                data_change: false,
                ..file.add.clone()
            },
            Add {
                data_change: false,
                ..other.clone()
            }
        );
    }
}

type Tombstones = BTreeSet<(String, Option<String>)>;

fn tombstone(remove: &Remove) -> (String, Option<String>) {
    let vector = remove.deletion_vector.as_ref();
    let path = crate::action::decode_path(&remove.path).unwrap();
    (path, vector.map(VectorDescriptor::unique_id))
}

/// What a checkpoint of the snapshot says of files that are gone.
async fn tombstones(table: &DeltaTable, snapshot: &Snapshot, expired_before_ms: i64) -> Tombstones {
    let written = checkpoint_of(&table.reader, snapshot, expired_before_ms);
    let mut found = Vec::new();
    let bytes = written.await.unwrap().bytes;
    crate::checkpoint::read(bytes, crate::checkpoint::REMOVES, |part: Commit| {
        found.extend(part.removes.iter().map(tombstone));
        Ok::<_, parquet::errors::ParquetError>(())
    })
    .unwrap();
    let set: Tombstones = found.iter().cloned().collect();
    assert_eq!(set.len(), found.len(), "a file is gone once");
    set
}

/// The same, from all commits of a log that begins at 0.
async fn gone_by_commits(table: &DeltaTable, version: TableVersion) -> Tombstones {
    let mut gone = Tombstones::new();
    let visit = |_, _, commit: Commit| {
        gone.extend(commit.removes.iter().map(tombstone));
        for add in &commit.adds {
            gone.remove(&tombstone(&add.to_remove(0, true)));
        }
        Ok(())
    };
    table.visit_commits(0..=version.0, visit).await.unwrap();
    gone
}

#[tokio::test]
async fn a_checkpoint_says_what_the_commits_said() {
    let (fixture, versions) = checkpointed().await;
    let latest = versions.last().unwrap();
    let before = fixture.table.store().requests();
    let loaded = fixture.table.snapshot().await.unwrap();
    // Hint, listing, checkpoint, the commit at the checkpoint for its time, five commits.
    assert_eq!(fixture.table.store().requests().since(&before).total(), 9);
    same_table(&loaded, latest);
    let gone = gone_by_commits(&fixture.table, latest.version()).await;
    assert!(gone.len() > 9, "{gone:?}");
    // From the start, from the checkpoint, and from one that is written on top of that.
    for snapshot in [&loaded, &versions[9], latest] {
        let expected = gone_by_commits(&fixture.table, snapshot.version()).await;
        assert_eq!(tombstones(&fixture.table, snapshot, 0).await, expected);
    }
    assert_eq!(loaded.commits_since_checkpoint(), 5);
    // Without the commits that it stands in for, every later version is still there.
    fixture.delete_log_below(10).await;
    for version in 10..=15 {
        let read = fixture
            .table
            .snapshot_at(TableVersion(version))
            .await
            .unwrap();
        same_table(&read, &versions[version as usize]);
    }
    let error = fixture
        .table
        .snapshot_at(TableVersion(4))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ManifestError::VersionGone {
                earliest: TableVersion(10),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("the earliest that can be read is 10")
    );
    let error = fixture
        .table
        .snapshot_at(TableVersion(16))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the latest is 15"), "{error}");
    // Nor can the table be created anew on top of a cleaned log.
    let outcome = fixture.table.create(spec(false)).await.unwrap();
    assert!(matches!(outcome, CreateOutcome::Exists(_)));
}

#[tokio::test]
async fn expired_tombstones_stay_out_of_a_checkpoint_and_watermarks_stay_in() {
    let (fixture, versions) = checkpointed().await;
    let latest = versions.last().unwrap();
    let half_way = versions[12].timestamp_ms();
    let some = tombstones(&fixture.table, latest, half_way).await;
    let all = tombstones(&fixture.table, latest, 0).await;
    assert!(!some.is_empty() && some.len() < all.len());
    fixture.clock.advance(8 * DAY);
    fixture.table.write_checkpoint(latest).await.unwrap();
    let loaded = fixture.table.snapshot().await.unwrap();
    same_table(&loaded, latest);
    assert!(tombstones(&fixture.table, &loaded, 0).await.is_empty());
    assert_eq!(loaded.watermark(&TOPIC, Bucket(0)), Some(Watermark(15)));
}

#[tokio::test]
async fn damage_to_hint_or_checkpoint_is_survived_while_the_commits_are_there() {
    let (fixture, versions) = checkpointed().await;
    let store = fixture.table.store().clone();
    let latest = versions.last().unwrap();
    let checkpoint = checkpoint_name(TableVersion(10));
    for (name, bytes) in [
        ("_delta_log/_last_checkpoint", "not json"),
        ("_delta_log/_last_checkpoint", r#"{"version":77,"size":1}"#),
        (checkpoint.as_str(), "not parquet"),
    ] {
        store.put(name, bytes.into()).await.unwrap();
        same_table(&fixture.table.snapshot().await.unwrap(), latest);
    }
    fixture.delete_log_below(10).await;
    let error = fixture.table.snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("checkpoint.parquet"), "{error}");
}

#[tokio::test]
async fn an_older_checkpoint_does_not_pull_the_hint_back() {
    let (fixture, versions) = checkpointed().await;
    fixture.table.write_checkpoint(&versions[5]).await.unwrap();
    assert_eq!(fixture.table.reader.hint().await.unwrap(), Some(10));
    // Writing one that exists is no error and changes nothing.
    fixture.table.write_checkpoint(&versions[10]).await.unwrap();
}

#[tokio::test]
async fn a_point_in_time_is_the_version_that_was_the_latest_then() {
    let (fixture, versions) = checkpointed().await;
    for (i, snapshot) in versions.iter().enumerate() {
        for late_ms in [0, 1, 59_999] {
            let found = fixture
                .table
                .version_at(snapshot.timestamp_ms() + late_ms)
                .await
                .unwrap();
            assert_eq!(found, TableVersion(i as u64));
        }
    }
    let latest = fixture.table.version_at(i64::MAX).await.unwrap();
    assert_eq!(latest, TableVersion(15));
    let error = fixture.table.version_at(NOON_MS - 1).await.unwrap_err();
    assert!(
        matches!(
            error,
            ManifestError::BeforeFirst {
                earliest_ms: NOON_MS,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn times_rise_although_the_clock_goes_back() {
    let (fixture, base) = Fixture::created(true).await;
    let clock: SharedClock = Arc::new(ManualClock::at(NOON_MS - 5000));
    let behind = DeltaTable {
        clock,
        ..fixture.table.clone()
    };
    let next = committed(behind.commit(&base, flush("a", 1, vec![])).await);
    assert_eq!(next.timestamp_ms(), NOON_MS + 1);
}

#[tokio::test]
async fn history_tells_newest_first() {
    let (fixture, _) = checkpointed().await;
    let history = fixture.table.history(3).await.unwrap();
    assert_eq!(
        history.iter().map(|c| c.version.0).collect::<Vec<_>>(),
        [15, 14, 13]
    );
    let newest = &history[0];
    assert_eq!(newest.operation, "FLUSH");
    assert_eq!((newest.files_added, newest.files_removed), (2, 1));
    assert!(newest.commit_id.is_some());
    assert!(newest.engine.as_deref().unwrap().starts_with("Tidelake/"));
    assert_eq!(fixture.table.history(100).await.unwrap().len(), 16);
}

#[tokio::test]
async fn vectors_are_read_from_their_files() {
    let (fixture, _) = Fixture::created(false).await;
    let rows: DeletedRows = (0..100_000).filter(|row| row % 7 == 0).collect();
    let mut file = vector::VectorFile::new(uuid::Uuid::from_u128(5));
    file.push(&[1, 2].into_iter().collect());
    let descriptor = file.place(&rows).unwrap();
    assert_eq!(descriptor.storage_type, "u");
    for (name, bytes) in file.finish() {
        let put = fixture.table.store().put(&name, bytes.into());
        put.await.unwrap();
    }
    assert_eq!(fixture.table.deleted_rows(&descriptor).await.unwrap(), rows);
    let wrong = VectorDescriptor {
        cardinality: 3,
        ..descriptor
    };
    assert_eq!(
        fixture.table.deleted_rows(&wrong).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn every_call_may_run_on_any_thread() {
    fn sendable(_: impl Send) {}
    let (Fixture { table, .. }, base) = Fixture::created(true).await;
    sendable(table.create(spec(true)));
    sendable(table.snapshot());
    sendable(table.snapshot_at(TableVersion(0)));
    sendable(table.refresh(&base));
    sendable(table.commit(&base, flush("a", 1, vec![])));
    sendable(table.write_checkpoint(&base));
    sendable(table.history(1));
    sendable(table.version_at(0));
    sendable(table.visit_commits(0..=1, |_, _, _| Ok(())));
    sendable(table.drop_fence());
    sendable(table.withdraw_void_commit(TableVersion(0), "x"));
    sendable(table.deleted_rows(&vector::inline(&DeletedRows::new())));
}

#[test]
fn formats_of_other_files_are_refused() {
    let metadata = Metadata {
        format: Format {
            provider: "orc".into(),
            ..Format::default()
        },
        ..Metadata::default()
    };
    let refused = crate::features::check_readable("t", &Protocol::default(), &metadata);
    assert!(refused.unwrap_err().to_string().contains("orc"));
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Move {
    /// A writer flushes a bucket from the base that it has.
    Flush {
        writer: usize,
        bucket: u32,
        rows: u64,
    },
    /// A writer replaces a file, by what it believes to be live.
    Replace {
        writer: usize,
        pick: usize,
        vector: Option<u64>,
    },
    /// A writer looks at the log.
    Refresh { writer: usize },
    /// A writer writes a checkpoint of what it has, which may be old.
    Checkpoint { writer: usize },
    /// Another engine appends, or deletes a row of a file.
    Foreign { pick: usize, vector: Option<u64> },
    /// The store becomes unreliable, or heals.
    Weather { seed: u64, bad: bool },
}

const WRITERS: usize = 3;

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let writer = || 0..WRITERS;
    let vector = || prop::option::of(0..5u64);
    let step = prop_oneof![
        6 => (writer(), 0..3u32, 1..9u64)
            .prop_map(|(writer, bucket, rows)| Move::Flush { writer, bucket, rows }),
        3 => (writer(), any::<usize>(), vector())
            .prop_map(|(writer, pick, vector)| Move::Replace { writer, pick, vector }),
        3 => writer().prop_map(|writer| Move::Refresh { writer }),
        1 => writer().prop_map(|writer| Move::Checkpoint { writer }),
        2 => (any::<usize>(), vector()).prop_map(|(pick, vector)| Move::Foreign { pick, vector }),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(seed, bad)| Move::Weather { seed, bad }),
    ];
    prop::collection::vec(step, 1..60)
}

/// The truth: the state of every version, and which files its commit took out or gave a vector.
struct Model {
    versions: Vec<State>,
    touched: Vec<BTreeSet<String>>,
    adds: u64,
}

impl Model {
    fn latest(&self) -> &State {
        self.versions.last().unwrap()
    }

    fn push(&mut self, next: State, tx: &Transaction) {
        self.versions.push(next);
        self.touched.push(
            tx.removes
                .iter()
                .map(|remove| remove.path.clone())
                .collect(),
        );
    }

    /// What a transaction that was made from `base` does to the latest state; none where it does
    /// not apply. A vector that was changed and changed back in between counts as changed.
    fn apply(&self, tx: &Transaction, base: TableVersion) -> Option<State> {
        let since = &self.touched[base.0 as usize + 1..];
        if tx
            .removes
            .iter()
            .any(|remove| since.iter().any(|touched| touched.contains(&remove.path)))
        {
            return None;
        }
        let (mut files, mut txns) = self.latest().clone();
        for mark in &tx.marks {
            let held = txns.insert(mark.app_id(), mark.to.0).unwrap_or(0);
            if held != mark.from.0 {
                return None;
            }
        }
        for remove in &tx.removes {
            let (vector, _) = files.remove(&remove.path)?;
            if vector
                != remove
                    .deletion_vector
                    .as_ref()
                    .map(VectorDescriptor::unique_id)
            {
                return None;
            }
        }
        for add in &tx.adds {
            let vector = add.deletion_vector.as_ref();
            let rows = Stats::parse(add.stats.as_deref()?).ok()?.num_records?;
            let live = rows - vector.map_or(0, |vector| vector.cardinality as u64);
            let id = vector.map(VectorDescriptor::unique_id);
            files.insert(add.path.clone(), (id, Some(live)));
        }
        Some((files, txns))
    }

    fn name(&mut self) -> String {
        self.adds += 1;
        format!("{}.parquet", self.adds)
    }
}

/// Gives the `pick`-th file of a snapshot another vector, or takes it out.
fn replace(of: &Snapshot, pick: usize, vector: Option<u64>) -> Option<Transaction> {
    let files: Vec<_> = of.files().collect();
    let file = files.get(pick % files.len().max(1))?;
    let mut tx = Transaction {
        operation: "DELETE".into(),
        ..Transaction::default()
    };
    tx.removes.push(file.add.to_remove(NOON_MS, true));
    if let Some(row) = vector.filter(|row| *row < file.num_records().unwrap_or(0)) {
        let descriptor = vector::inline(&[row].into_iter().collect());
        if file.dv() == Some(&descriptor) {
            return None;
        }
        let stats = file.widened_stats()?;
        tx.adds.push(Add {
            deletion_vector: Some(descriptor),
            stats: Some(stats),
            ..file.add.clone()
        });
    }
    Some(tx)
}

async fn replay_history(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let (fixture, first) = Fixture::created(false).await;
    let table = &fixture.table;
    let mut model = Model {
        versions: vec![state(&first)],
        touched: vec![BTreeSet::new()],
        adds: 0,
    };
    let mut bases = vec![first; WRITERS];
    let mut weather = None;
    for step in moves {
        fixture.clock.advance(Duration::from_millis(10));
        let (writer, tx) = match step {
            Move::Weather { seed, bad } => {
                weather = bad.then_some(seed);
                continue;
            }
            Move::Refresh { writer } => {
                bases[writer] = table.refresh(&bases[writer]).await.unwrap();
                prop_assert_eq!(&state(&bases[writer]), model.latest());
                continue;
            }
            Move::Checkpoint { writer } => {
                bases[writer] = table.write_checkpoint(&bases[writer]).await.unwrap();
                continue;
            }
            Move::Foreign { pick, vector } => {
                let latest = table.snapshot().await.unwrap();
                let tx = match vector {
                    Some(_) => replace(&latest, pick, vector),
                    None => Some(flush(&model.name(), 3, vec![])),
                };
                let Some(tx) = tx else { continue };
                let actions = tx.actions("foreign", &latest, NOON_MS);
                // Without commitInfo, in another order.
                let lines: Vec<_> = actions[1..]
                    .iter()
                    .rev()
                    .map(|action| serde_json::to_string(action).unwrap())
                    .collect();
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                fixture.foreign(latest.version().0 + 1, &lines).await;
                let next = model.apply(&tx, latest.version()).unwrap();
                model.push(next, &tx);
                continue;
            }
            Move::Flush {
                writer,
                bucket,
                rows,
            } => {
                let from = bases[writer]
                    .watermark(&TOPIC, Bucket(bucket))
                    .unwrap_or_default()
                    .0;
                let marks = vec![mark(bucket, from, from + rows as i64)];
                (writer, flush(&model.name(), rows, marks))
            }
            Move::Replace {
                writer,
                pick,
                vector,
            } => {
                let Some(tx) = replace(&bases[writer], pick, vector) else {
                    continue;
                };
                (writer, tx)
            }
        };
        let id = format!("commit {}", model.adds * 1000 + model.versions.len() as u64);
        let tx = Transaction {
            id: Some(id.clone()),
            ..tx
        };
        if let Some(seed) = weather.as_mut() {
            *seed = seed.wrapping_add(1 << 20);
            fixture.faults.random(
                *seed,
                Odds {
                    fail_before: 150,
                    lose_answer: 250,
                },
            );
        }
        let outcome = table.commit(&bases[writer], tx.clone()).await;
        fixture.faults.heal();
        let expected = model.apply(&tx, bases[writer].version());
        match outcome {
            Ok(CommitOutcome::Committed { version, snapshot }) => {
                prop_assert_eq!(version.0 as usize, model.versions.len());
                let expected = expected.expect("a conflicting commit was made");
                prop_assert_eq!(&state(&snapshot), &expected);
                model.push(expected, &tx);
                bases[writer] = snapshot;
            }
            Ok(CommitOutcome::Conflicted(conflict)) => {
                prop_assert!(
                    expected.is_none(),
                    "{conflict} although nothing stood in the way"
                );
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Unavailable);
                let newest = table.history(1).await.unwrap().remove(0);
                if newest.commit_id.as_ref() == Some(&id) {
                    model.push(expected.unwrap(), &tx);
                }
            }
        }
    }
    for (version, expected) in model.versions.iter().enumerate() {
        let read = table
            .snapshot_at(TableVersion(version as u64))
            .await
            .unwrap();
        prop_assert_eq!(&state(&read), expected, "version {}", version);
    }
    let latest = table.snapshot().await.unwrap();
    prop_assert_eq!(latest.version().0 as usize + 1, model.versions.len());
    for base in &bases {
        let refreshed = table.refresh(base).await.unwrap();
        prop_assert_eq!(state(&refreshed), state(&latest));
        let gone = tombstones(table, &refreshed, 0).await;
        prop_assert_eq!(gone, gone_by_commits(table, latest.version()).await);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_version_is_what_the_model_says(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(replay_history(moves))?;
    }
}

#[tokio::test]
async fn a_vector_that_was_changed_and_changed_back_still_counts_as_changed() {
    let (fixture, first) = Fixture::created(false).await;
    let table = &fixture.table;
    let added = committed(table.commit(&first, flush("1.parquet", 9, vec![])).await);
    let marked = committed(
        table
            .commit(&added, replace(&added, 0, Some(3)).unwrap())
            .await,
    );
    let stale = replace(&marked, 0, Some(1)).unwrap();
    let other = committed(
        table
            .commit(&marked, replace(&marked, 0, Some(0)).unwrap())
            .await,
    );
    let back = committed(
        table
            .commit(&other, replace(&other, 0, Some(3)).unwrap())
            .await,
    );
    assert_eq!(state(&back).0, state(&marked).0);
    let conflict = conflicted(table.commit(&marked, stale).await);
    assert!(matches!(&conflict, Conflict::VectorChanged { path, .. } if path == "1.parquet"));
}

#[tokio::test]
async fn rows_that_others_bring_into_a_probed_bucket_are_not_overlooked() {
    let (_fixture, base) = Fixture::created(false).await;
    let of = |bucket: Option<&str>, data_change| Add {
        tags: bucket.map(|own| BTreeMap::from([(TAG_BUCKET.into(), Some(own.into()))])),
        data_change,
        ..add("theirs.parquet", 3)
    };
    let winners = [
        (of(Some("1"), true), true),
        (of(Some("0,1"), true), true),
        (of(None, true), true),
        (of(Some("0"), true), false),
        (of(None, false), false),
    ];
    for (winner, loses) in winners {
        let winners = || vec![(1, Commit::of(vec![Action::Add(winner.clone())]))];
        let tx = Transaction {
            probed: vec![Bucket(1), Bucket(2)],
            ..flush("ours.parquet", 4, vec![])
        };
        let rebased = rebase("t", &tx, "ours", &base, winners(), NOON_MS).unwrap();
        let lost = matches!(
            &rebased,
            Rebased::Conflicted(Conflict::RowsAdded { path }) if path == "theirs.parquet"
        );
        assert_eq!(lost, loses, "{winner:?}");
        let blind = Transaction {
            probed: vec![],
            ..tx
        };
        let rebased = rebase("t", &blind, "ours", &base, winners(), NOON_MS).unwrap();
        assert!(matches!(rebased, Rebased::Again(_)));
    }
}

#[test]
fn commits_keep_what_they_are_given() {
    let txn = Txn {
        app_id: "tidelake/x/0/from/1".into(),
        version: 4,
        last_updated: Some(1),
    };
    let remove: Remove = add("a", 1).to_remove(7, false);
    let actions = vec![
        Action::Txn(txn),
        Action::Remove(remove),
        Action::Add(add("b", 2)),
        Action::Protocol(NewTable::of(&spec(true).schema, false).protocol),
    ];
    let read = crate::action::parse_commit(&write_commit(&actions)).unwrap();
    assert_eq!(read, actions);
}
