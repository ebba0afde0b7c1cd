//! What the log still tells of the past: deletion vectors only grow.
//!
//! A flush never brings a row back. Where one did, the rows that came back may be superseded again
//! since, so the newest version alone does not show it; every reader of the versions between saw
//! them.

use std::collections::BTreeMap;

use tidelake_core::ErrorKind;
use tidelake_manifest::action::VectorDescriptor;
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{Commit, DeltaTable, Snapshot};

use super::Report;
use crate::TableError;

/// Commits that are looked at, the newest.
const COMMITS_MAX: u64 = 1000;
/// Pairs of vectors that are read, the newest.
const PAIRS_MAX: usize = 2000;
/// What our own commits say of their writer.
const OURS: &str = "Tidelake/";

/// A file's vector before and after a commit.
struct Pair {
    version: u64,
    path: String,
    before: VectorDescriptor,
    after: Option<VectorDescriptor>,
}

/// Every vector that a commit of ours wrote contains the one that it replaced. What other engines
/// do (a restore brings rows back on purpose) is theirs.
pub(super) async fn vectors_only_grow(
    table: &DeltaTable,
    snapshot: &Snapshot,
    report: &mut Report,
) -> Result<(), TableError> {
    let newest = snapshot.version().0;
    let earliest = table.earliest().await?.0;
    let first = earliest.max(newest.saturating_sub(COMMITS_MAX - 1));
    let mut pairs: Vec<Pair> = Vec::new();
    let visited = table.visit_commits(first..=newest, |version, _, commit| {
        pairs.extend(pairs_of(version.0, commit));
        if pairs.len() > 2 * PAIRS_MAX {
            pairs.drain(..pairs.len() - PAIRS_MAX);
        }
        Ok(())
    });
    match visited.await {
        Ok(()) => {}
        // Commits before a checkpoint may be cleaned at any moment.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let old = pairs.len().saturating_sub(PAIRS_MAX);
    for pair in pairs.drain(..).skip(old) {
        if let Some(lost) = lost(table, &pair).await? {
            let detail = format!("version {} brought {lost} deleted rows back", pair.version);
            report.add("vectors_only_grow", pair.path, detail);
        }
    }
    Ok(())
}

fn pairs_of(version: u64, commit: Commit) -> Vec<Pair> {
    let engine = commit.info.engine_info.as_deref();
    if !engine.is_some_and(|engine| engine.starts_with(OURS)) {
        return Vec::new();
    }
    let removes = commit.removes.into_iter();
    let removed = removes.filter_map(|remove| Some((remove.path, remove.deletion_vector?)));
    let mut removed: BTreeMap<String, VectorDescriptor> = removed.collect();
    let pairs = commit.adds.into_iter().filter_map(|add| {
        let before = removed.remove(&add.path)?;
        Some(Pair {
            version,
            path: add.path,
            before,
            after: add.deletion_vector,
        })
    });
    pairs.collect()
}

/// How many rows the commit brought back; none where it did not, or where that can't be told any
/// more.
async fn lost(table: &DeltaTable, pair: &Pair) -> Result<Option<u64>, TableError> {
    let Some(before) = read(table, &pair.before).await? else {
        return Ok(None);
    };
    let after = match &pair.after {
        None => DeletedRows::new(),
        Some(after) => match read(table, after).await? {
            Some(after) => after,
            None => return Ok(None),
        },
    };
    let back = before.difference_len(&after);
    Ok((back > 0).then_some(back))
}

/// A vector; none where it was cleaned away or is unreadable, which other checks tell of the live
/// ones.
async fn read(
    table: &DeltaTable,
    vector: &VectorDescriptor,
) -> Result<Option<DeletedRows>, TableError> {
    match table.deleted_rows(vector).await {
        Ok(rows) => Ok(Some(rows)),
        Err(error) if error.kind() == ErrorKind::Unavailable => Err(error.into()),
        Err(_) => Ok(None),
    }
}
