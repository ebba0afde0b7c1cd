//! The log crate gives the same on Apache Kafka and on the embedded broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tidelake_core::{Bucket, Offset};
use tidelake_log::{
    Admin, ConsumerSettings, Event, Follower, GroupConsumer, KafkaSettings, LogError, Message,
    Producer, ProducerSettings, Start, TailReader, TopicBucket, TopicCreated, TopicSpec,
};
use tidelake_testkit::{EmbeddedBroker, Kafka, WAIT_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_its_contract_on_the_embedded_broker() {
    let broker = EmbeddedBroker::start().await.unwrap();
    contract(&broker.settings()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_its_contract_on_apache_kafka() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let settings = KafkaSettings {
        bootstrap: kafka.bootstrap(),
        ..KafkaSettings::default()
    };
    contract(&settings).await.unwrap();
}

fn spec(name: &str, buckets: u32) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        buckets,
        retention_ms: Some(3_600_000),
        config: BTreeMap::new(),
    }
}

async fn contract(kafka: &KafkaSettings) -> Result<()> {
    topics(kafka).await?;
    offsets_and_tail(kafka).await?;
    following(kafka).await?;
    group(kafka).await?;
    handing_over(kafka).await
}

async fn topics(kafka: &KafkaSettings) -> Result<()> {
    let admin = Admin::new(kafka)?;
    ensure!(admin.describe("tidelake.a.t").await?.is_none());
    ensure!(admin.create_topic(&spec("tidelake.a.t", 3)).await? == TopicCreated::Created);
    ensure!(admin.create_topic(&spec("tidelake.a.t", 3)).await? == TopicCreated::Exists);
    let Some(first) = admin.describe("tidelake.a.t").await? else {
        bail!("no topic")
    };
    ensure!(first.buckets == 3);
    admin.delete_topic("tidelake.a.t").await?;
    admin.delete_topic("tidelake.a.t").await?;
    tidelake_testkit::wait_until("the topic to go", WAIT_MAX, async || {
        matches!(admin.describe("tidelake.a.t").await, Ok(None)).then_some(())
    })
    .await?;
    admin.create_topic(&spec("tidelake.a.t", 3)).await?;
    let Some(second) = admin.describe("tidelake.a.t").await? else {
        bail!("no topic")
    };
    ensure!(first.id != second.id, "another incarnation has another id");
    Ok(())
}

/// A follower brings everything from where it begins, in order, once, and tells where ends are.
async fn following(kafka: &KafkaSettings) -> Result<()> {
    let admin = Admin::new(kafka)?;
    admin.create_topic(&spec("followed", 2)).await?;
    let producer = Producer::new(kafka, ProducerSettings::default())?;
    let send = async |from: u8, to: u8| -> Result<()> {
        for n in from..to {
            let bucket = Bucket(u32::from(n % 2));
            producer
                .send(Message::new("followed", bucket, vec![n]))
                .await?;
        }
        Ok(())
    };
    send(0, 10).await?;
    let from = [(Bucket(0), Offset(2)), (Bucket(1), Follower::END)];
    let mut follower = Follower::start(kafka, "followed", &from)?;
    let (mut seen, mut ends) = (Vec::new(), BTreeMap::new());
    while ends.get(&Bucket(0)) != Some(&Offset(5)) || ends.get(&Bucket(1)) != Some(&Offset(5)) {
        let news = tokio::time::timeout(WAIT_MAX, follower.next()).await??;
        seen.extend(
            news.messages
                .iter()
                .filter_map(|message| message.value()?.first().copied()),
        );
        ends.extend(news.ends);
    }
    ensure!(seen == [4, 6, 8], "{seen:?}");
    send(10, 20).await?;
    let mut next: BTreeMap<Bucket, i64> = BTreeMap::new();
    while next.get(&Bucket(0)) != Some(&10) || next.get(&Bucket(1)) != Some(&10) {
        let news = tokio::time::timeout(WAIT_MAX, follower.next()).await??;
        for message in news.messages.iter() {
            let known = next.entry(message.bucket()).or_insert(5);
            ensure!(message.offset().0 == *known, "no gap, nothing twice");
            *known += 1;
        }
    }
    drop(follower);
    let mut beyond = Follower::start(kafka, "followed", &[(Bucket(0), Offset(1_000))])?;
    let failed = tokio::time::timeout(WAIT_MAX, beyond.next()).await?;
    ensure!(
        matches!(failed, Err(LogError::OffsetOutOfRange { .. })),
        "{failed:?}"
    );
    Ok(())
}

