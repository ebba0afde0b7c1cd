//! The part of a commit that takes older rows away: a new vector for each file that lost rows, and
//! the end of files that have none left.
//!
//! Invariant: a new vector contains the old one, whatever buckets the file's rows belong to. What a
//! bucket's state says of a file is held against the version that the commit follows, and a vector
//! that would bring a row back is refused before anything is written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tidelake_core::clock::UnixMillis;
use tidelake_manifest::action::{Add, Remove};
use tidelake_manifest::stats::widened;
use tidelake_manifest::vector::VectorFile;
use tidelake_manifest::{DataFile, Snapshot};
use uuid::Uuid;

use super::upsert::Part;
use crate::TableError;
use crate::apply::Superseded;
use crate::rowset::RowSet;
use crate::state::{Committed, LiveFile};

/// See the module.
pub(super) struct Vectors {
    pub(super) adds: Vec<Add>,
    pub(super) removes: Vec<Remove>,
    /// Names and contents of the objects that hold the vectors.
    pub(super) objects: Vec<(String, Bytes)>,
    /// Of each touched file: its new vector, none where the file goes.
    pub(super) touched: HashMap<Arc<str>, Option<Committed>>,
}

/// A file that loses rows.
struct Touched {
    /// What the committed vector says, and what is superseded now.
    deleted: RowSet,
    /// Physical rows.
    rows: u32,
    /// What the committed vector says.
    before: Arc<RowSet>,
}

impl Vectors {
    pub(super) fn of(
        base: &Snapshot,
        parts: &[Part],
        superseded: &[Superseded],
        id: Uuid,
        now_ms: UnixMillis,
    ) -> Result<Self, TableError> {
        let mut object = VectorFile::new(id);
        let mut vectors = Self {
            adds: Vec::new(),
            removes: Vec::new(),
            objects: Vec::new(),
            touched: HashMap::new(),
        };
        for (path, touched) in united(base, parts, superseded)? {
            let file = live(base, &path)?;
            let Touched {
                deleted,
                rows,
                before,
            } = touched;
            if !deleted.covers(&before) {
                return Err(TableError::RowsRevived {
                    path: path.to_string(),
                    reason: "its rows were united wrongly".into(),
                });
            }
            vectors.removes.push(file.add.to_remove(now_ms, true));
            if deleted.len() >= rows {
                vectors.touched.insert(path, None);
                continue;
            }
            let vector = object.place(&deleted.to_deleted_rows());
            let vector = vector.map_err(|error| TableError::Encode(error.to_string()))?;
            let committed = Committed {
                id: Arc::from(vector.unique_id()),
                deleted: Arc::new(deleted),
            };
            vectors.touched.insert(path, Some(committed));
            vectors.adds.push(Add {
                deletion_vector: Some(vector),
                stats: Some(widened(file.add.stats.as_deref(), rows.into())),
                data_change: true,
                modification_time: file.add.modification_time,
                ..file.add.clone()
            });
        }
        let objects = object.finish().into_iter();
        vectors.objects = objects.map(|(name, bytes)| (name, bytes.into())).collect();
        Ok(vectors)
    }
}

/// The files that lose rows, each with those of all buckets.
fn united(
    base: &Snapshot,
    parts: &[Part],
    superseded: &[Superseded],
) -> Result<BTreeMap<Arc<str>, Touched>, TableError> {
    let mut touched: BTreeMap<Arc<str>, Touched> = BTreeMap::new();
    for (part, found) in parts.iter().zip(superseded) {
        for (slot, rows) in &found.by_slot {
            let own = &part.state.files()[*slot];
            let all = match touched.entry(Arc::clone(&own.path)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => {
                    agrees(live(base, &own.path)?, own)?;
                    free.insert(Touched {
                        deleted: own.deleted.as_ref().clone(),
                        rows: own.rows,
                        before: Arc::clone(&own.deleted),
                    })
                }
            };
            // Another bucket may know the file by another reading of the same vector.
            if !Arc::ptr_eq(&all.before, &own.deleted) {
                agrees(live(base, &own.path)?, own)?;
            }
            for row in rows {
                all.deleted.insert(*row);
            }
        }
    }
    Ok(touched)
}

fn live<'a>(base: &'a Snapshot, path: &Arc<str>) -> Result<&'a Arc<DataFile>, TableError> {
    // Where the state is older than the base, the commit could only lose.
    base.file(path).ok_or_else(|| TableError::Damaged {
        what: path.to_string(),
        reason: "the key index knows it, the table's version does not".into(),
    })
}

/// What the state knows as deleted is what the version's vector says, no row less.
fn agrees(file: &DataFile, known: &LiveFile) -> Result<(), TableError> {
    let vector = file.dv().map(|vector| vector.unique_id());
    let deleted = u64::from(known.deleted.len());
    if vector.as_deref() == known.vector.as_deref() && deleted == file.deleted_rows() {
        return Ok(());
    }
    let (found, expected) = (known.vector.as_deref(), file.deleted_rows());
    Err(TableError::RowsRevived {
        path: known.path.to_string(),
        reason: format!(
            "the bucket's state has vector {found:?} with {deleted} rows, the table's version has \
             {vector:?} with {expected}"
        ),
    })
}
