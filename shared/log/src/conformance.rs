//! What every log must do, as functions: run on the log in memory, on the embedded broker and on
//! Apache Kafka. Each makes topics of its own, whose names begin with the function's; all together
//! they are [`all`], and [`changes::all`] where topics change under their readers.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tidelake_core::{Bucket, Offset};

use crate::{
    ConsumerSettings, END, Event, GroupLog, LogClient, LogError, Message, MessageBatch,
    ProducerSettings, Start, TopicBucket, TopicCreated, TopicSpec, TopicWriter, topics,
};

/// What did not hold.
#[derive(Debug, thiserror::Error)]
#[error("the log does not keep its contract: {0}")]
pub struct Broken(String);

impl From<LogError> for Broken {
    fn from(error: LogError) -> Self {
        Self(error.to_string())
    }
}

type Outcome<T = ()> = Result<T, Broken>;

/// For anything that must come.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After which a group gives a member up that it does not hear.
const SESSION: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A topic that no group of these functions subscribes to.
const VISITED: &str = "visited";

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($what)+)));
        }
    };
}

pub mod changes;

/// Every function of this module.
pub async fn all(log: &dyn LogClient) -> Outcome {
    topics_have_ids(log).await?;
    offsets_rise_and_ranges_are_whole(log).await?;
    followers_see_everything_once(log).await?;
    members_share_buckets(log).await?;
    a_member_that_dies_leaves_no_bucket_to_nobody(log).await?;
    a_named_member_that_leaves_gives_its_buckets_away(log).await?;
    late_answers_bring_nothing_back(log).await
}

/// A topic is described by id and buckets, and one that is made again is another.
pub async fn topics_have_ids(log: &dyn LogClient) -> Outcome {
    let admin = log.admin();
    let name = "topics.a.t";
    ensure!(
        admin.describe(name).await?.is_none(),
        "a topic that is not there is described"
    );
    let created = admin.create_topic(&spec(name, 3)).await?;
    ensure!(created == TopicCreated::Created, "{created:?}");
    let again = admin.create_topic(&spec(name, 3)).await?;
    ensure!(again == TopicCreated::Exists, "{again:?}");
    let first = admin.describe(name).await?;
    ensure!(first.is_some_and(|first| first.buckets == 3), "{first:?}");
    let listed = admin.list_topics().await?;
    ensure!(listed.iter().any(|topic| topic == name), "{listed:?}");
    admin.delete_topic(name).await?;
    admin.delete_topic(name).await?;
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let gone = async {
        while !matches!(admin.describe(name).await, Ok(None)) {
            looks.tick().await;
        }
    };
    within(gone).await?;
    admin.create_topic(&spec(name, 3)).await?;
    let second = admin.describe(name).await?;
    ensure!(
        second.is_some() && first != second,
        "made again: {first:?}, {second:?}"
    );
    admin.alive().await?;
    let (id, again) = (admin.cluster_id().await?, admin.cluster_id().await?);
    ensure!(
        !id.is_empty() && id == again,
        "cluster ids {id:?} and {again:?}"
    );
    Ok(())
}

/// Offsets of a bucket rise by one; a range that is read is whole, wherever the last one ended.
pub async fn offsets_rise_and_ranges_are_whole(log: &dyn LogClient) -> Outcome {
    let (admin, name) = (log.admin(), "ranges");
    admin.create_topic(&spec(name, 2)).await?;
    let writer = log.writer(ProducerSettings::default())?;
    let buckets = [Bucket(0), Bucket(1)];
    let at_all = |end| [(Bucket(0), Offset(end)), (Bucket(1), Offset(end))];
    let ends = admin.end_offsets(name, &buckets).await?;
    ensure!(ends == at_all(0), "{ends:?}");
    for n in 0..50u8 {
        let mut message = Message::new(name, Bucket(u32::from(n % 2)), vec![n]);
        message.headers = vec![("tl-op".into(), Bytes::from_static(b"x"))];
        let offset = writer.send(message).await?;
        ensure!(
            offset == Offset(i64::from(n / 2)),
            "message {n} is at {offset}"
        );
    }
    let ends = admin.end_offsets(name, &buckets).await?;
    ensure!(ends == at_all(25), "{ends:?}");
    let starts = admin.start_offsets(name, &buckets).await?;
    ensure!(starts == at_all(0), "{starts:?}");
    let ranges = log.reader().ranges(name)?;
    // The second goes on where the first one ended; the third goes back.
    for (from, to) in [(3, 10), (10, 25), (5, 20)] {
        let wanted = buckets.map(|bucket| (bucket, Offset(from), Offset(to)));
        let mut seen = BTreeMap::new();
        for batch in ranges.read(wanted.to_vec(), WAIT_MAX).await? {
            for message in batch.iter() {
                let headers = (message.header("tl-op"), message.header("no"));
                ensure!(headers == (Some(&b"x"[..]), None), "{headers:?}");
                let place = (message.bucket().0, message.offset().0);
                seen.insert(place, message.value().map(<[u8]>::to_vec));
            }
        }
        for (bucket, offset) in (0..2).flat_map(|b| (from..to).map(move |o| (b, o))) {
            let found = seen.get(&(bucket, offset));
            let value = vec![offset as u8 * 2 + bucket as u8];
            ensure!(found == Some(&Some(value)), "{bucket}@{offset}: {found:?}");
        }
    }
    let beyond = vec![(Bucket(0), Offset(99), Offset(100))];
    let beyond = ranges.read(beyond, WAIT_MAX).await;
    let there = matches!(
        beyond,
        Err(LogError::OffsetOutOfRange {
            start: 0,
            end: 25,
            ..
        })
    );
    ensure!(there, "beyond the end: {beyond:?}");
    let absent = within(writer.send(Message::new("absent", Bucket(0), "x"))).await?;
    ensure!(absent.is_err(), "to a topic that is not there: {absent:?}");
    Ok(())
}