async fn offsets_and_tail(kafka: &KafkaSettings) -> Result<()> {
    let admin = Admin::new(kafka)?;
    admin.create_topic(&spec("tail", 2)).await?;
    let producer = Producer::new(kafka, ProducerSettings::default())?;
    let buckets = [Bucket(0), Bucket(1)];
    ensure!(
        admin.end_offsets("tail", &buckets).await?
            == [(Bucket(0), Offset(0)), (Bucket(1), Offset(0))]
    );
    for n in 0..50u8 {
        let mut message = Message::new("tail", Bucket(u32::from(n % 2)), vec![n]);
        message.headers = vec![("tl-op".into(), bytes::Bytes::from_static(b"x"))];
        ensure!(producer.send(message).await? == Offset(i64::from(n / 2)));
    }
    ensure!(
        admin.end_offsets("tail", &buckets).await?
            == [(Bucket(0), Offset(25)), (Bucket(1), Offset(25))]
    );
    let reader = TailReader::open(kafka, "tail")?;
    let mut from = [Offset(3), Offset(0)];
    // The second read goes on where the first one ended; the third goes back.
    for (start, to) in [(None, 10), (None, 25), (Some(5), 20)] {
        if let Some(start) = start {
            from = [Offset(start); 2];
        }
        let ranges = vec![
            (Bucket(0), from[0], Offset(to)),
            (Bucket(1), from[1], Offset(to)),
        ];
        let mut seen: Vec<(u32, i64, u8)> = Vec::new();
        for batch in reader.read(ranges.clone(), WAIT_MAX).await? {
            for message in batch.iter() {
                ensure!(message.header("tl-op") == Some(b"x") && message.header("no").is_none());
                let value = message.value().unwrap_or_default()[0];
                seen.push((message.bucket().0, message.offset().0, value));
            }
        }
        for (bucket, from, to) in ranges {
            for offset in from.0..to.0 {
                let value = offset as u8 * 2 + bucket.0 as u8;
                ensure!(
                    seen.contains(&(bucket.0, offset, value)),
                    "{bucket}@{offset} is missing"
                );
            }
        }
        from = [0, 1].map(|bucket| {
            let last = seen
                .iter()
                .filter(|(b, ..)| *b == bucket)
                .map(|(_, offset, _)| *offset);
            Offset(last.max().unwrap_or(-1) + 1)
        });
    }
    let beyond = reader
        .read(vec![(Bucket(0), Offset(99), Offset(100))], WAIT_MAX)
        .await;
    ensure!(
        matches!(beyond, Err(LogError::OffsetOutOfRange { .. })),
        "{beyond:?}"
    );
    let absent = producer.send(Message::new("absent", Bucket(0), "x"));
    ensure!(tokio::time::timeout(WAIT_MAX, absent).await?.is_err());
    Ok(())
}

/// Two members share the buckets, one leaves, one moves back: every message is seen by the owner of
/// its bucket from where the owner said.
async fn group(kafka: &KafkaSettings) -> Result<()> {
    let admin = Admin::new(kafka)?;
    admin.create_topic(&spec("other.g.t", 4)).await?;
    let producer = Producer::new(kafka, ProducerSettings::default())?;
    for n in 0..40u32 {
        producer
            .send(Message::new("other.g.t", Bucket(n % 4), vec![n as u8]))
            .await?;
    }
    let member = |instance: &str| ConsumerSettings {
        group: "g".into(),
        instance_id: Some(instance.into()),
        visited_topic: "tail".into(),
        subscription: tidelake_log::topics::table_topics_pattern("other"),
        prefetch_kib_max: 1024,
        discovery: Duration::from_millis(200),
    };
    let mut first = GroupConsumer::start(kafka, &member("one"))?;
    let mut seen = BTreeMap::new();
    follow(&mut first, &mut seen, |seen| seen.len() == 40).await?;
    ensure!(
        seen.keys().all(|(_, offset)| (0..10).contains(offset)),
        "{seen:?}"
    );

    // Back to offset 7: nothing from before is seen after the consumer says so.
    let at = TopicBucket {
        topic: "other.g.t".into(),
        bucket: Bucket(2),
    };
    first.restart(vec![Start {
        at: at.clone(),
        offset: Offset(7),
    }]);
    let mut again = BTreeMap::new();
    let mut restarted = false;
    while again.len() < 3 {
        match next(&mut first).await? {
            Event::Restarted(buckets) => restarted = buckets.contains(&at),
            Event::Messages(batch) if restarted => note(&batch, &mut again),
            _ => {}
        }
    }
    ensure!(
        again.keys().copied().collect::<Vec<_>>() == [(2, 7), (2, 8), (2, 9)],
        "{again:?}"
    );

    // A second member gets its share once the first has released it.
    let mut second = GroupConsumer::start(kafka, &member("two"))?;
    let (mut of_first, mut of_second) = (BTreeMap::new(), BTreeMap::new());
    let share = async {
        follow(&mut second, &mut of_second, |seen| seen.len() == 20).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        done = share => done?,
        done = follow(&mut first, &mut of_first, |_| false) => done?,
    }
    let buckets: BTreeSet<u32> = of_second.keys().map(|(b, _)| *b).collect();
    ensure!(buckets.len() == 2, "{buckets:?}");
    first.close().await;
    second.close().await;
    Ok(())
}

