//! What follows a commit: counting, announcing, checkpoints.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tidelake_core::{Bucket, TableVersion, Watermark};
use tidelake_log::Message;
use tidelake_manifest::Snapshot;
use tidelake_table::Flushed;

use super::{Ended, Job, Workbench};
use crate::policy::chain;

/// Commits between two checkpoints, until the compactor writes them.
const CHECKPOINT_COMMITS: u64 = 100;
/// An attempt that took longer may have met a drop that was over when it committed: its table was
/// proven before. What a shorter one leaves behind lies below the beginning of whatever comes next.
const VOID_AFTER: Duration = Duration::from_millis(50);

impl Job {
    pub(super) async fn committed(
        self,
        bench: &Workbench,
        flushed: Flushed,
        fenced: Vec<Bucket>,
        took: Duration,
    ) -> Ended {
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
        if took > VOID_AFTER && self.withdrawn(bench, flushed.version).await {
            return Ended::Changed;
        }
        let snapshot = self.checkpoint(flushed.snapshot).await;
        self.table.cached.offer(&snapshot);
        Ended::Committed {
            snapshot,
            moved,
            fenced,
        }
    }

    /// Takes a commit back that landed where its table had been. True where the table is gone.
    async fn withdrawn(&self, bench: &Workbench, version: TableVersion) -> bool {
        let (table, delta) = (&self.table.entry.id, &self.table.delta);
        // Whoever can't be asked says nothing against the table.
        if bench.opener.is_current(&self.table).await.unwrap_or(true) {
            return false;
        }
        let mut own = None;
        let read = delta.visit_commits(version.0..=version.0, |_, _, commit| {
            own = commit.info.txn_id;
            Ok(())
        });
        let outcome = match (read.await, own) {
            (Ok(()), Some(id)) => delta.withdraw_void_commit(version, &id).await,
            (read, _) => read.map(|()| false),
        };
        match outcome {
            Ok(withdrawn) => tracing::info!(%table, %version, withdrawn, "the table is gone"),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(%table, %version, error, "a commit behind its table's end stays");
            }
        }
        true
    }

    /// Keeps a reader's first look short. The next flush of the table waits for it, which bounds
    /// the log whatever the rate; a failure is tried again after the next commit.
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

    pub(super) fn count(&self, counter: &prometheus::IntCounterVec) {
        counter.with_label_values(&self.labels()).inc();
    }

    pub(crate) fn labels(&self) -> [&str; 2] {
        let id = &self.table.entry.id;
        [id.tenant.as_str(), id.table.as_str()]
    }
}
