//! A producer that writes to a table's topic by itself, into any bucket it likes.

use std::borrow::Cow;

use anyhow::Result;
use bytes::Bytes;
use tidelake_core::Bucket;
use tidelake_core::partition::bucket_of;
use tidelake_log::{Admin, KafkaSettings, Message, Producer, ProducerSettings};

/// The topic of one table of tenant `default`.
#[derive(Debug)]
pub struct Direct {
    kafka: KafkaSettings,
    producer: Producer,
    topic: String,
    buckets: u32,
}

impl Direct {
    /// # Errors
    /// When the client can't be made.
    pub fn new(bootstrap: &str, table: &str, buckets: u32) -> Result<Self> {
        let kafka = KafkaSettings {
            bootstrap: bootstrap.to_owned(),
            ..KafkaSettings::default()
        };
        Ok(Self {
            producer: Producer::new(&kafka, ProducerSettings::default())?,
            kafka,
            topic: format!("tidelake.default.{table}"),
            buckets,
        })
    }

    /// Where a key belongs.
    pub fn home(&self, key: &str) -> Bucket {
        bucket_of(key.as_bytes(), self.buckets)
    }

    /// Where it does not: one of the others, by turns.
    pub fn elsewhere(&self, key: &str, turn: u64) -> Bucket {
        let others = u64::from(self.buckets) - 1;
        let step = 1 + (turn % others) as u32;
        Bucket((self.home(key).0 + step) % self.buckets)
    }

    /// A record, or a tombstone, for [`Self::send`].
    pub fn record(&self, bucket: Bucket, key: &str, value: Option<String>) -> Message {
        Message {
            key: Some(Bytes::from(key.to_owned().into_bytes())),
            value: value.map(|value| Bytes::from(value.into_bytes())),
            ..Message::new(self.topic.as_str(), bucket, Bytes::new())
        }
    }

    /// The same with an origin: a re-publication, or what claims to be one.
    pub fn from_elsewhere(&self, origin: &str, key: &str, value: &str) -> Message {
        let origin = Bytes::from(origin.to_owned().into_bytes());
        let mut message = self.record(self.home(key), key, Some(value.to_owned()));
        message.headers = vec![(Cow::Borrowed(tidelake_log::headers::ORIGIN), origin)];
        message
    }

    /// Writes them in order, and waits until the log has all.
    ///
    /// # Errors
    /// When the log refuses one.
    pub async fn send(&self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut waiting = Vec::new();
        for message in messages {
            waiting.push(self.producer.enqueue_waiting(message).await?);
        }
        for delivery in waiting {
            delivery.await?;
        }
        Ok(())
    }

    /// How many messages its topic has got.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn messages(&self) -> Result<i64> {
        self.count(&self.topic, self.buckets).await
    }

    /// How many dead letters the table has.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn dead_letters(&self) -> Result<i64> {
        self.count(&format!("{}.dlq", self.topic), 1).await
    }

    async fn count(&self, topic: &str, buckets: u32) -> Result<i64> {
        let buckets: Vec<_> = (0..buckets).map(Bucket).collect();
        let ends = Admin::new(&self.kafka)?
            .end_offsets(topic, &buckets)
            .await?;
        Ok(ends.into_iter().map(|(_, end)| end.0).sum())
    }
}
