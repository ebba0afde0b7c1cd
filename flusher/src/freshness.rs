//! How far a bucket is behind its log: in records, and since when.
//!
//! ```text
//!   log    ──────────┬───────────────┬──────────────► end
//!              committed            next
//!   freshness: age of the oldest record from `committed` on: what no commit covers
//!   lag:       age of the oldest record from `next` on: what this flusher has not even read
//! ```
//! Where the record was read, its own timestamp counts. Where it was not (the bucket is stopped,
//! opening, paused, or its end is known and no more), the moment counts at which the log was first
//! seen to be longer. So both ages grow while a bucket stands still, whatever stopped it.
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
        ];
        let unread = match at.stands {
            true => [self.since(committed), self.doubtful_since],
            false => [self.since(read_to), None],
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
