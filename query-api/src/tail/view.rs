//! What queries see of a followed table, and how they wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Offset, TableVersion, Watermark};
use tidelake_table::index::Index;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ends::{BucketEnds, Ends};
use super::pieces::BucketTail;
use super::topic::{TOPIC_AGE_MAX, check_end};
use super::{Shared, TailLog};
use crate::error::QueryError;
use crate::moment;
use crate::table::pinned::Pinned;

/// One snapshot of a table and everything in the log behind it, up to one position of each bucket.
#[derive(Debug)]
pub(crate) struct View {
    pub pinned: Arc<Pinned>,
    /// When the store was asked for the snapshot.
    pub looked: Instant,
    pub buckets: BTreeMap<Bucket, BucketTail>,
    rows: usize,
    bytes: usize,
}

impl View {
    pub(super) fn new(
        pinned: Arc<Pinned>,
        looked: Instant,
        buckets: BTreeMap<Bucket, BucketTail>,
    ) -> Self {
        Self {
            pinned,
            looked,
            rows: buckets.values().map(BucketTail::rows).sum(),
            bytes: buckets.values().map(BucketTail::bytes).sum(),
            buckets,
        }
    }

    /// The view at earlier positions of these buckets; none where it does not have them.
    pub(super) fn up_to(&self, positions: &BTreeMap<Bucket, Watermark>) -> Option<Self> {
        let tails = positions.iter().map(|(bucket, mark)| {
            let tail = self.buckets.get(bucket)?.up_to(*mark)?;
            Some((*bucket, tail))
        });
        let tails = tails.collect::<Option<_>>()?;
        Some(Self::new(Arc::clone(&self.pinned), self.looked, tails))
    }

    fn reached(&self, bucket: Bucket) -> Offset {
        self.buckets
            .get(&bucket)
            .map_or(Offset(0), |tail| tail.reached)
    }

    /// The first bucket that is not there yet.
    fn behind(&self, ends: &[(Bucket, Offset)]) -> Option<(Bucket, Offset)> {
        ends.iter()
            .copied()
            .find(|(bucket, end)| self.reached(*bucket) < *end)
    }

    /// A read of the keys' index has failed: a newer view has another one.
    pub(crate) fn is_damaged(&self) -> bool {
        let upserts = self
            .buckets
            .values()
            .filter_map(|tail| tail.upsert.as_ref());
        let mut indexes = upserts.map(|upsert| upsert.fresh.index());
        indexes.any(Index::is_damaged)
    }

    pub(crate) fn positions(&self) -> BTreeMap<Bucket, Watermark> {
        let reached = self.buckets.iter();
        reached
            .map(|(bucket, tail)| (*bucket, Watermark(tail.reached.0)))
            .collect()
    }

    /// Rows of the tail, those that newer ones supersede included.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What the follower has told last.
#[derive(Debug, Clone)]
enum Told {
    Nothing,
    View(Arc<View>),
    Ended(QueryError),
}

/// What queries and commit events want of the follower.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Wanted {
    /// A commit event named it.
    pub version: Option<TableVersion>,
    /// A query needs a snapshot that was read after this moment.
    pub looked_after: Option<Instant>,
}

/// A followed table: the meeting place of its follower and its queries.
#[derive(Debug)]
pub(crate) struct Followed {
    entry: Arc<TableEntry>,
    buckets: AtomicU32,
    ends: Arc<Ends>,
    told: watch::Sender<Told>,
    wanted: Mutex<Wanted>,
    wake: Notify,
    used: Mutex<Instant>,
    users: AtomicUsize,
    bytes: AtomicUsize,
    stopped: CancellationToken,
}

impl Followed {
    pub(super) fn new(entry: Arc<TableEntry>) -> Self {
        Self {
            buckets: AtomicU32::new(entry.buckets),
            entry,
            ends: Arc::default(),
            told: watch::Sender::new(Told::Nothing),
            wanted: Mutex::default(),
            wake: Notify::new(),
            used: Mutex::new(moment::now()),
            users: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            stopped: CancellationToken::new(),
        }
    }

    pub(crate) fn entry(&self) -> &Arc<TableEntry> {
        &self.entry
    }

    pub(super) fn is_of(&self, entry: &TableEntry) -> bool {
        self.entry.is_same_table(entry)
    }

    /// Partitions that are read: those of the table, and what the topic of an append table got
    /// since.
    pub(super) fn buckets(&self) -> u32 {
        self.buckets.load(Ordering::Relaxed)
    }

    /// The log's ends, as of some moment after this call.
    ///
    /// # Errors
    /// [`QueryError::TopicChanged`] where the topic is not the table's any more.
    pub(super) async fn ends(&self, source: &Arc<TailLog>) -> Result<BucketEnds, QueryError> {
        let ends = self.ends.get(source, &self.entry).await?;
        let buckets = ends.len() as u32;
        if self.buckets.fetch_max(buckets, Ordering::Relaxed) < buckets {
            self.wake.notify_one();
        }
        Ok(ends)
    }

