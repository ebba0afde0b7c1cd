//! What tests of this crate share: a table in memory whose store fails on demand, small commits, and
//! all that a snapshot says in a form that compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use tidelake_core::clock::{Clock, ManualClock};
use tidelake_core::ids::CountingIds;
use tidelake_core::{Bucket, TableVersion, TopicId, Watermark};
use tidelake_schema::TableSchema;
use tidelake_storage::faults::FaultStore;
use tidelake_storage::{RetryPolicy, Store};

use crate::action::{Add, NullableMap, Remove, VectorDescriptor};
use crate::checkpointer::checkpoint_of;
use crate::commit_file::Commit;
use crate::conflict::Conflict;
use crate::error::Result;
use crate::lifetime::{CreateOutcome, CreateTable};
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::table::DeltaTable;
use crate::transaction::{CommitOutcome, MarkMove, Transaction};
use crate::vector;

pub(crate) const TOPIC: TopicId = TopicId(*b"0123456789abcdef");
pub(crate) const NOON_MS: i64 = 1_795_262_400_000;
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A table in memory, with faults on demand and a clock that is moved by hand.
pub(crate) struct Fixture {
    pub(crate) faults: FaultStore,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) table: DeltaTable,
}

impl Fixture {
    pub(crate) fn new() -> Self {
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

    pub(crate) async fn created(append_only: bool) -> (Self, Arc<Snapshot>) {
        let fixture = Self::new();
        let outcome = fixture.table.create(spec(append_only)).await.unwrap();
        let CreateOutcome::Created(snapshot) = outcome else {
            panic!("{outcome:?}")
        };
        (fixture, snapshot)
    }

    /// Another engine commits.
    pub(crate) async fn foreign(&self, version: u64, lines: &[&str]) {
        let name = format!("_delta_log/{version:020}.json");
        self.table
            .store()
            .put(&name, lines.join("\n").into())
            .await
            .unwrap();
    }

    pub(crate) async fn delete_log_below(&self, version: u64) {
        for commit in 0..version {
            let name = format!("_delta_log/{commit:020}.json");
            self.table.store().delete(&name).await.unwrap();
        }
    }
}

pub(crate) fn spec(append_only: bool) -> CreateTable {
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

pub(crate) fn add(path: &str, rows: u64) -> Add {
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

pub(crate) fn mark(bucket: u32, from: i64, to: i64) -> MarkMove {
    MarkMove {
        topic_id: TOPIC,
        bucket: Bucket(bucket),
        from: Watermark(from),
        to: Watermark(to),
    }
}

pub(crate) fn flush(path: &str, rows: u64, marks: Vec<MarkMove>) -> Transaction {
    Transaction::flush(vec![add(path, rows)], marks)
}

pub(crate) fn committed(outcome: Result<CommitOutcome>) -> Arc<Snapshot> {
    match outcome.unwrap() {
        CommitOutcome::Committed { version, snapshot } => {
            assert_eq!(version, snapshot.version());
            snapshot
        }
        CommitOutcome::Conflicted(conflict) => panic!("{conflict}"),
    }
}

pub(crate) fn conflicted(outcome: Result<CommitOutcome>) -> Conflict {
    match outcome.unwrap() {
        CommitOutcome::Conflicted(conflict) => conflict,
        CommitOutcome::Committed { version, .. } => panic!("committed as {version}"),
    }
}

/// All that a snapshot says, in a form that compares.
pub(crate) type State = (
    BTreeMap<String, (Option<String>, Option<u64>)>,
    BTreeMap<String, i64>,
);

pub(crate) fn state(snapshot: &Snapshot) -> State {
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

/// Fifteen flushes with a checkpoint after the tenth.
pub(crate) async fn checkpointed() -> (Fixture, Vec<Arc<Snapshot>>) {
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

pub(crate) fn same_table(a: &Snapshot, b: &Snapshot) {
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

pub(crate) type Tombstones = BTreeSet<(String, Option<String>)>;

pub(crate) fn tombstone(remove: &Remove) -> (String, Option<String>) {
    let vector = remove.deletion_vector.as_ref();
    let path = crate::action::decode_path(&remove.path).unwrap();
    (path, vector.map(VectorDescriptor::unique_id))
}

/// What a checkpoint of the snapshot says of files that are gone.
pub(crate) async fn tombstones(
    table: &DeltaTable,
    snapshot: &Snapshot,
    expired_before_ms: i64,
) -> Tombstones {
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
pub(crate) async fn gone_by_commits(table: &DeltaTable, version: TableVersion) -> Tombstones {
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

/// Gives the `pick`-th file of a snapshot another vector, or takes it out.
pub(crate) fn replace(of: &Snapshot, pick: usize, vector: Option<u64>) -> Option<Transaction> {
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
