//! What the seats are told, and what they say.

use std::sync::Arc;

use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, TopicId, Watermark};
use tidelake_log::TopicBucket;

use crate::due::Reason;
use crate::policy::{Moment, Trouble};

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Assigned(Vec<TopicBucket>),
    Revoked(Vec<TopicBucket>),
    /// A try to open these buckets ended.
    Opened {
        topic: Arc<str>,
        attempt: u64,
        found: Found,
        ready: Vec<Bucket>,
        refused: Vec<(Bucket, Trouble)>,
    },
    /// These were just opened, and their logs hold nothing behind their watermarks.
    CaughtUp(Arc<str>, Vec<Bucket>),
    /// Messages were taken in; what the buckets hold now.
    Taken(Vec<(TopicBucket, Held)>),
    /// A bucket can't go on.
    Failed(TopicBucket, Trouble),
    /// The log answered as if the bucket were not what it was: look at the table again.
    Surprised(TopicBucket),
    /// The topic is another now, or gone, or the log of the table can't be read.
    TableChanged(Arc<str>),
    /// A bucket's log stands still, or, with no trouble, goes on again by itself.
    Stalled(TopicBucket, Option<Trouble>),
    /// What the flush that has just begun holds beside its rows.
    FlushHolds(Arc<str>, usize),
    /// What the key indexes of a table's buckets hold now.
    IndexHolds(Arc<str>, usize),
    /// A flush failed and tries again.
    FlushFailing(Arc<str>, Trouble),
    FlushEnded(Arc<str>, FlushEnd),
    Tick,
    /// Everything is flushed, nothing new begins.
    Drain,
}

/// Which table a name stands for: one that was dropped and made again, or restored, is another,
/// whose log and offsets are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub topic_id: TopicId,
    pub restores: u32,
}

/// What the catalog said of a topic's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Table(Incarnation),
    NoTable,
    /// It could not be asked, or its answer could not be used.
    Unknown,
}

/// How a flush ended.
#[derive(Debug)]
pub(crate) enum FlushEnd {
    Committed {
        moved: Vec<(Bucket, Watermark)>,
        /// Another flusher was faster: these begin anew at the watermark it left.
        fenced: Vec<Bucket>,
    },
    /// There was nothing to commit.
    Nothing,
    /// The table is another now, or gone: look it up again.
    Changed,
    Stopped(Trouble),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Answer an assignment: nothing of it is consumed yet.
    Begin(Vec<TopicBucket>),
    /// Look the table up.
    Open {
        topic: Arc<str>,
        attempt: u64,
        buckets: Vec<Bucket>,
    },
    /// Consume from the watermark of the table's newest known version.
    Restart(Vec<TopicBucket>),
    /// Give revoked buckets back to the group.
    Release(Vec<TopicBucket>),
    Pause(Vec<TopicBucket>),
    Resume(Vec<TopicBucket>),
    Flush(Arc<str>, Reason),
    /// Tell lag tools.
    Commit(Vec<(TopicBucket, Watermark)>),
    /// Drop what is held in memory: it is in the log.
    Forget(TopicBucket),
    ForgetTable(Arc<str>),
    /// Buckets without rows give their decoders' room back.
    Shrink(Vec<TopicBucket>),
    /// End the table's flush at its next failure.
    GiveWay(Arc<str>),
}

/// What a bucket holds that no flush has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Freed by a flush.
    pub rows: usize,
    /// What that flush will need beside them.
    pub beside: usize,
    /// Kept by the decoder while it holds no rows.
    pub room: usize,
    /// When the oldest of it came in; none where a flush would move no watermark.
    pub since: Option<Moment>,
    /// Since when somebody waits for a flush.
    pub asked: Option<Moment>,
}

impl Incarnation {
    pub(crate) fn of(entry: &TableEntry) -> Self {
        Self {
            topic_id: entry.topic_id,
            restores: entry.restores,
        }
    }
}
