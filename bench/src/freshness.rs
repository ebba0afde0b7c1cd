//! `freshness`: from the acknowledgement of a record to the answer that shows it, while others write:
//! at a rate, and as fast as two clients can.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::reads::{Way, look, percentiles};
use crate::report::{Stopwatch, now, round};
use crate::system::{System, pause};
use crate::upsert::{ARROW, Dice, body, every_second, fill, rows};

pub(crate) const TABLE: &str = "clicks";
/// What a rate is made of.
const TICK: Duration = Duration::from_millis(20);
/// Rows of a body where nothing holds the clients back.
const BODY_RECORDS: u64 = 250_000;
pub(crate) const CLIENTS: u64 = 2;
/// The rate is told for each part of the time.
const PART: Duration = Duration::from_secs(10);
/// A row that is not there by then will never be.
const VISIBLE_MAX: Duration = Duration::from_secs(60);

/// Each rate on a system of its own.
pub(crate) async fn run(live: u64, rate: Option<u64>, seconds: u64) -> Result<()> {
    if let Some(rate) = rate {
        return measure(live, rate, seconds).await.map(|_| ());
    }
    measure(live, 50_000, seconds).await?;
    let highest = measure(live, 0, seconds).await?;
    measure(live, (highest * 0.8) as u64, seconds).await?;
    Ok(())
}

/// The rate that was reached.
async fn measure(live: u64, rate: u64, seconds: u64) -> Result<f64> {
    let system = Arc::new(System::start(&every_second())?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    look(&system, live, 1, 200, (5, Way::Get)).await?;
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    let end = now() + Duration::from_secs(seconds);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let (system, acknowledged) = (Arc::clone(&system), Arc::clone(&acknowledged));
        clients.push(tokio::spawn(write(
            system,
            (client, live),
            rate / CLIENTS,
            end,
            acknowledged,
        )));
    }
    let parts = tokio::spawn(parts(Arc::clone(&acknowledged), end));
    let mut probes = Probes::default();
    while now() < end {
        probes.one(&system, live).await?;
        pause(Duration::from_millis(5)).await;
    }
    for client in clients {
        client.await??;
    }
    let rates = parts.await?;
    let (sent, reached) = (acknowledged.load(Ordering::SeqCst), watch.seconds());
    let paced = paced_seconds(&system).await?;
    let count = probes.times.len() as u64;
    let more = json!({
        "live_keys": live, "rate_wanted": rate, "probes": count,
        "acknowledged_per_second_by_10_s": rates, "paced_seconds": round(paced, 1),
        "refused_by_status": probes.refused, "ms": percentiles(probes.times),
        "target_ms": {"p99": target_ms(rate)},
    });
    watch.report("freshness", sent, None, more);
    system.flush(TABLE).await?;
    let found = system.count(TABLE).await?;
    ensure!(
        found == live + count,
        "{found} live rows, expected {live} and {count}"
    );
    Ok(sent as f64 / reached)
}

fn target_ms(rate: u64) -> u64 {
    match rate {
        0 => 500,
        1..=50_000 => 10,
        _ => 100,
    }
}

/// Writes random keys until the end.
pub(crate) async fn write(
    system: Arc<System>,
    (client, live): (u64, u64),
    rate: u64,
    end: Instant,
    acknowledged: Arc<AtomicU64>,
) -> Result<()> {
    let mut dice = Dice::new(3 + client);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    // What a tick was late by is made up for: the rate is kept.
    let each = match rate {
        0 => BODY_RECORDS,
        rate => rate * TICK.as_millis() as u64 / 1000,
    };
    let mut sent = 0;
    while now() < end {
        if rate > 0 {
            tick.tick().await;
        }
        let ids = (0..each).map(|_| dice.below(live) as i64).collect();
        let body = body(&rows(ids, sent * CLIENTS + client)?)?;
        let path = format!("/v1/tables/{TABLE}/records");
        system.post(&path, body, ARROW).await?;
        sent += each;
        acknowledged.fetch_add(each, Ordering::SeqCst);
    }
    Ok(())
}

/// Acknowledged records a second, of each part of the time.
async fn parts(acknowledged: Arc<AtomicU64>, end: Instant) -> Vec<f64> {
    let mut rates = Vec::new();
    let mut before = 0;
    while now() + PART <= end {
        pause(PART).await;
        let sum = acknowledged.load(Ordering::SeqCst);
        rates.push(((sum - before) as f64 / PART.as_secs_f64()).round());
        before = sum;
    }
    rates
}

/// Records of keys that nobody else writes, each asked for as soon as it is acknowledged.
#[derive(Debug, Default)]
struct Probes {
    times: Vec<Duration>,
    refused: BTreeMap<u16, u64>,
}

impl Probes {
    async fn one(&mut self, system: &System, live: u64) -> Result<()> {
        let key = live + 1 + self.times.len() as u64;
        let ts = self.times.len() as u64 * 7919;
        let record = json!({"id": key, "user": "probe", "ts": ts});
        let path = format!("/v1/tables/{TABLE}/records");
        let text = record.to_string().into_bytes();
        system.post(&path, text, "application/json").await?;
        let acknowledged = now();
        loop {
            let url = format!("{}/v1/tables/{TABLE}/rows/{key}", system.query);
            let answer = system.http.get(url).send().await?;
            if answer.status().is_success() {
                let row: Value = answer.json().await?;
                ensure!(row["ts"] == record["ts"], "an older row came back: {row}");
                break;
            }
            // An acknowledged record that is not there would be a wrong answer, not a late one.
            let status = answer.status();
            let text = answer.text().await?;
            ensure!(status != StatusCode::NOT_FOUND, "not there: {text}");
            if self.refused.is_empty() {
                eprintln!("{text}\n{}", system.complaints());
            }
            *self.refused.entry(status.as_u16()).or_default() += 1;
            ensure!(acknowledged.elapsed() < VISIBLE_MAX, "never visible");
            pause(Duration::from_millis(5)).await;
        }
        self.times.push(acknowledged.elapsed());
        Ok(())
    }
}

/// For how long the gateway held acknowledgements back.
async fn paced_seconds(system: &System) -> Result<f64> {
    let url = format!("{}/metrics", system.gateway);
    let text = system.http.get(url).send().await?.text().await?;
    let name = "tidelake_gateway_paced_seconds_total ";
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.map_or(Ok(0.0), str::parse)?)
}
