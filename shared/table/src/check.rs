//! Proves a table: files against the log's promises, vectors against rows, the key index against
//! the data, each key live once and in its own bucket.
//!
//! Keys are compared by the bucket that they belong to, whichever file they stand in: those of
//! other engines' files meet those of ours. Reads every key column; memory is bounded by the index
//! home. Owns no repair but one: a sidecar that is lost or wrong is written anew from its file,
//! under the name that the log knows.

mod history;
mod keys;

use std::ops::Bound;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tidelake_core::{Bucket, ErrorKind, TopicId, Watermark};
use tidelake_manifest::{DataFile, DeltaTable, Snapshot};

use crate::TableError;
use crate::index::{Entries, Index, encode_sidecar};
use crate::load::{StateLoader, TAG_INDEX, blocking, only_bucket};
use crate::read::{RowKeys, rows_of_footer};
use crate::rowset::RowSet;
use keys::LiveKeys;

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
    keys: Option<RowKeys>,
    /// Physical rows, where the file says them.
    rows: Option<u64>,
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
    let mut lives = LiveKeys::default();
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
        let counted = one.file.num_records().or(one.rows);
        let live = counted.map(|rows| rows.saturating_sub(one.file.deleted_rows()));
        report.live_rows += live.unwrap_or(0);
        let (Some(loader), Some(keys)) = (loader, one.keys) else {
            continue;
        };
        let (keys, entries) = blocking(move || {
            let entries = keys.entries();
            Ok((keys, entries))
        })
        .await?;
        sidecar(table, loader, &one.file, &entries, repair, &mut report).await?;
        drop(entries);
        misplaced(&one.file, &keys, &one.deleted, &mut report);
        lives.add(loader, &one.file, keys, one.deleted).await?;
    }
    if let Some(loader) = loader {
        lives.compare(loader, &mut report).await?;
        history::vectors_only_grow(table, snapshot, &mut report).await?;
    }
    Ok(report)
}

/// The live rows of a file that names one bucket have keys of that bucket: nobody looks for them
/// elsewhere.
fn misplaced(file: &DataFile, keys: &RowKeys, deleted: &RowSet, report: &mut Report) {
    let (Some(bucket), Some(owners)) = (only_bucket(file), keys.owners()) else {
        return;
    };
    let elsewhere = (0..).zip(owners).filter(|(_, owner)| **owner != bucket.0);
    let mut elsewhere = elsewhere.filter(|(row, _)| !deleted.contains(*row));
    if let Some((row, owner)) = elsewhere.next() {
        let more = elsewhere.count();
        let detail = format!(
            "row {row} has a key of bucket {owner}, the file is of bucket {bucket}; {more} rows more"
        );
        report.add("keys_stand_in_their_bucket", file.path(), detail);
    }
}

/// Files hold nothing from behind the watermark that the log states. Which incarnation of the topic
/// a file is of is not in it: where the table has adopted another one, the furthest watermark counts.
fn offsets(snapshot: &Snapshot, topic_id: &TopicId, report: &mut Report) {
    let mut marks = snapshot.watermarks(topic_id);
    for (bucket, mark) in left_marks(snapshot, topic_id) {
        let furthest = marks.entry(bucket).or_default();
        *furthest = mark.max(*furthest);
    }
    for file in snapshot.files() {
        for (bucket, (from, to)) in file.offsets().unwrap_or_default() {
            let mark = marks.get(&bucket).copied().unwrap_or_default();
            if from.0 > to.0 || to.0 > mark.0 {
                let detail = format!("offsets {from}..{to} of bucket {bucket}, watermark {mark}");
                report.add("files_end_at_the_watermark", file.path(), detail);
            }
        }
    }
}

