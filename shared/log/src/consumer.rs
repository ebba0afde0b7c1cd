//! The polling thread of a consumer group.
//!
//! ```text
//!  coordinator ── assign ──► Event::Assigned ──► owner reads watermarks ──► begin(starts) ──► fetching
//!              ── revoke ──► Event::Revoked  ──► owner flushes           ──► release(…)    ──► given up
//! ```
//! The thread never waits for the owner: while an assignment or a revocation waits for its answer it
//! goes on polling, so other buckets keep flowing and the group sees a live member. When the owner's
//! channel stays full, everything is paused, and resumed once there is room.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::{Bucket, Offset};
use tokio::sync::mpsc;

use crate::message::Mishap;
use crate::native::{Client, Rebalance};
use crate::visit::Visit;
use crate::{KafkaSettings, LogError, MessageBatch, TopicBucket};

/// Settings of a group consumer.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    pub group: String,
    /// Names this member for good, so that a restart takes its buckets back at once.
    pub instance_id: Option<String>,
    /// A topic outside of the subscription: by it, a member with an instance id makes sure that no
    /// bucket was left to nobody when it died.
    pub visited_topic: String,
    /// A topic, or a pattern with a leading `^`.
    pub subscription: String,
    /// librdkafka's prefetch, in KiB, over all buckets.
    pub prefetch_kib_max: usize,
    /// How soon a topic that was created matches the pattern.
    pub discovery: Duration,
}

/// Where to begin with a bucket that was assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub at: TopicBucket,
    pub offset: Offset,
}

/// What the polling thread reports.
#[derive(Debug)]
pub enum Event {
    /// Answer with [`GroupConsumer::begin`], naming those buckets that can be consumed.
    Assigned(Vec<TopicBucket>),
    /// From here on, messages of these buckets come from where [`GroupConsumer::restart`] said.
    Restarted(Vec<TopicBucket>),
    /// Answer with [`GroupConsumer::release`]; until then the group waits.
    Revoked(Vec<TopicBucket>),
    Messages(MessageBatch),
    /// The bucket can't go on (for example: its offset is not in the log any more).
    Failed(TopicBucket, LogError),
    /// The consumer as a whole has ended.
    Ended(LogError),
}

enum Command {
    Begin {
        starts: Vec<Start>,
        parked: Vec<TopicBucket>,
    },
    Restart(Vec<Start>),
    Release(Vec<TopicBucket>),
    Pause(Vec<TopicBucket>),
    Resume(Vec<TopicBucket>),
    Commit(Vec<(TopicBucket, Offset)>),
    Close,
}

/// Messages of one poll at most.
const BATCH_MESSAGES_MAX: usize = 10_000;
/// Batches that wait for the owner.
const EVENTS_MAX: usize = 4;
const POLL_MS: i32 = 40;
/// How long the channel may be full before everything is paused.
const STALL_MAX: Duration = Duration::from_millis(500);

/// A member of a consumer group on a thread of its own.
#[derive(Debug)]
pub struct GroupConsumer {
    events: mpsc::Receiver<Event>,
    commands: Commands,
    client: Arc<Client>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Commands(std_mpsc::Sender<Command>);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Begin { .. } => "Begin",
            Self::Restart(_) => "Restart",
            Self::Release(_) => "Release",
            Self::Pause(_) => "Pause",
            Self::Resume(_) => "Resume",
            Self::Commit(_) => "Commit",
            Self::Close => "Close",
        })
    }
}

