//! What becomes of topics while they are read: more buckets, records that retention took, offsets
//! without a message, topics that are deleted and made again.
//!
//! None of it can be brought about through the seams of the log, so each log brings a [`World`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset};

use super::{Broken, LOOK_INTERVAL, Outcome, VISITED, WAIT_MAX, member, next, note, spec, within};
use crate::{
    Event, GroupLog, LogClient, LogError, ProducerSettings, Start, TopicBucket, TopicInfo,
    TopicSpec,
};

/// What happens to a log from outside.
#[async_trait]
pub trait World: Debug + Send + Sync {
    /// A topic of whose records retention can take some.
    fn short_lived(&self, name: &str) -> TopicSpec {
        spec(name, 1)
    }

    /// Retention takes records of a bucket: some of those before an offset, and no others.
    async fn forget_before(&self, at: &TopicBucket, offset: Offset) -> Result<(), LogError>;

    /// Gives a topic more buckets.
    async fn add_buckets(&self, topic: &str, buckets: u32) -> Result<(), LogError>;

    /// Writes offsets at a bucket's end that hold no message for readers; false where the log has
    /// no such thing.
    async fn leave_offsets_empty(&self, at: &TopicBucket) -> Result<bool, LogError>;
}

/// Every function of this module.
pub async fn all(log: &dyn LogClient, world: &dyn World) -> Outcome {
    let named = |what: &'static str| move |Broken(how)| Broken(format!("{what}: {how}"));
    let retention = what_retention_took_is_named(log, world).await;
    retention.map_err(named("what retention took"))?;
    let added = buckets_that_are_added_are_told_and_read(log, world).await;
    added.map_err(named("buckets that are added"))?;
    let empty = offsets_without_a_message_are_passed(log, world).await;
    empty.map_err(named("offsets without a message"))?;
    let again = topics_that_go_and_come_back_are_told(log).await;
    again.map_err(named("topics that go and come back"))
}

/// Whoever begins where nothing is left is told what is; from there on everything is read.
pub async fn what_retention_took_is_named(log: &dyn LogClient, world: &dyn World) -> Outcome {
    let (admin, name) = (log.admin(), "short.r.t");
    admin.create_topic(&spec(VISITED, 1)).await?;
    admin.create_topic(&world.short_lived(name)).await?;
    let writer = log.writer(ProducerSettings::default())?;
    let message = |n: u8| crate::Message::new(name, Bucket(0), vec![n; 400]);
    for n in 0..40 {
        writer.send(message(n)).await?;
    }
    let at = bucket(name, 0);
    world.forget_before(&at, Offset(20)).await?;
    let start = async || Ok::<_, Broken>(admin.start_offsets(name, &[Bucket(0)]).await?[0].1);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let taken = async {
        while start().await? == Offset(0) {
            looks.tick().await;
        }
        Outcome::Ok(())
    };
    within(taken).await??;
    // Housekeeping may go on meanwhile, but never beyond what it was told to leave.
    let from = start().await?;
    ensure!(from <= Offset(39), "retention took all up to {from}");
    let reader = log.reader();
    let is_named = |error: &LogError| {
        matches!(error, LogError::OffsetOutOfRange { offset: 0, start, end: 40, .. }
            if *start >= from.0 && *start <= 39)
    };
    let ranges = reader.ranges(name)?;
    let gone = ranges.read(vec![(Bucket(0), Offset(0), Offset(5))], WAIT_MAX);
    let gone = gone.await;
    ensure!(gone.as_ref().is_err_and(is_named), "a range: {gone:?}");
    let mut feed = reader.follow(name, &[(Bucket(0), Offset(0))])?;
    let gone = within(feed.next()).await?;
    ensure!(gone.as_ref().is_err_and(is_named), "a feed: {gone:?}");

    let mut group = log.join(&member("r", "short", "one"))?;
    let mut seen = BTreeMap::new();
    let mut told = false;
    while !seen.contains_key(&(0, 39)) {
        match next(&mut group).await? {
            Event::Assigned(buckets) => begin(&*group, buckets, Offset(0)),
            Event::Failed(of, error) => {
                ensure!(of == at && is_named(&error), "a member: {of}: {error}");
                ensure!(seen.is_empty(), "before it was told: {seen:?}");
                let offset = start().await?;
                let at = at.clone();
                group.restart(vec![Start { at, offset }]);
                told = true;
            }
            Event::Messages(batch) => note(&batch, &mut seen),
            _ => {}
        }
    }
    let offsets = seen.keys().map(|(_, offset)| *offset);
    let first = seen.keys().next().map_or(40, |(_, offset)| *offset);
    ensure!(told && offsets.eq(first..40), "{seen:?}");
    group.close().await;
    Ok(())
}

