//! `hostile`: what careless and hostile statements cost those who ask and write beside them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::reads::percentiles;
use crate::report::{Usage, now, report, round};
use crate::system::{Options, System, pause};
use crate::upsert::{ARROW, Dice, body, every_second, fill, rows};

const TABLE: &str = "clicks";
const CLIENTS: u64 = 32;
/// Of the default tenant and three others: each may have eight queries open.
const TENANTS: u64 = 4;
const TIMEOUT_MS: u64 = 2_000;
const LATE_MAX_MS: u64 = 100;
const MEMORY_BYTES: u64 = 256 << 20;
const ROWS_PER_SECOND: u64 = 10_000;
/// Nothing takes so long unless it hangs.
const HANGS: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);

/// Statements that need no table.
fn statements() -> Vec<String> {
    let nested = (0..40).fold("SELECT 1 x".to_owned(), |inner, level| {
        format!("WITH q{level} AS ({inner}) SELECT a.x FROM q{level} a, q{level} b")
    });
    let alternatives: Vec<String> = (0..2_000).map(|n| format!("value = {n}")).collect();
    let unions = vec!["SELECT 1"; 3_000];
    let concatenated = vec!["'x'"; 3_000];
    let mut all: Vec<String> = [
        "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b \
         WHERE a.value + b.value = 7",
        "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b",
        "SELECT count(*) FROM (SELECT unnest(range(0, 1000000)) FROM generate_series(1, 1000000))",
        "SELECT count(*) FROM generate_series(1, 100000) a WHERE \
         regexp_like(repeat('ab', 2000), '(a|b)*c')",
        "SELECT count(*) FROM generate_series(1, 400000) a JOIN generate_series(1, 400000) b \
         ON a.value % 2 = b.value % 2",
        "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT length(repeat('x', 1500000000))",
        "SELECT array_length(range(0, 200000000))",
        "SELECT max(length(lpad('x', 1000000, 'y'))) FROM generate_series(1, 100000)",
        "SELECT a.value, count(*) FROM generate_series(1, 20000000) a GROUP BY a.value \
         ORDER BY 2 LIMIT 1",
        "SELECT array_agg(value) FROM generate_series(1, 100000000)",
        "SELECT value FROM generate_series(1, 50000000) ORDER BY value % 1000, value DESC LIMIT 5",
    ]
    .map(str::to_owned)
    .into();
    all.push(nested);
    all.push(format!(
        "SELECT count(*) FROM generate_series(1, 100000) WHERE {}",
        alternatives.join(" OR ")
    ));
    all.push(unions.join(" UNION ALL "));
    all.push(format!("SELECT {}", concatenated.join(" || ")));
    all
}

/// What the statements' clients saw.
#[derive(Debug, Default)]
struct Seen {
    statuses: BTreeMap<String, u64>,
    /// Beyond their deadline.
    late: Vec<(Duration, String)>,
    latest: Duration,
    broken: u64,
}

/// 32 clients for a minute, beside ingest and lookups of one client each.
pub(crate) async fn run(live: u64, seconds: u64) -> Result<()> {
    let mut options: Options = every_second();
    let memory = (
        "TIDELAKE__QUERY__QUERY__MEMORY_BYTES_MAX",
        MEMORY_BYTES.to_string(),
    );
    options.environment.push((memory.0.to_owned(), memory.1));
    let system = Arc::new(System::start(&options)?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    let quiet = beside(&system, live, Duration::from_secs(seconds / 3), 7).await?;
    let quiet_rss = Usage::of(system.pid()).peak_rss_bytes;

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(attack(Arc::clone(&system), client, Arc::clone(&stop))))
        .collect();
    let loud = beside(&system, live, Duration::from_secs(seconds), 8).await?;
    stop.store(true, Ordering::Relaxed);
    let (mut statuses, mut broken) = (BTreeMap::<String, u64>::new(), 0);
    let (mut late, mut latest) = (Vec::new(), Duration::ZERO);
    for client in clients {
        let seen = client.await??;
        for (status, count) in seen.statuses {
            *statuses.entry(status).or_default() += count;
        }
        late.extend(seen.late);
        latest = latest.max(seen.latest);
        broken += seen.broken;
    }
    late.sort_by_key(|(by, _)| std::cmp::Reverse(*by));
    let worst = late.iter().take(3).map(|(by, sql)| {
        let sql: String = sql.chars().take(80).collect();
        json!({"ms": by.as_millis() as u64, "statement": sql})
    });
    let worst: Vec<_> = worst.collect();
    let alive = system.http.get(format!("{}/livez", system.query));
    ensure!(
        alive.send().await?.status().is_success(),
        "the process does not answer any more"
    );
    let p99 = |value: &Value| value["p99"].as_f64().unwrap_or_default();
    report(
        "hostile",
        json!({
            "seconds": seconds, "clients": CLIENTS, "live_keys": live,
            "lookup_ms": {"quiet": quiet.lookups, "beside": loud.lookups},
            "ack_ms": {"quiet": quiet.acks, "beside": loud.acks},
            "lookup_p99_times": round(p99(&loud.lookups) / p99(&quiet.lookups), 2),
            "ack_p99_times": round(p99(&loud.acks) / p99(&quiet.acks), 2),
            "statements": statuses, "connections_broken": broken,
            "statements_late": late.len(), "latest_ms": latest.as_millis() as u64,
            "worst": worst,
            "query_memory_bytes_max": MEMORY_BYTES,
            "peak_rss_bytes": {"quiet": quiet_rss, "beside": Usage::of(system.pid()).peak_rss_bytes},
            "target": {"p99_times": 2, "late_ms": LATE_MAX_MS},
        }),
    );
    Ok(())
}

