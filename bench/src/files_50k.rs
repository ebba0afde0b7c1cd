//! What queries cost by the number of a table's files, where they read one of them or none.
//!
//! The table has one real file; a commit written by hand adds all the others with their statistics
//! and tags, and nothing behind them: whoever looked into one would fail.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::report::{Usage, now, report, round};
use crate::system::{Options, System};

const TABLE: &str = "many";
const FILES: u64 = 50_000;
pub(crate) const FILES_COLUMNS: usize = 20;
const COLUMNS: usize = FILES_COLUMNS;
const ROWS_OF_A_FILE: u64 = 1_000;
/// Ids of the real file begin here, above those of all others.
const FIRST_REAL_ID: u64 = 1_000_000_000;
/// Adds of the commits that come later, one at a time.
const FILES_OF_A_COMMIT: u64 = 4;
const COMMITS: u64 = 5;
/// Each statement is timed so often, after the first time.
const ROUNDS: u32 = 20;
const NDJSON: &str = "application/x-ndjson";

pub(crate) async fn run() -> Result<()> {
    let system = System::start(&Options::default())?;
    let columns = columns();
    create(&system, &columns, 1).await?;
    let real = (FIRST_REAL_ID..FIRST_REAL_ID + ROWS_OF_A_FILE).map(|id| row(&columns, id));
    let body: Vec<String> = real.map(|row| row.to_string()).collect();
    let path = format!("/v1/tables/{TABLE}/records");
    let body = body.join("\n").into_bytes();
    system.post(&path, body, NDJSON).await?;
    system.flush(TABLE).await?;
    // Whatever a process takes for its first query is not the files'.
    Statement::new("SELECT count(*) FROM many")
        .time(&system)
        .await?;
    let log = system.table_folder(TABLE)?.join("_delta_log");
    let before = Usage::of(system.pid());
    commit(&log, &columns, 1..FILES, 1)?;

    let rows = FILES * ROWS_OF_A_FILE;
    let one = FIRST_REAL_ID + 5;
    let statements = [
        ("count", "SELECT count(*) FROM many".to_owned(), Some(rows)),
        (
            "plan_one_file",
            format!("EXPLAIN SELECT * FROM many WHERE id = {one}"),
            None,
        ),
        (
            "read_one_file",
            format!("SELECT c1 FROM many WHERE id = {one}"),
            Some(one),
        ),
        (
            "min",
            "SELECT min(id), max(id) FROM many".to_owned(),
            Some(ROWS_OF_A_FILE),
        ),
        (
            "plan_all",
            "EXPLAIN SELECT sum(c1) FROM many".to_owned(),
            None,
        ),
    ];
    let mut figures = Map::new();
    for (name, sql, expected) in &statements {
        let statement = Statement::new(sql);
        let (first, answer) = statement.time(&system).await?;
        if let Some(expected) = expected {
            ensure!(answer == json!(expected), "{sql}: {answer}, not {expected}");
        }
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(statement.time(&system).await?.0);
        }
        times.sort_by(f64::total_cmp);
        let rss = Usage::of(system.pid())
            .rss_bytes
            .saturating_sub(before.rss_bytes);
        let figure = json!({
            "first_ms": round(first, 1), "p50_ms": round(times[times.len() / 2], 2),
            "best_ms": round(times[0], 2), "rss_grown_bytes": rss,
        });
        figures.insert((*name).to_owned(), figure);
    }
    let grown = Usage::of(system.pid());
    let after = after_commits(&system, &log, &columns, &statements[1].1).await?;
    report(
        "files_50k",
        json!({
            "files": FILES, "columns": COLUMNS, "statements": figures,
            "after_a_commit_of_4_files": after,
            "rss_before_bytes": before.rss_bytes,
            "rss_grown_bytes": grown.rss_bytes.saturating_sub(before.rss_bytes),
            "peak_rss_grown_bytes": grown.peak_rss_bytes.saturating_sub(before.rss_bytes),
            "target": {"count_ms": 20, "plan_one_file_ms": 5, "rss_grown_bytes": 200 << 20},
        }),
    );
    Ok(())
}

