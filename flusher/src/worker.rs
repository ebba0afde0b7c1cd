//! The one loop that owns every bucket of this flusher.
//!
//! It runs on a thread of its own, because decoding is work: other tasks of the process go on
//! meanwhile. It decides nothing: events go to [`Seats`], whose commands it carries out. Encoding
//! and committing are tasks ([`Job`](crate::flush::Job)), looking tables up too; all report through
//! one bounded channel.
//!
//! Invariants:
//! - the clock ticks however busy the log is;
//! - a bucket takes messages in only once every restart that was asked for has happened: what comes
//!   before that is from another position.

mod carry;
mod ends;
mod flights;
mod hear;
mod patrol;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, ErrorKind, Offset};
use tidelake_log::{ConsumerSettings, Event as LogEvent, GroupLog, LogClient, LogError};
use tidelake_log::{MessageBatch, TopicBucket, TopicInfo, topics};
use tidelake_manifest::Snapshot;
use tidelake_service::{HealthHandle, Runtime, ServiceError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::Settings;
use crate::bucket::{BucketState, Taken};
use crate::budget::Budget;
use crate::due::Limits;
use crate::flush::{Ended, Upserts, Workbench};
use crate::freshness::{Behind, Progress};
use crate::instance::{Instance, NAMELESS};
use crate::opener::{OpenError, OpenTable, Opened};
use crate::policy::{Cause, Moment, Trouble, chain};
use crate::seats::{Event, Seats};
use crate::time::{Stopwatch, pass};

const TICK: Duration = Duration::from_millis(50);
/// While a flush that was asked for waits for markers.
const MARKERS_TICK: Duration = Duration::from_millis(10);
/// While nothing is buffered or under way: what comes wakes the loop at once.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// Reports of tasks that wait for the loop.
const NEWS_MAX: usize = 64;

use ends::{Looked, Turns};
use patrol::{Patrol, Patrolled};

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    ended: oneshot::Receiver<Result<(), ServiceError>>,
}

impl Worker {
    /// Joins the group and begins, on a thread of its own.
    pub(crate) fn start(
        settings: Settings,
        runtime: Runtime,
        bench: Workbench,
        log: &dyn LogClient,
    ) -> Result<Self, ServiceError> {
        let joined = Joined::new(settings, runtime, bench, log)?;
        let (sender, ended) = oneshot::channel();
        let handle = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("flusher".into())
            .spawn(move || {
                let outcome = handle.block_on(joined.run());
                let _gone = sender.send(outcome);
            })
            .map_err(ServiceError::from)?;
        Ok(Self { ended })
    }

    /// Waits for the end of the worker.
    pub(crate) async fn wait(self) -> Result<(), ServiceError> {
        self.ended.await.unwrap_or_else(|_| {
            let kind = tidelake_core::ErrorKind::Bug;
            Err(ServiceError::new(kind, "the flusher's loop died"))
        })
    }
}

/// A loop that has joined its group and has not begun.
pub(crate) struct Joined {
    owner: Owner,
    consumer: Box<dyn GroupLog>,
    told: mpsc::Receiver<News>,
    /// The name is this process's until its loop is over.
    instance: Option<Instance>,
}

impl Joined {
    /// Joins the group.
    pub(crate) fn new(
        settings: Settings,
        runtime: Runtime,
        bench: Workbench,
        log: &dyn LogClient,
    ) -> Result<Self, ServiceError> {
        let group = bench.opener.group.name().to_owned();
        let instance = instance(&settings, &group, &runtime);
        let prefetch_bytes = settings.prefetch_bytes();
        let consumer_settings = ConsumerSettings {
            group,
            instance_id: match settings.instance_id.as_str() {
                "" => instance.as_ref().map(|instance| instance.name.clone()),
                NAMELESS => None,
                name => Some(name.to_owned()),
            },
            // Who gives a flusher a name of its own wants its buckets to wait for it.
            leaves: matches!(settings.instance_id.as_str(), "" | NAMELESS),
            visited_topic: match &instance {
                Some(instance) if instance.is_new => String::new(),
                _ => topics::commits_topic(&settings.kafka.topic_prefix),
            },
            subscription: topics::table_topics_pattern(&settings.kafka.topic_prefix),
            prefetch_kib_max: prefetch_bytes / 1024,
            discovery: Duration::from_millis(settings.discovery_ms.max(10)),
        };
        let consumer = log
            .join(&consumer_settings)
            .map_err(|error| ServiceError::caused_by(error.kind(), "join the group", error))?;
        let (news, told) = mpsc::channel(NEWS_MAX);
        let health = runtime.health.component("flusher");
        health.ready();
        let budget = Budget::new(settings.memory_bytes_max, settings.aside_bytes());
        let limits = Limits {
            flush_bytes: settings.flush_bytes,
            flush_age: Duration::from_millis(settings.flush_age_ms),
            flush_age_max: settings.flush_age_max(),
            draining: false,
        };
        let owner = Owner {
            seats: Seats::new(limits, budget, &settings.kafka.topic_prefix),
            settings,
            runtime,
            bench,
            health,
            begun: Stopwatch::start(),
            tables: HashMap::new(),
            buckets: HashMap::new(),
            restarts: HashMap::new(),
            progress: HashMap::new(),
            ends: HashMap::new(),
            looked_at: Moment::ZERO,
            looking: false,
            report_at: Moment::ZERO,
            log_away: None,
            shown: BTreeSet::new(),
            turns: Turns::default(),
            patrol: Patrol::default(),
            news,
        };
        Ok(Self {
            owner,
            consumer,
            told,
            instance,
        })
    }

