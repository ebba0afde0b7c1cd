//! The seams of the log, kept by the clients of this folder.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset};

use super::{Admin, Follower, GroupConsumer, Producer, TailReader};
use crate::{
    BucketReader, ConsumerSettings, Delivery, Event, Feed, GroupLog, KafkaSettings, LogAdmin,
    LogClient, LogError, Message, MessageBatch, News, ProducerSettings, RangeReader, Start,
    TopicBucket, TopicCreated, TopicInfo, TopicSpec, TopicWriter,
};

/// A Kafka cluster, or what speaks its protocol.
#[derive(Debug, Clone)]
pub struct KafkaLog {
    settings: KafkaSettings,
    admin: Admin,
}

impl KafkaLog {
    pub fn new(settings: KafkaSettings) -> Result<Self, LogError> {
        let admin = Admin::new(&settings)?;
        Ok(Self { settings, admin })
    }
}

impl LogClient for KafkaLog {
    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.admin.clone())
    }

    fn reader(&self) -> Arc<dyn BucketReader> {
        Arc::new(KafkaReader::new(self.settings.clone(), self.admin.clone()))
    }

    fn writer(&self, settings: ProducerSettings) -> Result<Arc<dyn TopicWriter>, LogError> {
        Ok(Arc::new(Producer::new(&self.settings, settings)?))
    }

    fn join(&self, settings: &ConsumerSettings) -> Result<Box<dyn GroupLog>, LogError> {
        Ok(Box::new(GroupConsumer::start(&self.settings, settings)?))
    }
}

/// Reads buckets of a Kafka cluster.
#[derive(Debug)]
pub struct KafkaReader {
    settings: KafkaSettings,
    admin: Admin,
}

impl KafkaReader {
    pub fn new(settings: KafkaSettings, admin: Admin) -> Self {
        Self { settings, admin }
    }
}

#[async_trait]
impl BucketReader for KafkaReader {
    async fn ends(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        self.admin.end_offsets(topic, buckets).await
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        let starts = self.admin.start_offsets(topic, &[bucket]).await?;
        let start = starts.first().map(|(_, start)| *start);
        start.ok_or_else(|| LogError::Client(format!("no start of {topic}/{bucket} in the answer")))
    }

    fn follow(&self, topic: &str, from: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>, LogError> {
        Ok(Box::new(Follower::start(&self.settings, topic, from)?))
    }

    fn ranges(&self, topic: &str) -> Result<Box<dyn RangeReader>, LogError> {
        Ok(Box::new(TailReader::open(&self.settings, topic)?))
    }
}

#[async_trait]
impl Feed for Follower {
    async fn next(&mut self) -> Result<News, LogError> {
        Self::next(self).await
    }
}

#[async_trait]
impl RangeReader for TailReader {
    async fn read(
        &self,
        ranges: Vec<(Bucket, Offset, Offset)>,
        deadline: Duration,
    ) -> Result<Vec<MessageBatch>, LogError> {
        Self::read(self, ranges, deadline).await
    }
}

#[async_trait]
impl TopicWriter for Producer {
    fn enqueue(&self, message: Message) -> Result<Delivery, LogError> {
        Self::enqueue(self, message)
    }

    async fn enqueue_waiting(&self, message: Message) -> Result<Delivery, LogError> {
        Self::enqueue_waiting(self, message).await
    }

    async fn flush(&self, deadline: Duration) -> Result<(), LogError> {
        Self::flush(self, deadline).await
    }
}

#[async_trait]
impl LogAdmin for Admin {
    async fn create_topic(&self, spec: &TopicSpec) -> Result<TopicCreated, LogError> {
        Self::create_topic(self, spec).await
    }

    async fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        Self::delete_topic(self, name).await
    }

    async fn describe(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        Self::describe(self, name).await
    }

    async fn list_topics(&self) -> Result<Vec<String>, LogError> {
        Self::list_topics(self).await
    }

    async fn end_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        Self::end_offsets(self, topic, buckets).await
    }

    async fn start_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        Self::start_offsets(self, topic, buckets).await
    }

    async fn alive(&self) -> Result<(), LogError> {
        Self::alive(self).await
    }

    async fn cluster_id(&self) -> Result<String, LogError> {
        Self::cluster_id(self).await
    }
}

#[async_trait]
impl GroupLog for GroupConsumer {
    async fn next(&mut self) -> Option<Event> {
        Self::next(self).await
    }

    fn begin(&self, starts: Vec<Start>, parked: Vec<TopicBucket>) {
        Self::begin(self, starts, parked);
    }

    fn restart(&self, starts: Vec<Start>) {
        Self::restart(self, starts);
    }

    fn release(&self, buckets: Vec<TopicBucket>) {
        Self::release(self, buckets);
    }

    fn pause(&self, buckets: Vec<TopicBucket>) {
        Self::pause(self, buckets);
    }

    fn resume(&self, buckets: Vec<TopicBucket>) {
        Self::resume(self, buckets);
    }

    fn commit(&self, offsets: Vec<(TopicBucket, Offset)>) {
        Self::commit(self, offsets);
    }

    fn end_offset_seen(&self, at: &TopicBucket) -> Option<Offset> {
        Self::end_offset_seen(self, at)
    }

    async fn close(self: Box<Self>) {
        Self::close(*self).await;
    }
}
