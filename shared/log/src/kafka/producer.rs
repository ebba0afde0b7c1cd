//! A librdkafka producer: acknowledged by all replicas, idempotent.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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

use crate::{
    Delivery, KafkaSettings, LogError, Message, ProducerSettings, RefusedFor, TopicBucket,
};

/// A shared handle of a librdkafka producer.
///
/// An idempotent producer that has lost its sequence can't write any more, and librdkafka calls
/// that fatal. What it had not acknowledged has failed then, and whoever wrote it decides what to
/// do; for what comes after, another one takes its place.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    current: RwLock<Arc<Polled>>,
}

/// A producer whose acknowledgements are taken by a thread of its own.
///
/// Not rdkafka's `ThreadedProducer`: that one spins for the last millisecond of each of its polls,
/// ten times a second, which is a percent of a core for nothing.
struct Polled {
    producer: Arc<BaseProducer<Acknowledge>>,
    stopped: Arc<AtomicBool>,
    /// It can't write any more.
    broken: Arc<AtomicBool>,
}

/// How long one poll waits; acknowledgements end the wait at once. The thread outlives its producer
/// by so much at most.
const POLL: Duration = Duration::from_secs(1);

impl Polled {
    fn start(config: &ClientConfig) -> Result<Self, LogError> {
        let broken: Arc<AtomicBool> = Arc::default();
        let acknowledge = Acknowledge(broken.clone());
        let producer = config.create_with_context(acknowledge);
        let polled = Self {
            producer: Arc::new(producer.map_err(|error| setting_error(&error))?),
            stopped: Arc::default(),
            broken,
        };
        let (producer, stopped) = (polled.producer.clone(), polled.stopped.clone());
        std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    producer.poll(POLL);
                }
            })
            .map_err(|error| LogError::Client(format!("start the producer's thread: {error}")))?;
        Ok(polled)
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
    }
}

/// Takes acknowledgements, and notes a failure that is for good.
struct Acknowledge(Arc<AtomicBool>);

impl ClientContext for Acknowledge {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.0.store(true, Ordering::Release);
            tracing::warn!(%error, reason, "the producer is replaced");
        } else {
            tracing::debug!(%error, reason, "producer");
        }
    }
}

impl ProducerContext for Acknowledge {
    type DeliveryOpaque = Box<oneshot::Sender<Result<Offset, LogError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiter: Self::DeliveryOpaque) {
        let answer = match result {
            Ok(message) => Ok(Offset(message.offset())),
            Err((error, message)) => {
                if error.rdkafka_error_code() == Some(Code::Fatal) {
                    self.0.store(true, Ordering::Release);
                }
                Err(delivery_error(error, message))
            }
        };
        // Nobody waits any more: the client went away.
        let _ = waiter.send(answer);
    }
}

fn delivery_error(error: &KafkaError, message: &rdkafka::message::BorrowedMessage<'_>) -> LogError {
    let at = TopicBucket {
        topic: Arc::from(message.topic()),
        bucket: Bucket(u32::try_from(message.partition()).unwrap_or(u32::MAX)),
    };
    not_delivered(error, at, message.payload_len())
}

fn refused(topic: String, because: RefusedFor, error: &KafkaError) -> LogError {
    LogError::Refused {
        topic,
        because,
        reason: error.to_string(),
    }
}

