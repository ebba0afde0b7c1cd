//! P1 to P5 of upsert tables under kill -9: every key is what its last acknowledged record says, at
//! most once, for us and for readers that we did not write.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::json;
use tidelake_testkit::{Kafka, UpsertHistory, WAIT_MAX, wait_until};
use tidelake_tests::{Fleet, Installation};
use tokio::sync::Mutex;

use crate::upsert_load::{Load, compare, progress, readers_agree, schema};

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_leaves_every_key_as_its_last_record_says() {
    // Files are written anew all the time, beside everything else that is killed.
    let settings = [
        ("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "150"),
        ("TIDELAKE__COMPACTOR__SWEEP_MS", "50"),
        ("TIDELAKE__COMPACTOR__FILES_TO_MERGE", "3"),
        ("TIDELAKE__COMPACTOR__DELETED_PERCENT", "10"),
    ];
    let mut local = Installation::start_with(&[], &settings).await.unwrap();
    local.client.create_upsert("t", &schema(), 3).await.unwrap();
    let history = Arc::new(Mutex::new(UpsertHistory::new()));
    let serial = Arc::new(AtomicU64::new(0));
    for round in 0..5 {
        let load = Load::start(&local.client, &history, &serial);
        // A different moment of flush and commit each time.
        progress(&history, 1200 + 430 * round).await.unwrap();
        local.process.kill().unwrap();
        load.stop().await;
        local.restart().await.unwrap();
        compare(&local.client, &history).await.unwrap();
    }
    let folder = local.table_folder("t").unwrap();
    readers_agree(&local.client, &folder).await.unwrap();
}

const FLUSHER: [(&str, &str); 3] = [
    ("TIDELAKE__FLUSH_AGE_MS", "200"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__INSTANCE_ID", "one"),
];

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_flusher_and_query_node_on_apache_kafka_keeps_every_key() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let mut fleet = Fleet::start(&kafka.bootstrap(), &FLUSHER).await.unwrap();
    let client = |fleet: &Fleet| fleet.client().unwrap();
    client(&fleet)
        .create_upsert("t", &schema(), 3)
        .await
        .unwrap();
    let history = Arc::new(Mutex::new(UpsertHistory::new()));
    let serial = Arc::new(AtomicU64::new(0));
    for round in 0..4 {
        let load = Load::start(&client(&fleet), &history, &serial);
        progress(&history, 1500).await.unwrap();
        if round % 2 == 0 {
            fleet.flusher.kill().unwrap();
            fleet.flusher = fleet.services.start("flusher", &FLUSHER).await.unwrap();
            progress(&history, 1500).await.unwrap();
            load.stop().await;
        } else {
            fleet.query.kill().unwrap();
            progress(&history, 500).await.unwrap();
            load.stop().await;
            fleet.query = fleet.services.start("query-api", &[]).await.unwrap();
        }
        compare(&client(&fleet), &history).await.unwrap();
    }
    let folder = fleet.table_folder("t");
    readers_agree(&client(&fleet), &folder).await.unwrap();
    fleet.stop().await.unwrap();
}

/// The local part of the key index may be lost or damaged at any time: it is made anew from what is
/// stored, for flusher and queries alike.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_index_heals() {
    const KEYS: u64 = 60_000;
    let by_request = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "600000")];
    let local = Installation::start_with(&[], &by_request).await.unwrap();
    let client = &local.client;
    let schema = json!({"type": "struct", "schema-id": 0, "identifier-field-ids": [1], "fields": [
        {"id": 1, "name": "id", "required": true, "type": "string"},
        {"id": 2, "name": "v", "required": false, "type": "long"},
    ]});
    client.create_upsert("t", &schema, 1).await.unwrap();
    // Keys that nothing can be left out of, so that the index becomes a file.
    let line = |id: u64, v: u64| {
        let key = u128::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C834);
        json!({"id": format!("{key:032x}"), "v": v}).to_string() + "\n"
    };
    let all: String = (0..KEYS).map(|id| line(id, 0)).collect();
    client.ndjson("t", &all).await.unwrap().ok().unwrap();
    client.flush("t").await.unwrap();
    let count = "SELECT count(*), count(DISTINCT id), sum(v) FROM t";
    let rows = client.sql(count, "latest").await.unwrap();
    assert_eq!(rows, [json!([KEYS, KEYS, 0])]);
    for round in 1..3 {
        let mut damaged = 0;
        let folder = local.data().join("cache/index");
        for home in std::fs::read_dir(folder).unwrap().flatten() {
            let Ok(files) = std::fs::read_dir(home.path()) else {
                continue;
            };
            for file in files.flatten() {
                let bytes = file.metadata().unwrap().len() as usize;
                std::fs::write(file.path(), vec![0; bytes]).unwrap();
                damaged += usize::from(file.path().extension().is_some_and(|end| end == "run"));
            }
        }
        assert!(damaged > 0, "the index is in files");
        let some: String = (0..100).map(|id| line(id, round)).collect();
        client.ndjson("t", &some).await.unwrap().ok().unwrap();
        client.flush("t").await.unwrap();
        let healed = || async {
            let rows = client.sql(count, "latest").await.ok()?;
            (rows == [json!([KEYS, KEYS, 100 * round])]).then_some(())
        };
        wait_until("the index to be made anew", WAIT_MAX, healed)
            .await
            .unwrap();
    }
}
