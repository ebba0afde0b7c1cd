//! The log as the tail reads it.

use std::sync::Arc;

use tidelake_core::{Bucket, Offset};
use tidelake_intake::Seen;
use tidelake_log::{
    BucketReader, END, Feed, LogAdmin, LogClient, LogError, MessageBatch, TopicInfo, topics,
};

/// Ends, starts and followers of topics; whose log it is does not matter.
#[derive(Debug)]
pub struct TailLog {
    admin: Arc<dyn LogAdmin>,
    reader: Arc<dyn BucketReader>,
    commits_topic: String,
}

impl TailLog {
    /// `topic_prefix` names the installation's topics.
    pub fn new(log: &dyn LogClient, topic_prefix: &str) -> Self {
        Self {
            admin: log.admin(),
            reader: log.reader(),
            commits_topic: topics::commits_topic(topic_prefix),
        }
    }

    /// The high watermark of the topic's first `buckets` partitions.
    pub(crate) async fn ends(
        &self,
        topic: &str,
        buckets: u32,
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        let buckets: Vec<Bucket> = (0..buckets).map(Bucket).collect();
        self.admin.end_offsets(topic, &buckets).await
    }

    /// Id and partitions; `None` only where there is surely no such topic.
    pub(crate) async fn describe(&self, topic: &str) -> Result<Option<TopicInfo>, LogError> {
        self.admin.describe(topic).await
    }

    /// The first offset that the log still has.
    pub(crate) async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        self.reader.start(topic, bucket).await
    }

    /// Follows buckets, each from an offset on.
    pub(crate) fn follow(
        &self,
        topic: &str,
        from: &[(Bucket, Offset)],
    ) -> Result<Box<dyn Feed>, LogError> {
        self.reader.follow(topic, from)
    }

    /// Follows the commit events from now on.
    pub(crate) fn commits(&self) -> Result<Box<dyn Feed>, LogError> {
        self.follow(&self.commits_topic, &[(Bucket(0), END)])
    }

    #[cfg(test)]
    pub(crate) fn of_admin(admin: Arc<dyn LogAdmin>) -> Self {
        let clock = tidelake_core::clock::system();
        Self {
            admin,
            ..Self::new(&tidelake_log::memory::MemoryLog::new(clock), "tidelake")
        }
    }
}

/// Shows each message with its bucket; those of one bucket in the order of their offsets.
pub(super) fn visit(messages: &MessageBatch, mut visit: impl FnMut(Bucket, &Seen<'_>)) {
    for run in messages.runs() {
        for message in run.iter() {
            let seen = Seen {
                offset: message.offset(),
                timestamp_ms: message.timestamp_ms(),
                key: message.key(),
                value: message.value(),
                headers: &message,
            };
            visit(run.bucket, &seen);
        }
    }
}
