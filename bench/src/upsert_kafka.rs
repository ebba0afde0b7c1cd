//! `upsert_kafka`: a backlog of single JSON records from librdkafka, keys uniform over the live ones,
//! to committed Parquet with vectors; beside it the afternoon script with a `deltalake` merge.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tidelake_core::partition::bucket_of;
use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};
use tidelake_testkit::Readers;

use crate::records;
use crate::report::{Stopwatch, report};
use crate::system::{Options, System};
use crate::upsert::{Dice, every_second, fill};

const BUCKETS: u32 = 4;
const IN_FLIGHT_MAX: usize = 200_000;
/// Of the afternoon script: it rewrites the table with each of its batches.
const BASELINE_RECORDS_MAX: u64 = 1_000_000;

/// On the embedded broker, or on this Kafka.
pub(crate) async fn run(live: u64, count: u64, kafka: Option<&str>) -> Result<()> {
    let kafka = kafka.map(str::to_owned);
    let options = Options {
        kafka: kafka.clone(),
        ..every_second()
    };
    let system = Arc::new(System::start(&options)?);
    system.create_upsert("clicks", BUCKETS).await?;
    fill(&system, "clicks", live).await?;
    let topic = system.describe("clicks").await?["topic"]
        .as_str()
        .context("no topic")?
        .to_owned();
    let system = Arc::into_inner(system).context("the system is in use")?;
    // Holds the backlog back until it stands.
    let hold = [
        ("DISCOVERY_MS", 3_600_000_u64),
        ("FLUSH_AGE_MS", 3_600_000),
        ("FLUSH_BYTES", 1 << 40),
        ("MEMORY_BYTES_MAX", 1 << 40),
    ]
    .map(|(name, value)| (format!("TIDELAKE__FLUSHER__{name}"), value.to_string()));
    let held = system.restart(&Options {
        kafka: kafka.clone(),
        environment: hold.to_vec(),
    })?;
    let before = held.describe("clicks").await?["version"].clone();
    produce(&held.kafka, &topic, live, count).await?;
    if kafka.is_none() {
        baseline(&held.kafka, &topic, live, count).await?;
    }
    ensure!(
        held.describe("clicks").await?["version"] == before,
        "a part of the backlog was committed before the measurement"
    );
    let system = held.restart(&options)?;
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    system.flush("clicks").await?;
    let cpu = watch.cpu_seconds("tidelake") * 1e6 / count as f64;
    let broker = if kafka.is_some() {
        "apache kafka"
    } else {
        "embedded"
    };
    let more = json!({
        "broker": broker, "live_keys": live, "system_cpu_seconds_per_million": cpu,
    });
    watch.report("upsert_kafka", count, Some(4e5), more);
    let found = system.count("clicks").await?;
    ensure!(found == live, "{found} live rows, expected {live}");
    Ok(())
}

async fn produce(bootstrap: &str, topic: &str, live: u64, count: u64) -> Result<()> {
    let kafka = KafkaSettings {
        bootstrap: bootstrap.to_owned(),
        ..KafkaSettings::default()
    };
    let settings = ProducerSettings {
        linger: Duration::from_millis(20),
        compression: "lz4",
        ..ProducerSettings::default()
    };
    let producer = Producer::new(&kafka, settings)?;
    let topic: Arc<str> = topic.into();
    let mut waiting = FuturesUnordered::new();
    let mut dice = Dice::new(5);
    let mut text = String::new();
    for _ in 0..count {
        let id = dice.below(live);
        text.clear();
        records::write_json(&mut text, id);
        let key = id.to_string().into_bytes();
        let bucket = bucket_of(&key, BUCKETS);
        let mut message = Message::new(topic.clone(), bucket, text.clone().into_bytes());
        message.key = Some(key.into());
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

async fn baseline(bootstrap: &str, topic: &str, live: u64, count: u64) -> Result<()> {
    let readers = Readers::new()?.context("external tools are switched off")?;
    let folder = tempfile::tempdir()?;
    let table = folder.path().join("table").display().to_string();
    let script = include_str!("../baseline/afternoon_merge.py");
    let records = count.min(BASELINE_RECORDS_MAX).to_string();
    let line = readers
        .python(
            script,
            &[bootstrap, topic, &records, &table, &live.to_string()],
        )
        .await?;
    report("afternoon_merge", serde_json::from_str(&line)?);
    Ok(())
}
