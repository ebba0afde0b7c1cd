//! The query API: SQL over a tenant's tables, committed rows and unflushed ones alike.
//!
//! ```text
//!  http      routes, requests, answers, problems               formats   bytes of an answer
//!    ▼
//!  engine    resolve, plan, run      lookup   rows by key       sql       what may be said
//!    ▼
//!  provider  prune, scan, changes, key history                 (DataFusion)
//!    ▼
//!  tail      rows behind the watermarks, where keys are
//!    ▼
//!  table     one version: its files, columns, footers
//!    ▼
//!  admission, wait, request, settings, metrics, problem, error
//! ```
//!
//! Owns the reading side of tables. Does not own what a row is (codec), what a version holds
//! (manifest) or how the log is reached (log). Nothing here writes but the names of snapshots.
//!
//! Invariants:
//! - a query reads each table at one version and, for `latest`, one position of each bucket; snapshot
//!   and tail meet at the watermark, so no row is missing and none comes twice;
//! - a query sees its tenant's tables and nothing else: no files, URLs, settings or other tenants;
//! - memory, time, rows and the number of queries are bounded by settings.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidelake_service::ServiceError> {
//! use tidelake_query_api::Settings;
//! let mut settings = Settings::default();
//! settings.store = "file:///var/lib/tidelake".into();
//! tidelake_query_api::run(settings, tidelake_service::Runtime::new()).await
//! # }
//! ```

mod admission;
mod engine;
mod error;
mod formats;
mod functions;
mod http;
mod lookup;
mod metrics;
mod moment;
mod problem;
mod provider;
mod request;
mod settings;
mod sql;
#[cfg(test)]
mod stop_tests;
mod table;
mod tail;
#[cfg(test)]
mod testing;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::Catalog;
use tidelake_core::ErrorKind;
use tidelake_log::{KafkaLog, LogAdmin, LogClient};
use tidelake_manifest::SnapshotCache;
use tidelake_service::{HealthHandle, Pace, Running, Runtime, ServiceError, Shutdown};
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::index::IndexHome;

pub use admission::{QueryId, QueryInfo};
pub use engine::{Answer, Engine, Parts, Prepared, SchemaFingerprint, StatementKind};
pub use error::{DataFault, PlanFault, QueryError};
pub use http::router;
pub use lookup::KeyedBatches;
pub use lookup::ask::{Ask as Lookup, Wanted as LookupKeys};
pub use lookup::serve::Answered as LookupAnswer;
pub use metrics::QueryMetrics;
pub use problem::{Condition, Entry, Grpc};
pub use request::{Consistency, Request, Seen, Tokens};
pub use settings::{QuerySettings, Settings};
pub use sql::{AsOf, TimeZone};
pub use tail::TailLog;

/// How often the log is asked whether it is there.
const LOG_CHECK: Duration = Duration::from_secs(10);

/// How long what is under way may go on when the process is to stop.
#[derive(Debug, Clone, Copy)]
struct Drain {
    /// Queries end by themselves, or as errors then.
    queries: Duration,
    /// Answers are taken, with the errors that they end in, or cut then.
    answers: Duration,
}

const DRAIN: Drain = Drain {
    queries: Duration::from_secs(4),
    answers: Duration::from_secs(5),
};

/// Starts the service and waits for its end.
///
/// # Errors
/// As [`start`], and what the service ended with.
pub async fn run(settings: Settings, runtime: Runtime) -> Result<(), ServiceError> {
    start(settings, runtime).await?.wait().await
}

/// What services of one process may share.
#[derive(Debug)]
pub struct Shared {
    pub store: Store,
    pub log: Arc<dyn LogClient>,
    pub snapshots: SnapshotCache,
    /// Who drops or makes tables through it is seen at once; one of the service's own where absent.
    pub catalog: Option<Catalog>,
    /// Where key indexes live; by the settings where absent.
    pub indexes: Option<IndexHome>,
    /// Where the process's writers see how far tails are.
    pub pace: Pace,
}

