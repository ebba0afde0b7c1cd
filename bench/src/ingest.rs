//! `ingest_packed`, `ingest_arrow`, `end_to_end_packed`: large HTTP bodies.

use anyhow::{Result, ensure};
use arrow::ipc::writer::StreamWriter;
use serde_json::json;
use tidelake_codec::json::{JsonDecoder, JsonLimits};

use crate::records;
use crate::report::Stopwatch;
use crate::system::{Options, System};

const BODY_RECORDS: u64 = 500_000;
const CLIENTS: usize = 2;

/// NDJSON until the log has it, then until it is committed Parquet.
pub(crate) async fn ndjson(count: u64) -> Result<()> {
    let bodies: Vec<Vec<u8>> = bodies(count)?;
    let body_bytes: usize = bodies.iter().map(Vec::len).sum();
    let more = json!({"clients": CLIENTS, "body_records": BODY_RECORDS, "input_bytes": body_bytes});
    measure(
        "ingest_packed",
        Some("end_to_end_packed"),
        bodies,
        "application/x-ndjson",
        1e6,
        count,
        more,
    )
    .await
}

/// The same records as Arrow streams.
pub(crate) async fn arrow(count: u64) -> Result<()> {
    let schema = records::schema()?;
    let mut bodies = Vec::new();
    // What one call of the decoder may make is bounded.
    const CALL_RECORDS: u64 = 100_000;
    for from in (0..count).step_by(BODY_RECORDS as usize) {
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default())?;
        let to = (from + BODY_RECORDS).min(count);
        for at in (from..to).step_by(CALL_RECORDS as usize) {
            let text = records::ndjson(at, (at + CALL_RECORDS).min(to));
            decoder.push_ndjson(text.as_bytes())?;
        }
        let batch = decoder.finish()?;
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(64 * 1024);
            writer.write(&batch.slice(from, rows))?;
            from += rows;
        }
        bodies.push(writer.into_inner()?);
    }
    let body_bytes: usize = bodies.iter().map(Vec::len).sum();
    let more = json!({"clients": CLIENTS, "body_records": BODY_RECORDS, "input_bytes": body_bytes});
    let mime = "application/vnd.apache.arrow.stream";
    measure("ingest_arrow", None, bodies, mime, 3e6, count, more).await
}

fn bodies(count: u64) -> Result<Vec<Vec<u8>>> {
    Ok((0..count)
        .step_by(BODY_RECORDS as usize)
        .map(|from| records::ndjson(from, (from + BODY_RECORDS).min(count)).into_bytes())
        .collect())
}

async fn measure(
    name: &str,
    committed_name: Option<&str>,
    bodies: Vec<Vec<u8>>,
    mime: &'static str,
    target: f64,
    count: u64,
    more: serde_json::Value,
) -> Result<()> {
    let system = std::sync::Arc::new(System::start(&Options::default())?);
    system.create_table("clicks", 4).await?;
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    let queue = std::sync::Arc::new(tokio::sync::Mutex::new(bodies));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (system, queue) = (system.clone(), queue.clone());
        clients.push(tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let body = queue.lock().await.pop();
                let Some(body) = body else {
                    return anyhow::Ok(sent);
                };
                let answer = system.post("/v1/tables/clicks/records", body, mime).await?;
                sent += answer["records"].as_u64().unwrap_or_default();
            }
        }));
    }
    let mut sent = 0;
    for client in clients {
        sent += client.await??;
    }
    ensure!(sent == count, "{sent} of {count} records were acknowledged");
    watch.report(name, sent, Some(target), more.clone());
    system.flush("clicks").await?;
    if let Some(name) = committed_name {
        watch.report(name, sent, Some(target), more);
    }
    let found = system.count("clicks").await?;
    ensure!(found == count, "{found} rows of {count} were committed");
    Ok(())
}
