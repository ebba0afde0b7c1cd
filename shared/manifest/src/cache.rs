//! [`SnapshotCache`]: the versions of tables that a process knows, shared by all who read them.
//!
//! Loading a table costs its whole state, following it costs its new commits. So whoever needs a
//! version asks here, and says how old the answer may be ([`Freshness`]); what one has learned
//! serves the others.
//!
//! ```text
//!  gateway ─┐               ┌ fresh enough: no request
//!  flusher ─┼─► get(how old) ┤ known, too old: the commits since, once for all who wait
//!  query   ─┘               └ unknown: checkpoint and commits, some tables at a time
//! ```
//! Owns which versions are held, and for how long. Does not own what a version is ([`Snapshot`]),
//! nor how it is read ([`DeltaTable`]).
//!
//! Invariants:
//! - what is held belongs to one table: a name that was dropped and created again is another
//!   incarnation, and starts empty;
//! - an answer to [`Freshness::Latest`] was read after the question was asked;
//! - of one table there is one look at a time, and whoever waited for it shares its outcome, also
//!   the store's being away;
//! - what nobody uses is held within [`SnapshotCache::new`]'s bound, and goes by last use. What
//!   somebody uses can't be given back by forgetting it, so the bound is soft: it counts, and stays.

mod derived;
mod hold;
mod slot;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tidelake_core::{ErrorKind, TableVersion, TopicId};
use tokio::time::Instant;

use crate::error::{ManifestError, Result};
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;
use hold::Shared;
use slot::{Failed, Slot};

pub use derived::Derived;
pub use stats::CacheStats;

/// What a process holds of snapshots where nobody says otherwise.
pub const SNAPSHOT_CACHE_BYTES: u64 = 512 << 20;

/// How old a version may be that is answered as the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It was the latest at some moment after the question.
    Latest,
    /// It was the latest within this time before the question.
    NoOlderThan(Duration),
    /// It is this version or a later one.
    AtLeast(TableVersion),
}

impl Freshness {
    fn is_met(self, seen: &Seen, asked: Instant) -> bool {
        match self {
            Self::Latest => seen.at >= asked,
            Self::NoOlderThan(age) => seen.at + age >= asked,
            Self::AtLeast(version) => seen.snapshot.version() >= version,
        }
    }
}

/// A version, and a moment at which it was the latest.
#[derive(Debug, Clone)]
pub struct Seen {
    pub snapshot: Arc<Snapshot>,
    pub at: Instant,
}

/// See the module. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct SnapshotCache(Arc<Shared>);

impl SnapshotCache {
    /// Holds `bytes_max` of what nobody uses. Less means that tables which are seldom asked for are
    /// loaded anew each time.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Shared::new(bytes_max)))
    }

    /// The table at `location`, in the life that `incarnation` names. `table` opens it, unless it
    /// is known.
    pub fn table(
        &self,
        location: &str,
        incarnation: TopicId,
        table: impl FnOnce() -> DeltaTable,
    ) -> CachedTable {
        CachedTable {
            shared: Arc::clone(&self.0),
            slot: self.0.slot(location, incarnation, table),
        }
    }

    /// What is held, and what it has saved.
    pub fn stats(&self) -> CacheStats {
        self.0.stats()
    }
}

/// One table of a [`SnapshotCache`]. Holds no version itself.
#[derive(Debug, Clone)]
pub struct CachedTable {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

impl CachedTable {
    /// The table's log, for what is not about reading versions.
    pub fn delta(&self) -> &DeltaTable {
        &self.slot.table
    }

    /// The newest version, as fresh as `wanted` says.
    ///
    /// # Errors
    /// [`ManifestError::VersionAhead`] where [`Freshness::AtLeast`] names a version that is not
    /// there yet, and what reading the log meets.
    pub async fn get(&self, wanted: Freshness) -> Result<Seen> {
        let asked = now();
        let met = |seen: &Seen| wanted.is_met(seen, asked);
        if let Some(seen) = self.slot.seen(&self.shared).filter(met) {
            self.shared.counts.hit();
            return Ok(seen);
        }
        let _turn = self.slot.turn.lock().await;
        // Whoever had the turn before may have looked since this question was asked.
        let looked = |seen: &Seen| seen.at >= asked || met(seen);
        let seen = match self.slot.seen(&self.shared).filter(looked) {
            Some(seen) => {
                self.shared.counts.hit();
                seen
            }
            None => match self.slot.failed_since(asked) {
                Some(error) => return Err(ManifestError::Shared(error)),
                None => self.look().await?,
            },
        };
        if let Freshness::AtLeast(version) = wanted
            && seen.snapshot.version() < version
        {
            return Err(ManifestError::VersionAhead {
                at: self.slot.table.reader.at(),
                version,
                latest: seen.snapshot.version(),
            });
        }
        Ok(seen)
    }

    /// Of whoever has the turn.
    async fn look(&self) -> Result<Seen> {
        let at = now();
        let before = self.slot.newest();
        let read = match &before {
            Some(before) => {
                self.shared.counts.refreshed();
                self.slot.table.refresh(before).await
            }
            None => self.load(self.slot.table.snapshot()).await,
        };
        let snapshot = match read {
            Ok(snapshot) => snapshot,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                let error = Arc::new(error);
                let shared = Arc::clone(&error);
                self.slot.note_failure(Failed { at, error });
                return Err(ManifestError::Shared(shared));
            }
            Err(error) => return Err(error),
        };
        let seen = Seen { snapshot, at };
        Ok(self.shared.put_newest(&self.slot, before.as_ref(), seen))
    }

    async fn load(
        &self,
        loading: impl Future<Output = Result<Arc<Snapshot>>>,
    ) -> Result<Arc<Snapshot>> {
        // The semaphore is never closed.
        let _permit = self.shared.loading.acquire().await;
        self.shared.counts.loaded();
        loading.await
    }

    /// A version by its number: the same rows for ever, so no age counts. A few past ones are held
    /// beside the newest.
    pub async fn at(&self, version: TableVersion) -> Result<Arc<Snapshot>> {
        if let Some(held) = self.slot.at(&self.shared, version) {
            self.shared.counts.hit();
            return Ok(held);
        }
        let _turn = self.slot.past_turn.lock().await;
        if let Some(held) = self.slot.at(&self.shared, version) {
            self.shared.counts.hit();
            return Ok(held);
        }
        let snapshot = self.load(self.slot.table.snapshot_at(version)).await?;
        self.shared.put_past(&self.slot, &snapshot);
        Ok(snapshot)
    }

    /// The newest version that is known without asking the store, however old.
    pub fn known(&self) -> Option<Arc<Snapshot>> {
        self.slot.newest()
    }

    /// Tells of a version that the caller has committed or read by itself. It counts as the newest
    /// where it is; when it was that is not known here, so who asks for a fresh one looks after it.
    pub fn offer(&self, snapshot: &Arc<Snapshot>) {
        self.shared.offer(&self.slot, snapshot);
    }

    /// Drops what is held: the table is no more.
    pub fn forget(&self) {
        self.shared.forget(&self.slot);
    }
}

/// For ages only, which never leave the process.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the cache's seam to time that passes"
)]
fn now() -> Instant {
    Instant::now()
}
