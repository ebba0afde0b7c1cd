//! A bucket that can't be read stops, by name, before anything that is in doubt.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use tidelake_core::{Bucket, ErrorKind, Offset};
use tidelake_log::{
    Admin, ConsumerSettings, Event, Follower, GroupConsumer, KafkaSettings, LogError, Message,
    Producer, ProducerSettings, Start, TailReader, TopicSpec,
};
use tidelake_testkit::{EmbeddedBroker, WAIT_MAX};

use crate::batches::{ATTRIBUTES, RECORDS, batch_at, rebased, sealed};
use crate::proxy::Proxy;

const BATCHES: i64 = 4;

pub(crate) struct World {
    _broker: EmbeddedBroker,
    pub(crate) proxy: std::sync::Arc<Proxy>,
    pub(crate) kafka: KafkaSettings,
}

async fn world() -> World {
    world_of(BATCHES).await
}

/// A topic with one bucket and so many batches of one record, seen through a proxy.
pub(crate) async fn world_of(batches: i64) -> World {
    let broker = EmbeddedBroker::start().await.unwrap();
    let admin = Admin::new(&broker.settings()).unwrap();
    let spec = TopicSpec {
        name: "t".into(),
        buckets: 1,
        retention_ms: None,
        config: BTreeMap::new(),
    };
    admin.create_topic(&spec).await.unwrap();
    let producer = Producer::new(&broker.settings(), ProducerSettings::default()).unwrap();
    for n in 0..batches {
        let message = Message::new("t", Bucket(0), format!("message {n}"));
        assert_eq!(producer.send(message).await.unwrap(), Offset(n));
    }
    let proxy = Proxy::start(broker.bootstrap()).await;
    let kafka = KafkaSettings {
        bootstrap: proxy.bootstrap(),
        ..KafkaSettings::default()
    };
    World {
        _broker: broker,
        proxy,
        kafka,
    }
}

fn settings() -> ConsumerSettings {
    ConsumerSettings {
        group: "g".into(),
        instance_id: None,
        leaves: false,
        visited_topic: String::new(),
        subscription: "t".into(),
        prefetch_kib_max: 64 << 10,
        discovery: Duration::from_millis(300),
    }
}

async fn next(consumer: &mut GroupConsumer) -> Event {
    let event = tokio::time::timeout(WAIT_MAX, consumer.next()).await;
    event.expect("nothing comes").expect("it has ended")
}

