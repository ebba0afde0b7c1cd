//! A flush from sealed rows to the known commit; tried again until it is known how it ended.
//!
//! Invariants:
//! - misrouted records and dead letters are acknowledged before the commit whose watermark passes
//!   them;
//! - nothing is committed for a table, or from a topic, that is not the one the rows were read for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tidelake_core::{Bucket, ErrorKind, Offset, TableVersion, Watermark};
use tidelake_log::{LogError, Message, TopicWriter};
use tidelake_manifest::{Conflict, Snapshot};
use tidelake_table::index::IndexHome;
use tidelake_table::{FileSettings, FlushOutcome, FlushRequest, Flushed, TableError, flush};
use tokio::sync::{mpsc, watch};

use crate::bucket::SealedBucket;
use crate::due::Reason;
use crate::flush::{Deliveries, Upserts};
use crate::metrics::FlusherMetrics;
use crate::opener::{OpenTable, Opener};
use crate::policy::{Cause, Trouble, chain};

/// Commits between two checkpoints, until the compactor writes them.
const CHECKPOINT_COMMITS: u64 = 100;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// From this failure in a row on, the table counts as troubled: one hiccup is none.
const FAILURES_TOLD: u32 = 2;

/// A flush of one table.
#[derive(Debug)]
pub struct Job {
    pub table: Arc<OpenTable>,
    pub base: Arc<Snapshot>,
    /// Of an upsert table.
    pub upserts: Option<Arc<Upserts>>,
    pub buckets: Vec<SealedBucket>,
    pub deliveries: Deliveries,
    pub reason: Reason,
    pub begun: Instant,
    /// Becomes true once the memory of the rows is needed elsewhere.
    pub give_way: watch::Receiver<bool>,
    /// Where failures are told while the flush goes on trying.
    pub failing: mpsc::Sender<Trouble>,
}

/// What every job needs.
#[derive(Debug, Clone)]
pub struct Workbench {
    pub opener: Opener,
    pub writer: Arc<dyn TopicWriter>,
    pub metrics: FlusherMetrics,
    pub files: FileSettings,
    /// Where key indexes live.
    pub index_home: Arc<IndexHome>,
    /// Topic of commit events, where they are wanted.
    pub announce: Option<Arc<str>>,
}

/// How a flush ended.
#[derive(Debug)]
pub enum Ended {
    Committed {
        snapshot: Arc<Snapshot>,
        moved: Vec<(Bucket, Watermark)>,
        /// Buckets whose watermark somebody else had moved: their rows were dropped.
        fenced: Vec<Bucket>,
    },
    /// The table is gone, or somebody changed it so that the rows must be decoded again.
    Changed,
    /// Trying again with these rows would not help, or their memory is needed.
    Stopped(Trouble),
}

/// Why an attempt came to nothing.
enum Failure {
    Gone,
    /// May pass by itself, or when an operator mends it; the rows wait.
    Passing(String),
    Lasting(Trouble),
}

