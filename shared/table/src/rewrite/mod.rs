//! Some files become fewer: their live rows are written anew, and one commit puts the new files in
//! the place of the old ones. No version changes its rows by it.
//!
//! ```text
//!  input ─ read, without deleted rows ─┐
//!  input ─ read, without deleted rows ─┼─► output, sidecar ─► put ─┐
//!                                      └─► Mapping                 ├─► commit
//!  rows deleted meanwhile ─ Mapping ─► vectors of outputs ─► put ──┘     │
//!                              ▲                                         │
//!                              └──────── lost against a new vector ◄─────┘
//! ```
//! Rows keep their order and what the hidden columns say of them. Owns reading, writing, the places
//! that rows move to ([`mapping`]) and the commit. Which files are worth it, and when, is the
//! compactor's.
//!
//! Invariants: what somebody deletes while the rewrite runs is deleted in the outputs, by the commit
//! that makes them live: a lost race costs a vector, never the rewrite; where an input is gone, or
//! rows of it came back, nothing is committed; what was stored for nothing is deleted.

mod mapping;
mod reading;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_core::Bucket;
use tidelake_core::clock::UnixMillis;
use tidelake_core::ids::SharedIds;
use tidelake_manifest::action::{Add, Remove, TAG_BUCKET, TAG_LEVEL, TAG_OFFSETS, encode_path};
use tidelake_manifest::stats::widened;
use tidelake_manifest::vector::VectorFile;
use tidelake_manifest::{
    CommitOutcome, Conflict, DataFile, DeltaTable, Snapshot, Transaction, fits_still,
};

use crate::aside::aside;
use crate::load::{TAG_INDEX, read_vectors};
use crate::rowset::RowSet;
use crate::uploads::Uploads;
use crate::write::floats::without_bounds;
use crate::{FileSettings, TableError};
use mapping::Mapping;
use reading::Opened;
use writing::{Output, Shape};

/// Tag of an output that ended because it was full: rewriting it would make no larger one.
pub const TAG_FULL: &str = "tidelake.full";
/// Commits that are tried against writers who change the same files.
const ATTEMPTS_MAX: usize = 20;
/// Footers that are read at a time.
const READS_IN_FLIGHT_MAX: usize = 8;

/// Files to write anew.
#[derive(Debug)]
pub struct Rewrite {
    /// Live files of ours at the base, in the order that their rows shall have. Of a table with a
    /// key all of one bucket.
    pub inputs: Vec<Arc<DataFile>>,
    pub files: FileSettings,
    /// An output ends once it has so many rows, or bytes, its keys in memory included.
    pub output_rows_max: u64,
    pub output_bytes_max: u64,
    /// What outputs say of themselves.
    pub level: u32,
    /// Shown in the history.
    pub reason: String,
    pub ids: SharedIds,
    pub now_ms: UnixMillis,
}

/// How a rewrite ended.
#[derive(Debug)]
pub enum RewriteOutcome {
    Committed(Rewritten),
    /// The inputs are gone, or the table is another: nothing of it is visible.
    Dropped(Conflict),
}

/// A commit that has the new files.
#[derive(Debug)]
pub struct Rewritten {
    pub snapshot: Arc<Snapshot>,
    pub report: RewriteReport,
}

/// What a rewrite did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewriteReport {
    pub inputs: u64,
    pub input_bytes: u64,
    pub outputs: u64,
    pub output_bytes: u64,
    pub index_bytes: u64,
    pub rows: u64,
    /// Rows that were deleted before it began: they are in no output.
    pub rows_dropped: u64,
    /// Rows that were deleted while it ran.
    pub rows_carried: u64,
    /// Commits that lost against a change of an input.
    pub lost_races: u64,
}

impl Rewrite {
    /// Rewrites files of `base`.
    ///
    /// # Errors
    /// Nothing is visible then, unless the error is one of an unknown outcome.
    /// [`TableError::OtherSchema`] where the rows of a file can't be written as the table has them
    /// now.
    pub async fn run(
        self,
        table: &DeltaTable,
        base: &Arc<Snapshot>,
    ) -> Result<RewriteOutcome, TableError> {
        table.check_writable(base)?;
        let uploads = Uploads::default();
        let outcome = self.run_with(table, base, &uploads).await;
        uploads.discard(table.store()).await;
        outcome
    }

