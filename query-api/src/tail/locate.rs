//! Where the live rows of keys are, in one view.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use tidelake_core::Bucket;
use tidelake_table::index::{KeyRef, Keys};
use tidelake_table::{BucketState, Place};

use super::{BucketTail, Piece, View};
use crate::error::QueryError;
use crate::table::keys::TableKeys;
use crate::table::pinned::Pinned;
use crate::table::stored_keys::StoredRow;

/// A row by where it is.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// In a data file; the path is relative to the table.
    File { path: Arc<str>, row: u32 },
    /// In memory.
    Tail { piece: Arc<Piece>, row: u32 },
}

impl From<StoredRow> for Found {
    fn from(StoredRow { path, row }: StoredRow) -> Self {
        Self::File { path, row }
    }
}

/// The keys of an upsert table at one version, with or without what lies behind it.
#[derive(Debug, Clone)]
pub(crate) struct Finder {
    keys: Arc<TableKeys>,
    view: Arc<View>,
    /// The tail counts.
    fresh: bool,
}

impl Finder {
    /// Of everything that the view holds; `None` for a table without keys.
    pub(crate) fn fresh(view: &Arc<View>) -> Option<Self> {
        Self::of(view, true)
    }

    /// Of a version alone; `None` where the view is of another or its index can't be read, or the
    /// table has no keys.
    pub(crate) fn committed(view: &Arc<View>, pinned: &Pinned) -> Option<Self> {
        let same = view.pinned.snapshot.version() == pinned.snapshot.version()
            && view.pinned.entry.topic_id == pinned.entry.topic_id
            && !view.is_damaged();
        if same { Self::of(view, false) } else { None }
    }

    fn of(view: &Arc<View>, fresh: bool) -> Option<Self> {
        let keys = Arc::clone(view.pinned.keys.as_ref()?);
        let stated = |tail: &BucketTail| tail.upsert.is_some();
        view.buckets.values().all(stated).then(|| Self {
            keys,
            view: Arc::clone(view),
            fresh,
        })
    }

    pub(crate) fn keys(&self) -> &Arc<TableKeys> {
        &self.keys
    }

    pub(crate) fn pinned(&self) -> &Arc<Pinned> {
        &self.view.pinned
    }

    /// A read of the index has failed: whoever begins again gets another one.
    pub(crate) fn is_damaged(&self) -> bool {
        self.view.is_damaged()
    }

    fn state<'a>(&self, tail: &'a BucketTail) -> Option<&'a BucketState> {
        let upsert = tail.upsert.as_ref()?;
        Some(if self.fresh {
            &upsert.fresh
        } else {
            &upsert.committed
        })
    }

    /// The live row of each key, in their order. May read files: blocks.
    pub(crate) fn find(&self, keys: &RecordBatch) -> Result<Vec<Option<Found>>, QueryError> {
        let spec = self.keys.spec();
        let all = spec.keys(keys).map_err(tidelake_table::TableError::from)?;
        let buckets = self.keys.buckets(keys)?;
        let mut found = vec![None; keys.num_rows()];
        let mut wanted: Vec<u32> = buckets.clone();
        wanted.sort_unstable();
        wanted.dedup();
        for bucket in wanted {
            let Some(tail) = self.view.buckets.get(&Bucket(bucket)) else {
                continue;
            };
            let Some(state) = self.state(tail) else {
                continue;
            };
            let of_bucket = buckets.iter().enumerate();
            let places: Vec<u32> = of_bucket
                .filter(|(_, other)| **other == bucket)
                .map(|(place, _)| place as u32)
                .collect();
            for (place, row) in places.iter().zip(state.find(&all.take(&places))?) {
                found[*place as usize] = row.and_then(|row| located(tail, row));
            }
        }
        Ok(found)
    }

    /// The live rows of a range of keys, in key order, `limit` at most. May read files: blocks.
    pub(crate) fn range(
        &self,
        from: Option<&RecordBatch>,
        to: Option<&RecordBatch>,
        limit: usize,
    ) -> Result<Vec<Found>, QueryError> {
        let spec = self.keys.spec();
        let bound = |keys: Option<&RecordBatch>| {
            let keys = keys.map(|keys| spec.keys(keys)).transpose();
            keys.map_err(tidelake_table::TableError::from)
        };
        let (from, to) = (bound(from)?, bound(to)?);
        let from = from
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Included(key.get(0)));
        let to = to
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Excluded(key.get(0)));
        let mut runs = Vec::with_capacity(self.view.buckets.len());
        for tail in self.view.buckets.values() {
            if let Some(state) = self.state(tail) {
                runs.push((tail, Run::read(state, from, to, limit)?));
            }
        }
        Ok(merged(runs, limit))
    }
}

/// A bucket's part of a range.
struct Run {
    keys: Keys,
    rows: Vec<Place>,
    next: usize,
}

impl Run {
    fn read(
        state: &BucketState,
        from: Bound<KeyRef<'_>>,
        to: Bound<KeyRef<'_>>,
        limit: usize,
    ) -> Result<Self, QueryError> {
        let (mut keys, mut rows) = (Keys::new(state.index().kind()), Vec::new());
        let slot = |path: &str| state.slot(path).map(|slot| slot as u32);
        let files = state.files();
        if limit > 0 {
            let read = state.index().range(from, to, &slot, &mut |key, slot, row| {
                let file = &files[slot as usize];
                if !file.deleted.contains(row) {
                    keys.push(key);
                    rows.push(Place {
                        file: Arc::clone(&file.path),
                        row,
                    });
                }
                rows.len() < limit
            });
            read.map_err(tidelake_table::TableError::from)?;
        }
        Ok(Self {
            keys,
            rows,
            next: 0,
        })
    }

    fn key(&self) -> Option<KeyRef<'_>> {
        (self.next < self.keys.len()).then(|| self.keys.get(self.next))
    }
}

/// The buckets' parts as one: a key is in one bucket only.
fn merged(mut runs: Vec<(&BucketTail, Run)>, limit: usize) -> Vec<Found> {
    let mut found = Vec::new();
    while found.len() < limit {
        let heads = runs
            .iter()
            .enumerate()
            .filter_map(|(at, (_, run))| Some((at, run.key()?)));
        let least = heads.min_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        let Some((at, _)) = least else {
            break;
        };
        let (tail, run) = &mut runs[at];
        let place = run.rows[run.next].clone();
        run.next += 1;
        found.extend(located(tail, place));
    }
    found
}

fn located(tail: &BucketTail, place: Place) -> Option<Found> {
    let Place { file, row } = place;
    Some(match tail.piece(&file) {
        Some(piece) => Found::Tail {
            piece: Arc::clone(piece),
            row,
        },
        None => Found::File { path: file, row },
    })
}