impl Job {
    /// Runs to the end. Only errors that may pass are tried again, for as long as it takes: the
    /// rows are safe in the log, and the budget holds the reader back meanwhile.
    pub async fn run(mut self, bench: Workbench) -> Ended {
        let mut pause = RETRY_FIRST;
        let mut fenced = Vec::new();
        let mut failures = 0;
        loop {
            let why = match self.attempt(&bench).await {
                Ok(FlushOutcome::Committed(flushed)) => {
                    return self.committed(&bench, flushed, fenced).await;
                }
                Ok(FlushOutcome::Conflicted(Conflict::WatermarkMoved { bucket, .. })) => {
                    fenced.push(bucket);
                    match self.overtaken(&bench, bucket).await {
                        None => continue,
                        Some(Ok(snapshot)) => {
                            return Ended::Committed {
                                snapshot,
                                moved: Vec::new(),
                                fenced,
                            };
                        }
                        Some(Err(failure)) => failure,
                    }
                }
                Ok(FlushOutcome::Conflicted(other)) => {
                    tracing::info!(table = %self.table.entry.id, conflict = ?other, "table changed");
                    return Ended::Changed;
                }
                Err(failure) => failure,
            };
            let why = match why {
                Failure::Gone => return Ended::Changed,
                Failure::Lasting(trouble) => return Ended::Stopped(trouble),
                Failure::Passing(why) => why,
            };
            self.count(&bench.metrics.flush_failures);
            tracing::warn!(
                table = %self.table.entry.id, error = why,
                "flush failed, trying again in {pause:?}; nothing is lost"
            );
            failures += 1;
            if failures >= FAILURES_TOLD {
                let text = format!("table {}: commits fail: {why}", self.table.entry.id);
                // The loop takes them soon; a full queue means that it has one to tell already.
                let _told = self
                    .failing
                    .try_send(Trouble::new(Cause::FlushFailing, text));
            }
            if self.waits(pause).await {
                let text = format!("table {}: commits fail: {why}", self.table.entry.id);
                return Ended::Stopped(Trouble::new(Cause::GaveWay, text));
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Waits before the next attempt; true where the rows have to give way instead.
    async fn waits(&mut self, pause: Duration) -> bool {
        tokio::select! {
            // A sender that is gone asks for nothing any more.
            Ok(_) = self.give_way.wait_for(|wanted| *wanted) => true,
            () = back_off(pause) => false,
        }
    }

    /// Another flusher moved this bucket's watermark: its rows are dropped here. Where none are
    /// left, the table's newest snapshot ends the flush.
    async fn overtaken(
        &mut self,
        bench: &Workbench,
        bucket: Bucket,
    ) -> Option<Result<Arc<Snapshot>, Failure>> {
        tracing::warn!(
            table = %self.table.entry.id, %bucket,
            "another flusher moved this bucket's watermark: its rows are dropped here"
        );
        self.count(&bench.metrics.conflicts);
        self.buckets.retain(|held| held.sealed.bucket != bucket);
        if !self.buckets.is_empty() {
            return None;
        }
        let refreshed = self.table.delta.refresh(&self.base).await;
        Some(refreshed.map_err(|error| self.failure(error.kind(), &error)))
    }

    async fn attempt(&mut self, bench: &Workbench) -> Result<FlushOutcome, Failure> {
        self.proves_its_place(bench).await?;
        let delivered = self.deliveries.deliver(&*bench.writer).await;
        delivered.map_err(|error| self.refused(&error))?;
        let flushed = match &self.upserts {
            Some(upserts) => upserts.flush(self, bench).await,
            None => self.append(bench).await,
        };
        flushed.map_err(|error: TableError| match &error {
            // The local index was dropped: the next try builds it anew.
            TableError::Index(_) => Failure::Passing(chain(&error)),
            _ => self.failure(error.kind(), &error),
        })
    }

    /// A topic or a table that was made anew has other offsets and other rows: incarnations are never
    /// mixed. Rows behind a gap must lie inside of the log at least.
    async fn proves_its_place(&self, bench: &Workbench) -> Result<(), Failure> {
        let opener = &bench.opener;
        let (current, topic) = tokio::join!(
            opener.is_current(&self.table),
            opener.check_topic(&self.table)
        );
        if !current.map_err(|error| self.failure(error.kind(), &error))? {
            return Err(Failure::Gone);
        }
        topic.map_err(Failure::Lasting)?;
        let behind_gaps = self.buckets.iter().filter(|held| held.has_gaps);
        let reached: Vec<_> = behind_gaps
            .map(|held| (held.sealed.bucket, Offset(held.sealed.to.0)))
            .collect();
        if reached.is_empty() {
            return Ok(());
        }
        let outside = opener.check_positions(&self.table, &reached).await;
        match outside.map_err(|error| Failure::Passing(chain(&error)))? {
            None => Ok(()),
            Some((bucket, end)) => {
                let text = format!(
                    "table {} bucket {bucket}: messages were read beyond the log's end {end}: a \
                     damaged batch names other offsets than its own; check the log with \
                     `tidelake log verify`",
                    self.table.entry.id
                );
                Err(Failure::Lasting(Trouble::new(Cause::LogDamaged, text)))
            }
        }
    }

    fn failure(&self, kind: ErrorKind, error: &(dyn std::error::Error + 'static)) -> Failure {
        match kind {
            // A full disk or a folder that can't be written is the operator's to mend; the rows
            // wait until then, as many as the budget allows.
            ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::TooLarge => {
                Failure::Passing(chain(error))
            }
            _ => {
                let trouble = Trouble::of(kind, error);
                let text = format!("table {}: {}", self.table.entry.id, trouble.text);
                Failure::Lasting(Trouble::new(trouble.cause, text))
            }
        }
    }

    /// What an answer of the log to a re-publication or a dead letter means.
    fn refused(&self, error: &LogError) -> Failure {
        if error.kind().is_transient() {
            return Failure::Passing(chain(error));
        }
        if matches!(error, LogError::NoTopic(topic) if *topic == self.table.entry.topic) {
            return Failure::Gone;
        }
        let text = format!(
            "table {}: the log takes no misrouted record or dead letter of it: {}; the rows behind \
             it wait",
            self.table.entry.id,
            chain(error)
        );
        Failure::Lasting(Trouble::new(Cause::LogRefused, text))
    }

    async fn append(&self, bench: &Workbench) -> Result<FlushOutcome, TableError> {
        let sealed = self.buckets.iter().map(|bucket| bucket.sealed.clone());
        let runtime = &bench.opener.runtime;
        let request = FlushRequest {
            topic_id: self.table.entry.topic_id,
            buckets: sealed.collect(),
            files: bench.files,
            reason: self.reason.as_str(),
            file_id: runtime.ids.next_uuid(),
            now_ms: runtime.clock.now_ms(),
        };
        flush(&self.table.delta, &self.base, request).await
    }

    async fn committed(self, bench: &Workbench, flushed: Flushed, fenced: Vec<Bucket>) -> Ended {
        self.count(&bench.metrics.commits);
        bench
            .metrics
            .flush_seconds
            .observe(self.begun.elapsed().as_secs_f64());
        let moved: Vec<_> = self
            .buckets
            .iter()
            .map(|bucket| (bucket.sealed.bucket, bucket.sealed.to))
            .collect();
        let report = flushed.report;
        bench
            .metrics
            .superseded
            .with_label_values(&self.labels())
            .inc_by(report.superseded);
        tracing::debug!(
            table = %self.table.entry.id,
            version = %flushed.version,
            rows = report.rows,
            bytes = report.bytes,
            superseded = report.superseded,
            files_touched = report.files_touched,
            took = ?self.begun.elapsed(),
            reason = self.reason.as_str(),
            "committed"
        );
        if let Some(topic) = &bench.announce {
            self.announce(bench, topic, flushed.version, &moved).await;
        }
        let snapshot = self.checkpoint(flushed.snapshot).await;
        Ended::Committed {
            snapshot,
            moved,
            fenced,
        }
    }

    /// Keeps a reader's first look short. The next flush of the table waits for it, which bounds the
    /// log whatever the rate; a failure is tried again after the next commit.
    async fn checkpoint(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        if snapshot.commits_since_checkpoint() < CHECKPOINT_COMMITS {
            return snapshot;
        }
        match self.table.delta.write_checkpoint(&snapshot).await {
            Ok(checkpointed) => checkpointed,
            Err(error) => {
                let table = &self.table.entry.id;
                tracing::warn!(%table, error = chain(&error), "checkpoint not written");
                snapshot
            }
        }
    }

    /// Tells followers of `<prefix>.commits`. A hint: lost in a crash, it costs time only.
    async fn announce(
        &self,
        bench: &Workbench,
        topic: &Arc<str>,
        version: TableVersion,
        moved: &[(Bucket, Watermark)],
    ) {
        let id = &self.table.entry.id;
        let marks: serde_json::Map<String, serde_json::Value> = moved
            .iter()
            .map(|(bucket, mark)| (bucket.to_string(), json!(mark)))
            .collect();
        let event = json!({
            "event": "commit",
            "tenant": id.tenant,
            "table": id.table,
            "version": version,
            "watermarks": marks,
        });
        let mut message = Message::new(
            topic.clone(),
            Bucket(0),
            Bytes::from(event.to_string().into_bytes()),
        );
        message.key = Some(Bytes::from(id.to_string().into_bytes()));
        // Not awaited: nobody's correctness waits for it.
        if let Err(error) = bench.writer.enqueue(message) {
            tracing::debug!(%error, "commit event not sent");
        }
    }

    fn count(&self, counter: &prometheus::IntCounterVec) {
        counter.with_label_values(&self.labels()).inc();
    }

    pub(crate) fn labels(&self) -> [&str; 2] {
        let id = &self.table.entry.id;
        [id.tenant.as_str(), id.table.as_str()]
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a flush waits before a retry"
)]
async fn back_off(pause: Duration) {
    tokio::time::sleep(pause).await;
}
