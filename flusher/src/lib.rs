//! The flusher: the log of every table becomes Parquet under a Delta log, exactly once.
//!
//! ```text
//!            consumer group                  one loop                      one task a flush
//!  [log] ─ polling thread ─ Messages ─► BucketState (intake, memtable) ─ seal ─► Job: send on
//!               ▲                  events │ ▲ commands                           put Parquet
//!               │                         ▼ │                                    commit
//!               └─ begin, restart, … ◄── Seats (pure) ◄──────── Ended ───────────┘
//! ```
//! Owns which buckets it reads, from where, when they are flushed ([`due`]), and what stops them.
//! Does not own the layout of files or commits (`tidelake_table`, `tidelake_manifest`), nor what a
//! message counts as (`tidelake_intake`).
//!
//! Invariants:
//! - the only truth about progress is the watermark in the table's log: a bucket starts there, and
//!   a commit is refused unless the watermark is still where the rows began;
//! - rows are dropped from memory once the commit that holds them is known, or to be read from the
//!   log again;
//! - misrouted records and dead letters are acknowledged before the commit whose watermark passes
//!   them.

mod bucket;
mod budget;
pub mod due;
mod flush;
mod freshness;
mod group;
mod identity;
mod instance;
mod metrics;
mod opener;
mod outbox;
mod policy;
mod seats;
mod settings;
mod time;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_catalog::Catalog;
use tidelake_core::ErrorKind;
use tidelake_log::{KafkaLog, LogAdmin, LogClient, ProducerSettings, TopicSpec, topics};
use tidelake_manifest::SnapshotCache;
use tidelake_service::{Running, Runtime, ServiceError, serve, standard_routes};
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::Encoders;
use tidelake_table::index::IndexHome;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use settings::Settings;

use crate::flush::Workbench;
use crate::group::Group;
use crate::metrics::FlusherMetrics;
use crate::opener::{OPENS_MAX, Opener};
use crate::worker::{Joined, Worker};

/// Runs of a key index below this size stay in memory: the youngest few of each bucket.
const INDEX_RUN_BYTES_IN_MEMORY: usize = 256 << 10;
/// Buckets of the topic of commit events.
const COMMITS_BUCKETS: u32 = 1;

/// What services of one process may share.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub log: Arc<dyn LogClient>,
    pub snapshots: SnapshotCache,
    /// Where key indexes live; by the settings where absent.
    pub indexes: Option<IndexHome>,
}

/// Starts a flusher. It has joined its group, or goes on trying, when this returns.
///
/// # Errors
/// Settings that can't work, a store that can't be opened, an address that is taken.
pub async fn start(settings: Settings, runtime: Runtime) -> Result<Running, ServiceError> {
    let log = KafkaLog::new(settings.kafka.clone()).map_err(|error| {
        ServiceError::caused_by(error.kind(), "open a client of the log", error)
    })?;
    let store = Store::open(&settings.store, &StoreOptions::default())
        .map_err(|error| ServiceError::caused_by(error.kind(), "open the object store", error))?;
    let snapshots = SnapshotCache::new(settings.snapshot_cache_bytes_max);
    runtime.metrics.sampled_snapshot_cache(
        "flusher",
        &snapshots,
        |cache| cache.stats().events(),
        |cache| cache.stats().held(),
    );
    let parts = Parts {
        store,
        log: Arc::new(log),
        snapshots,
        indexes: None,
    };
    start_with(settings, runtime, parts).await
}

/// As [`start`], over parts that others of the process have as well.
///
/// # Errors
/// As [`start`].
pub async fn start_with(
    settings: Settings,
    runtime: Runtime,
    parts: Parts,
) -> Result<Running, ServiceError> {
    settings
        .check()
        .map_err(|why| ServiceError::new(ErrorKind::Invalid, why))?;
    let listener = TcpListener::bind(&settings.listen).await.map_err(|error| {
        let what = format!("listen on {}", settings.listen);
        ServiceError::caused_by(ErrorKind::Unavailable, what, error)
    })?;
    let address = listener.local_addr()?;
    let log = Arc::clone(&parts.log);
    let bench = workbench(&settings, &runtime, parts).await?;
    let worker = Worker::start(settings, runtime.clone(), bench, log.as_ref())?;
    let router = standard_routes("flusher", &runtime);
    let task = tokio::spawn(async move {
        // Health and metrics answer until the last commit is known.
        let closed = runtime.detached().shutdown;
        let http = tokio::spawn(serve(listener, router, closed.clone()));
        let outcome = worker.wait().await;
        closed.trigger();
        let _ended = http.await;
        outcome
    });
    Ok(Running { address, task })
}

