//! What a newer record does to older rows: the one place that decides.
//!
//! ```text
//!  rows and deletes of a batch ─► newest record of each key ─► Changes ─┐
//!                                                                       ├─► superseded rows, new state
//!  BucketState: live files, their deleted rows, the key index ──────────┘
//! ```
//! The flusher turns the superseded rows into deletion vectors, the query's tail into vectors in
//! memory. Newest is the largest (offset, row). Invariant: after [`BucketState::apply`] each key has
//! one live row at most, and it is that of its newest record.

use std::sync::Arc;

use arrow::buffer::BooleanBuffer;

use crate::TableError;
use crate::index::{Entries, IndexHome, KeySpec, Keys, sorted_order};
use crate::memtable::{Chunk, Deletes};
use crate::rowset::{Ranks, RowSet};
use crate::state::BucketState;

/// In [`Changes::rows`]: the key was removed.
const REMOVED: u32 = u32::MAX;

/// The newest record of each key of a batch.
#[derive(Debug)]
pub struct Changes {
    /// Rising, each once.
    keys: Keys,
    /// Of each key: the row that its newest record has among those that are kept, or [`REMOVED`].
    rows: Vec<u32>,
    /// Of each chunk: which rows are kept; none where all are.
    kept: Vec<Option<BooleanBuffer>>,
    kept_rows: u32,
}

impl Changes {
    /// Chunks, and deletes, each in the order of their sequence.
    ///
    /// # Errors
    /// Where the key columns are not what the schema says, or rows are too many for one file.
    pub fn newest_of(
        spec: &KeySpec,
        chunks: &[Chunk],
        deletes: &[Deletes],
    ) -> Result<Self, TableError> {
        let mut keys = Keys::new(spec.kind());
        for chunk in chunks {
            keys.append(&spec.rows(&chunk.batch)?);
        }
        let rows_total = keys.len();
        for removed in deletes {
            keys.append(&spec.keys(&removed.keys)?);
        }
        if u32::try_from(keys.len()).is_err() {
            return Err(TableError::Encode(format!(
                "{} rows in one flush",
                keys.len()
            )));
        }
        let order = sorted_order(&keys);
        let newest = if deletes.is_empty() {
            last_of_each(&keys, &order)
        } else {
            let sequences: Vec<(i64, u32)> = chunks
                .iter()
                .map(|chunk| &chunk.positions)
                .chain(deletes.iter().map(|removed| &removed.positions))
                .flat_map(|at| at.offsets.iter().copied().zip(at.rows.iter().copied()))
                .collect();
            newest_of_each(&keys, &order, &sequences)
        };
        Ok(Self::of(&keys, newest, rows_total, chunks))
    }

    fn of(keys: &Keys, newest: Vec<u32>, rows_total: usize, chunks: &[Chunk]) -> Self {
        let is_row = |record: u32| (record as usize) < rows_total;
        let kept_rows = newest.iter().filter(|record| is_row(**record)).count();
        let sorted = keys.take(&newest);
        let all = kept_rows == rows_total;
        let mut rows = newest;
        let mut kept = vec![None; chunks.len()];
        if all {
            for record in rows.iter_mut().filter(|record| !is_row(**record)) {
                *record = REMOVED;
            }
        } else {
            let mut alive = RowSet::default();
            for record in rows.iter().filter(|record| is_row(**record)) {
                alive.insert(*record);
            }
            let ranks = Ranks::of(&alive);
            for record in &mut rows {
                *record = if is_row(*record) {
                    ranks.before(*record)
                } else {
                    REMOVED
                };
            }
            let mut first = 0;
            for (kept, chunk) in kept.iter_mut().zip(chunks) {
                let own = BooleanBuffer::collect_bool(chunk.rows(), |row| {
                    alive.contains((first + row) as u32)
                });
                *kept = (own.count_set_bits() < chunk.rows()).then_some(own);
                first += chunk.rows();
            }
        }
        Self {
            keys: sorted,
            rows,
            kept,
            kept_rows: kept_rows as u32,
        }
    }

