//! The Kafka client side of Tidelake: topics, producer, group consumer, tail reader, administration.
//!
//! Owns how Tidelake talks to a log: names of topics ([`topics`]), headers ([`headers`]), delivery with
//! `acks=all` and idempotence ([`Producer`]), the polling thread of a consumer group
//! ([`GroupConsumer`]), reading outside of any group, a range of
//! offsets ([`TailReader`]) or what comes ([`Follower`]), and the few
//! administrative requests ([`Admin`]). It is the only crate that compiles librdkafka; nothing of its
//! API shows in these types. It does not know what a message means: that is the codec's.
//!
//! Invariants:
//! - Offsets are never stored in the group on the way in: a consumer starts where its owner says
//!   ([`GroupConsumer::begin`]), which read it from the table's log. Committed group offsets are for
//!   lag tools only.
//! - The polling thread never stops polling; back-pressure is pause and resume.
//! - A [`MessageBatch`] borrows librdkafka's memory (no copy) and gives it back when dropped.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidelake_log::LogError> {
//! use tidelake_core::Bucket;
//! use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};
//! let kafka = KafkaSettings { bootstrap: "127.0.0.1:9092".into(), ..KafkaSettings::default() };
//! let producer = Producer::new(&kafka, ProducerSettings::default())?;
//! let offset = producer.send(Message::new("tidelake.default.orders", Bucket(0), "{\"id\":1}")).await?;
//! # Ok(()) }
//! ```

mod admin;
mod consumer;
mod ends;
mod error;
mod follow;
mod message;
mod native;
mod producer;
mod settings;
mod tail;
pub mod topics;
mod visit;

pub use tidelake_core::headers;

pub use admin::{Admin, TopicCreated, TopicInfo, TopicSpec};
pub use consumer::{ConsumerSettings, Event, GroupConsumer, Start};
pub use error::LogError;
pub use follow::{Follower, News};
pub use message::{MessageBatch, Received, Run};
pub use producer::{Delivery, Message, Producer, ProducerSettings};
pub use settings::KafkaSettings;
pub use tail::TailReader;
pub use topics::TopicBucket;
