//! What is known of live files beside their keys: how many rows they have, which are deleted.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_manifest::{DataFile, DeltaTable};

use super::vectors::read_vectors;
use super::{Loading, READS_IN_FLIGHT_MAX};
use crate::TableError;
use crate::read::rows_of_footer;
use crate::rowset::RowSet;
use crate::state::{BucketState, LiveFile};

/// What is known of one file.
#[derive(Debug, Clone, Default)]
struct Facts {
    rows: Option<u32>,
    /// By the vector that the file has now.
    deleted: Option<Arc<RowSet>>,
}

impl Facts {
    fn of(file: &DataFile, vector: Option<&Arc<str>>, known: Option<&LiveFile>) -> Self {
        let counted = file.num_records().map(count);
        let same = known.filter(|known| known.vector.as_ref() == vector);
        Self {
            rows: counted.or(known.map(|known| known.rows)),
            deleted: match (same, vector) {
                (Some(known), _) => Some(Arc::clone(&known.deleted)),
                (None, None) => Some(Arc::default()),
                (None, Some(_)) => None,
            },
        }
    }

    fn is_complete(&self) -> bool {
        self.rows.is_some() && self.deleted.is_some()
    }

    fn or(&self, other: &Self) -> Self {
        Self {
            rows: self.rows.or(other.rows),
            deleted: self.deleted.clone().or_else(|| other.deleted.clone()),
        }
    }

    fn fill(&self, file: &mut LiveFile) {
        file.deleted = self.deleted.clone().unwrap_or_default();
        file.rows = self.rows.unwrap_or_default().max(file.deleted.len());
    }
}

/// A file of which something is not known yet.
struct Open {
    loading: usize,
    place: usize,
    facts: Facts,
}

/// Describes all live files. What the earlier state of one bucket knows all buckets may use, and
/// what none knows is read once.
pub(super) async fn describe(
    table: &DeltaTable,
    loadings: &mut [Loading],
) -> Result<(), TableError> {
    let mut open: Vec<Open> = Vec::new();
    let mut shared: HashMap<Arc<str>, Facts> = HashMap::new();
    for (at, loading) in loadings.iter_mut().enumerate() {
        for (file, is_shared) in &loading.live {
            let known = known(loading.previous.as_ref(), file);
            let vector: Option<Arc<str>> = file.dv().map(|dv| Arc::from(dv.unique_id()));
            let facts = Facts::of(file, vector.as_ref(), known);
            let path =
                known.map_or_else(|| Arc::from(file.path()), |known| Arc::clone(&known.path));
            let mut described = LiveFile {
                path,
                rows: 0,
                deleted: Arc::default(),
                vector,
            };
            if *is_shared {
                let all = shared.entry(Arc::clone(&described.path)).or_default();
                *all = all.or(&facts);
            }
            if facts.is_complete() {
                facts.fill(&mut described);
            } else {
                let place = loading.files.len();
                open.push(Open {
                    loading: at,
                    place,
                    facts,
                });
            }
            loading.files.push(described);
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let mut read: HashMap<Arc<str>, Facts> = HashMap::new();
    let (mut vectors, mut footers) = (Vec::new(), Vec::new());
    for one in &mut open {
        let loading = &loadings[one.loading];
        let (file, _) = &loading.live[one.place];
        let path = &loading.files[one.place].path;
        if let Some(others) = shared.get(path) {
            one.facts = one.facts.or(others);
        }
        if one.facts.is_complete() || read.contains_key(path) {
            continue;
        }
        read.insert(Arc::clone(path), Facts::default());
        let wanted = (Arc::clone(path), Arc::clone(file));
        if one.facts.rows.is_none() {
            footers.push(wanted.clone());
        }
        if one.facts.deleted.is_none() {
            vectors.push(wanted);
            loadings[one.loading].loaded.vectors += 1;
        }
    }
    read_facts(table, &mut read, vectors, footers).await?;
    for one in open {
        let file = &mut loadings[one.loading].files[one.place];
        let facts = match read.get(&file.path) {
            Some(read) => one.facts.or(read),
            None => one.facts,
        };
        facts.fill(file);
    }
    Ok(())
}

fn known<'a>(previous: Option<&'a BucketState>, file: &DataFile) -> Option<&'a LiveFile> {
    previous?.file(file.path())
}

fn count(rows: u64) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

type Wanted = Vec<(Arc<str>, Arc<DataFile>)>;

/// Reads vectors, and the footers of files whose rows the log does not count.
async fn read_facts(
    table: &DeltaTable,
    facts: &mut HashMap<Arc<str>, Facts>,
    vectors: Wanted,
    footers: Wanted,
) -> Result<(), TableError> {
    for (path, deleted) in read_vectors(table, vectors).await? {
        facts.entry(path).or_default().deleted = Some(Arc::new(deleted));
    }
    let mut counts = futures::stream::iter(footers)
        .map(|(path, file)| async move {
            let rows = rows_of_footer(table, &file).await?;
            Ok::<_, TableError>((path, rows))
        })
        .buffered(READS_IN_FLIGHT_MAX)
        .boxed();
    while let Some((path, rows)) = counts.try_next().await? {
        facts.entry(path).or_default().rows = Some(count(rows));
    }
    Ok(())
}
