//! Dropping a table, and removing what a dropped one left behind.
//!
//! One purger at a time, named by the catalog. A purger that dies is replaced after [`LEASE`]; one
//! that is slow renews its claim in half that time, and stops when it was replaced: it must not
//! delete what a table created anew has put there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use tidelake_catalog::{DropTable, Dropped, location};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableId, TableVersion, TopicId};
use tidelake_log::topics;
use tidelake_service::Problem;
use tidelake_storage::{StorageError, Store};

use super::dropped;
use super::live::Tables;
use crate::moment;
use crate::problem::{self, Answer};

/// How long a purger's claim holds.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// Between two looks at the catalog while another purger is at work.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const DELETES_IN_FLIGHT_MAX: usize = 16;
/// Objects deleted between two looks at the clock.
const DELETES_PER_CLAIM_CHECK: usize = 256;

impl Tables {
    /// Takes the table with its dead letters out of the catalog and ends its logs. It is kept for
    /// the grace, until the time that is answered, or removed at once. Dropping again what was
    /// dropped and is still being removed goes on with the removal.
    pub(super) async fn drop_table(
        &self,
        id: &TableId,
        purge: bool,
    ) -> Result<Option<UnixMillis>, Answer> {
        let grace_ms = i64::try_from(self.settings().undrop_grace_ms).unwrap_or(i64::MAX);
        let keeps = !purge && grace_ms > 0;
        let kept_until_ms = keeps.then(|| self.now_ms().saturating_add(grace_ms));
        let dropped = self.catalog.drop_table_keeping(id, kept_until_ms).await?;
        self.forget(id);
        self.forget(&id.dead_letters());
        match (dropped, self.catalog.dropped(id)) {
            (DropTable::Dropped(held), _) => {
                tracing::info!(table = %id, kept_until_ms, "table dropped");
                self.finish_drop(held).await?;
                Ok(kept_until_ms)
            }
            (DropTable::NotFound, Some(held)) if purge || held.kept_until_ms.is_none() => {
                self.finish_purge(id).await?;
                Ok(None)
            }
            (DropTable::NotFound, Some(_)) => Err(problem::no_table(id.table.as_str())
                .detail(format!(
                    "table {} was dropped, and is kept for a while",
                    id.table
                ))
                .hint("drop it with ?purge=true to remove it now, or undrop it")
                .into()),
            (DropTable::NotFound, None) => Err(problem::no_table(id.table.as_str()).into()),
        }
    }

    /// What a dropped table's purger owes: its logs ended, then it is set aside or removed. False:
    /// another purger took over.
    pub(super) async fn finish_drop(&self, held: Dropped) -> Result<bool, Answer> {
        if held.kept_until_ms.is_none() {
            return self.purge(held).await;
        }
        if held.last.is_some() {
            return Ok(true);
        }
        let last = self.fence(&held.entry).await?;
        self.set_aside(&held.entry, last).await?;
        Ok(self.catalog.end_logs(&held, last).await?.is_some())
    }

    /// Sees to it that nothing of an earlier table of this name is left: waits for its purger, or
    /// takes over from one that is gone.
    pub(super) async fn finish_purge(&self, id: &TableId) -> Result<(), Answer> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let started = moment::now();
        let mut seen = None;
        loop {
            looks.tick().await;
            self.catalog.refresh().await?;
            let Some(dropped) = self.catalog.dropped(id) else {
                return Ok(());
            };
            if dropped.kept_until_ms.is_some() && dropped.last.is_some() {
                tracing::info!(table = %id, "the name is wanted: the dropped table is kept no longer");
                if let Some(held) = self.catalog.claim_purge(&dropped).await?
                    && self.purge(held).await?
                {
                    return Ok(());
                }
                continue;
            }
            // By our own clock: since when this claim is known to us, or by its stamp if that is
            // longer ago (a purger that died before we looked).
            let since = match &seen {
                Some((claim, since)) if *claim == dropped => *since,
                _ => seen.insert((dropped.clone(), moment::now())).1,
            };
            let stamped = u64::try_from(self.clock.now_ms() - dropped.claimed_ms).unwrap_or(0);
            if moment::age(since).max(Duration::from_millis(stamped)) >= LEASE {
                if let Some(held) = self.catalog.claim_purge(&dropped).await? {
                    tracing::info!(table = %id, "taking over the removal of a dropped table");
                    if self.purge(held).await? {
                        return Ok(());
                    }
                }
            } else if moment::age(started) >= 3 * LEASE {
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
            since: moment::now(),
        };
        if claim.held.last.is_none() {
            let last = self.fence(&entry).await?;
            match self.catalog.end_logs(&claim.held, last).await? {
                Some(held) => claim.held = held,
                None => return Ok(false),
            }
        }
        let last = claim.held.last.unwrap_or_default();
        let dead_letters = topics::dead_letter_topic(&self.topic_prefix, &entry.id);
        for (topic, id) in [
            (&entry.topic, Some(entry.topic_id)),
            (&dead_letters, entry.dead_letters_topic_id),
        ] {
            if !self.remove_topic(topic, id, &mut claim).await? {
                return Ok(false);
            }
        }
        let dead_letters = location(&entry.id.dead_letters());
        let aside = dropped::folder(&entry);
        for (folder, last) in [
            (entry.location(), last.table),
            (dead_letters, last.dead_letters),
            (aside, None),
        ] {
            if !self.remove_folder(&folder, last, &mut claim).await? {
                return Ok(false);
            }
        }
        Ok(self.catalog.purged(&claim.held).await?)
    }

    /// Removes a topic, if it is the table's: one of the same name but another id belongs to somebody
    /// else. False: another purger took over.
    async fn remove_topic(
        &self,
        topic: &str,
        id: Option<TopicId>,
        claim: &mut Claim<'_>,
    ) -> Result<bool, Answer> {
        let found = self.log.describe(topic).await?;
        if let Some(found) = found.filter(|found| Some(found.id) != id) {
            tracing::warn!(topic, found = %found.id, "a topic that is not the table's stays");
            return Ok(true);
        }
        if found.is_none() {
            return Ok(true);
        }
        if !claim.holds().await? {
            return Ok(false);
        }
        self.log.delete_topic(topic).await?;
        Ok(true)
    }

    /// Removes all that a folder holds. False: another purger took over.
    async fn remove_folder(
        &self,
        folder: &str,
        fence: Option<TableVersion>,
        claim: &mut Claim<'_>,
    ) -> Result<bool, Answer> {
        let store = self.store.scoped(folder);
        let fence = fence.map(dropped::fence_name);
        loop {
            // The table's log sorts before its files: a reader finds no table rather than half one.
            // The fence goes last, so that a late writer meets it.
            let mut names: Vec<_> = store
                .list("")
                .await?
                .iter()
                .filter_map(|m| store.relative(&m.location))
                .collect();
            names.sort_by_key(|name| fence.as_ref() == Some(name));
            if names.is_empty() {
                return Ok(true);
            }
            for some in names.chunks(DELETES_PER_CLAIM_CHECK) {
                if !claim.holds().await? {
                    return Ok(false);
                }
                delete_all(&store, some.to_vec()).await?;
            }
        }
    }
}

pub(super) async fn delete_all(store: &Store, names: Vec<String>) -> Result<(), StorageError> {
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
        if moment::age(self.since) < LEASE / 2 {
            return Ok(true);
        }
        let since = moment::now();
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
