//! Which files to rewrite: a pure function of what a version has.
//!
//! ```text
//!  size     files of one bucket                     becomes
//!  target   [========]  [========]                  stay
//!           [====]                                  stays, until there are as many as are merged
//!           [=] [=] [=] [=] [=] [=] [=] [=]         one of the next size
//!  small    · · · · · · · · · · ·                   one
//!           [==xxxx==]  many rows deleted           rewritten without them
//! ```
//! Size-tiered: files of about one size become one, so a row is written anew about as often as the
//! logarithm of its table's size says, whatever the rate. Only our own files; those of other writers
//! stay as they are, since they have no sequence of their rows.
//!
//! Invariants: a plan's files are of one bucket where the table has a key; what a plan makes is not
//! planned again by itself: its files are larger, or full ([`TAG_FULL`]), or have no deleted rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_core::Bucket;
use tidelake_manifest::{DataFile, Snapshot};
use tidelake_table::TAG_FULL;

/// Files of one plan at most: their footers are in memory together.
const FILES_MAX: usize = 512;
/// A plan reads so many times the target at most.
const PLAN_TARGETS: u64 = 4;
/// Below this all files are of one size.
const SMALL_BYTES: u64 = 64 << 10;
/// A file of this part of the target is large enough.
const LARGE_PERCENT: u64 = 75;
/// Deleted rows of a file below this part of the target wait for its merge.
const DELETED_PART: u64 = 64;

/// How plans are made.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub target_bytes: u64,
    pub files_to_merge: usize,
    pub deleted_percent: u64,
}

/// Why files are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    SmallFiles,
    DeletedRows,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SmallFiles => "small_files",
            Self::DeletedRows => "deleted_rows",
        }
    }
}

/// Files to rewrite together.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose rows they have; none where the table has no key.
    pub bucket: Option<Bucket>,
    /// In the order of their rows.
    pub files: Vec<Arc<DataFile>>,
    pub reason: Reason,
}

/// What is known of a file.
#[derive(Debug)]
struct Candidate {
    file: Arc<DataFile>,
    /// The first offset: rows stand in this order.
    first: i64,
    /// What it would take without its deleted rows.
    bytes: u64,
    deleted_percent: u64,
    /// It could not become larger.
    is_full: bool,
}

/// What to rewrite of a version, most files first.
pub fn plan(snapshot: &Snapshot, rules: &Rules) -> Vec<Plan> {
    let has_key = !snapshot.schema().identifier_field_ids.is_empty();
    let mut groups: BTreeMap<Option<Bucket>, Vec<Candidate>> = BTreeMap::new();
    for file in snapshot.files() {
        let Some((buckets, candidate)) = Candidate::of(file) else {
            continue;
        };
        let group = match buckets.as_slice() {
            _ if !has_key => None,
            [bucket] => Some(*bucket),
            _ => continue,
        };
        groups.entry(group).or_default().push(candidate);
    }
    let mut plans: Vec<Plan> = groups
        .into_iter()
        .flat_map(|(bucket, files)| of_group(bucket, files, rules))
        .collect();
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.files.len()));
    plans
}

impl Candidate {
    /// None for files of other writers.
    fn of(file: &Arc<DataFile>) -> Option<(Vec<Bucket>, Self)> {
        let (buckets, offsets) = (file.buckets()?, file.offsets()?);
        let (rows, live) = (file.num_records()?, file.live_rows()?);
        let share =
            |part: u64, of: u64| u128::from(file.size()) * u128::from(part) / u128::from(of.max(1));
        let candidate = Self {
            first: offsets.values().map(|(from, _)| from.0).min()?,
            bytes: u64::try_from(share(live, rows)).unwrap_or(u64::MAX),
            deleted_percent: (rows - live.min(rows)) * 100 / rows.max(1),
            is_full: file.tag(TAG_FULL).is_some(),
            file: Arc::clone(file),
        };
        Some((buckets, candidate))
    }
}

fn of_group(bucket: Option<Bucket>, mut files: Vec<Candidate>, rules: &Rules) -> Vec<Plan> {
    files.sort_by(|a, b| (a.first, a.file.path()).cmp(&(b.first, b.file.path())));
    let mut plans = Vec::new();
    let is_worn = |file: &Candidate| {
        file.deleted_percent >= rules.deleted_percent
            && file.file.size() >= rules.target_bytes / DELETED_PART
    };
    let (worn, files): (Vec<_>, Vec<_>) = files.into_iter().partition(is_worn);
    plans.extend(parts(worn, 1, rules).map(|files| Plan {
        bucket,
        files,
        reason: Reason::DeletedRows,
    }));
    let mut sizes: BTreeMap<u32, Vec<Candidate>> = BTreeMap::new();
    for file in files {
        if !file.is_full && file.bytes < rules.target_bytes * LARGE_PERCENT / 100 {
            let size = size_of(file.bytes, rules.files_to_merge as u64);
            sizes.entry(size).or_default().push(file);
        }
    }
    for of_size in sizes.into_values() {
        plans.extend(
            parts(of_size, rules.files_to_merge, rules).map(|files| Plan {
                bucket,
                files,
                reason: Reason::SmallFiles,
            }),
        );
    }
    plans
}

/// Files whose sizes differ by less than the factor have the same number.
fn size_of(bytes: u64, factor: u64) -> u32 {
    (bytes / SMALL_BYTES)
        .checked_ilog(factor.max(2))
        .map_or(0, |log| log + 1)
}

/// Cuts files into plans of `least` or more.
fn parts(
    files: Vec<Candidate>,
    least: usize,
    rules: &Rules,
) -> impl Iterator<Item = Vec<Arc<DataFile>>> {
    let bytes_max = rules.target_bytes.saturating_mul(PLAN_TARGETS);
    let mut plans: Vec<Vec<Arc<DataFile>>> = Vec::new();
    let mut bytes = u64::MAX;
    for file in files {
        let fits = bytes.saturating_add(file.bytes) <= bytes_max;
        match plans.last_mut() {
            Some(plan) if plan.len() < least || (fits && plan.len() < FILES_MAX) => {
                bytes += file.bytes;
                plan.push(file.file);
            }
            _ => {
                bytes = file.bytes;
                plans.push(vec![file.file]);
            }
        }
    }
    plans.into_iter().filter(move |plan| plan.len() >= least)
}

#[cfg(test)]
mod tests;