/// A member that dies while it hands buckets over, and comes back, leaves none of them to nobody.
async fn handing_over(kafka: &KafkaSettings) -> Result<()> {
    let admin = Admin::new(kafka)?;
    admin.create_topic(&spec("handed.h.t", 4)).await?;
    let member = |instance: &str| ConsumerSettings {
        group: "h".into(),
        instance_id: Some(instance.into()),
        visited_topic: "tail".into(),
        subscription: tidelake_log::topics::table_topics_pattern("handed"),
        prefetch_kib_max: 1024,
        discovery: Duration::from_millis(200),
    };
    let mut owned = BTreeSet::new();
    let mut first = GroupConsumer::start(kafka, &member("one"))?;
    while owned.len() < 4 {
        own(&mut first, &mut owned).await?;
    }
    let mut second = GroupConsumer::start(kafka, &member("two"))?;
    loop {
        match next(&mut first).await? {
            // Two are to go over to the second; the first is never heard of again.
            Event::Revoked(_) => break,
            Event::Assigned(_) => first.begin(Vec::new(), Vec::new()),
            _ => {}
        }
    }
    drop(first);
    let mut first = GroupConsumer::start(kafka, &member("one"))?;
    let (mut of_first, mut of_second) = (BTreeSet::new(), BTreeSet::new());
    let shared = async {
        while of_first.len() + of_second.len() < 4 {
            tokio::select! {
                done = own(&mut first, &mut of_first) => done?,
                done = own(&mut second, &mut of_second) => done?,
            }
        }
        anyhow::Ok(())
    };
    if tokio::time::timeout(WAIT_MAX, shared).await.is_err() {
        bail!("{of_first:?} and {of_second:?}: the others are nobody's");
    }
    ensure!(
        of_first.is_disjoint(&of_second),
        "{of_first:?} {of_second:?}"
    );
    first.close().await;
    second.close().await;
    Ok(())
}

/// Takes what the group gives, and gives up what it wants.
async fn own(consumer: &mut GroupConsumer, owned: &mut BTreeSet<Bucket>) -> Result<()> {
    match next(consumer).await? {
        Event::Assigned(buckets) => {
            owned.extend(buckets.iter().map(|at| at.bucket));
            consumer.begin(Vec::new(), buckets);
        }
        Event::Revoked(buckets) => {
            owned.retain(|bucket| buckets.iter().all(|at| at.bucket != *bucket));
            consumer.release(buckets);
        }
        _ => {}
    }
    Ok(())
}

async fn next(consumer: &mut GroupConsumer) -> Result<Event> {
    match tokio::time::timeout(WAIT_MAX, consumer.next()).await? {
        Some(Event::Ended(error)) => Err(error.into()),
        Some(event) => Ok(event),
        None => bail!("the consumer ended"),
    }
}

fn note(batch: &tidelake_log::MessageBatch, seen: &mut BTreeMap<(u32, i64), u32>) {
    for message in batch.iter() {
        *seen
            .entry((message.bucket().0, message.offset().0))
            .or_default() += 1;
    }
}

/// Answers the group and notes messages until `done`.
async fn follow(
    consumer: &mut GroupConsumer,
    seen: &mut BTreeMap<(u32, i64), u32>,
    done: impl Fn(&BTreeMap<(u32, i64), u32>) -> bool,
) -> Result<()> {
    while !done(seen) {
        match next(consumer).await? {
            Event::Assigned(buckets) => {
                let starts = buckets.into_iter().map(|at| Start {
                    at,
                    offset: Offset(0),
                });
                consumer.begin(starts.collect(), Vec::new());
            }
            Event::Revoked(buckets) => consumer.release(buckets),
            Event::Messages(batch) => note(&batch, seen),
            Event::Failed(at, error) => bail!("{at}: {error}"),
            Event::Restarted(_)
            | Event::Passed(..)
            | Event::Trouble { .. }
            | Event::TopicChanged { .. }
            | Event::Ended(_) => {}
        }
    }
    Ok(())
}
