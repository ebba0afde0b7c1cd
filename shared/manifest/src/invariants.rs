//! What every commit of ours must satisfy, as named predicates. They run before each commit, in
//! every build: a commit that breaks one is a bug of ours, and not made.

use std::collections::BTreeSet;

use crate::action::{Add, decode_path, vector_id};
use crate::error::Violation;
use crate::features::{is_append_only, takes_vectors};
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::transaction::Transaction;

type Verdict = Result<(), String>;
type Predicate = fn(&Snapshot, &Transaction) -> Verdict;

/// Name and predicate, in the order in which they run.
const PREDICATES: [(&str, Predicate); 10] = [
    ("names_lie_inside_the_table", names_lie_inside_the_table),
    ("no_name_twice", no_name_twice),
    ("removes_name_what_is_live", removes_name_what_is_live),
    ("adds_are_new_or_replace", adds_are_new_or_replace),
    ("statistics_are_present", statistics_are_present),
    (
        "vectors_are_allowed_and_sound",
        vectors_are_allowed_and_sound,
    ),
    ("vectors_only_grow", vectors_only_grow),
    (
        "one_transaction_for_an_application",
        one_transaction_for_an_application,
    ),
    (
        "watermarks_move_on_from_the_snapshot",
        watermarks_move_on_from_the_snapshot,
    ),
    (
        "append_only_tables_lose_nothing",
        append_only_tables_lose_nothing,
    ),
];

/// Checks a transaction against the snapshot that it is to follow.
pub fn check(base: &Snapshot, tx: &Transaction) -> Result<(), Violation> {
    for (predicate, holds) in PREDICATES {
        holds(base, tx).map_err(|detail| Violation { predicate, detail })?;
    }
    Ok(())
}

fn require(holds: bool, detail: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(detail()) }
}

fn names_lie_inside_the_table(_: &Snapshot, tx: &Transaction) -> Verdict {
    let removes = tx.removes.iter().map(|remove| &remove.path);
    for path in tx.adds.iter().map(|add| &add.path).chain(removes) {
        require(decode_path(path).is_some(), || format!("path {path:?}"))?;
    }
    let partitioned = tx.adds.iter().find(|add| !add.partition_values.is_empty());
    require(partitioned.is_none(), || {
        "an add has partition values".into()
    })
}

fn no_name_twice(_: &Snapshot, tx: &Transaction) -> Verdict {
    fn unique<'a>(paths: impl Iterator<Item = &'a str>, what: &str) -> Verdict {
        let mut seen = BTreeSet::new();
        for path in paths {
            require(seen.insert(decode_path(path)), || {
                format!("{path:?} is {what} twice")
            })?;
        }
        Ok(())
    }
    unique(tx.adds.iter().map(|add| add.path.as_str()), "added")?;
    unique(
        tx.removes.iter().map(|remove| remove.path.as_str()),
        "removed",
    )
}

fn removes_name_what_is_live(base: &Snapshot, tx: &Transaction) -> Verdict {
    for remove in &tx.removes {
        let live = decode_path(&remove.path).and_then(|path| base.file(&path).cloned());
        let wanted = vector_id(remove.deletion_vector.as_ref());
        let exact = live.is_some_and(|file| vector_id(file.dv()) == wanted);
        require(exact, || {
            format!("{:?} with vector {wanted:?} is not live", remove.path)
        })?;
    }
    Ok(())
}

fn adds_are_new_or_replace(base: &Snapshot, tx: &Transaction) -> Verdict {
    let removed: BTreeSet<_> = tx
        .removes
        .iter()
        .map(|remove| decode_path(&remove.path))
        .collect();
    for add in &tx.adds {
        let path = decode_path(&add.path);
        let live = path
            .as_deref()
            .is_some_and(|path| base.file(path).is_some());
        require(!live || removed.contains(&path), || {
            format!("{:?} is live already", add.path)
        })?;
    }
    Ok(())
}

