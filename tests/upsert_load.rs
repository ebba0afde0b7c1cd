//! Clients that write, update and delete, and what a table must hold after their answers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tidelake_testkit::{UpsertHistory, WAIT_MAX, wait_until};
use tidelake_tests::Client;
use tokio::sync::Mutex;

use crate::others::{self, State};

const CLIENTS: u64 = 3;
/// Keys of each client: few, so that nearly every record replaces another.
const KEYS: u64 = 150;
const BODY_RECORDS: u64 = 40;

pub(crate) fn schema() -> Value {
    json!({"type": "struct", "schema-id": 0, "identifier-field-ids": [1], "fields": [
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "v", "required": false, "type": "long"},
        {"id": 3, "name": "note", "required": false, "type": "string"},
    ]})
}

/// Clients that write, update and delete keys of their own until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(
        client: &Client,
        history: &Arc<Mutex<UpsertHistory>>,
        serial: &Arc<AtomicU64>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |number| {
            let (client, history) = (client.clone(), history.clone());
            let (serial, stop) = (serial.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    body(&client, &history, &serial, number).await;
                }
            })
        };
        Self {
            stop: stop.clone(),
            tasks: (0..CLIENTS).map(task).collect(),
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("a client found what must not be");
        }
    }
}

/// One body: upserts, some keys twice; or deletes; sometimes with a bad record at its end.
async fn body(
    client: &Client,
    history: &Arc<Mutex<UpsertHistory>>,
    serial: &Arc<AtomicU64>,
    number: u64,
) {
    let first = serial.fetch_add(BODY_RECORDS, Ordering::SeqCst);
    let kind = first / BODY_RECORDS % 5;
    let (delete, bad) = (kind == 3, kind == 4);
    let mut lines = String::new();
    let mut last: Vec<(u64, Option<u64>)> = Vec::new();
    for at in 0..BODY_RECORDS {
        let value = first + at;
        let key = value.wrapping_mul(0x9E37_79B9) % KEYS * CLIENTS + number;
        last.retain(|(known, _)| *known != key);
        if delete {
            lines.push_str(&format!("{{\"id\":{key}}}\n"));
            last.push((key, None));
        } else {
            lines.push_str(&format!(
                "{{\"id\":{key},\"v\":{value},\"note\":\"n{}\"}}\n",
                value % 7
            ));
            last.push((key, Some(value)));
        }
    }
    if bad {
        lines.push_str("{\"id\":\"not a number\"}\n");
    }
    let mut before = Vec::new();
    {
        let mut history = history.lock().await;
        for (key, state) in &last {
            before.push((*key, history.possible(*key)));
            history.sent(*key, *state);
        }
    }
    let operation = if delete { "delete" } else { "upsert" };
    let path = format!("/v1/tables/t/records?op={operation}");
    let Ok(answer) = client.post(&path, "application/x-ndjson", lines).await else {
        return;
    };
    let mut history = history.lock().await;
    match answer.status {
        200 if !bad => {
            for (key, state) in last {
                history.acknowledged(key, state);
            }
        }
        422 if bad => {
            for (key, states) in before {
                history.refused(key, states);
            }
        }
        // Unknown: it may be there, or not.
        503 | 500 => {}
        other => panic!("status {other}: {}", answer.body),
    }
}

/// Waits until so many more records were acknowledged: a kill then hits work under way.
pub(crate) async fn progress(history: &Arc<Mutex<UpsertHistory>>, more: usize) -> Result<()> {
    let before = history.lock().await.acknowledged_count();
    wait_until("records to be acknowledged", WAIT_MAX, async || {
        (history.lock().await.acknowledged_count() >= before + more).then_some(())
    })
    .await
}

pub(crate) async fn compare(client: &Client, history: &Arc<Mutex<UpsertHistory>>) -> Result<()> {
    for consistency in ["latest", "committed"] {
        if consistency == "committed" {
            client.flush("t").await?;
        }
        let rows = client.pairs("SELECT id, v FROM t", consistency).await?;
        let verdict = history.lock().await.check(rows);
        if !verdict.is_clean() {
            bail!("{consistency}: {verdict}");
        }
    }
    // Lookups go another way to the same rows.
    let keys: Vec<u64> = (0..KEYS * CLIENTS).collect();
    let answer = client.lookup("t", &json!({ "keys": keys })).await?.ok()?;
    let rows = answer["rows"].as_array().context("no rows")?;
    let found = rows.iter().filter(|row| !row.is_null()).map(|row| {
        let number = |name: &str| row[name].as_u64().context("no number");
        Ok((number("id")?, number("v")?))
    });
    let verdict = history
        .lock()
        .await
        .check(found.collect::<Result<Vec<_>>>()?);
    if !verdict.is_clean() {
        bail!("lookup: {verdict}");
    }
    Ok(())
}

/// Readers that we did not write agree with us on a sample of versions, down to each row.
pub(crate) async fn readers_agree(client: &Client, folder: &Path) -> Result<()> {
    let newest = newest_version(client).await?;
    let mut states = Vec::new();
    for version in [newest / 3, newest / 2, newest] {
        let rows = client.pairs_at("SELECT id, v FROM t ORDER BY id", version);
        states.push(State {
            folder: folder.to_owned(),
            version,
            rows: rows.await?,
        });
    }
    others::agree(&states, ["id", "v"]).await
}

pub(crate) async fn newest_version(client: &Client) -> Result<u64> {
    let sql = "SELECT max(version) FROM table_history('t')";
    let newest = client.ids(sql, "committed").await?;
    newest.first().copied().context("no version")
}
