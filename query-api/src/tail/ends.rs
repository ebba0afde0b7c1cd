//! The ends of a topic's buckets: one request for all queries that wait at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use tidelake_core::{Bucket, Offset};
use tidelake_log::LogError;

use super::TailSource;

/// Of each bucket the next offset.
pub(crate) type BucketEnds = std::sync::Arc<[(Bucket, Offset)]>;

/// Invariant: an answer is given only to callers who asked before its request began, so that it
/// covers whatever was acknowledged before they asked.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Requests begun.
    begun: AtomicU64,
    /// One request at a time; holds the number and the answer of the last that ended.
    turn: tokio::sync::Mutex<(u64, Option<BucketEnds>)>,
}

impl Ends {
    pub(super) async fn get(
        &self,
        source: &dyn TailSource,
        topic: &str,
        buckets: u32,
    ) -> Result<BucketEnds, LogError> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut turn = self.turn.lock().await;
        if let (ended, Some(ends)) = &*turn
            && *ended > begun_before
        {
            return Ok(ends.clone());
        }
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let ends: BucketEnds = source.ends(topic, buckets).await?.into();
        *turn = (round, Some(ends.clone()));
        Ok(ends)
    }
}
