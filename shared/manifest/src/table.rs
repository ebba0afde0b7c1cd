//! [`DeltaTable`]: the thin shell of I/O around replay, rebase and checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::TableVersion;
use tidelake_core::clock::{SharedClock, UnixMillis};
use tidelake_core::ids::SharedIds;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::schema_string;
use tidelake_storage::{Backoff, PutOnce, RetryPolicy, Store};

use crate::action::{Action, Metadata, VectorDescriptor, write_commit};
use crate::conflict::against_snapshot;
use crate::error::{ManifestError, Result};
use crate::features::{check_property, check_writable, protocol_of_new_table};
use crate::log_io::{LastCheckpoint, LogReader, checkpoint_name};
use crate::rebase::{Rebased, rebase};
use crate::replay::{Commit, Replay, SCHEMA_ID};
use crate::snapshot::Snapshot;
use crate::transaction::{CommitOutcome, Transaction};
use crate::vector::{self, DeletedRows, Place};
use crate::{checkpoint, invariants};

/// How long a snapshot, once known to be the latest, may be built on without looking again.
///
/// "Create if absent" only fences while the log is whole: below a cleaned log every number is free
/// again. No engine cleans commits that are younger than a day (Delta's default is 30 days, ours
/// never less than one). So if version v was the latest at a time t, then at t + 1 h commit v is
/// still there, and whoever creates v + 1 by then creates it above the cleaned end. Only a writer
/// that slept longer (suspended, or a clock that jumped) has to look: one request.
const TRUST: Duration = Duration::from_secs(3600);
/// Lost races after which a commit gives up.
const CONTENTION: RetryPolicy = RetryPolicy {
    retries_max: 60,
    wait_first: Duration::from_millis(4),
    wait_max: Duration::from_millis(500),
};
/// Tombstones are kept this long, where the table does not say otherwise: Delta's default.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A new table.
#[derive(Debug, Clone)]
pub struct CreateTable {
    pub name: String,
    pub schema: TableSchema,
    /// Without the feature for deletion vectors. (It does not forbid deletes: see `delta.appendOnly`.)
    pub append_only: bool,
    /// Kept in the table's configuration. Of Delta's own, only those that ask for no feature.
    pub properties: BTreeMap<String, String>,
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

/// A table by its folder. Keeps no state: cheap to clone.
#[derive(Debug, Clone)]
pub struct DeltaTable {
    pub(crate) reader: LogReader,
    pub(crate) clock: SharedClock,
    pub(crate) ids: SharedIds,
}

impl DeltaTable {
    /// The table whose folder is the root of `store`.
    pub fn new(store: Store, clock: SharedClock, ids: SharedIds) -> Self {
        Self {
            reader: LogReader::new(store),
            clock,
            ids,
        }
    }

    /// The store below the table's folder.
    pub fn store(&self) -> &Store {
        &self.reader.store
    }

    /// Writes version 0, unless there is a table already.
    pub async fn create(&self, spec: CreateTable) -> Result<CreateOutcome> {
        for (key, value) in &spec.properties {
            check_property(key, value)?;
        }
        let asked_ms = self.clock.now_ms();
        // Version 0 of an old table may have been cleaned away: its number says nothing then.
        if self.reader.files_from(0).await?.latest().is_some() {
            return Ok(CreateOutcome::Exists(self.snapshot().await?));
        }
        let id = self.ids.next_uuid().to_string();
        let actions = self.creation(&id, spec, asked_ms);
        let bytes = write_commit(&actions);
        match self.put(TableVersion(0), bytes, &id).await? {
            PutOnce::Exists(_) => Ok(CreateOutcome::Exists(self.snapshot().await?)),
            PutOnce::Created => {
                let mut replay = Replay::new(&self.reader.at());
                replay.commit(TableVersion(0), Commit::of(actions))?;
                Ok(CreateOutcome::Created(Arc::new(replay.finish(asked_ms)?)))
            }
        }
    }

    fn creation(&self, id: &str, spec: CreateTable, now_ms: UnixMillis) -> Vec<Action> {
        let CreateTable {
            name,
            schema,
            append_only,
            properties,
        } = spec;
        let mut configuration = properties;
        let mut set = |key: &str, value: String| configuration.insert(key.to_owned(), value);
        set("delta.columnMapping.mode", "name".into());
        set(
            "delta.columnMapping.maxColumnId",
            schema.last_column_id().to_string(),
        );
        set(SCHEMA_ID, schema.schema_id.to_string());
        if !append_only {
            set("delta.enableDeletionVectors", "true".into());
        }
        let tx = Transaction {
            operation: "CREATE TABLE".into(),
            ..Transaction::default()
        };
        let metadata = Metadata {
            id: self.ids.next_uuid().to_string(),
            name: Some(name),
            schema_string: schema_string(&schema),
            created_time: Some(now_ms),
            configuration,
            ..Metadata::default()
        };
        vec![
            Action::CommitInfo(tx.info(id, None, now_ms)),
            Action::Protocol(protocol_of_new_table(&schema, append_only)),
            Action::Metadata(metadata),
        ]
    }

