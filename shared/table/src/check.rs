//! Proves a table: files against the log's promises, vectors against rows, the key index against the
//! data, each key live once.
//!
//! Reads every key column; memory is bounded by the index home. Owns no repair but one: a sidecar
//! that is lost or wrong is written anew from its file, under the name that the log knows.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tidelake_core::{Bucket, TopicId};
use tidelake_manifest::{DataFile, DeltaTable, Snapshot};

use crate::TableError;
use crate::index::{Entries, Index, KeyRef, encode_sidecar};
use crate::load::{StateLoader, TAG_INDEX, blocking};
use crate::rowset::RowSet;

/// Findings that a report names; more are only counted.
const NAMED_MAX: usize = 100;
const FILES_IN_FLIGHT_MAX: usize = 2;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the promise that does not hold.
    pub check: &'static str,
    /// Where.
    pub at: String,
    pub detail: String,
    /// It was mended.
    pub repaired: bool,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub version: u64,
    pub files: u64,
    pub vectors: u64,
    pub sidecars: u64,
    pub live_rows: u64,
    /// Keys that were compared with all others of their bucket.
    pub keys: u64,
    pub problems: u64,
    /// The first of the problems.
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn add(&mut self, check: &'static str, at: impl Into<String>, detail: impl Into<String>) {
        self.note(check, at.into(), detail.into(), false);
    }

    fn note(&mut self, check: &'static str, at: String, detail: String, repaired: bool) {
        self.problems += u64::from(!repaired);
        if self.findings.len() < NAMED_MAX {
            self.findings.push(Finding {
                check,
                at,
                detail,
                repaired,
            });
        }
    }

    pub fn is_sound(&self) -> bool {
        self.problems == 0
    }
}

/// One file as it was found.
struct Checked {
    file: Arc<DataFile>,
    deleted: RowSet,
    entries: Option<Entries>,
}

/// Checks a version of a table. `loader` is none for append tables: they have no keys.
///
/// # Errors
/// Where something can't be read at all; what can be read and is wrong is in the report.
pub async fn check(
    table: &DeltaTable,
    snapshot: &Arc<Snapshot>,
    topic_id: &TopicId,
    loader: Option<&StateLoader>,
    repair: bool,
) -> Result<Report, TableError> {
    let mut report = Report {
        version: snapshot.version().0,
        ..Report::default()
    };
    offsets(snapshot, topic_id, &mut report);
    let files: Vec<Arc<DataFile>> = snapshot.files().cloned().collect();
    let mut buckets: BTreeMap<Bucket, (Index, BTreeMap<Arc<str>, RowSet>)> = BTreeMap::new();
    let mut checked = futures::stream::iter(files)
        .map(|file| read(table.clone(), loader.cloned(), file))
        .buffered(FILES_IN_FLIGHT_MAX)
        .boxed();
    while let Some((one, problems)) = checked.try_next().await? {
        for (check, detail) in problems {
            report.add(check, one.file.path(), detail);
        }
        report.files += 1;
        report.vectors += u64::from(one.file.dv().is_some());
        report.live_rows += one.file.live_rows().unwrap_or(0);
        let (Some(loader), Some(entries)) = (loader, one.entries) else {
            continue;
        };
        sidecar(table, loader, &one.file, &entries, repair, &mut report).await?;
        let path: Arc<str> = Arc::from(one.file.path());
        // Files of other writers may hold any bucket's keys: they are compared among themselves.
        let bucket = match one.file.buckets().as_deref() {
            Some([bucket]) => *bucket,
            _ => Bucket(u32::MAX),
        };
        let (index, dead) = buckets
            .entry(bucket)
            .or_insert_with(|| (Index::new(loader.spec().kind()), BTreeMap::new()));
        let (home, own, name) = (Arc::clone(loader.home()), index.clone(), Arc::clone(&path));
        *index = blocking(move || Ok(own.with_entries(&home, name, &entries)?)).await?;
        dead.insert(path, one.deleted);
    }
    for (bucket, (index, dead)) in buckets {
        let Some(loader) = loader else { continue };
        let home = Arc::clone(loader.home());
        let (keys, twice) = blocking(move || unique(index, &dead, &home)).await?;
        report.keys += keys;
        for detail in twice {
            report.add("each_key_is_live_once", format!("bucket {bucket}"), detail);
        }
    }
    Ok(report)
}

/// Files hold nothing from behind the watermark that the log states.
fn offsets(snapshot: &Snapshot, topic_id: &TopicId, report: &mut Report) {
    for file in snapshot.files() {
        for (bucket, (from, to)) in file.offsets().unwrap_or_default() {
            let mark = snapshot.watermark(topic_id, bucket).unwrap_or_default();
            if from.0 > to.0 || to.0 > mark.0 {
                let detail = format!("offsets {from}..{to} of bucket {bucket}, watermark {mark}");
                report.add("files_end_at_the_watermark", file.path(), detail);
            }
        }
    }
}

