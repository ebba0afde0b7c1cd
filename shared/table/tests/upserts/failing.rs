//! What flushes that fail leave behind: nothing, unless the commit may have been made.

use std::collections::BTreeSet;

use tidelake_core::ErrorKind;
use tidelake_storage::faults::{Fault, FaultStore, Rule};
use tidelake_storage::{Operation, RetryPolicy};
use tidelake_table::TableError;

use super::*;

/// Enough rows for vectors that do not stand in the log.
const ROWS: u32 = 3000;

fn rows(keys: std::ops::Range<u32>, value: i64) -> (u32, Vec<Vec<Record>>) {
    let rows = keys.map(|key| (2 * key, Some(Some(value + i64::from(key)))));
    (0, vec![rows.collect()])
}

/// Newer rows of every third key.
fn newer(value: i64) -> [(u32, Vec<Vec<Record>>); 1] {
    let mut newer = rows(0..ROWS, value);
    newer.1[0].retain(|(key, _)| key % 3 == 0);
    [newer]
}

/// The objects beside the log.
async fn objects(world: &World) -> BTreeSet<String> {
    let store = world.table.store();
    let found = store.list("").await.unwrap();
    let names = found
        .iter()
        .filter_map(|meta| store.relative(&meta.location));
    names
        .filter(|name| !name.starts_with("_delta_log"))
        .collect()
}

/// A table with rows, and a store of it that fails on demand.
async fn world() -> (World, FaultStore, DeltaTable) {
    let mut world = World::new(Shape::Long).await;
    world.flush(0, &[rows(0..ROWS, 1)], true).await;
    world.writers[0].base = world.latest().await;
    let faults = FaultStore::new(world.table.store().object_store());
    let store = Store::with_policy(Arc::new(faults.clone()), "memory:///", RetryPolicy::QUICK);
    let table = DeltaTable::new(store, clock::system(), ids::random());
    (world, faults, table)
}

async fn fails(world: &World, table: &DeltaTable) -> TableError {
    let request = world.request(0, &newer(7)).await;
    let failed = request.run(table, &world.writers[0].base).await;
    failed.unwrap_err()
}

#[tokio::test]
async fn flushes_that_certainly_failed_leave_nothing() {
    let commit = || (Operation::Create, "_delta_log");
    let cases = [
        (Fault::ReadOnly, commit()),
        (Fault::Full, commit()),
        (Fault::Full, (Operation::Put, "deletion_vector")),
        (Fault::FailBefore, (Operation::Put, "deletion_vector")),
        (Fault::Full, (Operation::Put, ".parquet")),
        (Fault::LoseAnswer, (Operation::Put, ".parquet")),
        (Fault::LoseAnswer, (Operation::Put, ".idx")),
    ];
    for (fault, (operation, at)) in cases {
        let (mut world, faults, table) = world().await;
        let before = objects(&world).await;
        faults.inject(Rule::new(fault.clone()).on(operation).at(at));
        for _ in 0..3 {
            let error = fails(&world, &table).await;
            let kind = error.kind();
            let told = matches!(kind, ErrorKind::Denied | ErrorKind::Unavailable);
            assert!(told, "{fault:?} at {at}: {error:?}");
        }
        assert_eq!(objects(&world).await, before, "{fault:?} at {at}");
        faults.heal();
        world.flush(0, &newer(7), true).await;
        assert!(objects(&world).await.len() > before.len());
        let checked = world.checked().await;
        assert!(checked.is_sound(), "{checked:?}");
    }
}

/// The commit is made, and nobody says so.
#[tokio::test]
async fn what_a_commit_may_name_stays() {
    let (mut world, faults, table) = world().await;
    let before = objects(&world).await;
    faults.inject(
        Rule::new(Fault::LoseAnswer)
            .on(Operation::Create)
            .at("_delta_log"),
    );
    faults.inject(
        Rule::new(Fault::FailBefore)
            .on(Operation::Get)
            .at("_delta_log"),
    );
    let error = fails(&world, &table).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let after = objects(&world).await;
    assert_eq!(after.difference(&before).count(), 3, "{after:?}");
    apply(&mut world.model, &newer(7));
    let version = world.latest().await.version().0;
    world.versions.insert(version, world.model.clone());
    world.check_versions().await;
}