    /// The latest version.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let asked_ms = self.clock.now_ms();
        Ok(Arc::new(self.reader.load(None, asked_ms).await?))
    }

    /// A given version. Same rows for ever, as long as it is kept.
    pub async fn snapshot_at(&self, version: TableVersion) -> Result<Arc<Snapshot>> {
        let asked_ms = self.clock.now_ms();
        Ok(Arc::new(self.reader.load(Some(version), asked_ms).await?))
    }

    /// The latest version, by way of a snapshot that is at hand: reads the new commits only. One
    /// request where there is none.
    pub async fn refresh(&self, base: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        let asked_ms = self.clock.now_ms();
        if !is_recent(base, asked_ms) {
            // A commit that can't be found may have been cleaned away: the listing knows.
            return self.snapshot().await;
        }
        let commits = self.commits_after(base.version).await?;
        if commits.is_empty() {
            return Ok(Arc::clone(base));
        }
        let mut replay = Replay::resume(&self.reader.at(), base);
        for (version, commit) in commits {
            replay.commit(TableVersion(version), commit)?;
        }
        Ok(Arc::new(replay.finish(asked_ms)?))
    }

    async fn commits_after(&self, version: TableVersion) -> Result<Vec<(u64, Commit)>> {
        let commits = self.reader.log.read_from(version.0 + 1).await?;
        let parsed = commits.into_iter().map(|(version, bytes)| {
            Ok((version, Commit::parse(&self.reader.at(), version, &bytes)?))
        });
        parsed.collect()
    }

    /// Commits on top of `base` or, after lost races, on top of the winners.
    ///
    /// [`tidelake_storage::StorageError::OutcomeUnknown`] where the store fell silent: whether the
    /// commit counts is to be seen in the log.
    pub async fn commit(&self, base: &Arc<Snapshot>, tx: Transaction) -> Result<CommitOutcome> {
        let at = self.reader.at();
        let id = tx
            .id
            .clone()
            .unwrap_or_else(|| self.ids.next_uuid().to_string());
        let mut base = Arc::clone(base);
        let mut backoff = None;
        loop {
            if let Err(conflict) = against_snapshot(&tx, &base) {
                return Ok(CommitOutcome::Conflicted(conflict));
            }
            check_writable(&at, &base.protocol, &base.metadata)?;
            invariants::check(&base, &tx).map_err(|source| ManifestError::Invariant {
                at: at.clone(),
                source,
            })?;
            // Times rise from version to version even where clocks don't.
            let before_ms = self.clock.now_ms();
            let now_ms = before_ms.max(base.timestamp_ms.saturating_add(1));
            let actions = tx.actions(&id, &base, now_ms);
            let version = base.version.next();
            match self.put(version, write_commit(&actions), &id).await? {
                PutOnce::Created => {
                    self.check_above_cleaned_log(&base, version).await?;
                    let mut replay = Replay::resume(&at, &base);
                    replay.commit(version, Commit::of(actions))?;
                    // Whatever follows it was created after this.
                    let snapshot = Arc::new(replay.finish(before_ms)?);
                    return Ok(CommitOutcome::Committed { version, snapshot });
                }
                PutOnce::Exists(winner) => {
                    let asked_ms = self.clock.now_ms();
                    let mut winners = vec![(version.0, Commit::parse(&at, version.0, &winner)?)];
                    winners.extend(self.commits_after(version).await?);
                    match rebase(&at, &tx, &id, &base, winners, asked_ms)? {
                        Rebased::Won(snapshot) => {
                            let (version, snapshot) = (snapshot.version, Arc::new(*snapshot));
                            return Ok(CommitOutcome::Committed { version, snapshot });
                        }
                        Rebased::Conflicted(conflict) => {
                            return Ok(CommitOutcome::Conflicted(conflict));
                        }
                        Rebased::Again(after) => base = Arc::new(*after),
                    }
                }
            }
            // Jitter from the id source: contenders must not march in step.
            let backoff = backoff.get_or_insert_with(|| {
                Backoff::new(CONTENTION, self.ids.next_uuid().as_u64_pair().1)
            });
            if !backoff.wait().await {
                let attempts = CONTENTION.retries_max + 1;
                return Err(ManifestError::Contended { at, attempts });
            }
        }
    }

