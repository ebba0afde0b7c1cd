//! The log of Tidelake: topics, writers, consumer groups, readers, administration.
//!
//! Owns how Tidelake talks to a log: names of topics ([`topics`]), headers ([`headers`]), and the
//! seams that callers speak to: [`GroupLog`] (a member of a consumer group), [`BucketReader`]
//! (ranges and following, outside of any group), [`TopicWriter`], [`LogAdmin`]; [`LogClient`] opens
//! them. Two logs keep them: [`KafkaLog`], the only place that knows librdkafka, of whose API
//! nothing shows in these types, and [`memory::MemoryLog`]. It does not know what a message means:
//! that is the codec's.
//!
//! Invariants:
//! - Offsets are never stored in the group on the way in: a consumer starts where its owner says
//!   ([`GroupLog::begin`]), which read it from the table's log. Committed group offsets are for lag
//!   tools only.
//! - A bucket that can't be read, or whose offsets contradict the log, stops by name
//!   ([`LogError::Damaged`]); nothing that lies behind is handed on.
//! - The polling thread never stops polling; back-pressure is pause and resume.
//! - A [`MessageBatch`] borrows librdkafka's memory (no copy) and gives it back when dropped.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidelake_log::LogError> {
//! use tidelake_core::Bucket;
//! use tidelake_log::{KafkaLog, KafkaSettings, LogClient, Message, ProducerSettings};
//! let kafka = KafkaSettings { bootstrap: "127.0.0.1:9092".into(), ..KafkaSettings::default() };
//! let writer = KafkaLog::new(kafka)?.writer(ProducerSettings::default())?;
//! let offset = writer.send(Message::new("tidelake.default.orders", Bucket(0), "{\"id\":1}")).await?;
//! # Ok(()) }
//! ```

mod admin;
mod client;
pub mod conformance;
mod error;
mod group;
mod kafka;
pub mod memory;
mod message;
mod read;
mod settings;
pub mod topics;
mod write;

pub use tidelake_core::headers;

pub use admin::{LogAdmin, TopicCreated, TopicInfo, TopicSpec};
pub use client::LogClient;
pub use error::{LogError, RefusedFor};
pub use group::{ConsumerSettings, Event, GroupLog, Start};
pub use kafka::{Admin, Follower, GroupConsumer, KafkaLog, KafkaReader, Producer, TailReader};
pub use message::{MessageBatch, OwnedMessage, Received, Run};
pub use read::{BucketReader, END, Feed, News, RangeReader};
pub use settings::KafkaSettings;
pub use topics::TopicBucket;
pub use write::{Delivery, Message, ProducerSettings, TopicWriter};
