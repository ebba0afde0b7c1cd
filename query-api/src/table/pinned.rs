//! Which version of a table a query reads.
//!
//! Owns what is worked out from a version to plan queries over it ([`Pinned`]). Versions themselves,
//! and what was worked out from them, live in the process's [`SnapshotCache`]: nothing is kept here.
//! Invariant: a version is of the incarnation that the catalog's entry names; a table that was
//! dropped and created again has another topic id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidelake_catalog::{Catalog, TableEntry, TableMode};
use tidelake_core::clock::SharedClock;
use tidelake_core::ids::SharedIds;
use tidelake_core::{Bucket, SnapshotName, TableId, Watermark};
use tidelake_manifest::cache::Derived;
use tidelake_manifest::{
    CachedTable, DeltaTable, Freshness, ManifestError, NamedSnapshot, Snapshot, SnapshotCache,
};
use tidelake_storage::Store;
use tokio::time::Instant;

use crate::error::QueryError;
use crate::moment;
use crate::sql::AsOf;
use crate::table::facts::FileFacts;
use crate::table::files::Files;
use crate::table::keys::TableKeys;
use crate::table::shape::{Shape, is_same};

/// What is worked out from a version beside what is known of its files: shape and key.
const PINNED_BYTES: u64 = 4096;

/// One version of a table, ready to be planned.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub entry: Arc<TableEntry>,
    pub snapshot: Arc<Snapshot>,
    pub shape: Arc<Shape>,
    pub files: Arc<Files>,
    /// Upsert tables only.
    pub keys: Option<Arc<TableKeys>>,
}

impl Pinned {
    /// A live file by its path, relative to the table.
    pub(crate) fn file(&self, path: &str) -> Option<FileFacts> {
        self.files.find(path)
    }

    /// A live file that the key index names.
    pub(crate) fn indexed_file(&self, path: &str) -> Result<FileFacts, QueryError> {
        self.file(path).ok_or_else(|| {
            QueryError::Engine(format!("the key index names {path}, which is no live file"))
        })
    }

    /// What the version covers of a bucket.
    pub(crate) fn watermark(&self, bucket: Bucket) -> Watermark {
        self.snapshot
            .watermark(&self.entry.topic_id, bucket)
            .unwrap_or_default()
    }
}

/// Tables by name.
#[derive(Debug)]
pub(crate) struct Pins {
    store: Store,
    catalog: Catalog,
    clock: SharedClock,
    ids: SharedIds,
    snapshots: SnapshotCache,
    made: Instant,
    /// When the catalog was read last, milliseconds after `made`.
    looked: AtomicU64,
    /// It is being read for nobody in particular.
    looking: AtomicBool,
}

impl Derived for Pinned {
    fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    fn held_bytes(&self) -> u64 {
        PINNED_BYTES + self.files.held_bytes()
    }
}

