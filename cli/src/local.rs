//! `tidelake local`: log, gateway, flusher, compactor and query service in one process, over one folder or, with
//! `--ephemeral`, in memory alone.
//!
//! ```text
//!  start: ground (folder or memory) ─► gateway, flusher, compactor, query ─► all ready: print the ready line
//!  stop:  gateway (takes no more) ─► flusher (flushes, commits) ─► compactor ─► query ─► ground
//! ```
//! Nothing that was acknowledged in a folder needs the orderly stop.

mod broker;
mod ground;
mod lock;
mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tidelake_core::ErrorKind;
use tidelake_service::telemetry::{self, LogFormat};
use tidelake_service::{HealthReport, Pace, Running, Runtime, ServiceError, Shutdown, program};

pub(crate) use lock::FolderLock;
pub(crate) use settings::LocalSettings;

use crate::failure::Failure;
use crate::moment;
use ground::Ground;

/// How long the services may take to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Whose log lines are of no use once the broker is stopped.
const LOG_CLIENTS: [&str; 2] = ["librdkafka", "rdkafka"];
/// Components that speak of single tables and partitions: one that stands still must not keep all
/// others from being served.
const PARTIAL: [&str; 2] = [broker::COMPONENT, "flusher"];

#[derive(Args, Debug, Default)]
pub(crate) struct LocalArgs {
    /// Folder for everything that is kept [default: ./tidelake-data]
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Keep everything in memory: no file is made, no Kafka port is opened, and all of it is gone
    /// when the process ends
    #[arg(long, conflicts_with_all = ["dir", "store", "kafka_port", "kafka_bootstrap"])]
    ephemeral: bool,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    listen: Option<IpAddr>,
    /// Port of the gateway; 0 picks a free one [default: 8080]
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// Port of the query service; 0 picks a free one [default: 8081]
    #[arg(long, value_name = "PORT")]
    query_port: Option<u16>,
    /// Port of the embedded broker; 0 picks a free one [default: 9092]
    #[arg(long, value_name = "PORT")]
    kafka_port: Option<u16>,
    /// Use this Kafka in place of the embedded broker
    #[arg(long, value_name = "HOST:PORT")]
    kafka_bootstrap: Option<String>,
    /// Object store [default: the folder's store/]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// YAML file with settings
    #[arg(long, value_name = "FILE", env = "TIDELAKE_CONFIG")]
    config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl LocalArgs {
    fn load(&self) -> Result<LocalSettings, Failure> {
        let overrides = json!({
            "dir": self.dir,
            "ephemeral": self.ephemeral.then_some(true),
            "listen": self.listen,
            "gateway_port": self.gateway_port,
            "query_port": self.query_port,
            "kafka_port": self.kafka_port,
            "kafka": { "bootstrap": self.kafka_bootstrap },
            "store": self.store,
        });
        let environment = program::environment();
        let settings: LocalSettings =
            tidelake_service::settings::load(self.config.as_deref(), environment, overrides)?;
        settings.check()?;
        Ok(settings)
    }
}

/// Runs until SIGINT or SIGTERM, or until a part fails.
pub(crate) async fn run(args: LocalArgs) -> Result<(), Failure> {
    let settings = args.load()?;
    let runtime = Runtime::new();
    runtime.shutdown.on_signals()?;
    let mut local = Local::start(settings, &runtime).await?;
    program::say(&local.places.ready_line());
    let failed = tokio::select! {
        () = runtime.shutdown.requested() => None,
        failure = local.failed() => Some(failure),
    };
    let stopped = local.stop().await;
    match failed {
        Some(failure) => Err(failure),
        None => stopped,
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub gateway: SocketAddr,
    pub query: SocketAddr,
    /// `host:port` of the broker in use; none where the log is in memory.
    pub kafka: Option<String>,
    /// URL of the object store.
    pub store: String,
}

impl Places {
    /// The log's address.
    pub(crate) fn kafka(&self) -> Result<&str, Failure> {
        let none = || Failure::usage("an ephemeral process has no Kafka port");
        self.kafka.as_deref().ok_or_else(none)
    }

    /// What a script waits for.
    pub(crate) fn ready_line(&self) -> String {
        let mut line = format!(
            "ready gateway=http://{} query=http://{}",
            self.gateway, self.query
        );
        if let Some(kafka) = &self.kafka {
            line.push_str(" kafka=");
            line.push_str(kafka);
        }
        line
    }
}

/// Everything, running.
#[derive(Debug)]
pub(crate) struct Local {
    pub places: Places,
    services: Vec<Service>,
    ground: Ground,
}

/// A service that can be stopped alone. The order in [`Local::services`] is the order of stopping.
#[derive(Debug)]
struct Service {
    name: &'static str,
    shutdown: Shutdown,
    running: Option<Running>,
}

impl Local {
    /// Starts everything and waits until all of it answers. What was started is stopped again when
    /// a later part can't be.
    pub(crate) async fn start(settings: LocalSettings, runtime: &Runtime) -> Result<Self, Failure> {
        let ground = Ground::open(&settings, runtime).await?;
        let unbound = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut local = Self {
            places: Places {
                gateway: unbound,
                query: unbound,
                kafka: ground.kafka.clone(),
                store: ground.store_url.clone(),
            },
            services: Vec::new(),
            ground,
        };
        let started = tokio::select! {
            started = local.start_services(&settings, runtime) => started,
            () = runtime.shutdown.requested() => Err(Failure::failed("asked to stop while starting")),
        };
        match started {
            Ok(()) => Ok(local),
            Err(failure) => {
                // The reason that counts is why it did not start.
                let _stopped = local.stop().await;
                Err(failure)
            }
        }
    }

    async fn start_services(
        &mut self,
        settings: &LocalSettings,
        runtime: &Runtime,
    ) -> Result<(), Failure> {
        let ground = &self.ground;
        // Services are given the log itself; in memory it has no address that could be told.
        let kafka = ground.kafka.clone().unwrap_or_default();
        let (folder, url) = (ground.folder(), ground.store_url.clone());
        let gateway = settings.gateway(&kafka, &url);
        let flusher = settings.flusher(folder, &kafka, &url);
        let compactor = settings.compactor(&url);
        let query = settings.query(folder, &kafka, &url);
        let (log, snapshots) = (&ground.log, &ground.snapshots);
        // One for both: a table that was dropped here is not read here any more.
        let catalog = ground.catalog(runtime).await?;
        // One for all: what is acknowledged here is read here.
        let pace = Pace::default();
        let gateway_parts = tidelake_ingest_gateway::Parts {
            store: ground.store()?,
            log: Arc::clone(log),
            snapshots: snapshots.clone(),
            catalog: Some(catalog.clone()),
            pace: pace.clone(),
        };
        let flusher_parts = tidelake_flusher::Parts {
            store: ground.store()?,
            log: Arc::clone(log),
            snapshots: snapshots.clone(),
            indexes: ground.indexes(),
        };
        let compactor_parts = tidelake_compactor::Parts {
            store: ground.store()?,
            snapshots: snapshots.clone(),
            catalog: Some(catalog.clone()),
        };
        let query_parts = tidelake_query_api::Shared {
            store: ground.store()?,
            log: Arc::clone(log),
            snapshots: snapshots.clone(),
            catalog: Some(catalog),
            indexes: ground.indexes(),
            pace,
        };

        let child = runtime.detached();
        let running =
            tidelake_ingest_gateway::start_with(gateway, child.clone(), gateway_parts).await;
        self.places.gateway = self.keep("gateway", child, running)?;

        let child = runtime.detached();
        let running = tidelake_flusher::start_with(flusher, child.clone(), flusher_parts).await;
        self.keep("flusher", child, running)?;

        let child = runtime.detached();
        let started =
            tidelake_compactor::start_with(compactor, child.clone(), compactor_parts).await;
        self.keep("compactor", child, started)?;

        let child = runtime.detached();
        let running = tidelake_query_api::start_with(query, child.clone(), query_parts).await;
        self.places.query = self.keep("query", child, running)?;
        self.wait_ready(runtime).await
    }

    fn keep(
        &mut self,
        name: &'static str,
        child: Runtime,
        started: Result<Running, ServiceError>,
    ) -> Result<SocketAddr, Failure> {
        let running = started.map_err(|error| {
            let failure = Failure::failed(format!("{name} did not start: {}", error.chain()));
            if error.chain().contains("in use") {
                failure.hint("something listens there already; port 0 picks a free one")
            } else {
                failure
            }
        })?;
        let address = running.address;
        self.services.push(Service {
            name,
            shutdown: child.shutdown,
            running: Some(running),
        });
        Ok(address)
    }

    async fn wait_ready(&mut self, runtime: &Runtime) -> Result<(), Failure> {
        let begun = moment::now();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                failure = self.failed() => return Err(failure),
            }
            let report = runtime.health.report();
            if !holds_up(&report) {
                if !report.ready {
                    tracing::warn!(reasons = reasons(&report), "not all tables go on");
                }
                return Ok(());
            }
            if begun.elapsed() > READY_MAX {
                return Err(Failure::failed(format!(
                    "not ready in time: {}",
                    reasons(&report)
                )));
            }
        }
    }

