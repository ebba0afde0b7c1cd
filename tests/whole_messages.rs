//! P5: a body that fits in one message is seen whole or not at all, by every way of reading, while it
//! is in the log alone, while it is committed, and while its flusher dies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidelake_testkit::{EmbeddedBroker, WAIT_MAX, wait_until};
use tidelake_tests::{Client, Fleet};

use crate::upsert_load::schema;

const KEYS: u64 = 3000;
/// Every so many bodies the keys are all deleted.
const DELETE_EVERY: u64 = 7;

const FLUSHER: [(&str, &str); 3] = [
    ("TIDELAKE__FLUSH_AGE_MS", "60"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__INSTANCE_ID", "one"),
];

/// Bodies of all keys with the body's number as value, one after the other.
async fn write(client: &Client, written: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    for number in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        if number % DELETE_EVERY == 0 {
            let lines: String = (0..KEYS).map(|id| format!("{{\"id\":{id}}}\n")).collect();
            client.delete("t", &lines).await?.ok()?;
        } else {
            let lines: String = (0..KEYS)
                .map(|id| format!("{{\"id\":{id},\"v\":{number}}}\n"))
                .collect();
            client.ndjson("t", &lines).await?.ok()?;
        }
        written.store(number, Ordering::SeqCst);
    }
    Ok(())
}

/// Reads until told to stop; counts the different bodies it sees in `seen`.
async fn read(
    client: &Client,
    consistency: &str,
    written: &AtomicU64,
    seen: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let sql = "SELECT count(*), count(DISTINCT v), coalesce(min(v), 0) FROM t";
    let mut last = 0;
    while !stop.load(Ordering::SeqCst) {
        let acknowledged = written.load(Ordering::SeqCst);
        let row = client.sql(sql, consistency).await?.remove(0);
        ensure!(
            (row[0] == 0 && row[1] == 0) || (row[0] == KEYS && row[1] == 1),
            "{consistency}: rows, values, least value: {row}"
        );
        let value = row[2].as_u64().context("no number")?;
        if value == 0 {
            continue;
        }
        ensure!(value >= last, "{consistency}: {value} after {last}");
        ensure!(
            consistency == "committed" || value >= acknowledged,
            "{consistency}: {value} where {acknowledged} was acknowledged"
        );
        seen.fetch_add(u64::from(value > last), Ordering::SeqCst);
        last = value;
    }
    Ok(())
}

/// The same by lookups.
async fn look_up(client: &Client, stop: &AtomicBool) -> Result<()> {
    let keys: Vec<u64> = (0..KEYS).step_by(37).collect();
    while !stop.load(Ordering::SeqCst) {
        let answer = client.lookup("t", &json!({ "keys": keys })).await?.ok()?;
        let rows = answer["rows"].as_array().context("no rows")?;
        let first = &rows[0]["v"];
        let differs = rows.iter().find(|row| row["v"] != *first);
        ensure!(differs.is_none(), "lookup: {first} and {differs:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_bucket_is_seen_whole_or_not_at_all() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let mut fleet = Fleet::start(&broker.bootstrap(), &FLUSHER).await.unwrap();
    let client = fleet.client().unwrap();
    client.create_upsert("t", &schema(), 1).await.unwrap();
    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (latest, committed) = (AtomicU64::new(0), AtomicU64::new(0));
    let progress = async |more: u64| {
        let target = written.load(Ordering::SeqCst) + more;
        wait_until("bodies to be written", WAIT_MAX, async || {
            (written.load(Ordering::SeqCst) >= target).then_some(())
        })
        .await
    };
    let crash = async {
        let done = async {
            for bodies in [30, 17, 24] {
                progress(bodies).await?;
                fleet.flusher.kill()?;
                progress(5).await?;
                fleet.flusher = fleet.services.start("flusher", &FLUSHER).await?;
            }
            progress(40).await?;
            // How much the readers see in the meantime depends on the machine.
            wait_until("both readers to see some bodies", WAIT_MAX, async || {
                let seen = [&latest, &committed].map(|seen| seen.load(Ordering::SeqCst));
                seen.iter().all(|seen| *seen > 5).then_some(())
            })
            .await
        };
        let done = done.await;
        stop.store(true, Ordering::SeqCst);
        done
    };
    tokio::try_join!(
        write(&client, &written, &stop),
        read(&client, "latest", &written, &latest, &stop),
        read(&client, "committed", &written, &committed, &stop),
        look_up(&client, &stop),
        crash,
    )
    .unwrap();
    fleet.stop().await.unwrap();
}