fn statistics_are_present(_: &Snapshot, tx: &Transaction) -> Verdict {
    for add in &tx.adds {
        let rows = stats_of(add).and_then(|stats| stats.num_records);
        require(rows.is_some(), || {
            format!("{:?} has no number of rows", add.path)
        })?;
        require(add.size > 0, || {
            format!("{:?} has size {}", add.path, add.size)
        })?;
    }
    Ok(())
}

fn vectors_are_allowed_and_sound(base: &Snapshot, tx: &Transaction) -> Verdict {
    let protocol = tx.protocol.as_ref().unwrap_or(base.protocol());
    let metadata = tx.metadata.as_ref().unwrap_or(base.metadata());
    for add in &tx.adds {
        let Some(vector) = &add.deletion_vector else {
            continue;
        };
        let path = &add.path;
        require(takes_vectors(protocol, metadata), || {
            format!("{path:?} has a vector, the table lacks deletionVectors")
        })?;
        let stats = stats_of(add);
        let wide = stats
            .as_ref()
            .is_some_and(|stats| stats.tight_bounds == Some(false));
        require(wide, || {
            format!("{path:?} has a vector, and bounds that claim to be tight")
        })?;
        let rows = stats.and_then(|stats| stats.num_records).unwrap_or(0);
        let deleted = u64::try_from(vector.cardinality).unwrap_or(u64::MAX);
        require(deleted <= rows, || {
            format!("{path:?} deletes {deleted} of {rows} rows")
        })?;
    }
    Ok(())
}

/// A row that a vector took away was superseded or deleted. No flush brings it back; restoring an
/// older version does, and moves no watermark. Which rows a vector has is not known here: whoever
/// makes one compares them ([`crate::vector::keeps`]).
fn vectors_only_grow(base: &Snapshot, tx: &Transaction) -> Verdict {
    if tx.marks.is_empty() && tx.probed.is_empty() {
        return Ok(());
    }
    for add in &tx.adds {
        let live = decode_path(&add.path).and_then(|path| base.file(&path).cloned());
        let Some(before) = live.as_ref().and_then(|file| file.dv()) else {
            continue;
        };
        let after = add.deletion_vector.as_ref();
        let after = after.map_or(0, |vector| vector.cardinality);
        require(after >= before.cardinality, || {
            let (path, before) = (&add.path, before.cardinality);
            format!("{path:?} had {before} rows deleted, and would have {after}")
        })?;
    }
    Ok(())
}

fn one_transaction_for_an_application(_: &Snapshot, tx: &Transaction) -> Verdict {
    let mut seen = BTreeSet::new();
    let marks = tx.marks.iter().map(|mark| mark.app_id());
    for app_id in marks.chain(tx.txns.iter().map(|txn| txn.app_id.clone())) {
        require(!seen.contains(&app_id), || format!("{app_id:?} has two"))?;
        seen.insert(app_id);
    }
    let undated = tx.txns.iter().find(|txn| txn.last_updated.is_none());
    require(undated.is_none(), || "a txn lacks lastUpdated".into())
}

fn watermarks_move_on_from_the_snapshot(base: &Snapshot, tx: &Transaction) -> Verdict {
    for mark in &tx.marks {
        let found = base
            .watermark(&mark.topic_id, mark.bucket)
            .unwrap_or_default();
        require(mark.from == found && mark.to > mark.from, || {
            let (bucket, from, to) = (mark.bucket, mark.from, mark.to);
            format!("bucket {bucket} moves from {from} to {to}, the snapshot has {found}")
        })?;
    }
    Ok(())
}

fn append_only_tables_lose_nothing(base: &Snapshot, tx: &Transaction) -> Verdict {
    let loses = tx.removes.iter().any(|remove| remove.data_change);
    require(!(loses && is_append_only(base.metadata())), || {
        "a file is removed from a table with delta.appendOnly=true".into()
    })
}

fn stats_of(add: &Add) -> Option<Stats> {
    Stats::parse(add.stats.as_deref()?).ok()
}
