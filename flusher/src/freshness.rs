//! How far a bucket is behind its log: in records, and since when.
//!
//! ```text
//!   log    ──────────┬───────────────┬──────────────► end
//!              committed            next
//!   freshness: age of the oldest record from `committed` on: what no commit covers
//!   lag:       age of the oldest record from `next` on: what this flusher has not even read
//! ```
//! Where the record was read, its own timestamp counts, also where it was read for that alone (of a
//! bucket that stands). Where it was not (the bucket is opening, paused, or its end is known and no
//! more), the moment counts at which the log was first seen to be longer. So both ages grow while a
//! bucket stands still, whatever stopped it.
//!
//! Invariant: what is kept of a bucket is bounded ([`SIGHTS_MAX`]); thinning it out makes ages
//! larger, never smaller.

use std::collections::VecDeque;

use tidelake_core::Offset;
use tidelake_core::clock::UnixMillis;

/// Ends of a log that are remembered.
const SIGHTS_MAX: usize = 16;

/// What a bucket's positions are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Covered by a commit; none where the table's log can't be read, or can't be believed.
    pub committed: Option<Offset>,
    /// Read by this flusher.
    pub next: Option<Offset>,
    /// End of the log, as last seen.
    pub end: Option<Offset>,
    /// Timestamp of the oldest record that was read and is not committed.
    pub oldest_read_ms: Option<UnixMillis>,
    /// The bucket is stopped, or was never begun with.
    pub stands: bool,
}

/// What follows from them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Behind {
    pub freshness_ms: i64,
    pub lag_ms: i64,
    pub lag_records: i64,
}

impl Behind {
    /// Of several buckets: the oldest record of all, and all records.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            freshness_ms: self.freshness_ms.max(other.freshness_ms),
            lag_ms: self.lag_ms.max(other.lag_ms),
            lag_records: self.lag_records.saturating_add(other.lag_records),
        }
    }
}

/// A bucket's log as it was seen to grow.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Ends, and when each was first seen: both rise.
    sights: VecDeque<(Offset, UnixMillis)>,
    /// The record at this offset, and its timestamp, of a bucket that stands.
    oldest: Option<(Offset, UnixMillis)>,
    /// Since when the bucket stands with nothing known of what is covered.
    doubtful_since: Option<UnixMillis>,
}

impl Progress {
    /// Takes the positions in and says how far behind they are.
    pub(crate) fn note(&mut self, at: &Position, now_ms: UnixMillis) -> Behind {
        let committed = at.committed.unwrap_or_default();
        // A log that was cut back, or made again, has a history of its own.
        if let Some(end) = at.end
            && self.sights.back().is_some_and(|(seen, _)| end < *seen)
        {
            self.sights.clear();
        }
        if let Some(end) = at.end.filter(|end| *end > committed) {
            self.saw(end, now_ms);
        }
        while self
            .sights
            .front()
            .is_some_and(|(end, _)| *end <= committed)
        {
            self.sights.pop_front();
        }
        self.oldest = self.oldest.filter(|(offset, _)| *offset == committed);
        let oldest = self.oldest.filter(|_| at.stands).map(|(_, ms)| ms);
        let doubtful = at.committed.is_none() && at.end != Some(Offset(0));
        self.doubtful_since = match (doubtful, self.doubtful_since) {
            (true, None) => Some(now_ms),
            (true, since) => since,
            (false, _) => None,
        };
        let read_to = at.next.unwrap_or(committed).max(committed);
        let end = at.end.unwrap_or(read_to).max(read_to);
        let uncovered = [
            self.since(committed),
            at.oldest_read_ms,
            self.doubtful_since,
            oldest,
        ];
        let unread = match at.stands {
            true => [self.since(committed), self.doubtful_since, oldest],
            false => [self.since(read_to), None, None],
        };
        let age = |since: &[Option<UnixMillis>]| {
            let oldest = since.iter().flatten().min();
            oldest.map_or(0, |oldest| (now_ms - oldest).max(0))
        };
        Behind {
            freshness_ms: age(&uncovered),
            lag_ms: age(&unread),
            lag_records: (end.0 - committed.0).max(0),
        }
    }

    /// Which record has to be looked at, so that the bucket's age counts from it.
    pub(crate) fn wants(&self, at: &Position) -> Option<Offset> {
        let (committed, end) = (at.committed?, at.end?);
        let known = self.oldest.is_some_and(|(offset, _)| offset == committed);
        (at.stands && end > committed && !known).then_some(committed)
    }

    /// The timestamp of the first record from `offset` on.
    pub(crate) fn oldest(&mut self, offset: Offset, ms: UnixMillis) {
        self.oldest = Some((offset, ms));
    }

    /// When the log was first seen to hold a record at `position`.
    fn since(&self, position: Offset) -> Option<UnixMillis> {
        let longer = self.sights.iter().find(|(end, _)| *end > position);
        longer.map(|(_, seen_ms)| *seen_ms)
    }

