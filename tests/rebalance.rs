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

/// Without a name: the group must notice that it is gone.
const FLUSHER: [(&str, &str); 5] = [
    ("TIDELAKE__INSTANCE_ID", "none"),
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

/// So long that nothing which waits for a session's end passes.
const LONG_SESSION: &str = "300000";

/// A flusher that nobody named comes back after a crash as who it was, and one that is stopped keeps
/// nothing from the others: neither waits for a session's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_or_a_stop_waits_for_no_session() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let folders = tempfile::tempdir().unwrap();
    let of = |name: &str| folders.path().join(name).display().to_string();
    let (here, there) = (of("here"), of("there"));
    let flusher = |folder| {
        [
            ("TIDELAKE__INDEX_DIR", folder),
            ("TIDELAKE__FLUSH_AGE_MS", "600000"),
            ("TIDELAKE__DISCOVERY_MS", "200"),
            (
                "TIDELAKE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS",
                LONG_SESSION,
            ),
        ]
    };
    let here = flusher(here.as_str());
    let mut fleet = Fleet::start(&kafka.bootstrap(), &here).await.unwrap();
    let client = fleet.client().unwrap();
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let mut written = 0;
    write_and_flush(&client, &mut written).await.unwrap();
    fleet.flusher.kill().unwrap();
    let mut again = fleet.services.start("flusher", &here).await.unwrap();
    write_and_flush(&client, &mut written).await.unwrap();
    let there = flusher(there.as_str());
    let mut other = fleet.services.start("flusher", &there).await.unwrap();
    write_and_flush(&client, &mut written).await.unwrap();
    again.stop().await.unwrap();
    write_and_flush(&client, &mut written).await.unwrap();
    let rows = client.sql("SELECT count(*) AS n FROM t", "committed").await;
    assert_eq!(rows.unwrap()[0][0], written);
    other.stop().await.unwrap();
    fleet.gateway.stop().await.unwrap();
    fleet.query.stop().await.unwrap();
}

/// Rows of every bucket, committed within the time that a client waits for a flush.
async fn write_and_flush(client: &Client, written: &mut u64) -> Result<()> {
    let ids = *written..*written + 100;
    *written = ids.end;
    let lines: String = ids.map(|id| format!("{{\"id\":{id},\"v\":1}}\n")).collect();
    client.ndjson("t", &lines).await?.ok()?;
    client.flush("t").await?;
    Ok(())
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