/// A topic that gets more buckets is told, and those are read from their start.
pub async fn buckets_that_are_added_are_told_and_read(
    log: &dyn LogClient,
    world: &dyn World,
) -> Outcome {
    let (admin, name) = (log.admin(), "grown.b.t");
    admin.create_topic(&spec(VISITED, 1)).await?;
    admin.create_topic(&spec(name, 1)).await?;
    let mut group = log.join(&member("b", "grown", "one"))?;
    let mut told = Vec::new();
    while told.is_empty() {
        match next(&mut group).await? {
            Event::Assigned(buckets) => begin(&*group, buckets, Offset(0)),
            Event::TopicChanged { topic, info } => told.push((topic, info)),
            _ => {}
        }
    }
    let before = admin.describe(name).await?;
    ensure!(told[0] == (name.into(), before), "at first: {told:?}");
    world.add_buckets(name, 3).await?;
    let writer = log.writer(ProducerSettings::default())?;
    let known = async {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        while !matches!(
            admin.describe(name).await,
            Ok(Some(TopicInfo { buckets: 3, .. }))
        ) {
            looks.tick().await;
        }
    };
    within(known).await?;
    for bucket in 0..3 {
        let message = crate::Message::new(name, Bucket(bucket), vec![bucket as u8]);
        within(writer.send(message)).await??;
    }
    let (mut seen, mut grown) = (BTreeMap::new(), None);
    while seen.len() < 3 || grown.is_none() {
        match next(&mut group).await? {
            Event::Assigned(buckets) => begin(&*group, buckets, Offset(0)),
            Event::Revoked(buckets) => group.release(buckets),
            Event::Messages(batch) => note(&batch, &mut seen),
            Event::TopicChanged { info, .. } => grown = info,
            _ => {}
        }
    }
    let id = before.map(|before| before.id);
    let right = grown.is_some_and(|grown| Some(grown.id) == id && grown.buckets == 3);
    ensure!(right, "grown from {before:?} to {grown:?}");
    ensure!(
        seen.keys().copied().eq([(0, 0), (1, 0), (2, 0)]),
        "{seen:?}"
    );
    group.close().await;
    Ok(())
}

