//! What the services of one process stand on: a store, a log, and the versions of tables that they
//! know; in a folder, or in memory alone.
//!
//! ```text
//!  folder:     lock ─► embedded broker, or a Kafka that is there ─► store/ or another store
//!  ephemeral:  log in memory, store in memory, key indexes in memory; no Kafka port, no file
//! ```
//! Invariants: one process owns a folder at a time; an ephemeral one makes no file and no folder,
//! and what it was given is gone when it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelake_catalog::Catalog;
use tidelake_log::memory::MemoryLog;
use tidelake_log::{KafkaLog, LogClient};
use tidelake_manifest::SnapshotCache;
use tidelake_service::Runtime;
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::index::IndexHome;

use super::LocalSettings;
use super::broker::WatchedBroker;
use super::lock::FolderLock;
use crate::failure::Failure;

/// URL of a store in memory.
const MEMORY: &str = "memory:///";
/// Parts of a key index up to this size stay in memory, larger ones become files.
const INDEX_RUN_MEMORY_BYTES: usize = 512 << 10;

#[derive(Debug)]
pub(super) struct Ground {
    /// `host:port` of the log, where it speaks Kafka's protocol.
    pub(super) kafka: Option<String>,
    /// URL of the object store.
    pub(super) store_url: String,
    pub(super) log: Arc<dyn LogClient>,
    pub(super) snapshots: SnapshotCache,
    /// The one store in memory.
    memory: Option<Store>,
    /// Where the key indexes of all services live, unless they have folders of their own.
    indexes: Option<IndexHome>,
    folder: Option<PathBuf>,
    broker: Option<WatchedBroker>,
    _lock: Option<FolderLock>,
}

impl Ground {
    pub(super) async fn open(settings: &LocalSettings, runtime: &Runtime) -> Result<Self, Failure> {
        let snapshots = SnapshotCache::new(settings.snapshot_cache_bytes_max);
        runtime.metrics.sampled_snapshot_cache(
            "local",
            &snapshots,
            |cache| cache.stats().events(),
            |cache| cache.stats().held(),
        );
        if settings.ephemeral {
            return Ok(Self {
                kafka: None,
                store_url: MEMORY.to_owned(),
                log: Arc::new(MemoryLog::new(runtime.clock.clone())),
                snapshots,
                memory: Some(opened(MEMORY)?),
                indexes: Some(IndexHome::memory().keeping()),
                folder: None,
                broker: None,
                _lock: None,
            });
        }
        let dir = prepare(&settings.dir)?;
        let lock = FolderLock::take(&dir)?;
        let store_url = settings.store_url(&dir)?;
        let broker = match settings.kafka.bootstrap.as_str() {
            "" => Some(WatchedBroker::start(settings, &dir, runtime).await?),
            _ => None,
        };
        let kafka = match &broker {
            Some(broker) => broker.address().to_string(),
            None => settings.kafka.bootstrap.clone(),
        };
        let log = KafkaLog::new(settings.kafka(&kafka)).map_err(|error| {
            Failure::of("the log's settings can't be used", error.kind(), &error)
        })?;
        Ok(Self {
            kafka: Some(kafka),
            store_url,
            log: Arc::new(log),
            snapshots,
            memory: None,
            indexes: indexes(settings, &dir)?,
            folder: Some(dir),
            broker,
            _lock: Some(lock),
        })
    }

    /// The store, as one service sees it: its requests are counted by themselves.
    pub(super) fn store(&self) -> Result<Store, Failure> {
        match &self.memory {
            Some(memory) => Ok(Store::new(memory.object_store(), MEMORY)),
            None => opened(&self.store_url),
        }
    }

    /// The tables that there are, as this process knows them.
    pub(super) async fn catalog(&self, runtime: &Runtime) -> Result<Catalog, Failure> {
        let store = self.store()?;
        let seams = (Arc::clone(&runtime.clock), Arc::clone(&runtime.ids));
        let opened = Catalog::open(&store, seams.0, seams.1).await;
        opened.map_err(|error| Failure::of("the catalog can't be read", error.kind(), &error))
    }

    /// Where key indexes live; by each service's settings where absent.
    pub(super) fn indexes(&self) -> Option<IndexHome> {
        self.indexes.clone()
    }

    /// What is kept; none in memory.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Whoever stood on it has stopped.
    pub(super) async fn close(&mut self) -> Result<(), Failure> {
        match self.broker.take() {
            Some(broker) => broker.stop().await,
            None => Ok(()),
        }
    }
}

/// One home for flusher and query: what one of them has loaded the other need not.
fn indexes(settings: &LocalSettings, dir: &Path) -> Result<Option<IndexHome>, Failure> {
    if settings.has_own_index_folders() {
        return Ok(None);
    }
    let folder = dir.join("cache/index");
    let home = IndexHome::open(&folder, INDEX_RUN_MEMORY_BYTES).map_err(|error| {
        let folder = folder.display();
        Failure::failed(format!("{folder} can't be used for key indexes: {error}"))
    })?;
    Ok(Some(home.keeping()))
}

fn opened(url: &str) -> Result<Store, Failure> {
    Store::open(url, &StoreOptions::default())
        .map_err(|error| Failure::of("the object store can't be opened", error.kind(), &error))
}

/// The folder, made if it is not there, as an absolute path.
fn prepare(dir: &Path) -> Result<PathBuf, Failure> {
    let shown = dir.display();
    std::fs::create_dir_all(dir)
        .and_then(|()| dir.canonicalize())
        .map_err(|error| Failure::failed(format!("folder {shown} can't be used: {error}")))
}