/// A refusal proves nothing where the log has the commit, or can't be asked.
#[tokio::test]
async fn a_refusal_is_held_against_the_log() {
    let (world, faults, table) = world().await;
    let before = objects(&world).await;
    faults.inject(
        Rule::new(Fault::Full)
            .on(Operation::Create)
            .at("_delta_log"),
    );
    faults.inject(
        Rule::new(Fault::FailBefore)
            .on(Operation::Get)
            .at("_delta_log"),
    );
    faults.inject(
        Rule::new(Fault::FailBefore)
            .on(Operation::List)
            .at("_delta_log"),
    );
    fails(&world, &table).await;
    let after = objects(&world).await;
    assert_eq!(after.difference(&before).count(), 3, "{after:?}");
}

/// Whoever moved the watermark: it may have been this commit.
#[tokio::test]
async fn a_refusal_proves_nothing_where_the_watermark_moved() {
    let (mut world, faults, table) = world().await;
    let (base, late) = (world.latest().await, world.request(0, &newer(7)).await);
    world.flush(1, &newer(9), true).await;
    let before = objects(&world).await;
    faults.inject(
        Rule::new(Fault::Full)
            .on(Operation::Create)
            .at("_delta_log"),
    );
    late.run(&table, &base).await.unwrap_err();
    let after = objects(&world).await;
    assert_eq!(after.difference(&before).count(), 3, "{after:?}");
}

/// Each try has an object of vectors of its own.
#[tokio::test]
async fn tries_that_lost_leave_no_vectors() {
    let (mut world, _, table) = world().await;
    let (base, late) = (world.latest().await, world.request(0, &newer(7)).await);
    world.delete(2, 0).await;
    let before = objects(&world).await;
    let ended = late.run(&table, &base).await.unwrap();
    assert!(matches!(ended.outcome, FlushOutcome::Committed(_)));
    // The rows, their keys, and the vectors of the try that won.
    let after = objects(&world).await;
    assert_eq!(after.difference(&before).count(), 3, "{after:?}");
}

/// Another writer had the bucket's rows committed before.
#[tokio::test]
async fn a_flush_that_lost_its_bucket_leaves_nothing() {
    let (mut world, _, table) = world().await;
    let (base, late) = (world.latest().await, world.request(0, &newer(7)).await);
    world.flush(1, &newer(9), true).await;
    let before = objects(&world).await;
    let ended = late.run(&table, &base).await.unwrap();
    assert!(
        matches!(
            ended.outcome,
            FlushOutcome::Conflicted(Conflict::WatermarkMoved { .. })
        ),
        "{:?}",
        ended.outcome
    );
    assert_eq!(objects(&world).await, before);
}

/// Deleting is no more than an attempt: the first error is what the caller hears.
#[tokio::test]
async fn what_can_t_be_deleted_hides_no_error() {
    let (world, faults, table) = world().await;
    faults.inject(
        Rule::new(Fault::Full)
            .on(Operation::Create)
            .at("_delta_log"),
    );
    faults.inject(Rule::new(Fault::ReadOnly).on(Operation::Delete));
    let error = fails(&world, &table).await;
    assert!(format!("{error:?}").contains("Full"), "{error:?}");
}

/// Of an append table, whose rows are of no bucket's file.
#[tokio::test]
async fn appends_that_certainly_failed_leave_nothing() {
    for (operation, at) in [
        (Operation::Create, "_delta_log"),
        (Operation::Put, ".parquet"),
    ] {
        let (world, faults, table) = world().await;
        let before = objects(&world).await;
        faults.inject(Rule::new(Fault::Full).on(operation).at(at));
        for _ in 0..3 {
            let mut request = world.request(0, &newer(7)).await;
            let FlushRows::Upsert { buckets, .. } = request.rows else {
                panic!("an upsert table")
            };
            let buckets = buckets.into_iter().map(|bucket| bucket.sealed);
            request.rows = FlushRows::Append {
                buckets: buckets.collect(),
                file_id: uuid(),
            };
            let failed = request.run(&table, &world.writers[0].base).await;
            assert!(failed.unwrap_err().is_refusal(), "at {at}");
        }
        assert_eq!(objects(&world).await, before, "at {at}");
    }
}
