//! How far the readers of a process lag behind what it acknowledges, and how much slower writers
//! go for it.
//!
//! ```text
//!  writer ── wrote(topic, bucket, end) ──► a mark for each reader of the topic
//!  reader ── reached(bucket, offset) ────► marks up to it are gone
//!         ── filled(share)
//!  writer ◄─ wait(took, lag_max) ───────── by the oldest mark that is left, of all readers
//! ```
//! Owns numbers only: who reads and who writes tells what happened, and the writer lets the time
//! pass by itself. Time is taken when a write is acknowledged, so what producers stamp on records
//! does not count, and what others write to the log slows nobody.
//!
//! Invariants:
//! - a topic that nobody reads slows nobody;
//! - a bucket whose reader stands still for [`STALLED_AFTER`] does not count until it moves again, a
//!   reader that was dropped not at all;
//! - a wait is at most twice the lag that is allowed;
//! - of each reader and bucket at most [`MARKS_MAX`] marks are kept, [`MARKS_APART`] apart.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidelake_core::{Bucket, Offset};

use crate::moment;

/// A bucket whose reader did not move for so long is not waited for.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// What is written within this time of a mark has none of its own.
const MARKS_APART: Duration = Duration::from_millis(10);
/// Beyond it the oldest marks stay and newer ones are left out: only the oldest tells the lag.
const MARKS_MAX: usize = 1024;
/// So many times its own duration a write waits where the lag is what is allowed.
const SLOWER_MAX: f64 = 4.0;
/// Share of a reader's memory up to which writers need not slow down.
const FILLED_FREE: f64 = 0.5;

/// The meeting place of a process's writers and readers. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    readers: Arc<Mutex<Readers>>,
}

#[derive(Debug, Default)]
struct Readers {
    next: u64,
    by_number: BTreeMap<u64, Reader>,
}

#[derive(Debug)]
struct Reader {
    topic: Arc<str>,
    buckets: BTreeMap<Bucket, Marks>,
    /// Of the memory that it may use.
    filled: f64,
}

#[derive(Debug, Default)]
struct Marks {
    reached: Offset,
    /// When it last went further.
    moved: Option<Instant>,
    /// The offset after what was written, and when it was acknowledged: both rise.
    unread: VecDeque<(Offset, Instant)>,
}

/// What a reader reports by; dropped, it is not waited for any more.
#[derive(Debug)]
pub struct PacedReader {
    pace: Pace,
    number: u64,
}

impl Pace {
    /// A reader of a topic. What was written before is nobody's lag.
    pub fn follow(&self, topic: &str) -> PacedReader {
        let mut readers = self.readers.lock();
        let number = readers.next;
        readers.next += 1;
        let reader = Reader {
            topic: Arc::from(topic),
            buckets: BTreeMap::new(),
            filled: 0.0,
        };
        readers.by_number.insert(number, reader);
        PacedReader {
            pace: self.clone(),
            number,
        }
    }

    /// The log has acknowledged everything before `end`.
    pub fn wrote(&self, topic: &str, bucket: Bucket, end: Offset) {
        self.wrote_at(topic, bucket, end, moment::now());
    }

    /// How long a write that took so long should wait before it is acknowledged: nothing up to half
    /// of `lag_max`, at `lag_max` four times what it took. 0 as `lag_max`: never.
    pub fn wait(&self, took: Duration, lag_max: Duration) -> Duration {
        self.wait_at(took, lag_max, moment::now())
    }

    /// For how long what the slowest reader has not read yet is acknowledged.
    pub fn lag(&self) -> Duration {
        self.readers.lock().lag(moment::now())
    }

    fn wrote_at(&self, topic: &str, bucket: Bucket, end: Offset, now: Instant) {
        let mut readers = self.readers.lock();
        for reader in readers.by_number.values_mut() {
            if reader.topic.as_ref() == topic {
                reader.buckets.entry(bucket).or_default().wrote(end, now);
            }
        }
    }

    fn wait_at(&self, took: Duration, lag_max: Duration, now: Instant) -> Duration {
        if lag_max.is_zero() {
            return Duration::ZERO;
        }
        let (lag, filled) = {
            let readers = self.readers.lock();
            (readers.lag(now), readers.filled(now))
        };
        let half = lag_max / 2;
        let behind = lag.saturating_sub(half).as_secs_f64() / half.as_secs_f64();
        let full = (filled - FILLED_FREE) / (1.0 - FILLED_FREE);
        let slower = SLOWER_MAX * behind.max(full).max(0.0);
        let wait_max = 2 * lag_max;
        let wait = (took.as_secs_f64() * slower).min(wait_max.as_secs_f64());
        // A short write has to wait too once the lag is too long.
        let least = lag.saturating_sub(lag_max).min(wait_max);
        Duration::from_secs_f64(wait).max(least)
    }
}

