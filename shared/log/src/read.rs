//! Reading buckets outside of any group: the seam.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset};

use crate::{LogError, MessageBatch};

/// Stands for the end of a bucket, wherever that is, where a bucket is followed from.
pub const END: Offset = Offset(-1);

/// What came since the last call.
#[derive(Debug)]
pub struct News {
    /// Of each bucket in the order of its offsets.
    pub messages: MessageBatch,
    /// Buckets read up to their end: the next offset of each. Tells where offsets have no message.
    pub ends: Vec<(Bucket, Offset)>,
}

/// Buckets of one topic, followed.
#[async_trait]
pub trait Feed: Debug + Send {
    /// Waits for what comes next. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] where the log does not reach back to where a bucket was to
    /// begin, [`LogError::Damaged`] where it can't be read on. After any error the feed has ended.
    async fn next(&mut self) -> Result<News, LogError>;
}

/// Reads ranges of one topic. A read that goes on where the last one ended is cheap.
#[async_trait]
pub trait RangeReader: Debug + Send + Sync {
    /// All messages with offsets in `from..to` of each bucket, and perhaps some beyond `to`;
    /// offsets may have gaps. Returns once every range is complete.
    ///
    /// # Errors
    /// As [`Feed::next`], and [`LogError::Unavailable`] when the deadline passes first.
    async fn read(
        &self,
        ranges: Vec<(Bucket, Offset, Offset)>,
        deadline: Duration,
    ) -> Result<Vec<MessageBatch>, LogError>;
}

/// Reads buckets of any topic.
#[async_trait]
pub trait BucketReader: Debug + Send + Sync {
    /// The next offset of each bucket that readers will see.
    async fn ends(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError>;

    /// The first offset that the log still has.
    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError>;

    /// Follows buckets, each from an offset on; [`END`] means: what comes from now on.
    fn follow(&self, topic: &str, from: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>, LogError>;

    /// Reads ranges of a topic.
    fn ranges(&self, topic: &str) -> Result<Box<dyn RangeReader>, LogError>;
}
