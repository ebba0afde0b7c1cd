//! `end_to_end_kafka_json`: single JSON records from librdkafka with lz4, a backlog, to committed
//! Parquet; on the embedded broker or on Apache Kafka. Beside it the afternoon script.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use tidelake_core::Bucket;
use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};
use tidelake_testkit::wait;

use crate::records;
use crate::report::{Stopwatch, report};
use crate::system::{Options, System};

const BUCKETS: u32 = 4;
const IN_FLIGHT_MAX: usize = 200_000;

/// Produces the backlog while nothing reads it, then measures from the start of the reader.
pub async fn run(count: u64, kafka: Option<&str>, baseline: bool) -> Result<()> {
    let broker = if kafka.is_some() { "apache kafka" } else { "embedded" };
    // The flusher may not commit before the backlog stands: it looks for new topics first after a
    // long while.
    let hold = vec![("TIDELAKE__FLUSHER__DISCOVERY_MS".to_owned(), "3600000".to_owned())];
    let options = Options { kafka: kafka.map(str::to_owned), environment: hold };
    let system = System::start(&options)?;
    let table = format!("clicks_{}", std::process::id());
    system.create_table(&table, BUCKETS).await?;
    let topic = system.describe(&table).await?["topic"].as_str().context("no topic")?.to_owned();
    let settings = KafkaSettings { bootstrap: system.kafka.clone(), ..KafkaSettings::default() };
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    produce(&settings, &topic, count).await?;
    watch.report("backlog_produce", count, None, json!({"broker": broker}));
    if baseline {
        afternoon(&system.kafka, &topic, count)?;
    }
    measure(system, kafka, &table, count, broker).await
}

/// Stops the process that holds the backlog back and starts one that reads it at once.
async fn measure(
    held: System,
    kafka: Option<&str>,
    table: &str,
    count: u64,
    broker: &str,
) -> Result<()> {
    let system = held.restart(&Options { kafka: kafka.map(str::to_owned), environment: Vec::new() })?;
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    let done = wait::until_async(Duration::from_secs(300), Duration::from_millis(20), || async {
        let described: Value = system.describe(table).await?;
        let marks = described["watermarks"].as_object().context("no watermarks")?;
        let sum: u64 = marks.values().filter_map(Value::as_u64).sum();
        Ok::<bool, anyhow::Error>(sum >= count)
    })
    .await;
    ensure!(done?, "the backlog was not committed in time");
    watch.report("end_to_end_kafka_json", count, Some(1e6), json!({"broker": broker}));
    let found = system.count(table).await?;
    ensure!(found == count, "{found} rows of {count} were committed");
    Ok(())
}

/// Single JSON records, lz4, idempotent, spread over the buckets.
pub async fn produce(kafka: &KafkaSettings, topic: &str, count: u64) -> Result<()> {
    let settings = ProducerSettings {
        linger: Duration::from_millis(20),
        compression: "lz4",
        ..ProducerSettings::default()
    };
    let producer = Producer::new(kafka, settings)?;
    let topic: std::sync::Arc<str> = topic.into();
    let mut waiting = FuturesUnordered::new();
    let mut text = String::new();
    for id in 0..count {
        text.clear();
        records::write_json(&mut text, id);
        let bucket = Bucket((id / 1000 % u64::from(BUCKETS)) as u32);
        let message = Message::new(topic.clone(), bucket, text.clone().into_bytes());
        waiting.push(producer.enqueue_waiting(message).await?);
        while waiting.len() > IN_FLIGHT_MAX {
            if let Some(delivered) = waiting.next().await {
                delivered?;
            }
        }
    }
    while let Some(delivered) = waiting.next().await {
        delivered?;
    }
    Ok(())
}

fn afternoon(bootstrap: &str, topic: &str, count: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("baseline/afternoon.py");
    let out = Command::new(tidelake_testkit::readers::python()?)
        .arg(script)
        .args([bootstrap, topic, &count.to_string()])
        .arg(folder.path().join("table"))
        .output()
        .context("run the afternoon script")?;
    if !out.status.success() {
        bail!("the afternoon script failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    let line: Value = serde_json::from_slice(&out.stdout)?;
    report("afternoon_script", line);
    Ok(())
}