/// What a group's member sees before the bucket fails, and why it does.
pub(crate) async fn by_group(kafka: &KafkaSettings) -> (Vec<i64>, LogError) {
    let mut consumer = GroupConsumer::start(kafka, &settings()).unwrap();
    let mut seen = Vec::new();
    let error = loop {
        match next(&mut consumer).await {
            Event::Assigned(buckets) => {
                let offset = Offset(0);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                consumer.begin(starts.collect(), Vec::new());
            }
            Event::Messages(batch) => {
                seen.extend(batch.iter().map(|message| message.offset().0));
            }
            Event::Failed(at, error) => {
                assert_eq!(at.to_string(), "t/0");
                break error;
            }
            Event::TopicChanged { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    // Nothing comes after it: no later message, and no failure again and again.
    let more = tokio::time::timeout(Duration::from_millis(700), async {
        loop {
            match consumer.next().await {
                Some(Event::TopicChanged { .. }) => {}
                other => break other,
            }
        }
    });
    if let Ok(more) = more.await {
        panic!("{more:?}");
    }
    consumer.close().await;
    (seen, error)
}

/// Everything that a group's member sees up to an offset.
pub(crate) async fn all_by_group(kafka: &KafkaSettings, to: i64) -> Vec<i64> {
    let mut consumer = GroupConsumer::start(kafka, &settings()).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&to) {
        match next(&mut consumer).await {
            Event::Assigned(buckets) => {
                let offset = Offset(0);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                consumer.begin(starts.collect(), Vec::new());
            }
            Event::Messages(batch) => {
                seen.extend(batch.iter().map(|message| message.offset().0));
            }
            Event::TopicChanged { .. } | Event::Passed(..) => {}
            other => panic!("{other:?}"),
        }
    }
    consumer.close().await;
    seen
}

async fn by_follower(kafka: &KafkaSettings) -> (Vec<i64>, LogError) {
    let mut follower = Follower::start(kafka, "t", &[(Bucket(0), Offset(0))]).unwrap();
    let mut seen = Vec::new();
    loop {
        match tokio::time::timeout(WAIT_MAX, follower.next())
            .await
            .unwrap()
        {
            Ok(news) => seen.extend(news.messages.iter().map(|message| message.offset().0)),
            Err(error) => return (seen, error),
        }
    }
}

async fn stops(
    change: impl Fn(Vec<u8>) -> Vec<u8> + Clone + Send + 'static,
    of: i64,
    at: std::ops::RangeInclusive<i64>,
) {
    let world = world().await;
    world.proxy.edit(batch_at(of, change));
    for (seen, error) in [
        by_group(&world.kafka).await,
        by_follower(&world.kafka).await,
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let LogError::Damaged { offset, .. } = error else {
            panic!("{error}");
        };
        assert!(at.contains(&offset), "{offset}");
        assert!(seen.iter().copied().eq(0..seen.len() as i64), "{seen:?}");
        assert!(seen.len() as i64 <= of, "{seen:?} before {of}");
    }
    let reader = TailReader::open(&world.kafka, "t").unwrap();
    let all = vec![(Bucket(0), Offset(0), Offset(BATCHES))];
    let read = reader.read(all, WAIT_MAX).await;
    assert!(matches!(read, Err(LogError::Damaged { .. })), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_codec_that_nobody_knows_stops_its_bucket() {
    let unknown = |mut batch: Vec<u8>| {
        batch[ATTRIBUTES + 1] |= 7;
        sealed(batch)
    };
    stops(unknown, 2, 2..=2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_bytes_have_changed_stops_its_bucket() {
    let flipped = |mut batch: Vec<u8>| {
        *batch.last_mut().unwrap() ^= 0x40;
        batch
    };
    stops(flipped, 2, 2..=2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_stop_their_bucket() {
    let babble = |mut batch: Vec<u8>| {
        batch[RECORDS..].fill(0xFF);
        sealed(batch)
    };
    stops(babble, 2, 2..=2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_says_it_is_elsewhere_stops_its_bucket() {
    // The batch before it is in doubt, too: either of the two may say a wrong offset.
    stops(|batch| rebased(batch, 65_567), 2, 1..=1).await;
    stops(|batch| rebased(batch, 0), 2, 1..=1).await;
    let last = BATCHES - 1;
    stops(|batch| rebased(batch, 65_567), last, last - 1..=last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_unpacks_without_end_stops_its_bucket() {
    let bomb = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![0; 1 << 20];
        for _ in 0..300 {
            packer.write_all(&zeros).unwrap();
        }
        packer.finish().unwrap()
    };
    let huge = move |mut batch: Vec<u8>| {
        batch.truncate(RECORDS);
        batch[ATTRIBUTES + 1] |= 1;
        batch.extend(&bomb);
        sealed(batch)
    };
    stops(huge, 2, 2..=2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_without_the_topic_does_not_make_it_gone() {
    let world = world().await;
    let admin = Admin::new(&world.kafka).unwrap();
    world.proxy.forget_topics(2);
    let found = admin.describe("t").await.unwrap();
    assert_eq!(found.map(|found| found.buckets), Some(1));
    assert_eq!(admin.describe("another").await.unwrap(), None);
    let id = admin.cluster_id().await.unwrap();
    assert!(!id.is_empty());
    admin.alive().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_gone_comes_with_what_is_there() {
    let world = world().await;
    let mut consumer = GroupConsumer::start(&world.kafka, &settings()).unwrap();
    let error = loop {
        match next(&mut consumer).await {
            Event::Assigned(buckets) => {
                let offset = Offset(1_000);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                consumer.begin(starts.collect(), Vec::new());
            }
            Event::Failed(_, error) => break error,
            Event::TopicChanged { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let there = matches!(
        error,
        LogError::OffsetOutOfRange {
            offset: 1_000,
            start: 0,
            end: BATCHES,
            ..
        }
    );
    assert!(there, "{error}");
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_never_answered_is_told_and_taken_back() {
    let mut world = world().await;
    world.proxy.hold(true);
    // After which the client tries another connection.
    let timeout = ("socket.timeout.ms".into(), "3000".into());
    world.kafka.properties.extend([timeout]);
    let patience = Duration::from_secs(1);
    let mut consumer =
        GroupConsumer::start_with_patience(&world.kafka, &settings(), patience).unwrap();
    let mut seen = 0;
    let mut told = false;
    while seen < BATCHES || told {
        match next(&mut consumer).await {
            Event::Assigned(buckets) => {
                let offset = Offset(0);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                consumer.begin(starts.collect(), Vec::new());
            }
            Event::Trouble {
                at: Some(at),
                error: Some(error),
            } => {
                assert_eq!(at.to_string(), "t/0");
                let stalled = matches!(
                    error,
                    LogError::Stalled {
                        offset: 0,
                        end: BATCHES,
                        ..
                    }
                );
                assert!(stalled, "{error}");
                told = true;
                world.proxy.hold(false);
            }
            Event::Trouble { error: None, .. } => told = false,
            Event::Messages(batch) => seen += batch.len() as i64,
            Event::TopicChanged { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_becomes_another_is_told() {
    let world = world().await;
    let mut consumer = GroupConsumer::start(&world.kafka, &settings()).unwrap();
    let admin = Admin::new(&world.kafka).unwrap();
    let first = admin.describe("t").await.unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        match next(&mut consumer).await {
            Event::Assigned(buckets) => consumer.begin(Vec::new(), buckets),
            Event::Revoked(buckets) => consumer.release(buckets),
            // It may be looked for while it is gone.
            Event::TopicChanged { info: None, .. } => {}
            Event::TopicChanged { info, .. } => {
                if told.is_empty() {
                    assert_eq!(info, first);
                    admin.delete_topic("t").await.unwrap();
                    let spec = TopicSpec {
                        name: "t".into(),
                        buckets: 3,
                        retention_ms: None,
                        config: BTreeMap::new(),
                    };
                    admin.create_topic(&spec).await.unwrap();
                }
                told.push(info);
            }
            _ => {}
        }
    }
    assert_eq!(told[1], admin.describe("t").await.unwrap());
    assert_ne!(told[0], told[1]);
    consumer.close().await;
}
