//! Committing: one "create if absent" for each try, and what is owed before and after it.
//!
//! ```text
//!  base ─► proven? ─no─► is its commit still there? ─► over what came since ─┐
//!            │yes            └─ no: BelowCleanedLog                           │
//!            ▼                                                               ▼
//!        conflicts, invariants ─► put ─► created ─► still proven? ─► Committed
//!            ▲                     └── exists ─► over the winners ─► again, or a conflict
//! ```
//! A commit of a writer whose base is proven costs one request. See [`crate::trust`] for what a
//! proof is, and why a writer without one must not believe in what it created.

use std::sync::Arc;
use std::time::Duration;

use tidelake_core::TableVersion;
use tidelake_schema::TableSchema;
use tidelake_storage::{Backoff, PutOnce, RetryPolicy, StorageError};

use crate::action::write_commit;
use crate::commit_file::{Commit, fingerprint};
use crate::error::{ManifestError, Result};
use crate::features::{check_allowed, check_writable, forbids_some};
use crate::invariants;
use crate::properties::is_dropped;
use crate::rebase::{Rebase, Rebased};
use crate::replay::Replay;
use crate::retyped;
use crate::rules::against_snapshot;
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;
use crate::transaction::{CommitOutcome, Transaction};
use crate::trust::Proof;

/// Lost races after which a commit gives up.
const CONTENTION: RetryPolicy = RetryPolicy {
    retries_max: 60,
    wait_first: Duration::from_millis(4),
    wait_max: Duration::from_millis(500),
};

/// What a try came to.
enum Tried {
    Done(CommitOutcome),
    /// The next try starts from here.
    Again(Arc<Snapshot>),
}

impl DeltaTable {
    /// Refuses a version that no commit of ours can follow, whatever it holds. [`Self::commit`] asks
    /// it as well; whoever stores files for a commit asks before, or leaves them behind at each try.
    pub fn check_writable(&self, base: &Snapshot) -> Result<()> {
        let at = self.reader.at();
        check_writable(&at, &base.protocol, &base.metadata)?;
        retyped::check(&at, base)
    }

    /// Refuses a version that no row may follow because another engine changed the columns or the
    /// key that the table was made with. `key`: rows are told apart by it.
    pub fn check_columns(&self, base: &Snapshot, made: &TableSchema, key: bool) -> Result<()> {
        let at = self.reader.at();
        retyped::check(&at, base)?;
        retyped::check_made_as(&at, base, made, key)
    }

    /// True where [`Self::check_allowed`] may refuse something.
    pub fn forbids_some(&self, base: &Snapshot) -> bool {
        forbids_some(&base.protocol, &base.metadata)
    }

    /// Refuses a commit that the base's properties forbid. Asked before files are stored for it, as
    /// [`Self::check_writable`].
    pub fn check_allowed(&self, base: &Snapshot, tx: &Transaction) -> Result<()> {
        check_allowed(&self.reader.at(), base, tx)
    }

    /// Commits on top of `base` or, after lost races, on top of the winners.
    ///
    /// [`tidelake_storage::StorageError::OutcomeUnknown`] where the store fell silent: whether the
    /// commit counts is to be seen in the log.
    pub async fn commit(&self, base: &Arc<Snapshot>, tx: Transaction) -> Result<CommitOutcome> {
        let id = tx
            .id
            .clone()
            .unwrap_or_else(|| self.ids.next_uuid().to_string());
        let mut base = Arc::clone(base);
        let mut backoff = None;
        loop {
            if !base.proof.holds(&base.metadata, self.clock.now_ms()) {
                match self.prove_and_move(&base, &tx, &id).await? {
                    Tried::Done(outcome) => return Ok(outcome),
                    Tried::Again(after) => base = after,
                }
            }
            match self.attempt(&base, &tx, &id).await? {
                Tried::Done(outcome) => return Ok(outcome),
                Tried::Again(after) => base = after,
            }
            // Jitter from the id source: contenders must not march in step.
            let backoff = backoff.get_or_insert_with(|| {
                Backoff::new(CONTENTION, self.ids.next_uuid().as_u64_pair().1)
            });
            if !backoff.wait().await {
                return Err(ManifestError::Contended {
                    at: self.reader.at(),
                    attempts: CONTENTION.retries_max + 1,
                });
            }
        }
    }

    /// A base that nothing is known of any more: is it part of the log, and what came after it?
    async fn prove_and_move(
        &self,
        base: &Arc<Snapshot>,
        tx: &Transaction,
        id: &str,
    ) -> Result<Tried> {
        let asked_ms = self.clock.now_ms();
        if !self.is_in_log(base).await? {
            return Err(self.below_cleaned_log(base.version.next()));
        }
        base.proof.saw(asked_ms);
        let mut steps = Rebase::new(&self.reader.at(), tx, id, base);
        let news = self
            .visit_commits_after(base.version, |version, commit| steps.over(version, commit))
            .await?;
        if news == 0 {
            base.proof.renew(asked_ms);
            return Ok(Tried::Again(Arc::clone(base)));
        }
        Ok(tried(steps.finish(asked_ms)?))
    }

