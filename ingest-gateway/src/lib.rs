//! The way in over HTTP: tables are made here, and bodies of records become messages of the log.
//!
//! Owns the gateway's routes, the checking of whole bodies in bounded memory, and the packing of
//! rows into messages. Does not own the log ([`tidelake_log`]), the meaning of records
//! ([`tidelake_codec`]) or what happens to them behind the log.
//!
//! ```text
//!  body ─ body.rs ─► decode.rs ─► packer.rs ─► spool.rs ══ whole body checked ══► produce.rs ─► [log]
//!         chunks      columns  │   messages     memory, then a file                    │
//!                              └─► route.rs: by the bucket of the key (upsert tables)   │
//!                                                             token ◄── acknowledgements
//! ```
//!
//! Invariants:
//! - a refused body is nowhere: nothing is handed to the log before the last record was checked;
//! - an answer of 200 comes after the log has every record on disk;
//! - memory is bounded by settings; where they are reached, sockets are not read.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidelake_service::ServiceError> {
//! use tidelake_ingest_gateway::{Settings, start};
//! let settings = Settings { store: "file:///data".into(), ..Settings::default() };
//! let running = start(settings, tidelake_service::Runtime::new()).await?;
//! println!("http://{}", running.address);
//! running.wait().await
//! # }
//! ```

mod admission;
mod body;
mod decode;
mod log;
mod metrics;
mod moment;
mod packer;
mod problem;
mod produce;
mod progress;
mod records;
mod replay;
mod request;
mod route;
mod routes;
mod settings;
mod spool;
mod tables;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::Catalog;
use tidelake_core::ErrorKind;
use tidelake_core::ids::SharedIds;
use tidelake_log::{KafkaLog, LogClient};
use tidelake_manifest::SnapshotCache;
use tidelake_service::{
    HealthHandle, Pace, Running, Runtime, ServiceError, Shutdown, standard_routes,
};
use tidelake_storage::{Store, StoreOptions};
use tokio::net::TcpListener;

pub use settings::{IngestSettings, Settings, TableSettings};

use admission::Admission;
use log::{ClientLog, TableLog};
use metrics::GatewayMetrics;
use spool::SpoolBudget;
use tables::Tables;

/// Between two looks at whether the log answers, for `/readyz`.
const LOG_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What every request works with.
#[derive(Debug)]
struct Shared {
    tables: Arc<Tables>,
    log: Arc<dyn TableLog>,
    admission: Admission,
    spool: Arc<SpoolBudget>,
    metrics: GatewayMetrics,
    ids: SharedIds,
    ingest: IngestSettings,
    pace: Pace,
}

type Gateway = Arc<Shared>;

/// What services of one process may share.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub log: Arc<dyn LogClient>,
    pub snapshots: SnapshotCache,
    /// What is done through it whoever shares it sees at once; one of the service's own where absent.
    pub catalog: Option<Catalog>,
    /// How far the process's readers are; acknowledgements wait for them.
    pub pace: Pace,
}

