//! When a commit that somebody else wrote counts as written.
//!
//! Object stores show an object once it is whole, and so do writers that keep to the protocol in a
//! folder of files: they write aside, then link. But anybody can write a file there piece by piece,
//! and a commit that is cut at a line's end reads as a smaller one. Whoever built on that would
//! never learn of the rest. So in a folder a commit of an unknown writer is there once it has not
//! changed for [`SETTLED_MS`]; a reader waits for that a little, and then goes without it.
//!
//! What remains: a writer that pauses for longer within one commit.

use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectMeta;
use tidelake_core::clock::SharedClock;

use crate::backoff::{Backoff, RetryPolicy, salt_of};
use crate::{Result, Store};

/// A file that has not changed for this long is not being written.
const SETTLED_MS: i64 = 500;
/// How long a reader waits for the end: above the above, so that a short write costs nobody the
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
        (0..SETTLED_MS).contains(&self.clock.now_ms().saturating_sub(changed_ms))
    }

    fn is_there(&self, meta: &ObjectMeta, bytes: &[u8]) -> bool {
        !self.may_grow(meta.last_modified.timestamp_millis()) || (self.is_whole)(bytes)
    }

    /// The commit, once it is whole; none where it is absent or goes on growing.
    pub(crate) async fn read(&self, store: &Store, name: &str) -> Result<Option<Bytes>> {
        let mut waits = Backoff::new(WAITS, salt_of(name));
        loop {
            let Some((meta, bytes)) = store.get_with_meta(name).await? else {
                return Ok(None);
            };
            if self.is_there(&meta, &bytes) {
                return Ok(Some(bytes));
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
