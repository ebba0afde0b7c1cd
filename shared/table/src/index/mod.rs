//! The key index: where the newest row of each key is.
//!
//! ```text
//!  columns ─ KeySpec ─► Keys ─ sorted_order ─► Entries of a file ─► sidecar (bytes) ─┐
//!                        │                              └──────────────────► Run ◄───┘
//!                        │                                          Run ─┬─ merge ─► Run
//!                        ├─ probe, range ─► Index (some runs) ◄──────────┘
//!                        └─ plan, probe ──► Sidecar (its end, and blocks as they are fetched)
//! ```
//! Owns how primary keys become bytes that sort as their values do, the format of sorted runs (a
//! sidecar is a run of one file), where runs live, and which of them are merged when. Knows nothing
//! of tables, snapshots or vectors: whether an entry is true, its file live and its row not deleted,
//! is the caller's (`slot`, `dead`), and the data files are the truth from which all here can be
//! built again.
//!
//! Invariants: keys are kept whole, so a hit is exact whatever the keys have in common; a run is
//! never changed; an [`Index`] is a value, so readers of older versions keep theirs; a file stands
//! in at most one run of an index; damaged bytes give [`IndexError::Corrupt`], never a wrong hit.

mod bits;
mod block;
mod columns;
mod compact;
mod cursor;
mod decode;
mod error;
mod fences;
mod files;
mod home;
mod keys;
mod layout;
mod merge;
mod probe;
mod ranged;
mod run;
mod sort;
mod spec;
mod write;

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

pub use error::IndexError;
pub use home::{FLUSH_BYTES_MAX, IndexHome, LOAD_BYTES_MAX};
pub use keys::{Entries, KeyKind, KeyRef, Keys};
pub use merge::MergeJob;
pub use ranged::{Ended, Sidecar, SidecarProbe};
pub use run::Run;
pub use sort::sorted_order;
pub use spec::KeySpec;
pub use write::encode_sidecar;

/// Bytes of a range's first read of each run, and of its largest.
const RANGE_READ_BYTES: u64 = 8 << 10;
const RANGE_READ_BYTES_MAX: u64 = 256 << 10;

/// The runs of one bucket. A value: every change makes a new one; a clone is cheap.
#[derive(Debug, Clone)]
pub struct Index {
    kind: KeyKind,
    runs: Vec<Arc<Run>>,
}

impl Index {
    pub fn new(kind: KeyKind) -> Self {
        let runs = Vec::new();
        Self { kind, runs }
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The index with a file's sidecar, whose bytes are checked to the last one. A file that is
    /// covered already changes nothing. Blocking where the home has a folder.
    pub fn with_sidecar(
        &self,
        home: &IndexHome,
        file: Arc<str>,
        bytes: Bytes,
    ) -> Result<Self, IndexError> {
        if self.covers(&file) {
            return Ok(self.clone());
        }
        Ok(self.with(sidecar_run(self.kind, home, file, bytes)?))
    }

    /// The index with a file's entries. A file that is covered already changes nothing. Blocking
    /// where the home has a folder.
    ///
    /// # Panics
    /// Where the keys are out of order or of another kind: a broken caller.
    pub fn with_entries(
        &self,
        home: &IndexHome,
        file: Arc<str>,
        entries: &Entries,
    ) -> Result<Self, IndexError> {
        assert_eq!(entries.keys.kind(), self.kind, "keys of the index's kind");
        if self.covers(&file) {
            return Ok(self.clone());
        }
        Ok(self.with(write::run_of(home, file, entries)?))
    }

    /// The index with a run of a file that was built beside it. A file that is covered already
    /// changes nothing.
    pub(crate) fn with_run(&self, run: Run) -> Self {
        let covered = run
            .files()
            .spans()
            .iter()
            .any(|span| self.covers(&span.path));
        if covered {
            self.clone()
        } else {
            self.with(run)
        }
    }

    fn with(&self, run: Run) -> Self {
        let mut runs = self.runs.clone();
        runs.push(Arc::new(run));
        Self {
            kind: self.kind,
            runs,
        }
    }

    /// The index with another's runs that hold one of `of` those files; none of their files may be
    /// covered already.
    pub(crate) fn with_runs_of(&self, other: &Self, of: &dyn Fn(&str) -> bool) -> Self {
        let wanted = |run: &&Arc<Run>| run.files().spans().iter().any(|span| of(&span.path));
        let mut runs = self.runs.clone();
        runs.extend(other.runs.iter().filter(wanted).cloned());
        Self {
            kind: self.kind,
            runs,
        }
    }

    /// True where the file's entries are in the index.
    pub fn covers(&self, file: &str) -> bool {
        self.runs.iter().any(|run| run.files().contains(file))
    }

    /// Every file whose entries are in the index.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        let spans = self.runs.iter().flat_map(|run| run.files().spans());
        spans.map(|span| &span.path)
    }