    fn saw(&mut self, end: Offset, now_ms: UnixMillis) {
        if self.sights.back().is_some_and(|(seen, _)| *seen >= end) {
            return;
        }
        if self.sights.len() >= SIGHTS_MAX {
            // Every second sight joins the one before it: its records count as older than they are.
            let old = std::mem::take(&mut self.sights);
            let mut old = old.into_iter();
            while let Some((end, seen_ms)) = old.next() {
                let end = old.next().map_or(end, |(later, _)| later);
                self.sights.push_back((end, seen_ms));
            }
        }
        self.sights.push_back((end, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(committed: i64, next: i64, end: i64) -> Position {
        Position {
            committed: Some(Offset(committed)),
            next: Some(Offset(next)),
            end: Some(Offset(end)),
            ..Position::default()
        }
    }

    #[test]
    fn a_bucket_that_stands_still_grows_old_whatever_stopped_it() {
        let mut progress = Progress::default();
        assert_eq!(progress.note(&at(10, 10, 10), 1_000), Behind::default());
        let stands = Position {
            next: None,
            stands: true,
            ..at(10, 10, 15)
        };
        progress.note(&stands, 2_000);
        let behind = progress.note(&stands, 62_000);
        let expected = Behind {
            freshness_ms: 60_000,
            lag_ms: 60_000,
            lag_records: 5,
        };
        assert_eq!(behind, expected);
        assert_eq!(progress.note(&at(15, 15, 15), 63_000), Behind::default());
    }

    #[test]
    fn a_bucket_that_was_never_read_is_as_old_as_its_oldest_record() {
        let mut progress = Progress::default();
        let stands = Position {
            next: None,
            stands: true,
            ..at(10, 10, 15)
        };
        progress.note(&stands, 50_000);
        assert_eq!(progress.wants(&stands), Some(Offset(10)));
        progress.oldest(Offset(10), 20_000);
        assert_eq!(progress.wants(&stands), None);
        let behind = progress.note(&stands, 51_000);
        assert_eq!((behind.freshness_ms, behind.lag_ms), (31_000, 31_000));
        // What was committed since says nothing of the records behind it.
        let later = Position {
            next: None,
            stands: true,
            ..at(12, 12, 15)
        };
        assert_eq!(progress.note(&later, 52_000).freshness_ms, 2_000);
        assert_eq!(progress.wants(&later), Some(Offset(12)));
        assert_eq!(progress.wants(&at(12, 12, 15)), None, "it is read anyway");
    }

    #[test]
    fn freshness_counts_what_is_not_committed_and_lag_what_is_not_read() {
        let mut progress = Progress::default();
        let read = Position {
            oldest_read_ms: Some(400),
            ..at(10, 15, 15)
        };
        let behind = progress.note(&read, 1_000);
        assert_eq!((behind.freshness_ms, behind.lag_ms), (600, 0));
        assert_eq!(behind.lag_records, 5);
    }

    #[test]
    fn progress_makes_a_bucket_younger_but_not_fresh() {
        let mut progress = Progress::default();
        progress.note(&at(0, 0, 10), 1_000);
        progress.note(&at(0, 0, 20), 2_000);
        assert_eq!(progress.note(&at(5, 5, 20), 3_000).freshness_ms, 2_000);
        assert_eq!(progress.note(&at(10, 10, 20), 3_000).freshness_ms, 1_000);
    }

    #[test]
    fn a_watermark_that_is_not_known_or_not_believed_never_reads_zero() {
        let mut progress = Progress::default();
        let unknown = Position {
            stands: true,
            ..Position::default()
        };
        progress.note(&unknown, 1_000);
        let behind = progress.note(&unknown, 9_000);
        assert_eq!((behind.freshness_ms, behind.lag_ms), (8_000, 8_000));
        let empty = Position {
            end: Some(Offset(0)),
            ..unknown
        };
        assert_eq!(progress.note(&empty, 9_500), Behind::default());
    }

    #[test]
    fn a_log_that_was_cut_back_is_looked_at_anew() {
        let mut progress = Progress::default();
        progress.note(&at(0, 0, 100), 1_000);
        let behind = progress.note(&at(0, 0, 5), 2_000);
        assert_eq!((behind.freshness_ms, behind.lag_records), (0, 5));
    }

    proptest! {
        /// Against a model that remembers every record's arrival.
        #[test]
        fn ages_are_never_understated_and_memory_is_bounded(
            steps in prop::collection::vec((0i64..4, 0i64..4), 1..200),
        ) {
            let mut progress = Progress::default();
            let (mut arrivals, mut committed) = (Vec::new(), 0usize);
            for (now, (more, commit)) in steps.into_iter().enumerate() {
                let now = now as i64 * 1_000;
                arrivals.extend((0..more).map(|_| now));
                committed = arrivals.len().min(committed + commit as usize);
                let (mark, end) = (committed as i64, arrivals.len() as i64);
                let behind = progress.note(&at(mark, mark, end), now);
                let age = arrivals.get(committed).map_or(0, |arrived| now - arrived);
                prop_assert!(behind.freshness_ms >= age);
                prop_assert_eq!(behind.lag_records, end - mark);
                prop_assert!(progress.sights.len() <= SIGHTS_MAX);
                if mark == end {
                    prop_assert_eq!(behind.freshness_ms, 0);
                }
            }
        }
    }
}
