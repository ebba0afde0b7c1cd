use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::clock::ManualClock;

use super::*;
use crate::{
    BucketReader, ConsumerSettings, Event, GroupLog, LogAdmin, LogClient, LogError, Message, Start,
    TopicWriter,
};

fn log() -> MemoryLog {
    MemoryLog::new(Arc::new(ManualClock::at(7)))
}

async fn with_topic(buckets: u32) -> MemoryLog {
    let log = log();
    let spec = TopicSpec {
        name: "p.a.t".into(),
        buckets,
        retention_ms: None,
        config: BTreeMap::new(),
    };
    log.create_topic(&spec).await.unwrap();
    log
}

fn bucket(bucket: u32) -> TopicBucket {
    TopicBucket {
        topic: "p.a.t".into(),
        bucket: Bucket(bucket),
    }
}

fn settings(instance: Option<&str>) -> ConsumerSettings {
    ConsumerSettings {
        group: "g".into(),
        instance_id: instance.map(str::to_owned),
        leaves: false,
        visited_topic: String::new(),
        subscription: crate::topics::table_topics_pattern("p"),
        prefetch_kib_max: 0,
        discovery: Duration::ZERO,
    }
}

async fn send(log: &MemoryLog, to: u32, text: &'static str) -> Result<Offset, LogError> {
    log.send(Message::new("p.a.t", Bucket(to), text)).await
}

async fn next(group: &mut Box<dyn GroupLog>) -> Event {
    let waited = tokio::time::timeout(Duration::from_secs(5), group.next());
    waited.await.expect("nothing comes").expect("it has ended")
}

/// Takes what is given and gives what is wanted back, until messages come.
async fn messages(group: &mut Box<dyn GroupLog>) -> Vec<(u32, i64)> {
    loop {
        match next(group).await {
            Event::Assigned(buckets) => {
                let offset = Offset(0);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                group.begin(starts.collect(), Vec::new());
            }
            Event::Revoked(buckets) => group.release(buckets),
            Event::Messages(batch) => {
                let all = batch.iter();
                return all.map(|one| (one.bucket().0, one.offset().0)).collect();
            }
            _ => {}
        }
    }
}

async fn assigned(group: &mut Box<dyn GroupLog>) -> Vec<u32> {
    loop {
        if let Event::Assigned(buckets) = next(group).await {
            let numbers = buckets.iter().map(|at| at.bucket.0).collect();
            group.begin(Vec::new(), buckets);
            return numbers;
        }
    }
}

#[tokio::test]
async fn a_group_shares_buckets_and_asks_before_it_takes() {
    let log = with_topic(4).await;
    let mut first = log.join(&settings(None)).unwrap();
    assert_eq!(assigned(&mut first).await, [0, 1, 2, 3]);
    let mut second = log.join(&settings(None)).unwrap();
    let revoked = loop {
        if let Event::Revoked(buckets) = next(&mut first).await {
            break buckets;
        }
    };
    assert_eq!(revoked.len(), 2);
    let early = tokio::time::timeout(Duration::from_millis(20), second.next()).await;
    assert!(early.is_err(), "not given up yet: {early:?}");
    // What was asked back does not come back by an answer that was late.
    first.begin(Vec::new(), revoked.clone());
    first.restart(vec![Start {
        at: revoked[0].clone(),
        offset: Offset(0),
    }]);
    first.release(revoked.clone());
    let mut taken = assigned(&mut second).await;
    taken.sort_unstable();
    let mut given: Vec<u32> = revoked.iter().map(|at| at.bucket.0).collect();
    given.sort_unstable();
    assert_eq!(taken, given);
    first.close().await;
    assert_eq!(assigned(&mut second).await.len(), 2);
}

#[tokio::test]
async fn a_member_that_was_given_up_reads_on_until_it_asks() {
    let log = with_topic(1).await;
    let mut zombie = log.join(&settings(None)).unwrap();
    send(&log, 0, "a").await.unwrap();
    assert_eq!(messages(&mut zombie).await, [(0, 0)]);
    log.expire_member("g", 2);
    let mut owner = log.join(&settings(None)).unwrap();
    assert_eq!(messages(&mut owner).await, [(0, 0)]);
    send(&log, 0, "b").await.unwrap();
    assert_eq!(messages(&mut zombie).await, [(0, 1)]);
    assert_eq!(messages(&mut owner).await, [(0, 1)]);
    zombie.commit(vec![(bucket(0), Offset(9))]);
    assert_eq!(log.committed("g", &bucket(0)), None);
    assert!(matches!(next(&mut zombie).await, Event::Revoked(lost) if lost == [bucket(0)]));
}

