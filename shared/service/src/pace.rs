//! How far the readers of a process lag behind what it acknowledges, and how much slower writers
//! go for it.
//!
//! ```text
//!  writer ── hold(lag_max)? ─────────────► by the slowest reader: what it has not read, at its rate
//!         ── writing(topic, bytes) ──────► on its way
//!         ── wrote(bucket, end) ─────────► a mark for each reader of the topic
//!  reader ── reached(bucket, offset) ────► marks up to it are gone, and tell its rate
//!         ── filled(share)
//!  writer ◄─ wait(took, lag_max) ───────── by the fullest reader
//! ```
//! Owns numbers only: who reads and who writes tells what happened, and the writer lets the time
//! pass by itself. Time is taken when a write is acknowledged, so what producers stamp on records
//! does not count, and what others write to the log slows nobody.
//!
//! Invariants:
//! - a topic that nobody reads slows nobody;
//! - a bucket whose reader stands still for [`STALLED_AFTER`] does not count until it moves again, a
//!   reader that was dropped not at all;
//! - of each reader and bucket at most [`MARKS_MAX`] marks are kept, [`MARKS_APART`] apart, and
//!   their bytes are all that was written and not read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidelake_core::{Bucket, Offset};

use crate::moment;

/// A bucket whose reader did not move for so long is not waited for.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// What is written within this time of a mark is the mark's.
const MARKS_APART: Duration = Duration::from_millis(10);
/// Beyond it the last mark takes in what is written.
const MARKS_MAX: usize = 1024;
/// So many times its own duration a write waits where a reader has no memory left.
const SLOWER_MAX: f64 = 4.0;
/// Share of a reader's memory up to which writers need not slow down.
const FILLED_FREE: f64 = 0.5;
/// Writers go on while what is unread takes this part of the lag that is allowed: a reader has to
/// have something to read all the time, and a lookup waits for all that stands before it.
const UNREAD_SHARE: u32 = 10;
/// How fast a reader is counts for about so long: a flush beside it slows it down at once.
const RATE_MEMORY: Duration = Duration::from_millis(300);
/// Between two looks of a writer that is held.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));

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
    /// Bytes that are on their way into the log.
    coming: usize,
    rate: Rate,
    /// Of the memory that it may use.
    filled: f64,
}

#[derive(Debug, Default)]
struct Marks {
    reached: Offset,
    /// When it last went further.
    moved: Option<Instant>,
    /// Both their ends and their times rise.
    unread: VecDeque<Mark>,
    /// Of all of them.
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The offset after what was written.
    end: Offset,
    /// When the first of it was acknowledged.
    at: Instant,
    bytes: usize,
}

/// How fast a reader reads while it has something to read.
#[derive(Debug, Default)]
struct Rate {
    bytes_per_second: Option<f64>,
    /// Since when it reads what it will have read next.
    since: Option<Instant>,
}

/// What a reader reports by; dropped, it is not waited for any more.
#[derive(Debug)]
pub struct PacedReader {
    pace: Pace,
    number: u64,
}

/// Bytes on their way into a topic, until they are acknowledged or this is dropped.
#[derive(Debug)]
pub struct Writing {
    pace: Pace,
    topic: Arc<str>,
    bytes: usize,
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
            coming: 0,
            rate: Rate::default(),
            filled: 0.0,
        };
        readers.by_number.insert(number, reader);
        PacedReader {
            pace: self.clone(),
            number,
        }
    }

    /// So many bytes are about to be written.
    pub fn writing(&self, topic: &Arc<str>, bytes: usize) -> Writing {
        self.readers.lock().of(topic, |reader| {
            reader.coming += bytes;
        });
        Writing {
            pace: self.clone(),
            topic: Arc::clone(topic),
            bytes,
        }
    }

    /// How long a writer should wait until it asks again, before it writes more: `None` where the
    /// slowest reader will have read all there is within a tenth of `lag_max`. 0 as `lag_max`:
    /// never.
    pub fn hold(&self, lag_max: Duration) -> Option<Duration> {
        self.hold_at(lag_max, moment::now())
    }

    /// How long a write that took so long should wait before it is acknowledged, for readers whose
    /// memory is more than half full: up to four times what it took, at most twice `lag_max`.
    pub fn wait(&self, took: Duration, lag_max: Duration) -> Duration {
        let filled = self.readers.lock().filled(moment::now());
        let full = (filled - FILLED_FREE) / (1.0 - FILLED_FREE);
        let wait = took.as_secs_f64() * SLOWER_MAX * full.max(0.0);
        Duration::from_secs_f64(wait.min((2 * lag_max).as_secs_f64()))
    }

    /// For how long what the slowest reader has not read yet is acknowledged.
    pub fn lag(&self) -> Duration {
        self.readers.lock().lag(moment::now())
    }

    fn hold_at(&self, lag_max: Duration, now: Instant) -> Option<Duration> {
        if lag_max.is_zero() {
            return None;
        }
        let (lag, ahead) = {
            let readers = self.readers.lock();
            (readers.lag(now), readers.ahead(now))
        };
        let free = lag_max / UNREAD_SHARE;
        // A reader that is at something long tells no rate meanwhile.
        let late = lag.saturating_sub(lag_max / 2);
        let over = ahead.saturating_sub(free).max(late);
        (!over.is_zero()).then(|| over.clamp(LOOK.0, LOOK.1))
    }
}

