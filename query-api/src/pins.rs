//! Which version of a table a query reads.
//!
//! Owns the snapshots kept between queries, one newest and a few past ones for each table, and what
//! was worked out from them. Invariant: what is kept belongs to the table's present incarnation: a
//! table that was dropped and created again has another topic id and starts empty.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::{Catalog, TableEntry, TableMode};
use tidelake_core::clock::SharedClock;
use tidelake_core::ids::SharedIds;
use tidelake_core::{Bucket, ErrorKind, SnapshotName, TableId, TableVersion, TopicId, Watermark};
use tidelake_manifest::{DeltaTable, ManifestError, NamedSnapshot, Snapshot};
use tidelake_storage::Store;
use tokio::time::Instant;

use crate::error::QueryError;
use crate::lookup::TableKeys;
use crate::provider::facts::FileFacts;
use crate::provider::shape::{Shape, is_same};
use crate::sql::AsOf;

/// Past versions kept of each table.
const PAST_MAX: usize = 4;

/// One version of a table, ready to be planned.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub entry: Arc<TableEntry>,
    pub snapshot: Arc<Snapshot>,
    pub shape: Arc<Shape>,
    pub files: Arc<Vec<Arc<FileFacts>>>,
    /// Upsert tables only.
    pub keys: Option<Arc<TableKeys>>,
    by_path: OnceLock<HashMap<String, usize>>,
}

impl Pinned {
    /// A live file by its path, relative to the table.
    pub(crate) fn file(&self, path: &str) -> Option<&Arc<FileFacts>> {
        let by_path = self.by_path.get_or_init(|| {
            let files = self.files.iter().enumerate();
            files
                .map(|(place, file)| (file.name().to_owned(), place))
                .collect()
        });
        self.files.get(*by_path.get(path)?)
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
    held: Mutex<HashMap<TableId, Arc<Held>>>,
    made: Instant,
    /// When the catalog was read last, milliseconds after `made`.
    looked: AtomicU64,
    /// It is being read for nobody in particular.
    looking: AtomicBool,
}

/// One incarnation of a table.
#[derive(Debug)]
struct Held {
    topic_id: TopicId,
    table: Arc<DeltaTable>,
    /// One refresh at a time; who waited for one takes its result.
    newest: tokio::sync::Mutex<Option<(Arc<Pinned>, Instant)>>,
    past: Mutex<VecDeque<Arc<Pinned>>>,
}

impl Pins {
    pub(crate) fn new(store: Store, catalog: Catalog, clock: SharedClock, ids: SharedIds) -> Self {
        Self {
            store,
            catalog,
            clock,
            ids,
            held: Mutex::default(),
            made: Instant::now(),
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
        if entry.is_none() {
            self.held.lock().remove(id);
        }
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
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
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
        let asked = Instant::now();
        let held = self.held(entry);
        let mut newest = held.newest.lock().await;
        if let Some((pinned, read)) = newest.as_ref()
            && (*read + age_max >= asked)
        {
            return Ok((Arc::clone(pinned), *read));
        }
        let read = Instant::now();
        let (snapshot, before) = match newest.as_ref() {
            Some((pinned, _)) => {
                let snapshot = held.table.refresh(&pinned.snapshot).await?;
                (snapshot, Some(Arc::clone(pinned)))
            }
            None => (held.table.snapshot().await?, None),
        };
        let pinned = match before {
            Some(before) if before.snapshot.version() == snapshot.version() => before,
            before => Arc::new(held.prepare(entry, snapshot, before.as_deref())?),
        };
        *newest = Some((Arc::clone(&pinned), read));
        Ok((pinned, read))
    }

    /// The newest version that is known without asking the store.
    async fn known(&self, entry: &Arc<TableEntry>) -> Option<Arc<Pinned>> {
        let held = self.held(entry);
        let newest = held.newest.lock().await;
        newest.as_ref().map(|(pinned, _)| Arc::clone(pinned))
    }

    /// A version by number or time.
    pub(crate) async fn past(
        &self,
        entry: &Arc<TableEntry>,
        as_of: &AsOf,
    ) -> Result<Arc<Pinned>, QueryError> {
        let held = self.held(entry);
        let not_found = |error: ManifestError| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Invalid => {
                let asked = match as_of {
                    AsOf::Latest => "latest".to_owned(),
                    AsOf::Version(version) => version.to_string(),
                    AsOf::Timestamp(ms) => format!("at {}", moment(*ms)),
                    AsOf::Snapshot(name) => format!("named {name}"),
                };
                let (table, reason) = (entry.id.clone(), error.to_string());
                QueryError::VersionNotFound {
                    table,
                    asked,
                    reason,
                }
            }
            _ => error.into(),
        };
        let version = match as_of {
            AsOf::Latest => return self.newest(entry, Duration::ZERO).await,
            AsOf::Version(version) => *version,
            AsOf::Timestamp(ms) => held.table.version_at(*ms).await.map_err(not_found)?,
            AsOf::Snapshot(name) => self.named(entry, name).await?.version,
        };
        if let Some(pinned) = held.kept(version).await {
            return Ok(pinned);
        }
        let snapshot = held.table.snapshot_at(version).await.map_err(not_found)?;
        let pinned = Arc::new(held.prepare(entry, snapshot, None)?);
        let mut past = held.past.lock();
        past.push_back(Arc::clone(&pinned));
        if past.len() > PAST_MAX {
            past.pop_front();
        }
        Ok(pinned)
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
        let known = match self.known(entry).await {
            Some(known) => known,
            None => self.newest(entry, Duration::ZERO).await?,
        };
        Ok(known.snapshot.metadata().id.clone())
    }

