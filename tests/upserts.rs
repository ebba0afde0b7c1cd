//! P1 to P5 of upsert tables under kill -9: every key is what its last acknowledged record says, at
//! most once, for us and for readers that we did not write.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidelake_testkit::{Kafka, UpsertHistory};
use tidelake_tests::{Fleet, Installation};
use tokio::sync::Mutex;

use crate::upsert_load::{Load, compare, progress, readers_agree, schema};

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_leaves_every_key_as_its_last_record_says() {
    let settings = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "150")];
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