impl Readers {
    fn of(&mut self, topic: &str, mut each: impl FnMut(&mut Reader)) {
        let readers = self.by_number.values_mut();
        readers
            .filter(|reader| reader.topic.as_ref() == topic)
            .for_each(&mut each);
    }

    fn lag(&self, now: Instant) -> Duration {
        let going = self.going(now).filter_map(|reader| reader.oldest(now));
        going
            .map(|oldest| now.saturating_duration_since(oldest))
            .max()
            .unwrap_or_default()
    }

    /// The longest that any reader needs for what it has not read.
    fn ahead(&self, now: Instant) -> Duration {
        let times = self.going(now).filter_map(|reader| reader.ahead(now));
        times.max().unwrap_or_default()
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
            .filter_map(|marks| Some(marks.unread.front()?.at))
            .min()
    }

    /// Bytes that were written and not read, of buckets that go on.
    fn unread(&self, now: Instant) -> usize {
        let going = self.buckets.values().filter(|marks| !marks.is_stalled(now));
        going.map(|marks| marks.bytes).sum()
    }

    /// How long it needs for what it has not read, where its rate is known.
    fn ahead(&self, now: Instant) -> Option<Duration> {
        let bytes = (self.unread(now) + self.coming) as f64;
        let seconds = bytes / self.rate.bytes_per_second?;
        Duration::try_from_secs_f64(seconds).ok()
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

    fn wrote(&mut self, bucket: Bucket, mark: Mark) {
        let was_idle = self.unread(mark.at) == 0;
        let kept = self.buckets.entry(bucket).or_default().wrote(mark);
        if kept && was_idle {
            self.rate.since = Some(mark.at);
        }
    }

    fn reached(&mut self, offsets: impl IntoIterator<Item = (Bucket, Offset)>, now: Instant) {
        let mut read = 0;
        for (bucket, offset) in offsets {
            let marks = self.buckets.entry(bucket).or_default();
            read += marks.reached(offset, now);
        }
        self.rate.read(read, self.unread(now) > 0, now);
    }
}

impl Rate {
    fn read(&mut self, bytes: usize, is_more: bool, now: Instant) {
        if bytes > 0 {
            let since = self.since.unwrap_or(now);
            let time = now.saturating_duration_since(since).as_secs_f64();
            // What was read before its acknowledgement was heard of took no time of its own.
            let time = time.max(LOOK.0.as_secs_f64());
            let this = bytes as f64 / time;
            let weight = 1.0 - (-time / RATE_MEMORY.as_secs_f64()).exp();
            let before = self.bytes_per_second.unwrap_or(this);
            self.bytes_per_second = Some(before + weight * (this - before));
            self.since = Some(now);
        }
        if !is_more {
            self.since = None;
        }
    }
}

impl Marks {
    /// A log that stands at an open transaction is not read further, however long it is waited for.
    fn is_stalled(&self, now: Instant) -> bool {
        self.unread.front().is_some_and(|mark| {
            let since = self.moved.map_or(mark.at, |moved| moved.max(mark.at));
            now.saturating_duration_since(since) > STALLED_AFTER
        })
    }

    /// False where it was read before.
    fn wrote(&mut self, mark: Mark) -> bool {
        if mark.end <= self.reached {
            return false;
        }
        let is_full = self.unread.len() >= MARKS_MAX;
        match self.unread.back_mut() {
            Some(last) if is_full || mark.at.saturating_duration_since(last.at) < MARKS_APART => {
                last.end = last.end.max(mark.end);
                last.bytes += mark.bytes;
            }
            _ => self.unread.push_back(mark),
        }
        self.bytes += mark.bytes;
        true
    }

