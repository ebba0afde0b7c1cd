//! Costs by how many there are: of tables (`flusher_scale`), of a table's files (`commit_cost`), of
//! its commits (`tombstones`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tidelake_core::Bucket;
use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};

use crate::files_50k::{FILES_COLUMNS, commit_files, create_many};
use crate::records;
use crate::report::{Usage, now, report, round};
use crate::system::{Options, System, pause};

const BUCKETS: u32 = 4;
/// Tables that are made at a time.
const MAKERS: usize = 8;
/// The records of one second are sent in so many pieces.
const PIECES: u64 = 20;

/// So many tables of four buckets, one record a second each, over the Kafka protocol.
pub(crate) async fn flusher_scale(tables: u64, seconds: u64) -> Result<()> {
    let system = Arc::new(System::start(&Options::default())?);
    let begun = now();
    let makes = futures::stream::iter(0..tables).map(|table| {
        let system = Arc::clone(&system);
        async move { system.create_table(&name(table), BUCKETS).await }
    });
    let made: Vec<()> = makes.buffer_unordered(MAKERS).try_collect().await?;
    let made_in = begun.elapsed().as_secs_f64();
    ensure!(made.len() as u64 == tables, "not all tables were made");
    // Until the flusher has them all.
    pause(Duration::from_secs(10)).await;
    let quiet = load_of(&system, 10, async { Ok(()) }).await?;
    let kafka = KafkaSettings {
        bootstrap: system.kafka.clone(),
        ..KafkaSettings::default()
    };
    let producer = Producer::new(&kafka, ProducerSettings::default())?;
    // What opens at the first record is not what it costs to go on.
    produce(&producer, tables, 0..30).await?;
    let before = (commits(&system).await?, files(&system)?);
    let busy = load_of(
        &system,
        seconds,
        produce(&producer, tables, 30..30 + seconds),
    )
    .await?;
    let after = (commits(&system).await?, files(&system)?);
    let minutes = seconds as f64 / 60.0;
    let sent = tables * (30 + seconds);
    let stored = stored(&system, tables, sent).await?;
    report(
        "flusher_scale",
        json!({
            "tables": tables, "buckets": tables * u64::from(BUCKETS), "seconds": seconds,
            "records_per_second": tables, "made_in_seconds": round(made_in, 1),
            "idle": quiet, "busy": busy,
            "commits_per_minute": ((after.0 - before.0) / minutes).round(),
            "files_per_minute": ((after.1 - before.1) as f64 / minutes).round(),
            "records": sent, "records_stored": stored,
            "target": {"cores": 1.0, "rss_bytes": 1_u64 << 30},
        }),
    );
    ensure!(stored == sent, "{stored} of {sent} records are there");
    Ok(())
}

fn name(table: u64) -> String {
    format!("t{table:05}")
}

/// Processor and memory of the system while something goes on, and for so long at least.
async fn load_of(
    system: &System,
    seconds: u64,
    work: impl Future<Output = Result<()>>,
) -> Result<Value> {
    let (begun, before) = (now(), Usage::of(system.pid()));
    let (worked, ()) = tokio::join!(work, pause(Duration::from_secs(seconds)));
    worked?;
    let after = Usage::of(system.pid());
    let took = begun.elapsed().as_secs_f64();
    Ok(json!({
        "seconds": round(took, 1),
        "cores": round((after.cpu_seconds - before.cpu_seconds) / took, 3),
        "rss_bytes": after.rss_bytes,
    }))
}

/// One record for each table in each of these seconds.
async fn produce(producer: &Producer, tables: u64, seconds: std::ops::Range<u64>) -> Result<()> {
    let begun = now();
    let first = seconds.start;
    for second in seconds {
        for piece in 0..PIECES {
            for table in (0..tables).filter(|table| table % PIECES == piece) {
                let id = second * tables + table;
                let mut text = String::new();
                records::write_json(&mut text, id);
                let topic = format!("tidelake.default.{}", name(table));
                let bucket = Bucket((second % u64::from(BUCKETS)) as u32);
                producer
                    .enqueue_waiting(Message::new(topic, bucket, text.into_bytes()))
                    .await?;
            }
            let due = Duration::from_secs(second - first) + PIECE * (piece as u32 + 1);
            pause(due.saturating_sub(begun.elapsed())).await;
        }
    }
    producer.flush(Duration::from_secs(60)).await?;
    Ok(())
}

const PIECE: Duration = Duration::from_millis(1000 / PIECES);

