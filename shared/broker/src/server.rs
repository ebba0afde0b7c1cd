//! The broker as a whole: start, accept, keep house, stop.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connection;
use crate::damage::OfflinePartition;
use crate::error::BrokerError;
use crate::folder;
use crate::group::coordinator::Coordinator;
use crate::group::offsets::OffsetStore;
use crate::group::shares::CoordinatorUse;
use crate::identity::Identity;
use crate::memory::{RequestMemory, budget};
use crate::partition::PartitionContext;
use crate::segment::{Check, OpenFiles};
use crate::settings::BrokerSettings;
use crate::state::BrokerState;
use crate::time;
use crate::topic_config::ConfigDefaults;
use crate::topics::Topics;

/// How long a stop waits for clients to take their answers.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How long accepting rests after it failed, for example for want of file handles.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A running broker. Dropping it stops it without waiting; [`Broker::shutdown`] is the orderly way.
#[derive(Debug)]
pub struct Broker {
    pub(crate) state: Arc<BrokerState>,
    accepting: JoinHandle<()>,
    housekeeping: JoinHandle<()>,
    coordinating: JoinHandle<()>,
    /// Held open, and with it locked, as long as the broker runs.
    lock: File,
}

impl Broker {
    /// Recovers what the folder holds and starts to serve. Runs on the caller's runtime.
    pub async fn start(settings: BrokerSettings) -> Result<Self, BrokerError> {
        let listen = settings.listen;
        let runtime = Handle::current();
        let recover = tokio::task::spawn_blocking(move || Recovered::open(settings, runtime));
        let recovered = recover.await.map_err(|error| BrokerError::Corrupt {
            path: listen.to_string().into(),
            reason: format!("recovery failed: {error}"),
        })??;
        let listen_error = |source| BrokerError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let (state, lock) = recovered.into_state(address);
        tracing::info!(%address, dir = ?state.settings.dir, "broker serves");
        Ok(Self {
            accepting: tokio::spawn(accept(Arc::clone(&state), listener)),
            housekeeping: tokio::spawn(keep_house(Arc::clone(&state))),
            coordinating: tokio::spawn({
                let state = Arc::clone(&state);
                async move { state.coordinator.run(state.stopping.clone()).await }
            }),
            state,
            lock,
        })
    }

    /// Where it listens, and what clients are told.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// Partitions that refuse every request, and why; [`repair`](crate::repair) is what helps.
    pub fn offline_partitions(&self) -> Vec<OfflinePartition> {
        self.state.topics.offline()
    }

    /// How much of what consumer groups may take is taken. Beyond 80 % a warning is logged.
    pub fn coordinator_use(&self) -> Vec<CoordinatorUse> {
        self.state.coordinator.in_use()
    }

    /// Stops listening, answers what is under way, and leaves every file durable and closed.
    pub async fn shutdown(mut self) -> Result<(), BrokerError> {
        self.state.stopping.cancel();
        for task in [
            &mut self.accepting,
            &mut self.housekeeping,
            &mut self.coordinating,
        ] {
            if let Err(error) = task.await {
                tracing::error!(%error, "task of the broker failed");
            }
        }
        let partitions = self.state.topics.partitions();
        for partition in &partitions {
            partition.close().await;
        }
        self.state.coordinator.offsets().settle().await;
        let dir = self.state.settings.dir.clone();
        let folder = dir.clone();
        let sealed = tokio::task::spawn_blocking(move || {
            partitions
                .iter()
                .try_for_each(|partition| partition.seal())?;
            folder::mark_clean(&folder)
        });
        let sealed = sealed
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let unlocked = self.lock.unlock();
        sealed.and(unlocked).map_err(BrokerError::io(dir))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.state.stopping.cancel();
    }
}

/// Everything but the address.
struct Recovered {
    settings: BrokerSettings,
    identity: Identity,
    topics: Topics,
    offsets: OffsetStore,
    lock: File,
}

impl Recovered {
    fn open(settings: BrokerSettings, runtime: Handle) -> Result<Self, BrokerError> {
        let dir = &settings.dir;
        fs::create_dir_all(dir).map_err(BrokerError::io(dir))?;
        let lock = folder::lock(dir)?;
        let check = match folder::take_clean_mark(dir)? {
            true => Check::Nothing,
            false => Check::Until(time::now() + settings.recovery_check_max),
        };
        let identity = Identity::open(dir, settings.ids.as_ref())?;
        let offsets = OffsetStore::open(dir, runtime.clone(), settings.fsync)?;
        let context = Arc::new(PartitionContext {
            disk: Arc::clone(&settings.disk),
            clock: Arc::clone(&settings.clock),
            runtime,
            files: OpenFiles::new(settings.open_files_max.min(folder::handles_max() / 4)),
            check,
            fsync: settings.fsync,
            flush_linger: settings.flush_linger,
            tail_bytes_max: settings.tail_bytes_max,
            partition_tail_bytes_max: settings.partition_tail_bytes_max,
            tail_bytes: AtomicUsize::new(0),
        });
        let defaults = ConfigDefaults {
            retention_ms: settings.default_retention_ms,
            segment_bytes_max: settings.segment_bytes_max,
            message_bytes_max: settings.message_bytes_max,
        };
        let topics = Topics::open(dir, defaults, context)?;
        Ok(Self {
            settings,
            identity,
            topics,
            offsets,
            lock,
        })
    }

    fn into_state(self, address: SocketAddr) -> (Arc<BrokerState>, File) {
        let state = BrokerState {
            address,
            identity: self.identity,
            topics: Arc::new(self.topics),
            coordinator: Coordinator::new(self.offsets, self.settings.group_initial_delay),
            request_memory: RequestMemory::new(self.settings.inflight_bytes_max),
            fetch_budget: budget(self.settings.fetch_inflight_bytes_max),
            unpacking: Arc::new(Semaphore::new(processors())),
            stopping: CancellationToken::new(),
            settings: self.settings,
        };
        (Arc::new(state), self.lock)
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

async fn accept(state: Arc<BrokerState>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    // Sockets must leave handles for the files.
    let connections_max = state
        .settings
        .connections_max
        .min(folder::handles_max() / 2);
    while let Some(accepted) = state.stopping.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((_, peer)) if connections.len() >= connections_max => {
                tracing::warn!(%peer, "connection refused: there are connections_max already");
            }
            Ok((stream, peer)) => {
                connections.spawn(connection::serve(Arc::clone(&state), stream, peer));
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                let rest = timeout(ACCEPT_REST, std::future::pending::<()>());
                _ = state.stopping.run_until_cancelled(rest).await;
            }
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_MAX, finish).await.is_err() {
        tracing::warn!("clients that do not take their answers are cut off");
        connections.shutdown().await;
    }
}

/// Retention, now and then.
async fn keep_house(state: Arc<BrokerState>) {
    let interval = state.settings.retention_interval;
    let pause = || timeout(interval, std::future::pending::<()>());
    while state.stopping.run_until_cancelled(pause()).await.is_some() {
        let topics = Arc::clone(&state.topics);
        let retention = tokio::task::spawn_blocking(move || {
            topics
                .partitions()
                .iter()
                .for_each(|partition| partition.enforce_retention());
        });
        if let Err(error) = retention.await {
            tracing::error!(%error, "retention failed");
        }
        let now_ms = state.settings.clock.now_ms();
        let changes = state.coordinator.offsets_housekeeping(now_ms);
        if !state.coordinator.offsets().apply(changes).await {
            tracing::warn!("stale committed offsets not removed");
        }
    }
}