fn not_delivered(error: &KafkaError, at: TopicBucket, bytes: usize) -> LogError {
    let (topic, bucket) = (at.topic.to_string(), at.bucket);
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => LogError::MessageTooLarge { topic, bytes },
        Some(Code::InvalidRecord) => refused(topic, RefusedFor::Record, error),
        Some(Code::InvalidTimestamp) => refused(topic, RefusedFor::Timestamp, error),
        Some(Code::PolicyViolation) => refused(topic, RefusedFor::Policy, error),
        // One broker's word, or none's: whether the topic is gone, only the controller can say.
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            unknown(&topic)
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
        let polled = Polled::start(&config)?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                current: RwLock::new(Arc::new(polled)),
            }),
        })
    }

    /// The producer that can write.
    fn current(&self) -> Result<Arc<Polled>, LogError> {
        // Nobody panics while holding it.
        let current = self.inner.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner).clone();
        if !current.broken.load(Ordering::Acquire) {
            return Ok(current);
        }
        let seat = self.inner.current.write();
        let mut seat = seat.unwrap_or_else(PoisonError::into_inner);
        if seat.broken.load(Ordering::Acquire) {
            *seat = Arc::new(Polled::start(&self.inner.config)?);
        }
        Ok(seat.clone())
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
        let current = self.current()?;
        match current.producer.send(record) {
            Ok(()) => Ok(Delivery(receiver)),
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(Code::QueueFull) => LogError::QueueFull,
                Some(Code::MessageSizeTooLarge) => LogError::MessageTooLarge {
                    topic: message.topic.to_string(),
                    bytes: message.value.as_ref().map_or(0, Bytes::len),
                },
                Some(Code::UnknownTopic | Code::UnknownPartition) => unknown(&message.topic),
                // The next one is written by another producer.
                Some(Code::Fatal) => {
                    current.broken.store(true, Ordering::Release);
                    LogError::unavailable(format!("write to {}", message.topic), error)
                }
                _ => LogError::Client(error.to_string()),
            }),
        }
    }

    /// Waits until everything handed over is acknowledged or has failed.
    pub async fn flush(&self, deadline: Duration) -> Result<(), LogError> {
        let current = self.current()?;
        tokio::task::spawn_blocking(move || current.producer.flush(deadline))
            .await
            .map_err(|error| LogError::Client(error.to_string()))?
            .map_err(|error| LogError::unavailable("flush the producer", error))
    }
}

fn unknown(topic: &str) -> LogError {
    let reason = "the brokers do not know it: they have not heard of it yet, or it was deleted";
    LogError::unavailable(format!("write to {topic}"), reason)
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

#[cfg(test)]
mod tests {
    #![expect(unsafe_code, reason = "librdkafka's way to raise a fatal error")]

    use super::super::time;

    use rdkafka::bindings as rd;
    use rdkafka::types::RDKafkaRespErr as RespErr;

    use super::*;

    #[test]
    fn what_a_topic_takes_under_no_circumstances_is_not_a_log_that_is_away() {
        let told = |code| {
            let at = TopicBucket {
                topic: Arc::from("t"),
                bucket: Bucket(1),
            };
            not_delivered(&KafkaError::MessageProduction(code), at, 7)
        };
        for (code, what) in [
            (Code::InvalidRecord, RefusedFor::Record),
            (Code::InvalidTimestamp, RefusedFor::Timestamp),
            (Code::PolicyViolation, RefusedFor::Policy),
        ] {
            let error = told(code);
            let LogError::Refused { topic, because, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!((topic.as_str(), *because), ("t", what));
            assert_eq!(error.kind(), tidelake_core::ErrorKind::Invalid);
        }
        for code in [Code::MessageTimedOut, Code::NotLeaderForPartition] {
            let error = told(code);
            assert!(matches!(error, LogError::Unacknowledged { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_producer_that_has_failed_for_good_is_replaced() {
        let kafka = KafkaSettings {
            bootstrap: "127.0.0.1:1".into(),
            ..KafkaSettings::default()
        };
        let settings = ProducerSettings {
            delivery_timeout: Duration::from_secs(2),
            ..ProducerSettings::default()
        };
        let producer = Producer::new(&kafka, settings).unwrap();
        let first = producer.current().unwrap();
        let waiting = producer.enqueue(Message::new("t", Bucket(0), "a")).unwrap();
        // SAFETY: a live handle and a string that is copied.
        unsafe {
            let code = RespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
            let handle = first.producer.client().native_ptr();
            rd::rd_kafka_test_fatal_error(handle, code, c"told to".as_ptr());
        }
        let failed = waiting.await;
        assert!(
            matches!(failed, Err(LogError::Unacknowledged { .. })),
            "{failed:?}"
        );
        let begun = time::now();
        loop {
            match producer.enqueue(Message::new("t", Bucket(0), "b")) {
                Ok(_) => break,
                Err(LogError::Unavailable { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        let second = producer.current().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(second.producer.client().fatal_error().is_none());
    }
}