    async fn put(&self, version: TableVersion, bytes: Vec<u8>, id: &str) -> Result<PutOnce> {
        let at = self.reader.at();
        let is_ours = |found: &[u8]| {
            let commit = Commit::parse(&at, version.0, found);
            commit.is_ok_and(|commit| commit.info.txn_id.as_deref() == Some(id))
        };
        Ok(self
            .reader
            .log
            .append(version.0, bytes.into(), is_ours)
            .await?)
    }

    /// After a win: was the number above the cleaned end of the log? See [`TRUST`].
    async fn check_above_cleaned_log(&self, base: &Snapshot, version: TableVersion) -> Result<()> {
        if is_recent(base, self.clock.now_ms()) {
            return Ok(());
        }
        // A cleaned log lacks a prefix: if the commit before ours is there, ours is above the end.
        if self.reader.log.read(base.version.0).await?.is_some() {
            return Ok(());
        }
        // Nobody can have read it as part of the log.
        let orphan = self.reader.log.name(version.0);
        if let Err(error) = self.reader.store.delete(&orphan).await {
            tracing::warn!(at = self.reader.at(), %version, %error, "a void commit remains");
        }
        Err(ManifestError::BelowCleanedLog {
            at: self.reader.at(),
            version,
        })
    }

    /// Writes the classic checkpoint of a snapshot, unless there is one, and points
    /// `_last_checkpoint` at it. Returns the snapshot that knows of it.
    pub async fn write_checkpoint(&self, snapshot: &Snapshot) -> Result<Arc<Snapshot>> {
        let at = self.reader.at();
        check_writable(&at, &snapshot.protocol, &snapshot.metadata)?;
        let expired_before_ms = self.clock.now_ms() - tombstones_kept_ms(snapshot);
        let state = snapshot.clone();
        let written =
            tokio::task::spawn_blocking(move || checkpoint::write(&state, expired_before_ms)).await;
        let written = written
            .unwrap_or_else(|failed| Err(parquet::errors::ParquetError::External(failed.into())));
        let written = written.map_err(|source| ManifestError::Checkpoint { at, source })?;
        let version = snapshot.version;
        let hint = LastCheckpoint {
            version: version.0,
            size: written.actions,
            size_in_bytes: Some(written.bytes.len() as u64),
            num_of_add_files: Some(written.adds),
        };
        let ours = written.bytes.clone();
        let put = self
            .reader
            .store
            .put_once(&checkpoint_name(version), written.bytes, |found| {
                *found == ours
            })
            .await?;
        if put == PutOnce::Created {
            self.reader.set_hint(&hint).await?;
        }
        Ok(Arc::new(Snapshot {
            checkpoint: Some(version),
            ..snapshot.clone()
        }))
    }

    /// The rows that a deletion vector takes away.
    pub async fn deleted_rows(&self, of: &VectorDescriptor) -> Result<DeletedRows> {
        let failed = |source| ManifestError::Vector {
            at: self.reader.at(),
            source,
        };
        let rows = match vector::locate(of).map_err(failed)? {
            Place::Inline(data) => vector::decode(&data),
            Place::File { name, range } => {
                vector::decode_in_file(&self.reader.store.get_range(&name, range).await?)
            }
        };
        rows.and_then(|rows| vector::checked(rows, of))
            .map_err(failed)
    }
}

fn is_recent(snapshot: &Snapshot, now_ms: UnixMillis) -> bool {
    let trust_ms = i64::try_from(TRUST.as_millis()).unwrap_or(i64::MAX);
    // A clock that went back proves nothing.
    (0..trust_ms).contains(&now_ms.saturating_sub(snapshot.proven_ms))
}

fn tombstones_kept_ms(snapshot: &Snapshot) -> i64 {
    let set = snapshot
        .properties()
        .get("delta.deletedFileRetentionDuration");
    let kept = set
        .and_then(|text| parse_interval(text))
        .unwrap_or(TOMBSTONES_KEPT);
    i64::try_from(kept.as_millis()).unwrap_or(i64::MAX / 2)
}

/// `interval 7 days`, as Delta's properties write it.
fn parse_interval(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    let mut words = lower
        .split_whitespace()
        .skip_while(|word| *word == "interval");
    let number: u64 = words.next()?.parse().ok()?;
    let seconds = match words.next()?.trim_end_matches('s') {
        "week" => 7 * 24 * 3600,
        "day" => 24 * 3600,
        "hour" => 3600,
        "minute" => 60,
        "second" => 1,
        _ => return None,
    };
    words
        .next()
        .is_none()
        .then(|| Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests;