    /// The keys that change: rising, each once.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Rows of the batch that are the newest of their key. They make up the new file, in order.
    pub fn kept_rows(&self) -> u32 {
        self.kept_rows
    }

    /// Keys whose newest record removes them.
    pub fn removed_keys(&self) -> usize {
        self.keys.len() - self.kept_rows as usize
    }

    /// Which rows of a chunk are kept; none where all are.
    pub fn kept_of(&self, chunk: usize) -> Option<&BooleanBuffer> {
        self.kept[chunk].as_ref()
    }

    /// Keys and row numbers of the new file.
    pub fn entries(&self) -> Entries {
        if self.removed_keys() == 0 {
            let (keys, rows) = (self.keys.clone(), self.rows.clone());
            return Entries { keys, rows };
        }
        let places = (0..self.rows.len() as u32).filter(|at| self.rows[*at as usize] != REMOVED);
        let places: Vec<u32> = places.collect();
        Entries {
            keys: self.keys.take(&places),
            rows: places.iter().map(|at| self.rows[*at as usize]).collect(),
        }
    }
}

/// Of each run of equal keys in `order` the last: `order` is stable, so that is the newest.
fn last_of_each(keys: &Keys, order: &[u32]) -> Vec<u32> {
    let mut newest = Vec::with_capacity(order.len());
    for (at, record) in order.iter().enumerate() {
        let next = order.get(at + 1);
        if next.is_none_or(|next| keys.get(*next as usize) != keys.get(*record as usize)) {
            newest.push(*record);
        }
    }
    newest
}

fn newest_of_each(keys: &Keys, order: &[u32], sequences: &[(i64, u32)]) -> Vec<u32> {
    let mut newest: Vec<u32> = Vec::with_capacity(order.len());
    for record in order {
        match newest.last_mut() {
            Some(last) if keys.get(*last as usize) == keys.get(*record as usize) => {
                if sequences[*record as usize] >= sequences[*last as usize] {
                    *last = *record;
                }
            }
            _ => newest.push(*record),
        }
    }
    newest
}

/// Rows that newer records take away, by the file that holds them.
#[derive(Debug, Default)]
pub struct Superseded {
    /// Slots of [`BucketState::files`], rising, and the rows: in no order, each once.
    pub by_slot: Vec<(usize, Vec<u32>)>,
    pub rows: u64,
}

impl BucketState {
    /// The live rows of the keys that `changes` has newer records of.
    pub fn superseded(&self, changes: &Changes) -> Result<Superseded, TableError> {
        let files = self.files();
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); files.len()];
        let slot = |path: &str| self.slot(path).map(|slot| slot as u32);
        self.index()
            .probe(changes.keys(), &slot, &mut |_, slot, row| {
                if !files[slot as usize].deleted.contains(row) {
                    rows[slot as usize].push(row);
                }
            })?;
        let total = rows.iter().map(|rows| rows.len() as u64).sum();
        let by_slot = rows.into_iter().enumerate();
        Ok(Superseded {
            by_slot: by_slot.filter(|(_, rows)| !rows.is_empty()).collect(),
            rows: total,
        })
    }

    /// The state after the rows of a batch became the file `file`: newer records win.
    pub fn apply(
        &self,
        home: &IndexHome,
        file: Arc<str>,
        changes: &Changes,
    ) -> Result<Self, TableError> {
        let superseded = self.superseded(changes)?;
        self.after(home, file, changes, &superseded)
    }

    /// [`Self::apply`], where the superseded rows are known.
    pub fn after(
        &self,
        home: &IndexHome,
        file: Arc<str>,
        changes: &Changes,
        superseded: &Superseded,
    ) -> Result<Self, TableError> {
        let mut next = self.clone();
        next.delete(superseded);
        if changes.kept_rows() > 0 {
            next.add(home, file, changes.kept_rows(), &changes.entries())?;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