    /// The table's Delta log, for what is not about one version.
    pub(crate) fn table(&self, entry: &Arc<TableEntry>) -> Arc<DeltaTable> {
        Arc::clone(&self.held(entry).table)
    }

    fn held(&self, entry: &Arc<TableEntry>) -> Arc<Held> {
        let mut all = self.held.lock();
        if let Some(held) = all.get(&entry.id)
            && held.topic_id == entry.topic_id
        {
            return Arc::clone(held);
        }
        let store = self.store.scoped(&entry.location());
        let (clock, ids) = (Arc::clone(&self.clock), Arc::clone(&self.ids));
        let held = Arc::new(Held {
            topic_id: entry.topic_id,
            table: Arc::new(DeltaTable::new(store, clock, ids)),
            newest: tokio::sync::Mutex::default(),
            past: Mutex::default(),
        });
        all.insert(entry.id.clone(), Arc::clone(&held));
        held
    }
}

impl Held {
    async fn kept(&self, version: TableVersion) -> Option<Arc<Pinned>> {
        let is_it = |pinned: &&Arc<Pinned>| pinned.snapshot.version() == version;
        if let Some(pinned) = self.past.lock().iter().find(is_it) {
            return Some(Arc::clone(pinned));
        }
        let newest = self.newest.lock().await;
        newest
            .as_ref()
            .map(|(pinned, _)| pinned)
            .filter(is_it)
            .cloned()
    }

    /// Takes over what `before` knows of files that are still there.
    fn prepare(
        &self,
        entry: &Arc<TableEntry>,
        snapshot: Arc<Snapshot>,
        before: Option<&Pinned>,
    ) -> Result<Pinned, QueryError> {
        let metadata = snapshot.metadata();
        let same_shape = before.filter(|b| is_same(b.snapshot.metadata(), metadata));
        let shape = match same_shape {
            Some(before) => Arc::clone(&before.shape),
            None => Arc::new(Shape::new(Arc::clone(snapshot.schema()), metadata)?),
        };
        let known: HashMap<&str, &Arc<FileFacts>> = same_shape
            .iter()
            .flat_map(|before| before.files.iter())
            .map(|file| (file.name(), file))
            .collect();
        let files = snapshot.files().map(|file| {
            match known.get(file.path()).filter(|known| known.is_of(file)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(FileFacts::new(&self.table, file, &shape)),
            }
        });
        let files = Arc::new(files.collect());
        let keys = match same_shape {
            Some(before) => before.keys.clone(),
            None if entry.mode == TableMode::Upsert => {
                TableKeys::of(&shape.table, entry.buckets)?.map(Arc::new)
            }
            None => None,
        };
        Ok(Pinned {
            entry: Arc::clone(entry),
            snapshot,
            shape,
            files,
            keys,
            by_path: OnceLock::new(),
        })
    }
}

fn moment(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| format!("{ms} ms"), |at| at.to_rfc3339())
}
