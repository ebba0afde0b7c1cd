//! Offsets that no record batch takes: a lie, unless the topic is compacted.

use std::time::Duration;

use tidelake_core::{Bucket, Offset};
use tidelake_log::{Follower, LogError, TailReader};
use tidelake_testkit::WAIT_MAX;

use crate::batches::{batch, rebased, records};
use crate::damage::{World, all_by_group, by_group, world_of};

/// Records of the topic, and of each batch that is shown to clients.
const RECORDS: i64 = 20;
const EACH: i64 = 4;

type Answer = Vec<(i64, Vec<u8>)>;

/// A topic whose answers hold so many batches of [`EACH`] records at most, after `change`: the
/// first one holds the offset that was asked for.
async fn world(batches: usize, change: impl Fn(Answer) -> Answer + Send + 'static) -> World {
    world_without(None, batches, change).await
}

/// As [`world`], but one batch is missing.
async fn world_without(
    missing: Option<i64>,
    batches: usize,
    change: impl Fn(Answer) -> Answer + Send + 'static,
) -> World {
    let world = world_of(RECORDS).await;
    world.proxy.edit(move |answer| {
        let Some((base, _)) = answer.split_first_chunk::<8>() else {
            return Vec::new();
        };
        let first = i64::from_be_bytes(*base) / EACH;
        let there = (first..RECORDS / EACH).filter(|n| Some(n * EACH) != missing);
        let made = there.take(batches).map(|n| {
            let values: Vec<_> = (n * EACH..(n + 1) * EACH).map(|o| o.to_string()).collect();
            let packed = records(values.iter().map(String::as_bytes));
            (n * EACH, batch(n * EACH, EACH as i32, 0, &packed))
        });
        let answer = change(made.collect());
        answer.into_iter().flat_map(|(_, batch)| batch).collect()
    });
    world
}

/// The batch at an offset says another one.
fn says(at: i64, other: i64) -> impl Fn(Answer) -> Answer + Send + 'static {
    move |answer| {
        let lie = |(base, batch)| match base == at {
            true => (base, rebased(batch, other)),
            false => (base, batch),
        };
        answer.into_iter().map(lie).collect()
    }
}

/// Offsets that a follower sees, each with the value that belongs there, and why it ends before it
/// has seen the last one.
async fn followed(world: &World, from: i64) -> (Vec<i64>, Option<LogError>) {
    let from = [(Bucket(0), Offset(from))];
    let mut follower = Follower::start(&world.kafka, "t", &from).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&(RECORDS - 1)) {
        let news = tokio::time::timeout(WAIT_MAX, follower.next()).await;
        match news.expect("nothing comes") {
            Ok(news) => seen.extend(news.messages.iter().map(|message| {
                let offset = message.offset().0;
                let value = std::str::from_utf8(message.value().unwrap()).unwrap();
                assert_eq!(value, offset.to_string(), "a record of another offset");
                offset
            })),
            Err(error) => return (seen, Some(error)),
        }
    }
    (seen, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_batches_go_through_wherever_reading_begins() {
    for batches in [1, 3] {
        let world = world(batches, |answer| answer).await;
        for from in [0, 4, 6, 11] {
            let (seen, error) = followed(&world, from).await;
            assert!(error.is_none(), "{error:?}");
            assert!(seen.iter().copied().eq(from..RECORDS), "{seen:?}");
        }
        let reader = TailReader::open(&world.kafka, "t").unwrap();
        for (from, to) in [(2, 7), (7, 9), (5, 20)] {
            let wanted = vec![(Bucket(0), Offset(from), Offset(to))];
            let read = reader.read(wanted, WAIT_MAX).await.unwrap();
            let first = read.iter().flat_map(|batch| batch.iter()).next();
            assert_eq!(first.map(|message| message.offset().0), Some(from));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_says_it_is_elsewhere_below_the_end_stops_its_bucket() {
    // Alone in its answer, the first of several, the last of several.
    let lies = [
        (1, 8, 13),
        (1, 8, 6),
        (3, 8, 6),
        (3, 8, 0),
        (3, 8, 9),
        (2, 4, 6),
        (2, 4, 13),
    ];
    for (batches, at, other) in lies {
        let world = world(batches, says(at, other)).await;
        let case = format!("{batches} at a time, {at} says {other}");
        let (seen, error) = followed(&world, 0).await;
        let error = error.unwrap_or_else(|| panic!("{case}: {seen:?}"));
        assert!(matches!(error, LogError::Damaged { .. }), "{case}: {error}");
        assert!(
            seen.iter().copied().eq(0..seen.len() as i64),
            "{case}: {seen:?}"
        );
        assert!(seen.len() as i64 <= at, "{case}: {seen:?}");
        let (seen, error) = by_group(&world.kafka).await;
        assert!(matches!(error, LogError::Damaged { .. }), "{case}: {error}");
        assert!(seen.len() as i64 <= at, "{case}: {seen:?}");
        let reader = TailReader::open(&world.kafka, "t").unwrap();
        let all = vec![(Bucket(0), Offset(0), Offset(RECORDS))];
        let read = reader.read(all, WAIT_MAX).await;
        assert!(
            matches!(read, Err(LogError::Damaged { .. })),
            "{case}: {read:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_missing_stops_its_bucket_unless_the_topic_is_compacted() {
    for batches in [1, 3] {
        let world = world_without(Some(8), batches, |answer| answer).await;
        let (seen, error) = followed(&world, 0).await;
        assert!(matches!(error, Some(LogError::Damaged { .. })), "{seen:?}");
        let (seen, error) = by_group(&world.kafka).await;
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
        assert!(seen.len() <= 8, "{seen:?}");
        world.proxy.compacted(true);
        let (seen, error) = followed(&world, 0).await;
        assert!(error.is_none(), "{error:?}");
        assert!(
            seen.iter().copied().eq((0..8).chain(12..RECORDS)),
            "{seen:?}"
        );
        let seen = all_by_group(&world.kafka, RECORDS - 1).await;
        assert!(
            seen.iter().copied().eq((0..8).chain(12..RECORDS)),
            "{seen:?}"
        );
    }
}

/// Whoever reads says how long it may take, whatever has to be asked on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_nobody_explains_takes_no_longer_than_the_reader_has_time() {
    let world = world_without(Some(8), 3, |answer| answer).await;
    world.proxy.hold_settings();
    let reader = TailReader::open(&world.kafka, "t").unwrap();
    let all = vec![(Bucket(0), Offset(0), Offset(RECORDS))];
    let read = reader.read(all, Duration::from_secs(4));
    // The log's client itself would give up after ten seconds.
    let read = tokio::time::timeout(Duration::from_secs(8), read).await;
    let read = read.expect("an answer in the reader's time");
    assert!(
        matches!(read, Err(LogError::Unavailable { .. })),
        "{read:?}"
    );
}