    async fn attempt(&self, base: &Arc<Snapshot>, tx: &Transaction, id: &str) -> Result<Tried> {
        let at = self.reader.at();
        if let Err(conflict) = against_snapshot(tx, base) {
            return Ok(Tried::Done(CommitOutcome::Conflicted(conflict)));
        }
        // A table that only others can write can be dropped all the same.
        if !tx.metadata.as_ref().is_some_and(is_dropped) {
            self.check_writable(base)?;
            check_allowed(&at, base, tx)?;
        }
        invariants::check(base, tx).map_err(|source| ManifestError::Invariant {
            at: at.clone(),
            source,
        })?;
        if self.has_grown(base).await? {
            let at = self
                .reader
                .store
                .url_of(&self.reader.log.name(base.version.0));
            return Err(StorageError::Unfinished { at }.into());
        }
        // Times rise from version to version even where clocks don't.
        let before_ms = self.clock.now_ms();
        let now_ms = before_ms.max(base.timestamp_ms.saturating_add(1));
        let actions = tx.actions(id, base, now_ms);
        let version = base.version.next();
        let bytes = write_commit(&actions);
        let print = fingerprint(&bytes);
        match self.put(version, bytes, id).await? {
            PutOnce::Created => {
                self.check_above_cleaned_log(base, version).await?;
                let mut replay = Replay::resume(&at, base);
                let commit = Commit {
                    fingerprint: Some(print),
                    ..Commit::of(actions)
                };
                replay.commit(version, commit)?;
                // Whatever follows it was created after this.
                let mut snapshot = replay.finish(before_ms)?;
                snapshot.proof = Proof::written_at(before_ms, &base.proof);
                let snapshot = Arc::new(snapshot);
                let outcome = CommitOutcome::Committed { version, snapshot };
                Ok(Tried::Done(outcome))
            }
            PutOnce::Exists(winner) => {
                let asked_ms = self.clock.now_ms();
                if !base.proof.holds(&base.metadata, asked_ms) {
                    // Below a cleaned log the winner may have slept as long as we have.
                    return Ok(Tried::Again(Arc::clone(base)));
                }
                let mut steps = Rebase::new(&at, tx, id, base);
                steps.over(version, Commit::parse(&at, version.0, &winner)?)?;
                self.visit_commits_after(version, |version, commit| steps.over(version, commit))
                    .await?;
                Ok(tried(steps.finish(asked_ms)?))
            }
        }
    }

    pub(crate) async fn put(
        &self,
        version: TableVersion,
        bytes: Vec<u8>,
        id: &str,
    ) -> Result<PutOnce> {
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

    /// After a win: was the number above the cleaned end of the log?
    async fn check_above_cleaned_log(&self, base: &Snapshot, version: TableVersion) -> Result<()> {
        let now_ms = self.clock.now_ms();
        if base.proof.holds(&base.metadata, now_ms) || self.is_in_log(base).await? {
            return Ok(());
        }
        // Nobody can have read it as part of the log.
        let orphan = self.reader.log.name(version.0);
        if let Err(error) = self.reader.store.delete(&orphan).await {
            tracing::warn!(at = self.reader.at(), %version, %error, "a void commit remains");
        }
        Err(self.below_cleaned_log(version))
    }

    /// True where the log still holds the commit that made this snapshot. A cleaned log lacks a
    /// prefix: then what follows that commit is the log, too.
    pub(crate) async fn is_in_log(&self, snapshot: &Snapshot) -> Result<bool> {
        let Some(known) = snapshot.fingerprint else {
            return Ok(false);
        };
        let found = self.reader.log.read(snapshot.version.0).await?;
        Ok(found.is_some_and(|bytes| fingerprint(&bytes) == known))
    }

    fn below_cleaned_log(&self, version: TableVersion) -> ManifestError {
        ManifestError::BelowCleanedLog {
            at: self.reader.at(),
            version,
        }
    }

    /// Shows `visit` the commits after `version`, in order, and returns how many there were.
    pub(crate) async fn visit_commits_after(
        &self,
        version: TableVersion,
        mut visit: impl FnMut(TableVersion, Commit) -> Result<()>,
    ) -> Result<u64> {
        let at = self.reader.at();
        let mut count = 0;
        self.reader
            .log
            .visit_from(version.0 + 1, |version, bytes| {
                count += 1;
                visit(TableVersion(version), Commit::parse(&at, version, &bytes)?)
            })
            .await?;
        Ok(count)
    }
}

fn tried(rebased: Rebased) -> Tried {
    match rebased {
        Rebased::Won(snapshot) => {
            let (version, snapshot) = (snapshot.version, Arc::new(*snapshot));
            Tried::Done(CommitOutcome::Committed { version, snapshot })
        }
        Rebased::Conflicted(conflict) => Tried::Done(CommitOutcome::Conflicted(conflict)),
        Rebased::Again(after) => Tried::Again(Arc::new(*after)),
    }
}