    /// The newest view, whatever it has reached.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        match &*self.told.borrow() {
            Told::View(view) => Some(Arc::clone(view)),
            Told::Nothing | Told::Ended(_) => None,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stopped.is_cancelled() || matches!(&*self.told.borrow(), Told::Ended(_))
    }

    pub(super) fn tell(&self, view: View) {
        self.bytes.store(view.bytes(), Ordering::Relaxed);
        self.told.send_replace(Told::View(Arc::new(view)));
    }

    pub(super) fn end(&self, error: QueryError) {
        self.bytes.store(0, Ordering::Relaxed);
        self.told.send_replace(Told::Ended(error));
    }

    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Returns once somebody wants something new.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn wanted(&self) -> Wanted {
        *self.wanted.lock()
    }

    pub(crate) fn announced(&self, version: TableVersion) {
        let mut wanted = self.wanted.lock();
        if wanted.version.is_none_or(|known| known < version) {
            wanted.version = Some(version);
            self.wake.notify_one();
        }
    }

    fn want_look(&self, after: Instant) {
        let mut wanted = self.wanted.lock();
        if wanted.looked_after.is_none_or(|known| known < after) {
            wanted.looked_after = Some(after);
            self.wake.notify_one();
        }
    }

    pub(super) fn begin_use(&self) {
        *self.used.lock() = moment::now();
        self.users.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.users.load(Ordering::SeqCst) > 0
    }

    pub(super) fn used(&self) -> Instant {
        *self.used.lock()
    }

    pub(super) fn is_idle_for(&self, time: Duration) -> bool {
        !self.is_in_use() && self.used() + time <= moment::now()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A query's hold on a followed table.
#[derive(Debug)]
pub(crate) struct Following {
    followed: Arc<Followed>,
    shared: Arc<Shared>,
    begun: Instant,
}

impl Following {
    pub(super) fn new(followed: Arc<Followed>, shared: Arc<Shared>) -> Self {
        Self {
            followed,
            shared,
            begun: moment::now(),
        }
    }

    /// The log's ends, as of some moment after this call.
    pub(crate) async fn ends(&self) -> Result<BucketEnds, QueryError> {
        self.followed.ends(&self.shared.source).await
    }

    /// The first view that covers `ends` and whose snapshot was read at most `age_max` before the
    /// hold began.
    ///
    /// # Errors
    /// [`QueryError::TailBehind`] where the follower does not come so far in time,
    /// [`QueryError::TopicChanged`] where the log ends before the snapshot's watermarks, and
    /// whatever ended the follower.
    pub(crate) async fn view(
        &self,
        ends: &[(Bucket, Offset)],
        age_max: Duration,
        deadline: Instant,
    ) -> Result<Arc<View>, QueryError> {
        let view = self.covering(ends, age_max, deadline).await?;
        // Rows that came while it waited may be of a topic that was made again meanwhile: what the
        // log says now is younger than they are.
        if moment::age(self.begun) >= TOPIC_AGE_MAX {
            self.ends().await?;
        }
        let reach = |ends: &[(Bucket, Offset)]| {
            ends.iter().try_for_each(|(bucket, end)| {
                let watermark = view.pinned.watermark(*bucket);
                check_end(&self.followed.entry, *bucket, *end, watermark)
            })
        };
        if reach(ends).is_err() {
            // The ends may be older than the snapshot; later ones are not.
            reach(&self.ends().await?)?;
        }
        Ok(view)
    }

    async fn covering(
        &self,
        ends: &[(Bucket, Offset)],
        age_max: Duration,
        deadline: Instant,
    ) -> Result<Arc<View>, QueryError> {
        let looked_after = self.begun.checked_sub(age_max);
        let fresh = |view: &View| {
            looked_after.is_none_or(|after| view.looked >= after) && !view.is_damaged()
        };
        if self.followed.view().is_some_and(|view| view.is_damaged()) {
            self.followed.want_look(moment::now());
        }
        if let Some(after) = looked_after {
            // Once half of the age is over: look while nobody waits for it yet.
            let soon = after + age_max / 2;
            match self.followed.view() {
                Some(view) if view.looked >= soon => {}
                Some(view) if view.looked >= after => self.followed.want_look(soon),
                _ => self.followed.want_look(after),
            }
        }
        let mut told = self.followed.told.subscribe();
        // The first view may take a while: an upsert table's keys are read for it.
        let begun = told.wait_for(|told| !matches!(told, Told::Nothing));
        if moment::by(deadline, begun).await.is_err() {
            return Err(self.behind(ends));
        }
        let patience = Duration::from_millis(self.shared.settings.tail_read_ms_max);
        let until = deadline.min(moment::now() + patience);
        let told = told.wait_for(|told| match told {
            Told::Nothing => false,
            Told::View(view) => view.behind(ends).is_none() && fresh(view),
            Told::Ended(_) => true,
        });
        match moment::by(until, told).await {
            Ok(Ok(told)) => match &*told {
                Told::View(view) => {
                    let (rows, bytes) = (view.rows() as u64, view.bytes() as u64);
                    self.shared.metrics.tail_rows.inc_by(rows);
                    self.shared.metrics.tail_bytes.inc_by(bytes);
                    Ok(Arc::clone(view))
                }
                Told::Ended(error) => Err(error.clone()),
                Told::Nothing => Err(QueryError::Closed),
            },
            Ok(Err(_)) => Err(QueryError::Closed),
            Err(_) => Err(self.behind(ends)),
        }
    }

    fn behind(&self, ends: &[(Bucket, Offset)]) -> QueryError {
        let table = self.followed.entry.id.clone();
        let view = self.followed.view();
        match view
            .as_ref()
            .and_then(|view| Some((view, view.behind(ends)?)))
        {
            Some((view, (bucket, end))) => QueryError::TailBehind {
                table,
                bucket,
                wanted: end.0,
                reached: view.reached(bucket).0,
            },
            None => QueryError::Store(format!(
                "the newest version of table {table} was not read in time"
            )),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        *self.followed.used.lock() = moment::now();
        self.followed.users.fetch_sub(1, Ordering::SeqCst);
        self.shared.settle();
    }
}
