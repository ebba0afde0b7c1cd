//! The one loop that owns every bucket of this flusher.
//!
//! It runs on a thread of its own, because decoding is work: other tasks of the process go on
//! meanwhile. Encoding and committing are tasks ([`Job`]), one at a time for a table.

mod assign;
mod flush;
mod report;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelake_core::{Bucket, ErrorKind, Offset};
use tidelake_log::{ConsumerSettings, Event, GroupConsumer, LogError, MessageBatch, Start};
use tidelake_log::{TopicBucket, topics};
use tidelake_manifest::Snapshot;
use tidelake_service::{HealthHandle, Runtime, ServiceError};
use tokio::sync::{mpsc, oneshot};

use crate::Settings;
use crate::bucket::BucketState;
use crate::budget::{Budget, Change};
use crate::due::{Limits, Load, Reason, due};
use crate::job::{Ended, Job, Workbench, chain};
use crate::keyed::Keyed;
use crate::table::{OpenError, OpenTable};

const TICK: Duration = Duration::from_millis(50);
/// While nothing is buffered or under way: what comes wakes the loop at once.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// Between two tries to open the table of a parked bucket.
const REOPEN: Duration = Duration::from_secs(1);
/// How long a revocation waits for its flush.
const RELEASE_MAX: Duration = Duration::from_secs(10);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    ended: oneshot::Receiver<Result<(), ServiceError>>,
}

impl Worker {
    /// Joins the group and begins.
    pub fn start(
        settings: Settings,
        runtime: Runtime,
        bench: Workbench,
    ) -> Result<Self, ServiceError> {
        let instance = settings.instance_id.clone();
        let consumer_settings = ConsumerSettings {
            group: settings.group.clone(),
            instance_id: (!instance.is_empty()).then_some(instance),
            visited_topic: topics::commits_topic(&settings.kafka.topic_prefix),
            subscription: topics::table_topics_pattern(&settings.kafka.topic_prefix),
            prefetch_kib_max: (settings.prefetch_bytes_max / 1024).max(1024),
            discovery: Duration::from_millis(settings.discovery_ms.max(10)),
        };
        let consumer = GroupConsumer::start(&settings.kafka, &consumer_settings)
            .map_err(|error| ServiceError::caused_by(error.kind(), "join the group", error))?;
        let (results, jobs) = mpsc::unbounded_channel();
        let (opened_sender, opened) = mpsc::unbounded_channel();
        let health = runtime.health.component("flusher");
        health.ready();
        let budget = Budget::new(settings.memory_bytes_max);
        let owner = Owner {
            limits: Limits {
                flush_bytes: settings.flush_bytes,
                flush_age: Duration::from_millis(settings.flush_age_ms),
                pressure_bytes: budget.pressure_bytes(),
                draining: false,
            },
            budget,
            settings,
            runtime,
            bench,
            health,
            tables: HashMap::new(),
            buckets: HashMap::new(),
            parked: HashMap::new(),
            stopped: HashMap::new(),
            leaving: None,
            results,
            opened: opened_sender,
        };
        let (sender, ended) = oneshot::channel();
        let handle = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("flusher".into())
            .spawn(move || {
                let outcome = handle.block_on(owner.run(consumer, jobs, opened));
                let _gone = sender.send(outcome);
            })
            .map_err(ServiceError::from)?;
        Ok(Self { ended })
    }

    /// Waits for the end of the worker.
    pub async fn wait(self) -> Result<(), ServiceError> {
        self.ended
            .await
            .unwrap_or_else(|_| Err(ServiceError::new(ErrorKind::Bug, "the flusher's loop died")))
    }
}

struct TableSlot {
    table: Arc<OpenTable>,
    snapshot: Arc<Snapshot>,
    /// Of upsert tables.
    keyed: Option<Arc<Keyed>>,
    /// Memory of the flush under way.
    in_flight: Option<usize>,
}

struct Leaving {
    buckets: HashSet<TopicBucket>,
    deadline: Instant,
}

struct JobResult {
    topic: Arc<str>,
    ended: Ended,
}

struct Opened {
    topic: Arc<str>,
    buckets: Vec<Bucket>,
    first: bool,
    result: Result<(OpenTable, Arc<Snapshot>), OpenError>,
}

/// What the loop owns.
struct Owner {
    settings: Settings,
    runtime: Runtime,
    bench: Workbench,
    health: HealthHandle,
    budget: Budget,
    limits: Limits,
    tables: HashMap<Arc<str>, TableSlot>,
    buckets: HashMap<TopicBucket, BucketState>,
    /// Assigned, but their table could not be opened yet; when to try again.
    parked: HashMap<TopicBucket, Instant>,
    /// Can't go on without help, and why.
    stopped: HashMap<TopicBucket, String>,
    leaving: Option<Leaving>,
    results: mpsc::UnboundedSender<JobResult>,
    opened: mpsc::UnboundedSender<Opened>,
}

