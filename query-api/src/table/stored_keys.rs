//! Where the rows of keys are at one version, by the sidecars of its files: for versions that nobody
//! follows.
//!
//! ```text
//!  keys ─► bucket, bounds ─► files that may hold them ─► their sidecars ─► vectors ─► live rows
//! ```
//! Owns which files are asked and in which order: the newest first, until each key is found. Does not
//! own how a sidecar is read ([`super::sidecars`]). A sidecar of a later flush is none of the
//! version's, and a row that a later one superseded is deleted by the later version's vector only.
//!
//! Invariant: an answer is what a scan of the version would find. Where a file that may hold a key
//! has no sidecar that can speak for it (files of other engines, lost or damaged ones), there is no
//! answer, and whoever asks scans.

use std::sync::Arc;
use tidelake_core::threads;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use tidelake_table::TableError;
use tidelake_table::index::{KeyKind, Keys, sorted_order};

use super::facts::FileFacts;
use super::keys::TableKeys;
use super::pinned::Pinned;
use super::readers::Readers;
use crate::error::QueryError;

/// Sidecars that are read at a time.
const FILES_IN_FLIGHT_MAX: usize = 8;
/// Files whose bounds are looked at where the request is handled; more are on a thread of their own.
const FEW_FILES_MAX: usize = 1_000;
/// Keys times files whose bounds are looked at: beyond, a scan is cheaper.
const CHECKS_MAX: usize = 4_000_000;

/// The keys of one version.
#[derive(Debug, Clone)]
pub(crate) struct StoredKeys {
    pinned: Arc<Pinned>,
    keys: Arc<TableKeys>,
}

/// A row of a data file, whose path is relative to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub path: Arc<str>,
    pub row: u32,
}

/// Keys, each once and ascending.
#[derive(Debug)]
struct Asked {
    keys: Keys,
    buckets: Vec<u32>,
    /// Of each key column its values, under the types that bounds have.
    values: Vec<Vec<ScalarValue>>,
    /// The place among `keys` of each key that was asked for.
    places: Vec<usize>,
}

/// A file that may hold some of the keys.
#[derive(Debug)]
struct Candidate {
    file: Arc<FileFacts>,
    sidecar: Path,
    /// Places among the keys that are asked for; rising.
    places: Vec<u32>,
}

impl StoredKeys {
    /// `None` for a table without keys.
    pub(crate) fn of(pinned: &Arc<Pinned>) -> Option<Self> {
        let keys = Arc::clone(pinned.keys.as_ref()?);
        let pinned = Arc::clone(pinned);
        Some(Self { pinned, keys })
    }

    pub(crate) fn keys(&self) -> &Arc<TableKeys> {
        &self.keys
    }

    pub(crate) fn pinned(&self) -> &Arc<Pinned> {
        &self.pinned
    }

