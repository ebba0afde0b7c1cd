//! What to do after a lost race, as a pure function of the transaction and the winners.

use tidelake_core::clock::UnixMillis;

use crate::conflict::{Conflict, against_snapshot, against_winner};
use crate::error::Result;
use crate::replay::{Commit, Replay};
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
/// `base` without a gap. `asked_ms` is when they were asked for: then the last of them was the latest.
pub fn rebase(
    at: &str,
    tx: &Transaction,
    id: &str,
    base: &Snapshot,
    winners: Vec<(u64, Commit)>,
    asked_ms: UnixMillis,
) -> Result<Rebased> {
    let mut replay = Replay::resume(at, base);
    let mut conflict = None;
    for (version, winner) in winners {
        let ours = winner.info.txn_id.as_deref() == Some(id);
        if !ours && conflict.is_none() {
            conflict = against_winner(tx, base, &winner).err();
        }
        replay.commit(tidelake_core::TableVersion(version), winner)?;
        if ours {
            return Ok(Rebased::Won(Box::new(replay.finish(asked_ms)?)));
        }
    }
    // Only after all winners were searched for our own commit.
    if let Some(conflict) = conflict {
        return Ok(Rebased::Conflicted(conflict));
    }
    let after = replay.finish(asked_ms)?;
    Ok(match against_snapshot(tx, &after) {
        Ok(()) => Rebased::Again(Box::new(after)),
        Err(conflict) => Rebased::Conflicted(conflict),
    })
}
