//! The log in memory as the gateway's tests want it: asked by topic, told what to acknowledge.

use std::borrow::Cow;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidelake_core::clock::{ManualClock, UnixMillis};
use tidelake_core::{Bucket, Offset};
use tidelake_log::memory;
use tidelake_log::{
    LogError, Message, OwnedMessage, RefusedFor, TopicBucket, TopicCreated, TopicInfo, TopicSpec,
};

use crate::log::{ClientLog, Delivered, TableLog};

/// The stamp that the log gives to messages without one.
pub(crate) const LOG_MS: UnixMillis = 777;

#[derive(Debug)]
pub(crate) struct MemoryLog {
    log: memory::MemoryLog,
    client: ClientLog,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// How often somebody asked what a topic is.
    described: usize,
    /// So many messages are still taken; those behind them are lost.
    acknowledges: Option<usize>,
    refuses: Option<RefusedFor>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        let log = memory::MemoryLog::new(Arc::new(ManualClock::at(LOG_MS)));
        let client = ClientLog::new(&log).unwrap();
        let told = Mutex::default();
        Self { log, client, told }
    }
}

impl MemoryLog {
    pub(crate) fn set_down(&self, down: bool) {
        self.log.set_down(down);
    }

    /// While kept back, messages are taken and nobody hears of them.
    pub(crate) fn keep_silent(&self) {
        self.log.hold_acknowledgements(true);
    }

    /// Messages are refused, as a topic of these settings does.
    pub(crate) fn refuse_messages(&self, because: RefusedFor) {
        self.told.lock().refuses = Some(because);
    }

    pub(crate) fn acknowledge_only(&self, messages: usize) {
        self.told.lock().acknowledges = Some(messages);
    }

    pub(crate) fn remake_topic(&self, name: &str) {
        self.log.remake_topic(name);
    }

    pub(crate) fn add_bucket(&self, name: &str) {
        self.log.add_buckets(name, 1);
    }

    /// Loses what each bucket holds from `end` on.
    pub(crate) fn cut_back(&self, name: &str, end: i64) {
        for at in self.buckets(name) {
            self.log.cut_back(&at, Offset(end));
        }
    }

    /// Each bucket begins at `start`: what there was before is gone.
    pub(crate) fn cut_before(&self, name: &str, start: i64) {
        for at in self.buckets(name) {
            let missing = start - self.log.end(&at).unwrap().0;
            self.log
                .skip_offsets(&at, u32::try_from(missing).unwrap_or(0));
            self.log.cut_before(&at, Offset(start));
        }
    }

    pub(crate) fn described(&self) -> usize {
        self.told.lock().described
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.log.topics()
    }

    pub(crate) fn spec(&self, topic: &str) -> TopicSpec {
        self.log.spec(topic).unwrap()
    }

    /// Every message of the topic, by bucket.
    pub(crate) fn messages(&self, topic: &str) -> Vec<Vec<Message>> {
        let of = |at| self.log.messages(&at).into_iter().map(as_written).collect();
        self.buckets(topic).map(of).collect()
    }

    /// Messages of all topics.
    pub(crate) fn message_count(&self) -> usize {
        let topics = self.topics();
        let buckets = topics.iter().flat_map(|topic| self.buckets(topic));
        buckets.map(|at| self.log.messages(&at).len()).sum()
    }

    fn buckets(&self, topic: &str) -> impl Iterator<Item = TopicBucket> {
        let topic: Arc<str> = topic.into();
        let all = (0..).map(move |bucket| TopicBucket {
            topic: topic.clone(),
            bucket: Bucket(bucket),
        });
        all.take_while(|at| self.log.end(at).is_some())
    }
}

fn as_written(message: OwnedMessage) -> Message {
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| (Cow::Owned(name.clone()), value.clone().unwrap()));
    Message {
        topic: message.topic,
        bucket: message.bucket,
        key: message.key,
        value: message.value,
        headers: headers.collect(),
        timestamp_ms: Some(message.timestamp_ms),
    }
}

impl TableLog for MemoryLog {
    fn enqueue(&self, message: Message) -> BoxFuture<'_, Result<Delivered, LogError>> {
        let mut told = self.told.lock();
        if let Some(because) = told.refuses {
            let topic = message.topic.to_string();
            let reason = format!("{because:?}");
            let refused = LogError::Refused {
                topic,
                because,
                reason,
            };
            let refused = std::future::ready(Err(refused));
            return Box::pin(std::future::ready(Ok(refused.boxed())));
        }
        match &mut told.acknowledges {
            Some(0) => self.log.lose_messages(1),
            Some(left) => *left -= 1,
            None => {}
        }
        self.client.enqueue(message)
    }

    fn create_topic<'a>(
        &'a self,
        spec: &'a TopicSpec,
    ) -> BoxFuture<'a, Result<TopicCreated, LogError>> {
        self.client.create_topic(spec)
    }

    fn delete_topic<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), LogError>> {
        self.client.delete_topic(topic)
    }

    fn describe<'a>(
        &'a self,
        topic: &'a str,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        self.told.lock().described += 1;
        self.client.describe(topic)
    }

    fn end_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>> {
        self.client.end_offsets(topic, buckets)
    }

    fn start_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>> {
        self.client.start_offsets(topic, buckets)
    }

    fn alive(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.client.alive()
    }
}