    /// The bytes that are read now.
    fn reached(&mut self, offset: Offset, now: Instant) -> usize {
        if offset > self.reached {
            self.moved = Some(now);
        }
        self.reached = self.reached.max(offset);
        let mut read = 0;
        while let Some(mark) = self.unread.front().filter(|mark| mark.end <= offset) {
            read += mark.bytes;
            self.unread.pop_front();
        }
        self.bytes -= read;
        read
    }
}

impl Writing {
    /// The log has acknowledged them: everything before `end` is in it.
    pub fn wrote(self, bucket: Bucket, end: Offset) {
        self.wrote_at(bucket, end, moment::now());
    }

    fn wrote_at(self, bucket: Bucket, end: Offset, at: Instant) {
        let bytes = self.bytes;
        let mark = Mark { end, at, bytes };
        let mut readers = self.pace.readers.lock();
        readers.of(&self.topic, |reader| reader.wrote(bucket, mark));
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let bytes = self.bytes;
        // A reader that came meanwhile did not count them.
        self.pace.readers.lock().of(&self.topic, |reader| {
            reader.coming = reader.coming.saturating_sub(bytes);
        });
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
        if let Some(reader) = readers.by_number.get_mut(&self.number) {
            reader.reached(offsets, now);
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

    /// As a writer whose bytes the log has at once.
    fn write(pace: &Pace, topic: &str, (bucket, end): (Bucket, i64), bytes: usize, at: Instant) {
        let writing = pace.writing(&Arc::from(topic), bytes);
        writing.wrote_at(bucket, Offset(end), at);
    }

    fn is_held(pace: &Pace, at: Instant) -> bool {
        pace.hold_at(LAG_MAX, at).is_some()
    }

    /// A reader that needed 100 ms for 1,000 bytes up to offset 1.
    fn reader(pace: &Pace, topic: &str, begun: Instant) -> PacedReader {
        let reader = pace.follow(topic);
        write(pace, topic, (B0, 1), 1_000, begun);
        reader.reached_at([(B0, Offset(1))], after(begun, 100));
        reader
    }

    #[test]
    fn writers_go_on_while_the_slowest_reader_has_little_left() {
        let (pace, begun) = (Pace::default(), moment::now());
        let quick = reader(&pace, "t", begun);
        let slow = reader(&pace, "t", begun);
        let at = after(begun, 200);
        // A tenth of what is allowed is 50 ms, or 500 bytes.
        write(&pace, "t", (B0, 2), 400, at);
        assert!(!is_held(&pace, at));
        write(&pace, "t", (B0, 3), 200, after(begun, 220));
        quick.reached_at([(B0, Offset(3))], after(begun, 221));
        assert!(is_held(&pace, after(begun, 221)));
        assert!(pace.hold_at(Duration::ZERO, after(begun, 221)).is_none());
        slow.reached_at([(B0, Offset(2))], after(begun, 240));
        assert!(!is_held(&pace, after(begun, 240)));
    }

    #[test]
    fn bytes_on_their_way_count_until_they_are_there_or_given_up() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = reader(&pace, "t", begun);
        let now = after(begun, 100);
        let other = pace.writing(&Arc::from("other"), 10_000);
        assert!(!is_held(&pace, now));
        let given_up = pace.writing(&Arc::from("t"), 10_000);
        assert!(is_held(&pace, now));
        drop((given_up, other));
        assert!(!is_held(&pace, now));
        let writing = pace.writing(&Arc::from("t"), 10_000);
        // Read before the writer heard of it.
        reader.reached_at([(B0, Offset(2))], now);
        assert!(is_held(&pace, now));
        writing.wrote_at(B0, Offset(2), now);
        assert!(!is_held(&pace, now));
    }

    #[test]
    fn a_reader_that_becomes_slower_or_quicker_is_believed_soon() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = reader(&pace, "t", begun);
        let rate = || {
            let readers = pace.readers.lock();
            readers.by_number[&0].rate.bytes_per_second.unwrap() as u64
        };
        assert_eq!(rate(), 10_000);
        let mut at = begun;
        for n in 2..12 {
            at = after(begun, n * 200);
            write(&pace, "t", (B0, n as i64), 100, at);
            at = after(at, 100);
            reader.reached_at([(B0, Offset(n as i64))], at);
        }
        assert!((1_000..1_500).contains(&rate()), "{}", rate());
        for n in 12..22 {
            let at = after(at, n * 200);
            write(&pace, "t", (B0, n as i64), 1_000, at);
            reader.reached_at([(B0, Offset(n as i64))], after(at, 100));
        }
        assert!((9_000..=10_000).contains(&rate()), "{}", rate());
    }

