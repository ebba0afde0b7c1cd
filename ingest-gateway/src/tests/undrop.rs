//! Dropped tables: kept, restored, and followed by others of their name.

use std::collections::BTreeMap;

use tidelake_core::TableVersion;
use tidelake_manifest::{DeltaTable, ManifestError};

use super::*;

const DAY_MS: i64 = 24 * 3600 * 1000;

async fn keeping() -> Harness {
    let harness = Harness::with(|settings| settings.tables.undrop_grace_ms = DAY_MS as u64).await;
    harness.create(orders()).await.answered();
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    harness
}

/// The same store and log at another time.
async fn at(harness: &Harness, now_ms: i64) -> Harness {
    let runtime = Runtime {
        clock: Arc::new(ManualClock::at(now_ms)),
        ..Runtime::new()
    };
    let (store, log) = (harness.store.clone(), harness.log.clone());
    Harness::over(store, log, harness.settings.clone(), runtime).await
}

async fn delete(harness: &Harness, path: &str) -> Reply {
    harness.call(Method::DELETE, path, Body::empty()).await
}

async fn undrop(harness: &Harness) -> Reply {
    harness
        .call(Method::POST, "/v1/tables/orders/undrop", Body::empty())
        .await
}

fn delta(harness: &Harness) -> DeltaTable {
    let (clock, ids) = (harness.runtime.clock.clone(), harness.runtime.ids.clone());
    DeltaTable::new(harness.store.scoped("default/orders"), clock, ids)
}

