//! P1 and P2 under kill -9: what was acknowledged is there exactly once, what was refused is nowhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, bail};
use tidelake_testkit::{History, Kafka, WAIT_MAX, wait_until};
use tidelake_tests::{Client, Fleet, Installation, Services};
use tokio::sync::Mutex;

use crate::{lines, numbered};

const ROUNDS: u64 = 6;
const CLIENTS: u64 = 3;
const BODY_RECORDS: u64 = 40;

/// Clients that send until told to stop; every body's end is noted.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client, history: &Arc<Mutex<History>>, next: &Arc<AtomicU64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |_| {
            let (client, history, next, stop) =
                (client.clone(), history.clone(), next.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let first = next.fetch_add(BODY_RECORDS, Ordering::SeqCst);
                    let ids = first..first + BODY_RECORDS;
                    let bad = first / BODY_RECORDS % 5 == 4;
                    let mut body = lines(ids.clone());
                    if bad {
                        body.push_str("{\"id\":\"not a number\"}\n");
                    }
                    history.lock().await.sent(ids.clone());
                    let Ok(answer) = client.ndjson("t", &body).await else {
                        continue;
                    };
                    let mut history = history.lock().await;
                    match answer.status {
                        200 if !bad => history.acknowledged(ids),
                        422 if bad => history.refused(ids),
                        // Unknown: it may be there once, or not.
                        503 | 500 => {}
                        other => panic!("status {other}: {}", answer.body),
                    }
                }
            })
        };
        Self {
            stop: stop.clone(),
            tasks: (0..CLIENTS).map(task).collect(),
        }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("a client found what must not be");
        }
    }
}

/// Waits until so many more records were acknowledged: a kill then hits work under way.
async fn progress(history: &Arc<Mutex<History>>, more: usize) -> Result<()> {
    let before = history.lock().await.acknowledged_count();
    wait_until("records to be acknowledged", WAIT_MAX, async || {
        (history.lock().await.acknowledged_count() >= before + more).then_some(())
    })
    .await
}

async fn compare(client: &Client, history: &Arc<Mutex<History>>) -> Result<()> {
    for consistency in ["latest", "committed"] {
        if consistency == "committed" {
            client.flush("t").await?;
        }
        let ids = client.ids("SELECT id FROM t", consistency).await?;
        let verdict = history.lock().await.check(ids);
        if !verdict.is_clean() {
            bail!("{consistency}: {verdict}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_the_whole_process_loses_and_doubles_nothing() {
    let settings = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "150")];
    let mut local = Installation::start_with(&[], &settings).await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 3)
        .await
        .unwrap();
    let history = Arc::new(Mutex::new(History::new()));
    let next = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        let load = Load::start(&local.client, &history, &next);
        // A different moment of flush and commit each time.
        progress(&history, 400 + 330 * round as usize)
            .await
            .unwrap();
        local.process.kill().unwrap();
        load.stop().await;
        local.restart().await.unwrap();
        compare(&local.client, &history).await.unwrap();
    }
    assert!(history.lock().await.acknowledged_count() > 1000);
}

const FLUSHER: [(&str, &str); 3] = [
    ("TIDELAKE__FLUSH_AGE_MS", "200"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__INSTANCE_ID", "one"),
];

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_each_service_on_apache_kafka_loses_and_doubles_nothing() {
    let Some(mut kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let mut fleet = Fleet::start(&kafka.bootstrap(), &FLUSHER).await.unwrap();
    fleet
        .client()
        .unwrap()
        .create_table("t", &numbered(), 3)
        .await
        .unwrap();
    let history = Arc::new(Mutex::new(History::new()));
    let next = Arc::new(AtomicU64::new(0));
    for round in 0..4 {
        let load = Load::start(&fleet.client().unwrap(), &history, &next);
        progress(&history, 500).await.unwrap();
        match round {
            0 => {
                fleet.gateway.kill().unwrap();
                load.stop().await;
                fleet.gateway = fleet.services.start("ingest-gateway", &[]).await.unwrap();
            }
            1 => {
                fleet.flusher.kill().unwrap();
                fleet.flusher = fleet.services.start("flusher", &FLUSHER).await.unwrap();
                progress(&history, 500).await.unwrap();
                load.stop().await;
            }
            2 => {
                fleet.query.kill().unwrap();
                load.stop().await;
                fleet.query = fleet.services.start("query-api", &[]).await.unwrap();
            }
            _ => {
                kafka.kill().unwrap();
                load.stop().await;
                kafka.restart().await.unwrap();
            }
        }
        compare(&fleet.client().unwrap(), &history).await.unwrap();
    }
    fleet.stop().await.unwrap();
}

/// A flusher that was stopped in the middle wakes up after another has taken its buckets, with rows
/// in memory that the other has committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_flusher_cannot_double_anything() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = format!("file://{}", dir.path().display());
    let services = Services::new(&kafka.bootstrap(), &store);
    let gateway = services.start("ingest-gateway", &[]).await.unwrap();
    let query = services.start("query-api", &[]).await.unwrap();
    let client = services.client(&gateway, &query).unwrap();
    client.create_table("t", &numbered(), 2).await.unwrap();
    // It holds its rows for some seconds, so that it sleeps with them.
    let slow = [
        ("TIDELAKE__FLUSH_AGE_MS", "4000"),
        ("TIDELAKE__DISCOVERY_MS", "200"),
    ];
    let zombie = services.start("flusher", &slow).await.unwrap();
    let address = zombie.ready("flusher").unwrap().to_owned();
    client
        .ndjson("t", &lines(0..500))
        .await
        .unwrap()
        .ok()
        .unwrap();
    let taken = "tidelake_flusher_records_total{table=\"t\",tenant=\"default\"}";
    wait_until("the zombie to hold the rows", WAIT_MAX, async || {
        (client.metric(&address, taken).await.ok()? >= 500.0).then_some(())
    })
    .await
    .unwrap();
    zombie.pause().unwrap();
    let quick = [
        ("TIDELAKE__FLUSH_AGE_MS", "100"),
        ("TIDELAKE__DISCOVERY_MS", "200"),
    ];
    let _heir = services.start("flusher", &quick).await.unwrap();
    client
        .ndjson("t", &lines(500..600))
        .await
        .unwrap()
        .ok()
        .unwrap();
    wait_until("the heir to commit", WAIT_MAX, async || {
        let ids = client.ids("SELECT id FROM t", "committed").await.ok()?;
        (ids.len() == 600).then_some(())
    })
    .await
    .unwrap();
    zombie.resume().unwrap();
    // It tries, is refused, and says so; then both go on.
    wait_until("the zombie to be refused", WAIT_MAX, async || {
        let text = client
            .http
            .get(format!("{address}/metrics"))
            .send()
            .await
            .ok()?;
        let text = text.text().await.ok()?;
        let lost = text.lines().any(|line| {
            (line.starts_with("tidelake_commit_conflicts_total{") && !line.ends_with(" 0"))
                || line == "tidelake_flusher_buffer_bytes 0"
        });
        lost.then_some(())
    })
    .await
    .unwrap();
    client
        .ndjson("t", &lines(600..700))
        .await
        .unwrap()
        .ok()
        .unwrap();
    client.flush("t").await.unwrap();
    let mut history = History::new();
    history.sent(0..700);
    history.acknowledged(0..700);
    for consistency in ["latest", "committed"] {
        let ids = client.ids("SELECT id FROM t", consistency).await.unwrap();
        history.check(ids).assert_clean();
    }
}