impl Owner {
    async fn run(
        mut self,
        mut consumer: GroupConsumer,
        mut jobs: mpsc::UnboundedReceiver<JobResult>,
        mut opened: mpsc::UnboundedReceiver<Opened>,
    ) -> Result<(), ServiceError> {
        let mut ticked = Instant::now();
        let shutdown = self.runtime.shutdown.clone();
        let mut drain_until: Option<Instant> = None;
        let mut failure = None;
        loop {
            let pause = if self.is_quiet() { QUIET_TICK } else { TICK };
            let wake = tokio::time::Instant::from_std(ticked + pause);
            tokio::select! {
                biased;
                () = shutdown.requested(), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + self.settings.drain());
                    self.drain();
                }
                Some(result) = jobs.recv() => self.job_ended(result, &consumer),
                Some(result) = opened.recv() => self.table_opened(result, &consumer),
                event = consumer.next() => match event {
                    Some(Event::Ended(error)) => {
                        failure = Some(error);
                        break;
                    }
                    Some(event) => self.on_event(event, &consumer),
                    None => break,
                },
                _ = tokio::time::timeout_at(wake, std::future::pending::<()>()) => {
                    ticked = Instant::now();
                    self.tick(&consumer);
                }
            }
            self.flush_what_is_due(&consumer);
            if let Some(deadline) = drain_until
                && (self.is_drained() || Instant::now() >= deadline)
            {
                break;
            }
        }
        if !self.is_drained() {
            tracing::warn!("stopping with rows in memory: they are read from the log again");
        }
        consumer.close().await;
        match failure {
            None => Ok(()),
            Some(error) => Err(ended_by(error)),
        }
    }

    fn on_event(&mut self, event: Event, consumer: &GroupConsumer) {
        match event {
            Event::Messages(batch) => self.take(&batch),
            Event::Assigned(buckets) => {
                self.bench.metrics.rebalances.inc();
                self.assigned(buckets, consumer);
            }
            Event::Restarted(buckets) => {
                for at in &buckets {
                    if let Some(state) = self.buckets.get_mut(at) {
                        state.muted = false;
                    }
                }
            }
            Event::Revoked(buckets) => {
                self.bench.metrics.rebalances.inc();
                self.revoked(buckets);
            }
            Event::Failed(at, error) => self.bucket_failed(at, &error),
            Event::Trouble { at, error } => match error {
                Some(error) => tracing::warn!(bucket = ?at, %error, "the log does not go on"),
                None => tracing::info!(bucket = ?at, "the log goes on"),
            },
            Event::TopicChanged { topic, info } => {
                tracing::debug!(%topic, ?info, "what the topic is now");
            }
            Event::Ended(_) => {}
        }
    }

    fn take(&mut self, batch: &MessageBatch) {
        let now = Instant::now();
        let mut at = TopicBucket {
            topic: Arc::from(""),
            bucket: Bucket(0),
        };
        for run in batch.runs() {
            if *at.topic != *run.topic {
                at.topic = Arc::from(run.topic);
            }
            at.bucket = run.bucket;
            let Some(state) = self.buckets.get_mut(&at) else {
                continue;
            };
            match state.take(&run, now) {
                Ok(taken) if taken.messages > 0 => {
                    let Some(slot) = self.tables.get(&at.topic) else {
                        continue;
                    };
                    let id = &slot.table.entry.id;
                    let labels = [id.tenant.as_str(), id.table.as_str()];
                    let metrics = &self.bench.metrics;
                    metrics
                        .records
                        .with_label_values(&labels)
                        .inc_by(taken.rows);
                    metrics.bytes.with_label_values(&labels).inc_by(taken.bytes);
                    if taken.skipped > 0 {
                        tracing::warn!(bucket = %at, offsets = taken.skipped, "gap in the log");
                        metrics
                            .skipped
                            .with_label_values(&labels)
                            .inc_by(taken.skipped);
                    }
                    if taken.strays > 0 {
                        metrics
                            .strays
                            .with_label_values(&labels)
                            .inc_by(taken.strays);
                    }
                    if taken.repeated > 0 {
                        metrics
                            .repeated
                            .with_label_values(&labels)
                            .inc_by(taken.repeated);
                    }
                    if taken.rejected > 0 {
                        metrics
                            .dead_letters
                            .with_label_values(&labels)
                            .inc_by(taken.rejected);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let why = chain(&error);
                    self.stop(&at, why);
                }
            }
        }
    }
}

fn ended_by(error: LogError) -> ServiceError {
    ServiceError::caused_by(error.kind(), "the log consumer ended", error)
}