#[tokio::test]
async fn an_instance_comes_back_to_its_buckets_and_fences_its_double() {
    let log = with_topic(2).await;
    let mut first = log.join(&settings(Some("i"))).unwrap();
    assert_eq!(assigned(&mut first).await, [0, 1]);
    let mut other = log.join(&settings(Some("k"))).unwrap();
    let mut again = log.join(&settings(Some("i"))).unwrap();
    assert_eq!(assigned(&mut again).await.len(), 1);
    let ended = loop {
        if let Event::Ended(error) = next(&mut first).await {
            break error;
        }
    };
    assert!(matches!(ended, LogError::Fenced(_)), "{ended}");
    assert_eq!(assigned(&mut other).await.len(), 1);
    drop(other);
    let quiet = tokio::time::timeout(Duration::from_millis(20), async {
        assigned(&mut again).await
    });
    assert!(quiet.await.is_err(), "its buckets wait for it");
    let mut back = log.join(&settings(Some("k"))).unwrap();
    assert_eq!(assigned(&mut back).await.len(), 1);
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let log = with_topic(1).await;
    log.lose_acknowledgements(1);
    assert!(matches!(
        send(&log, 0, "a").await,
        Err(LogError::Unacknowledged { .. })
    ));
    log.lose_messages(1);
    assert!(matches!(
        send(&log, 0, "b").await,
        Err(LogError::Unacknowledged { .. })
    ));
    assert_eq!(
        send(&log, 0, "c").await.unwrap(),
        Offset(1),
        "a is there, b is not"
    );
    log.hold_acknowledgements(true);
    let mut kept = log.enqueue(Message::new("p.a.t", Bucket(0), "d")).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(20), &mut kept).await;
    assert!(early.is_err(), "{early:?}");
    log.hold_acknowledgements(false);
    assert_eq!(kept.await.unwrap(), Offset(2));
    log.set_down(true);
    assert!(matches!(
        send(&log, 0, "e").await,
        Err(LogError::Unavailable { .. })
    ));
    assert!(log.alive().await.is_err());
    log.set_down(false);
    let stamps = log
        .messages(&bucket(0))
        .iter()
        .map(|one| one.timestamp_ms)
        .collect::<Vec<_>>();
    assert_eq!(stamps, [7, 7, 7]);
}

#[tokio::test]
async fn damage_and_lost_offsets_stop_the_bucket_and_nothing_else() {
    let log = with_topic(2).await;
    for _ in 0..3 {
        send(&log, 0, "x").await.unwrap();
        send(&log, 1, "y").await.unwrap();
    }
    log.damage(&bucket(0), Offset(1), "flipped");
    let mut member = log.join(&settings(None)).unwrap();
    assert_eq!(
        messages(&mut member).await,
        [(0, 0), (1, 0), (1, 1), (1, 2)]
    );
    let Event::Failed(at, LogError::Damaged { offset: 1, .. }) = next(&mut member).await else {
        panic!("no failure");
    };
    assert_eq!(at, bucket(0));
    log.cut_before(&bucket(0), Offset(2));
    member.restart(vec![Start {
        at,
        offset: Offset(1),
    }]);
    assert!(matches!(next(&mut member).await, Event::Restarted(_)));
    let Event::Failed(
        _,
        LogError::OffsetOutOfRange {
            start: 2, end: 3, ..
        },
    ) = next(&mut member).await
    else {
        panic!("no failure");
    };
    send(&log, 1, "z").await.unwrap();
    assert_eq!(messages(&mut member).await, [(1, 3)]);
    log.remake_topic("p.a.t");
    let changed = next(&mut member).await;
    assert!(
        matches!(changed, Event::TopicChanged { info: Some(_), .. }),
        "{changed:?}"
    );
    let lost = next(&mut member).await;
    assert!(matches!(
        lost,
        Event::Failed(_, LogError::OffsetOutOfRange { end: 0, .. })
    ));
    log.add_buckets("p.a.t", 1);
    let changed = next(&mut member).await;
    assert!(
        matches!(changed, Event::TopicChanged { info: Some(_), .. }),
        "{changed:?}"
    );
    assert_eq!(assigned(&mut member).await, [2]);
}

#[tokio::test]
async fn readers_see_nothing_of_an_open_transaction_and_pass_gaps() {
    let log = with_topic(1).await;
    for _ in 0..3 {
        send(&log, 0, "x").await.unwrap();
    }
    log.skip_offsets(&bucket(0), 2);
    log.open_transaction(&bucket(0), Some(Offset(2)));
    assert_eq!(
        log.ends("p.a.t", &[Bucket(0)]).await.unwrap(),
        [(Bucket(0), Offset(2))]
    );
    let mut feed = log.follow("p.a.t", &[(Bucket(0), Offset(0))]).unwrap();
    let news = feed.next().await.unwrap();
    assert_eq!(
        (news.messages.len(), news.ends),
        (2, vec![(Bucket(0), Offset(2))])
    );
    log.open_transaction(&bucket(0), None);
    let (mut seen, mut end) = (0, None);
    while end != Some(Offset(5)) {
        let news = feed.next().await.unwrap();
        seen += news.messages.len();
        end = news.ends.last().map(|(_, end)| *end).or(end);
    }
    assert_eq!(seen, 1);
    let ranges = log.ranges("p.a.t").unwrap();
    let all = vec![(Bucket(0), Offset(0), Offset(5))];
    let read = ranges.read(all, Duration::from_secs(5)).await.unwrap();
    assert_eq!(read.iter().map(crate::MessageBatch::len).sum::<usize>(), 3);
}