#[tokio::test]
async fn a_dropped_table_comes_back_with_its_topic_and_its_log() {
    let harness = keeping().await;
    let before = harness.get("/v1/tables/orders").await.answered();
    let dropped = delete(&harness, "/v1/tables/orders").await.answered();
    assert_eq!(dropped["kept_until_ms"], 1_000_000 + DAY_MS);
    let gone = harness.get("/v1/tables/orders").await;
    gone.is_problem(404, "TABLE_NOT_FOUND");
    let again = delete(&harness, "/v1/tables/orders").await;
    let problem = again.is_problem(404, "TABLE_NOT_FOUND");
    assert!(
        problem["hint"].as_str().unwrap().contains("undrop"),
        "{problem}"
    );
    let log = harness
        .store
        .list("default/orders/_delta_log")
        .await
        .unwrap();
    assert_eq!(log.len(), 0, "no table is left for anybody");

    let restored = undrop(&harness).await.answered();
    assert_eq!(restored["topic_id"], before["topic_id"]);
    assert_eq!(restored["end_offsets"], before["end_offsets"]);
    harness.post(JSON, r#"{"id":2}"#).await.answered();
    undrop(&harness).await.is_problem(409, "TABLE_EXISTS");
    assert_eq!(
        harness.store.list("_tidelake/dropped").await.unwrap().len(),
        0
    );
    // And again, through another gateway.
    let another = harness.another().await;
    delete(&another, "/v1/tables/orders").await.answered();
    let restored = undrop(&another).await.answered();
    assert_eq!(restored["topic_id"], before["topic_id"]);
    let letters = another.get("/v1/tables/orders__dead_letters").await;
    letters.answered();
}

#[tokio::test]
async fn the_grace_ends_with_its_time_or_with_the_next_table_of_the_name() {
    let harness = keeping().await;
    delete(&harness, "/v1/tables/orders").await.answered();
    let later = at(&harness, 1_000_000 + DAY_MS + 1).await;
    undrop(&later).await.is_problem(404, "TABLE_NOT_FOUND");
    assert_eq!(later.log.topics().len(), 2);
    later.gateway.tables.sweep().await.unwrap();
    assert_eq!(later.log.topics(), Vec::<String>::new());
    assert_eq!(later.store.list("default").await.unwrap().len(), 0);
    assert_eq!(
        later.store.list("_tidelake/dropped").await.unwrap().len(),
        0
    );

    let harness = keeping().await;
    delete(&harness, "/v1/tables/orders").await.answered();
    let made = harness.create(orders()).await.answered();
    assert_eq!(
        made["end_offsets"],
        json!({"0": 0, "1": 0, "2": 0}),
        "a new topic"
    );
    undrop(&harness).await.is_problem(409, "TABLE_EXISTS");
    delete(&harness, "/v1/tables/orders?purge=true")
        .await
        .answered();
    assert_eq!(harness.log.topics(), Vec::<String>::new());
    undrop(&harness).await.is_problem(404, "TABLE_NOT_FOUND");
}

#[tokio::test]
async fn versions_of_a_name_never_repeat() {
    let harness = with_orders().await;
    let mut last = delta(&harness).snapshot().await.unwrap().version();
    for _ in 0..3 {
        delete(&harness, "/v1/tables/orders").await.answered();
        let no_table = delta(&harness).snapshot().await.unwrap_err();
        assert!(
            matches!(no_table, ManifestError::NoTable { .. }),
            "{no_table}"
        );
        // Another gateway knows by the catalog alone where the log went on.
        let another = harness.another().await;
        another.create(orders()).await.answered();
        let first = delta(&another).snapshot().await.unwrap().version();
        assert!(
            first.0 >= last.0 + 3,
            "fence, one for a late flush, {first} after {last}"
        );
        last = first;
        another.post(JSON, r#"{"id":1}"#).await.answered();
    }
}

#[tokio::test]
async fn a_flush_that_is_late_is_part_of_no_table() {
    let harness = keeping().await;
    let table = delta(&harness);
    let base = table.snapshot().await.unwrap();
    let flush = || tidelake_manifest::Transaction::flush(Vec::new(), Vec::new());
    // Into the emptied log: the fence takes its place again when the table is restored.
    delete(&harness, "/v1/tables/orders").await.answered();
    table.commit(&base, flush()).await.unwrap();
    undrop(&harness).await.answered();
    let now = delta(&harness).snapshot().await.unwrap();
    assert_eq!(
        now.version(),
        base.version().next().next(),
        "fence and lift"
    );
    let outcome = table.commit(&base, flush()).await.unwrap();
    let tidelake_manifest::CommitOutcome::Conflicted(conflict) = outcome else {
        panic!("the table was dropped meanwhile")
    };
    assert_eq!(conflict, tidelake_manifest::Conflict::Dropped);
    // Below the beginning of the next table.
    delete(&harness, "/v1/tables/orders").await.answered();
    harness.create(orders()).await.answered();
    let first = delta(&harness).snapshot().await.unwrap().version();
    let outcome = table.commit(&base, flush()).await;
    let now = delta(&harness).snapshot().await.unwrap();
    assert_eq!(now.version(), first, "{outcome:?}");
}

#[tokio::test]
async fn a_table_that_another_engine_made_in_the_folder_is_no_part_of_the_restored_one() {
    let harness = keeping().await;
    let made = delta(&harness).snapshot().await.unwrap();
    delete(&harness, "/v1/tables/orders").await.answered();
    // As many versions as reach beyond the dropped table's.
    let spec = tidelake_manifest::CreateTable {
        name: "theirs".into(),
        schema: made.schema().as_ref().clone(),
        append_only: true,
        properties: BTreeMap::default(),
        first_version: TableVersion(0),
    };
    let created = delta(&harness).create(spec).await.unwrap();
    let mut theirs = Arc::clone(created.snapshot());
    for _ in 0..5 {
        let flush = tidelake_manifest::Transaction::flush(Vec::new(), Vec::new());
        let outcome = delta(&harness).commit(&theirs, flush).await.unwrap();
        let tidelake_manifest::CommitOutcome::Committed { snapshot, .. } = outcome else {
            panic!("nobody else writes")
        };
        theirs = snapshot;
    }
    let problem = undrop(&harness).await;
    let problem = problem.is_problem(409, "LOCATION_TAKEN");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("default/orders"),
        "{problem}"
    );
    let untouched = delta(&harness).snapshot().await.unwrap();
    assert_eq!(untouched.version(), theirs.version());
    let log = harness.store.scoped("default/orders");
    for file in log.list("_delta_log").await.unwrap() {
        let name = log.relative(&file.location).unwrap();
        log.delete(&name).await.unwrap();
    }
    undrop(&harness).await.answered();
    harness.post(JSON, r#"{"id":3}"#).await.answered();
}

#[tokio::test]
async fn a_drop_that_died_is_finished_by_the_sweep() {
    let harness = keeping().await;
    let id = tidelake_core::TableId::new(
        tidelake_core::TenantId::default(),
        tidelake_core::TableName::new("orders").unwrap(),
    );
    let (clock, ids) = (harness.runtime.clock.clone(), harness.runtime.ids.clone());
    let catalog = Catalog::open(&harness.store, clock, ids).await.unwrap();
    let until = Some(1_000_000 + DAY_MS);
    catalog.drop_table_keeping(&id, until).await.unwrap();
    undrop(&harness)
        .await
        .is_problem(409, "TABLE_BEING_DROPPED");
    // It had fenced the table, copied the log, and begun to remove it.
    delta(&harness).drop_fence().await.unwrap();
    let entry = catalog.dropped(&id).unwrap().entry;
    let log = harness.store.scoped("default/orders");
    let first = "_delta_log/00000000000000000000.json";
    let aside = format!("_tidelake/dropped/{}/table", entry.topic_id);
    let bytes = log.get(first).await.unwrap();
    harness
        .store
        .scoped(&aside)
        .put(first, bytes)
        .await
        .unwrap();
    log.delete(first).await.unwrap();
    let later = at(&harness, 1_000_000 + 60_000).await;
    later.gateway.tables.sweep().await.unwrap();
    let log = harness
        .store
        .list("default/orders/_delta_log")
        .await
        .unwrap();
    assert_eq!(log.len(), 0, "no table is left for anybody");
    let events = harness.store.list("_tidelake/catalog").await.unwrap().len();
    later.gateway.tables.sweep().await.unwrap();
    let now = harness.store.list("_tidelake/catalog").await.unwrap().len();
    assert_eq!(now, events, "what is kept is at rest");
    undrop(&later).await.answered();
    later.post(JSON, r#"{"id":3}"#).await.answered();
}

/// Two gateways create, write, drop and restore one name at the same time. Whatever they were told,
/// in the end there is either a table that works or a name that is free, and no version came twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_race_for_a_name_leave_a_table_that_works() {
    for seed in 0..12_u64 {
        let harness = keeping().await;
        let first = delta(&harness).snapshot().await.unwrap().version();
        let tasks: Vec<_> = [harness.another().await, harness.another().await]
            .into_iter()
            .zip([seed, seed + 100])
            .map(|(gateway, seed)| {
                tokio::spawn(async move {
                    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                    for _ in 0..10 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        let reply = match state % 6 {
                            0 => gateway.create(orders()).await,
                            1 => delete(&gateway, "/v1/tables/orders").await,
                            2 => undrop(&gateway).await,
                            3 => delete(&gateway, "/v1/tables/orders?purge=true").await,
                            _ => gateway.post(JSON, r#"{"id":1}"#).await,
                        };
                        let status = reply.status.as_u16();
                        assert!(
                            matches!(status, 200 | 201 | 404 | 409 | 503),
                            "{}",
                            reply.body
                        );
                    }
                })
            })
            .collect();
        for task in tasks {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            ended.expect("nobody waits for ever").unwrap();
        }
        // A claim of one that lost may stand for its lease.
        let later = at(&harness, 1_000_000 + 60_000).await;
        later.gateway.tables.sweep().await.unwrap();
        if !later.get("/v1/tables/orders").await.status.is_success() {
            let made = later.create(orders()).await;
            assert_eq!(made.status, 201, "seed {seed}: {}", made.body);
        }
        later.post(JSON, r#"{"id":7}"#).await.answered();
        let table = delta(&later);
        let snapshot = table.snapshot().await.unwrap();
        assert!(snapshot.version() >= first && !snapshot.is_dropped());
        let flush = tidelake_manifest::Transaction::flush(Vec::new(), Vec::new());
        let outcome = table.commit(&snapshot, flush).await.unwrap();
        assert!(
            matches!(outcome, tidelake_manifest::CommitOutcome::Committed { .. }),
            "seed {seed}: {outcome:?}"
        );
    }
}
