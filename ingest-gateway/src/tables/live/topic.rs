//! Whether the topic behind a table is the table's, looked at no more than needed.
//!
//! A record that is written to another topic of the same name is durable and no part of the table,
//! so no write may be acknowledged on one. Two things are compared:
//!
//! ```text
//!  before a write: what the log says of the topic, as of TOPIC_AGE_MAX ago at most
//!                  (looked at beside the requests; anew after every produce error)
//!  after it:       each acknowledged offset lies behind all that was acknowledged or committed
//!                  before: offsets of one topic never go back
//! ```
//! No write asks the log by itself. What remains is a bucket that this gateway never wrote to and
//! no commit covers, in the [`TOPIC_AGE_MAX`] after its topic was made anew: such a write is
//! acknowledged. It is not invisible in silence: the flusher stops the table by name, queries of
//! what is newest are refused, and so is the next write; adopting the topic takes it in.
//!
//! A log that says nothing of the topic refuses nothing here: it takes no records either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidelake_catalog::{FoundTopic, TableEntry, TableMode, TopicChanged};
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_log::{LogError, TopicInfo};

use super::LiveTable;
use crate::log::TableLog;
use crate::moment;

/// How old what the log said of a topic may be where records are written to it.
pub(crate) const TOPIC_AGE_MAX: Duration = Duration::from_secs(3);
/// From this age on the next look is made beside the requests, so that none waits for it.
const TOPIC_AGE_GOOD: Duration = Duration::from_secs(1);
/// How long the log may take to say what a topic is.
const TOPIC_WAIT: Duration = Duration::from_secs(2);

/// Whether the topic is the table's.
pub(super) type Verdict = Result<(), Arc<TopicChanged>>;

/// What is known of a table's topic.
#[derive(Debug)]
pub(super) struct TopicWatch {
    seen: Mutex<Option<Seen>>,
    /// Of the topic, as far as it was looked at.
    partitions: AtomicU32,
    /// One look at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Clone)]
struct Seen {
    /// The look began then, or ended then where the log did not answer.
    at: Instant,
    verdict: Verdict,
    /// Something happened since that speaks against it.
    doubted: bool,
}

impl TopicWatch {
    pub(super) fn new() -> Self {
        Self {
            seen: Mutex::default(),
            partitions: AtomicU32::new(0),
            looking: Arc::default(),
        }
    }

    fn seen_if(&self, counts: impl FnOnce(&Seen) -> bool) -> Option<Seen> {
        self.seen.lock().clone().filter(|seen| counts(seen))
    }
}

/// Up to where each bucket of the topic is known to reach.
#[derive(Debug)]
pub(crate) struct Reached(Box<[Reach]>);

#[derive(Debug, Default)]
struct Reach {
    /// Behind the last offset that was acknowledged to this gateway.
    acknowledged: AtomicI64,
    /// The watermark of the table's log.
    committed: AtomicI64,
}

impl Reached {
    pub(super) fn new(buckets: u32) -> Self {
        Self((0..buckets).map(|_| Reach::default()).collect())
    }

    fn of(&self, bucket: Bucket) -> Option<&Reach> {
        self.0.get(bucket.0 as usize)
    }

    /// The least offset that a message can get which is handed over now.
    pub(crate) fn floor(&self, bucket: Bucket) -> Offset {
        self.of(bucket).map_or(Offset(0), |reach| {
            let acknowledged = reach.acknowledged.load(Ordering::Acquire);
            Offset(acknowledged.max(reach.committed.load(Ordering::Acquire)))
        })
    }

    pub(crate) fn acknowledge(&self, bucket: Bucket, offset: Offset) {
        if let Some(reach) = self.of(bucket) {
            reach.acknowledged.fetch_max(offset.0 + 1, Ordering::AcqRel);
        }
    }

    /// The log has lost what it had acknowledged behind `offset`.
    fn restart(&self, bucket: Bucket, offset: Offset) {
        if let Some(reach) = self.of(bucket) {
            reach.acknowledged.store(offset.0 + 1, Ordering::Release);
        }
    }

    pub(super) fn commit(&self, marks: &BTreeMap<Bucket, Watermark>) {
        for (bucket, mark) in marks {
            if let Some(reach) = self.of(*bucket) {
                reach.committed.fetch_max(mark.0, Ordering::AcqRel);
            }
        }
    }

    fn committed(&self, bucket: Bucket) -> Watermark {
        let reach = self.of(bucket);
        Watermark(reach.map_or(0, |reach| reach.committed.load(Ordering::Acquire)))
    }

    /// The watermarks of all buckets that have one.
    fn marks(&self) -> BTreeMap<Bucket, Watermark> {
        let buckets = (0..).map(Bucket).take(self.0.len());
        let marks = buckets.map(|bucket| (bucket, self.committed(bucket)));
        marks.filter(|(_, mark)| mark.0 > 0).collect()
    }
}

impl LiveTable {
    /// Whether the topic is the table's, by a look that is at most [`TOPIC_AGE_MAX`] old.
    pub(in super::super) async fn check_topic(
        self: &Arc<Self>,
        log: &Arc<dyn TableLog>,
    ) -> Verdict {
        let watch = &self.topic_watch;
        if let Some(seen) =
            watch.seen_if(|seen| !seen.doubted && moment::age(seen.at) < TOPIC_AGE_MAX)
        {
            if moment::age(seen.at) >= TOPIC_AGE_GOOD {
                self.look_at_topic_beside(log);
            }
            return seen.verdict;
        }
        let asked = moment::now();
        let _turn = watch.looking.lock().await;
        if let Some(seen) = watch.seen_if(|seen| !seen.doubted && seen.at >= asked) {
            return seen.verdict;
        }
        match self.look_at_topic(log.as_ref()).await {
            Ok(verdict) => verdict,
            Err(error) => self.bridge_topic(&error),
        }
    }

