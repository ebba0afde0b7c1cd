//! How long what was known of a log may be built on without looking again.
//!
//! "Create if absent" only fences while the log is whole: below a cleaned log every number is free
//! again. No engine cleans commits that are younger than the table's log retention (30 days where
//! the table does not say otherwise). So if version v was the latest at a time t, then for as long
//! as that after t whoever creates v + 1 creates it above the cleaned end. Trust is far shorter
//! than the retention, and short in itself: another engine may shorten the retention and clean what it
//! wrote since, and nobody tells. A writer or reader that slept longer (suspended, idle, or its clock jumped)
//! proves its base again: the commit of v must still be there, byte for byte, since below a cleaned
//! log another writer that slept as long may have put one of its own in that place.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tidelake_core::clock::UnixMillis;

use crate::action::Metadata;

/// Trust where the table's log is kept for two hours or more: the longest time for which a log that
/// somebody removed is written to. Costs one request each time.
const TRUST_MAX: Duration = Duration::from_secs(300);
/// The share of the log retention that is trusted: clocks differ, and cleaning rounds.
const RETENTION_SHARE: u32 = 24;
const LOG_RETENTION: &str = "delta.logRetentionDuration";
const TOMBSTONE_RETENTION: &str = "delta.deletedFileRetentionDuration";
/// Tombstones are kept this long, where the table does not say otherwise: Delta's default.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// When a version was last known to be the latest, and to be there: our clock's times, read before
/// asking. Clones share them, so that a proof made again serves everyone who holds the snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Proof(Arc<Times>);

#[derive(Debug)]
struct Times {
    /// Nothing followed it.
    latest_ms: AtomicI64,
    /// Its commit, or one that it was built on, was read. Whoever looks for the next number, or
    /// takes it, does not see that the log behind is gone.
    seen_ms: AtomicI64,
}

impl Proof {
    pub(crate) fn at(ms: UnixMillis) -> Self {
        Self(Arc::new(Times {
            latest_ms: AtomicI64::new(ms),
            seen_ms: AtomicI64::new(ms),
        }))
    }

    /// The proof of what was written at `ms` on top of what `base` proves.
    pub(crate) fn written_at(ms: UnixMillis, base: &Self) -> Self {
        let proof = Self::at(ms);
        let seen_ms = base.0.seen_ms.load(Ordering::Relaxed);
        proof.0.seen_ms.store(seen_ms, Ordering::Relaxed);
        proof
    }

    /// Nothing followed the version at `ms` either.
    pub(crate) fn renew(&self, ms: UnixMillis) {
        self.0.latest_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// The version's commit was there at `ms`.
    pub(crate) fn saw(&self, ms: UnixMillis) {
        self.0.seen_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// True where a log with these properties can be built on at `now_ms` without looking.
    pub(crate) fn holds(&self, metadata: &Metadata, now_ms: UnixMillis) -> bool {
        let trust_ms = i64::try_from(trust(metadata).as_millis()).unwrap_or(i64::MAX);
        // A clock that went back proves nothing.
        [&self.0.latest_ms, &self.0.seen_ms]
            .iter()
            .all(|at| (0..trust_ms).contains(&now_ms.saturating_sub(at.load(Ordering::Relaxed))))
    }
}

fn trust(metadata: &Metadata) -> Duration {
    match metadata.configuration.get(LOG_RETENTION) {
        None => TRUST_MAX,
        // What can't be understood may be short.
        Some(text) => parse_interval(text)
            .map_or(Duration::ZERO, |kept| TRUST_MAX.min(kept / RETENTION_SHARE)),
    }
}

/// How long tombstones are kept.
pub(crate) fn tombstones_kept_ms(metadata: &Metadata) -> i64 {
    let set = metadata.configuration.get(TOMBSTONE_RETENTION);
    let kept = set.and_then(|text| parse_interval(text));
    i64::try_from(kept.unwrap_or(TOMBSTONES_KEPT).as_millis()).unwrap_or(i64::MAX / 2)
}

/// `interval 7 days`, as Delta's properties write it; several amounts add up.
fn parse_interval(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    let mut words = lower
        .split_whitespace()
        .skip_while(|word| *word == "interval")
        .peekable();
    words.peek()?;
    let mut sum = Duration::ZERO;
    while let Some(number) = words.next() {
        let number: u64 = number.parse().ok()?;
        let micros = match words.next()?.trim_end_matches('s') {
            "week" => 7 * 24 * 3_600_000_000,
            "day" => 24 * 3_600_000_000,
            "hour" => 3_600_000_000,
            "minute" => 60_000_000,
            "second" => 1_000_000,
            "millisecond" => 1000,
            "microsecond" => 1,
            _ => return None,
        };
        sum = sum.saturating_add(Duration::from_micros(number.saturating_mul(micros)));
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Metadata {
        Metadata {
            configuration: [(key.to_owned(), value.to_owned())].into(),
            ..Metadata::default()
        }
    }

    #[test]
    fn retention_is_read_as_delta_writes_it() {
        let hours = |text| parse_interval(text).map(|d| d.as_secs() / 3600);
        assert_eq!(hours("interval 7 days"), Some(168));
        assert_eq!(hours("INTERVAL 1 WEEK"), Some(168));
        assert_eq!(hours("30 hours"), Some(30));
        assert_eq!(hours("interval 1 day 12 hours"), Some(36));
        assert_eq!(
            parse_interval("interval 5 milliseconds"),
            Some(Duration::from_millis(5))
        );
        for text in ["", "interval", "interval x days", "interval 3 moons", "3"] {
            assert_eq!(parse_interval(text), None, "{text}");
        }
    }

    #[test]
    fn trust_shrinks_with_the_retention_of_the_log() {
        let minute = 60_000;
        for (metadata, minutes) in [
            (Metadata::default(), 5),
            (with(LOG_RETENTION, "interval 30 days"), 5),
            (with(LOG_RETENTION, "interval 2 hours"), 5),
            (with(LOG_RETENTION, "interval 24 minutes"), 1),
            (with(LOG_RETENTION, "interval 0 seconds"), 0),
            (with(LOG_RETENTION, "a while"), 0),
        ] {
            let proof = Proof::at(1000);
            let end = 1000 + minutes * minute;
            assert_eq!(proof.holds(&metadata, end - 1), minutes > 0, "{metadata:?}");
            assert!(!proof.holds(&metadata, end), "{metadata:?}");
            assert!(!proof.holds(&metadata, 999), "a clock that went back");
            proof.clone().renew(end);
            assert!(!proof.holds(&metadata, end), "nobody saw it for as long");
            proof.clone().saw(end);
            assert_eq!(
                proof.holds(&metadata, end),
                minutes > 0,
                "clones share the proof"
            );
            let next = Proof::written_at(end, &Proof::at(1000));
            assert!(
                !next.holds(&metadata, end),
                "nobody saw what it is built on"
            );
        }
    }
}
