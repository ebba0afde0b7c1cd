//! The log as one process sees it: the log in memory that all share, behind a network of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset};
use tidelake_log::headers::ORIGIN;
use tidelake_log::memory::MemoryLog;
use tidelake_log::topics::is_dead_letter_topic;
use tidelake_log::{
    BucketReader, ConsumerSettings, Delivery, Event, Feed, GroupLog, LogAdmin, LogClient, LogError,
    Message, ProducerSettings, RangeReader, Start, TopicBucket, TopicCreated, TopicInfo, TopicSpec,
    TopicWriter,
};

use crate::life::Life;
use crate::machine::{now_ms, pass};
use crate::sim::{Sight, Sim, lock};

type Result<T, E = LogError> = std::result::Result<T, E>;

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub group: String,
    pub id: u64,
}

/// See the module. Clones are of the same process.
#[derive(Debug, Clone)]
pub(crate) struct SimLog {
    log: MemoryLog,
    life: Arc<Life>,
    sim: Arc<Sim>,
    /// What the process has joined.
    joined: Arc<Mutex<Option<Membership>>>,
}

impl SimLog {
    pub(crate) fn new(log: &MemoryLog, life: &Arc<Life>, sim: &Arc<Sim>) -> Self {
        Self {
            log: log.clone(),
            life: life.clone(),
            sim: sim.clone(),
            joined: Arc::default(),
        }
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        lock(&self.joined).clone()
    }

    async fn around<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.life.goes_on().await;
        let fate = self.sim.fate();
        pass(fate.there_ms).await;
        self.life.goes_on().await;
        let away = || LogError::Unavailable {
            what: what.to_owned(),
            reason: "the connection broke".into(),
        };
        if !fate.arrives {
            return Err(away());
        }
        let done = call.await;
        pass(fate.back_ms).await;
        self.life.goes_on().await;
        if fate.answered { done } else { Err(away()) }
    }
}

impl LogClient for SimLog {
    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.clone())
    }

    fn reader(&self) -> Arc<dyn BucketReader> {
        Arc::new(self.clone())
    }

    fn writer(&self, _: ProducerSettings) -> Result<Arc<dyn TopicWriter>> {
        Ok(Arc::new(self.clone()))
    }

    fn join(&self, settings: &ConsumerSettings) -> Result<Box<dyn GroupLog>> {
        let inner = self.log.join(settings)?;
        let group = settings.group.clone();
        let id = self.log.members(&group).into_iter().max().unwrap_or(0);
        let life = &self.life;
        self.sim.note(format_args!("{life} joins {group} as {id}"));
        *lock(&self.joined) = Some(Membership { group, id });
        Ok(Box::new(Member {
            inner: Some(inner),
            log: self.clone(),
            coming: Mutex::new(None),
        }))
    }
}

#[async_trait]
impl TopicWriter for SimLog {
    fn enqueue(&self, message: Message) -> Result<Delivery> {
        if self.life.is_dead() {
            return Err(LogError::Closed);
        }
        if is_dead_letter_topic(&message.topic) {
            self.sim.sees(Sight::DeadLetter);
        } else if message.headers.iter().any(|(name, _)| name == ORIGIN) {
            self.sim.sees(Sight::SentOn);
        }
        let fate = self.sim.fate();
        let (life, topic, bucket) = (&self.life, message.topic.clone(), message.bucket);
        match (fate.arrives, fate.answered) {
            (false, _) => self.log.lose_messages(1),
            (_, false) => self.log.lose_acknowledgements(1),
            _ => {}
        }
        self.sim
            .note(format_args!("{life} writes to {topic}/{bucket}: {fate:?}"));
        self.log.enqueue(message)
    }

    async fn enqueue_waiting(&self, message: Message) -> Result<Delivery> {
        self.life.goes_on().await;
        self.enqueue(message)
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        TopicWriter::flush(&self.log, deadline).await
    }
}

#[async_trait]
impl LogAdmin for SimLog {
    async fn create_topic(&self, spec: &TopicSpec) -> Result<TopicCreated> {
        self.around("create a topic", self.log.create_topic(spec))
            .await
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.around("delete a topic", self.log.delete_topic(name))
            .await
    }

    async fn describe(&self, name: &str) -> Result<Option<TopicInfo>> {
        self.around("describe a topic", self.log.describe(name))
            .await
    }

