//! The tail: rows that are durable in the log and not yet in the table's files.
//!
//! ```text
//!            snapshot's watermark          end of the log at query start
//!  offsets ───────┬──────────────────────────────┬─────────►
//!   in Parquet    │  tail: piece, piece, piece …  │  later queries
//! ```
//! A table that is queried has a follower: it reads the buckets' tails as they grow, decodes them once
//! for all queries, and goes when nobody has asked for a while. A query asks the log for its ends,
//! waits until the follower has come that far, and takes the [`View`] that stands then: a snapshot,
//! everything behind its watermarks, and for upsert tables the state of each bucket after it.
//!
//! Owns what is asked of the log ([`TailLog`]), decoding, followers and views. Does not own what a
//! newer record does to older rows: that is `tidelake_table::apply`.
//!
//! Invariants:
//! - a view is contiguous from its snapshot's watermarks to the positions that it names; it never
//!   changes, a later one takes its place;
//! - pieces are cut at message borders only, so a message is seen whole or not at all;
//! - rows of one topic incarnation and one schema are never mixed with another's, and a log that is
//!   not the table's any more refuses the answer (`topic`);
//! - a table that nobody queries has no follower: no consumer, no polling, no request.

mod budget;
#[cfg(test)]
mod budget_tests;
mod commits;
mod decode;
mod ends;
mod follower;
mod key_index;
mod locate;
mod log;
mod pieces;
mod refusals;
#[cfg(test)]
pub(crate) mod tests;
mod topic;
#[cfg(test)]
mod topic_tests;
mod upsert;
mod view;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::TableEntry;
use tidelake_core::{TableId, TableVersion};
use tidelake_service::Pace;
use tidelake_table::index::IndexHome;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use self::refusals::Refusals;
use crate::error::QueryError;
use crate::metrics::QueryMetrics;
use crate::settings::QuerySettings;
use crate::table::pinned::{Pinned, Pins};

pub(crate) use key_index::{KeyIndex, searched};
pub(crate) use locate::{Finder, Found};
pub use log::TailLog;
pub(crate) use pieces::{BucketTail, Piece};
pub(crate) use topic::look;
pub(crate) use upsert::UpsertState;
pub(crate) use view::{Followed, Following, View};

/// Followers by table. The last handle's drop ends them all.
#[derive(Debug)]
pub(crate) struct Tails {
    shared: Arc<Shared>,
}

/// What followers and queries share.
#[derive(Debug)]
struct Shared {
    source: Arc<TailLog>,
    pins: Arc<Pins>,
    settings: QuerySettings,
    metrics: QueryMetrics,
    home: Arc<IndexHome>,
    budget: Arc<Budget>,
    refusals: Refusals,
    /// What writers of this process go by.
    pace: Pace,
    tables: Mutex<Tables>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Tables {
    by_id: HashMap<TableId, Arc<Followed>>,
    /// Ends the one that follows the commit events; there while any table is followed.
    commits: Option<CancellationToken>,
}

impl Tails {
    /// Where key indexes live.
    pub(crate) fn index_home(&self) -> &Arc<IndexHome> {
        &self.shared.home
    }

    /// The log itself.
    pub(crate) fn source(&self) -> &Arc<TailLog> {
        &self.shared.source
    }

