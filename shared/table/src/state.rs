//! One bucket of an upsert table at one moment: its live files, their deleted rows, its key index.
//!
//! A file of several buckets (one that another engine wrote) is a file of each of them: the index
//! of a bucket holds only the bucket's own keys of it, its deleted rows are those of all buckets,
//! exactly what the committed vector says. So what is written next on top of them loses none.
//!
//! Owns the question "where is the live row of this key". An entry of the index is only a
//! candidate: it counts where its file is live and its row not deleted here. So one index serves
//! many states, and stale entries do no harm. A value: it never changes, later states share what
//! they have in common with it. What newer records do to it is [`crate::apply`]'s.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::TableError;
use crate::apply::{Changes, Superseded};
use crate::index::{Entries, Index, IndexHome, KeyKind, KeyRef, Keys, MergeJob, Run, sorted_order};
use crate::rowset::RowSet;

/// A row by where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Object name of the data file, relative to the table; or what the caller called a batch that
    /// is not a file.
    pub file: Arc<str>,
    /// Physical row, from 0.
    pub row: u32,
}

/// A live file of a bucket.
#[derive(Debug, Clone)]
pub struct LiveFile {
    pub path: Arc<str>,
    /// Physical rows.
    pub rows: u32,
    /// Of all buckets.
    pub deleted: Arc<RowSet>,
    /// Identity of the committed vector that `deleted` was read from or written as.
    pub(crate) vector: Option<Arc<str>>,
}

/// A file's vector as a commit holds it.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    /// Identity of the vector.
    pub id: Arc<str>,
    pub deleted: Arc<RowSet>,
}