    async fn run_with(
        &self,
        table: &DeltaTable,
        base: &Arc<Snapshot>,
        uploads: &Uploads,
    ) -> Result<RewriteOutcome, TableError> {
        let opened = futures::stream::iter(self.inputs.clone())
            .map(|input| Opened::of(table.clone(), input))
            .buffered(READS_IN_FLIGHT_MAX);
        let opened: Vec<Opened> = opened.try_collect().await?;
        let deleted = vectors_of(table, &self.inputs).await?;
        let mut shape = Shape::of(base, self.files)?;
        for input in &opened {
            shape = shape.with_unbounded(without_bounds(input.footer()));
        }
        let desk = Desk {
            rewrite: self,
            table,
            uploads,
        };
        let mut work = Work {
            mapping: Mapping::default(),
            outputs: Vec::new(),
            report: RewriteReport {
                inputs: self.inputs.len() as u64,
                input_bytes: self.inputs.iter().map(|input| input.size()).sum(),
                ..RewriteReport::default()
            },
        };
        let mut open: Option<Output> = None;
        for ((input, opened), deleted) in self.inputs.iter().zip(opened).zip(deleted) {
            work.report.rows_dropped += u64::from(deleted.len());
            let count = opened.rows();
            let mut rows = opened.read(shape.layout.file_schema())?;
            work.mapping
                .input(input.path(), count, Arc::clone(&deleted));
            while let Some(batch) = rows.next(&deleted).await? {
                let output = open.take().unwrap_or_else(|| shape.begin());
                let output = aside(move || output.with(&batch)).await?;
                let is_full = output.rows() >= self.output_rows_max
                    || output.bytes() >= self.output_bytes_max;
                if is_full {
                    desk.store(output, true, &mut work).await?;
                } else {
                    open = Some(output);
                }
            }
        }
        if let Some(output) = open {
            desk.store(output, false, &mut work).await?;
        }
        if !work.mapping.is_whole() {
            return Err(TableError::Damaged {
                what: "a rewrite".to_owned(),
                reason: "an input has another number of rows than its footer says".to_owned(),
            });
        }
        desk.commit(base, work).await
    }
}

/// The rows of each file that its vector takes away.
async fn vectors_of(
    table: &DeltaTable,
    files: &[Arc<DataFile>],
) -> Result<Vec<Arc<RowSet>>, TableError> {
    let wanted = files
        .iter()
        .map(|file| (Arc::from(file.path()), Arc::clone(file)));
    let found = read_vectors(table, wanted.collect()).await?;
    let mut found: BTreeMap<Arc<str>, RowSet> = found.into_iter().collect();
    let of = |file: &Arc<DataFile>| Arc::new(found.remove(file.path()).unwrap_or_default());
    Ok(files.iter().map(of).collect())
}

/// What a rewrite has written.
struct Work {
    mapping: Mapping,
    outputs: Vec<Stored>,
    report: RewriteReport,
}

/// An output in the store.
struct Stored {
    add: Add,
    rows: u64,
    names: Vec<String>,
}

/// What a rewrite works with.
struct Desk<'a> {
    rewrite: &'a Rewrite,
    table: &'a DeltaTable,
    uploads: &'a Uploads,
}

/// The commit's part that outputs get for rows that were deleted meanwhile.
#[derive(Default)]
struct Carried {
    adds: Vec<Add>,
    removes: Vec<Remove>,
    objects: Vec<(String, Vec<u8>)>,
    rows: u64,
    /// Names of outputs without a row that counts.
    empty: Vec<String>,
}

