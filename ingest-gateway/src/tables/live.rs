//! The tables in use: catalog entry, Delta log, whose turn it is among the buckets.

mod standing;
mod table;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tidelake_catalog::{Catalog, TableEntry};
use tidelake_core::clock::{SharedClock, UnixMillis};
use tidelake_core::ids::SharedIds;
use tidelake_core::{Bucket, TableId, TenantId, Watermark};
use tidelake_log::topics;
use tidelake_manifest::{CachedTable, DeltaTable, Snapshot, SnapshotCache};
use tidelake_storage::Store;

use crate::log::TableLog;
use crate::moment;
use crate::problem::{self, Answer};
use crate::request::shared;
use crate::settings::TableSettings;

pub(crate) use table::{LiveTable, LoggedTable};
pub(crate) use topic::Reached;

/// All tables, and what they are made with.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(super) store: Store,
    pub(super) catalog: Catalog,
    pub(super) log: Arc<dyn TableLog>,
    pub(super) topic_prefix: String,
    pub(super) clock: SharedClock,
    pub(super) ids: SharedIds,
    snapshots: SnapshotCache,
    settings: TableSettings,
    live: RwLock<HashMap<TableId, Arc<LiveTable>>>,
    catalog_read: Mutex<Instant>,
}

impl Tables {
    pub(crate) fn new(
        store: Store,
        catalog: Catalog,
        log: Arc<dyn TableLog>,
        topic_prefix: String,
        seams: (SharedClock, SharedIds),
        settings: TableSettings,
        snapshots: SnapshotCache,
    ) -> Self {
        let (clock, ids) = seams;
        Self {
            store,
            catalog,
            log,
            topic_prefix,
            clock,
            ids,
            snapshots,
            settings,
            live: RwLock::default(),
            catalog_read: Mutex::new(moment::now()),
        }
    }

    pub(crate) fn settings(&self) -> &TableSettings {
        &self.settings
    }

    pub(crate) fn now_ms(&self) -> UnixMillis {
        self.clock.now_ms()
    }

    /// Where a table's dead letters go.
    pub(crate) fn dead_letter_topic(&self, of: &TableId) -> Arc<str> {
        shared(&topics::dead_letter_topic(&self.topic_prefix, of))
    }

    pub(crate) fn wait_ms_max(&self) -> u64 {
        self.settings.wait_ms_max
    }

    /// The table, on a view of the catalog that is at most `catalog_age_ms_max` old. While the
    /// store is away, the view that is there must do: the log can take records without it.
    pub(crate) async fn current(&self, id: &TableId) -> Result<Arc<LiveTable>, Answer> {
        let age_max = Duration::from_millis(self.settings.catalog_age_ms_max);
        let entry = if moment::age(*self.catalog_read.lock()) < age_max {
            self.catalog.find(id).await?
        } else {
            let asked = moment::now();
            match self.catalog.find_fresh(id).await {
                Ok(entry) => {
                    *self.catalog_read.lock() = asked;
                    entry
                }
                Err(error) => {
                    let Some(entry) = self.catalog.get(id) else {
                        return Err(error.into());
                    };
                    tracing::warn!(%error, "the catalog could not be refreshed");
                    Some(entry)
                }
            }
        };
        let entry = match (entry, id.dead_letters_of()) {
            (None, Some(of)) => {
                // A table of an older program gets its dead letters when they are asked for.
                if let Some(of) = self.catalog.get(&of) {
                    self.give_dead_letters(&of).await?;
                }
                self.catalog.get(id)
            }
            (entry, _) => entry,
        };
        match entry {
            Some(entry) => Ok(self.live(&entry)),
            None => {
                self.forget(id);
                Err(problem::no_table(id.table.as_str()).into())
            }
        }
    }

    /// The table with the schema of its own log; see [`LiveTable::logged`].
    pub(crate) async fn logged(&self, table: &Arc<LiveTable>) -> Result<LoggedTable, Answer> {
        let logged = match table.logged().await {
            Ok(logged) => logged,
            Err(error) => return Err(self.unreadable(table, &error).await),
        };
        if let Err(error) = table.check_columns() {
            return Err(self.unreadable(table, &error).await);
        }
        Ok(logged)
    }

    /// The table with the schema of its own log, if that is another than `known` has: by a look that
    /// began now or later.
    pub(crate) async fn logged_since(
        &self,
        table: &Arc<LiveTable>,
        known: &LoggedTable,
    ) -> Result<Option<LoggedTable>, Answer> {
        let logged = match table.logged_anew(known).await {
            Ok(logged) => logged,
            Err(error) => return Err(self.unreadable(table, &error).await),
        };
        if logged.has_columns_of(known) {
            return Ok(None);
        }
        if let Err(error) = table.check_columns() {
            return Err(self.unreadable(table, &error).await);
        }
        Ok(Some(logged))
    }

    /// The table's latest version, or one that was the latest within `age_max`.
    pub(crate) async fn snapshot(
        &self,
        table: &LiveTable,
        age_max: Duration,
    ) -> Result<Arc<Snapshot>, Answer> {
        match table.snapshot(age_max).await {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => Err(self.unreadable(table, &error).await),
        }
    }

    /// The tenant's tables by name, as of now; with or without dead-letter tables.
    pub(crate) async fn of_tenant(
        &self,
        tenant: &TenantId,
        dead_letters: bool,
    ) -> Result<Vec<Arc<LiveTable>>, Answer> {
        self.catalog.refresh().await?;
        let entries = self.catalog.list(tenant);
        let entries = entries.iter();
        Ok(entries
            .filter(|entry| dead_letters || !entry.is_dead_letters())
            .map(|entry| self.live(entry))
            .collect())
    }

    /// The next offset of each bucket.
    pub(crate) async fn end_offsets(
        &self,
        table: &LiveTable,
    ) -> Result<BTreeMap<Bucket, Watermark>, Answer> {
        let buckets: Vec<_> = (0..table.buckets_read()).map(Bucket).collect();
        let ends = self.log.end_offsets(&table.entry.topic, &buckets).await?;
        Ok(ends
            .into_iter()
            .map(|(bucket, end)| (bucket, Watermark::from(end)))
            .collect())
    }

    pub(super) fn delta(&self, location: &str) -> DeltaTable {
        let store = self.store.scoped(location);
        DeltaTable::new(store, Arc::clone(&self.clock), Arc::clone(&self.ids))
    }

    fn cached(&self, entry: &TableEntry) -> CachedTable {
        let location = entry.location();
        let delta = || self.delta(&location);
        self.snapshots.table(&location, entry.topic_id, delta)
    }

    pub(super) fn live(&self, entry: &Arc<TableEntry>) -> Arc<LiveTable> {
        let same = |live: &&Arc<LiveTable>| live.entry.topic_id == entry.topic_id;
        if let Some(live) = self.live.read().get(&entry.id).filter(same) {
            return Arc::clone(live);
        }
        let mut all = self.live.write();
        if let Some(live) = all.get(&entry.id).filter(same) {
            return Arc::clone(live);
        }
        let live = Arc::new(LiveTable::new(entry, self.cached(entry)));
        all.insert(entry.id.clone(), Arc::clone(&live));
        live
    }

    pub(super) fn forget(&self, id: &TableId) {
        let forgotten = self.live.write().remove(id);
        // Its versions would stay in memory until others need the room.
        if let Some(table) = forgotten {
            table.forget();
        }
    }
}
