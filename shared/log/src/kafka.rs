//! Apache Kafka, and whatever speaks its protocol, through librdkafka.
//!
//! Owns connections, polling threads and librdkafka's memory; nothing of its API shows outside.
//! Does not own what a message means, nor the traits that callers see: those are one floor up.
//!
//! Invariants:
//! - every error of the client that is not known to pass stops its bucket by name (`mishap`);
//! - the polling thread never stops polling: what it asks the brokers itself, it asks without
//!   waiting.

mod admin;
mod client;
mod compaction;
mod consumer;
mod ends;
mod follow;
mod inquiry;
mod message;
mod mishap;
mod native;
mod poll;
mod producer;
mod progress;
mod request;
mod tail;
mod time;
mod visit;
mod watch;

pub use admin::Admin;
pub use client::{KafkaLog, KafkaReader};
pub use consumer::GroupConsumer;
pub use follow::Follower;
pub(crate) use message::{Batch, View, Views};
pub use producer::Producer;
pub use tail::TailReader;