    /// Returns when a service has ended by itself, which none should.
    pub(crate) async fn failed(&mut self) -> Failure {
        let ends = self.services.iter_mut().filter_map(|service| {
            let running = service.running.as_mut()?;
            Some(Box::pin(async {
                let outcome = (&mut running.task).await;
                (service.name, outcome)
            }))
        });
        let ends: Vec<_> = ends.collect();
        if ends.is_empty() {
            return std::future::pending().await;
        }
        let ((name, outcome), ..) = futures::future::select_all(ends).await;
        // A task that is done must not be waited for again.
        for service in self
            .services
            .iter_mut()
            .filter(|service| service.name == name)
        {
            service.running = None;
        }
        match outcome {
            Ok(Ok(())) => Failure::failed(format!("{name} ended by itself")),
            Ok(Err(error)) => ended(name, &error),
            Err(error) => Failure::failed(format!("{name} died: {error}")),
        }
    }

    /// Stops one after the other; goes on after a failure and reports the first.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let mut first = Ok(());
        // Answers end while the gateway's writers do, not after them.
        for service in self
            .services
            .iter()
            .filter(|service| service.name == "query")
        {
            service.shutdown.trigger();
        }
        for service in self.services.drain(..) {
            service.shutdown.trigger();
            let Some(running) = service.running else {
                continue;
            };
            if let Err(error) = running.wait().await {
                tracing::error!(
                    service = service.name,
                    error = error.chain(),
                    "did not stop well"
                );
                first = first.and(Err(Failure::from(error)));
            }
        }
        // Clients that outlive the broker by a moment would tell of one that is down.
        telemetry::mute(&LOG_CLIENTS);
        first.and(self.ground.close().await)
    }
}

/// Why a service ended that should not have.
fn ended(name: &str, error: &ServiceError) -> Failure {
    let told = format!("{name} failed: {}", error.chain());
    if error.kind() != ErrorKind::Fenced {
        return Failure::failed(told);
    }
    let message =
        format!("another process with the same instance id took this one's place: {told}");
    Failure::failed(message).hint(
        "a copy of this folder runs with the same Kafka: let one of them run, or give the copy a \
         Kafka or flusher.instance_id of its own; nothing that was acknowledged is lost",
    )
}

/// True where a part is not there yet that everything needs.
fn holds_up(report: &HealthReport) -> bool {
    let mut away = report.components.iter().filter(|(_, part)| !part.ready);
    away.any(|(name, part)| !PARTIAL.contains(name) || part.reason.as_deref() == Some("starting"))
}

fn reasons(report: &HealthReport) -> String {
    let waiting = report.components.iter().filter(|(_, part)| !part.ready);
    let parts = waiting.map(|(name, part)| {
        format!(
            "{name} ({})",
            part.reason.as_deref().unwrap_or("no reason given")
        )
    });
    parts.collect::<Vec<_>>().join(", ")
}