impl Readers {
    fn lag(&self, now: Instant) -> Duration {
        let going = self.going(now).filter_map(|reader| reader.oldest(now));
        going
            .map(|oldest| now.saturating_duration_since(oldest))
            .max()
            .unwrap_or_default()
    }

    fn filled(&self, now: Instant) -> f64 {
        self.going(now)
            .map(|reader| reader.filled)
            .fold(0.0, f64::max)
    }

    fn going(&self, now: Instant) -> impl Iterator<Item = &Reader> {
        let readers = self.by_number.values();
        readers.filter(move |reader| !reader.is_stalled(now))
    }
}

impl Reader {
    /// When the oldest of what it has not read was acknowledged, of buckets that go on.
    fn oldest(&self, now: Instant) -> Option<Instant> {
        let going = self.buckets.values().filter(|marks| !marks.is_stalled(now));
        going
            .filter_map(|marks| Some(marks.unread.front()?.1))
            .min()
    }

    /// True where something is unread, and none of it goes on.
    fn is_stalled(&self, now: Instant) -> bool {
        let mut unread = self
            .buckets
            .values()
            .filter(|marks| !marks.unread.is_empty());
        let first = unread.next().map(|marks| marks.is_stalled(now));
        first.unwrap_or(false) && unread.all(|marks| marks.is_stalled(now))
    }
}

impl Marks {
    /// A log that stands at an open transaction is not read further, however long it is waited for.
    fn is_stalled(&self, now: Instant) -> bool {
        self.unread.front().is_some_and(|(_, at)| {
            let since = self.moved.map_or(*at, |moved| moved.max(*at));
            now.saturating_duration_since(since) > STALLED_AFTER
        })
    }

    fn wrote(&mut self, end: Offset, now: Instant) {
        if end <= self.reached || self.unread.len() >= MARKS_MAX {
            return;
        }
        let is_new = self.unread.back().is_none_or(|(last, at)| {
            *last < end && now.saturating_duration_since(*at) >= MARKS_APART
        });
        if is_new {
            self.unread.push_back((end, now));
        }
    }

    fn reached(&mut self, offset: Offset, now: Instant) {
        if offset > self.reached {
            self.moved = Some(now);
        }
        self.reached = self.reached.max(offset);
        while self.unread.front().is_some_and(|(end, _)| *end <= offset) {
            self.unread.pop_front();
        }
    }
}

impl PacedReader {
    /// Everything before these offsets was read.
    pub fn reached(&self, offsets: impl IntoIterator<Item = (Bucket, Offset)>) {
        self.reached_at(offsets, moment::now());
    }

    /// The share of the memory it may use that is in use; 1 where nothing more fits.
    pub fn filled(&self, share: f64) {
        let mut readers = self.pace.readers.lock();
        if let Some(reader) = readers.by_number.get_mut(&self.number) {
            reader.filled = share;
        }
    }

    fn reached_at(&self, offsets: impl IntoIterator<Item = (Bucket, Offset)>, now: Instant) {
        let mut readers = self.pace.readers.lock();
        let Some(reader) = readers.by_number.get_mut(&self.number) else {
            return;
        };
        for (bucket, offset) in offsets {
            let marks = reader.buckets.entry(bucket).or_default();
            marks.reached(offset, now);
        }
    }
}

