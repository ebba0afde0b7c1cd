//! Tables that nobody asks for, and those who come back to them.

use super::*;

#[tokio::test]
async fn a_table_that_nobody_asks_for_costs_nothing() {
    let settings = QuerySettings {
        tail_idle_ms: 250,
        ..QuerySettings::default()
    };
    let mut case = Case::new(settings).await;
    case.put(&("eu".to_owned(), 1), "a");
    case.check().await;
    // What was asked last did without the log.
    case.world.rows("SELECT note FROM orders").await;
    assert_eq!(case.world.log.feeds(), 2, "the table and the commit events");
    crate::testing::until(async || case.world.log.feeds() == 0).await;
    assert_eq!(case.world.engine.metrics().tail_cached_bytes.get(), 0);
    let (requests, asked) = (case.world.store.requests(), case.world.log.asked());
    case.put(&("eu".to_owned(), 2), "b");
    let version = case.table.snapshot.version();
    case.world.log.announce(&case.table.entry.id, version);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(case.world.store.requests(), requests);
    assert_eq!(case.world.log.asked(), asked);
    case.check().await;
}

#[tokio::test]
async fn rows_that_are_all_in_files_are_counted_without_an_index() {
    let settings = QuerySettings {
        tail_idle_ms: 50,
        ..QuerySettings::default()
    };
    let mut case = Case::new(settings).await;
    let all = [1.0, 1.0];
    let flush = |announced| Step::Flush {
        shares: all,
        announced,
    };
    for id in 0..4 {
        case.put(&("eu".to_owned(), id), "a");
    }
    case.step(&flush(false)).await;
    case.put(&("eu".to_owned(), 1), "b");
    case.step(&flush(false)).await;
    let entry = Arc::clone(&case.table.entry);
    let count = async |case: &Case, consistency: &str| {
        let sql = "SELECT count(*), max(note) FROM orders";
        let (_, body) = case
            .world
            .sql(json!({"sql": sql, "consistency": consistency}))
            .await;
        (body["rows"][0].clone(), body["positions"].clone())
    };
    let committed = count(&case, "committed").await;
    assert_eq!(committed.0, json!([4, "b"]));
    let before = case.world.log.feeds();
    assert_eq!(count(&case, "latest").await, committed);
    assert!(case.world.engine.tails().followed(&entry).is_none());
    assert_eq!(case.world.log.feeds(), before);
    // Queried once more, it is followed while nobody waits for that.
    assert_eq!(count(&case, "latest").await, committed);
    crate::testing::until(async || case.world.engine.tails().followed(&entry).is_some()).await;
    crate::testing::until(async || case.world.log.feeds() == before).await;
    // A row behind the files: whose it supersedes only the index knows.
    case.put(&("eu".to_owned(), 2), "c");
    assert_eq!(count(&case, "latest").await.0, json!([4, "c"]));
    crate::testing::until(async || case.world.log.feeds() == before).await;
    // What was flushed since is no reason to follow it, either.
    case.step(&flush(false)).await;
    pause(60).await;
    assert_eq!(count(&case, "latest").await.0, json!([4, "c"]));
    assert_eq!(case.world.log.feeds(), before);
}

/// What a follower knew of the keys the next one begins with.
#[tokio::test]
async fn keys_are_not_read_again_by_whoever_follows_next() {
    let settings = QuerySettings {
        tail_idle_ms: 20,
        ..QuerySettings::default()
    };
    let mut case = Case::new(settings).await;
    let key = |id| ("eu".to_owned(), id);
    for id in 0..8 {
        case.put(&key(id), "a");
        let (shares, announced) = ([1.0, 1.0], false);
        case.step(&Step::Flush { shares, announced }).await;
    }
    let find = async |case: &Case, id: i64| {
        let path = format!(
            "/v1/tables/orders/rows/{}",
            text(&key(id)).replace('"', "%22")
        );
        let before = case.world.store.requests();
        let (status, body) = case.world.get(&path).await;
        assert_eq!((status, &body["note"]), (200, &json!("a")), "{body}");
        case.world.store.requests().since(&before).total()
    };
    let first = find(&case, 1).await;
    crate::testing::until(async || case.world.log.feeds() == 0).await;
    // The page of the row is at hand as well.
    let again = find(&case, 1).await;
    assert!(again + 8 <= first, "{again} requests, {first} at first");
    // Rows deleted meanwhile stay deleted, new ones are found.
    crate::testing::until(async || case.world.log.feeds() == 0).await;
    case.push(
        home(&key(2)),
        Wire::tombstone(&text(&key(2))),
        vec![(key(2), None)],
    );
    case.put(&key(9), "z");
    let (shares, announced) = ([1.0, 1.0], false);
    case.step(&Step::Flush { shares, announced }).await;
    case.check().await;
}
