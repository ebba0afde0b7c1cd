//! What is asked of a log about its topics: the seam.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset, TopicId};

use crate::LogError;

/// A topic to create.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub buckets: u32,
    /// `None`: the broker's default; negative: for ever.
    pub retention_ms: Option<i64>,
    /// More topic settings.
    pub config: BTreeMap<String, String>,
}

/// Whether it was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicCreated {
    Created,
    Exists,
}

/// What a topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInfo {
    pub id: TopicId,
    pub buckets: u32,
}

/// Topics of a log, and their offsets.
#[async_trait]
pub trait LogAdmin: Debug + Send + Sync {
    /// Creates a topic whose settings suit a log of Tidelake.
    async fn create_topic(&self, spec: &TopicSpec) -> Result<TopicCreated, LogError>;

    /// Deletes a topic; one that is not there is fine.
    async fn delete_topic(&self, name: &str) -> Result<(), LogError>;

    /// Id and bucket count; `None` only where there is surely no such topic.
    async fn describe(&self, name: &str) -> Result<Option<TopicInfo>, LogError>;

    /// Names of all topics.
    async fn list_topics(&self) -> Result<Vec<String>, LogError>;

    /// The next offset that each bucket will give out to readers: below it is all that may be read,
    /// without the records of transactions that are open.
    async fn end_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError>;

    /// The first offset that each bucket still has.
    async fn start_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError>;

    /// `Ok` where the log answers. Costs no more with many topics than with few.
    async fn alive(&self) -> Result<(), LogError>;

    /// What the log calls itself: no other has the same.
    async fn cluster_id(&self) -> Result<String, LogError>;
}
