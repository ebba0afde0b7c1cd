//! The tables in use: catalog entry, Delta log, whose turn it is among the buckets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tidelake_catalog::{Catalog, TableEntry};
use tidelake_core::clock::{SharedClock, UnixMillis};
use tidelake_core::ids::SharedIds;
use tidelake_core::{Bucket, TableId, TenantId, Watermark};
use tidelake_log::topics;
use tidelake_manifest::{DeltaTable, Snapshot};
use tidelake_storage::Store;

use super::by_bucket;
use crate::log::TableLog;
use crate::problem::{self, Answer};
use crate::request::shared;
use crate::settings::TableSettings;

/// One incarnation of a table.
#[derive(Debug)]
pub(crate) struct LiveTable {
    pub(crate) entry: Arc<TableEntry>,
    pub(crate) topic: Arc<str>,
    delta: DeltaTable,
    /// Rises by one for each body, so that bodies of one message take turns too.
    turn: AtomicU32,
    seen: tokio::sync::Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    snapshot: Arc<Snapshot>,
    at: Instant,
}

impl LiveTable {
    pub(crate) fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The table's latest version, or one that was the latest within `age_max`. Callers that wait
    /// for the same look share it.
    pub(crate) async fn snapshot(&self, age_max: Duration) -> Result<Arc<Snapshot>, Answer> {
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        let snapshot = match seen.as_ref() {
            Some(seen) if seen.at >= asked || seen.at.elapsed() < age_max => {
                return Ok(Arc::clone(&seen.snapshot));
            }
            Some(Seen { snapshot, .. }) => {
                let at = Instant::now();
                let snapshot = self.delta.refresh(snapshot).await?;
                Seen { snapshot, at }
            }
            None => {
                let at = Instant::now();
                Seen {
                    snapshot: self.delta.snapshot().await?,
                    at,
                }
            }
        };
        Ok(Arc::clone(&seen.insert(snapshot).snapshot))
    }

    /// How far the table's log covers each bucket.
    pub(crate) fn watermarks(&self, snapshot: &Snapshot) -> BTreeMap<Bucket, Watermark> {
        let topic_id = &self.entry.topic_id;
        by_bucket(self.entry.buckets, |bucket| {
            snapshot.watermark(topic_id, bucket).unwrap_or_default()
        })
    }
}

/// All tables, and what they are made with.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(super) store: Store,
    pub(super) catalog: Catalog,
    pub(super) log: Arc<dyn TableLog>,
    pub(super) topic_prefix: String,
    pub(super) clock: SharedClock,
    pub(super) ids: SharedIds,
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
    ) -> Self {
        let (clock, ids) = seams;
        Self {
            store,
            catalog,
            log,
            topic_prefix,
            clock,
            ids,
            settings,
            live: RwLock::default(),
            catalog_read: Mutex::new(Instant::now()),
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
        let entry = if self.catalog_read.lock().elapsed() < age_max {
            self.catalog.find(id).await?
        } else {
            let asked = Instant::now();
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
        let buckets: Vec<_> = (0..table.entry.buckets).map(Bucket).collect();
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

    pub(super) fn live(&self, entry: &Arc<TableEntry>) -> Arc<LiveTable> {
        let same = |live: &&Arc<LiveTable>| live.entry.topic_id == entry.topic_id;
        if let Some(live) = self.live.read().get(&entry.id).filter(same) {
            return Arc::clone(live);
        }
        let mut all = self.live.write();
        if let Some(live) = all.get(&entry.id).filter(same) {
            return Arc::clone(live);
        }
        let live = Arc::new(LiveTable {
            entry: Arc::clone(entry),
            topic: shared(&entry.topic),
            delta: self.delta(&entry.location()),
            turn: AtomicU32::new(0),
            seen: tokio::sync::Mutex::default(),
        });
        all.insert(entry.id.clone(), Arc::clone(&live));
        live
    }

    pub(super) fn forget(&self, id: &TableId) {
        self.live.write().remove(id);
    }
}
