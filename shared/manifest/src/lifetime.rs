//! From one life of a name to the next: how a table ends, and how another one begins in its folder.
//!
//! A dropped table's writers may still be at work: a commit is one "create if absent", which sees
//! neither a catalog nor an emptied folder. So versions of a name never repeat, the end of a table
//! is a commit like any other, and every commit proves whose table it is of.
//!
//! ```text
//!  version   … N    D = N+1     D+1      F ≥ D+2   F+1 …
//!              │    │            │       │
//!  first table ┘    fence        never   beginning of the second table, with a checkpoint
//!                   (DROP TABLE)
//! ```
//! - **Fence** ([`DeltaTable::drop_fence`]): the table's last commit. It takes part in the race for
//!   the next version as flushes do, so each flush either came before it or finds it and loses
//!   ([`crate::Conflict::Dropped`]). Whoever removes the folder removes the fence last, or leaves
//!   it: a writer that is still based on N then meets it.
//! - **Beginning** ([`CreateTable::first_version`]): a table that follows a dropped one starts at
//!   the dropped one's last version + 2 or above. Its first commit stands on nothing: replay
//!   forgets what came before ([`Commit::begins_at`]), and other engines start at its checkpoint,
//!   to which `_last_checkpoint` points. A late flush into the emptied folder (base ≤ N, so version
//!   ≤ D) lands below the beginning, with a gap above it, where no reader looks.
//! - **Identity**: a writer that goes on from there arrives at the beginning and loses: the table's
//!   id is another ([`crate::Conflict::TableReplaced`]). [`DeltaTable::withdraw_void_commit`] takes
//!   back what it had put below.
//!
//! A fence that nothing was created after can be lifted ([`DeltaTable::lift_fence`]): the table goes
//! on, and whoever met the fence opens it anew.
//!
//! The order of a creation is commit, checkpoint, hint, removal of leftovers. The commit is the
//! lock; a creation that died after it is completed by the next one, and our own readers need the
//! commit alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;
use tidelake_schema::TableSchema;
use tidelake_storage::PutOnce;

use crate::action::{Action, Metadata, write_commit};
use crate::commit_file::{Commit, fingerprint};
use crate::error::{ManifestError, Result};
use crate::features::{NewTable, check_property};
use crate::log_files::{LOG_FOLDER, LogFiles, version_of};
use crate::properties::{DROPPED, FIRST_VERSION, SCHEMA_ID, is_dropped};
use crate::replay::Replay;
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;
use crate::transaction::{CommitOutcome, Transaction};

/// The operation that takes a fence back.
const LIFT_FENCE: &str = "UNDROP TABLE";
/// Changes of the table's properties that a drop may lose against.
const FENCE_ATTEMPTS_MAX: u32 = 20;
const DELETES_IN_FLIGHT_MAX: usize = 16;

/// A new table.
#[derive(Debug, Clone)]
pub struct CreateTable {
    pub name: String,
    pub schema: TableSchema,
    /// Without the feature for deletion vectors. (It does not forbid deletes: see
    /// `delta.appendOnly`.)
    pub append_only: bool,
    /// Kept in the table's configuration. Of Delta's own, only those that ask for no feature.
    pub properties: BTreeMap<String, String>,
    /// Where its log begins: 0 for a new name; for one that had a table before, at least two above
    /// that one's last version ([`DeltaTable::drop_fence`] tells it). All who create the same table
    /// at the same time must say the same.
    pub first_version: TableVersion,
}

/// What became of a creation.
#[derive(Debug, Clone)]
pub enum CreateOutcome {
    Created(Arc<Snapshot>),
    /// There is a table already, not necessarily with the same schema.
    Exists(Arc<Snapshot>),
}

impl CreateOutcome {
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        match self {
            Self::Created(snapshot) | Self::Exists(snapshot) => snapshot,
        }
    }
}

impl Transaction {
    /// True of the one transaction that may follow a fence.
    pub(crate) fn lifts_fence(&self) -> bool {
        let lifted = self.metadata.as_ref().is_some_and(|m| !is_dropped(m));
        lifted && self.operation == LIFT_FENCE
    }
}

impl DeltaTable {
    /// Writes the first version, unless there is a table already. What a dropped table left in the
    /// folder does not count as one, and is removed.
    pub async fn create(&self, spec: CreateTable) -> Result<CreateOutcome> {
        for (key, value) in &spec.properties {
            check_property(key, value)?;
        }
        let asked_ms = self.clock.now_ms();
        // Version 0 of an old table may have been cleaned away: its number says nothing then.
        let files = self.reader.files_from(0).await?;
        let mut first = spec.first_version;
        if files.latest().is_some_and(|latest| latest >= first.0) {
            let held = self.snapshot().await?;
            if !held.is_dropped() {
                self.complete_beginning(&held, &files).await?;
                return Ok(CreateOutcome::Exists(held));
            }
            first = TableVersion(first.0.max(held.version.0 + 2));
        }
        let id = self.ids.next_uuid().to_string();
        let actions = self.creation(&id, spec, first, asked_ms);
        let bytes = write_commit(&actions);
        let print = fingerprint(&bytes);
        match self.put(first, bytes, &id).await? {
            PutOnce::Exists(_) => Ok(CreateOutcome::Exists(self.snapshot().await?)),
            PutOnce::Created => {
                let mut replay = Replay::new(&self.reader.at());
                let commit = Commit {
                    fingerprint: Some(print),
                    ..Commit::of(actions)
                };
                replay.commit(first, commit)?;
                let created = Arc::new(replay.finish(asked_ms)?);
                let created = self.complete_beginning(&created, &files).await?;
                Ok(CreateOutcome::Created(created))
            }
        }
    }

