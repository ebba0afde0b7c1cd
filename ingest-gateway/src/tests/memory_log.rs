//! A log in memory, which fails when told to.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_core::{Bucket, Offset, TopicId};
use tidelake_log::{LogError, Message, TopicCreated, TopicInfo, TopicSpec};

use crate::log::{Delivered, TableLog};

#[derive(Debug, Default)]
pub(crate) struct MemoryLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    topics_made: u8,
    /// How often somebody asked what a topic is.
    described: usize,
    /// Nothing is taken.
    down: bool,
    /// So many messages are still acknowledged.
    acknowledges: Option<usize>,
}

#[derive(Debug)]
struct Topic {
    id: TopicId,
    spec: TopicSpec,
    /// What retention removed before is gone.
    start: i64,
    buckets: Vec<Vec<Message>>,
}

impl MemoryLog {
    pub(crate) fn set_down(&self, down: bool) {
        self.0.lock().down = down;
    }

    pub(crate) fn acknowledge_only(&self, messages: usize) {
        self.0.lock().acknowledges = Some(messages);
    }

    /// Deletes a topic and makes it again at once, empty.
    pub(crate) fn remake_topic(&self, name: &str) {
        let mut state = self.0.lock();
        let topic = state.topics.remove(name).unwrap();
        state.create(&topic.spec).unwrap();
    }

    pub(crate) fn add_bucket(&self, name: &str) {
        let mut state = self.0.lock();
        let topic = state.topics.get_mut(name).unwrap();
        topic.spec.buckets += 1;
        topic.buckets.push(Vec::new());
    }

    /// Loses what each bucket holds from `end` on.
    pub(crate) fn cut_back(&self, name: &str, end: usize) {
        let mut state = self.0.lock();
        for bucket in &mut state.topics.get_mut(name).unwrap().buckets {
            bucket.truncate(end);
        }
    }

    pub(crate) fn cut_before(&self, name: &str, start: i64) {
        self.0.lock().topics.get_mut(name).unwrap().start = start;
    }

    pub(crate) fn described(&self) -> usize {
        self.0.lock().described
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.0.lock().topics.keys().cloned().collect()
    }

    pub(crate) fn spec(&self, topic: &str) -> TopicSpec {
        self.0.lock().topics[topic].spec.clone()
    }

    /// Every message of the topic, by bucket.
    pub(crate) fn messages(&self, topic: &str) -> Vec<Vec<Message>> {
        self.0.lock().topics[topic].buckets.clone()
    }

    /// Messages of all topics.
    pub(crate) fn message_count(&self) -> usize {
        self.0
            .lock()
            .topics
            .values()
            .flat_map(|topic| &topic.buckets)
            .map(Vec::len)
            .sum()
    }
}

impl State {
    fn check(&self) -> Result<(), LogError> {
        match self.down {
            true => Err(LogError::Unavailable {
                what: "test".into(),
                reason: "down".into(),
            }),
            false => Ok(()),
        }
    }

    fn topic(&mut self, name: &str) -> Result<&mut Topic, LogError> {
        self.check()?;
        self.topics
            .get_mut(name)
            .ok_or_else(|| LogError::NoTopic(name.into()))
    }

    fn append(&mut self, message: Message) -> Result<Delivered, LogError> {
        let bytes = message.value.as_ref().map_or(0, bytes::Bytes::len);
        if bytes > MESSAGE_BYTES_MAX {
            return Err(LogError::MessageTooLarge {
                topic: message.topic.to_string(),
                bytes,
            });
        }
        let (topic, bucket) = (message.topic.to_string(), message.bucket);
        if self.acknowledges == Some(0) {
            let reason = "told to".into();
            let lost = LogError::Unacknowledged {
                topic,
                bucket,
                reason,
            };
            return Ok(futures::future::ready(Err(lost)).boxed());
        }
        self.acknowledges = self.acknowledges.map(|left| left - 1);
        let bucket = &mut self.topic(&topic)?.buckets[bucket.0 as usize];
        bucket.push(message);
        let offset = Offset(bucket.len() as i64 - 1);
        Ok(futures::future::ready(Ok(offset)).boxed())
    }

    fn create(&mut self, spec: &TopicSpec) -> Result<TopicCreated, LogError> {
        self.check()?;
        if self.topics.contains_key(&spec.name) {
            return Ok(TopicCreated::Exists);
        }
        self.topics_made += 1;
        let topic = Topic {
            id: TopicId([self.topics_made; 16]),
            spec: spec.clone(),
            start: 0,
            buckets: vec![Vec::new(); spec.buckets as usize],
        };
        self.topics.insert(spec.name.clone(), topic);
        Ok(TopicCreated::Created)
    }
}

impl TableLog for MemoryLog {
    fn enqueue(&self, message: Message) -> BoxFuture<'_, Result<Delivered, LogError>> {
        async move { self.0.lock().append(message) }.boxed()
    }

    fn create_topic<'a>(
        &'a self,
        spec: &'a TopicSpec,
    ) -> BoxFuture<'a, Result<TopicCreated, LogError>> {
        async move {
            tokio::task::yield_now().await;
            self.0.lock().create(spec)
        }
        .boxed()
    }

    fn delete_topic<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), LogError>> {
        async move {
            let mut state = self.0.lock();
            state.check()?;
            state.topics.remove(topic);
            Ok(())
        }
        .boxed()
    }

    fn describe<'a>(
        &'a self,
        topic: &'a str,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        async move {
            let mut state = self.0.lock();
            state.described += 1;
            state.check()?;
            Ok(state.topics.get(topic).map(|topic| TopicInfo {
                id: topic.id,
                buckets: topic.spec.buckets,
            }))
        }
        .boxed()
    }

    fn end_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>> {
        async move {
            let mut state = self.0.lock();
            let topic = state.topic(topic)?;
            let end = |bucket: &Bucket| Offset(topic.buckets[bucket.0 as usize].len() as i64);
            Ok(buckets
                .iter()
                .map(|bucket| (*bucket, end(bucket)))
                .collect())
        }
        .boxed()
    }

    fn start_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>> {
        async move {
            let start = Offset(self.0.lock().topic(topic)?.start);
            Ok(buckets.iter().map(|bucket| (*bucket, start)).collect())
        }
        .boxed()
    }

    fn alive(&self) -> BoxFuture<'_, Result<(), LogError>> {
        async move { self.0.lock().check() }.boxed()
    }
}
