//! Dropped tables that are kept for a while: set aside, restored, and removed in the end.
//!
//! ```text
//!  drop:   catalog: drop_table ─► fence ─► logs moved aside ─► catalog: end_logs
//!  undrop: catalog: claim ─► logs copied back ─► fence lifted ─► catalog: restore_table
//!  purge:  when the grace is over, or the name is used again
//! ```
//! While it is set aside a table is a folder of files without a log: no engine finds a table there.
//! A flush that is late meets the fence, or, once that is gone too, puts its commit into the emptied
//! log: below the beginning of whatever comes next, since a name's versions never repeat. The
//! flusher asks the catalog again after such a commit and takes it back, and opens a table anew that
//! was restored meanwhile. Topics stay as they are. Each step can be repeated by the next one who
//! holds the claim.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tidelake_catalog::{Dropped, LastVersions, TableEntry, location};
use tidelake_core::{ErrorKind, TableId, TableVersion};
use tidelake_manifest::ManifestError;
use tidelake_service::{Problem, Shutdown};
use tidelake_storage::StorageError;

use super::live::{LiveTable, Tables};
use super::purge::{LEASE, delete_all};
use crate::problem::{self, Answer};

const LOG: &str = "_delta_log";
/// Checkpoints are copied through memory.
const COPIES_IN_FLIGHT_MAX: usize = 4;
/// Between two looks for tables whose grace is over, and for drops that nobody goes on with.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// One look of so many is at the store whatever is known: each ten minutes.
const STORE_LOOKS: u32 = 20;

/// Where a dropped table's logs are kept; of its own, by the id of its topic.
pub(super) fn folder(entry: &TableEntry) -> String {
    format!("_tidelake/dropped/{}", entry.topic_id)
}

/// The commit that ended a table, below the table's folder.
pub(super) fn fence_name(version: TableVersion) -> String {
    format!("{LOG}/{:020}.json", version.0)
}

/// The folders of a table and of its dead letters: where they are, and where they are set aside.
fn folders(entry: &TableEntry) -> [(String, String); 2] {
    let aside = folder(entry);
    let dead_letters = location(&entry.id.dead_letters());
    [
        (entry.location(), format!("{aside}/table")),
        (dead_letters, format!("{aside}/dead_letters")),
    ]
}

impl Tables {
    /// Ends both logs of a dropped table.
    pub(super) async fn fence(&self, entry: &TableEntry) -> Result<LastVersions, Answer> {
        let [(table, table_aside), (dead_letters, dead_letters_aside)] = folders(entry);
        Ok(LastVersions {
            table: self.fence_one(&table, &table_aside).await?,
            dead_letters: self.fence_one(&dead_letters, &dead_letters_aside).await?,
        })
    }

