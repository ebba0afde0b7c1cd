//! `lookup`, `scan_after_updates`, `idle`: what reading an upsert table costs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelake_testkit::Readers;

use crate::report::{Stopwatch, Usage, now, report, round};
use crate::system::{System, pause};
use crate::upsert::{ARROW, Dice, body, every_second, fill, rows};

const TABLE: &str = "clicks";

/// Percentiles of times, in milliseconds.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> Value {
    times.sort();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times
            .get(place)
            .map(|time| round(time.as_secs_f64() * 1e3, 3))
    };
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
}

/// How a row is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Get,
    /// `SELECT * … WHERE` the key is.
    Sql,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Sql => "sql",
        }
    }

    fn request(self, http: &reqwest::Client, query: &str, key: u64) -> reqwest::RequestBuilder {
        match self {
            Self::Get => http.get(format!("{query}/v1/tables/{TABLE}/rows/{key}")),
            Self::Sql => {
                let sql = format!("SELECT * FROM {TABLE} WHERE id = {key}");
                http.post(format!("{query}/v1/sql"))
                    .json(&json!({ "sql": sql }))
            }
        }
    }

    /// The key of the one row of an answer.
    fn key(self, answer: &Value) -> Option<u64> {
        match self {
            Self::Get => answer["id"].as_u64(),
            Self::Sql => {
                let rows = answer["rows"].as_array().filter(|rows| rows.len() == 1)?;
                let columns = answer["columns"].as_array()?;
                let place = columns.iter().position(|column| column["name"] == "id")?;
                rows[0][place].as_u64()
            }
        }
    }
}

