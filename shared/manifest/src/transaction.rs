//! What a writer wants to commit, and what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, TableVersion, TopicId, Watermark};

use crate::action::{Action, Add, CommitInfo, Metadata, Protocol, Remove, Txn};
use crate::conflict::Conflict;
use crate::snapshot::{Snapshot, app_id};

/// One bucket's watermark moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkMove {
    pub topic_id: TopicId,
    pub bucket: Bucket,
    /// What the rows of this commit start from: the watermark of the log, 0 where it has none.
    pub from: Watermark,
    /// The next offset that this commit does not cover.
    pub to: Watermark,
}

impl MarkMove {
    /// The application id that holds the mark.
    pub fn app_id(&self) -> String {
        app_id(&self.topic_id, self.bucket)
    }
}

/// What a writer wants to commit. Built against one snapshot; may be committed against a later one.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Unique; by it our own commit is recognised when its answer got lost. Minted by
    /// [`crate::DeltaTable::commit`] where it is none. Keep it, to repeat a commit whose outcome
    /// is unknown.
    pub id: Option<String>,
    /// Shown in the history: `FLUSH`, `COMPACT`, …
    pub operation: String,
    pub parameters: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, String>,
    pub adds: Vec<Add>,
    /// Each must name exactly what is live: see [`Add::to_remove`].
    pub removes: Vec<Remove>,
    pub marks: Vec<MarkMove>,
    /// Transactions of other application ids.
    pub txns: Vec<Txn>,
    /// Object names of files whose rows this commit rests on without touching them.
    pub reads: Vec<String>,
    /// Buckets whose live rows were looked into for this commit, to supersede some: rows that
    /// somebody else brings into them meanwhile were not seen.
    pub probed: Vec<Bucket>,
    pub metadata: Option<Metadata>,
    pub protocol: Option<Protocol>,
}

impl Transaction {
    /// New rows.
    pub fn flush(adds: Vec<Add>, marks: Vec<MarkMove>) -> Self {
        Self {
            operation: "FLUSH".into(),
            adds,
            marks,
            ..Self::default()
        }
    }

    /// The commit's actions, as version `base + 1`.
    pub(crate) fn actions(&self, id: &str, base: &Snapshot, now_ms: UnixMillis) -> Vec<Action> {
        let marks = self.marks.iter().map(|mark| Txn {
            app_id: mark.app_id(),
            version: mark.to.0,
            last_updated: Some(now_ms),
        });
        let mut actions = vec![Action::CommitInfo(self.info(id, Some(base), now_ms))];
        actions.extend(self.protocol.clone().map(Action::Protocol));
        actions.extend(self.metadata.clone().map(Action::Metadata));
        actions.extend(marks.chain(self.txns.iter().cloned()).map(Action::Txn));
        actions.extend(self.removes.iter().cloned().map(Action::Remove));
        actions.extend(self.adds.iter().cloned().map(Action::Add));
        actions
    }

    pub(crate) fn info(&self, id: &str, base: Option<&Snapshot>, now_ms: UnixMillis) -> CommitInfo {
        let texts = |map: &BTreeMap<String, String>| -> BTreeMap<String, Value> {
            map.iter()
                .map(|(key, value)| (key.clone(), value.clone().into()))
                .collect()
        };
        let mut metrics = texts(&self.metrics);
        let mut count = |key: &str, value: String| {
            metrics
                .entry(key.to_owned())
                .or_insert_with(|| value.into());
        };
        count("numAddedFiles", self.adds.len().to_string());
        count("numRemovedFiles", self.removes.len().to_string());
        CommitInfo {
            timestamp: Some(now_ms),
            operation: Some(self.operation.clone()),
            operation_parameters: Some(texts(&self.parameters)),
            read_version: base.and_then(|base| i64::try_from(base.version.0).ok()),
            is_blind_append: Some(
                self.removes.is_empty() && self.reads.is_empty() && self.probed.is_empty(),
            ),
            operation_metrics: Some(metrics),
            engine_info: Some(concat!("Tidelake/", env!("CARGO_PKG_VERSION")).into()),
            txn_id: Some(id.to_owned()),
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone)]
pub enum CommitOutcome {
    /// It is version `version`.
    Committed {
        version: TableVersion,
        snapshot: Arc<Snapshot>,
    },
    /// It can't be committed any more; nothing was changed by it.
    Conflicted(Conflict),
}