    /// Runs the loop to its end.
    pub(crate) async fn run(self) -> Result<(), ServiceError> {
        let folder = self.owner.settings.index_folder();
        let outcome = self.owner.run(self.consumer, self.told).await;
        match (outcome, self.instance) {
            (Err(error), Some(instance)) if error.kind() == ErrorKind::Fenced => {
                Err(fenced(&instance, &folder, error))
            }
            (outcome, _) => outcome,
        }
    }
}

/// Nobody chose the name that another has too: the next start has one of its own.
fn fenced(instance: &Instance, folder: &Path, error: ServiceError) -> ServiceError {
    let what = match instance.forget() {
        Ok(()) => format!(
            "another flusher has the name that {} keeps, perhaps a copy of the folder: it is thrown \
             away, start again",
            folder.display()
        ),
        Err(failure) => format!(
            "another flusher has the name that {} keeps, perhaps a copy of the folder, and it can't \
             be thrown away ({failure}): give this one a folder or an instance_id of its own",
            folder.display()
        ),
    };
    ServiceError::caused_by(ErrorKind::Fenced, what, error)
}

/// The name that the folder of key indexes gives, unless one is set.
fn instance(settings: &Settings, group: &str, runtime: &Runtime) -> Option<Instance> {
    if !settings.instance_id.is_empty() {
        return None;
    }
    let folder = settings.index_folder();
    match Instance::of(&folder, group, runtime.ids.as_ref()) {
        Ok(instance) => Some(instance),
        Err(error) => {
            tracing::warn!(
                folder = %folder.display(), %error,
                "this flusher has no name to come back by: after a crash its buckets wait for its \
                 session's time-out"
            );
            None
        }
    }
}

/// What the loop knows of a table.
struct TableSlot {
    table: Arc<OpenTable>,
    snapshot: Arc<Snapshot>,
    /// Of upsert tables.
    upserts: Option<Arc<Upserts>>,
    /// What the seats know of the memory of its key indexes.
    index_told: usize,
    /// Tells the flush under way to give way.
    give_way: Option<watch::Sender<bool>>,
}

/// What tasks report.
enum News {
    Opened {
        topic: Arc<str>,
        attempt: u64,
        buckets: Vec<Bucket>,
        result: Result<Opened, OpenError>,
    },
    FlushFailing(Arc<str>, Trouble),
    FlushEnded(Arc<str>, Arc<OpenTable>, Ended),
    Looked(Looked),
    Patrolled(Patrolled),
}

/// What the loop owns.
struct Owner {
    settings: Settings,
    runtime: Runtime,
    bench: Workbench,
    health: HealthHandle,
    begun: Stopwatch,
    seats: Seats,
    tables: HashMap<Arc<str>, TableSlot>,
    buckets: HashMap<TopicBucket, BucketState>,
    /// Restarts that were asked for and have not happened yet.
    restarts: HashMap<TopicBucket, u32>,
    progress: HashMap<TopicBucket, Progress>,
    ends: HashMap<TopicBucket, Offset>,
    /// When ends were last asked for, and whether somebody still does.
    looked_at: Moment,
    looking: bool,
    turns: Turns,
    report_at: Moment,
    /// Why the log as a whole does not go on.
    log_away: Option<Trouble>,
    /// Stopped tables as the metrics show them.
    shown: BTreeSet<(Arc<str>, &'static str)>,
    patrol: Patrol,
    news: mpsc::Sender<News>,
}

impl Owner {
    async fn run(
        mut self,
        mut consumer: Box<dyn GroupLog>,
        mut told: mpsc::Receiver<News>,
    ) -> Result<(), ServiceError> {
        let mut ticked = self.now();
        let shutdown = self.runtime.shutdown.clone();
        let mut drain_until: Option<Moment> = None;
        let mut failure = None;
        loop {
            let pause = self.pause();
            let wait = (ticked + pause).saturating_sub(self.now());
            tokio::select! {
                biased;
                () = shutdown.requested(), if drain_until.is_none() => {
                    drain_until = Some(self.now() + self.settings.drain());
                    self.drain(&*consumer);
                }
                Some(news) = told.recv() => self.on_news(news, &*consumer),
                event = consumer.next() => match event {
                    Some(LogEvent::Ended(error)) => {
                        failure = Some(error);
                        break;
                    }
                    Some(event) => self.on_log_event(event, &*consumer),
                    None => break,
                },
                () = pass(wait) => {}
            }
            // Not a branch of its own: the one before it may be ready for hours.
            if self.now() >= ticked + pause {
                ticked = self.now();
                self.tick(&*consumer);
            }
            if let Some(deadline) = drain_until
                && (self.seats.is_drained() || self.now() >= deadline)
            {
                break;
            }
        }
        if !self.seats.is_drained() {
            tracing::warn!("stopping with rows in memory: they are read from the log again");
        }
        consumer.close().await;
        match failure {
            None => Ok(()),
            Some(error) => Err(ended_by(error)),
        }
    }

    /// Between two ticks.
    fn pause(&self) -> Duration {
        if self.seats.awaits_markers() {
            MARKERS_TICK
        } else if self.seats.is_quiet() {
            QUIET_TICK
        } else {
            TICK
        }
    }

    fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    /// Tells the seats, and does what they say.
    fn on(&mut self, event: Event, consumer: &dyn GroupLog) {
        let commands = self.seats.on(event, self.now());
        self.carry(commands, consumer);
    }

    fn drain(&mut self, consumer: &dyn GroupLog) {
        self.health.not_ready("shutting down");
        for state in self.buckets.values_mut() {
            state.muted = true;
        }
        self.on(Event::Drain, consumer);
    }
}

fn ended_by(error: LogError) -> ServiceError {
    ServiceError::caused_by(error.kind(), "the log consumer ended", error)
}

#[cfg(test)]
mod tests;