impl LiveFile {
    pub fn live_rows(&self) -> u32 {
        self.rows - self.deleted.len().min(self.rows)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct BucketState {
    index: Index,
    /// By path.
    files: Arc<Vec<LiveFile>>,
}

impl BucketState {
    /// A bucket without rows.
    pub fn new(kind: KeyKind) -> Self {
        Self {
            index: Index::new(kind),
            files: Arc::default(),
        }
    }

    pub(crate) fn of(index: Index, mut files: Vec<LiveFile>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let files = Arc::new(files);
        Self { index, files }
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The live files, by path.
    pub fn files(&self) -> &[LiveFile] {
        &self.files
    }

    /// The place of a file among [`Self::files`].
    pub fn slot(&self, path: &str) -> Option<usize> {
        self.files
            .binary_search_by(|file| file.path.as_ref().cmp(path))
            .ok()
    }

    pub fn file(&self, path: &str) -> Option<&LiveFile> {
        self.slot(path).map(|slot| &self.files[slot])
    }

    /// The deleted rows of a live file.
    pub fn deleted(&self, path: &str) -> Option<&Arc<RowSet>> {
        self.file(path).map(|file| &file.deleted)
    }

    /// Rows that count in the bucket's files: those of other buckets too, where a file is of
    /// several.
    pub fn live_rows(&self) -> u64 {
        self.files
            .iter()
            .map(|file| u64::from(file.live_rows()))
            .sum()
    }

    /// Where the live rows of the keys are: any order, repeats allowed.
    pub fn find(&self, keys: &Keys) -> Result<Vec<Option<Place>>, TableError> {
        let mut found: Vec<Option<(u32, u32)>> = vec![None; keys.len()];
        let slot = |path: &str| self.slot(path).map(|slot| slot as u32);
        let order = sorted_order(keys);
        let mut distinct = Vec::with_capacity(order.len());
        let mut group_of = vec![0; keys.len()];
        for record in &order {
            let fresh = distinct
                .last()
                .is_none_or(|last: &u32| keys.get(*last as usize) != keys.get(*record as usize));
            if fresh {
                distinct.push(*record);
            }
            group_of[*record as usize] = distinct.len() - 1;
        }
        self.index
            .probe(&keys.take(&distinct), &slot, &mut |key, slot, row| {
                if !self.files[slot as usize].deleted.contains(row) {
                    found[key] = Some((slot, row));
                }
            })?;
        let place = |(slot, row): (u32, u32)| Place {
            file: Arc::clone(&self.files[slot as usize].path),
            row,
        };
        Ok(group_of
            .iter()
            .map(|group| found[*group].map(place))
            .collect())
    }

    /// Where the live rows of a range of keys are, in key order.
    pub fn range(
        &self,
        from: Bound<KeyRef<'_>>,
        to: Bound<KeyRef<'_>>,
        limit: usize,
    ) -> Result<Vec<Place>, TableError> {
        let mut places = Vec::new();
        if limit == 0 {
            return Ok(places);
        }
        let slot = |path: &str| self.slot(path).map(|slot| slot as u32);
        self.index.range(from, to, &slot, &mut |_, slot, row| {
            let file = &self.files[slot as usize];
            if !file.deleted.contains(row) {
                let file = Arc::clone(&file.path);
                places.push(Place { file, row });
            }
            places.len() < limit
        })?;
        Ok(places)
    }

    /// Marks rows as deleted.
    pub(crate) fn delete(&mut self, superseded: &Superseded) {
        if superseded.by_slot.is_empty() {
            return;
        }
        let files = Arc::make_mut(&mut self.files);
        for (slot, rows) in &superseded.by_slot {
            let deleted = Arc::make_mut(&mut files[*slot].deleted);
            for row in rows {
                deleted.insert(*row);
            }
        }
    }

    /// Adds a file with no deleted rows.
    pub(crate) fn add(
        &mut self,
        home: &IndexHome,
        path: Arc<str>,
        rows: u32,
        entries: &Entries,
    ) -> Result<(), TableError> {
        self.index = self.index.with_entries(home, Arc::clone(&path), entries)?;
        let file = LiveFile {
            path,
            rows,
            deleted: Arc::default(),
            vector: None,
        };
        let files = Arc::make_mut(&mut self.files);
        let place = files.partition_point(|known| known.path < file.path);
        files.insert(place, file);
        Ok(())
    }

    /// The state with some files as one: `changes` holds exactly their rows that count.
    pub fn joined(
        &self,
        home: &IndexHome,
        files: &[Arc<str>],
        into: Arc<str>,
        changes: &Changes,
    ) -> Result<Self, TableError> {
        let mut next = self.clone();
        Arc::make_mut(&mut next.files).retain(|file| !files.contains(&file.path));
        next.index = next.index.trimmed(&|path| next.slot(path).is_some());
        if changes.kept_rows() > 0 {
            next.add(home, into, changes.kept_rows(), &changes.entries())?;
        }
        Ok(next)
    }

    /// This state with files in memory that an earlier one had behind its own. `changes` are their
    /// records that count here, `files` their names, each with more of its rows that do not.
    pub fn carrying(
        &self,
        changes: &Changes,
        earlier: &Self,
        files: &[(Arc<str>, RowSet)],
    ) -> Result<Self, TableError> {
        let superseded = self.superseded(changes)?;
        let mut next = self.clone();
        next.delete(&superseded);
        let own = Arc::make_mut(&mut next.files);
        for (path, gone) in files {
            // One that only deletes has no rows, and is no file.
            let Some(file) = earlier.file(path) else {
                continue;
            };
            let mut file = file.clone();
            if !gone.is_empty() {
                Arc::make_mut(&mut file.deleted).union(gone);
            }
            own.push(file);
        }
        own.sort_by(|a, b| a.path.cmp(&b.path));
        let is_carried = |path: &str| files.iter().any(|(carried, _)| carried.as_ref() == path);
        next.index = next.index.with_runs_of(&earlier.index, &is_carried);
        Ok(next)
    }

    /// Takes over the vectors that a commit wrote, other buckets' rows included, and drops the
    /// files that it removed.
    pub(crate) fn committed(&mut self, touched: &HashMap<Arc<str>, Option<Committed>>) {
        if touched.is_empty() {
            return;
        }
        let files = Arc::make_mut(&mut self.files);
        files.retain_mut(|file| match touched.get(&file.path) {
            None => true,
            Some(Some(vector)) => {
                file.vector = Some(Arc::clone(&vector.id));
                file.deleted = Arc::clone(&vector.deleted);
                true
            }
            Some(None) => false,
        });
    }

    /// What the index should merge now, if anything.
    pub fn merge_due(&self) -> Option<MergeJob> {
        let live = |path: &str| {
            self.file(path)
                .map_or(0, |file| u64::from(file.live_rows()))
        };
        self.index.due_for(&live)
    }

    /// Does the merge; entries that no longer count are left out. Blocks.
    pub fn merge(&self, job: &MergeJob, home: &IndexHome) -> Result<Run, TableError> {
        let slot = |path: &str| self.slot(path).map(|slot| slot as u32);
        let dead = |slot: u32, row: u32| self.files[slot as usize].deleted.contains(row);
        Ok(self.index.merge(job, home, &slot, &dead)?)
    }

    /// This state, with a merge done meanwhile on an earlier one.
    #[must_use]
    pub fn merged(&self, job: &MergeJob, run: Run) -> Self {
        Self {
            index: self.index.replaced(job, run),
            files: Arc::clone(&self.files),
        }
    }

    /// Does all merges that are due. Blocks.
    pub fn settled(mut self, home: &IndexHome) -> Result<Self, TableError> {
        while let Some(job) = self.merge_due() {
            let run = self.merge(&job, home)?;
            self = self.merged(&job, run);
        }
        Ok(self)
    }

    /// Does the merges that are due among the runs whose files are all `of` those; others stay as
    /// they are. Blocks.
    pub fn settled_among(
        mut self,
        home: &IndexHome,
        of: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TableError> {
        while let Some(job) = self.index.due_among(of) {
            let run = self.merge(&job, home)?;
            self = self.merged(&job, run);
        }
        Ok(self)
    }
}