impl Drop for PacedReader {
    fn drop(&mut self) {
        self.pace.readers.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG_MAX: Duration = Duration::from_millis(500);
    const TOOK: Duration = Duration::from_millis(100);
    const B0: Bucket = Bucket(0);

    fn after(begun: Instant, ms: u64) -> Instant {
        begun + Duration::from_millis(ms)
    }

    fn ms(wait: Duration) -> u64 {
        wait.as_millis() as u64
    }

    #[test]
    fn writers_wait_in_proportion_to_the_slowest_reader() {
        let (pace, begun) = (Pace::default(), moment::now());
        let (quick, slow) = (pace.follow("t"), pace.follow("t"));
        let wait = |at| ms(pace.wait_at(TOOK, LAG_MAX, after(begun, at)));
        pace.wrote_at("t", B0, Offset(10), begun);
        quick.reached_at([(B0, Offset(10))], begun);
        slow.reached_at([(B0, Offset(9))], begun);
        assert_eq!([wait(0), wait(250)], [0, 0]);
        assert_eq!(wait(300), 80);
        assert_eq!(wait(500), 400);
        assert_eq!(wait(1000), 1000, "never more than twice the lag");
        assert_eq!(wait(2900), 1000);
        slow.reached_at([(B0, Offset(10))], after(begun, 2900));
        assert_eq!(wait(2900), 0);
    }

    #[test]
    fn a_short_write_waits_once_the_lag_is_too_long() {
        let (pace, begun) = (Pace::default(), moment::now());
        let _reader = pace.follow("t");
        pace.wrote_at("t", B0, Offset(1), begun);
        let took = Duration::from_micros(100);
        let wait = |at| ms(pace.wait_at(took, LAG_MAX, after(begun, at)));
        assert_eq!([wait(500), wait(700), wait(2000)], [0, 200, 1000]);
        assert_eq!(ms(pace.wait_at(TOOK, Duration::ZERO, after(begun, 900))), 0);
    }

    #[test]
    fn nobody_waits_for_topics_without_readers_or_for_readers_that_stand_still() {
        let (pace, begun) = (Pace::default(), moment::now());
        let wait = |at| ms(pace.wait_at(TOOK, LAG_MAX, after(begun, at)));
        pace.wrote_at("t", B0, Offset(1), begun);
        let other = pace.follow("other");
        pace.wrote_at("t", B0, Offset(2), begun);
        assert_eq!(wait(2000), 0);
        pace.wrote_at("other", B0, Offset(2), begun);
        assert_eq!(wait(2000), 1000);
        assert_eq!(wait(60_000), 0, "it stands still");
        other.reached_at([(B0, Offset(1))], after(begun, 59_000));
        assert_eq!(wait(60_000), 1000, "it moves, however far it is behind");
        drop(other);
        assert_eq!(wait(60_000), 0);
    }

    #[test]
    fn a_reader_that_was_idle_is_waited_for_at_once() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = pace.follow("t");
        reader.reached_at([(B0, Offset(1))], begun);
        pace.wrote_at("t", B0, Offset(2), after(begun, 60_000));
        let wait = pace.wait_at(TOOK, LAG_MAX, after(begun, 60_500));
        assert_eq!(ms(wait), 400);
    }

    #[test]
    fn a_bucket_that_stands_still_is_not_waited_for_while_others_go_on() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = pace.follow("t");
        pace.wrote_at("t", B0, Offset(1), begun);
        for n in 1..100 {
            let at = after(begun, n * 100);
            pace.wrote_at("t", Bucket(1), Offset(n as i64), at);
            reader.reached_at([(Bucket(1), Offset(n as i64))], at);
            let wait = pace.wait_at(TOOK, LAG_MAX, at);
            assert_eq!(wait.is_zero(), n * 100 <= 250 || n * 100 > 3_000, "{n}");
        }
        reader.reached_at([(B0, Offset(1))], after(begun, 10_000));
        assert_eq!(ms(pace.wait_at(TOOK, LAG_MAX, after(begun, 10_001))), 0);
    }

    #[test]
    fn writers_slow_down_before_a_reader_has_no_room_left() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = pace.follow("t");
        for (share, wanted) in [(0.2, 0), (0.5, 0), (0.75, 200), (1.0, 400)] {
            reader.filled(share);
            assert_eq!(ms(pace.wait_at(TOOK, LAG_MAX, begun)), wanted, "{share}");
        }
    }

    #[test]
    fn marks_are_few_and_the_oldest_stays() {
        let (pace, begun) = (Pace::default(), moment::now());
        let _reader = pace.follow("t");
        for n in 0..5_000u64 {
            pace.wrote_at("t", B0, Offset(n as i64 + 1), after(begun, n * 3));
        }
        let marks = |pace: &Pace| pace.readers.lock().by_number[&0].buckets[&B0].unread.len();
        assert_eq!(marks(&pace), MARKS_MAX);
        let lag = pace.readers.lock().by_number[&0].oldest(begun);
        assert_eq!(lag, Some(begun));
        let (pace, close) = (Pace::default(), moment::now());
        let _reader = pace.follow("t");
        for n in 0..1_000u64 {
            let at = close + Duration::from_micros(n * 100);
            pace.wrote_at("t", B0, Offset(n as i64 + 1), at);
        }
        assert_eq!(marks(&pace), 10);
    }
}
