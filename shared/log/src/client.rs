//! One log, and every way to talk to it.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{
    BucketReader, ConsumerSettings, GroupLog, LogAdmin, LogError, ProducerSettings, TopicWriter,
};

/// Opens clients of one log. Nothing is contacted before a client is used.
pub trait LogClient: Debug + Send + Sync {
    fn admin(&self) -> Arc<dyn LogAdmin>;

    fn reader(&self) -> Arc<dyn BucketReader>;

    fn writer(&self, settings: ProducerSettings) -> Result<Arc<dyn TopicWriter>, LogError>;

    /// Joins a consumer group.
    fn join(&self, settings: &ConsumerSettings) -> Result<Box<dyn GroupLog>, LogError>;
}
