//! One flush on its way: dead letters, data file, commit; tried again until it is known how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tidelake_core::{Bucket, ErrorKind, TableVersion, Watermark};
use tidelake_log::{Message, Producer};
use tidelake_manifest::{Conflict, Snapshot};
use tidelake_table::index::IndexHome;
use tidelake_table::{FileSettings, Flush, FlushOutcome, FlushRows, Flushed, TableError};

use crate::bucket::SealedBucket;
use crate::dead_letters::send_all;
use crate::due::Reason;
use crate::keyed::Keyed;
use crate::metrics::FlusherMetrics;
use crate::table::{OpenTable, Opener};

/// Commits between two checkpoints, until the compactor writes them.
const CHECKPOINT_COMMITS: u64 = 100;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A flush of one table.
#[derive(Debug)]
pub struct Job {
    pub table: Arc<OpenTable>,
    pub base: Arc<Snapshot>,
    /// Of an upsert table.
    pub keyed: Option<Arc<Keyed>>,
    pub buckets: Vec<SealedBucket>,
    pub reason: Reason,
    pub begun: Instant,
}

/// What every job needs.
#[derive(Debug, Clone)]
pub struct Workbench {
    pub opener: Opener,
    pub producer: Producer,
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
    /// The table this flush was for is gone.
    Gone,
    /// Somebody changed the table so that the rows must be decoded again.
    Reopen,
    /// Trying again would not help.
    Stuck(String),
}

impl Job {
    /// Runs to the end. Only errors that may pass are tried again, for as long as it takes: the
    /// rows are safe in the log, and the budget holds the reader back meanwhile.
    pub async fn run(mut self, bench: Workbench) -> Ended {
        let mut pause = RETRY_FIRST;
        let mut fenced = Vec::new();
        loop {
            let why = match self.attempt(&bench).await {
                Ok(FlushOutcome::Committed(flushed)) => {
                    return self.committed(&bench, flushed, fenced).await;
                }
                Ok(FlushOutcome::Conflicted(Conflict::WatermarkMoved { bucket, .. })) => {
                    tracing::warn!(
                        table = %self.table.entry.id, %bucket,
                        "another flusher moved this bucket's watermark: its rows are dropped here"
                    );
                    self.count(&bench.metrics.conflicts);
                    fenced.push(bucket);
                    self.buckets.retain(|held| held.sealed.bucket != bucket);
                    if self.buckets.is_empty() {
                        match self.table.delta.refresh(&self.base).await {
                            Ok(snapshot) => {
                                return Ended::Committed {
                                    snapshot,
                                    moved: Vec::new(),
                                    fenced,
                                };
                            }
                            Err(error) if error.kind().is_transient() => error.to_string(),
                            Err(error) => return Ended::Stuck(chain(&error)),
                        }
                    } else {
                        continue;
                    }
                }
                Ok(FlushOutcome::Conflicted(other)) => {
                    tracing::info!(table = %self.table.entry.id, conflict = ?other, "table changed");
                    return Ended::Reopen;
                }
                Err(Failure::Gone) => return Ended::Gone,
                Err(Failure::Transient(why)) => why,
                Err(Failure::Lasting(why)) => return Ended::Stuck(why),
            };
            self.count(&bench.metrics.flush_failures);
            tracing::warn!(
                table = %self.table.entry.id, error = why,
                "flush failed, trying again in {pause:?}; nothing is lost"
            );
            back_off(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn attempt(&mut self, bench: &Workbench) -> Result<FlushOutcome, Failure> {
        // A topic that was created anew counts its offsets from 0 again: never mix incarnations.
        let current = bench.opener.is_current(&self.table).await;
        if !current.map_err(|error| Failure::of(error.kind(), &error))? {
            return Err(Failure::Gone);
        }
        for bucket in &mut self.buckets {
            for messages in [&mut bucket.dead_letters, &mut bucket.strays] {
                send_all(&bench.producer, messages)
                    .await
                    .map_err(|error| Failure::of(error.kind(), &error))?;
                messages.clear();
            }
        }
        let flushed = match &self.keyed {
            Some(keyed) => keyed.flush(self, bench).await,
            None => self.append(bench).await,
        };
        flushed.map_err(|error: TableError| match &error {
            // The local index was dropped: the next try builds it anew.
            TableError::Index(_) => Failure::Transient(chain(&error)),
            _ => Failure::of(error.kind(), &error),
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
        Ok(flush.run(&self.table.delta, &self.base).await?.outcome)
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
        if let Err(error) = bench.producer.enqueue(message) {
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

enum Failure {
    Gone,
    Transient(String),
    Lasting(String),
}

impl Failure {
    fn of(kind: ErrorKind, error: &(dyn std::error::Error + 'static)) -> Self {
        match kind {
            // A full disk or a folder that can't be written is the operator's to mend; the rows
            // wait in the log until then.
            ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::TooLarge => {
                Self::Transient(chain(error))
            }
            _ => Self::Lasting(chain(error)),
        }
    }
}

/// An error with its causes.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = cause.source();
    }
    text
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a flush waits before a retry"
)]
async fn back_off(pause: Duration) {
    tokio::time::sleep(pause).await;
}