/// Rows that all tables have once they are flushed, by the logs' own words.
async fn stored(system: &Arc<System>, tables: u64, wanted: u64) -> Result<u64> {
    let mut sum = 0;
    for _ in 0..40 {
        let counts = futures::stream::iter(0..tables).map(|table| {
            let system = Arc::clone(system);
            async move { system.count(&name(table)).await }
        });
        let counts: Vec<u64> = counts.buffer_unordered(4).try_collect().await?;
        sum = counts.iter().sum();
        if sum == wanted {
            break;
        }
        pause(Duration::from_secs(3)).await;
    }
    Ok(sum)
}

/// Commits of the flusher so far.
async fn commits(system: &System) -> Result<f64> {
    metric(system, "tidelake_commits_total").await
}

async fn metric(system: &System, name: &str) -> Result<f64> {
    let url = format!("{}/metrics", system.gateway);
    let text = system.http.get(url).send().await?.text().await?;
    let of_name = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    let mut sum = 0.0;
    for line in of_name {
        sum += line
            .rsplit(' ')
            .next()
            .context("no value")?
            .parse::<f64>()?;
    }
    Ok(sum)
}

/// Files in the store, logs included.
fn files(system: &System) -> Result<u64> {
    count_files(&system.folder.path().join("data/store"))
}

fn count_files(folder: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        count += match entry.file_type()?.is_dir() {
            true => count_files(&entry.path())?,
            false => 1,
        };
    }
    Ok(count)
}

/// Live files before the commits that are measured.
const LIVE: [u64; 4] = [100, 1_000, 10_000, 100_000];
const COMMITS: u32 = 40;
const ROWS_OF_A_COMMIT: u64 = 400;

/// What a commit of four buckets costs by the number of the table's files.
pub(crate) async fn commit_cost() -> Result<()> {
    let mut medians = BTreeMap::new();
    for live in LIVE {
        let system = System::start(&Options::default())?;
        create_many(&system, BUCKETS).await?;
        // Its own first commit, then all the others at once.
        write_rows(&system, 0).await?;
        let log = system.table_folder("many")?.join("_delta_log");
        commit_files(&log, live, BUCKETS)?;
        // The first of them takes the files in.
        for number in 1..=2 {
            write_rows(&system, number).await?;
        }
        let cpu = Usage::of(system.pid()).cpu_seconds;
        let mut times = Vec::new();
        for number in 0..COMMITS {
            times.push(write_rows(&system, u64::from(number) + 3).await?);
        }
        let cpu = Usage::of(system.pid()).cpu_seconds - cpu;
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        medians.insert(live, median);
        report(
            "commit_cost",
            json!({
                "live_files": live, "columns": FILES_COLUMNS, "buckets": BUCKETS,
                "flush_ms": {"p50": round(median, 2), "best": round(times[0], 2),
                    "worst": round(times[times.len() - 1], 2)},
                "cpu_ms_per_commit": round(cpu * 1e3 / f64::from(COMMITS), 2),
                "rss_bytes": Usage::of(system.pid()).rss_bytes,
                "times_that_of_100_files": round(median / medians[&LIVE[0]], 2),
                "target_times": 2.0,
            }),
        );
    }
    Ok(())
}

/// Milliseconds of the flush that commits one body of rows over all buckets.
async fn write_rows(system: &System, number: u64) -> Result<f64> {
    let first = number * ROWS_OF_A_COMMIT;
    let body: Vec<String> = (first..first + ROWS_OF_A_COMMIT)
        .map(|id| json!({"id": id, "c1": id}).to_string())
        .collect();
    let body = body.join("\n").into_bytes();
    let path = "/v1/tables/many/records";
    system.post(path, body, "application/x-ndjson").await?;
    let begun = now();
    system.flush("many").await?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Memory over so many commits, each of which supersedes the file of an earlier one.
pub(crate) async fn tombstones(commits: u64) -> Result<()> {
    let system = System::start(&Options::default())?;
    system.create_upsert("one", 1).await?;
    let (begun, mut steps) = (now(), Vec::new());
    for number in 0..commits {
        let mut text = String::new();
        records::write_json(&mut text, number % 8);
        let path = "/v1/tables/one/records";
        system
            .post(path, text.into_bytes(), "application/json")
            .await?;
        system.flush("one").await?;
        if (number + 1) % (commits / 10).max(1) == 0 {
            steps.push(json!({
                "commits": number + 1,
                "rss_bytes": Usage::of(system.pid()).rss_bytes,
                "seconds": round(begun.elapsed().as_secs_f64(), 1),
            }));
        }
    }
    let rows = system.count("one").await?;
    ensure!(rows == commits.min(8), "{rows} rows");
    report("tombstones", json!({"commits": commits, "steps": steps}));
    Ok(())
}
