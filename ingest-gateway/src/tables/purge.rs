//! Dropping a table, and removing what a dropped one left behind.
//!
//! One purger at a time, named by the catalog. A purger that dies is replaced after [`LEASE`]; one
//! that is slow renews its claim in half that time, and stops when it was replaced: it must not
//! delete what a table created anew has put there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use tidelake_catalog::{DropTable, Dropped, location};
use tidelake_core::TableId;
use tidelake_log::topics;
use tidelake_service::Problem;
use tidelake_storage::{StorageError, Store};

use super::live::Tables;
use crate::problem::{self, Answer};

/// How long a purger's claim holds.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// Between two looks at the catalog while another purger is at work.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const DELETES_IN_FLIGHT_MAX: usize = 16;
/// Objects deleted between two looks at the clock.
const DELETES_PER_CLAIM_CHECK: usize = 256;

impl Tables {
    /// Takes the table with its dead letters out of the catalog, then removes topics and folders.
    /// Dropping again what was
    /// dropped and is still there goes on with the removal.
    pub(super) async fn drop_table(&self, id: &TableId) -> Result<(), Answer> {
        let dropped = self.catalog.drop_table(id).await?;
        self.forget(id);
        self.forget(&id.dead_letters());
        match dropped {
            DropTable::Dropped(held) => {
                tracing::info!(table = %id, "table dropped");
                self.purge(held).await.map(drop)
            }
            DropTable::NotFound if self.catalog.dropped(id).is_some() => {
                self.finish_purge(id).await
            }
            DropTable::NotFound => Err(problem::no_table(id.table.as_str()).into()),
        }
    }

    /// Sees to it that nothing of an earlier table of this name is left: waits for its purger, or
    /// takes over from one that is gone.
    pub(super) async fn finish_purge(&self, id: &TableId) -> Result<(), Answer> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let started = Instant::now();
        let mut seen = None;
        loop {
            looks.tick().await;
            self.catalog.refresh().await?;
            let Some(dropped) = self.catalog.dropped(id) else {
                return Ok(());
            };
            // By our own clock: since when this claim is known to us, or by its stamp if that is
            // longer ago (a purger that died before we looked).
            let since = match &seen {
                Some((claim, since)) if *claim == dropped => *since,
                _ => seen.insert((dropped.clone(), Instant::now())).1,
            };
            let stamped = u64::try_from(self.clock.now_ms() - dropped.claimed_ms).unwrap_or(0);
            if since.elapsed().max(Duration::from_millis(stamped)) >= LEASE {
                if let Some(held) = self.catalog.claim_purge(&dropped).await? {
                    tracing::info!(table = %id, "taking over the removal of a dropped table");
                    if self.purge(held).await? {
                        return Ok(());
                    }
                }
            } else if started.elapsed() >= 3 * LEASE {
                let problem = Problem::new(409, "TABLE_BEING_DROPPED", "the name is not free yet");
                return Err(problem
                    .detail(format!(
                        "an earlier table {} is still being removed",
                        id.table
                    ))
                    .hint("try again in a moment")
                    .retry_after_s(5)
                    .into());
            }
        }
    }

    /// Removes topics and folders. False: another purger took over.
    async fn purge(&self, held: Dropped) -> Result<bool, Answer> {
        let entry = Arc::clone(&held.entry);
        let mut claim = Claim {
            tables: self,
            held,
            since: Instant::now(),
        };
        // A topic of the same name but another id is not the table's.
        let topic = self.log.describe(&entry.topic).await?;
        if topic.is_some_and(|topic| topic.id == entry.topic_id) {
            if !claim.holds().await? {
                return Ok(false);
            }
            self.log.delete_topic(&entry.topic).await?;
        }
        let dead_letters = topics::dead_letter_topic(&self.topic_prefix, &entry.id);
        if !claim.holds().await? {
            return Ok(false);
        }
        self.log.delete_topic(&dead_letters).await?;
        for location in [entry.location(), location(&entry.id.dead_letters())] {
            let store = self.store.scoped(&location);
            loop {
                // The table's log sorts before its files: a reader finds no table rather than half
                // one.
                let names: Vec<_> = store
                    .list("")
                    .await?
                    .iter()
                    .filter_map(|m| store.relative(&m.location))
                    .collect();
                if names.is_empty() {
                    break;
                }
                for some in names.chunks(DELETES_PER_CLAIM_CHECK) {
                    if !claim.holds().await? {
                        return Ok(false);
                    }
                    delete_all(&store, some.to_vec()).await?;
                }
            }
        }
        Ok(self.catalog.purged(&claim.held).await?)
    }
}

async fn delete_all(store: &Store, names: Vec<String>) -> Result<(), StorageError> {
    let delete = |name: String| {
        let store = store.clone();
        async move { store.delete(&name).await }
    };
    let mut deletes = futures::stream::iter(names)
        .map(delete)
        .buffer_unordered(DELETES_IN_FLIGHT_MAX);
    while deletes.try_next().await?.is_some() {}
    Ok(())
}

struct Claim<'a> {
    tables: &'a Tables,
    held: Dropped,
    since: Instant,
}

impl Claim<'_> {
    /// True where we are the purger for long enough to go on.
    async fn holds(&mut self) -> Result<bool, Answer> {
        if self.since.elapsed() < LEASE / 2 {
            return Ok(true);
        }
        let since = Instant::now();
        match self.tables.catalog.claim_purge(&self.held).await? {
            Some(held) => {
                self.held = held;
                self.since = since;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}