/// A flusher that is one future of its caller's runtime: no thread, no listener. For a simulation,
/// which has every step of it in its hands, and for whoever has doors of his own.
///
/// # Errors
/// As [`start`], and what ended it early.
pub async fn run_in_place(
    settings: Settings,
    runtime: Runtime,
    parts: Parts,
) -> Result<(), ServiceError> {
    settings
        .check()
        .map_err(|why| ServiceError::new(ErrorKind::Invalid, why))?;
    let log = Arc::clone(&parts.log);
    let bench = workbench(&settings, &runtime, parts).await?;
    Joined::new(settings, runtime, bench, log.as_ref())?
        .run()
        .await
}

/// Opens what every flush needs.
async fn workbench(
    settings: &Settings,
    runtime: &Runtime,
    parts: Parts,
) -> Result<Workbench, ServiceError> {
    let Parts {
        store,
        log,
        snapshots,
        indexes,
    } = parts;
    tidelake_storage::probe(&store, runtime.ids.as_ref())
        .await
        .map_err(|error| ServiceError::caused_by(error.kind(), "use the object store", error))?;
    let catalog = Catalog::open(&store, runtime.clock.clone(), runtime.ids.clone())
        .await
        .map_err(|error| ServiceError::caused_by(error.kind(), "open the catalog", error))?;
    let group = Group::of(&settings.group, &store, runtime.ids.as_ref()).await;
    let group = group
        .map_err(|error| ServiceError::caused_by(error.kind(), "name the consumer group", error))?;
    tracing::info!(group = group.name(), "consumer group");
    let producer_settings = ProducerSettings {
        compression: "lz4",
        ..ProducerSettings::default()
    };
    let writer = log
        .writer(producer_settings)
        .map_err(|error| ServiceError::caused_by(error.kind(), "open a producer", error))?;
    let admin = log.admin();
    let prefix = settings.kafka.topic_prefix.clone();
    let announce = settings
        .announce
        .then(|| Arc::from(topics::commits_topic(&prefix)));
    if let Some(topic) = &announce {
        ensure_topic(&*admin, topic).await?;
    }
    let index_home = match indexes {
        Some(home) => home,
        None => index_home(settings)?,
    };
    let counted = store.clone();
    runtime.metrics.sampled_counters(
        "tidelake_store_requests_total",
        "Requests to the object store.",
        "flusher",
        "operation",
        move || counted.requests().by_name(),
    );
    Ok(Workbench {
        opener: Opener {
            store,
            catalog,
            admin,
            topic_prefix: prefix,
            group,
            runtime: runtime.clone(),
            snapshots,
            turns: Arc::new(Semaphore::new(OPENS_MAX)),
        },
        writer,
        reader: log.reader(),
        metrics: FlusherMetrics::new(&runtime.metrics),
        files: settings.files(),
        encoders: Encoders::new(settings.encoder_bytes()),
        index_home: Arc::new(index_home),
        announce,
    })
}

fn index_home(settings: &Settings) -> Result<IndexHome, ServiceError> {
    let folder = settings.index_folder();
    IndexHome::open(&folder, INDEX_RUN_BYTES_IN_MEMORY).map_err(|error| {
        let what = format!("use {} for key indexes", folder.display());
        ServiceError::caused_by(error.kind(), what, error)
    })
}

/// Runs a flusher until its shutdown.
///
/// # Errors
/// As [`start`], and what ended it early.
pub async fn run(settings: Settings, runtime: Runtime) -> Result<(), ServiceError> {
    start(settings, runtime).await?.wait().await
}

async fn ensure_topic(admin: &dyn LogAdmin, topic: &str) -> Result<(), ServiceError> {
    let spec = TopicSpec {
        name: topic.to_owned(),
        buckets: COMMITS_BUCKETS,
        retention_ms: Some(24 * 3600 * 1000),
        config: BTreeMap::new(),
    };
    match admin.create_topic(&spec).await {
        Err(error) if error.kind() == ErrorKind::Invalid => Err(ServiceError::caused_by(
            error.kind(),
            "create the topic of commit events",
            error,
        )),
        Err(error) => {
            // A hint only; the log may also be away at start, which heals by itself.
            tracing::warn!(%error, topic, "the topic of commit events could not be created");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}
