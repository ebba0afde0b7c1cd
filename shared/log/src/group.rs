//! A member of a consumer group: the seam, what it reports, where it begins.
//!
//! ```text
//!  coordinator ── assign ──► Event::Assigned ──► owner reads watermarks ──► begin(starts) ──► fetching
//!              ── revoke ──► Event::Revoked  ──► owner flushes           ──► release(…)    ──► given up
//! ```

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tidelake_core::Offset;

use crate::{LogError, MessageBatch, TopicBucket, TopicInfo};

/// Settings of a group consumer.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    pub group: String,
    /// Names this member for good, so that a restart takes its buckets back at once.
    pub instance_id: Option<String>,
    /// Where it stops, its buckets are others' at once, whether it has an instance id or not.
    /// Otherwise a member with an instance id keeps them for its session's time-out.
    pub leaves: bool,
    /// A topic outside of the subscription: by it, a member with an instance id makes sure that no
    /// bucket was left to nobody when it died. Empty for one that the group does not know yet.
    pub visited_topic: String,
    /// A topic, or a pattern with a leading `^`.
    pub subscription: String,
    /// librdkafka's prefetch, in KiB, over all buckets.
    pub prefetch_kib_max: usize,
    /// How soon a topic that was created matches the pattern, and how soon a change of a topic that
    /// is consumed is noticed.
    pub discovery: Duration,
}

/// Where to begin with a bucket that was assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub at: TopicBucket,
    pub offset: Offset,
}

/// What a member reports.
#[derive(Debug)]
pub enum Event {
    /// Answer with [`GroupLog::begin`], naming those buckets that can be consumed.
    Assigned(Vec<TopicBucket>),
    /// From here on, messages of these buckets come from where [`GroupLog::restart`] said.
    Restarted(Vec<TopicBucket>),
    /// Answer with [`GroupLog::release`]; until then the group waits.
    Revoked(Vec<TopicBucket>),
    Messages(MessageBatch),
    /// No message lies before this offset that has not come: those that end here are none of ours,
    /// markers of producers' transactions and what was aborted.
    Passed(TopicBucket, Offset),
    /// The bucket can't go on (for example: its offset is not in the log any more). Nothing of it
    /// comes any more until [`GroupLog::restart`] names it.
    Failed(TopicBucket, LogError),
    /// A bucket stands still, or with no bucket the log as a whole, and why; goes on by itself, and
    /// says so with no error, once it can.
    Trouble {
        at: Option<TopicBucket>,
        error: Option<LogError>,
    },
    /// What a topic is of which this member owns buckets: told once after its first bucket was
    /// assigned, and whenever it has changed (made again, given buckets, deleted: `None`).
    TopicChanged {
        topic: std::sync::Arc<str>,
        info: Option<TopicInfo>,
    },
    /// The consumer as a whole has ended.
    Ended(LogError),
}

/// A member of a consumer group. Its owner says where buckets begin; committed offsets are for lag
/// tools only.
#[async_trait]
pub trait GroupLog: Debug + Send + Sync {
    /// The next event; `None` once the member has closed. May be dropped while it waits.
    async fn next(&mut self) -> Option<Event>;

    /// Answers an assignment: begins with those buckets that can be consumed and parks the others,
    /// until [`Self::restart`] names them. Buckets that were revoked meanwhile are left alone.
    fn begin(&self, starts: Vec<Start>, parked: Vec<TopicBucket>);

    /// Moves assigned buckets to other offsets. Messages from before may still be on their way:
    /// ignore the bucket's until [`Event::Restarted`] names it.
    fn restart(&self, starts: Vec<Start>);

    /// Gives revoked buckets up.
    fn release(&self, buckets: Vec<TopicBucket>);

    fn pause(&self, buckets: Vec<TopicBucket>);

    fn resume(&self, buckets: Vec<TopicBucket>);

    /// Tells lag tools how far this group is. Nothing rests on it.
    fn commit(&self, offsets: Vec<(TopicBucket, Offset)>);

    /// The bucket's end as the last fetch saw it; costs no request.
    fn end_offset_seen(&self, at: &TopicBucket) -> Option<Offset>;

    /// Leaves the group.
    async fn close(self: Box<Self>);
}
