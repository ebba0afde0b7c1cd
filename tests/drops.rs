//! Tables dropped and made again under one name while they are written, flushed and queried and
//! their flusher dies: every answer is of one of them, and the last one is whole.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidelake_testkit::{EmbeddedBroker, WAIT_MAX, wait_until};
use tidelake_tests::{Answer, Client, Fleet};

use crate::others::{self, State};
use crate::upsert_load::schema;

const LIVES: u64 = 8;
const ROWS: u64 = 400;
/// Ids of a life begin at its number times so much.
const STRIDE: u64 = 1000;

const FLUSHER: [(&str, &str); 3] = [
    ("TIDELAKE__FLUSH_AGE_MS", "100"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__INSTANCE_ID", "one"),
];

/// What a client may be told while a table comes and goes: it is not there, it is another one, or
/// try again.
fn is_expected(answer: &Answer) -> bool {
    let passing = matches!(answer.status, 404 | 409 | 410 | 503 | 504);
    answer.status == 200 || (passing && !answer.code().is_empty())
}

fn records(life: u64) -> String {
    let ids = life * STRIDE..life * STRIDE + ROWS;
    ids.map(|id| format!("{{\"id\":{id},\"v\":{life}}}\n"))
        .collect()
}

/// Makes the table; what is left of the one before may hold the name for a moment.
async fn create(client: &Client, upsert: bool) -> Result<Value> {
    let mut last = None;
    let made = wait_until("the table to be made", WAIT_MAX, async || {
        let made = if upsert {
            client.create_upsert("t", &schema(), 2).await
        } else {
            let mut schema = schema();
            schema.as_object_mut()?.remove("identifier-field-ids");
            client.create_table("t", &schema, 2).await
        };
        made.map_err(|error| last = Some(error)).ok()
    })
    .await;
    made.map_err(|error| error.context(format!("{last:?}")))
}

/// Queries until told to stop. What is read is of one life, and no older one than before.
async fn query(client: &Client, stop: &AtomicBool, seen: &AtomicU64) -> Result<()> {
    let sql = "SELECT count(*), count(DISTINCT v), coalesce(min(v), 0), count(DISTINCT id) FROM t";
    let mut newest = 0;
    while !stop.load(Ordering::SeqCst) {
        for consistency in ["latest", "committed"] {
            let more = serde_json::json!({"consistency": consistency, "timeout_ms": 30_000});
            let answer = client.sql_with(sql, more).await?;
            ensure!(is_expected(&answer), "{consistency}: {answer:?}");
            let row = &answer.body["rows"][0];
            let Some(count) = row[0].as_u64().filter(|count| *count > 0) else {
                continue;
            };
            let life = row[2].as_u64().context("no life")?;
            ensure!(
                row[1] == 1 && row[3] == count && count <= ROWS && life >= newest,
                "{consistency}, after life {newest}: {row}"
            );
            newest = life;
            seen.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// All rows of this life and no others.
async fn is_whole(client: &Client, life: u64) -> Result<()> {
    let expected: Vec<_> = (life * STRIDE..life * STRIDE + ROWS)
        .map(|id| (id, life))
        .collect();
    let sql = "SELECT id, v FROM t ORDER BY id";
    for consistency in ["committed", "latest"] {
        let rows = client.pairs(sql, consistency).await?;
        ensure!(
            rows == expected,
            "life {life}, {consistency}: {} rows from {:?} to {:?}",
            rows.len(),
            rows.first(),
            rows.last()
        );
    }
    Ok(())
}

/// From the table's making to its end, its flusher killed at another place each time.
async fn live(fleet: &mut Fleet, life: u64) -> Result<()> {
    let client = fleet.client()?;
    let kill = life % 4;
    create(&client, life.is_multiple_of(2)).await?;
    if kill == 0 {
        crash(fleet).await?;
    }
    client.ndjson("t", &records(life)).await?.ok()?;
    if kill == 1 {
        crash(fleet).await?;
    }
    if life.is_multiple_of(3) {
        client.flush("t").await?;
        is_whole(&client, life).await?;
    }
    // Not a word of it is awaited before the drop.
    let path = "/v1/tables/t/flush?timeout_ms=20000";
    let flush = client.post(path, "application/json", "");
    let dropped = async {
        if kill == 2 {
            fleet.flusher.kill()?;
        }
        let purge = life % 2 == 1;
        let answer = client.drop_table("t", purge).await?;
        if kill == 2 {
            fleet.flusher = fleet.services.start("flusher", &FLUSHER).await?;
        }
        anyhow::Ok(answer)
    };
    let (flushed, dropped) = tokio::try_join!(flush, dropped)?;
    ensure!(is_expected(&flushed), "flush: {flushed:?}");
    dropped.ok()?;
    if kill == 3 {
        crash(fleet).await?;
    }
    Ok(())
}

async fn crash(fleet: &mut Fleet) -> Result<()> {
    fleet.flusher.kill()?;
    fleet.flusher = fleet.services.start("flusher", &FLUSHER).await?;
    Ok(())
}

/// The newest version of a log, which has none missing: it begins where that of the one before it
/// was ended.
fn newest(folder: &Path) -> Result<u64> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("_delta_log"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if let Some(number) = name.strip_suffix(".json")
            && let Ok(number) = number.parse::<u64>()
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    let (first, last) = (found.first(), found.last());
    let (first, last) = first.zip(last).context("an empty log")?;
    ensure!(
        found.iter().copied().eq(*first..=*last),
        "the log reads {found:?}"
    );
    Ok(*last)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_come_and_go_under_one_name_are_never_mixed() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let mut fleet = Fleet::start(&broker.bootstrap(), &FLUSHER).await.unwrap();
    let client = fleet.client().unwrap();
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let lives = async {
        let done = async {
            for life in 1..=LIVES {
                live(&mut fleet, life)
                    .await
                    .context(format!("life {life}"))?;
            }
            anyhow::Ok(())
        };
        let done = done.await;
        stop.store(true, Ordering::SeqCst);
        done
    };
    tokio::try_join!(lives, query(&client, &stop, &seen)).unwrap();
    assert!(seen.load(Ordering::SeqCst) > 0, "no query met a table");

    let last = LIVES + 1;
    let made = create(&client, true).await.unwrap();
    client
        .ndjson("t", &records(last))
        .await
        .unwrap()
        .ok()
        .unwrap();
    let version = client.flushed("t").await.unwrap();
    is_whole(&client, last).await.unwrap();
    let location = made["location"].as_str().unwrap();
    let folder = fleet.store_folder().join(location);
    assert!(newest(&folder).unwrap() >= version);
    let rows = (last * STRIDE..last * STRIDE + ROWS).map(|id| (id, last));
    let state = State {
        folder,
        version,
        rows: rows.collect(),
    };
    others::agree(&[state], ["id", "v"]).await.unwrap();
    fleet.stop().await.unwrap();
}