    /// How many buckets the table is read from: those that it was made with, and of an append table
    /// the partitions that its topic was given since, as far as the topic was looked at.
    pub(in super::super) fn buckets_read(&self) -> u32 {
        match self.entry.mode {
            TableMode::Upsert => self.entry.buckets,
            TableMode::Append => {
                let seen = self.topic_watch.partitions.load(Ordering::Acquire);
                seen.max(self.entry.buckets)
            }
        }
    }

    /// The next write looks at the topic before it is taken.
    pub(in super::super) fn doubt_topic(&self) {
        if let Some(seen) = self.topic_watch.seen.lock().as_mut() {
            seen.doubted = true;
        }
    }

    /// What became of records that were acknowledged at offsets that the topic had already given
    /// out: the verdict on the topic, and on each of the buckets.
    ///
    /// # Errors
    /// Where the log does not say what the topic is.
    pub(in super::super) async fn judge_behind(
        &self,
        log: &dyn TableLog,
        behind: &BTreeMap<Bucket, Offset>,
    ) -> Result<Verdict, LogError> {
        let _turn = self.topic_watch.looking.lock().await;
        if let Err(changed) = self.look_at_topic(log).await? {
            return Ok(Err(changed));
        }
        for (bucket, offset) in behind {
            let mark = self.reached.committed(*bucket);
            if offset.0 < mark.0 {
                let end = Offset(offset.0 + 1);
                return Ok(self.entry.check_end(*bucket, end, mark).map_err(Arc::new));
            }
            // The flusher has not come so far: the record will be in the table. What was lost
            // before it was lost by the log.
            tracing::error!(table = %self.entry.id, %bucket, %offset,
                "the log gave an offset out again: records that it had acknowledged are lost");
            self.reached.restart(*bucket, *offset);
        }
        Ok(Ok(()))
    }

    fn look_at_topic_beside(self: &Arc<Self>, log: &Arc<dyn TableLog>) {
        let Ok(turn) = Arc::clone(&self.topic_watch.looking).try_lock_owned() else {
            return;
        };
        let (table, log) = (Arc::clone(self), Arc::clone(log));
        tokio::spawn(async move {
            if let Err(error) = table.look_at_topic(log.as_ref()).await {
                let _last = table.bridge_topic(&error);
            }
            drop(turn);
        });
    }

    /// Whose turn it is to look.
    async fn look_at_topic(&self, log: &dyn TableLog) -> Result<Verdict, LogError> {
        let at = moment::now();
        // Before the ends are asked for, which must not be older.
        let marks = self.reached.marks();
        let partitions = &self.topic_watch.partitions;
        let asking = ask(log, &self.entry, &marks, partitions);
        let asking = tokio::time::timeout(TOPIC_WAIT, asking);
        let verdict = asking.await.unwrap_or_else(|_| {
            let what = format!("what topic {} is", self.entry.topic);
            let reason = format!("no answer for {} s", TOPIC_WAIT.as_secs());
            Err(LogError::Unavailable { what, reason })
        })?;
        let verdict = verdict.map_err(Arc::new);
        if let Err(changed) = &verdict {
            tracing::warn!(table = %self.entry.id, reason = %changed, "no records are taken");
        }
        *self.topic_watch.seen.lock() = Some(Seen {
            at,
            verdict: verdict.clone(),
            doubted: false,
        });
        Ok(verdict)
    }

    /// What was seen last counts on where the log does not answer; nobody tries again at once, nor
    /// do those who wait for their turn.
    fn bridge_topic(&self, error: &LogError) -> Verdict {
        let at = moment::now();
        tracing::debug!(table = %self.entry.id, %error, "the topic could not be looked at");
        let mut seen = self.topic_watch.seen.lock();
        let verdict = seen.take().map_or(Ok(()), |seen| seen.verdict);
        *seen = Some(Seen {
            at,
            verdict: verdict.clone(),
            doubted: false,
        });
        verdict
    }
}

/// Asks the log what the table's topic is, and whether it reaches as far as the table's log says.
async fn ask(
    log: &dyn TableLog,
    entry: &TableEntry,
    marks: &BTreeMap<Bucket, Watermark>,
    partitions_seen: &AtomicU32,
) -> Result<Result<(), TopicChanged>, LogError> {
    let topic = &entry.topic;
    let marked: Vec<_> = marks.keys().copied().collect();
    let ends = async {
        match marked.is_empty() {
            true => Ok(Vec::new()),
            false => log.end_offsets(topic, &marked).await,
        }
    };
    let (found, ends) = tokio::join!(log.describe(topic), ends);
    let found = found?;
    if let Err(changed) = entry.check_topic(found.map(found_topic)) {
        return Ok(Err(changed));
    }
    for (bucket, end) in ends? {
        let mark = marks.get(&bucket).copied().unwrap_or_default();
        if let Err(changed) = entry.check_end(bucket, end, mark) {
            return Ok(Err(changed));
        }
    }
    let partitions = found.map_or(entry.buckets, |found| found.buckets);
    partitions_seen.store(partitions, Ordering::Release);
    if partitions <= entry.buckets || entry.mode == TableMode::Append {
        return Ok(Ok(()));
    }
    let added: Vec<_> = (entry.buckets..partitions).map(Bucket).collect();
    let ends = log.end_offsets(topic, &added).await?;
    Ok(entry.check_added(partitions, ends))
}

fn found_topic(info: TopicInfo) -> FoundTopic {
    FoundTopic {
        id: info.id,
        partitions: info.buckets,
    }
}
