//! Snapshot plus tail is exact at every cut, and the cache never shows.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;
use tidelake_codec::packed;

use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

const IDS: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "batch", "type": "long", "required": false}]}"#;

async fn world(settings: QuerySettings, buckets: u32) -> (World, TestTable) {
    let world = World::new(settings).await;
    let table = world.table("t", IDS, buckets).await;
    (world, table)
}

/// Message `n` of a bucket: a single record, or three rows packed.
fn message(table: &TestTable, n: i64, packed_rows: bool) -> Wire {
    if !packed_rows {
        return Wire::json(&json!({"id": n, "batch": null}).to_string());
    }
    let mut decoder =
        tidelake_codec::json::JsonDecoder::new(&table.schema, Default::default()).unwrap();
    for part in 0..3 {
        let record = json!({"id": n * 1000 + part, "batch": n}).to_string();
        decoder.push_record(record.as_bytes()).unwrap();
    }
    let bytes = packed::encode(&decoder.finish().unwrap()).unwrap();
    let encoding = Some(packed::ENCODING.as_bytes().to_vec());
    Wire {
        value: Some(bytes.to_vec()),
        encoding,
        ..Wire::default()
    }
}

async fn ids(world: &World) -> Vec<i64> {
    let rows = world.rows("SELECT id FROM t ORDER BY id").await;
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| row[0].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn the_union_is_exact_at_every_cut() {
    for cut in 0..=12 {
        let (world, mut table) = world(QuerySettings::default(), 1).await;
        let mut wanted = BTreeSet::new();
        for n in 0..12 {
            let packed_rows = n % 3 == 1;
            world
                .log
                .push(&table.entry.topic, 0, message(&table, n, packed_rows));
            match packed_rows {
                true => wanted.extend((0..3).map(|part| n * 1000 + part)),
                false => _ = wanted.insert(n),
            }
        }
        if cut > 0 {
            table.flush(0, cut).await;
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        assert_eq!(ids(&world).await, wanted, "cut at {cut}");
        assert_eq!(ids(&world).await, wanted, "cut at {cut}, from the cache");
    }
}

#[tokio::test]
async fn what_was_read_is_not_read_again() {
    let (world, table) = world(QuerySettings::default(), 1).await;
    for n in 0..10 {
        world
            .log
            .push(&table.entry.topic, 0, message(&table, n, false));
    }
    ids(&world).await;
    let delivered = world.log.delivered(&table.entry.topic);
    ids(&world).await;
    assert_eq!(
        world.log.delivered(&table.entry.topic),
        delivered,
        "nothing new, nothing read"
    );
    world
        .log
        .push(&table.entry.topic, 0, message(&table, 10, false));
    let delivered = world.log.delivered(&table.entry.topic);
    assert_eq!(ids(&world).await.len(), 11);
    assert_eq!(world.log.delivered(&table.entry.topic) - delivered, 1);
}

#[tokio::test]
async fn flushed_rows_leave_the_cache() {
    let settings = QuerySettings {
        snapshot_age_ms_max: 0,
        ..QuerySettings::default()
    };
    let (world, mut table) = world(settings, 1).await;
    for n in 0..20_000 {
        world
            .log
            .push(&table.entry.topic, 0, message(&table, n, false));
    }
    assert_eq!(
        world.rows("SELECT count(*) FROM t").await,
        json!([[20_000]])
    );
    let cached = || world.engine.metrics().tail_cached_bytes.get();
    let before = cached();
    assert!(before > 0);
    table.flush(0, 19_000).await;
    assert_eq!(
        world.rows("SELECT count(*) FROM t").await,
        json!([[20_000]])
    );
    assert!(cached() < before, "{} of {before}", cached());
    table.flush(0, 20_000).await;
    assert_eq!(
        world.rows("SELECT count(*) FROM t").await,
        json!([[20_000]])
    );
    assert_eq!(cached(), 0);
}

#[tokio::test]
async fn many_messages_are_read_in_steps() {
    let (world, table) = world(QuerySettings::default(), 3).await;
    for n in 0..6_000 {
        world.log.push(
            &table.entry.topic,
            (n % 3) as u32,
            message(&table, n, false),
        );
    }
    assert_eq!(
        world.rows("SELECT count(*), sum(id) FROM t").await,
        json!([[6_000, 17_997_000]])
    );
    let delivered = world.log.delivered(&table.entry.topic);
    assert!(delivered <= 6_000 + 200, "{delivered}");
}

#[derive(Debug, Clone)]
enum Step {
    Push { bucket: u32, packed_rows: bool },
    Reject { bucket: u32 },
    Flush { bucket: u32, share: f64 },
    Query,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u32, any::<bool>())
            .prop_map(|(bucket, packed_rows)| Step::Push { bucket, packed_rows }),
        1 => (0..2u32).prop_map(|bucket| Step::Reject { bucket }),
        2 => (0..2u32, 0.0..=1.0f64).prop_map(|(bucket, share)| Step::Flush { bucket, share }),
        3 => Just(Step::Query),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever was pushed is there exactly once, however much of it was flushed and whenever it was
    /// asked for before; also for a query that may use an older snapshot.
    #[test]
    fn pushed_rows_are_there_exactly_once(
        steps in prop::collection::vec(step(), 1..40),
        age in prop_oneof![Just(0u64), Just(1_000_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = QuerySettings { snapshot_age_ms_max: age, ..QuerySettings::default() };
            let (world, mut table) = world(settings, 2).await;
            let mut wanted: Vec<i64> = Vec::new();
            let mut n = 0;
            for step in steps {
                n += 1;
                match step {
                    Step::Push { bucket, packed_rows } => {
                        let made = message(&table, n, packed_rows);
                        world.log.push(&table.entry.topic, bucket, made);
                        match packed_rows {
                            true => wanted.extend((0..3).map(|part| n * 1000 + part)),
                            false => wanted.push(n),
                        }
                    }
                    Step::Reject { bucket } => {
                        world.log.push(&table.entry.topic, bucket, Wire::json("{}"));
                    }
                    Step::Flush { bucket, share } => {
                        let from = table.watermark(bucket);
                        let end = world.log.end(&table.entry.topic, bucket);
                        let to = from + ((end - from) as f64 * share) as i64;
                        if to > from {
                            table.flush(bucket, to).await;
                        }
                    }
                    Step::Query => {
                        wanted.sort_unstable();
                        assert_eq!(ids(&world).await, wanted);
                    }
                }
            }
            wanted.sort_unstable();
            assert_eq!(ids(&world).await, wanted);
            let token = (0..2).map(|bucket| {
                let end = world.log.end(&table.entry.topic, bucket);
                (tidelake_core::Bucket(bucket), tidelake_core::Watermark(end))
            });
            let token = tidelake_core::Token::new(token).to_string();
            let body = json!({"sql": "SELECT count(*) FROM t", "token": token});
            assert_eq!(world.rows_of(body).await, json!([[wanted.len()]]));
        });
    }
}
