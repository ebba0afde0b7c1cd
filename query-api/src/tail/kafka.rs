//! The tail from a real log.

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset};
use tidelake_intake::Seen;
use tidelake_log::{Admin, Follower, KafkaSettings, LogError, MessageBatch, TopicInfo, topics};

use super::{Fed, Feed, Messages, RawMessage, TailSource};

/// Reads from Kafka.
#[derive(Debug)]
pub struct KafkaTail {
    kafka: KafkaSettings,
    admin: Admin,
}

impl KafkaTail {
    pub fn new(kafka: KafkaSettings, admin: Admin) -> Self {
        Self { kafka, admin }
    }
}

#[async_trait]
impl TailSource for KafkaTail {
    async fn ends(&self, topic: &str, buckets: u32) -> Result<Vec<(Bucket, Offset)>, LogError> {
        let buckets: Vec<Bucket> = (0..buckets).map(Bucket).collect();
        self.admin.end_offsets(topic, &buckets).await
    }

    async fn describe(&self, topic: &str) -> Result<Option<TopicInfo>, LogError> {
        self.admin.describe(topic).await
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        let starts = self.admin.start_offsets(topic, &[bucket]).await?;
        Ok(starts.first().map_or(Offset(-1), |(_, start)| *start))
    }

    fn follow(&self, topic: &str, from: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>, LogError> {
        Ok(Box::new(KafkaFeed(Follower::start(
            &self.kafka,
            topic,
            from,
        )?)))
    }

    fn commits(&self) -> Result<Box<dyn Feed>, LogError> {
        let topic = topics::commits_topic(&self.kafka.topic_prefix);
        self.follow(&topic, &[(Bucket(0), Follower::END)])
    }
}

struct KafkaFeed(Follower);

#[async_trait]
impl Feed for KafkaFeed {
    async fn next(&mut self) -> Result<Fed, LogError> {
        let news = self.0.next().await?;
        Ok(Fed {
            messages: Box::new(Batch(news.messages)),
            ends: news.ends,
        })
    }
}

struct Batch(MessageBatch);

impl Messages for Batch {
    fn visit(&self, visit: &mut dyn FnMut(RawMessage<'_>)) {
        for run in self.0.runs() {
            for message in run.iter() {
                visit(RawMessage {
                    bucket: run.bucket,
                    seen: Seen {
                        offset: message.offset(),
                        timestamp_ms: message.timestamp_ms(),
                        key: message.key(),
                        value: message.value(),
                        headers: &message,
                    },
                });
            }
        }
    }
}
