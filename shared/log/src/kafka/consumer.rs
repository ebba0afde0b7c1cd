//! A member of a consumer group whose polling has a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tidelake_core::Offset;
use tokio::sync::mpsc;

use super::native::Client;
use super::poll::{Command, Poller};
use super::progress::trouble;
use super::time::{self, Instant};
use crate::{ConsumerSettings, Event, KafkaSettings, LogError, Start, TopicBucket};

/// Batches that wait for the owner.
const EVENTS_MAX: usize = 4;
/// Between two looks at a polling thread from which nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// A bucket, or the polling thread, from which nothing came for so long is looked at.
const PATIENCE: Duration = Duration::from_secs(30);

/// A member of a consumer group on a thread of its own.
#[derive(Debug)]
pub struct GroupConsumer {
    events: mpsc::Receiver<Event>,
    commands: std_mpsc::Sender<Command>,
    client: Arc<Client>,
    thread: Option<std::thread::JoinHandle<()>>,
    pulse: Arc<Pulse>,
    /// It was told that the polling thread does not answer.
    wedged: bool,
}

/// When the polling thread last came round.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    beat_ms: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            begun: time::now(),
            beat_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn beat(&self) {
        self.beat_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let beat = self.beat_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.now_ms().saturating_sub(beat))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl GroupConsumer {
    /// Joins the group.
    pub fn start(kafka: &KafkaSettings, settings: &ConsumerSettings) -> Result<Self, LogError> {
        Self::start_with_patience(kafka, settings, PATIENCE)
    }

    /// Joins the group; a bucket that lies behind and brings nothing for so long is told.
    pub fn start_with_patience(
        kafka: &KafkaSettings,
        settings: &ConsumerSettings,
        patience: Duration,
    ) -> Result<Self, LogError> {
        let client = Client::consumer(&properties(kafka, settings))?;
        client.subscribe(&settings.subscription)?;
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (commands, command_receiver) = std_mpsc::channel();
        let pulse = Arc::new(Pulse::new());
        let poller = Poller::new(
            client.clone(),
            event_sender,
            command_receiver,
            pulse.clone(),
            patience,
            kafka,
            settings,
        );
        let thread = std::thread::Builder::new()
            .name("log-poll".into())
            .spawn(move || poller.run())
            .map_err(|error| LogError::Client(format!("start the polling thread: {error}")))?;
        Ok(Self {
            events,
            commands,
            client,
            thread: Some(thread),
            pulse,
            wedged: false,
        })
    }

    /// The next event; `None` once the consumer has closed. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if self.wedged && self.pulse.silence() < PATIENCE {
                self.wedged = false;
                return Some(trouble(None, None));
            }
            // Nothing may come for hours, but the thread behind it must be alive.
            match tokio::time::timeout(LOOK_INTERVAL, self.events.recv()).await {
                Ok(event) => return event,
                Err(_) if !self.wedged && self.pulse.silence() >= PATIENCE => {
                    self.wedged = true;
                    let silence = self.pulse.silence();
                    let reason = format!("the polling thread has not come round for {silence:?}");
                    let error = LogError::unavailable("consume", reason);
                    return Some(trouble(None, Some(error)));
                }
                Err(_) => {}
            }
        }
    }

    /// Answers an assignment: begins with those buckets that can be consumed and parks the others,
    /// until [`Self::restart`] names them. Buckets that were revoked meanwhile are left alone.
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
        let _ = self.commands.send(command);
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
        ("isolation.level", "read_committed"),
        ("check.crcs", "true"),
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
    ];
    kafka.properties(&defaults, &fixed)
}