/// A follower brings everything from where it begins, in order, once, and tells where ends are.
pub async fn followers_see_everything_once(log: &dyn LogClient) -> Outcome {
    let name = "followed";
    log.admin().create_topic(&spec(name, 2)).await?;
    let writer = log.writer(ProducerSettings::default())?;
    write(&*writer, name, 0..10).await?;
    let reader = log.reader();
    let mut feed = reader.follow(name, &[(Bucket(0), Offset(2)), (Bucket(1), END)])?;
    let (mut seen, mut ends) = (Vec::new(), BTreeMap::new());
    while ends.get(&Bucket(0)) != Some(&Offset(5)) || ends.get(&Bucket(1)) != Some(&Offset(5)) {
        let news = within(feed.next()).await??;
        let messages = news.messages.iter();
        seen.extend(messages.filter_map(|message| message.value()?.first().copied()));
        ends.extend(news.ends);
    }
    ensure!(seen == [4, 6, 8], "{seen:?}");
    write(&*writer, name, 10..20).await?;
    let mut next: BTreeMap<Bucket, i64> = BTreeMap::new();
    while next.get(&Bucket(0)) != Some(&10) || next.get(&Bucket(1)) != Some(&10) {
        let news = within(feed.next()).await??;
        for message in news.messages.iter() {
            let known = next.entry(message.bucket()).or_insert(5);
            ensure!(
                message.offset().0 == *known,
                "{message:?} where {known} is due"
            );
            *known += 1;
        }
    }
    drop(feed);
    let mut beyond = reader.follow(name, &[(Bucket(0), Offset(1_000))])?;
    let failed = within(beyond.next()).await?;
    let there = matches!(
        failed,
        Err(LogError::OffsetOutOfRange {
            start: 0,
            end: 10,
            ..
        })
    );
    ensure!(there, "beyond the end: {failed:?}");
    Ok(())
}

/// Two members share the buckets, and one moves back: every message is seen by the owner of its
/// bucket from where the owner said.
pub async fn members_share_buckets(log: &dyn LogClient) -> Outcome {
    let name = "shared.g.t";
    log.admin().create_topic(&spec(VISITED, 1)).await?;
    log.admin().create_topic(&spec(name, 4)).await?;
    let writer = log.writer(ProducerSettings::default())?;
    for n in 0..40u32 {
        let message = Message::new(name, Bucket(n % 4), vec![n as u8]);
        writer.send(message).await?;
    }
    let mut first = log.join(&member("g", "shared", "one"))?;
    let mut seen = BTreeMap::new();
    follow(&mut first, &mut seen, |seen| seen.len() == 40).await?;
    ensure!(
        seen.keys().all(|(_, offset)| (0..10).contains(offset)),
        "{seen:?}"
    );

    // Back to offset 7: nothing from before is seen after the member says so.
    let at = TopicBucket {
        topic: name.into(),
        bucket: Bucket(2),
    };
    let offset = Offset(7);
    let start = Start {
        at: at.clone(),
        offset,
    };
    first.restart(vec![start]);
    let (mut again, mut restarted) = (BTreeMap::new(), false);
    while again.len() < 3 {
        match next(&mut first).await? {
            Event::Restarted(buckets) => restarted = buckets.contains(&at),
            Event::Messages(batch) if restarted => note(&batch, &mut again),
            _ => {}
        }
    }
    ensure!(
        again.keys().copied().eq([(2, 7), (2, 8), (2, 9)]),
        "{again:?}"
    );

    // A second member gets its share once the first has released it.
    let mut second = log.join(&member("g", "shared", "two"))?;
    let (mut of_first, mut of_second) = (BTreeMap::new(), BTreeMap::new());
    tokio::select! {
        done = follow(&mut second, &mut of_second, |seen| seen.len() == 20) => done?,
        done = follow(&mut first, &mut of_first, |_| false) => done?,
    }
    let buckets: BTreeSet<u32> = of_second.keys().map(|(bucket, _)| *bucket).collect();
    ensure!(buckets.len() == 2, "the second has {buckets:?}");
    first.close().await;
    second.close().await;
    Ok(())
}