/// What ingest and lookups took.
struct Beside {
    lookups: Value,
    acks: Value,
}

async fn beside(system: &Arc<System>, live: u64, time: Duration, seed: u64) -> Result<Beside> {
    let end = now() + time;
    let writing = tokio::spawn({
        let system = Arc::clone(system);
        async move {
            let mut dice = Dice::new(seed);
            let mut tick = tokio::time::interval(TICK);
            let mut times = Vec::new();
            let mut sent = 0;
            while now() < end {
                tick.tick().await;
                let count = ROWS_PER_SECOND * TICK.as_millis() as u64 / 1000;
                let ids = (0..count).map(|_| dice.below(live) as i64).collect();
                let body = body(&rows(ids, sent)?)?;
                let begun = now();
                let path = format!("/v1/tables/{TABLE}/records");
                system.post(&path, body, ARROW).await?;
                times.push(begun.elapsed());
                sent += count;
            }
            anyhow::Ok(times)
        }
    });
    let mut dice = Dice::new(seed + 100);
    let mut lookups = Vec::new();
    while now() < end {
        let url = format!(
            "{}/v1/tables/{TABLE}/rows/{}",
            system.query,
            dice.below(live)
        );
        let begun = now();
        let answer = system.http.get(url).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "a lookup: {status}: {text}");
        lookups.push(begun.elapsed());
        pause(Duration::from_millis(5)).await;
    }
    Ok(Beside {
        lookups: percentiles(lookups),
        acks: percentiles(writing.await??),
    })
}

async fn attack(system: Arc<System>, client: u64, stop: Arc<AtomicBool>) -> Result<Seen> {
    let statements = statements();
    let http = reqwest::Client::builder().timeout(HANGS).build()?;
    let mut dice = Dice::new(1000 + client);
    let mut seen = Seen::default();
    let url = format!("{}/v1/sql", system.query);
    while !stop.load(Ordering::Relaxed) {
        let sql = &statements[dice.below(statements.len() as u64) as usize];
        let mut request = http
            .post(&url)
            .json(&json!({"sql": sql, "timeout_ms": TIMEOUT_MS}));
        match client % TENANTS {
            0 => {}
            tenant => request = request.header("x-tidelake-tenant", format!("tenant{tenant}")),
        }
        let begun = now();
        let Ok(answer) = request.send().await else {
            seen.broken += 1;
            continue;
        };
        let status = answer.status();
        let Ok(text) = answer.bytes().await else {
            seen.broken += 1;
            continue;
        };
        let took = begun.elapsed();
        seen.latest = seen.latest.max(took);
        if took > Duration::from_millis(TIMEOUT_MS + LATE_MAX_MS) {
            let by = took.saturating_sub(Duration::from_millis(TIMEOUT_MS));
            seen.late.push((by, sql.clone()));
        }
        let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or("answered");
        *seen
            .statuses
            .entry(format!("{} {code}", status.as_u16()))
            .or_default() += 1;
        if status.as_u16() == 429 {
            pause(Duration::from_millis(20)).await;
        }
    }
    Ok(seen)
}