/// Starts the gateway: reads the catalog, then listens. Ends when `runtime`'s shutdown is
/// requested and requests under way are answered.
///
/// # Errors
/// When the store can't be used or the address can't be listened on. A log that is away is no
/// error: the gateway is not ready until it answers.
pub async fn start(settings: Settings, runtime: Runtime) -> Result<Running, ServiceError> {
    let log = KafkaLog::new(settings.kafka.clone())
        .map_err(|error| caused(error.kind(), "the log's settings can't be used", error))?;
    let store = Store::open(&settings.store, &StoreOptions::default())
        .map_err(|error| caused(error.kind(), "the object store can't be opened", error))?;
    let snapshots = SnapshotCache::new(settings.tables.snapshot_cache_bytes_max);
    runtime.metrics.sampled_snapshot_cache(
        "gateway",
        &snapshots,
        |cache| cache.stats().events(),
        |cache| cache.stats().held(),
    );
    let parts = Parts {
        store,
        log: Arc::new(log),
        snapshots,
        catalog: None,
        // Nobody reads here: readers of other processes are not waited for.
        pace: Pace::default(),
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
    let (gateway, log) = assemble(&settings, &runtime, parts).await?;
    let listener = TcpListener::bind(&settings.listen).await.map_err(|error| {
        caused(
            ErrorKind::Invalid,
            format!("can't listen on {}", settings.listen),
            error,
        )
    })?;
    let address = listener.local_addr()?;
    let tables = Arc::clone(&gateway.tables);
    let give = tokio::spawn(tables::dead_letters::give_all(
        tables,
        runtime.shutdown.clone(),
    ));
    let sweep = tokio::spawn(tables::dropped::sweep_all(
        Arc::clone(&gateway.tables),
        runtime.shutdown.clone(),
    ));
    let router = routes::routes(gateway).merge(standard_routes("gateway", &runtime));
    let watch = tokio::spawn(watch_log(
        log,
        runtime.health.component("log"),
        runtime.shutdown.clone(),
    ));
    let (shutdown, http) = (runtime.shutdown.clone(), settings.http.clone());
    let task = tokio::spawn(async move {
        let served = tidelake_service::serve_with(listener, router, shutdown, &http).await;
        watch.abort();
        give.abort();
        sweep.abort();
        served.map_err(ServiceError::from)
    });
    tracing::info!(%address, "gateway listens");
    Ok(Running { address, task })
}

/// [`start`], then waits for the end.
///
/// # Errors
/// As [`start`], and what ended the gateway early.
pub async fn run(settings: Settings, runtime: Runtime) -> Result<(), ServiceError> {
    start(settings, runtime).await?.wait().await
}

async fn assemble(
    settings: &Settings,
    runtime: &Runtime,
    parts: Parts,
) -> Result<(Gateway, Arc<dyn TableLog>), ServiceError> {
    let Parts {
        store,
        log,
        snapshots,
        catalog,
        pace,
    } = parts;
    let log = ClientLog::new(log.as_ref())
        .map_err(|error| caused(error.kind(), "the log's settings can't be used", error))?;
    let log: Arc<dyn TableLog> = Arc::new(log);
    tidelake_storage::probe(&store, runtime.ids.as_ref())
        .await
        .map_err(|error| caused(error.kind(), "the object store can't be used", error))?;
    let over = (Arc::clone(&log), snapshots, catalog, pace);
    let gateway = gateway(settings, runtime, store, over).await?;
    Ok((gateway, log))
}

async fn gateway(
    settings: &Settings,
    runtime: &Runtime,
    store: Store,
    (log, snapshots, catalog, pace): (Arc<dyn TableLog>, SnapshotCache, Option<Catalog>, Pace),
) -> Result<Gateway, ServiceError> {
    let seams = (Arc::clone(&runtime.clock), Arc::clone(&runtime.ids));
    let counted = store.clone();
    runtime.metrics.sampled_counters(
        "tidelake_store_requests_total",
        "Requests to the object store.",
        "gateway",
        "operation",
        move || counted.requests().by_name(),
    );
    let catalog = match catalog {
        Some(catalog) => catalog,
        None => Catalog::open(&store, Arc::clone(&seams.0), Arc::clone(&seams.1))
            .await
            .map_err(|error| caused(error.kind(), "the catalog can't be read", error))?,
    };
    let prefix = settings.kafka.topic_prefix.clone();
    let tables = Tables::new(
        store,
        catalog,
        Arc::clone(&log),
        prefix,
        seams,
        settings.tables.clone(),
        snapshots,
    );
    let ingest = settings.ingest.clone();
    Ok(Arc::new(Shared {
        tables: Arc::new(tables),
        log,
        admission: Admission::new(&ingest),
        spool: SpoolBudget::new(
            ingest.spool_memory_bytes,
            ingest.spool_memory_bytes_total,
            ingest.spool_disk_bytes_total,
            ingest.spool_folder.clone(),
        ),
        metrics: GatewayMetrics::new(&runtime.metrics, &settings.metrics),
        ids: Arc::clone(&runtime.ids),
        ingest,
        pace,
    }))
}

/// Keeps the health component of the log true.
async fn watch_log(log: Arc<dyn TableLog>, health: HealthHandle, shutdown: Shutdown) {
    let mut looks = tokio::time::interval(LOG_LOOK_INTERVAL);
    while !shutdown.is_requested() {
        looks.tick().await;
        match log.alive().await {
            Ok(()) => health.ready(),
            Err(error) => health.not_ready(error.to_string()),
        }
    }
}

fn caused(
    kind: ErrorKind,
    what: impl Into<String>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> ServiceError {
    ServiceError::caused_by(kind, what, source)
}
