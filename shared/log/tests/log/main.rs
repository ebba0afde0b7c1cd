//! The clients of a Kafka log, beside the embedded broker.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod batches;
mod codecs;
mod damage;
mod gaps;
mod proxy;
mod sessions;
mod worlds;

use std::sync::Arc;
use std::time::Duration;

use tidelake_core::clock::ManualClock;
use tidelake_core::{Bucket, Offset};
use tidelake_log::memory::MemoryLog;
use tidelake_log::{ConsumerSettings, Event, GroupLog, KafkaLog, LogClient, Start, conformance};
use tidelake_testkit::{EmbeddedBroker, Kafka};

#[tokio::test]
async fn the_log_in_memory_keeps_the_contract() {
    let log = MemoryLog::new(Arc::new(ManualClock::at(0)));
    conformance::all(&log).await.unwrap();
    let world = worlds::InMemory(log.clone());
    conformance::changes::all(&log, &world).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_keeps_the_contract() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let log = KafkaLog::new(broker.settings()).unwrap();
    conformance::all(&log).await.unwrap();
    let world = worlds::Brokers::embedded(broker.bootstrap());
    conformance::changes::all(&log, &world).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_kafka_keeps_the_contract() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let settings = tidelake_log::KafkaSettings {
        bootstrap: kafka.bootstrap(),
        ..Default::default()
    };
    let log = KafkaLog::new(settings).unwrap();
    conformance::all(&log).await.unwrap();
    let world = worlds::Brokers::apache_kafka(kafka.bootstrap());
    conformance::changes::all(&log, &world).await.unwrap();
}

/// Readers see no record of a transaction before it is committed, nor wait for one that never is.
#[tokio::test(flavor = "multi_thread")]
async fn ends_lie_before_open_transactions_and_behind_aborted_ones() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let settings = tidelake_log::KafkaSettings {
        bootstrap: kafka.bootstrap(),
        ..Default::default()
    };
    let log = KafkaLog::new(settings).unwrap();
    let admin = log.admin();
    let spec = tidelake_log::TopicSpec {
        name: "t".into(),
        buckets: 1,
        retention_ms: None,
        config: Default::default(),
    };
    admin.create_topic(&spec).await.unwrap();
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("transactional.id", "x")
        .create()
        .unwrap();
    let wait = tidelake_testkit::WAIT_MAX;
    let write = move |producer: &BaseProducer| {
        producer.begin_transaction().unwrap();
        for _ in 0..3 {
            let record = BaseRecord::<(), _>::to("t").partition(0).payload("x");
            producer.send(record).unwrap();
        }
        producer.flush(wait).unwrap();
    };
    let bucket = Bucket(0);
    let producer = tokio::task::spawn_blocking(move || {
        producer.init_transactions(wait).unwrap();
        write(&producer);
        producer
    });
    let producer = producer.await.unwrap();
    let end = async || admin.end_offsets("t", &[bucket]).await.unwrap()[0].1;
    assert_eq!(end().await, Offset(0), "the transaction is open");
    let producer = tokio::task::spawn_blocking(move || {
        producer.abort_transaction(wait).unwrap();
        producer
    });
    let producer = producer.await.unwrap();
    // Three records that do not count, and a marker.
    let reaches = async |offset| {
        let reached = async || (end().await == Offset(offset)).then_some(());
        tidelake_testkit::wait_until("the marker", wait, reached).await
    };
    reaches(4).await.unwrap();
    let ranges = log.reader().ranges("t").unwrap();
    let read = ranges
        .read(vec![(bucket, Offset(0), Offset(4))], wait)
        .await
        .unwrap();
    assert!(read.is_empty(), "{read:?}");
    let mut member = log.join(&member()).unwrap();
    assert_eq!(until_passed(&mut member).await, (0, Offset(4)));
    let done = tokio::task::spawn_blocking(move || {
        write(&producer);
        producer.commit_transaction(wait).unwrap();
    });
    done.await.unwrap();
    reaches(8).await.unwrap();
    let read = ranges
        .read(vec![(bucket, Offset(4), Offset(8))], wait)
        .await
        .unwrap();
    assert_eq!(
        read.iter()
            .map(tidelake_log::MessageBatch::len)
            .sum::<usize>(),
        3
    );
    // The marker behind them is no message either.
    assert_eq!(until_passed(&mut member).await, (3, Offset(8)));
    member.close().await;
}

fn member() -> ConsumerSettings {
    ConsumerSettings {
        group: "g".into(),
        instance_id: None,
        leaves: false,
        visited_topic: String::new(),
        subscription: "t".into(),
        prefetch_kib_max: 1 << 10,
        discovery: Duration::from_millis(100),
    }
}

/// Messages that a member is given until it is told of offsets without one.
async fn until_passed(member: &mut Box<dyn GroupLog>) -> (usize, Offset) {
    let mut messages = 0;
    loop {
        let next = tokio::time::timeout(tidelake_testkit::WAIT_MAX, member.next());
        match next.await.unwrap().unwrap() {
            Event::Assigned(buckets) => {
                let offset = Offset(0);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                member.begin(starts.collect(), Vec::new());
            }
            Event::Messages(batch) => messages += batch.len(),
            Event::Passed(at, to) => {
                assert_eq!(at.to_string(), "t/0");
                return (messages, to);
            }
            Event::TopicChanged { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}
