//! Who lost against what: the rules of rebasing, as a pure function.
//!
//! | the winner | we |
//! | --- | --- |
//! | flushed other buckets | go on unchanged |
//! | moved a watermark of ours | are a zombie: [`Conflict::WatermarkMoved`] |
//! | gave a file that we touch another deletion vector | [`Conflict::VectorChanged`]: the caller unites or carries over |
//! | removed a file that we touch | [`Conflict::FileRemoved`]: the caller drops the job or probes the successors |
//! | added rows to a bucket that we looked into | [`Conflict::RowsAdded`]: the caller looks again |
//! | changed the schema, the properties, the protocol | stop: the caller re-encodes |
//! | dropped the table, or is the beginning of another one | stop for good: [`Conflict::Dropped`], [`Conflict::TableReplaced`] |

use std::collections::BTreeMap;

use tidelake_core::Watermark;

use crate::action::{Add, Metadata, Protocol, decode_path, vector_id};
use crate::commit_file::Commit;
use crate::conflict::Conflict;
use crate::properties::is_dropped;
use crate::snapshot::{Snapshot, buckets};
use crate::transaction::Transaction;

/// Checks a transaction against the snapshot that it would follow.
pub(crate) fn against_snapshot(tx: &Transaction, base: &Snapshot) -> Result<(), Conflict> {
    if base.is_dropped() && !tx.lifts_fence() {
        return Err(Conflict::Dropped);
    }
    for mark in &tx.marks {
        let found = base
            .watermark(&mark.topic_id, mark.bucket)
            .unwrap_or_default();
        if found != mark.from {
            return Err(moved(mark, found));
        }
    }
    let removed: BTreeMap<_, _> = touched(tx).collect();
    for (path, vector) in &removed {
        match base.file(path) {
            None => return Err(Conflict::FileRemoved { path: path.clone() }),
            Some(file) if vector_id(file.dv()) != *vector => {
                let found = file.dv().cloned();
                return Err(Conflict::VectorChanged {
                    path: path.clone(),
                    found,
                });
            }
            Some(_) => {}
        }
    }
    for path in &tx.reads {
        if base.file(path).is_none() {
            return Err(Conflict::FileRemoved { path: path.clone() });
        }
    }
    for path in tx.adds.iter().filter_map(|add| decode_path(&add.path)) {
        if base.file(&path).is_some() && !removed.contains_key(&path) {
            return Err(Conflict::FileExists { path });
        }
    }
    Ok(())
}

/// Checks a transaction against a commit that won the version it wanted. What concerns files and
/// watermarks shows in the snapshot after the winner as well; here it is told more exactly, and a
/// change that a later winner undoes still counts.
pub(crate) fn against_winner(
    tx: &Transaction,
    base: &Snapshot,
    winner: &Commit,
) -> Result<(), Conflict> {
    if let Some(metadata) = &winner.metadata {
        ended_by(metadata, base.metadata())?;
    }
    unchanged(base, winner.protocol.as_ref(), winner.metadata.as_ref())?;
    for txn in &winner.txns {
        if let Some(mark) = tx.marks.iter().find(|mark| mark.app_id() == txn.app_id) {
            return Err(moved(mark, Watermark(txn.version)));
        }
        if tx.txns.iter().any(|own| own.app_id == txn.app_id) {
            return Err(Conflict::TxnMoved {
                app_id: txn.app_id.clone(),
                found: txn.version,
            });
        }
    }
    files_of(tx, winner)?;
    rows_of(tx, winner)
}

/// Does what was encoded for `base` still fit the newer version `now`? Whoever moves on to a newer
/// base after a conflict asks: the winners before it are not met again.
pub fn fits_still(base: &Snapshot, now: &Snapshot) -> Result<(), Conflict> {
    ended_by(now.metadata(), base.metadata())?;
    unchanged(base, Some(now.protocol()), Some(now.metadata()))
}

/// Files are encoded by the schema, the properties and the protocol.
fn unchanged(
    base: &Snapshot,
    protocol: Option<&Protocol>,
    metadata: Option<&Metadata>,
) -> Result<(), Conflict> {
    if protocol.is_some_and(|protocol| protocol != base.protocol()) {
        return Err(Conflict::ProtocolChanged);
    }
    let (Some(metadata), old) = (metadata, base.metadata()) else {
        return Ok(());
    };
    if metadata.schema_string != old.schema_string
        || metadata.partition_columns != old.partition_columns
    {
        return Err(Conflict::SchemaChanged);
    }
    if metadata.configuration != old.configuration {
        return Err(Conflict::PropertiesChanged);
    }
    Ok(())
}

/// Did the winner take out, or mark rows of, a file that we touch or read?
fn files_of(tx: &Transaction, winner: &Commit) -> Result<(), Conflict> {
    if winner.removes.is_empty() || (tx.removes.is_empty() && tx.reads.is_empty()) {
        return Ok(());
    }
    let added: BTreeMap<_, _> = winner
        .adds
        .iter()
        .filter_map(|add| Some((decode_path(&add.path)?, add.deletion_vector.clone())))
        .collect();
    let ours: Vec<_> = touched(tx)
        .map(|(path, _)| path)
        .chain(tx.reads.iter().cloned())
        .collect();
    for path in winner
        .removes
        .iter()
        .filter_map(|remove| decode_path(&remove.path))
    {
        if ours.contains(&path) {
            return Err(match added.get(&path) {
                Some(found) => Conflict::VectorChanged {
                    path,
                    found: found.clone(),
                },
                None => Conflict::FileRemoved { path },
            });
        }
    }
    Ok(())
}

/// Did the winner bring rows, new ones or some that were deleted, into a bucket that we probed?
/// Files that only arrange rows anew hold none that were not live before.
fn rows_of(tx: &Transaction, winner: &Commit) -> Result<(), Conflict> {
    if tx.probed.is_empty() {
        return Ok(());
    }
    let probed = |add: &&Add| {
        add.data_change
            && buckets(add).is_none_or(|own| own.iter().any(|bucket| tx.probed.contains(bucket)))
    };
    match winner.adds.iter().find(probed) {
        Some(add) => Err(Conflict::RowsAdded {
            path: decode_path(&add.path).unwrap_or_else(|| add.path.clone()),
        }),
        None => Ok(()),
    }
}

fn moved(mark: &crate::transaction::MarkMove, found: Watermark) -> Conflict {
    Conflict::WatermarkMoved {
        topic_id: mark.topic_id,
        bucket: mark.bucket,
        expected: mark.from,
        found,
    }
}

/// The files that a transaction takes out or gives another vector: object name and vector identity.
fn touched(tx: &Transaction) -> impl Iterator<Item = (String, Option<String>)> + '_ {
    tx.removes.iter().filter_map(|remove| {
        Some((
            decode_path(&remove.path)?,
            vector_id(remove.deletion_vector.as_ref()),
        ))
    })
}

/// Does a commit that won the version we wanted end the table that we write to?
pub(crate) fn ended_by(winner: &Metadata, base: &Metadata) -> Result<(), Conflict> {
    if winner.id != base.id {
        return Err(Conflict::TableReplaced);
    }
    if is_dropped(winner) {
        return Err(Conflict::Dropped);
    }
    Ok(())
}
