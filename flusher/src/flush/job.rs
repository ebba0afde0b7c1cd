//! A flush from sealed rows to the known commit; tried again until it is known how it ended.
//!
//! Invariants:
//! - misrouted records and dead letters are acknowledged before the commit whose watermark passes
//!   them;
//! - nothing is committed for a table, or from a topic, that is not the one the rows were read for:
//!   the proof is younger than the rows, and a flush that can't have it waits.

use std::sync::Arc;
use std::time::Duration;

use tidelake_core::{Bucket, ErrorKind, Watermark};
use tidelake_log::{BucketReader, TopicWriter};
use tidelake_manifest::{Conflict, ManifestError, Snapshot};
use tidelake_storage::StorageError;
use tidelake_table::index::IndexHome;
use tidelake_table::{Encoders, FileSettings, Flush, FlushOutcome, FlushRows, TableError};
use tokio::sync::{mpsc, watch};

use crate::bucket::SealedBucket;
use crate::due::Reason;
use crate::flush::proof::Failure;
use crate::flush::{Deliveries, Upserts};
use crate::metrics::FlusherMetrics;
use crate::opener::{OpenTable, Opener};
use crate::policy::{Cause, Trouble, chain};
use crate::time::{Stopwatch, pass};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Where the store refuses to write: each try encodes and uploads all that waits, and somebody has
/// to mend it first.
const RETRY_REFUSED_MAX: Duration = Duration::from_secs(30);
/// From this failure in a row on, the table counts as troubled: one hiccup is none.
const FAILURES_TOLD: u32 = 2;

/// A flush of one table.
#[derive(Debug)]
pub(crate) struct Job {
    pub table: Arc<OpenTable>,
    pub base: Arc<Snapshot>,
    /// Of an upsert table.
    pub upserts: Option<Arc<Upserts>>,
    pub buckets: Vec<SealedBucket>,
    pub deliveries: Deliveries,
    /// The log has said that the rows are of the table's topic.
    pub proven: bool,
    pub reason: Reason,
    pub begun: Stopwatch,
    /// Becomes true once the memory of the rows is needed elsewhere.
    pub give_way: watch::Receiver<bool>,
    /// Where failures are told while the flush goes on trying.
    pub failing: mpsc::Sender<Trouble>,
}

/// What every job needs.
#[derive(Debug, Clone)]
pub(crate) struct Workbench {
    pub opener: Opener,
    pub writer: Arc<dyn TopicWriter>,
    /// For single records of buckets that stand.
    pub reader: Arc<dyn BucketReader>,
    pub metrics: FlusherMetrics,
    pub files: FileSettings,
    /// Of all flushes together.
    pub encoders: Encoders,
    /// Where key indexes live.
    pub index_home: Arc<IndexHome>,
    /// Topic of commit events, where they are wanted.
    pub announce: Option<Arc<str>>,
}

/// How a flush ended.
#[derive(Debug)]
pub(crate) enum Ended {
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

impl Job {
    /// Runs to the end. Only errors that may pass are tried again, for as long as it takes: the
    /// rows are safe in the log, and the budget holds the reader back meanwhile.
    pub(crate) async fn run(mut self, bench: Workbench) -> Ended {
        let mut pause = RETRY_FIRST;
        let mut fenced = Vec::new();
        let mut failures = 0;
        loop {
            let attempted = Stopwatch::start();
            let why = match self.attempt(&bench).await {
                Ok(FlushOutcome::Committed(flushed)) => {
                    let took = attempted.elapsed();
                    return self.committed(&bench, flushed, fenced, took).await;
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
                    let table = &self.table.entry.id;
                    tracing::info!(%table, conflict = ?other, "table changed");
                    return Ended::Changed;
                }
                Err(failure) => failure,
            };
            let (why, pause_max) = match why {
                Failure::Changed => return Ended::Changed,
                Failure::Lasting(trouble) => return Ended::Stopped(trouble),
                Failure::Passing(why) => (why, RETRY_MAX),
                Failure::Refused(why) => (why, RETRY_REFUSED_MAX),
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
            pause = (pause * 2).min(pause_max);
        }
    }

    /// Waits before the next attempt; true where the rows have to give way instead.
    async fn waits(&mut self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            // A sender that is gone asks for nothing any more.
            Ok(_) = self.give_way.wait_for(|wanted| *wanted) => true,
            () = pass(pause) => false,
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
        self.refused_by_what_holds().await?;
        let delivered = self.deliveries.deliver(&*bench.writer).await;
        delivered.map_err(|error| self.refused(&error))?;
        let flushed = match &self.upserts {
            Some(upserts) => upserts.flush(self, bench).await,
            None => self.append(bench).await,
        };
        let error = match flushed {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        Err(match &error {
            // The local index was dropped: the next try builds it anew.
            TableError::Index(_) => Failure::Passing(chain(&error)),
            TableError::Storage(StorageError::NotFound { .. })
            | TableError::Manifest(ManifestError::VectorOf { .. })
                if error.kind() == ErrorKind::NotFound =>
            {
                self.missing(&error).await
            }
            refusal if refusal.is_refusal() => Failure::Refused(chain(refusal)),
            _ => self.failure(error.kind(), &error),
        })
    }

    async fn append(&self, bench: &Workbench) -> Result<FlushOutcome, TableError> {
        let sealed = self.buckets.iter().map(|bucket| bucket.sealed.clone());
        let runtime = &bench.opener.runtime;
        let flush = Flush {
            topic_id: self.table.entry.topic_id,
            rows: FlushRows::Append {
                buckets: sealed.collect(),
                file_id: runtime.ids.next_uuid(),
            },
            txns: Vec::new(),
            files: bench.files,
            reason: self.reason.as_str(),
            now_ms: runtime.clock.now_ms(),
        };
        let flushed = flush.run_within(&bench.encoders, &self.table.delta, &self.base);
        Ok(flushed.await?.outcome)
    }
}
