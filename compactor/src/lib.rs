//! The compactor: rewrites the small and worn files of tables into fewer and larger ones, while
//! flushers commit and queries read.
//!
//! ```text
//!  catalog ─► each table with a new version ─ plan ─► files to rewrite ─► tidelake_table::Rewrite ─► commit
//! ```
//! Owns which files are rewritten ([`plan`]), when, and what becomes of rewrites that fail. How rows
//! are written anew, and how that is committed beside others, is `tidelake_table`'s. Nobody needs
//! the compactor for anything to be right, and two that do the same job can't hurt: one of them finds
//! its files gone.
//!
//! Invariants: one rewrite at a time in a process, within the memory of its settings; a table whose
//! rewrites fail keeps no other one from its turn, and is tried again; a table without new versions
//! costs next to nothing.

mod metrics;
pub mod plan;
mod settings;
mod time;
mod worker;

use std::sync::Arc;

use tidelake_catalog::Catalog;
use tidelake_core::ErrorKind;
use tidelake_manifest::SnapshotCache;
use tidelake_service::{Running, Runtime, ServiceError, serve, standard_routes};
use tidelake_storage::{Store, StoreOptions};
use tokio::net::TcpListener;

pub use settings::Settings;

use metrics::CompactorMetrics;
use worker::Worker;

/// What services of one process may share.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub snapshots: SnapshotCache,
    /// Of a process whose other services keep it fresh, and tell the cache of what they commit: then
    /// nothing is asked of the store to find work. None: a catalog of its own, and tables are looked
    /// at in turn.
    pub catalog: Option<Catalog>,
}

/// Starts a compactor.
///
/// # Errors
/// Settings that can't work, a store that can't be opened, an address that is taken.
pub async fn start(settings: Settings, runtime: Runtime) -> Result<Running, ServiceError> {
    let store = Store::open(&settings.store, &StoreOptions::default())
        .map_err(|error| ServiceError::caused_by(error.kind(), "open the object store", error))?;
    let snapshots = SnapshotCache::new(settings.snapshot_cache_bytes_max);
    runtime.metrics.sampled_snapshot_cache(
        "compactor",
        &snapshots,
        |cache| cache.stats().events(),
        |cache| cache.stats().held(),
    );
    let parts = Parts {
        store,
        snapshots,
        catalog: None,
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
    let listener = TcpListener::bind(&settings.listen).await.map_err(|error| {
        let what = format!("listen on {}", settings.listen);
        ServiceError::caused_by(ErrorKind::Unavailable, what, error)
    })?;
    let address = listener.local_addr()?;
    let worker = worker(settings, &runtime, parts).await?;
    let router = standard_routes("compactor", &runtime);
    let task = tokio::spawn(async move {
        let http = tokio::spawn(serve(listener, router, runtime.shutdown.clone()));
        worker.run().await;
        http.await
            .map_err(|error| ServiceError::new(ErrorKind::Bug, error.to_string()))?
            .map_err(ServiceError::from)
    });
    Ok(Running { address, task })
}

/// A compactor that is one future of its caller's runtime, without a listener: for a simulation, and
/// for whoever has doors of his own.
///
/// # Errors
/// As [`start`].
pub async fn run_in_place(
    settings: Settings,
    runtime: Runtime,
    parts: Parts,
) -> Result<(), ServiceError> {
    worker(settings, &runtime, parts).await?.run().await;
    Ok(())
}

async fn worker(
    settings: Settings,
    runtime: &Runtime,
    parts: Parts,
) -> Result<Worker, ServiceError> {
    settings
        .check()
        .map_err(|why| ServiceError::new(ErrorKind::Invalid, why))?;
    let Parts {
        store,
        snapshots,
        catalog,
    } = parts;
    tidelake_storage::probe(&store, runtime.ids.as_ref())
        .await
        .map_err(|error| ServiceError::caused_by(error.kind(), "use the object store", error))?;
    let is_alone = catalog.is_none();
    let catalog = match catalog {
        Some(catalog) => catalog,
        None => Catalog::open(&store, runtime.clock.clone(), runtime.ids.clone())
            .await
            .map_err(|error| ServiceError::caused_by(error.kind(), "open the catalog", error))?,
    };
    if is_alone {
        let counted = store.clone();
        runtime.metrics.sampled_counters(
            "tidelake_store_requests_total",
            "Requests to the object store.",
            "compactor",
            "operation",
            move || counted.requests().by_name(),
        );
    }
    let metrics = CompactorMetrics::new(&runtime.metrics);
    let health = runtime.health.component("compactor");
    health.ready();
    Ok(Worker::new(
        settings,
        runtime.clone(),
        worker::Sources {
            store,
            snapshots,
            catalog,
            is_alone,
        },
        Arc::new(metrics),
    ))
}