/// Point lookups by SQL beside those by route, in turn, of pages that were read before.
pub(crate) async fn lookup_by_sql(live: u64, rounds: u32) -> Result<()> {
    let mut options = every_second();
    // All clients are one tenant, whose queries are bounded below their number.
    let of_tenant = "TIDELAKE__QUERY__QUERY__RUNNING_PER_TENANT_MAX";
    options.environment.push((of_tenant.into(), "64".into()));
    let system = Arc::new(System::start(&options)?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    look(&system, live, 1, 500, (99, Way::Get)).await?;
    warm_up(&system, live).await?;
    for (clients, each) in [(1, 3_000), (16, 1_500)] {
        for round in 0..rounds.max(1) {
            for way in [Way::Get, Way::Sql] {
                let watch = Stopwatch::start(&[("tidelake", system.pid())]);
                let seed = (1 + u64::from(round), way);
                let times = look(&system, live, clients, each, seed).await?;
                let more = json!({
                    "way": way.name(), "clients": clients, "live_keys": live,
                    "ms": percentiles(times), "pages_read_before": true,
                });
                watch.report("lookup_by_sql", clients * each, None, more);
            }
        }
    }
    Ok(())
}

/// Point lookups by one and by sixteen clients that keep their connections.
pub(crate) async fn lookup(live: u64) -> Result<()> {
    let system = Arc::new(System::start(&every_second())?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    // The first lookups load the index.
    look(&system, live, 1, 500, (99, Way::Get)).await?;
    for (clients, each, is_warm) in [(1, 5_000, false), (1, 5_000, true), (16, 3_000, true)] {
        if is_warm && clients == 1 {
            warm_up(&system, live).await?;
        }
        let watch = Stopwatch::start(&[("tidelake", system.pid())]);
        let times = look(&system, live, clients, each, (1, Way::Get)).await?;
        let more = json!({
            "clients": clients, "live_keys": live, "ms": percentiles(times),
            "pages_read_before": is_warm,
        });
        watch.report("lookup", clients * each, Some(5e3), more);
    }
    Ok(())
}

/// Reads so many rows that every page was needed: 20 of each page's 1,024.
async fn warm_up(system: &System, live: u64) -> Result<()> {
    const KEYS: usize = 10_000;
    let mut dice = Dice::new(5);
    for _ in 0..(live / 50 / KEYS as u64).max(1) {
        let keys: Vec<u64> = (0..KEYS).map(|_| dice.below(live)).collect();
        let url = format!("{}/v1/tables/{TABLE}/lookup", system.query);
        let answer = system
            .http
            .post(url)
            .json(&json!({"keys": keys}))
            .send()
            .await?;
        let found: Value = answer.error_for_status()?.json().await?;
        let rows = found["rows"].as_array().context("no rows")?;
        ensure!(
            rows.len() == KEYS && rows.iter().all(Value::is_object),
            "rows are missing"
        );
    }
    Ok(())
}

pub(crate) async fn look(
    system: &Arc<System>,
    live: u64,
    clients: u64,
    each: u64,
    (seed, way): (u64, Way),
) -> Result<Vec<Duration>> {
    let mut running = Vec::new();
    for client in 0..clients {
        let system = Arc::clone(system);
        running.push(tokio::spawn(async move {
            let http = reqwest::Client::new();
            let mut dice = Dice::new(seed + client * 7919);
            let mut times = Vec::with_capacity(each as usize);
            for _ in 0..each {
                let key = dice.below(live);
                let request = way.request(&http, &system.query, key);
                let begun = now();
                let answer = request.send().await?;
                let status = answer.status();
                let text = answer.bytes().await?;
                times.push(begun.elapsed());
                ensure!(
                    status.is_success(),
                    "{status}: {}",
                    String::from_utf8_lossy(&text)
                );
                let found: Value = serde_json::from_slice(&text)?;
                let is_it = way.key(&found) == Some(key);
                ensure!(is_it, "asked for {key}, got {found}");
            }
            Ok(times)
        }));
    }
    let mut times = Vec::new();
    for client in running {
        times.extend(client.await??);
    }
    Ok(times)
}

/// Aggregates after a fifth of all rows got newer ones, beside DuckDB on the same folder.
pub(crate) async fn scan_after_updates(live: u64, rounds: u32) -> Result<()> {
    let system = Arc::new(System::start(&every_second())?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    let mut dice = Dice::new(21);
    let mut left = live / 5;
    while left > 0 {
        let count = left.min(250_000);
        let ids = (0..count).map(|_| dice.below(live) as i64).collect();
        let body = body(&rows(ids, left)?)?;
        system
            .post(&format!("/v1/tables/{TABLE}/records"), body, ARROW)
            .await?;
        left -= count;
    }
    system.flush(TABLE).await?;
    let statements = [
        ("count", "SELECT count(*) FROM clicks"),
        ("sum", "SELECT sum(amount) FROM clicks"),
        (
            "group_by",
            "SELECT country, count(*), sum(amount) FROM clicks GROUP BY country ORDER BY country",
        ),
    ];
    let readers = Readers::new()?.context("external tools are switched off")?;
    let folder = system.table_folder(TABLE)?.display().to_string();
    let script = include_str!("../baseline/duckdb_scan.py");
    let mut arguments = vec![folder, rounds.to_string()];
    arguments.extend(statements.iter().map(|(_, sql)| (*sql).to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let duckdb: Value = serde_json::from_str(&readers.python(script, &arguments).await?)?;
    for (place, (name, sql)) in statements.iter().enumerate() {
        let mut best = f64::MAX;
        for _ in 0..rounds.max(3) {
            let begun = now();
            let request = json!({"sql": sql, "consistency": "committed"});
            let answer = system.http.post(format!("{}/v1/sql", system.query));
            let answer: Value = answer
                .json(&request)
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            best = best.min(begun.elapsed().as_secs_f64() * 1e3);
            let first = &answer["rows"][0][0];
            ensure!(!first.is_null(), "no answer: {answer}");
        }
        report(
            "scan_after_updates",
            json!({
                "statement": name, "live_keys": live, "superseded_share": 0.2,
                "tidelake_ms": round(best, 1), "duckdb_ms": duckdb["ms"][place],
                "rounds": rounds.max(3),
            }),
        );
    }
    Ok(())
}

/// What a table costs that nobody writes or reads.
pub(crate) async fn idle(live: u64) -> Result<()> {
    let system = Arc::new(System::start(&every_second())?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    look(&system, live, 1, 100, (1, Way::Get)).await?;
    // Followers stop some time after the last query.
    pause(Duration::from_secs(45)).await;
    let (before, cpu) = (
        requests(&system).await?,
        Usage::of(system.pid()).cpu_seconds,
    );
    pause(Duration::from_secs(60)).await;
    let after = requests(&system).await?;
    let cpu = Usage::of(system.pid()).cpu_seconds - cpu;
    report(
        "idle",
        json!({
            "live_keys": live, "seconds": 60, "object_store_requests": after - before,
            "cpu_percent": round(cpu / 0.6, 2), "target": {"requests": 0, "cpu_percent": 1},
        }),
    );
    Ok(())
}

/// Requests to the object store so far, of all services of the process.
async fn requests(system: &System) -> Result<f64> {
    let mut sum = 0.0;
    for port in [&system.gateway, &system.query] {
        let text = system
            .http
            .get(format!("{port}/metrics"))
            .send()
            .await?
            .text()
            .await?;
        let mut here = 0.0;
        for line in text
            .lines()
            .filter(|line| line.starts_with("tidelake_store_requests_total"))
        {
            let value = line.rsplit(' ').next().context("no value")?;
            here += value.parse::<f64>()?;
        }
        sum = f64::max(sum, here);
    }
    Ok(sum)
}