    pub(crate) fn new(
        source: Arc<TailLog>,
        pins: Arc<Pins>,
        settings: QuerySettings,
        home: Arc<IndexHome>,
        (metrics, pace): (QueryMetrics, Pace),
    ) -> Self {
        let shared = Shared {
            budget: Budget::new(settings.tail_cache_bytes_max),
            refusals: Refusals::default(),
            pace,
            source,
            pins,
            settings,
            metrics,
            home,
            tables: Mutex::default(),
            closed: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The table's follower, which is begun where there is none. It stays at least as long as what is
    /// given back is held.
    pub(crate) fn follow(&self, entry: &Arc<TableEntry>) -> Following {
        let shared = &self.shared;
        let mut tables = shared.tables.lock();
        let held = tables.by_id.get(&entry.id);
        let held = held.filter(|held| held.is_of(entry) && !held.has_ended());
        let followed = match held {
            Some(held) => Arc::clone(held),
            None => {
                let followed = Arc::new(Followed::new(Arc::clone(entry)));
                let before = tables.by_id.insert(entry.id.clone(), Arc::clone(&followed));
                if let Some(before) = before {
                    before.stop();
                }
                tokio::spawn(follower::run(Arc::clone(shared), Arc::clone(&followed)));
                if tables.commits.is_none() {
                    let until = shared.closed.child_token();
                    tokio::spawn(commits::run(Arc::clone(shared), until.clone()));
                    tables.commits = Some(until);
                }
                followed
            }
        };
        followed.begin_use();
        drop(tables);
        Following::new(followed, Arc::clone(shared))
    }

    /// The table at one version and these positions, however far its follower is.
    ///
    /// # Errors
    /// As [`follower::exactly`].
    pub(crate) async fn exactly(
        &self,
        entry: &Arc<TableEntry>,
        pinned: Arc<Pinned>,
        positions: &follower::Positions,
        deadline: Instant,
    ) -> Result<Arc<View>, QueryError> {
        follower::check_positions(entry, &pinned, positions)?;
        let followed = self.followed(entry).and_then(|followed| followed.view());
        let version = pinned.snapshot.version();
        let known = followed.filter(|view| view.pinned.snapshot.version() == version);
        if let Some(view) = &known {
            if view.positions() == *positions {
                return Ok(Arc::clone(view));
            }
            if let Some(view) = view.up_to(positions) {
                return Ok(Arc::new(view));
            }
        }
        let known = known.as_deref();
        let read = follower::exactly(&self.shared, entry, (pinned, known), positions, deadline);
        Ok(Arc::new(read.await?))
    }

    /// The table's follower, if it has one.
    pub(crate) fn followed(&self, entry: &Arc<TableEntry>) -> Option<Arc<Followed>> {
        let tables = self.shared.tables.lock();
        let held = tables.by_id.get(&entry.id);
        held.filter(|held| held.is_of(entry) && !held.has_ended())
            .cloned()
    }
}

impl Tables {
    /// False where all are in use.
    fn stop_oldest(&mut self) -> bool {
        let unused = self.by_id.values().filter(|held| !held.is_in_use());
        let Some(oldest) = unused.min_by_key(|held| held.used()).cloned() else {
            return false;
        };
        self.by_id.remove(&oldest.entry().id);
        oldest.stop();
        true
    }

    /// Bytes of followers that nobody uses.
    fn unused_bytes(&self) -> usize {
        let unused = self.by_id.values().filter(|held| !held.is_in_use());
        unused.map(|held| held.bytes()).sum()
    }
}

impl Drop for Tails {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Shared {
    fn idle(&self) -> Duration {
        Duration::from_millis(self.settings.tail_idle_ms)
    }

    /// A commit event named this version.
    fn announced(&self, id: &TableId, version: TableVersion) {
        let tables = self.tables.lock();
        if let Some(followed) = tables.by_id.get(id) {
            followed.announced(version);
        }
    }

    /// Takes a follower out that has ended.
    fn remove(&self, followed: &Arc<Followed>) {
        let mut tables = self.tables.lock();
        let id = &followed.entry().id;
        let is_it = |held: &Arc<Followed>| Arc::ptr_eq(held, followed);
        if tables.by_id.get(id).is_some_and(is_it) {
            tables.by_id.remove(id);
        }
        self.settled(&mut tables);
    }

    /// Takes a follower out that nobody has used for a while; false where it is in use.
    fn retire(&self, followed: &Arc<Followed>) -> bool {
        let mut tables = self.tables.lock();
        if !followed.is_idle_for(self.idle()) {
            return false;
        }
        let id = &followed.entry().id;
        let is_it = |held: &Arc<Followed>| Arc::ptr_eq(held, followed);
        if tables.by_id.get(id).is_some_and(is_it) {
            tables.by_id.remove(id);
        }
        self.settled(&mut tables);
        true
    }

    /// Stops the followers used longest ago until the bounds hold; those in use stay.
    fn settle(&self) {
        self.evict(0);
    }

    /// As [`Self::settle`], until there is room for so much more.
    fn evict(&self, bytes: usize) {
        let mut tables = self.tables.lock();
        loop {
            let held = tables.by_id.values().map(|held| held.bytes());
            let wanted = held.sum::<usize>().saturating_add(bytes);
            let fits = wanted <= self.settings.tail_cache_bytes_max
                && tables.by_id.len() <= self.settings.tail_readers_max.max(1);
            if fits || !tables.stop_oldest() {
                break;
            }
        }
        self.settled(&mut tables);
    }

    fn settled(&self, tables: &mut Tables) {
        let bytes: usize = tables.by_id.values().map(|held| held.bytes()).sum();
        self.metrics
            .tail_cached_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if tables.by_id.is_empty()
            && let Some(commits) = tables.commits.take()
        {
            commits.cancel();
        }
    }
}
