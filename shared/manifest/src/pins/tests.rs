use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::memory::InMemory;
use tidelake_core::clock::ManualClock;
use tidelake_core::ids::CountingIds;
use tidelake_core::{ErrorKind, TableVersion};
use tidelake_schema::TableSchema;
use tidelake_storage::faults::{Fault, FaultStore, Gate, Rule};
use tidelake_storage::{Operation, RetryPolicy, Store};

use super::*;
use crate::{Add, CommitOutcome, CreateTable, Transaction};

const SCHEMA: &str = r#"{"type": "struct", "fields":
    [{"name": "id", "type": "long", "required": true}]}"#;

struct Fixture {
    faults: FaultStore,
    clock: Arc<ManualClock>,
    table: DeltaTable,
    newest: Arc<Snapshot>,
}

/// A table with versions 0 to `commits`.
async fn table_of(commits: u64) -> Fixture {
    let faults = FaultStore::new(Arc::new(InMemory::new()));
    let store = Store::with_policy(Arc::new(faults.clone()), "memory://", RetryPolicy::QUICK);
    let clock = Arc::new(ManualClock::at(1_000));
    let ids = Arc::new(CountingIds::default());
    let table = DeltaTable::new(store.scoped("t"), clock.clone(), ids);
    let mut newest = create(&table).await;
    for number in 0..commits {
        let add = Add {
            path: format!("{number}.parquet"),
            size: 1,
            data_change: true,
            stats: Some(r#"{"numRecords":1}"#.into()),
            ..Add::default()
        };
        let outcome = table.commit(&newest, Transaction::flush(vec![add], vec![]));
        let CommitOutcome::Committed { snapshot, .. } = outcome.await.unwrap() else {
            panic!("nobody contends")
        };
        newest = snapshot;
    }
    Fixture {
        faults,
        clock,
        table,
        newest,
    }
}

async fn create(table: &DeltaTable) -> Arc<Snapshot> {
    let created = table.create(CreateTable {
        name: "t".into(),
        schema: TableSchema::from_iceberg_json(SCHEMA).unwrap(),
        append_only: true,
        properties: BTreeMap::new(),
        first_version: TableVersion(0),
    });
    Arc::clone(created.await.unwrap().snapshot())
}

fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

impl Fixture {
    fn id(&self) -> &str {
        &self.newest.metadata.id
    }

    async fn at(&self, version: u64) -> Arc<Snapshot> {
        self.table.snapshot_at(TableVersion(version)).await.unwrap()
    }

    async fn pin(&self, text: &str, version: u64) -> CreateNamed {
        let of = self.at(version).await;
        let created = self.table.create_named_snapshot(name(text), &of);
        created.await.unwrap()
    }

    async fn list(&self) -> Vec<(String, u64)> {
        let pins = self.table.named_snapshots(self.id()).await.unwrap();
        let pins = pins.into_iter();
        pins.map(|pin| (pin.name.to_string(), pin.version.0))
            .collect()
    }
}

#[tokio::test]
async fn a_name_keeps_its_version_until_it_is_dropped() {
    let fixture = table_of(3).await;
    fixture.clock.advance(std::time::Duration::from_secs(4));
    let CreateNamed::Created(made) = fixture.pin("before", 2).await else {
        panic!("the name is free")
    };
    assert_eq!((made.version, made.created_ms), (TableVersion(2), 5_000));
    assert_eq!(made.version_ms, fixture.at(2).await.timestamp_ms());
    let again = fixture.pin("before", 3).await;
    assert_eq!(again, CreateNamed::Exists(made.clone()));
    fixture.pin("after", 3).await;
    assert_eq!(
        fixture.list().await,
        [("after".into(), 3), ("before".into(), 2)]
    );
    let held = fixture.table.named_snapshot(fixture.id(), &made.name);
    assert_eq!(held.await.unwrap(), Some(made.clone()));
    let drop = || fixture.table.drop_named_snapshot(fixture.id(), &made.name);
    assert_eq!(drop().await.unwrap(), Some(made.clone()));
    assert_eq!(drop().await.unwrap(), None);
    assert_eq!(fixture.list().await, [("after".into(), 3)]);
}

#[tokio::test]
async fn a_lost_answer_is_no_conflict() {
    let fixture = table_of(1).await;
    let lost = Rule::new(Fault::LoseAnswer).on(Operation::Create);
    fixture.faults.inject(lost.at("snapshots/").times(1));
    assert!(matches!(fixture.pin("a", 1).await, CreateNamed::Created(_)));
}

#[tokio::test]
async fn what_an_earlier_table_left_does_not_count() {
    let fixture = table_of(1).await;
    fixture.pin("a", 1).await;
    let left = fixture.table.named_snapshots("another id").await.unwrap();
    assert_eq!(left, []);
    let mut other = fixture.newest.as_ref().clone();
    other.metadata = Arc::new(crate::Metadata {
        id: "another id".into(),
        ..other.metadata.as_ref().clone()
    });
    let taken_over = fixture.table.create_named_snapshot(name("a"), &other);
    assert!(matches!(taken_over.await.unwrap(), CreateNamed::Created(_)));
    assert_eq!(fixture.list().await, []);
}

#[tokio::test]
async fn vacuum_learns_of_every_name_and_closes_what_lies_below() {
    let fixture = table_of(5).await;
    fixture.pin("kept", 1).await;
    let raise = |version| {
        fixture
            .table
            .raise_floor(fixture.id(), TableVersion(version))
    };
    let pins = raise(3).await.unwrap();
    assert_eq!(
        pins.iter().map(|pin| pin.version.0).collect::<Vec<_>>(),
        [1]
    );
    raise(2).await.unwrap();
    let too_late = fixture
        .table
        .create_named_snapshot(name("late"), &*fixture.at(2).await)
        .await
        .unwrap_err();
    assert_eq!(too_late.kind(), ErrorKind::NotFound);
    assert!(matches!(
        fixture.pin("fine", 3).await,
        CreateNamed::Created(_)
    ));
    assert_eq!(
        fixture.list().await,
        [("fine".into(), 3), ("kept".into(), 1)]
    );
    let other = fixture.table.raise_floor("another id", TableVersion(5));
    assert_eq!(other.await.unwrap(), []);
    assert!(matches!(
        fixture.pin("own", 3).await,
        CreateNamed::Created(_)
    ));
}

/// Forced at the step that matters: the pin is written, its creator has not looked yet.
#[tokio::test]
async fn of_a_creation_and_a_vacuum_one_sees_the_other() {
    let fixture = table_of(4).await;
    let gate = Gate::new();
    let hold = Rule::new(Fault::HoldAfter(gate.clone())).on(Operation::Create);
    fixture.faults.inject(hold.at("snapshots/").times(1));
    let of = fixture.at(1).await;
    let creator = fixture.table.clone();
    let creation = tokio::spawn(async move { creator.create_named_snapshot(name("a"), &of).await });
    gate.reached().await;
    let seen = fixture.table.raise_floor(fixture.id(), TableVersion(3));
    assert_eq!(seen.await.unwrap().len(), 1, "vacuum spares the version");
    gate.open();
    let refused = creation.await.unwrap().unwrap_err();
    assert!(matches!(refused, ManifestError::VersionGone { .. }));
    assert_eq!(fixture.list().await, []);
}

#[tokio::test]
async fn names_are_limited() {
    let fixture = table_of(1).await;
    for number in 0..NAMED_SNAPSHOTS_MAX {
        let rel = object(&name(&format!("n{number}")));
        let pin = NamedSnapshot {
            name: name(&format!("n{number}")),
            version: TableVersion(1),
            table_id: fixture.id().to_owned(),
            version_ms: 0,
            created_ms: 0,
            id: String::new(),
        };
        let bytes = serde_json::to_vec(&pin).unwrap();
        fixture.table.store().put(&rel, bytes.into()).await.unwrap();
    }
    assert_eq!(fixture.pin("one_more", 1).await, CreateNamed::Full);
    assert!(matches!(fixture.pin("n5", 1).await, CreateNamed::Exists(_)));
}

#[tokio::test]
async fn a_damaged_name_stops_whoever_wants_to_delete() {
    let fixture = table_of(1).await;
    let rel = object(&name("a"));
    fixture.table.store().put(&rel, "{".into()).await.unwrap();
    let error = fixture
        .table
        .named_snapshots(fixture.id())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