/// A member that dies while it hands buckets over, and comes back, leaves none of them to nobody.
pub async fn a_member_that_dies_leaves_no_bucket_to_nobody(log: &dyn LogClient) -> Outcome {
    log.admin().create_topic(&spec(VISITED, 1)).await?;
    log.admin().create_topic(&spec("handed.h.t", 4)).await?;
    let mut owned = BTreeSet::new();
    let mut first = log.join(&member("h", "handed", "one"))?;
    while owned.len() < 4 {
        own(&mut first, &mut owned).await?;
    }
    let mut second = log.join(&member("h", "handed", "two"))?;
    loop {
        match next(&mut first).await? {
            // Two are to go over to the second; the first is never heard of again.
            Event::Revoked(_) => break,
            Event::Assigned(_) => first.begin(Vec::new(), Vec::new()),
            _ => {}
        }
    }
    drop(first);
    let mut first = log.join(&member("h", "handed", "one"))?;
    let (mut of_first, mut of_second) = (BTreeSet::new(), BTreeSet::new());
    let all = |one: &BTreeSet<_>, other: &BTreeSet<_>| one.len() + other.len() == 4;
    let (one, two) = ((&mut first, &mut of_first), (&mut second, &mut of_second));
    let shared = share(one, two, all).await;
    ensure!(
        shared.is_ok(),
        "{of_first:?} and {of_second:?}: the others are nobody's"
    );
    ensure!(
        of_first.is_disjoint(&of_second),
        "{of_first:?} and {of_second:?}"
    );
    first.close().await;
    second.close().await;
    Ok(())
}

/// A member that leaves gives its buckets to the others at once, though it has a name to come back by.
pub async fn a_named_member_that_leaves_gives_its_buckets_away(log: &dyn LogClient) -> Outcome {
    log.admin().create_topic(&spec(VISITED, 1)).await?;
    log.admin().create_topic(&spec("left.v.t", 2)).await?;
    let leaving = ConsumerSettings {
        leaves: true,
        ..member("v", "left", "one")
    };
    let mut first = log.join(&leaving)?;
    let mut owned = BTreeSet::new();
    while owned.len() < 2 {
        own(&mut first, &mut owned).await?;
    }
    let mut second = log.join(&member("v", "left", "two"))?;
    let mut of_second = BTreeSet::new();
    let (one, two) = ((&mut first, &mut owned), (&mut second, &mut of_second));
    share(one, two, |_, of_second| !of_second.is_empty()).await?;
    // The second goes on answering the group meanwhile.
    let all = async {
        let mut closing = pin!(first.close());
        let mut closed = false;
        while !closed || of_second.len() < 2 {
            tokio::select! {
                () = &mut closing, if !closed => closed = true,
                done = own(&mut second, &mut of_second) => done?,
            }
        }
        Outcome::Ok(())
    };
    match tokio::time::timeout(SESSION * 4 / 5, all).await {
        Ok(done) => done?,
        Err(_) => ensure!(false, "only {of_second:?} while its session lasted"),
    }
    // It may come back as who it was.
    let mut first = log.join(&leaving)?;
    let mut of_first = BTreeSet::new();
    let (one, two) = ((&mut first, &mut of_first), (&mut second, &mut of_second));
    share(one, two, |of_first, _| !of_first.is_empty()).await?;
    first.close().await;
    second.close().await;
    Ok(())
}