/// Offsets at a bucket's end that hold no message are passed, by members, feeds and ranges, and what
/// comes behind them is read.
pub async fn offsets_without_a_message_are_passed(
    log: &dyn LogClient,
    world: &dyn World,
) -> Outcome {
    let (admin, name) = (log.admin(), "empty.o.t");
    admin.create_topic(&spec(VISITED, 1)).await?;
    admin.create_topic(&spec(name, 1)).await?;
    let writer = log.writer(ProducerSettings::default())?;
    let send = async |n: u8| {
        let message = crate::Message::new(name, Bucket(0), vec![n]);
        Ok::<_, Broken>(within(writer.send(message)).await??)
    };
    for n in 0..3 {
        send(n).await?;
    }
    let at = bucket(name, 0);
    if !world.leave_offsets_empty(&at).await? {
        return Ok(());
    }
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let ended = async {
        loop {
            let end = admin.end_offsets(name, &[Bucket(0)]).await?[0].1;
            if end > Offset(3) {
                return Ok::<_, LogError>(end);
            }
            looks.tick().await;
        }
    };
    let end = within(ended).await??;
    let mut group = log.join(&member("o", "empty", "one"))?;
    let (mut seen, mut passed) = (BTreeMap::new(), None);
    while passed != Some(end) {
        match next(&mut group).await? {
            Event::Assigned(buckets) => begin(&*group, buckets, Offset(0)),
            Event::Revoked(buckets) => group.release(buckets),
            Event::Messages(batch) => note(&batch, &mut seen),
            Event::Passed(of, to) => {
                ensure!(of == at && to <= end, "{of} passed {to} of {end}");
                passed = Some(to);
            }
            Event::Failed(at, error) => return Err(Broken(format!("{at}: {error}"))),
            _ => {}
        }
    }
    ensure!(seen.len() == 3, "{seen:?}");
    let reader = log.reader();
    let mut feed = reader.follow(name, &[(Bucket(0), Offset(0))])?;
    let (mut followed, mut feed_end) = (0, Offset(0));
    while followed < 3 || feed_end != end {
        let news = within(feed.next()).await??;
        followed += news.messages.len();
        feed_end = news.ends.iter().fold(feed_end, |end, (_, to)| end.max(*to));
    }
    let ranges = reader.ranges(name)?;
    let read = ranges
        .read(vec![(Bucket(0), Offset(3), end)], WAIT_MAX)
        .await?;
    ensure!(read.iter().all(|batch| batch.is_empty()), "{read:?}");
    let behind = send(9).await?;
    ensure!(behind >= end, "{behind} was given out again");
    while !seen.contains_key(&(0, behind.0)) {
        match next(&mut group).await? {
            // A slow log may have given the member up meanwhile.
            Event::Assigned(buckets) => begin(&*group, buckets, Offset(0)),
            Event::Revoked(buckets) => group.release(buckets),
            Event::Messages(batch) => note(&batch, &mut seen),
            Event::Failed(at, error) => return Err(Broken(format!("{at}: {error}"))),
            _ => {}
        }
    }
    ensure!(seen.len() == 4, "{seen:?}");
    group.close().await;
    Ok(())
}

/// A topic that is deleted and made again is told to whoever owns buckets of it, and never taken for
/// the one before.
pub async fn topics_that_go_and_come_back_are_told(log: &dyn LogClient) -> Outcome {
    let (admin, name) = (log.admin(), "again.d.t");
    admin.create_topic(&spec(VISITED, 1)).await?;
    admin.create_topic(&spec(name, 2)).await?;
    let first = admin.describe(name).await?;
    let mut group = log.join(&member("d", "again", "one"))?;
    let mut told = BTreeSet::new();
    let mut made_again = None;
    loop {
        match next(&mut group).await? {
            Event::Assigned(buckets) => begin(&*group, buckets, Offset(0)),
            Event::Revoked(buckets) => group.release(buckets),
            Event::TopicChanged { info, .. } => {
                told.insert(info.map(|info| info.id));
                if made_again.is_none() {
                    ensure!(info == first, "at first: {info:?}, but it is {first:?}");
                    admin.delete_topic(name).await?;
                    within(make_again(&*admin, name)).await??;
                    made_again = admin.describe(name).await?;
                    ensure!(made_again != first, "made again: {made_again:?}");
                } else if info.is_some() && info == made_again {
                    break;
                }
            }
            _ => {}
        }
    }
    ensure!(told.len() >= 2, "{told:?}");
    group.close().await;
    Ok(())
}

/// A deletion may take a while to be through.
async fn make_again(admin: &dyn crate::LogAdmin, name: &str) -> Outcome {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    while !matches!(admin.describe(name).await, Ok(None)) {
        looks.tick().await;
    }
    admin.create_topic(&spec(name, 2)).await?;
    Ok(())
}

fn bucket(topic: &str, bucket: u32) -> TopicBucket {
    TopicBucket {
        topic: topic.into(),
        bucket: Bucket(bucket),
    }
}

fn begin(group: &dyn GroupLog, buckets: Vec<TopicBucket>, offset: Offset) {
    let starts = buckets.into_iter().map(|at| Start { at, offset });
    group.begin(starts.collect(), Vec::new());
}
