//! The one loop that owns every bucket of this flusher.
//!
//! It runs on a thread of its own, because decoding is work: other tasks of the process go on
//! meanwhile. Encoding and committing are tasks ([`Job`]), one at a time for a table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelake_core::{Bucket, ErrorKind, Offset, Watermark};
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
use crate::table::{OpenError, OpenTable};

const TICK: Duration = Duration::from_millis(50);
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
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shutdown = self.runtime.shutdown.clone();
        let mut drain_until: Option<Instant> = None;
        let mut failure = None;
        loop {
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
                _ = tick.tick() => self.tick(&consumer),
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

    /// New buckets: their tables are opened first, and only then the group gets its answer.
    fn assigned(&mut self, buckets: Vec<TopicBucket>, consumer: &GroupConsumer) {
        tracing::info!(buckets = buckets.len(), "assigned");
        // The group's answer must not wait for an object store: everything is parked, and each
        // table's buckets start as soon as it is open.
        consumer.begin(Vec::new(), buckets.clone());
        for at in &buckets {
            self.parked.insert(at.clone(), Instant::now() + REOPEN);
        }
        self.open(buckets);
    }

    fn open(&mut self, buckets: Vec<TopicBucket>) {
        let mut by_topic: HashMap<Arc<str>, Vec<Bucket>> = HashMap::new();
        for at in buckets {
            by_topic.entry(at.topic).or_default().push(at.bucket);
        }
        for (topic, buckets) in by_topic {
            let (opener, opened) = (self.bench.opener.clone(), self.opened.clone());
            let first = !self.tables.contains_key(&topic);
            tokio::spawn(async move {
                let result = opener.open(&topic).await;
                let _gone = opened.send(Opened {
                    topic,
                    buckets,
                    first,
                    result,
                });
            });
        }
    }

    fn table_opened(&mut self, opened: Opened, consumer: &GroupConsumer) {
        let (table, snapshot) = match opened.result {
            Ok(open) => open,
            Err(error) => {
                let retry = Instant::now() + REOPEN;
                for bucket in opened.buckets {
                    let at = TopicBucket {
                        topic: opened.topic.clone(),
                        bucket,
                    };
                    if let Some(due) = self.parked.get_mut(&at) {
                        *due = retry;
                    }
                }
                if opened.first && error.kind() != ErrorKind::NotFound {
                    tracing::warn!(topic = %opened.topic, error = chain(&error), "open table");
                } else {
                    tracing::debug!(topic = %opened.topic, error = chain(&error), "open table");
                }
                return;
            }
        };
        let topic = opened.topic;
        let mut starts = Vec::new();
        for bucket in opened.buckets {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            if self.parked.remove(&at).is_none() {
                continue;
            }
            // Whatever stopped it, it begins anew; if the cause is still there, it stops again.
            self.stopped.remove(&at);
            let from = snapshot
                .watermark(&table.entry.topic_id, bucket)
                .unwrap_or_default();
            let dead = table.dead_letters.clone();
            match BucketState::new(at.clone(), from, snapshot.schema(), dead) {
                Ok(mut state) => {
                    state.muted = true;
                    starts.push(Start {
                        at: at.clone(),
                        offset: Offset(from.0),
                    });
                    self.buckets.insert(at, state);
                }
                Err(error) => self.stop(&at, chain(&error)),
            }
        }
        let in_flight = self.tables.get(&topic).and_then(|slot| slot.in_flight);
        let slot = TableSlot {
            table: Arc::new(table),
            snapshot,
            in_flight,
        };
        self.tables.insert(topic, slot);
        consumer.restart(starts);
    }

    fn revoked(&mut self, buckets: Vec<TopicBucket>) {
        tracing::info!(buckets = buckets.len(), "revoked");
        for at in &buckets {
            self.parked.remove(at);
            self.stopped.remove(at);
            if let Some(state) = self.buckets.get_mut(at) {
                state.muted = true;
            }
        }
        let leaving = self.leaving.get_or_insert_with(|| Leaving {
            buckets: HashSet::new(),
            deadline: Instant::now() + RELEASE_MAX,
        });
        leaving.buckets.extend(buckets);
    }

    /// Gives revoked buckets up once they are flushed, or their time is over.
    fn release(&mut self, consumer: &GroupConsumer) {
        let Some(leaving) = &self.leaving else { return };
        let pending = leaving
            .buckets
            .iter()
            .filter_map(|at| self.buckets.get(at))
            .any(|state| state.in_flight > 0 || state.age(Instant::now()).is_some());
        if pending && Instant::now() < leaving.deadline {
            return;
        }
        let Some(leaving) = self.leaving.take() else {
            return;
        };
        for at in &leaving.buckets {
            self.buckets.remove(at);
        }
        self.forget_unused_tables();
        consumer.release(leaving.buckets.into_iter().collect());
    }

    fn forget_unused_tables(&mut self) {
        let used: HashSet<Arc<str>> = self
            .buckets
            .keys()
            .chain(self.parked.keys())
            .map(|at| at.topic.clone())
            .collect();
        let metrics = &self.bench.metrics;
        self.tables.retain(|topic, slot| {
            let keep = used.contains(topic) || slot.in_flight.is_some();
            if !keep {
                metrics.forget(&slot.table.entry.id);
            }
            keep
        });
    }

    fn bucket_failed(&mut self, at: TopicBucket, error: &LogError) {
        match error {
            LogError::NoTopic(_) => {
                // Dropped: what is held is for a table that is gone. The group will revoke it.
                tracing::info!(bucket = %at, "the topic is gone");
                self.buckets.remove(&at);
                self.parked.insert(at, Instant::now() + REOPEN);
                self.forget_unused_tables();
            }
            LogError::OffsetOutOfRange { .. } => {
                // Either retention has overrun the watermark, or the topic was created anew. Opening
                // the table again tells: a new incarnation starts at its own watermark.
                let known = self
                    .tables
                    .get(&at.topic)
                    .map(|slot| slot.table.entry.topic_id);
                let (opener, opened, topic) = (
                    self.bench.opener.clone(),
                    self.opened.clone(),
                    at.topic.clone(),
                );
                let why = format!("{error}; records are missing: reload them, or drop the table");
                self.stop(&at, why);
                self.parked
                    .insert(at.clone(), Instant::now() + Duration::from_secs(3600));
                tokio::spawn(async move {
                    let result = opener.open(&topic).await;
                    if let Ok((table, _)) = &result
                        && Some(table.entry.topic_id) != known
                    {
                        let buckets = vec![at.bucket];
                        let _gone = opened.send(Opened {
                            topic,
                            buckets,
                            first: true,
                            result,
                        });
                    }
                });
            }
            other => {
                self.stop(&at, chain(other));
            }
        }
    }

    /// Stops one bucket, loudly; others go on.
    fn stop(&mut self, at: &TopicBucket, why: String) {
        tracing::error!(bucket = %at, reason = why, "bucket stopped");
        self.buckets.remove(at);
        self.stopped.insert(at.clone(), why);
    }

    fn flush_what_is_due(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let (topics, loads) = self.loads(now);
        let held = self.held();
        for (index, reason) in due(&loads, &self.limits, held) {
            self.flush(&topics[index], reason, now);
        }
        match self.budget.note(held) {
            None => {}
            Some(change) => {
                let buckets = self.buckets.keys().cloned().collect();
                match change {
                    Change::Pause => consumer.pause(buckets),
                    Change::Resume => consumer.resume(buckets),
                }
                self.bench
                    .metrics
                    .paused
                    .set(i64::from(change == Change::Pause));
            }
        }
        self.release(consumer);
    }

    fn loads(&self, now: Instant) -> (Vec<Arc<str>>, Vec<Load>) {
        let mut by_topic: HashMap<&Arc<str>, Load> = HashMap::new();
        for (at, state) in &self.buckets {
            let load = by_topic.entry(&at.topic).or_insert_with(|| Load {
                bytes: 0,
                age: None,
                asked: false,
                leaving: false,
                busy: self
                    .tables
                    .get(&at.topic)
                    .is_none_or(|slot| slot.in_flight.is_some()),
            });
            load.bytes += state.bytes();
            load.age = load.age.max(state.age(now));
            load.asked |= state.asked;
            load.leaving |= self
                .leaving
                .as_ref()
                .is_some_and(|l| l.buckets.contains(at));
        }
        by_topic
            .into_iter()
            .map(|(topic, load)| (topic.clone(), load))
            .unzip()
    }

    /// Memory of all rows that no commit covers.
    fn held(&self) -> usize {
        let waiting: usize = self.buckets.values().map(BucketState::bytes).sum();
        let flying: usize = self.tables.values().filter_map(|slot| slot.in_flight).sum();
        waiting + flying
    }

    fn flush(&mut self, topic: &Arc<str>, reason: Reason, now: Instant) {
        let Some(slot) = self.tables.get_mut(topic) else {
            return;
        };
        let mut sealed = Vec::new();
        let mut broken = Vec::new();
        for (at, state) in self.buckets.iter_mut().filter(|(at, _)| at.topic == *topic) {
            match state.seal() {
                Ok(Some(bucket)) => sealed.push(bucket),
                Ok(None) => {}
                Err(error) => broken.push((at.clone(), chain(&error))),
            }
        }
        if !sealed.is_empty() {
            sealed.sort_by_key(|bucket| bucket.sealed.bucket);
            slot.in_flight = Some(sealed.iter().map(|bucket| bucket.bytes).sum());
            self.bench
                .metrics
                .flushes
                .with_label_values(&[reason.as_str()])
                .inc();
            let job = Job {
                table: slot.table.clone(),
                base: slot.snapshot.clone(),
                buckets: sealed,
                reason,
                begun: now,
            };
            let (bench, results, topic) = (self.bench.clone(), self.results.clone(), topic.clone());
            tokio::spawn(async move {
                let ended = job.run(bench).await;
                let _gone = results.send(JobResult { topic, ended });
            });
        }
        for (at, why) in broken {
            self.stop(&at, why);
        }
    }

    fn job_ended(&mut self, result: JobResult, consumer: &GroupConsumer) {
        let topic = result.topic;
        let Some(slot) = self.tables.get_mut(&topic) else {
            return;
        };
        slot.in_flight = None;
        match result.ended {
            Ended::Committed {
                snapshot,
                moved,
                fenced,
            } => {
                slot.snapshot = snapshot.clone();
                let topic_id = slot.table.entry.topic_id;
                let mut progress = Vec::new();
                for (bucket, to) in moved {
                    let at = TopicBucket {
                        topic: topic.clone(),
                        bucket,
                    };
                    if let Some(state) = self.buckets.get_mut(&at) {
                        state.committed(to);
                        progress.push((at, Offset(to.0)));
                    }
                }
                if !progress.is_empty() {
                    consumer.commit(progress);
                }
                let fenced: Vec<_> = fenced
                    .into_iter()
                    .map(|bucket| (bucket, snapshot.watermark(&topic_id, bucket)))
                    .collect();
                self.restart(&topic, fenced, consumer);
            }
            Ended::Gone | Ended::Reopen => {
                let buckets = self.park(&topic);
                self.open(buckets);
            }
            Ended::Stuck(why) => {
                for at in self.park(&topic) {
                    self.parked
                        .insert(at.clone(), Instant::now() + Duration::from_secs(3600));
                    self.stop(&at, why.clone());
                }
            }
        }
        self.forget_unused_tables();
    }

    /// Takes a table's buckets out of work: what they hold is in the log.
    fn park(&mut self, topic: &Arc<str>) -> Vec<TopicBucket> {
        let buckets: Vec<_> = self
            .buckets
            .keys()
            .filter(|at| at.topic == *topic)
            .cloned()
            .collect();
        for at in &buckets {
            self.buckets.remove(at);
            self.parked.insert(at.clone(), Instant::now() + REOPEN);
        }
        buckets
    }

    /// Begins buckets anew at the watermark that another flusher left.
    fn restart(
        &mut self,
        topic: &Arc<str>,
        fenced: Vec<(Bucket, Option<Watermark>)>,
        consumer: &GroupConsumer,
    ) {
        let Some(slot) = self.tables.get(topic) else {
            return;
        };
        let (schema, dead) = (
            slot.snapshot.schema().clone(),
            slot.table.dead_letters.clone(),
        );
        let mut starts = Vec::new();
        for (bucket, mark) in fenced {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            let from = mark.unwrap_or_default();
            if !self.buckets.contains_key(&at) {
                continue;
            }
            match BucketState::new(at.clone(), from, &schema, dead.clone()) {
                Ok(mut state) => {
                    state.muted = true;
                    starts.push(Start {
                        at: at.clone(),
                        offset: Offset(from.0),
                    });
                    self.buckets.insert(at, state);
                }
                Err(error) => self.stop(&at, chain(&error)),
            }
        }
        consumer.restart(starts);
    }

    fn drain(&mut self) {
        self.limits.draining = true;
        self.health.not_ready("shutting down");
        for state in self.buckets.values_mut() {
            state.muted = true;
        }
    }

    fn is_drained(&self) -> bool {
        let now = Instant::now();
        self.tables.values().all(|slot| slot.in_flight.is_none())
            && self.buckets.values().all(|state| state.age(now).is_none())
    }

    fn tick(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let retry: Vec<_> = self
            .parked
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(at, _)| at.clone())
            .collect();
        for at in &retry {
            self.parked.insert(at.clone(), now + REOPEN * 10);
        }
        if !retry.is_empty() {
            self.open(retry);
        }
        if !self.limits.draining {
            match self.stopped.iter().next() {
                None => self.health.ready(),
                Some((at, why)) => self.health.not_ready(format!("bucket {at} stopped: {why}")),
            }
        }
        self.report(consumer);
    }

    fn report(&self, consumer: &GroupConsumer) {
        let metrics = &self.bench.metrics;
        metrics.buckets.set(self.buckets.len() as i64);
        metrics.buckets_stopped.set(self.stopped.len() as i64);
        metrics.buffer_bytes.set(self.held() as i64);
        let now_ms = self.runtime.clock.now_ms();
        for (topic, slot) in &self.tables {
            let id = &slot.table.entry.id;
            let labels = [id.tenant.as_str(), id.table.as_str()];
            let states = || self.buckets.iter().filter(|(at, _)| at.topic == *topic);
            let oldest = states()
                .filter_map(|(_, state)| state.oldest_uncommitted_ms())
                .min();
            let age = oldest.map_or(0.0, |oldest| (now_ms - oldest).max(0) as f64 / 1000.0);
            let lag: i64 = states()
                .map(|(at, state)| {
                    let end = consumer.end_offset_seen(at).unwrap_or(state.next_offset());
                    (end.0.max(state.next_offset().0) - state.committed.0).max(0)
                })
                .sum();
            metrics
                .freshness_seconds
                .with_label_values(&labels)
                .set(age);
            metrics.lag_seconds.with_label_values(&labels).set(age);
            metrics.lag_records.with_label_values(&labels).set(lag);
            metrics
                .table_version
                .with_label_values(&labels)
                .set(i64::try_from(slot.snapshot.version().0).unwrap_or(i64::MAX));
            metrics
                .table_files
                .with_label_values(&labels)
                .set(i64::try_from(slot.snapshot.file_count()).unwrap_or(i64::MAX));
        }
    }
}

fn ended_by(error: LogError) -> ServiceError {
    ServiceError::caused_by(error.kind(), "the log consumer ended", error)
}
