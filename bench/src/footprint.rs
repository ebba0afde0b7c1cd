//! `size`, `flusher_memory` and `local_start`: figures that are no rate.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};
use tidelake_testkit::Readers;

use crate::records;
use crate::report::{Usage, report, round};
use crate::system::{Options, System};

/// Bytes of the committed Parquet against the NDJSON and against DuckDB's zstd Parquet of the same.
pub(crate) async fn size(count: u64) -> Result<()> {
    let system = System::start(&Options::default())?;
    system.create_table("clicks", 4).await?;
    let mut input_bytes = 0;
    let input = system.folder.path().join("input.ndjson");
    let mut file = std::fs::File::create(&input)?;
    for from in (0..count).step_by(500_000) {
        let text = records::ndjson(from, (from + 500_000).min(count)).into_bytes();
        input_bytes += text.len();
        std::io::Write::write_all(&mut file, &text)?;
        system
            .post("/v1/tables/clicks/records", text, "application/x-ndjson")
            .await?;
    }
    system.flush("clicks").await?;
    let folder = system.table_folder("clicks")?;
    let (files, bytes) = parquet_in(&folder)?;
    let duckdb = duckdb_bytes(&input, &system.folder.path().join("duckdb.parquet")).await?;
    let saved = 100.0 * (1.0 - bytes as f64 / input_bytes as f64);
    report(
        "size",
        json!({
            "records": count,
            "ndjson_bytes": input_bytes,
            "parquet_bytes": bytes,
            "parquet_files": files,
            "bytes_per_record": round(bytes as f64 / count as f64, 2),
            "smaller_percent": round(saved, 2),
            "target_smaller_percent": 90.0,
            "duckdb_zstd_parquet_bytes": duckdb,
        }),
    );
    Ok(())
}

fn parquet_in(folder: &Path) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "parquet")
        {
            files += 1;
            bytes += entry.metadata()?.len();
        }
    }
    Ok((files, bytes))
}

async fn duckdb_bytes(input: &Path, output: &Path) -> Result<u64> {
    let readers = Readers::new()?.context("external tools are switched off")?;
    let (from, to) = (input.display().to_string(), output.display().to_string());
    readers.python(DUCKDB_COPY, &[&from, &to]).await?;
    Ok(std::fs::metadata(output)?.len())
}

const DUCKDB_COPY: &str = r#"
import duckdb, sys
rows = f"SELECT * FROM read_json('{sys.argv[1]}', format='newline_delimited')"
duckdb.sql(f"COPY ({rows}) TO '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)")
"#;

/// Peak memory of a whole process whose flusher has 200 buckets and 256 MiB.
pub(crate) async fn flusher_memory(count: u64) -> Result<()> {
    let budget = 256u64 << 20;
    let environment = vec![
        (
            "TIDELAKE__FLUSHER__MEMORY_BYTES_MAX".to_owned(),
            budget.to_string(),
        ),
        (
            "TIDELAKE__FLUSHER__FLUSH_AGE_MS".to_owned(),
            "600000".to_owned(),
        ),
        (
            "TIDELAKE__FLUSHER__FLUSH_BYTES".to_owned(),
            (1u64 << 40).to_string(),
        ),
    ];
    let kafka = std::env::var("TIDELAKE_BENCH_KAFKA").ok();
    let system = System::start(&Options { kafka, environment })?;
    let tables = 10;
    for table in 0..tables {
        system.create_table(&format!("t{table}"), 20).await?;
    }
    let kafka = KafkaSettings {
        bootstrap: system.kafka.clone(),
        ..KafkaSettings::default()
    };
    let settings = ProducerSettings {
        compression: "lz4",
        ..ProducerSettings::default()
    };
    let producer = Producer::new(&kafka, settings)?;
    let mut text = String::new();
    for id in 0..count {
        text.clear();
        records::write_json(&mut text, id);
        let topic = format!("tidelake.default.t{}", id / 20 % tables);
        let bucket = tidelake_core::Bucket((id % 20) as u32);
        producer
            .enqueue_waiting(Message::new(topic, bucket, text.clone().into_bytes()))
            .await?;
    }
    producer.flush(std::time::Duration::from_secs(60)).await?;
    let mut rows = 0;
    for table in 0..tables {
        let name = format!("t{table}");
        system.flush(&name).await?;
        rows += system.count(&name).await?;
    }
    ensure!(rows == count, "{rows} rows of {count} were committed");
    let usage = Usage::of(system.pid());
    report(
        "flusher_memory",
        json!({
            "records": count,
            "buckets": tables * 20,
            "budget_bytes": budget,
            "peak_rss_bytes": usage.peak_rss_bytes,
            "target_peak_rss_bytes": 512u64 << 20,
            "process": "tidelake local: gateway, flusher, query and broker together",
        }),
    );
    Ok(())
}

/// From an empty folder to the `ready` line.
pub(crate) fn local_start(rounds: u32) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..rounds {
        let system = System::start(&Options::default())?;
        seconds.push(system.ready_after.as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).context("no round")?;
    let all: Vec<Value> = seconds
        .iter()
        .map(|seconds| json!(round(*seconds, 3)))
        .collect();
    report(
        "local_start",
        json!({"seconds_median": round(*median, 3), "seconds": all, "target_seconds": 1.0}),
    );
    Ok(())
}