/// The watermarks of incarnations of the topic that the table has left.
fn left_marks<'a>(
    snapshot: &'a Snapshot,
    topic_id: &TopicId,
) -> impl Iterator<Item = (Bucket, Watermark)> + 'a {
    let own = topic_id.to_string();
    snapshot.txns().filter_map(move |txn| {
        let (topic, bucket) = txn.app_id.strip_prefix("tidelake/")?.split_once('/')?;
        let bucket = bucket.parse().ok().map(Bucket)?;
        (topic != own).then_some((bucket, Watermark(txn.version)))
    })
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
            Ok(rows) => match RowSet::from_deleted_rows(&rows) {
                Some(set) => deleted = set,
                None => {
                    let detail = "a row beyond 2^32 is deleted".to_owned();
                    problems.push(("vectors_name_rows_of_their_file", detail));
                }
            },
            Err(error) => problems.push(("vectors_can_be_read", error.to_string())),
        }
    }
    let (mut keys, mut rows) = (None, None);
    if let Some(loader) = &loader {
        let (columns, spec) = (loader.columns(), loader.spec());
        match columns
            .read(&table, &file, spec, Some(loader.owners()))
            .await
        {
            Ok(found) => {
                rows = Some(found.keys().len() as u64);
                keys = Some(found);
            }
            Err(error) => problems.push(unreadable(error)?),
        }
    } else {
        match rows_of_footer(&table, &file).await {
            Ok(found) => rows = Some(found),
            Err(error) => problems.push(unreadable(error)?),
        }
    }
    if let (Some(records), Some(rows)) = (file.num_records(), rows)
        && records != rows
    {
        let detail = format!("{rows} rows, the log says {records}");
        problems.push(("files_have_the_rows_of_the_log", detail));
    }
    if let (Some(rows), Some(last)) = (rows.or(file.num_records()), deleted.last())
        && u64::from(last) >= rows
    {
        let detail = format!("row {last} is deleted, the file has {rows}");
        problems.push(("vectors_name_rows_of_their_file", detail));
    }
    let checked = Checked {
        file,
        deleted,
        keys,
        rows,
    };
    Ok((checked, problems))
}

/// A finding, where the file itself is wrong; an error, where it can't be reached.
fn unreadable(error: TableError) -> Result<(&'static str, String), TableError> {
    match error.kind() {
        ErrorKind::Unavailable => Err(error),
        _ => Ok(("files_can_be_read", error.to_string())),
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidelake_core::clock::ManualClock;
    use tidelake_core::ids::CountingIds;
    use tidelake_manifest::{Add, CommitOutcome, MarkMove, Transaction};
    use tidelake_storage::{Store, StoreOptions};

    use super::*;

    const SCHEMA: &str = r#"{"type":"struct","fields":[
        {"id":1,"name":"a","required":true,"type":"long"}]}"#;

    /// A table with a file of offsets `[0, to)` of bucket 0, which was filled from topic 1.
    async fn filled(to: i64) -> Arc<Snapshot> {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let ids = Arc::new(CountingIds::default());
        let table = DeltaTable::new(store, Arc::new(ManualClock::at(7)), ids);
        let spec = tidelake_manifest::CreateTable {
            name: "t".into(),
            schema: tidelake_schema::TableSchema::from_iceberg_json(SCHEMA).unwrap(),
            append_only: true,
            properties: BTreeMap::new(),
            first_version: tidelake_core::TableVersion(0),
        };
        let created = table.create(spec).await.unwrap();
        let tag = |name: &str, text: String| (name.to_owned(), Some(text));
        let add = Add {
            path: "a.parquet".into(),
            size: 1,
            data_change: true,
            stats: Some(r#"{"numRecords":5}"#.into()),
            tags: Some(BTreeMap::from([
                tag("tidelake.bucket", "0".into()),
                tag("tidelake.offsets", format!(r#"{{"0":[0,{to}]}}"#)),
            ])),
            ..Add::default()
        };
        let mark = MarkMove {
            topic_id: TopicId([1; 16]),
            bucket: Bucket(0),
            from: Watermark(0),
            to: Watermark(5),
        };
        let flush = Transaction::flush(vec![add], vec![mark]);
        match table.commit(created.snapshot(), flush).await.unwrap() {
            CommitOutcome::Committed { snapshot, .. } => snapshot,
            CommitOutcome::Conflicted(conflict) => panic!("{conflict}"),
        }
    }

    #[tokio::test]
    async fn files_of_a_topic_that_was_left_end_at_its_watermark() {
        let problems = async |topic: u8, to| {
            let mut report = Report::default();
            let snapshot = filled(to).await;
            offsets(&snapshot, &TopicId([topic; 16]), &mut report);
            report.problems
        };
        for topic in [1, 2] {
            assert_eq!(problems(topic, 5).await, 0, "topic {topic}");
            assert_eq!(problems(topic, 6).await, 1, "topic {topic}");
        }
    }
}
