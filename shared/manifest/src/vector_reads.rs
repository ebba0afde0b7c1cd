//! Reading the deletion vectors of many files with few requests.
//!
//! A commit puts all its vectors into one object, so vectors are read by the object, not by the
//! file: ranges that lie close together make one run, and a run is one request.
//!
//! Invariants:
//! - the runs of an object cover each wanted range whole, in one of them;
//! - bytes that nobody wants are read only where a further request would cost more
//!   ([`GAP_BYTES_MAX`]);
//! - what is in memory at a time is bounded by [`READS_IN_FLIGHT_MAX`] runs of [`RUN_BYTES_MAX`],
//!   where no single vector is larger.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use crate::error::{ManifestError, Result};
use crate::snapshot::DataFile;
use crate::table::DeltaTable;
use crate::vector::{self, DeletedRows, Place, VectorError};

/// Runs that are read at a time.
const READS_IN_FLIGHT_MAX: usize = 8;
/// Unwanted bytes between two vectors that are read rather than asked around.
const GAP_BYTES_MAX: u64 = 1 << 20;
/// A run takes in no further vector that would make it longer.
const RUN_BYTES_MAX: u64 = 8 << 20;

/// Vectors of one object that are read together.
#[derive(Debug)]
struct Run {
    name: Arc<str>,
    range: Range<u64>,
    /// Place of the file among those that were asked for, and the range of its vector.
    parts: Vec<(usize, Range<u64>)>,
}

impl DeltaTable {
    /// The rows that the deletion vector of each file takes away, in the order of `files`; none of
    /// a file without a vector. Vectors that lie close together in an object are one request.
    pub async fn deleted_rows_of(&self, files: &[Arc<DataFile>]) -> Result<Vec<DeletedRows>> {
        let mut found = vec![DeletedRows::new(); files.len()];
        let mut objects: BTreeMap<String, Vec<(usize, Range<u64>)>> = BTreeMap::new();
        for (place, file) in files.iter().enumerate() {
            let Some(descriptor) = file.dv() else {
                continue;
            };
            let located = vector::locate(descriptor);
            match located.map_err(|error| self.unusable(file, None, error))? {
                Place::Inline(data) => {
                    let rows = vector::decode(&data);
                    let rows = rows.and_then(|rows| vector::checked(rows, descriptor));
                    found[place] = rows.map_err(|error| self.unusable(file, None, error))?;
                }
                Place::File { name, range } => {
                    objects.entry(name).or_default().push((place, range));
                }
            }
        }
        let runs = objects
            .into_iter()
            .flat_map(|(name, parts)| runs(name.into(), parts));
        // Futures before the stream: a closure over borrowed ones makes one that can't be sent.
        let reads: Vec<_> = runs.map(|run| self.read_run(files, run)).collect();
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX);
        while let Some(of_run) = reads.try_next().await? {
            for (place, rows) in of_run {
                found[place] = rows;
            }
        }
        Ok(found)
    }

    async fn read_run(
        &self,
        files: &[Arc<DataFile>],
        run: Run,
    ) -> Result<Vec<(usize, DeletedRows)>> {
        let bytes = self.store().get_range(&run.name, run.range.clone()).await;
        let bytes = bytes.map_err(|error| match run.parts.first() {
            Some((place, _)) => self.unread(&files[*place], Some(&run.name), error.into()),
            None => error.into(),
        })?;
        let mut found = Vec::with_capacity(run.parts.len());
        for (place, range) in run.parts {
            let file = &files[place];
            let own = (range.start - run.range.start) as usize..;
            let own = bytes.get(own).unwrap_or_default();
            let own = &own[..own.len().min((range.end - range.start) as usize)];
            let rows = vector::decode_in_file(own).and_then(|rows| match file.dv() {
                Some(descriptor) => vector::checked(rows, descriptor),
                None => Ok(rows),
            });
            let rows = rows.map_err(|error| self.unusable(file, Some(&run.name), error))?;
            found.push((place, rows));
        }
        Ok(found)
    }

    fn unusable(
        &self,
        file: &DataFile,
        object: Option<&str>,
        source: VectorError,
    ) -> ManifestError {
        let at = self.reader.at();
        self.unread(file, object, ManifestError::Vector { at, source })
    }

    fn unread(
        &self,
        file: &DataFile,
        object: Option<&str>,
        source: ManifestError,
    ) -> ManifestError {
        ManifestError::VectorOf {
            file: self.store().url_of(file.path()),
            object: object.map_or_else(|| "the log".to_owned(), |name| self.store().url_of(name)),
            source: Box::new(source),
        }
    }
}

/// Cuts what is wanted of an object into runs, in the order of their bytes.
fn runs(name: Arc<str>, mut parts: Vec<(usize, Range<u64>)>) -> Vec<Run> {
    parts.sort_by_key(|(_, range)| (range.start, range.end));
    let mut runs: Vec<Run> = Vec::new();
    for (place, range) in parts {
        if let Some(last) = runs.last_mut() {
            let near = range.start <= last.range.end.saturating_add(GAP_BYTES_MAX);
            let end = last.range.end.max(range.end);
            // Without growth it is no question of size: the same vector stands in for two files.
            let fits = end == last.range.end || end - last.range.start <= RUN_BYTES_MAX;
            if near && fits {
                last.range.end = end;
                last.parts.push((place, range));
                continue;
            }
        }
        runs.push(Run {
            name: Arc::clone(&name),
            range: range.clone(),
            parts: vec![(place, range)],
        });
    }
    runs
}

#[cfg(test)]
mod tests;
