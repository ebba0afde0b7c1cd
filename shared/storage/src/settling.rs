//! When a commit that somebody else wrote counts as written.
//!
//! Object stores show an object once it is whole, and so do writers that keep to the protocol in a
//! folder of files: they write aside, then link. But anybody can write a file there piece by piece,
//! and a commit that is cut at a line's end reads as a smaller one. Whoever built on that would
//! never learn of the rest. So in a folder a young commit of an unknown writer is there once it has
//! not changed for [`SETTLED`]; a reader waits for that a little, and then goes without it.
//!
//! What remains: a writer that pauses for longer within one commit.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidelake_core::clock::SharedClock;

use crate::backoff::{Backoff, RetryPolicy, salt_of};
use crate::{Result, Store};

/// A file that has not changed for this long, by our own watch, is not being written.
const SETTLED: Duration = Duration::from_millis(500);
/// Files that changed longer ago, or later than that from now, are not watched. The clocks of a file
/// server and of this machine may differ.
const YOUNG_MS: i64 = 60_000;
/// How long a reader waits for the end: above [`SETTLED`], so that a short write costs nobody the
/// commit; then the version before it is the latest.
const WAITS: RetryPolicy = RetryPolicy {
    retries_max: 30,
    wait_first: Duration::from_millis(50),
    wait_max: Duration::from_millis(50),
};

/// How commits of unknown writers are told from whole ones. See the module.
#[derive(Debug, Clone)]
pub(crate) struct Settling {
    pub(crate) clock: SharedClock,
    /// True where the bytes say that they were written by somebody who creates files whole.
    pub(crate) is_whole: fn(&[u8]) -> bool,
}

impl Settling {
    /// True where the file may still be growing, by its time alone.
    pub(crate) fn may_grow(&self, changed_ms: i64) -> bool {
        let age_ms = self.clock.now_ms().saturating_sub(changed_ms);
        age_ms.saturating_abs() < YOUNG_MS
    }

    /// The commit, once it is whole; none where it is absent or goes on growing.
    pub(crate) async fn read(&self, store: &Store, name: &str) -> Result<Option<Bytes>> {
        let mut waits = Backoff::new(WAITS, salt_of(name));
        let mut seen: Option<(u64, i64, Instant)> = None;
        loop {
            let Some((meta, bytes)) = store.get_with_meta(name).await? else {
                return Ok(None);
            };
            let changed_ms = meta.last_modified.timestamp_millis();
            if !self.may_grow(changed_ms) || (self.is_whole)(&bytes) {
                return Ok(Some(bytes));
            }
            match seen {
                Some((size, ms, since)) if (size, ms) == (meta.size, changed_ms) => {
                    if since.elapsed() >= SETTLED {
                        return Ok(Some(bytes));
                    }
                }
                _ => seen = Some((meta.size, changed_ms, now())),
            }
            if !waits.wait().await {
                tracing::info!(
                    at = store.url_of(name),
                    "this commit is still being written"
                );
                return Ok(None);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the seam to time that passes")]
fn now() -> Instant {
    Instant::now()
}
