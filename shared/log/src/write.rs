//! Writing to a log: the seam, messages, and what is known of them once they are handed over.

use std::borrow::Cow;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidelake_core::{Bucket, Offset};
use tokio::sync::oneshot;

use crate::LogError;

/// Settings of a producer.
#[derive(Debug, Clone)]
pub struct ProducerSettings {
    /// How long a message may wait for company.
    pub linger: Duration,
    /// librdkafka's name of a codec; packed batches are compressed already.
    pub compression: &'static str,
    /// Bytes of messages that may wait for their acknowledgement.
    pub queue_bytes_max: usize,
    /// After this long without an acknowledgement a message has failed.
    pub delivery_timeout: Duration,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(1),
            compression: "none",
            queue_bytes_max: 64 << 20,
            delivery_timeout: Duration::from_secs(30),
        }
    }
}

/// One message to write.
#[derive(Debug, Clone)]
pub struct Message {
    pub topic: Arc<str>,
    pub bucket: Bucket,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Cow<'static, str>, Bytes)>,
    pub timestamp_ms: Option<i64>,
}

impl Message {
    pub fn new(topic: impl Into<Arc<str>>, bucket: Bucket, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            bucket,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }

    /// A message without a value, whose headers say what it is for.
    pub fn marker(
        topic: impl Into<Arc<str>>,
        bucket: Bucket,
        headers: Vec<(&'static str, Bytes)>,
    ) -> Self {
        Self {
            headers: headers
                .into_iter()
                .map(|(name, value)| (Cow::Borrowed(name), value))
                .collect(),
            value: None,
            ..Self::new(topic, bucket, Bytes::new())
        }
    }
}

/// Resolves to the message's offset once the log has it on disk.
#[derive(Debug)]
pub struct Delivery(pub(crate) oneshot::Receiver<Result<Offset, LogError>>);

impl Future for Delivery {
    type Output = Result<Offset, LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(LogError::Closed)))
    }
}

/// Writes messages: acknowledged once the log has them on disk, in the order they were handed over.
#[async_trait]
pub trait TopicWriter: Debug + Send + Sync {
    /// Hands a message over without waiting for room ([`LogError::QueueFull`]).
    fn enqueue(&self, message: Message) -> Result<Delivery, LogError>;

    /// Hands a message over, waiting for room in the queue: this is the back-pressure.
    async fn enqueue_waiting(&self, message: Message) -> Result<Delivery, LogError>;

    /// Writes one message and waits until the log has it.
    async fn send(&self, message: Message) -> Result<Offset, LogError> {
        self.enqueue_waiting(message).await?.await
    }

    /// Waits until everything handed over is acknowledged or has failed.
    async fn flush(&self, deadline: Duration) -> Result<(), LogError>;
}