/// What the first count and the first plan of a version cost that came from the one before.
async fn after_commits(
    system: &System,
    log: &Path,
    columns: &[String],
    plan: &str,
) -> Result<Value> {
    let (mut counts, mut plans) = (Vec::new(), Vec::new());
    for number in 0..COMMITS {
        let first = FILES + number * FILES_OF_A_COMMIT;
        commit(log, columns, first..first + FILES_OF_A_COMMIT, 1)?;
        let count = Statement::new("SELECT count(*) FROM many");
        let (ms, answer) = count.time(system).await?;
        let expected = (first + FILES_OF_A_COMMIT) * ROWS_OF_A_FILE;
        ensure!(answer == json!(expected), "{answer} rows, not {expected}");
        counts.push(ms);
        plans.push(Statement::new(plan).time(system).await?.0);
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        round(times[times.len() / 2], 2)
    };
    Ok(json!({"count_ms": median(counts), "plan_one_file_ms": median(plans)}))
}

fn columns() -> Vec<String> {
    let others = (1..COLUMNS).map(|number| format!("c{number}"));
    std::iter::once("id".to_owned()).chain(others).collect()
}

/// All columns have the same value.
fn row(columns: &[String], value: u64) -> Value {
    columns
        .iter()
        .map(|name| (name.clone(), json!(value)))
        .collect()
}

/// A table of the usual columns.
pub(crate) async fn create_many(system: &System, buckets: u32) -> Result<()> {
    create(system, &columns(), buckets).await
}

/// Adds so many files to it, in turn to its buckets, as one version.
pub(crate) fn commit_files(log: &Path, files: u64, buckets: u32) -> Result<()> {
    commit(log, &columns(), 1..files + 1, buckets)
}

async fn create(system: &System, columns: &[String], buckets: u32) -> Result<()> {
    let fields = columns.iter().enumerate().map(|(place, name)| {
        json!({"id": place + 1, "name": name, "type": "long", "required": place == 0})
    });
    let fields: Vec<Value> = fields.collect();
    let schema = json!({"type": "struct", "schema-id": 0, "fields": fields});
    let body = json!({"name": TABLE, "schema": schema, "mode": "append", "buckets": buckets});
    let body = body.to_string().into_bytes();
    system.post("/v1/tables", body, "application/json").await?;
    Ok(())
}

/// Adds files of these numbers as the table's next version.
fn commit(log: &Path, columns: &[String], files: std::ops::Range<u64>, buckets: u32) -> Result<()> {
    let mut newest = None;
    for entry in std::fs::read_dir(log)? {
        let name = entry?.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(".json"));
        newest = newest.max(version.and_then(|version| version.parse::<u64>().ok()));
    }
    let version = newest.context("the log has no commit")? + 1;
    // Complete before it has its name.
    let draft = log.with_file_name("draft.json");
    let mut out = BufWriter::new(std::fs::File::create(&draft)?);
    writeln!(
        out,
        "{}",
        json!({"commitInfo": {"timestamp": 1, "operation": "WRITE"}})
    )?;
    for number in files {
        let first = number * ROWS_OF_A_FILE;
        let nulls: Value = columns
            .iter()
            .map(|name| (name.clone(), json!(0)))
            .collect();
        let stats = json!({
            "numRecords": ROWS_OF_A_FILE, "minValues": row(columns, first),
            "maxValues": row(columns, first + ROWS_OF_A_FILE - 1), "nullCount": nulls,
            "tightBounds": true,
        });
        let bucket = (number % u64::from(buckets)).to_string();
        let offsets = json!({&bucket: [first, first + ROWS_OF_A_FILE]}).to_string();
        let add = json!({"add": {
            "path": format!("many-{number:08}.parquet"), "partitionValues": {}, "size": 1 << 20,
            "modificationTime": 1, "dataChange": true, "stats": stats.to_string(),
            "tags": {"tidelake.bucket": bucket, "tidelake.level": "0", "tidelake.offsets": offsets},
        }});
        writeln!(out, "{add}")?;
    }
    out.into_inner()?.sync_all()?;
    std::fs::rename(draft, log.join(format!("{version:020}.json")))?;
    Ok(())
}

struct Statement<'a>(&'a str);

impl<'a> Statement<'a> {
    fn new(sql: &'a str) -> Self {
        Self(sql)
    }

    /// Milliseconds, and the first value of the answer.
    async fn time(&self, system: &System) -> Result<(f64, Value)> {
        let request = json!({"sql": self.0, "consistency": "committed"});
        let url = format!("{}/v1/sql", system.query);
        let begun = now();
        let answer = system.http.post(url).json(&request).send().await?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        ensure!(status.is_success(), "{}: {status}: {answer}", self.0);
        Ok((ms, answer["rows"][0][0].clone()))
    }
}