impl Pins {
    pub(crate) fn new(
        store: Store,
        catalog: Catalog,
        snapshots: SnapshotCache,
        clock: SharedClock,
        ids: SharedIds,
    ) -> Self {
        Self {
            store,
            catalog,
            clock,
            ids,
            snapshots,
            made: moment::now(),
            looked: AtomicU64::new(0),
            looking: AtomicBool::new(false),
        }
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The table's entry, as of now.
    pub(crate) async fn entry(&self, id: &TableId) -> Result<Option<Arc<TableEntry>>, QueryError> {
        let entry = self.catalog.find_fresh(id).await?;
        self.looked.store(self.now_ms(), Ordering::Relaxed);
        Ok(entry)
    }

    /// The table's entry, as of at most `age_max` ago. Once half of that is over, the catalog is read
    /// anew while nobody waits for it.
    pub(crate) async fn entry_within(
        self: &Arc<Self>,
        id: &TableId,
        age_max: Duration,
    ) -> Result<Option<Arc<TableEntry>>, QueryError> {
        let age_max = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        let age = self
            .now_ms()
            .saturating_sub(self.looked.load(Ordering::Relaxed));
        let known = self.catalog.get(id).filter(|_| age <= age_max);
        let Some(entry) = known else {
            return self.entry(id).await;
        };
        if age > age_max / 2 && !self.looking.swap(true, Ordering::Relaxed) {
            let pins = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = pins.catalog.refresh().await {
                    tracing::debug!(%error, "the catalog can't be read");
                } else {
                    pins.looked.store(pins.now_ms(), Ordering::Relaxed);
                }
                pins.looking.store(false, Ordering::Relaxed);
            });
        }
        Ok(Some(entry))
    }

    /// Since this was made; what the wall clock does is of no matter.
    fn now_ms(&self) -> u64 {
        u64::try_from(moment::age(self.made).as_millis()).unwrap_or(u64::MAX)
    }

    /// The newest version, at most `age_max` old.
    pub(crate) async fn newest(
        &self,
        entry: &Arc<TableEntry>,
        age_max: Duration,
    ) -> Result<Arc<Pinned>, QueryError> {
        Ok(self.newest_read(entry, age_max).await?.0)
    }

    /// As [`Self::newest`], and when the store was asked for it.
    pub(crate) async fn newest_read(
        &self,
        entry: &Arc<TableEntry>,
        age_max: Duration,
    ) -> Result<(Arc<Pinned>, Instant), QueryError> {
        let table = self.cached(entry);
        let seen = table.get(Freshness::NoOlderThan(age_max)).await?;
        Ok((pin(&table, entry, &seen.snapshot).await?, seen.at))
    }

    /// A version by number or time.
    pub(crate) async fn past(
        &self,
        entry: &Arc<TableEntry>,
        as_of: &AsOf,
    ) -> Result<Arc<Pinned>, QueryError> {
        let table = self.cached(entry);
        let not_found = |error: ManifestError| match error.is_no_such_version() {
            true => QueryError::VersionNotFound {
                table: entry.id.clone(),
                asked: match as_of {
                    AsOf::Latest => "latest".to_owned(),
                    AsOf::Version(version) => version.to_string(),
                    AsOf::Timestamp(ms) => format!("at {}", moment(*ms)),
                    AsOf::Snapshot(name) => format!("named {name}"),
                },
                reason: error.to_string(),
            },
            false => error.into(),
        };
        let version = match as_of {
            AsOf::Latest => return self.newest(entry, Duration::ZERO).await,
            AsOf::Version(version) => *version,
            AsOf::Timestamp(ms) => table.delta().version_at(*ms).await.map_err(not_found)?,
            AsOf::Snapshot(name) => self.named(entry, name).await?.version,
        };
        let snapshot = table.at(version).await.map_err(not_found)?;
        pin(&table, entry, &snapshot).await
    }

    /// The version that a snapshot's name stands for.
    pub(crate) async fn named(
        &self,
        entry: &Arc<TableEntry>,
        name: &SnapshotName,
    ) -> Result<NamedSnapshot, QueryError> {
        let table_id = self.metadata_id(entry).await?;
        let table = self.table(entry);
        let named = table.named_snapshot(&table_id, name).await?;
        named.ok_or_else(|| QueryError::SnapshotNotFound {
            table: entry.id.clone(),
            name: name.clone(),
        })
    }

    /// The table's id in its metadata. It never changes, so any version tells.
    pub(crate) async fn metadata_id(&self, entry: &Arc<TableEntry>) -> Result<String, QueryError> {
        let table = self.cached(entry);
        let known = match table.known() {
            Some(known) => known,
            None => table.get(Freshness::Latest).await?.snapshot,
        };
        Ok(known.metadata().id.clone())
    }

    /// The table's Delta log, for what is not about one version.
    pub(crate) fn table(&self, entry: &Arc<TableEntry>) -> Arc<DeltaTable> {
        Arc::new(self.cached(entry).delta().clone())
    }

    /// True where a version of the table is in memory.
    pub(crate) fn is_known(&self, entry: &TableEntry) -> bool {
        self.cached(entry).known().is_some()
    }

    fn cached(&self, entry: &TableEntry) -> CachedTable {
        let location = entry.location();
        self.snapshots.table(&location, entry.topic_id, || {
            let (clock, ids) = (Arc::clone(&self.clock), Arc::clone(&self.ids));
            DeltaTable::new(self.store.scoped(&location), clock, ids)
        })
    }
}

/// A version of a table, ready to be planned; worked out once.
async fn pin(
    table: &CachedTable,
    entry: &Arc<TableEntry>,
    snapshot: &Arc<Snapshot>,
) -> Result<Arc<Pinned>, QueryError> {
    let make = |before: Option<&Pinned>| Pinned::of(table.delta(), entry, snapshot, before);
    table.derive(snapshot, make).await
}

impl Pinned {
    /// Takes over what `before` knows of files that are still there.
    fn of(
        table: &DeltaTable,
        entry: &Arc<TableEntry>,
        snapshot: &Arc<Snapshot>,
        before: Option<&Self>,
    ) -> Result<Self, QueryError> {
        let metadata = snapshot.metadata();
        let same_shape = before.filter(|b| is_same(b.snapshot.metadata(), metadata));
        let shape = match same_shape {
            Some(before) => Arc::clone(&before.shape),
            None => Arc::new(Shape::new(Arc::clone(snapshot.schema()), metadata)?),
        };
        let table = Arc::new(table.clone());
        let files = match same_shape {
            Some(before) => {
                let changes = snapshot.files_since(&before.snapshot);
                before.files.after(&table, changes)
            }
            None => Files::new(&table, &shape, snapshot.files().cloned().collect()),
        };
        let files = Arc::new(files);
        let keys = match same_shape {
            Some(before) => before.keys.clone(),
            None if entry.mode == TableMode::Upsert => {
                TableKeys::of(&shape.table, entry.buckets)?.map(Arc::new)
            }
            None => None,
        };
        Ok(Self {
            entry: Arc::clone(entry),
            snapshot: Arc::clone(snapshot),
            shape,
            files,
            keys,
        })
    }
}

fn moment(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| format!("{ms} ms"), |at| at.to_rfc3339())
}
