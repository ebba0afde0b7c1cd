//! `broker_produce` and `broker_consume`: librdkafka, 100-byte records, lz4, 4 partitions; Apache Kafka
//! and the embedded broker in turn, in the same run.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tidelake_core::Offset;
use tidelake_log::{
    Admin, ConsumerSettings, Event, GroupConsumer, KafkaSettings, Start, TopicBucket, TopicSpec,
};

use crate::end_to_end::produce;
use crate::report::Stopwatch;
use crate::system::{Options, System};

const PARTITIONS: u32 = 4;

/// Both brokers, alternating, `rounds` times.
pub(crate) async fn run(count: u64, kafka: &str, kafka_pid: u32, rounds: u32) -> Result<()> {
    let system = System::start(&Options::default())?;
    for round in 0..rounds {
        let topic = format!("bench-{}-{round}", std::process::id());
        one("apache kafka", kafka, kafka_pid, &topic, count).await?;
        one("embedded", &system.kafka, system.pid(), &topic, count).await?;
    }
    Ok(())
}

async fn one(name: &str, bootstrap: &str, pid: u32, topic: &str, count: u64) -> Result<()> {
    let kafka = KafkaSettings {
        bootstrap: bootstrap.to_owned(),
        ..KafkaSettings::default()
    };
    let spec = TopicSpec {
        name: topic.to_owned(),
        buckets: PARTITIONS,
        retention_ms: None,
        config: BTreeMap::new(),
    };
    Admin::new(&kafka)?.create_topic(&spec).await?;
    let watch = Stopwatch::start(&[("broker", pid)]);
    produce(&kafka, topic, count).await?;
    watch.report("broker_produce", count, None, json!({"broker": name}));
    let watch = Stopwatch::start(&[("broker", pid)]);
    consume(&kafka, topic, count).await?;
    watch.report("broker_consume", count, None, json!({"broker": name}));
    Ok(())
}

/// Reads `count` messages as a group of one.
async fn consume(kafka: &KafkaSettings, topic: &str, count: u64) -> Result<()> {
    let settings = ConsumerSettings {
        group: format!("bench-{topic}"),
        instance_id: None,
        leaves: false,
        visited_topic: String::new(),
        subscription: topic.to_owned(),
        prefetch_kib_max: 64 << 10,
        discovery: Duration::from_secs(60),
    };
    let mut consumer = GroupConsumer::start(kafka, &settings)?;
    let mut seen = 0;
    while seen < count {
        match consumer.next().await {
            Some(Event::Messages(batch)) => seen += batch.len() as u64,
            Some(Event::Assigned(buckets)) => {
                let start = |at: TopicBucket| Start {
                    at,
                    offset: Offset(0),
                };
                consumer.begin(buckets.into_iter().map(start).collect(), Vec::new());
            }
            Some(Event::Revoked(buckets)) => consumer.release(buckets),
            Some(
                Event::Restarted(_)
                | Event::Passed(..)
                | Event::Trouble { .. }
                | Event::TopicChanged { .. },
            ) => {}
            Some(Event::Failed(at, error)) => bail!("{at}: {error}"),
            Some(Event::Ended(error)) => return Err(error.into()),
            None => bail!("the consumer ended"),
        }
    }
    consumer.close().await;
    Ok(())
}