    async fn list_topics(&self) -> Result<Vec<String>> {
        self.around("list topics", self.log.list_topics()).await
    }

    async fn end_offsets(&self, topic: &str, buckets: &[Bucket]) -> Result<Vec<(Bucket, Offset)>> {
        let ends = LogAdmin::end_offsets(&self.log, topic, buckets);
        self.around("ask for ends", ends).await
    }

    async fn start_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>> {
        let starts = self.log.start_offsets(topic, buckets);
        self.around("ask for starts", starts).await
    }

    async fn alive(&self) -> Result<()> {
        self.around("ask whether it is there", self.log.alive())
            .await
    }

    async fn cluster_id(&self) -> Result<String> {
        self.around("ask for its name", self.log.cluster_id()).await
    }
}

#[async_trait]
impl BucketReader for SimLog {
    async fn ends(&self, topic: &str, buckets: &[Bucket]) -> Result<Vec<(Bucket, Offset)>> {
        self.around("ask for ends", self.log.ends(topic, buckets))
            .await
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset> {
        self.around("ask for a start", self.log.start(topic, bucket))
            .await
    }

    fn follow(&self, topic: &str, from: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>> {
        self.log.follow(topic, from)
    }

    fn ranges(&self, topic: &str) -> Result<Box<dyn RangeReader>> {
        self.log.ranges(topic)
    }
}

/// A member of a group whose news come late: what it was told meanwhile, such as to begin
/// elsewhere, does not hold for them.
#[derive(Debug)]
struct Member {
    inner: Option<Box<dyn GroupLog>>,
    log: SimLog,
    /// On its way, and when it comes.
    coming: Mutex<Option<(Event, u64)>>,
}

impl Member {
    fn group(&self) -> &dyn GroupLog {
        self.inner.as_deref().expect("there until it is dropped")
    }

    fn hears(&self) -> bool {
        !self.log.life.is_dead() && !self.log.life.is_deaf()
    }
}

#[async_trait]
impl GroupLog for Member {
    async fn next(&mut self) -> Option<Event> {
        self.log.life.goes_on().await;
        let coming = self
            .coming
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if coming.is_none() {
            let event = self.inner.as_mut()?.next().await?;
            *coming = Some((event, now_ms() + self.log.sim.fate().there_ms));
        }
        // Whoever drops the wait finds it here again.
        let comes_ms = coming.as_ref().map_or(0, |(_, comes_ms)| *comes_ms);
        pass(comes_ms.saturating_sub(now_ms())).await;
        let (event, _) = coming.take()?;
        let life = &self.log.life;
        match &event {
            Event::Messages(batch) => {
                let (first, count) = (batch.iter().next(), batch.iter().count());
                self.log
                    .sim
                    .note(format_args!("{life} reads {count} from {first:?} on"));
            }
            other => self.log.sim.note(format_args!("{life} hears {other:?}")),
        }
        Some(event)
    }

    fn begin(&self, starts: Vec<Start>, parked: Vec<TopicBucket>) {
        if self.hears() {
            self.group().begin(starts, parked);
        }
    }

    fn restart(&self, starts: Vec<Start>) {
        let life = &self.log.life;
        for Start { at, offset } in &starts {
            self.log
                .sim
                .note(format_args!("{life} begins {at} at {offset}"));
        }
        self.group().restart(starts);
    }

    fn release(&self, buckets: Vec<TopicBucket>) {
        if self.hears() {
            self.group().release(buckets);
        }
    }

    fn pause(&self, buckets: Vec<TopicBucket>) {
        self.group().pause(buckets);
    }

    fn resume(&self, buckets: Vec<TopicBucket>) {
        self.group().resume(buckets);
    }

    fn commit(&self, offsets: Vec<(TopicBucket, Offset)>) {
        if self.hears() {
            self.group().commit(offsets);
        }
    }

    fn end_offset_seen(&self, at: &TopicBucket) -> Option<Offset> {
        self.group().end_offset_seen(at)
    }

    async fn close(mut self: Box<Self>) {
        if let Some(inner) = self.inner.take() {
            inner.close().await;
        }
    }
}

impl Drop for Member {
    /// A process that dies says nothing: its group finds out once the session has timed out.
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if self.log.life.is_dead() && tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(async move {
                pass(crate::life::SESSION.as_millis() as u64).await;
                drop(inner);
            });
        }
    }
}
