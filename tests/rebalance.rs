//! Flushers that come and go: buckets move, keys stay what they were.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Result, ensure};
use tidelake_testkit::{Kafka, Process, Reader, Readers, Reading, UpsertHistory};
use tidelake_tests::{Client, Fleet};
use tokio::sync::Mutex;

use crate::upsert_load::{Load, compare, newest_version, progress, schema};

const BUCKETS: u32 = 6;
const VERSIONS: u64 = 12;

/// Without a name of its own: the group must notice that it is gone.
const FLUSHER: [(&str, &str); 4] = [
    ("TIDELAKE__FLUSH_AGE_MS", "150"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000"),
    ("TIDELAKE__KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "500"),
];

#[tokio::test(flavor = "multi_thread")]
async fn flushers_that_join_leave_and_die_keep_every_key() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let mut fleet = Fleet::start(&kafka.bootstrap(), &FLUSHER).await.unwrap();
    let client = fleet.client().unwrap();
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let history = Arc::new(Mutex::new(UpsertHistory::new()));
    let serial = Arc::new(AtomicU64::new(0));
    let mut others: Vec<Process> = Vec::new();
    for change in 0..4 {
        let load = Load::start(&client, &history, &serial);
        progress(&history, 600).await.unwrap();
        match change {
            0 | 1 => others.push(fleet.services.start("flusher", &FLUSHER).await.unwrap()),
            2 => fleet.flusher.stop().await.unwrap(),
            _ => others[0].kill().unwrap(),
        }
        progress(&history, 1200).await.unwrap();
        load.stop().await;
        compare(&client, &history).await.unwrap();
    }
    let [_, survivor] = others.as_mut_slice() else {
        panic!("two flushers were started");
    };
    keys_are_unique(&client, &fleet).await.unwrap();
    survivor.stop().await.unwrap();
    fleet.gateway.stop().await.unwrap();
    fleet.query.stop().await.unwrap();
}

async fn keys_are_unique(client: &Client, fleet: &Fleet) -> Result<()> {
    let Some(readers) = Readers::new()? else {
        return Ok(());
    };
    let newest = newest_version(client).await?;
    // How many there are depends on the machine.
    let parts = newest.min(VERSIONS);
    ensure!(parts > 0, "nothing was committed");
    let readings: Vec<_> = (1..=parts)
        .map(|part| Reading {
            reader: Reader::DuckDb,
            path: fleet.table_folder("t").display().to_string(),
            version: Some(newest * part / parts),
            sql: "SELECT count(*) AS rows, count(DISTINCT id) AS keys FROM t".into(),
        })
        .collect();
    for (reading, found) in readings.iter().zip(readers.all(&readings).await?) {
        let row = &found[0];
        ensure!(
            row["rows"] == row["keys"],
            "version {:?}: {row}",
            reading.version
        );
        ensure!(row["rows"] != 0, "version {:?} is empty", reading.version);
    }
    Ok(())
}
