//! All tails of a process share one budget, and what did not fit is not decoded again to find out.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidelake_core::{Bucket, Offset};
use tidelake_log::News;

use super::budget::{Budget, Room};
use super::decode::Decoders;
use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

const IDS: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "note", "type": "string", "required": false}]}"#;
const ROWS: i64 = 3_000;
/// More than a table's rows take, and less than two tables'.
const BYTES_MAX: usize = 400_000;

async fn world(tail_bytes_max: usize, tail_cache_bytes_max: usize) -> World {
    let settings = QuerySettings {
        tail_bytes_max,
        tail_cache_bytes_max,
        snapshot_age_ms_max: 0,
        ..QuerySettings::default()
    };
    World::new(settings).await
}

async fn table(world: &World, name: &str) -> TestTable {
    let table = world.table(name, IDS, 1).await;
    for id in 0..ROWS {
        let record = json!({"id": id, "note": "some text"}).to_string();
        world.log.push(&table.entry.topic, 0, Wire::json(&record));
    }
    table
}

fn count(table: &str) -> Value {
    json!({ "sql": format!("SELECT count(*) FROM {table}") })
}

#[tokio::test]
async fn one_budget_holds_for_all_tables_of_a_statement() {
    let world = world(BYTES_MAX, BYTES_MAX).await;
    for name in ["a", "b", "c"] {
        table(&world, name).await;
    }
    let all = json!({"sql": "SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b) \
        + (SELECT count(*) FROM c)"});
    assert_eq!(world.code(all).await, (503, "TAIL_TOO_LARGE".into()));
    // One after the other they fit: those that nobody reads make room.
    for name in ["a", "b", "c", "a"] {
        assert_eq!(world.rows_of(count(name)).await, json!([[ROWS]]), "{name}");
        let cached = world.engine.metrics().tail_cached_bytes.get();
        assert!((1..=BYTES_MAX as i64).contains(&cached), "{cached}");
    }
}

#[tokio::test]
async fn a_table_that_does_not_fit_is_not_decoded_again_until_it_moves() {
    let world = world(BYTES_MAX / 4, BYTES_MAX).await;
    let mut table = table(&world, "a").await;
    let topic = table.entry.topic.to_string();
    assert_eq!(world.code(count("a")).await, (503, "TAIL_TOO_LARGE".into()));
    let delivered = world.log.delivered(&topic);
    assert!(delivered > 0);
    for _ in 0..3 {
        assert_eq!(world.code(count("a")).await, (503, "TAIL_TOO_LARGE".into()));
    }
    assert_eq!(world.log.delivered(&topic), delivered);
    let committed = json!({"sql": "SELECT count(*) FROM a", "consistency": "committed"});
    assert_eq!(world.rows_of(committed).await, json!([[0]]));
    table.flush(0, ROWS - 100).await;
    assert_eq!(world.rows_of(count("a")).await, json!([[ROWS]]));
    assert!(world.log.delivered(&topic) > delivered);
}

#[tokio::test]
async fn messages_are_decoded_as_far_as_there_is_room() {
    let world = world(BYTES_MAX, BYTES_MAX).await;
    let table = table(&world, "a").await;
    let from = [(Bucket(0), Offset(0))];
    let mut feed = world.log.tail().follow(&table.entry.topic, &from).unwrap();
    let mut news = Vec::new();
    while news
        .iter()
        .map(|news: &News| news.messages.len())
        .sum::<usize>()
        < ROWS as usize
    {
        news.push(feed.next().await.unwrap());
    }
    let snapshot = table.snapshot.clone();
    let rejected = world.engine.metrics().tail_rejected.clone();
    let mut decoders = Decoders::new(&table.entry, snapshot, Some(rejected));
    let budget = Budget::new(BYTES_MAX / 10);
    let mut reached = BTreeMap::from(from);
    let (mut rows, mut rounds) = (0, 0);
    loop {
        let mut room = Room::new(&budget, usize::MAX);
        let decoded = decoders
            .decode(&news, (&reached, &BTreeMap::new()), &mut room)
            .unwrap();
        assert!(budget.used() <= BYTES_MAX / 10);
        for (bucket, came) in decoded.came {
            assert!(came.bytes <= BYTES_MAX / 10, "{} bytes", came.bytes);
            rows += came.chunks.iter().map(|chunk| chunk.rows()).sum::<usize>();
            reached.insert(bucket, came.reached);
        }
        rounds += 1;
        match decoded.needs {
            Some(needs) => assert!(needs < 1000, "{needs} bytes for one message"),
            None => break,
        }
    }
    assert_eq!(rows, ROWS as usize, "none twice, none left out");
    assert!(rounds > 3, "{rounds}");
    assert_eq!(reached[&Bucket(0)], Offset(ROWS));
    assert_eq!(budget.used(), 0);
}