impl Desk<'_> {
    /// Stores an output whole, with its sidecar.
    async fn store(
        &self,
        output: Output,
        is_full: bool,
        work: &mut Work,
    ) -> Result<(), TableError> {
        let Some(encoded) = aside(move || output.finish()).await? else {
            return Ok(());
        };
        let (id, store) = (self.rewrite.ids.next_uuid(), self.table.store());
        let name = format!("{}.parquet", id.simple());
        let mut names = vec![name.clone()];
        let mut tags = tags_of(&self.rewrite.inputs, self.rewrite.level);
        if is_full {
            tags.insert(TAG_FULL.to_owned(), Some("true".to_owned()));
        }
        if let Some(sidecar) = encoded.sidecar {
            let sidecar_name = format!("_tidelake/index/{}.idx", id.simple());
            work.report.index_bytes += sidecar.len() as u64;
            self.uploads.put(store, &sidecar_name, sidecar).await?;
            names.push(sidecar_name.clone());
            tags.insert(TAG_INDEX.to_owned(), Some(sidecar_name));
        }
        let file = encoded.file;
        let size = file.bytes.len();
        self.uploads.put(store, &name, file.bytes).await?;
        work.report.outputs += 1;
        work.report.output_bytes += size as u64;
        work.report.rows += file.rows;
        work.mapping.output(file.rows);
        let add = Add {
            path: encode_path(&name),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            modification_time: self.rewrite.now_ms,
            data_change: false,
            stats: Some(file.stats.to_json()),
            tags: Some(tags),
            ..Add::default()
        };
        work.outputs.push(Stored {
            add,
            rows: file.rows,
            names,
        });
        Ok(())
    }

    /// Puts the outputs in the place of the inputs.
    async fn commit(
        &self,
        base: &Arc<Snapshot>,
        mut work: Work,
    ) -> Result<RewriteOutcome, TableError> {
        let mut newest = Arc::clone(base);
        for _ in 0..ATTEMPTS_MAX {
            newest = self.table.refresh(&newest).await?;
            if let Err(conflict) = fits_still(base, &newest) {
                return Ok(RewriteOutcome::Dropped(conflict));
            }
            let carried = match self.carried(&newest, &work).await? {
                Ok(carried) => carried,
                Err(conflict) => return Ok(RewriteOutcome::Dropped(conflict)),
            };
            for (name, bytes) in &carried.objects {
                let bytes = bytes.clone().into();
                self.uploads.put(self.table.store(), name, bytes).await?;
            }
            work.report.rows_carried = carried.rows;
            let transaction = self.transaction(&carried, &work.report);
            // Stored for nothing: no version names them.
            self.uploads.lose(carried.empty.iter());
            let committed = self.uploads.commit(self.table, &newest, transaction);
            match committed.await? {
                CommitOutcome::Committed { snapshot, .. } => {
                    let report = work.report;
                    return Ok(RewriteOutcome::Committed(Rewritten { snapshot, report }));
                }
                CommitOutcome::Conflicted(
                    Conflict::VectorChanged { .. } | Conflict::FileRemoved { .. },
                ) => {
                    work.report.lost_races += 1;
                    let objects = carried.objects.iter().map(|(name, _)| name);
                    self.uploads.lose(objects);
                }
                CommitOutcome::Conflicted(conflict) => {
                    return Ok(RewriteOutcome::Dropped(conflict));
                }
            }
        }
        Err(TableError::Contended {
            attempts: ATTEMPTS_MAX,
        })
    }

    /// What became of the inputs by version `newest`: rows that were deleted since are deleted in the
    /// outputs.
    async fn carried(
        &self,
        newest: &Snapshot,
        work: &Work,
    ) -> Result<Result<Carried, Conflict>, TableError> {
        let (mut changed, mut carried) = (Vec::new(), Carried::default());
        for input in &self.rewrite.inputs {
            let Some(now) = newest.file(input.path()) else {
                let path = input.path().to_owned();
                return Ok(Err(Conflict::FileRemoved { path }));
            };
            carried
                .removes
                .push(now.add.to_remove(self.rewrite.now_ms, false));
            if now.dv() != input.dv() {
                changed.push(Arc::clone(now));
            }
        }
        let mut gone = vec![RowSet::default(); work.outputs.len()];
        let vectors = vectors_of(self.table, &changed).await?;
        for (file, deleted) in changed.iter().zip(vectors) {
            let path = file.path();
            let before = work.mapping.left_out(path);
            if before.is_none_or(|before| !deleted.covers(before)) {
                // Rows came back to life that are in no output.
                let (path, found) = (path.to_owned(), file.dv().cloned());
                return Ok(Err(Conflict::VectorChanged { path, found }));
            }
            for row in deleted.iter() {
                if let Some((output, row)) = work.mapping.place(path, row) {
                    gone[output].insert(row);
                }
            }
        }
        let mut vectors = VectorFile::new(self.rewrite.ids.next_uuid());
        for (output, gone) in work.outputs.iter().zip(&gone) {
            carried.rows += u64::from(gone.len());
            if u64::from(gone.len()) >= output.rows {
                carried.empty.extend(output.names.iter().cloned());
                continue;
            }
            let mut add = output.add.clone();
            if !gone.is_empty() {
                let vector = vectors.place(&gone.to_deleted_rows());
                let vector = vector.map_err(|error| TableError::Encode(error.to_string()))?;
                add.stats = Some(widened(add.stats.as_deref(), output.rows));
                add.deletion_vector = Some(vector);
            }
            carried.adds.push(add);
        }
        carried.objects = vectors.finish();
        Ok(Ok(carried))
    }

    fn transaction(&self, carried: &Carried, report: &RewriteReport) -> Transaction {
        let metrics = [
            ("numOutputRows", report.rows),
            ("numOutputBytes", report.output_bytes),
            ("numRemovedBytes", report.input_bytes),
            ("numDeletedRows", report.rows_dropped),
            ("numCarriedRows", report.rows_carried),
        ];
        let metrics = metrics.map(|(name, value)| (name.to_owned(), value.to_string()));
        Transaction {
            operation: "COMPACT".to_owned(),
            parameters: BTreeMap::from([("reason".to_owned(), self.rewrite.reason.clone())]),
            metrics: BTreeMap::from(metrics),
            adds: carried.adds.clone(),
            removes: carried.removes.clone(),
            ..Transaction::default()
        }
    }
}

/// Which buckets and offsets the rows of these files are of.
fn tags_of(inputs: &[Arc<DataFile>], level: u32) -> BTreeMap<String, Option<String>> {
    let buckets: BTreeSet<Bucket> = inputs
        .iter()
        .filter_map(|input| input.buckets())
        .flatten()
        .collect();
    let names: Vec<String> = buckets.iter().map(Bucket::to_string).collect();
    let mut offsets: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    for (bucket, (from, to)) in inputs.iter().filter_map(|input| input.offsets()).flatten() {
        let all = offsets.entry(bucket.0).or_insert((from.0, to.0));
        *all = (all.0.min(from.0), all.1.max(to.0));
    }
    let offsets = serde_json::to_string(&offsets).expect("numbers are JSON");
    BTreeMap::from([
        (TAG_BUCKET.to_owned(), Some(names.join(","))),
        (TAG_OFFSETS.to_owned(), Some(offsets)),
        (TAG_LEVEL.to_owned(), Some(level.to_string())),
    ])
}