/// Reads a file's vector and keys.
async fn read(
    table: DeltaTable,
    loader: Option<StateLoader>,
    file: Arc<DataFile>,
) -> Result<(Checked, Vec<(&'static str, String)>), TableError> {
    let mut problems = Vec::new();
    let mut deleted = RowSet::default();
    if let Some(vector) = file.dv() {
        match table.deleted_rows(vector).await {
            Ok(rows) => match (RowSet::from_deleted_rows(&rows), file.num_records()) {
                (Some(set), Some(records)) => {
                    if rows.max().is_some_and(|last| last >= records) {
                        let last = rows.max().unwrap_or_default();
                        let detail = format!("row {last} is deleted, the file has {records}");
                        problems.push(("vectors_name_rows_of_their_file", detail));
                    }
                    deleted = set;
                }
                (Some(set), None) => deleted = set,
                (None, _) => {
                    let detail = "a row beyond 2^32 is deleted".to_owned();
                    problems.push(("vectors_name_rows_of_their_file", detail));
                }
            },
            Err(error) => problems.push(("vectors_can_be_read", error.to_string())),
        }
    }
    let mut entries = None;
    if let Some(loader) = &loader {
        match loader.columns().entries(&table, &file, loader.spec()).await {
            Ok(found) => {
                if let Some(records) = file.num_records()
                    && records != found.rows.len() as u64
                {
                    let detail = format!("{} rows, the log says {records}", found.rows.len());
                    problems.push(("files_have_the_rows_of_the_log", detail));
                }
                entries = Some(found);
            }
            Err(error) if error.kind() == tidelake_core::ErrorKind::Unavailable => {
                return Err(error);
            }
            Err(error) => problems.push(("files_can_be_read", error.to_string())),
        }
    } else if let Err(error) = table.store().head(file.path()).await {
        problems.push(("files_can_be_read", error.to_string()));
    }
    let checked = Checked {
        file,
        deleted,
        entries,
    };
    Ok((checked, problems))
}

/// The sidecar that the log names says what the file says.
async fn sidecar(
    table: &DeltaTable,
    loader: &StateLoader,
    file: &DataFile,
    entries: &Entries,
    repair: bool,
    report: &mut Report,
) -> Result<(), TableError> {
    let Some(name) = file.tag(TAG_INDEX) else {
        return Ok(());
    };
    report.sidecars += 1;
    let problem = match table.store().get_opt(name).await? {
        None => Some("it is gone".to_owned()),
        Some(bytes) => {
            let path: Arc<str> = Arc::from(file.path());
            let empty = Index::new(loader.spec().kind());
            match empty.with_sidecar(loader.home(), path, bytes) {
                Err(error) => Some(error.to_string()),
                Ok(index) => differs(&index, entries)?,
            }
        }
    };
    let Some(problem) = problem else {
        return Ok(());
    };
    if repair {
        table.store().put(name, encode_sidecar(entries)).await?;
    }
    let check = "sidecars_agree_with_their_files";
    report.note(check, name.to_owned(), problem, repair);
    Ok(())
}

fn differs(index: &Index, entries: &Entries) -> Result<Option<String>, TableError> {
    let mut place = 0;
    let mut problem = None;
    let everything = (Bound::Unbounded, Bound::Unbounded);
    index.range(
        everything.0,
        everything.1,
        &|_| Some(0),
        &mut |key, _, row| {
            if place >= entries.rows.len()
                || entries.keys.get(place) != key
                || entries.rows[place] != row
            {
                problem = Some(format!("entry {place} is not the file's"));
            }
            place += 1;
            problem.is_none()
        },
    )?;
    if problem.is_none() && place != entries.rows.len() {
        problem = Some(format!(
            "{place} entries, the file has {}",
            entries.rows.len()
        ));
    }
    Ok(problem)
}

/// Counts the live keys of a bucket and names those that are live twice.
fn unique(
    index: Index,
    dead: &BTreeMap<Arc<str>, RowSet>,
    home: &crate::index::IndexHome,
) -> Result<(u64, Vec<String>), TableError> {
    let names: Vec<&Arc<str>> = dead.keys().collect();
    let slot = |path: &str| {
        let place = names.binary_search_by(|name| name.as_ref().cmp(path));
        place.ok().map(|place| place as u32)
    };
    let sets: Vec<&RowSet> = dead.values().collect();
    let mut index = index;
    while let Some(job) = index.due() {
        let run = index.merge(&job, home, &slot, &|slot, row| {
            sets[slot as usize].contains(row)
        })?;
        index = index.replaced(&job, run);
    }
    let (mut keys, mut twice) = (0, Vec::new());
    let mut last: Option<(Owned, u32, u32)> = None;
    index.range(
        Bound::Unbounded,
        Bound::Unbounded,
        &slot,
        &mut |key, slot, row| {
            if sets[slot as usize].contains(row) {
                return true;
            }
            keys += 1;
            if let Some((before, file, at)) = &last
                && before.is(key)
            {
                let (a, b) = (names[*file as usize], names[slot as usize]);
                twice.push(format!(
                    "key {key:?} lives in {a} row {at} and in {b} row {row}"
                ));
            }
            last = Some((Owned::of(key), slot, row));
            twice.len() < NAMED_MAX
        },
    )?;
    Ok((keys, twice))
}

/// A key that outlives the call that showed it.
enum Owned {
    Fixed(u128),
    Bytes(Vec<u8>),
}

impl Owned {
    fn of(key: KeyRef<'_>) -> Self {
        match key {
            KeyRef::Fixed(key) => Self::Fixed(key),
            KeyRef::Bytes(key) => Self::Bytes(key.to_vec()),
        }
    }

    fn is(&self, key: KeyRef<'_>) -> bool {
        match (self, key) {
            (Self::Fixed(own), KeyRef::Fixed(key)) => *own == key,
            (Self::Bytes(own), KeyRef::Bytes(key)) => own.as_slice() == key,
            _ => false,
        }
    }
}