    #[test]
    fn a_reader_that_tells_nothing_is_late_by_its_oldest_mark() {
        let (pace, begun) = (Pace::default(), moment::now());
        let _reader = pace.follow("t");
        write(&pace, "t", (B0, 1), 1, begun);
        let held = |at| is_held(&pace, after(begun, at));
        assert_eq!([held(250), held(251), held(3000)], [false, true, true]);
        assert!(!held(3001), "it stands still");
    }

    #[test]
    fn nobody_waits_for_topics_without_readers_or_for_readers_that_stand_still() {
        let (pace, begun) = (Pace::default(), moment::now());
        write(&pace, "t", (B0, 1), 1, begun);
        let other = pace.follow("other");
        write(&pace, "t", (B0, 2), 1, begun);
        assert!(!is_held(&pace, after(begun, 2000)));
        write(&pace, "other", (B0, 2), 1, begun);
        assert!(is_held(&pace, after(begun, 2000)));
        assert!(!is_held(&pace, after(begun, 60_000)), "it stands still");
        other.reached_at([(B0, Offset(1))], after(begun, 59_000));
        assert!(is_held(&pace, after(begun, 60_000)), "it moves");
        drop(other);
        assert!(!is_held(&pace, after(begun, 60_000)));
    }

    #[test]
    fn a_reader_that_was_idle_is_waited_for_at_once() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = reader(&pace, "t", begun);
        write(&pace, "t", (B0, 2), 1_000, after(begun, 60_000));
        assert!(is_held(&pace, after(begun, 60_000)));
        reader.reached_at([(B0, Offset(2))], after(begun, 60_100));
        let rate = pace.readers.lock().by_number[&0].rate.bytes_per_second;
        assert_eq!(
            rate.unwrap() as u64,
            10_000,
            "the time between is no reading"
        );
    }

    #[test]
    fn a_bucket_that_stands_still_is_not_waited_for_while_others_go_on() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = pace.follow("t");
        write(&pace, "t", (B0, 1), 1_000, begun);
        for n in 1..100 {
            let at = after(begun, n * 100);
            write(&pace, "t", (Bucket(1), n as i64), 100, at);
            reader.reached_at([(Bucket(1), Offset(n as i64))], at);
            assert_eq!(is_held(&pace, at), n * 100 <= 3_000, "{n}");
        }
        reader.reached_at([(B0, Offset(1))], after(begun, 10_000));
        assert!(!is_held(&pace, after(begun, 10_001)));
    }

    #[test]
    fn writers_slow_down_before_a_reader_has_no_room_left() {
        let pace = Pace::default();
        let reader = pace.follow("t");
        for (share, wanted) in [(0.2, 0), (0.5, 0), (0.75, 200), (1.0, 400)] {
            reader.filled(share);
            assert_eq!(ms(pace.wait(TOOK, LAG_MAX)), wanted, "{share}");
        }
        let long = Duration::from_secs(60);
        assert_eq!(ms(pace.wait(long, LAG_MAX)), 1000, "twice what is allowed");
    }

    #[test]
    fn marks_are_few_and_the_oldest_stays() {
        let (pace, begun) = (Pace::default(), moment::now());
        let reader = pace.follow("t");
        for n in 0..5_000u64 {
            write(&pace, "t", (B0, n as i64 + 1), 1, after(begun, n * 20));
        }
        let marks = |pace: &Pace| pace.readers.lock().by_number[&0].buckets[&B0].unread.len();
        assert_eq!(marks(&pace), MARKS_MAX);
        let unread = |pace: &Pace| pace.readers.lock().by_number[&0].buckets[&B0].bytes;
        assert_eq!(unread(&pace), 5_000);
        let lag = pace.readers.lock().by_number[&0].oldest(begun);
        assert_eq!(lag, Some(begun));
        reader.reached_at([(B0, Offset(5_000))], after(begun, 100_000));
        assert_eq!((marks(&pace), unread(&pace)), (0, 0));
        let (pace, close) = (Pace::default(), moment::now());
        let _reader = pace.follow("t");
        for n in 0..1_000u64 {
            let at = close + Duration::from_micros(n * 100);
            write(&pace, "t", (B0, n as i64 + 1), 1, at);
        }
        assert_eq!((marks(&pace), unread(&pace)), (10, 1_000));
    }
}
