//! `end_to_end_kafka_json`: single JSON records from librdkafka with lz4, a backlog, to committed
//! Parquet; on the embedded broker or on Apache Kafka. Beside it the afternoon script.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tidelake_core::Bucket;
use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};
use tidelake_testkit::Readers;

use crate::records;
use crate::report::{Stopwatch, report};
use crate::system::{Options, System};

const BUCKETS: u32 = 4;
const IN_FLIGHT_MAX: usize = 200_000;

/// Produces the backlog while nothing reads it, then measures from the start of the reader.
pub(crate) async fn run(count: u64, kafka: Option<&str>, baseline: bool) -> Result<()> {
    let broker = if kafka.is_some() {
        "apache kafka"
    } else {
        "embedded"
    };
    // The flusher may not commit before the backlog stands; what it has read dies with its process.
    let hold = [
        ("DISCOVERY_MS", 3_600_000_u64),
        ("FLUSH_AGE_MS", 3_600_000),
        ("FLUSH_BYTES", 1 << 40),
        ("MEMORY_BYTES_MAX", 1 << 40),
    ]
    .map(|(name, value)| (format!("TIDELAKE__FLUSHER__{name}"), value.to_string()))
    .to_vec();
    let options = Options {
        kafka: kafka.map(str::to_owned),
        environment: hold,
    };
    let system = System::start(&options)?;
    let table = format!("clicks_{}", std::process::id());
    system.create_table(&table, BUCKETS).await?;
    let topic = system.describe(&table).await?["topic"]
        .as_str()
        .context("no topic")?
        .to_owned();
    let settings = KafkaSettings {
        bootstrap: system.kafka.clone(),
        ..KafkaSettings::default()
    };
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    produce(&settings, &topic, count).await?;
    watch.report("backlog_produce", count, None, json!({"broker": broker}));
    if baseline {
        afternoon(&system.kafka, &topic, count).await?;
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
    let system = held.restart(&Options {
        kafka: kafka.map(str::to_owned),
        environment: Vec::new(),
    })?;
    let held_back = system.describe(table).await?["rows"] == 0;
    ensure!(
        held_back,
        "a part of the backlog was committed before the measurement"
    );
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    // Asked for, so that the last rows do not wait for their age.
    system.flush(table).await?;
    watch.report(
        "end_to_end_kafka_json",
        count,
        Some(1e6),
        json!({"broker": broker}),
    );
    let found = system.count(table).await?;
    ensure!(found == count, "{found} rows of {count} were committed");
    Ok(())
}

/// Single JSON records, lz4, idempotent, spread over the buckets.
pub(crate) async fn produce(kafka: &KafkaSettings, topic: &str, count: u64) -> Result<()> {
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

async fn afternoon(bootstrap: &str, topic: &str, count: u64) -> Result<()> {
    let readers = Readers::new()?.context("external tools are switched off")?;
    let folder = tempfile::tempdir()?;
    let table = folder.path().join("table").display().to_string();
    let script = include_str!("../baseline/afternoon.py");
    let line = readers
        .python(script, &[bootstrap, topic, &count.to_string(), &table])
        .await?;
    report("afternoon_script", serde_json::from_str(&line)?);
    Ok(())
}