/// Buckets that were asked back before their owner has answered for them do not come back to it, by
/// no answer that is late.
pub async fn late_answers_bring_nothing_back(log: &dyn LogClient) -> Outcome {
    let name = "late.l.t";
    log.admin().create_topic(&spec(VISITED, 1)).await?;
    log.admin().create_topic(&spec(name, 2)).await?;
    let writer = log.writer(ProducerSettings::default())?;
    let mut first = log.join(&member("l", "late", "one"))?;
    let mut owned = BTreeSet::new();
    while owned.len() < 2 {
        own(&mut first, &mut owned).await?;
    }
    let mut second = log.join(&member("l", "late", "two"))?;
    let revoked = loop {
        match next(&mut first).await? {
            Event::Revoked(buckets) => break buckets,
            Event::Assigned(buckets) => first.begin(Vec::new(), buckets),
            _ => {}
        }
    };
    first.release(revoked.clone());
    let offset = Offset(0);
    let starts = revoked.iter().cloned().map(|at| Start { at, offset });
    first.restart(starts.collect());
    write(&*writer, name, 0..10).await?;
    let (mut of_first, mut of_second) = (BTreeMap::new(), BTreeMap::new());
    tokio::select! {
        done = follow(&mut second, &mut of_second, |seen| seen.len() == 5) => done?,
        done = follow(&mut first, &mut of_first, |_| false) => done?,
    }
    ensure!(of_first.is_empty(), "the first still reads {of_first:?}");
    first.close().await;
    second.close().await;
    Ok(())
}

fn spec(name: &str, buckets: u32) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        buckets,
        retention_ms: Some(3_600_000),
        config: BTreeMap::new(),
    }
}

fn member(group: &str, prefix: &str, instance: &str) -> ConsumerSettings {
    ConsumerSettings {
        group: group.into(),
        instance_id: Some(instance.into()),
        leaves: false,
        visited_topic: VISITED.into(),
        subscription: topics::table_topics_pattern(prefix),
        prefetch_kib_max: 1024,
        discovery: Duration::from_millis(200),
    }
}

/// One message a number, of one byte, to the two buckets in turn.
async fn write(writer: &dyn TopicWriter, topic: &str, numbers: std::ops::Range<u8>) -> Outcome {
    for n in numbers {
        let message = Message::new(topic, Bucket(u32::from(n % 2)), vec![n]);
        writer.send(message).await?;
    }
    Ok(())
}

async fn within<T>(come: impl Future<Output = T>) -> Outcome<T> {
    let come = tokio::time::timeout(WAIT_MAX, come).await;
    come.map_err(|_| Broken(format!("not within {WAIT_MAX:?}")))
}

async fn next(group: &mut Box<dyn GroupLog>) -> Outcome<Event> {
    match within(group.next()).await? {
        Some(Event::Ended(error)) => Err(error.into()),
        Some(event) => Ok(event),
        None => Err(Broken("the member has ended".into())),
    }
}

/// A member, and what it owns.
type Owning<'a> = (&'a mut Box<dyn GroupLog>, &'a mut BTreeSet<Bucket>);

/// Lets two members take and give what the group says, until it is as it should be.
async fn share(
    (first, of_first): Owning<'_>,
    (second, of_second): Owning<'_>,
    is_done: impl Fn(&BTreeSet<Bucket>, &BTreeSet<Bucket>) -> bool,
) -> Outcome {
    let shared = async {
        while !is_done(of_first, of_second) {
            tokio::select! {
                done = own(first, of_first) => done?,
                done = own(second, of_second) => done?,
            }
        }
        Outcome::Ok(())
    };
    within(shared).await?
}

/// Takes what the group gives, and gives up what it wants.
async fn own(group: &mut Box<dyn GroupLog>, owned: &mut BTreeSet<Bucket>) -> Outcome {
    match next(group).await? {
        Event::Assigned(buckets) => {
            owned.extend(buckets.iter().map(|at| at.bucket));
            group.begin(Vec::new(), buckets);
        }
        Event::Revoked(buckets) => {
            owned.retain(|bucket| buckets.iter().all(|at| at.bucket != *bucket));
            group.release(buckets);
        }
        _ => {}
    }
    Ok(())
}

type Seen = BTreeMap<(u32, i64), u32>;

fn note(batch: &MessageBatch, seen: &mut Seen) {
    for message in batch.iter() {
        let place = (message.bucket().0, message.offset().0);
        *seen.entry(place).or_default() += 1;
    }
}

/// Answers the group and notes messages until `done`.
async fn follow(
    group: &mut Box<dyn GroupLog>,
    seen: &mut Seen,
    done: impl Fn(&Seen) -> bool,
) -> Outcome {
    while !done(seen) {
        match next(group).await? {
            Event::Assigned(buckets) => {
                let offset = Offset(0);
                let starts = buckets.into_iter().map(|at| Start { at, offset });
                group.begin(starts.collect(), Vec::new());
            }
            Event::Revoked(buckets) => group.release(buckets),
            Event::Messages(batch) => note(&batch, seen),
            Event::Failed(at, error) => return Err(Broken(format!("{at}: {error}"))),
            _ => {}
        }
    }
    Ok(())
}