impl GroupConsumer {
    /// Joins the group.
    pub fn start(kafka: &KafkaSettings, settings: &ConsumerSettings) -> Result<Self, LogError> {
        let client = Client::consumer(&properties(kafka, settings))?;
        client.subscribe(&settings.subscription)?;
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (command_sender, commands) = std_mpsc::channel();
        let poller = Poller {
            client: client.clone(),
            events: event_sender,
            commands,
            owned: HashSet::new(),
            assigned: HashSet::new(),
            held: HashSet::new(),
            news: Vec::new(),
            stalled: false,
            visit: settings.instance_id.as_ref().map(|_| Visit {
                kafka: kafka.clone(),
                group: settings.group.clone(),
                topic: settings.visited_topic.clone(),
            }),
        };
        let thread = std::thread::Builder::new()
            .name("log-poll".into())
            .spawn(move || poller.run())
            .map_err(|error| LogError::Client(format!("start the polling thread: {error}")))?;
        Ok(Self {
            events,
            commands: Commands(command_sender),
            client,
            thread: Some(thread),
        })
    }

    /// The next event; `None` once the consumer has closed.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Answers an assignment: begins with those buckets that can be consumed and parks the others,
    /// until [`Self::restart`] names them.
    pub fn begin(&self, starts: Vec<Start>, parked: Vec<TopicBucket>) {
        self.command(Command::Begin { starts, parked });
    }

    /// Moves assigned buckets to other offsets. Messages from before may still be on their way:
    /// ignore the bucket's until [`Event::Restarted`] names it.
    pub fn restart(&self, starts: Vec<Start>) {
        self.command(Command::Restart(starts));
    }

    /// The bucket's end as the last fetch saw it; costs no request.
    pub fn end_offset_seen(&self, at: &TopicBucket) -> Option<Offset> {
        self.client.end_offset_seen(at)
    }

    /// Gives revoked buckets up.
    pub fn release(&self, buckets: Vec<TopicBucket>) {
        self.command(Command::Release(buckets));
    }

    pub fn pause(&self, buckets: Vec<TopicBucket>) {
        self.command(Command::Pause(buckets));
    }

    pub fn resume(&self, buckets: Vec<TopicBucket>) {
        self.command(Command::Resume(buckets));
    }

    /// Tells lag tools how far this group is. Nothing rests on it.
    pub fn commit(&self, offsets: Vec<(TopicBucket, Offset)>) {
        self.command(Command::Commit(offsets));
    }

