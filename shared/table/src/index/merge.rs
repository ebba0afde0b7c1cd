//! Which runs become one, and how.
//!
//! Runs are kept few, so that a probe is cheap, and unequal, so that an entry is rarely written
//! again: beyond [`RUNS_MAX`] the small ones are merged, together with each larger one that is no
//! larger than all smaller ones together. So 1,000 equal flushes leave at most six runs, and an entry is
//! written some six times; where new entries only supersede old ones, three or four times.

use std::ops::Bound;
use std::sync::Arc;

use super::cursor::Merged;
use super::error::IndexError;
use super::files::Files;
use super::home::IndexHome;
use super::keys::KeyKind;
use super::run::Run;
use super::write::RunWriter;

/// More runs than these are due to be merged.
pub(super) const RUNS_MAX: usize = 6;
/// At most so many runs are merged at once: each has a buffer.
const INPUTS_MAX: usize = 64;
/// A run with fewer entries is not worth a merge of its own, however many are dead.
const DEAD_ENTRIES_MIN: u64 = 64 << 10;
/// Bytes that are read of a run at once, and of all runs together.
const READ_BYTES_MAX: u64 = 256 << 10;
const READ_BYTES_TOTAL_MAX: u64 = 4 << 20;
const READ_BYTES_MIN: u64 = 32 << 10;

/// Runs that are to become one.
#[derive(Debug, Clone)]
pub struct MergeJob {
    pub(super) runs: Vec<Arc<Run>>,
}

impl MergeJob {
    /// Entries that the merge reads.
    pub fn entries(&self) -> u64 {
        self.runs.iter().map(|run| run.entries()).sum()
    }

    pub fn runs(&self) -> usize {
        self.runs.len()
    }
}

/// See [`super::Index::due`].
pub(super) fn due(runs: &[Arc<Run>]) -> Option<MergeJob> {
    if runs.len() <= RUNS_MAX {
        return None;
    }
    let mut by_size: Vec<&Arc<Run>> = runs.iter().collect();
    by_size.sort_by_key(|run| run.entries());
    let (mut smaller, mut inputs) = (0, 2);
    for (i, run) in by_size.iter().enumerate().take(INPUTS_MAX) {
        if smaller >= run.entries() {
            inputs = inputs.max(i + 1);
        }
        smaller += run.entries();
    }
    let runs = by_size[..inputs].iter().map(|run| Arc::clone(run));
    Some(MergeJob {
        runs: runs.collect(),
    })
}

/// The run with the most dead entries, where more than half of it is dead.
pub(super) fn mostly_dead(runs: &[Arc<Run>], live: &dyn Fn(&str) -> u64) -> Option<MergeJob> {
    let dead = |run: &Arc<Run>| {
        let files = run.files().spans().iter();
        let live: u64 = files.map(|span| live(&span.path).min(span.extent)).sum();
        run.entries().saturating_sub(live)
    };
    let (run, dead) = runs
        .iter()
        .map(|run| (run, dead(run)))
        .max_by_key(|(_, dead)| *dead)?;
    let due = dead >= DEAD_ENTRIES_MIN && dead > run.entries() / 2;
    due.then(|| MergeJob {
        runs: vec![Arc::clone(run)],
    })
}

/// Where the positions of an input's file go.
#[derive(Clone, Copy)]
struct Target {
    from: u64,
    slot: u32,
    base: u64,
}

/// See [`super::Index::merge`].
pub(super) fn merge(
    kind: KeyKind,
    job: &MergeJob,
    home: &IndexHome,
    slot: &dyn Fn(&str) -> Option<u32>,
    dead: &dyn Fn(u32, u32) -> bool,
) -> Result<Run, IndexError> {
    let (targets, files) = targets(job, slot);
    let share = READ_BYTES_TOTAL_MAX / job.runs.len().max(1) as u64;
    let read_bytes = share.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
    let runs = job.runs.iter().map(|run| &**run);
    let merged = Merged::open(runs, Bound::Unbounded, read_bytes, read_bytes)?;
    let mut writer = RunWriter::new(kind, home);
    merged.drain(|entry| {
        let file = job.runs[entry.run].files().of(entry.position);
        if let Some(target) = targets[entry.run][file] {
            let row = entry.position - target.from;
            if !dead(target.slot, row as u32) {
                writer.push(entry.key, target.base + row)?;
            }
        }
        Ok(true)
    })?;
    writer.finish(files)
}

/// For each file of each input where it goes, None without a slot; and how the files that stay are
/// laid out in the new run.
fn targets(
    job: &MergeJob,
    slot: &dyn Fn(&str) -> Option<u32>,
) -> (Vec<Vec<Option<Target>>>, Files) {
    let (mut laid_out, mut base) = (Vec::new(), 0);
    let mut targets = Vec::with_capacity(job.runs.len());
    for run in &job.runs {
        let spans = run.files().spans().iter();
        let of_run = spans.map(|span| {
            let slot = slot(&span.path)?;
            let target = Target {
                from: span.base,
                slot,
                base,
            };
            laid_out.push((Arc::clone(&span.path), span.extent));
            base += span.extent;
            Some(target)
        });
        targets.push(of_run.collect());
    }
    (targets, Files::lay_out(laid_out))
}