    /// Entries, dead ones included.
    pub fn entries(&self) -> u64 {
        self.runs.iter().map(|run| run.entries()).sum()
    }

    /// Encoded bytes of all runs, in memory or on disk.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes()).sum()
    }

    /// Memory that the runs hold. Runs are shared between the values of an index.
    pub fn memory_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.memory_bytes()).sum()
    }

    /// True where a read of one of its runs has failed.
    pub fn is_damaged(&self) -> bool {
        self.runs.iter().any(|run| run.is_damaged())
    }

    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Every entry of strictly ascending keys, in files that `slot` knows: key's place, slot, row.
    /// The order of calls says nothing. Blocking where runs are files.
    ///
    /// # Panics
    /// Where the keys do not ascend or are of another kind: a broken caller.
    pub fn probe(
        &self,
        keys: &Keys,
        slot: &dyn Fn(&str) -> Option<u32>,
        hit: &mut dyn FnMut(usize, u32, u32),
    ) -> Result<(), IndexError> {
        assert_eq!(keys.kind(), self.kind, "keys of the index's kind");
        assert!(keys.is_strictly_ascending(), "keys strictly ascending");
        for run in &self.runs {
            let slots = Slots::new(run, slot);
            probe::probe(run, keys, &mut |place, position| {
                if let Some((slot, row)) = slots.place(position) {
                    hit(place, slot, row);
                }
            })?;
        }
        Ok(())
    }

    /// Entries with `from <= key <= to` (as the bounds say) in key order, all runs as one, in files
    /// that `slot` knows. A key may come several times. `each` returns false to stop.
    ///
    /// # Panics
    /// Where a bound is of another kind: a broken caller.
    pub fn range(
        &self,
        from: Bound<KeyRef<'_>>,
        to: Bound<KeyRef<'_>>,
        slot: &dyn Fn(&str) -> Option<u32>,
        each: &mut dyn FnMut(KeyRef<'_>, u32, u32) -> bool,
    ) -> Result<(), IndexError> {
        for bound in [from, to] {
            if let Bound::Included(key) | Bound::Excluded(key) = bound {
                let bytes = matches!(key, KeyRef::Bytes(_));
                assert_eq!(
                    bytes,
                    self.kind == KeyKind::Bytes,
                    "bounds of the index's kind"
                );
            }
        }
        let slots: Vec<Slots<'_>> = self.runs.iter().map(|run| Slots::new(run, slot)).collect();
        let runs = self.runs.iter().map(|run| &**run);
        let merged = cursor::Merged::open(runs, from, RANGE_READ_BYTES, RANGE_READ_BYTES_MAX)?;
        merged.drain(|entry| {
            let within = match to {
                Bound::Unbounded => true,
                Bound::Included(to) => entry.key <= to,
                Bound::Excluded(to) => entry.key < to,
            };
            let place = slots[entry.run].place(entry.position);
            Ok(within && place.is_none_or(|(slot, row)| each(entry.key, slot, row)))
        })
    }

    /// Which runs to merge now; None where they are few enough.
    pub fn due(&self) -> Option<MergeJob> {
        merge::due(&self.runs)
    }

    /// Like [`Index::due`], of the runs alone whose files are all `of` those.
    pub fn due_among(&self, of: &dyn Fn(&str) -> bool) -> Option<MergeJob> {
        let own = |run: &&Arc<Run>| run.files().spans().iter().all(|span| of(&span.path));
        let own: Vec<Arc<Run>> = self.runs.iter().filter(own).cloned().collect();
        merge::due(&own)
    }

    /// Like [`Index::due`]; also a run that is mostly dead. `live`: the live rows of a file, 0 for
    /// one that is not live.
    pub fn due_for(&self, live: &dyn Fn(&str) -> u64) -> Option<MergeJob> {
        self.due().or_else(|| merge::mostly_dead(&self.runs, live))
    }

    /// All runs into one, whether due or not; None where there are fewer than two.
    pub fn merge_all(&self) -> Option<MergeJob> {
        let runs = self.runs.clone();
        (runs.len() > 1).then_some(MergeJob { runs })
    }

    /// The job's runs as one, without entries whose file has no slot or whose row is `dead`: both
    /// must hold at every version that the new run is to serve. Streams, so memory is bounded
    /// whatever the size of the runs. Blocking.
    pub fn merge(
        &self,
        job: &MergeJob,
        home: &IndexHome,
        slot: &dyn Fn(&str) -> Option<u32>,
        dead: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Run, IndexError> {
        merge::merge(self.kind, job, home, slot, dead)
    }

    /// The index with the job's runs replaced by what they were merged into; runs that were added
    /// meanwhile stay. Where the runs were replaced otherwise meanwhile, the index stays as it is.
    pub fn replaced(&self, job: &MergeJob, with: Run) -> Self {
        let of_job = |run: &Arc<Run>| job.runs.iter().any(|merged| Arc::ptr_eq(merged, run));
        let stays = self.runs.iter().filter(|run| !of_job(run));
        let mut runs: Vec<Arc<Run>> = stays.cloned().collect();
        let covered: HashSet<&str> = runs
            .iter()
            .flat_map(|run| run.files().spans())
            .map(|span| &*span.path)
            .collect();
        let files = with.files().spans();
        if files.iter().any(|span| covered.contains(&*span.path)) {
            return self.clone();
        }
        if !files.is_empty() {
            runs.push(Arc::new(with));
        }
        Self {
            kind: self.kind,
            runs,
        }
    }

    /// The index without runs of which no file is live: what a compaction leaves behind.
    pub fn trimmed(&self, live: &dyn Fn(&str) -> bool) -> Self {
        let lives = |run: &&Arc<Run>| run.files().spans().iter().any(|span| live(&span.path));
        Self {
            kind: self.kind,
            runs: self.runs.iter().filter(lives).cloned().collect(),
        }
    }
}

/// A file's sidecar as a run; its bytes are checked to the last one. Blocking where the home has a
/// folder.
pub(crate) fn sidecar_run(
    kind: KeyKind,
    home: &IndexHome,
    file: Arc<str>,
    bytes: Bytes,
) -> Result<Run, IndexError> {
    let run = Run::of_sidecar(home, file, bytes)?;
    if run.kind() != kind {
        return Err(run.damaged("its keys are of another kind than the table's"));
    }
    Ok(run)
}

/// A file's entries as a run. Blocking where the home has a folder.
///
/// # Panics
/// Where the keys are out of order: a broken caller.
pub(crate) fn entries_run(
    home: &IndexHome,
    file: Arc<str>,
    entries: &Entries,
) -> Result<Run, IndexError> {
    write::run_of(home, file, entries)
}

/// The caller's slots for a run's files, each asked for once.
struct Slots<'a> {
    run: &'a Run,
    slot: &'a dyn Fn(&str) -> Option<u32>,
    known: RefCell<Vec<Option<Option<u32>>>>,
}

impl<'a> Slots<'a> {
    fn new(run: &'a Run, slot: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        let known = RefCell::new(vec![None; run.files().spans().len()]);
        Self { run, slot, known }
    }

    /// Slot and row of a position; None in a file without a slot.
    #[inline]
    fn place(&self, position: u64) -> Option<(u32, u32)> {
        let files = self.run.files();
        let file = files.of(position);
        let span = &files.spans()[file];
        let mut known = self.known.borrow_mut();
        let slot = *known[file].get_or_insert_with(|| (self.slot)(&span.path));
        Some((slot?, (position - span.base) as u32))
    }
}

#[cfg(test)]
mod tests;
