//! What to do after a lost race, as a pure function of the transaction and the winners.

use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;

use crate::commit_file::Commit;
use crate::conflict::Conflict;
use crate::error::Result;
use crate::replay::Replay;
use crate::rules::{against_snapshot, against_winner, ended_by};
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;

/// The next step of a transaction that lost its version.
#[derive(Debug)]
pub enum Rebased {
    /// One of the winners is this very transaction: its answer had got lost. The snapshot is that
    /// of its version.
    Won(Box<Snapshot>),
    /// Try again on top of this snapshot, unchanged.
    Again(Box<Snapshot>),
    /// It can't be committed any more.
    Conflicted(Conflict),
}

/// Moves `tx` (whose commits carry `id`) from `base` over the `winners`, the commits that follow
/// `base` without a gap. `asked_ms` is when they were asked for: then the last of them was the
/// latest.
pub fn rebase(
    at: &str,
    tx: &Transaction,
    id: &str,
    base: &Snapshot,
    winners: Vec<(u64, Commit)>,
    asked_ms: UnixMillis,
) -> Result<Rebased> {
    let mut steps = Rebase::new(at, tx, id, base);
    for (version, winner) in winners {
        steps.over(TableVersion(version), winner)?;
    }
    steps.finish(asked_ms)
}

/// A rebase that meets the winners one by one.
#[derive(Debug)]
pub(crate) struct Rebase<'a> {
    tx: &'a Transaction,
    id: &'a str,
    base: &'a Snapshot,
    replay: Replay,
    conflict: Option<Conflict>,
    /// The table right after our own commit.
    own: Option<Replay>,
}

impl<'a> Rebase<'a> {
    pub(crate) fn new(at: &str, tx: &'a Transaction, id: &'a str, base: &'a Snapshot) -> Self {
        Self {
            tx,
            id,
            base,
            replay: Replay::resume(at, base),
            conflict: None,
            own: None,
        }
    }

    /// The next winner.
    pub(crate) fn over(&mut self, version: TableVersion, winner: Commit) -> Result<()> {
        let ours = winner.info.txn_id.as_deref() == Some(self.id);
        let ended = winner.metadata.as_ref();
        let ended = ended.and_then(|metadata| ended_by(metadata, self.base.metadata()).err());
        if winner.begins_at(version) {
            // What came before it is of a table that is no more, our own commit too.
            (self.own, self.conflict) = (None, Some(Conflict::TableReplaced));
        } else if !ours && ended.is_some() {
            // Whatever else stood in the way, this stays.
            self.conflict = ended;
        } else if !ours && self.own.is_none() && self.conflict.is_none() {
            self.conflict = against_winner(self.tx, self.base, &winner).err();
        }
        self.replay.commit(version, winner)?;
        if ours {
            self.own = Some(self.replay.clone());
        }
        Ok(())
    }

    /// After the last one, which was the latest at `asked_ms`.
    pub(crate) fn finish(self, asked_ms: UnixMillis) -> Result<Rebased> {
        // Only after all winners were searched for our own commit.
        if let Some(own) = self.own {
            return Ok(Rebased::Won(Box::new(own.finish(asked_ms)?)));
        }
        if let Some(conflict) = self.conflict {
            return Ok(Rebased::Conflicted(conflict));
        }
        let after = self.replay.finish(asked_ms)?;
        Ok(match against_snapshot(self.tx, &after) {
            Ok(()) => Rebased::Again(Box::new(after)),
            Err(conflict) => Rebased::Conflicted(conflict),
        })
    }
}
