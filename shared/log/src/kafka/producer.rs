//! A librdkafka producer: acknowledged by all replicas, idempotent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use tidelake_core::{Bucket, Offset};
use tokio::sync::oneshot;

use crate::{Delivery, KafkaSettings, LogError, Message, ProducerSettings};

/// A shared handle of one librdkafka producer.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Polled>,
}

/// A producer whose acknowledgements are taken by a thread of its own.
///
/// Not rdkafka's `ThreadedProducer`: that one spins for the last millisecond of each of its polls,
/// ten times a second, which is a percent of a core for nothing.
struct Polled {
    producer: Arc<BaseProducer<Acknowledge>>,
    stopped: Arc<AtomicBool>,
}

/// How long one poll waits; acknowledgements end the wait at once. The thread outlives its producer
/// by so much at most.
const POLL: Duration = Duration::from_secs(1);

impl Polled {
    fn start(producer: BaseProducer<Acknowledge>) -> std::io::Result<Self> {
        let polled = Self {
            producer: Arc::new(producer),
            stopped: Arc::default(),
        };
        let (producer, stopped) = (polled.producer.clone(), polled.stopped.clone());
        std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    producer.poll(POLL);
                }
            })?;
        Ok(polled)
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
    }
}

struct Acknowledge;

impl ClientContext for Acknowledge {}

impl ProducerContext for Acknowledge {
    type DeliveryOpaque = Box<oneshot::Sender<Result<Offset, LogError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiter: Self::DeliveryOpaque) {
        let answer = match result {
            Ok(message) => Ok(Offset(message.offset())),
            Err((error, message)) => Err(delivery_error(error, message)),
        };
        // Nobody waits any more: the client went away.
        let _ = waiter.send(answer);
    }
}

fn delivery_error(error: &KafkaError, message: &rdkafka::message::BorrowedMessage<'_>) -> LogError {
    let topic = message.topic().to_owned();
    let bucket = Bucket(u32::try_from(message.partition()).unwrap_or(u32::MAX));
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => LogError::MessageTooLarge {
            topic,
            bytes: message.payload_len(),
        },
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            LogError::NoTopic(topic)
        }
        Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            LogError::Denied(format!("write to {topic}"))
        }
        _ => LogError::Unacknowledged {
            topic,
            bucket,
            reason: error.to_string(),
        },
    }
}

impl Producer {
    /// Opens a producer; nothing is contacted yet.
    pub fn new(kafka: &KafkaSettings, settings: ProducerSettings) -> Result<Self, LogError> {
        let linger = settings.linger.as_millis().to_string();
        let queue_kib = (settings.queue_bytes_max / 1024).max(1).to_string();
        let timeout = settings.delivery_timeout.as_millis().to_string();
        let largest = tidelake_core::limits::MESSAGE_BYTES_MAX.to_string();
        let defaults = [
            ("linger.ms", linger.as_str()),
            ("batch.size", "4194304"),
            ("batch.num.messages", "100000"),
            ("queue.buffering.max.messages", "2000000"),
            ("queue.buffering.max.kbytes", &queue_kib),
            ("message.timeout.ms", &timeout),
            ("compression.codec", settings.compression),
        ];
        let fixed = [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("message.max.bytes", largest.as_str()),
        ];
        let mut config = ClientConfig::new();
        for (name, value) in kafka.properties(&defaults, &fixed) {
            config.set(name, value);
        }
        let producer = config
            .create_with_context(Acknowledge)
            .map_err(|error| setting_error(&error))?;
        let polled = Polled::start(producer)
            .map_err(|error| LogError::Client(format!("start the producer's thread: {error}")))?;
        Ok(Self {
            inner: Arc::new(polled),
        })
    }

    /// Writes one message and waits until the log has it.
    pub async fn send(&self, message: Message) -> Result<Offset, LogError> {
        self.enqueue_waiting(message).await?.await
    }

    /// Hands a message over without waiting for room.
    pub fn enqueue(&self, message: Message) -> Result<Delivery, LogError> {
        self.try_enqueue(&message)
    }

    /// Hands a message over, waiting for room in the queue: this is the back-pressure.
    pub async fn enqueue_waiting(&self, message: Message) -> Result<Delivery, LogError> {
        let mut pause = Duration::from_millis(1);
        loop {
            match self.try_enqueue(&message) {
                Err(LogError::QueueFull) => {
                    back_off(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                done => return done,
            }
        }
    }

    fn try_enqueue(&self, message: &Message) -> Result<Delivery, LogError> {
        let (sender, receiver) = oneshot::channel();
        let partition = i32::try_from(message.bucket.0).unwrap_or(i32::MAX);
        let mut record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(&message.topic, Box::new(sender)).partition(partition);
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        if let Some(value) = &message.value {
            record = record.payload(value);
        }
        if let Some(timestamp) = message.timestamp_ms {
            record = record.timestamp(timestamp);
        }
        if !message.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
            for (name, value) in &message.headers {
                headers = headers.insert(Header {
                    key: name,
                    value: Some(&value[..]),
                });
            }
            record = record.headers(headers);
        }
        match self.inner.producer.send(record) {
            Ok(()) => Ok(Delivery(receiver)),
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(Code::QueueFull) => LogError::QueueFull,
                Some(Code::MessageSizeTooLarge) => LogError::MessageTooLarge {
                    topic: message.topic.to_string(),
                    bytes: message.value.as_ref().map_or(0, Bytes::len),
                },
                Some(Code::UnknownTopic | Code::UnknownPartition) => {
                    LogError::NoTopic(message.topic.to_string())
                }
                _ => LogError::Client(error.to_string()),
            }),
        }
    }

    /// Waits until everything handed over is acknowledged or has failed.
    pub async fn flush(&self, deadline: Duration) -> Result<(), LogError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.producer.flush(deadline))
            .await
            .map_err(|error| LogError::Client(error.to_string()))?
            .map_err(|error| LogError::unavailable("flush the producer", error))
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Producer")
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "librdkafka offers no wake-up when its queue has room"
)]
async fn back_off(pause: Duration) {
    tokio::time::sleep(pause).await;
}

pub(crate) fn setting_error(error: &KafkaError) -> LogError {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => LogError::Setting {
            name: name.clone(),
            reason: reason.clone(),
        },
        other => LogError::Client(other.to_string()),
    }
}