    fn creation(
        &self,
        id: &str,
        spec: CreateTable,
        first: TableVersion,
        now_ms: UnixMillis,
    ) -> Vec<Action> {
        let NewTable {
            protocol,
            schema_string,
            mut configuration,
        } = NewTable::of(&spec.schema, spec.append_only);
        configuration.insert(SCHEMA_ID.into(), spec.schema.schema_id.to_string());
        if first.0 > 0 {
            configuration.insert(FIRST_VERSION.into(), first.to_string());
        }
        configuration.extend(spec.properties);
        let tx = Transaction {
            operation: "CREATE TABLE".into(),
            ..Transaction::default()
        };
        let metadata = Metadata {
            id: self.ids.next_uuid().to_string(),
            name: Some(spec.name),
            schema_string,
            created_time: Some(now_ms),
            configuration,
            ..Metadata::default()
        };
        vec![
            Action::CommitInfo(tx.info(id, None, now_ms)),
            Action::Protocol(protocol),
            Action::Metadata(metadata),
        ]
    }

    /// Sees to it that other engines find the beginning of a table that follows another: writes its
    /// checkpoint if none stands above the beginning, and removes what lies below it.
    async fn complete_beginning(
        &self,
        table: &Arc<Snapshot>,
        files: &LogFiles,
    ) -> Result<Arc<Snapshot>> {
        let first = table.first_version();
        if first.0 == 0 || files.checkpoints.range(first.0..).next().is_some() {
            return Ok(Arc::clone(table));
        }
        let table = self.write_checkpoint(table).await?;
        if let Err(error) = self.remove_log_below(first).await {
            // They are out of every reader's way already.
            tracing::warn!(at = self.reader.at(), %error, "leftovers of a dropped table remain");
        }
        Ok(table)
    }

    async fn remove_log_below(&self, first: TableVersion) -> Result<()> {
        let store = &self.reader.store;
        let found = store.list(LOG_FOLDER).await?;
        let below = found.iter().filter_map(|meta| {
            let rel = store.relative(&meta.location)?;
            let name = rel.strip_prefix(LOG_FOLDER)?.strip_prefix('/')?;
            (version_of(name)? < first.0).then_some(rel)
        });
        let below: Vec<String> = below.collect();
        futures::stream::iter(below.into_iter().map(|rel| {
            let store = store.clone();
            async move { store.delete(&rel).await }
        }))
        .buffered(DELETES_IN_FLIGHT_MAX)
        .try_collect::<()>()
        .await?;
        Ok(())
    }

    /// Ends the table: after this commit no other one is made on top of it. Returns its version;
    /// that of the commit that dropped it before, where there is one.
    pub async fn drop_fence(&self) -> Result<TableVersion> {
        let mut base = self.snapshot().await?;
        for _ in 0..FENCE_ATTEMPTS_MAX {
            if base.is_dropped() {
                return Ok(base.version);
            }
            let mut metadata = base.metadata().clone();
            metadata.configuration.insert(DROPPED.into(), "true".into());
            let fence = Transaction {
                operation: "DROP TABLE".into(),
                metadata: Some(metadata),
                ..Transaction::default()
            };
            match self.commit(&base, fence).await? {
                CommitOutcome::Committed { version, .. } => return Ok(version),
                // Somebody changed schema or properties, or dropped it as well.
                CommitOutcome::Conflicted(conflict) => {
                    tracing::debug!(at = self.reader.at(), %conflict, "dropping again");
                    base = self.snapshot().await?;
                }
            }
        }
        Err(ManifestError::Contended {
            at: self.reader.at(),
            attempts: FENCE_ATTEMPTS_MAX,
        })
    }

    /// Takes a fence back that nothing was created after: the table goes on from there. Returns the
    /// latest version; does nothing to a table that was not dropped.
    pub async fn lift_fence(&self) -> Result<TableVersion> {
        for _ in 0..FENCE_ATTEMPTS_MAX {
            let base = self.snapshot().await?;
            if !base.is_dropped() {
                return Ok(base.version);
            }
            let mut metadata = base.metadata().clone();
            metadata.configuration.remove(DROPPED);
            let lift = Transaction {
                operation: LIFT_FENCE.into(),
                metadata: Some(metadata),
                ..Transaction::default()
            };
            if let CommitOutcome::Committed { version, .. } = self.commit(&base, lift).await? {
                return Ok(version);
            }
        }
        Err(ManifestError::Contended {
            at: self.reader.at(),
            attempts: FENCE_ATTEMPTS_MAX,
        })
    }

    /// Deletes the commit `version` if it is the one of `commit_id` and part of no table: it lies
    /// below the beginning of a later one, or in a log that has no beginning any more. So a writer
    /// that outlived its table takes back what it put there. True where it was deleted; a commit
    /// that is part of the table stays whatever is asked.
    pub async fn withdraw_void_commit(
        &self,
        version: TableVersion,
        commit_id: &str,
    ) -> Result<bool> {
        let Some(bytes) = self.reader.log.read(version.0).await? else {
            return Ok(false);
        };
        let commit = Commit::parse(&self.reader.at(), version.0, &bytes)?;
        if commit.info.txn_id.as_deref() != Some(commit_id) {
            return Ok(false);
        }
        match self.snapshot().await {
            Ok(table) if version >= table.first_version() => return Ok(false),
            Err(error) if error.kind().is_transient() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let name = self.reader.log.name(version.0);
        self.reader.store.delete(&name).await?;
        Ok(true)
    }
}