    /// Leaves the group and ends the thread.
    pub async fn close(mut self) {
        self.command(Command::Close);
        while self.events.recv().await.is_some() {}
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn command(&self, command: Command) {
        // A thread that has ended has said why through `Event::Ended`.
        let _ = self.commands.0.send(command);
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.command(Command::Close);
    }
}

fn properties(kafka: &KafkaSettings, settings: &ConsumerSettings) -> BTreeMap<String, String> {
    let prefetch = settings.prefetch_kib_max.to_string();
    let discovery = settings.discovery.as_millis().to_string();
    let mut fixed = vec![
        ("group.id", settings.group.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "false"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("queued.max.messages.kbytes", &prefetch),
        ("topic.metadata.refresh.interval.ms", &discovery),
    ];
    if let Some(instance) = &settings.instance_id {
        fixed.push(("group.instance.id", instance));
    }
    let defaults = [
        ("session.timeout.ms", "10000"),
        ("heartbeat.interval.ms", "1000"),
        ("queued.min.messages", "1000000"),
        ("fetch.queue.backoff.ms", "10"),
        ("fetch.wait.max.ms", "500"),
        ("fetch.max.bytes", "16777216"),
        ("check.crcs", "true"),
    ];
    kafka.properties(&defaults, &fixed)
}

struct Poller {
    client: Arc<Client>,
    events: mpsc::Sender<Event>,
    commands: std_mpsc::Receiver<Command>,
    /// What the group gave us.
    owned: HashSet<TopicBucket>,
    /// What of it is being consumed.
    assigned: HashSet<TopicBucket>,
    /// Paused at the owner's wish.
    held: HashSet<TopicBucket>,
    /// Events that commands brought about.
    news: Vec<Event>,
    /// Everything is paused because the owner does not keep up.
    stalled: bool,
    /// To be paid once the group has taken us in.
    visit: Option<Visit>,
}

enum Next {
    Go,
    Stop,
}

impl Poller {
    fn run(mut self) {
        let mut waiting: std::collections::VecDeque<Event> = std::collections::VecDeque::new();
        let mut full_since: Option<Instant> = None;
        loop {
            if matches!(self.obey(), Next::Stop) {
                break;
            }
            waiting.extend(self.news.drain(..));
            if let Some(error) = self.client.fatal_error() {
                waiting.push_back(Event::Ended(error));
            }
            // While the owner has not taken what waits, nothing new is consumed, but polling goes
            // on: rebalances and heartbeats depend on it. Paused buckets deliver nothing.
            if waiting.is_empty() || self.stalled {
                waiting.extend(self.poll());
            }
            let ended = matches!(waiting.back(), Some(Event::Ended(_)));
            match self.hand_over(&mut waiting) {
                Next::Stop => break,
                Next::Go if ended && waiting.is_empty() => break,
                Next::Go => {}
            }
            if waiting.is_empty() {
                full_since = None;
                self.set_stalled(false);
            } else if full_since.get_or_insert_with(Instant::now).elapsed() > STALL_MAX {
                self.set_stalled(true);
            }
        }
        drop(waiting);
        self.client.close();
    }

    fn obey(&mut self) -> Next {
        loop {
            let result = match self.commands.try_recv() {
                Err(std_mpsc::TryRecvError::Empty) => return Next::Go,
                Err(std_mpsc::TryRecvError::Disconnected) | Ok(Command::Close) => {
                    return Next::Stop;
                }
                Ok(Command::Begin { starts, parked }) => self.begin(&starts, parked),
                Ok(Command::Restart(starts)) => self.restart(&starts),
                Ok(Command::Release(buckets)) => self.release(&buckets),
                Ok(Command::Pause(buckets)) => self.pause(buckets),
                Ok(Command::Resume(buckets)) => self.resume(&buckets),
                Ok(Command::Commit(offsets)) => self.client.commit(&offsets),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "consumer command failed");
            }
        }
    }

    /// Parked buckets are left out of librdkafka's assignment. Never assign them at a logical offset
    /// instead: the answer to its look-up can arrive after a restart, and move the bucket past
    /// messages that nobody has seen.
    fn begin(&mut self, starts: &[Start], parked: Vec<TopicBucket>) -> Result<(), LogError> {
        let from: Vec<_> = starts
            .iter()
            .map(|start| (start.at.clone(), start.offset))
            .collect();
        // Also an empty answer must reach the group: it waits for one.
        self.client.assign(&from)?;
        self.owned.extend(parked);
        self.owned.extend(from.iter().map(|(at, _)| at.clone()));
        self.assigned.extend(from.into_iter().map(|(at, _)| at));
        if self.stalled {
            self.client.pause(&self.all())?;
        }
        Ok(())
    }

    fn restart(&mut self, starts: &[Start]) -> Result<(), LogError> {
        let from: Vec<_> = starts
            .iter()
            .filter(|start| self.owned.contains(&start.at))
            .map(|start| (start.at.clone(), start.offset))
            .collect();
        let buckets: Vec<_> = from.iter().map(|(at, _)| at.clone()).collect();
        if buckets.is_empty() {
            return Ok(());
        }
        let moved: Vec<_> = buckets
            .iter()
            .filter(|at| self.assigned.remove(*at))
            .cloned()
            .collect();
        if !moved.is_empty() {
            self.client.unassign(&moved)?;
        }
        self.client.assign(&from)?;
        self.assigned.extend(buckets.iter().cloned());
        // Pausing outlives an assignment.
        for at in &buckets {
            self.held.remove(at);
        }
        if self.stalled {
            self.client.pause(&buckets)?;
        } else {
            self.client.resume(&buckets)?;
        }
        self.news.push(Event::Restarted(buckets));
        Ok(())
    }

    fn release(&mut self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        for at in buckets {
            self.owned.remove(at);
            self.held.remove(at);
        }
        let assigned: Vec<_> = buckets
            .iter()
            .filter(|at| self.assigned.remove(*at))
            .cloned()
            .collect();
        self.client.unassign(&assigned)
    }

    fn pause(&mut self, buckets: Vec<TopicBucket>) -> Result<(), LogError> {
        let buckets: Vec<_> = buckets
            .into_iter()
            .filter(|at| self.assigned.contains(at))
            .collect();
        self.client.pause(&buckets)?;
        self.held.extend(buckets);
        Ok(())
    }

    fn resume(&mut self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        let held: Vec<_> = buckets
            .iter()
            .filter(|at| self.held.remove(at))
            .cloned()
            .collect();
        if self.stalled {
            Ok(())
        } else {
            self.client.resume(&held)
        }
    }

    fn set_stalled(&mut self, stalled: bool) {
        if self.stalled == stalled {
            return;
        }
        let result = if stalled {
            self.client.pause(&self.all())
        } else {
            let free: Vec<_> = self.assigned.difference(&self.held).cloned().collect();
            self.client.resume(&free)
        };
        if let Err(error) = result {
            tracing::warn!(%error, stalled, "pause or resume failed");
        }
        self.stalled = stalled;
    }

    fn all(&self) -> Vec<TopicBucket> {
        self.assigned.iter().cloned().collect()
    }

    fn poll(&mut self) -> Vec<Event> {
        let mut raw = Vec::new();
        self.client.consume(&mut raw, BATCH_MESSAGES_MAX, POLL_MS);
        let (batch, mishaps) = MessageBatch::new(raw, self.client.clone());
        let mut events: Vec<Event> = Vec::new();
        if !batch.is_empty() {
            events.push(Event::Messages(batch));
        }
        events.extend(mishaps.into_iter().filter_map(event_of));
        for rebalance in self.client.take_rebalances() {
            match rebalance {
                Rebalance::Assign(buckets) => {
                    if let Some(visit) = self.visit.take() {
                        visit.begin();
                    }
                    events.push(Event::Assigned(buckets));
                }
                Rebalance::Revoke(buckets) => events.push(Event::Revoked(buckets)),
                Rebalance::Failed(text) => tracing::warn!(error = text, "rebalance failed"),
            }
        }
        events
    }

    /// Gives the owner as many events as it has room for.
    fn hand_over(&self, waiting: &mut std::collections::VecDeque<Event>) -> Next {
        while let Some(event) = waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return Next::Stop,
                Err(mpsc::error::TrySendError::Full(event)) => {
                    waiting.push_front(event);
                    // No message is taken meanwhile, so this wait is what paces the loop.
                    std::thread::park_timeout(Duration::from_millis(1));
                    return Next::Go;
                }
            }
        }
        Next::Go
    }
}

fn event_of(mishap: Mishap) -> Option<Event> {
    // A pattern that matches no topic yet is reported as an unknown topic: nothing is wrong.
    if mishap.topic.starts_with('^') {
        return None;
    }
    let at = TopicBucket {
        topic: Arc::from(mishap.topic.as_str()),
        bucket: mishap.bucket,
    };
    match mishap.code {
        RespErr::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
        | RespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
            let error = LogError::OffsetOutOfRange {
                topic: mishap.topic,
                bucket: mishap.bucket,
                offset: mishap.offset,
            };
            Some(Event::Failed(at, error))
        }
        RespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
        | RespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED => {
            Some(Event::Failed(at, LogError::Denied(mishap.text)))
        }
        RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION
        | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
            if at.bucket != Bucket(u32::MAX) =>
        {
            let error = LogError::NoTopic(mishap.topic);
            Some(Event::Failed(at, error))
        }
        _ => {
            // Transport errors and the like heal by themselves inside librdkafka.
            tracing::debug!(bucket = %at, error = mishap.text, "consumer");
            None
        }
    }
}