/// Starts the service; it runs until the runtime's shutdown is triggered. A log that does not answer
/// yet is no obstacle: `committed` queries do without.
///
/// # Errors
/// Settings that can't be used, a store that does not answer, an address that is taken.
pub async fn start(settings: Settings, runtime: Runtime) -> Result<Running, ServiceError> {
    if settings.store.is_empty() {
        let what = "setting store is missing: give the object store's URL";
        return Err(ServiceError::new(ErrorKind::Invalid, what));
    }
    let store = Store::open(&settings.store, &StoreOptions::default()).map_err(|error| {
        ServiceError::caused_by(error.kind(), "could not open the store", error)
    })?;
    let log = KafkaLog::new(settings.kafka.clone())
        .map_err(|error| ServiceError::caused_by(error.kind(), "could not reach the log", error))?;
    let snapshots = SnapshotCache::new(settings.query.snapshot_cache_bytes_max);
    runtime.metrics.sampled_snapshot_cache(
        "query",
        &snapshots,
        |cache| cache.stats().events(),
        |cache| cache.stats().held(),
    );
    let shared = Shared {
        store,
        log: Arc::new(log),
        snapshots,
        catalog: None,
        indexes: None,
        // Nobody writes here.
        pace: Pace::default(),
    };
    start_with(settings, runtime, shared).await
}

/// As [`start`], over parts that others of the process have as well.
///
/// # Errors
/// As [`start`].
pub async fn start_with(
    settings: Settings,
    runtime: Runtime,
    shared: Shared,
) -> Result<Running, ServiceError> {
    let store_health = runtime.health.component("store");
    let log_health = runtime.health.component("log");
    let Shared {
        store,
        log,
        snapshots,
        catalog,
        indexes,
        pace,
    } = shared;
    let catalog = match catalog {
        Some(catalog) => catalog,
        None => {
            let seams = (Arc::clone(&runtime.clock), Arc::clone(&runtime.ids));
            let opened = Catalog::open(&store, seams.0, seams.1).await;
            opened.map_err(|error| {
                ServiceError::caused_by(error.kind(), "could not read the catalog", error)
            })?
        }
    };
    let counted = store.clone();
    runtime.metrics.sampled_counters(
        "tidelake_store_requests_total",
        "Requests to the object store.",
        "query",
        "operation",
        move || counted.requests().by_name(),
    );
    store_health.ready();
    let tail = TailLog::new(log.as_ref(), &settings.kafka.topic_prefix);
    let engine = Engine::new(Parts {
        settings: settings.query,
        store,
        catalog,
        tail,
        snapshots,
        indexes,
        pace,
        clock: Arc::clone(&runtime.clock),
        ids: Arc::clone(&runtime.ids),
        metrics: QueryMetrics::new(&runtime.metrics),
    })
    .map_err(|error| ServiceError::caused_by(error.kind(), "could not start the engine", error))?;
    let listener = tokio::net::TcpListener::bind(&settings.listen)
        .await
        .map_err(|error| {
            let what = format!("could not listen on {}", settings.listen);
            ServiceError::caused_by(ErrorKind::Unavailable, what, error)
        })?;
    let address = listener.local_addr()?;
    let router = router(engine.clone(), &runtime);
    let shutdown = runtime.shutdown.clone();
    tokio::spawn(watch_log(log.admin(), log_health, shutdown.clone()));
    let serving = serve(listener, router, engine, shutdown, DRAIN);
    let task = tokio::spawn(async move { Ok(serving.await?) });
    Ok(Running { address, task })
}

/// Answers until the stop, and as long after it as `drain` says.
async fn serve(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    engine: Engine,
    shutdown: Shutdown,
    drain: Drain,
) -> std::io::Result<()> {
    tokio::spawn(end_queries(engine, shutdown.clone(), drain.queries));
    tidelake_service::serve_draining(listener, router, shutdown, drain.answers).await
}

/// Gives queries a while to end by themselves once the process is to stop.
async fn end_queries(engine: Engine, shutdown: Shutdown, after: Duration) {
    shutdown.requested().await;
    moment::reach(moment::now() + after).await;
    engine.close();
}

async fn watch_log(admin: Arc<dyn LogAdmin>, health: HealthHandle, shutdown: Shutdown) {
    loop {
        match admin.alive().await {
            Ok(()) => health.ready(),
            Err(error) => health.not_ready(error.to_string()),
        }
        let stopped = tokio::time::timeout(LOG_CHECK, shutdown.requested()).await;
        if stopped.is_ok() {
            return;
        }
    }
}