    /// The live row of each key, in their order; `None` where sidecars alone do not tell.
    pub(crate) async fn find(
        &self,
        readers: &Readers,
        keys: &RecordBatch,
    ) -> Result<Option<Vec<Option<StoredRow>>>, QueryError> {
        let checks = keys.num_rows().saturating_mul(self.pinned.files.len());
        if checks > CHECKS_MAX {
            return Ok(None);
        }
        let asked = Arc::new(self.asked(keys)?);
        let (pinned, of) = (Arc::clone(&self.pinned), Arc::clone(&asked));
        let choose = move || candidates(&pinned, &of);
        let at_once = self.pinned.files.len() <= FEW_FILES_MAX || threads::works_in_place();
        let chosen = match at_once {
            true => choose(),
            false => {
                let chosen = tokio::task::spawn_blocking(choose).await;
                let failed =
                    |error| QueryError::Engine(format!("choosing files for keys: {error}"));
                chosen.map_err(failed)?
            }
        };
        let Some(candidates) = chosen else {
            return Ok(None);
        };
        let mut found: Vec<Option<StoredRow>> = vec![None; asked.keys.len()];
        let mut left = found.len();
        let kind = self.keys.spec().kind();
        let reads = candidates.into_iter().map(|candidate| {
            let asked = Arc::clone(&asked);
            async move { candidate.live_rows(readers, kind, &asked.keys).await }
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = futures::stream::iter(reads).buffer_unordered(FILES_IN_FLIGHT_MAX);
        while left > 0
            && let Some(rows) = reads.try_next().await?
        {
            let Some(rows) = rows else {
                return Ok(None);
            };
            for (place, row) in rows {
                left -= usize::from(found[place].is_none());
                found[place] = Some(row);
            }
        }
        let places = asked.places.iter();
        Ok(Some(places.map(|place| found[*place].clone()).collect()))
    }

    fn asked(&self, keys: &RecordBatch) -> Result<Asked, QueryError> {
        let all = self.keys.spec().keys(keys).map_err(TableError::from)?;
        let order = sorted_order(&all);
        let mut firsts: Vec<u32> = Vec::with_capacity(order.len());
        let mut places = vec![0; all.len()];
        for row in order {
            let key = all.get(row as usize);
            let is_new = firsts
                .last()
                .is_none_or(|last| all.get(*last as usize) != key);
            if is_new {
                firsts.push(row);
            }
            places[row as usize] = firsts.len() - 1;
        }
        let of_all = self.keys.buckets(keys)?;
        let buckets = firsts.iter().map(|row| of_all[*row as usize]).collect();
        let shape = &self.pinned.shape;
        let columns = shape.key().into_iter().zip(keys.columns());
        let values = columns.map(|(place, column)| {
            let data_type = shape.schema.field(place).data_type();
            let values = firsts.iter().map(|row| {
                let value = ScalarValue::try_from_array(column, *row as usize)?;
                Ok::<_, QueryError>(value.cast_to(data_type)?)
            });
            values.collect::<Result<Vec<_>, _>>()
        });
        Ok(Asked {
            values: values.collect::<Result<_, _>>()?,
            keys: all.take(&firsts),
            buckets,
            places,
        })
    }
}

/// The files that may hold one of the keys, the newest first; `None` where one of them has no
/// sidecar that speaks for it.
fn candidates(pinned: &Pinned, asked: &Asked) -> Option<Vec<Candidate>> {
    let key = pinned.shape.key();
    let mut candidates = Vec::new();
    for file in pinned.files.iter() {
        let buckets = file.buckets();
        let is_owned = |place: &usize| match &buckets {
            Some(buckets) => buckets.iter().any(|b| b.0 == asked.buckets[*place]),
            None => true,
        };
        let mut places: Vec<usize> = (0..asked.keys.len()).filter(is_owned).collect();
        for (values, column) in asked.values.iter().zip(key.iter()) {
            if places.is_empty() {
                break;
            }
            // Bounds of capitals say nothing about the same letters in lower case.
            if pinned.shape.is_uuid(*column) && file.sidecar().is_none() {
                continue;
            }
            let bound = file.bound(*column);
            places.retain(|place| {
                let value = &values[*place];
                let below = bound.min.as_ref().is_some_and(|min| value < min);
                let above = bound.max.as_ref().is_some_and(|max| value > max);
                !below && !above
            });
        }
        if places.is_empty() {
            continue;
        }
        let sidecar = file.sidecar()?;
        candidates.push(Candidate {
            file: Arc::new(file),
            sidecar,
            places: places.into_iter().map(|place| place as u32).collect(),
        });
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.file.modified_ms()));
    Some(candidates)
}

impl Candidate {
    /// The rows of its keys that count: places of keys and rows; `None` where the sidecar is lost or
    /// damaged.
    async fn live_rows(
        self,
        readers: &Readers,
        kind: KeyKind,
        keys: &Keys,
    ) -> Result<Option<Vec<(usize, StoredRow)>>, QueryError> {
        let own = keys.take(&self.places);
        let hits = readers.sidecars().rows(&self.sidecar, kind, &own).await?;
        let hits = match hits {
            None => return Ok(None),
            Some(hits) if hits.is_empty() => return Ok(Some(Vec::new())),
            Some(hits) => hits,
        };
        let deleted = FileFacts::deleted_rows(std::slice::from_ref(&self.file), readers).await?;
        let deleted = deleted.into_iter().next().flatten();
        let counts = |row| {
            deleted
                .as_ref()
                .is_none_or(|deleted| !deleted.contains(row))
        };
        let path: Arc<str> = Arc::from(self.file.name());
        let live = hits.into_iter().filter(|(_, row)| counts(*row));
        let live = live.map(|(place, row)| {
            let path = Arc::clone(&path);
            (self.places[place] as usize, StoredRow { path, row })
        });
        Ok(Some(live.collect()))
    }
}
