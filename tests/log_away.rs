//! P1 while the log is away for longer than producers wait: records that are on their way from one
//! bucket to another are sent again, and none of them is lost or wins over a newer one.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tidelake_testkit::{Kafka, WAIT_MAX, wait_until};
use tidelake_tests::{Client, Direct, Fleet};

use crate::upsert_load::schema;

const BUCKETS: u32 = 3;
const KEYS: u64 = 4_000;
/// Times that the log goes away with records under way.
const TIMES: usize = 1;
/// A flush may begin before the log stands still: nothing is under way then.
const TRIES_MAX: u64 = 8;
const ROWS: &str = "SELECT id, v FROM t ORDER BY id";
const HELD: &str = "tidelake_flusher_buffer_bytes";

const FLUSHER: [(&str, &str); 3] = [
    // Time to stop the log while misrouted records are held.
    ("TIDELAKE__FLUSH_AGE_MS", "1500"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    // So long the producer waits for an acknowledgement.
    ("TIDELAKE__KAFKA__PROPERTIES__MESSAGE_TIMEOUT_MS", "2500"),
];

/// Every key with this value, each in a bucket that is not its own.
async fn write(direct: &Direct, value: u64) -> Result<()> {
    let messages = (0..KEYS).map(|id| {
        let key = id.to_string();
        let record = format!("{{\"id\":{id},\"v\":{value}}}");
        direct.record(direct.elsewhere(&key, id), &key, Some(record))
    });
    direct.send(messages).await
}

/// Stops the log while misrouted records are held, until their time-out has passed. False where they
/// were through before.
async fn goes_away(kafka: &Kafka, client: &Client, flusher: &str) -> Result<bool> {
    wait_until("records to be held", WAIT_MAX, async || {
        (client.metric(flusher, HELD).await.ok()? > 0.0).then_some(())
    })
    .await?;
    kafka.pause()?;
    let what = "a flush that the log does not take";
    let met = wait_until(what, WAIT_MAX, async || {
        if client.metric(flusher, HELD).await.ok()? == 0.0 {
            return Some(false);
        }
        let stopped = client.stopped(flusher, "t").await.ok()?;
        (!stopped.is_empty()).then_some(true)
    })
    .await;
    kafka.resume()?;
    met
}

#[tokio::test(flavor = "multi_thread")]
async fn misrouted_records_outlive_a_log_that_is_away_for_longer_than_producers_wait() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let mut fleet = Fleet::start(&kafka.bootstrap(), &FLUSHER).await.unwrap();
    let client = fleet.client().unwrap();
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let direct = Direct::new(&kafka.bootstrap(), "t", BUCKETS).unwrap();
    let flusher = fleet.flusher.ready("flusher").unwrap().to_owned();
    let (mut value, mut met) = (0, 0);
    while met < TIMES {
        value += 1;
        assert!(value <= TRIES_MAX, "no record was under way: {met} times");
        write(&direct, value).await.unwrap();
        met += usize::from(goes_away(&kafka, &client, &flusher).await.unwrap());
        // What follows while the older ones are sent again must win.
        value += 1;
        write(&direct, value).await.unwrap();
        all_are(&client, value).await.unwrap();
    }
    assert_eq!(direct.dead_letters().await.unwrap(), 0);
    fleet.stop().await.unwrap();
}

async fn all_are(client: &Client, value: u64) -> Result<()> {
    let expected: BTreeMap<u64, u64> = (0..KEYS).map(|id| (id, value)).collect();
    let mut last = BTreeMap::new();
    let arrived = wait_until("all records in their buckets", WAIT_MAX, async || {
        last = client
            .pairs(ROWS, "committed")
            .await
            .ok()?
            .into_iter()
            .collect();
        (last == expected).then_some(())
    })
    .await;
    let right = last.iter().filter(|(_, v)| **v == value).count();
    arrived.map_err(|error| error.context(format!("{right} of {KEYS} have {value}")))?;
    let rows: BTreeMap<u64, u64> = client.pairs(ROWS, "latest").await?.into_iter().collect();
    ensure!(rows == expected, "latest has other rows than committed");
    Ok(())
}