    async fn fence_one(&self, location: &str, aside: &str) -> Result<Option<TableVersion>, Answer> {
        match self.delta(location).drop_fence().await {
            Ok(version) => Ok(Some(version)),
            // It was moved aside as a whole, by one who did not live to tell the catalog.
            Err(ManifestError::NoTable { .. }) => self.last_version(aside).await,
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error.into()),
            // A log that can't be read, or was moved aside in part, must not make the table stay for
            // ever. No flush can follow it, and its versions are known by their names.
            Err(error) => {
                tracing::warn!(location, %error, "a log that can't be read is dropped as it is");
                self.last_version(location).await
            }
        }
    }

    /// The last commit that a folder's log has, by the names of its files.
    async fn last_version(&self, folder: &str) -> Result<Option<TableVersion>, Answer> {
        let found = self.store.scoped(folder).list(LOG).await?;
        let versions = found.iter().filter_map(|file| {
            let name = file.location.filename()?.strip_suffix(".json")?;
            name.parse().ok().map(TableVersion)
        });
        Ok(versions.max())
    }

    /// Moves the logs of a dropped table to where they are kept; the fence goes last. Whoever repeats
    /// it finds copies of what is gone already.
    pub(super) async fn set_aside(
        &self,
        entry: &TableEntry,
        last: LastVersions,
    ) -> Result<(), Answer> {
        let lasts = [last.table, last.dead_letters];
        for ((from, to), last) in folders(entry).into_iter().zip(lasts) {
            self.copy_log(&from, &to, false).await?;
            let store = self.store.scoped(&from);
            let fence = last.map(fence_name);
            let names = store.list(LOG).await?;
            let names = names
                .iter()
                .filter_map(|file| store.relative(&file.location));
            let (fence, others) = names.partition(|name| Some(name) == fence.as_ref());
            delete_all(&store, others).await?;
            delete_all(&store, fence).await?;
        }
        Ok(())
    }

    /// Copies a log, its last commit first: where the copy becomes a table again, that is the fence
    /// that a late flush must meet. `over`: whether what is there gives way. It does where a table is
    /// restored; where it is set aside for the second time, a late flush may have put something in
    /// the place of what was moved.
    async fn copy_log(&self, from: &str, to: &str, over: bool) -> Result<(), StorageError> {
        let (from, to) = (self.store.scoped(from), self.store.scoped(to));
        let found = from.list(LOG).await?;
        let names = found
            .iter()
            .filter_map(|file| from.relative(&file.location));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable_by_key(|name| {
            (!name.ends_with(".json"), std::cmp::Reverse(name.clone()))
        });
        let copy = |name: String| {
            let (from, to) = (from.clone(), to.clone());
            async move {
                // Gone meanwhile: another who holds the claim by now has removed it.
                match from.get_opt(&name).await? {
                    Some(bytes) if over => to.put(&name, bytes).await,
                    Some(bytes) => to.put_once(&name, bytes, |_| false).await.map(drop),
                    None => Ok(()),
                }
            }
        };
        let mut names = names.into_iter();
        if let Some(last) = names.next() {
            copy(last).await?;
        }
        futures::stream::iter(names.map(copy))
            .buffer_unordered(COPIES_IN_FLIGHT_MAX)
            .try_collect()
            .await
    }

    /// Brings a dropped table back as it was.
    pub(super) async fn undrop(&self, id: &TableId) -> Result<Arc<LiveTable>, Answer> {
        self.catalog.refresh().await?;
        if self.catalog.get(id).is_some() {
            let problem = Problem::new(409, "TABLE_EXISTS", "the table exists");
            let detail = format!("table {} exists, so there is nothing to undrop", id.table);
            return Err(problem.detail(detail).into());
        }
        let held = self.catalog.dropped(id).filter(|held| self.is_kept(held));
        let Some(held) = held else {
            return Err(problem::no_table(id.table.as_str())
                .hint("a dropped table is kept for a while only, and until its name is used again")
                .into());
        };
        if held.last.is_none() {
            return Err(busy(id, "its drop has not ended"));
        }
        let entry = Arc::clone(&held.entry);
        self.check_topics(&entry).await?;
        self.check_folders(&entry).await?;
        let held = self.catalog.claim_kept(&held).await?;
        let held = held.ok_or_else(|| busy(id, "somebody else restores or removes it"))?;
        for (location, aside) in folders(&entry) {
            self.copy_log(&aside, &location, true).await?;
            match self.delta(&location).lift_fence().await {
                Ok(_) | Err(ManifestError::NoTable { .. }) => {}
                Err(error) => return Err(problem::unreadable(id, &error)),
            }
        }
        let restored = self.catalog.restore_table(&held).await?;
        let restored = restored.ok_or_else(|| busy(id, "somebody else restores or removes it"))?;
        tracing::info!(table = %id, "table restored");
        if let Err(error) = self.remove_aside(&restored).await {
            tracing::warn!(table = %id, %error, "copies of its log remain");
        }
        Ok(self.live(&restored))
    }

    /// A dropped table of another topic has lost what was not committed: it can't go on.
    async fn check_topics(&self, entry: &TableEntry) -> Result<(), Answer> {
        let dead_letters = entry.dead_letters();
        let dead_letters = dead_letters.iter().map(|of| (&of.topic, of.topic_id));
        for (topic, id) in std::iter::once((&entry.topic, entry.topic_id)).chain(dead_letters) {
            let found = self.log.describe(topic).await?;
            if found.is_some_and(|found| found.id == id) {
                continue;
            }
            let problem = Problem::new(409, "TOPIC_REPLACED", "the table can't be restored");
            return Err(problem
                .detail(format!("topic {topic} is gone, or is another one by now"))
                .hint("drop the table with ?purge=true to free its name")
                .into());
        }
        Ok(())
    }

    /// An engine that goes on writing to the emptied folder makes a table of its own there, without
    /// asking. The versions that it has above the fence would become part of the restored table.
    async fn check_folders(&self, entry: &TableEntry) -> Result<(), Answer> {
        for (location, aside) in folders(entry) {
            let found = match self.delta(&location).snapshot().await {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error.into()),
                // Nothing, or no table: what a late flush put there gives way.
                Err(_) => continue,
            };
            let kept = self.delta(&aside).snapshot().await;
            let kept = kept.map_err(|error| problem::unreadable(&entry.id, &error))?;
            // The same one is there where an earlier try has died.
            if found.metadata().id != kept.metadata().id {
                let problem = Problem::new(409, "LOCATION_TAKEN", "the table can't be restored");
                return Err(problem
                    .detail(format!(
                        "another engine wrote to {location} since the drop, and made a table there"
                    ))
                    .hint("stop it, copy what it wrote, delete the folder's _delta_log, try again")
                    .into());
            }
        }
        Ok(())
    }

    async fn remove_aside(&self, entry: &TableEntry) -> Result<(), StorageError> {
        let store = self.store.scoped(&folder(entry));
        let found = store.list("").await?;
        let names = found
            .iter()
            .filter_map(|file| store.relative(&file.location));
        delete_all(&store, names.collect()).await
    }

    fn is_kept(&self, held: &Dropped) -> bool {
        held.kept_until_ms
            .is_some_and(|until| until > self.now_ms())
    }

    /// True where somebody should go on with it, and nobody does.
    fn is_due(&self, dropped: &Dropped) -> bool {
        let lease_ms = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let at_rest = self.is_kept(dropped) && dropped.last.is_some();
        !at_rest && self.now_ms() - dropped.claimed_ms >= lease_ms
    }

    /// True where there is something to sweep by what this gateway knows, without a look at the
    /// store.
    fn knows_of_drops(&self) -> bool {
        let dropped = self.catalog.all_dropped();
        dropped.iter().any(|dropped| self.is_due(dropped))
    }

    /// Goes on with what nobody else does: drops that have not ended, and graces that are over.
    pub(crate) async fn sweep(&self) -> Result<(), Answer> {
        self.catalog.refresh().await?;
        for dropped in self.catalog.all_dropped() {
            if !self.is_due(&dropped) {
                continue;
            }
            let held = match self.is_kept(&dropped) {
                true => self.catalog.claim_kept(&dropped).await?,
                false => self.catalog.claim_purge(&dropped).await?,
            };
            if let Some(held) = held {
                self.finish_drop(held).await?;
            }
        }
        Ok(())
    }
}

fn busy(id: &TableId, why: &str) -> Answer {
    Problem::new(
        409,
        "TABLE_BEING_DROPPED",
        "the table can't be restored now",
    )
    .detail(format!("table {}: {why}", id.table))
    .hint("try again in a moment")
    .retry_after_s(5)
    .into()
}

/// [`Tables::sweep`] until the stop.
pub(crate) async fn sweep_all(tables: Arc<Tables>, shutdown: Shutdown) {
    let mut looks = tokio::time::interval(SWEEP_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for look in 0_u32.. {
        looks.tick().await;
        if shutdown.is_requested() {
            return;
        }
        // What other gateways left shows in the store only.
        if look % STORE_LOOKS != 0 && !tables.knows_of_drops() {
            continue;
        }
        if let Err(Answer(problem)) = tables.sweep().await {
            tracing::warn!(
                detail = problem.detail,
                "dropped tables could not be looked after"
            );
        }
    }
}
