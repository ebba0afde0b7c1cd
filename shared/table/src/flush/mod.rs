//! One commit for the rows of many buckets: encode, upload, commit.

pub(crate) mod upsert;
mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableVersion, TopicId};
use tidelake_manifest::action::{Add, TAG_BUCKET, TAG_LEVEL, TAG_OFFSETS, encode_path};
use tidelake_manifest::{CommitOutcome, Conflict, DeltaTable, MarkMove, Snapshot, Transaction};
use uuid::Uuid;

use crate::load::blocking;
use crate::{EncodedFile, FileLayout, FileSettings, Sealed, TableError, encode};

/// What the key of a record takes while it is flushed, beside what stands in the rows: as it was
/// read, sorted, in the sidecar and in the index, with its row number each time.
const KEY_BYTES: usize = 96;

/// How a flush ended.
#[derive(Debug)]
pub enum FlushOutcome {
    Committed(Flushed),
    /// Somebody else's commit excludes this one. Nothing of it is visible.
    Conflicted(Conflict),
}

/// A commit that holds the rows.
#[derive(Debug)]
pub struct Flushed {
    pub version: TableVersion,
    pub snapshot: Arc<Snapshot>,
    pub report: FlushReport,
}

/// What a flush wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushReport {
    pub rows: u64,
    pub files: u64,
    /// Of Parquet.
    pub bytes: u64,
    /// Of the index sidecars.
    pub index_bytes: u64,
    /// Of the deletion vectors, those in the log aside.
    pub vector_bytes: u64,
    /// Older rows that newer records took away.
    pub superseded: u64,
    /// Files that got another vector, or went because all of their rows are dead.
    pub files_touched: u64,
}

/// Rows to commit.
#[derive(Debug)]
pub struct FlushRequest {
    pub topic_id: TopicId,
    pub buckets: Vec<Sealed>,
    pub files: FileSettings,
    /// Shown in the history.
    pub reason: &'static str,
    /// Names the data file; ids must rise with time.
    pub file_id: Uuid,
    pub now_ms: UnixMillis,
}

/// Commits the buckets' rows to the table: one data file for all of them, their watermarks moved from
/// where the rows begin to where they end. Buckets without rows move their watermark all the same.
///
/// # Errors
/// Nothing is visible then, unless the error is one of an unknown outcome; in that case the next try
/// finds its watermark moved, by itself.
pub async fn flush(
    table: &DeltaTable,
    base: &Arc<Snapshot>,
    request: FlushRequest,
) -> Result<FlushOutcome, TableError> {
    let FlushRequest {
        topic_id,
        buckets,
        files,
        reason,
        file_id,
        now_ms,
    } = request;
    let marks: Vec<MarkMove> = buckets
        .iter()
        .map(|sealed| MarkMove {
            topic_id,
            bucket: sealed.bucket,
            from: sealed.from,
            to: sealed.to,
        })
        .collect();
    let tags = tags_of(&buckets);
    let layout = FileLayout::new(base.schema(), base.metadata())?;
    let encoded = blocking(move || encode(&layout, &buckets, files)).await;
    let file = match encoded {
        Ok(file) => file,
        Err(error) => return refused(error).map(FlushOutcome::Conflicted),
    };
    let mut report = FlushReport::default();
    let mut adds = Vec::new();
    if let Some(file) = file {
        report = FlushReport {
            rows: file.rows,
            files: 1,
            bytes: file.bytes.len() as u64,
            ..FlushReport::default()
        };
        let name = format!("{}.parquet", file_id.simple());
        adds.push(upload(table, &name, file, tags, now_ms).await?);
    }
    let mut transaction = Transaction::flush(adds, marks);
    transaction
        .parameters
        .insert("reason".into(), reason.to_owned());
    transaction
        .metrics
        .insert("numOutputRows".into(), report.rows.to_string());
    transaction
        .metrics
        .insert("numOutputBytes".into(), report.bytes.to_string());
    Ok(match table.commit(base, transaction).await? {
        CommitOutcome::Committed { version, snapshot } => FlushOutcome::Committed(Flushed {
            version,
            snapshot,
            report,
        }),
        CommitOutcome::Conflicted(conflict) => FlushOutcome::Conflicted(conflict),
    })
}

/// Rows that another schema decoded are for the caller to decode again, as where the schema changes
/// under the commit.
fn refused(error: TableError) -> Result<Conflict, TableError> {
    let TableError::OtherSchema { reason } = error else {
        return Err(error);
    };
    tracing::warn!(
        reason,
        "the schema changed under decoded rows, they must be decoded again"
    );
    Ok(Conflict::SchemaChanged)
}

/// Memory that a flush of these rows holds beside them, from its beginning until it is stored: the
/// encoded file while its buffer grows, and for upsert tables the keys, their order and the sidecar.
/// An upper estimate, for budgets.
pub fn bytes_while_flushing(sealed: &Sealed) -> usize {
    let deletes: usize = sealed
        .deletes
        .iter()
        .map(|removed| removed.keys.num_rows())
        .sum();
    let records = sealed.rows.saturating_add(deletes);
    sealed
        .bytes
        .saturating_add(records.saturating_mul(KEY_BYTES))
}

/// Stores the file whole under a name that rises with time, and describes it.
pub(crate) async fn upload(
    table: &DeltaTable,
    name: &str,
    file: EncodedFile,
    tags: BTreeMap<String, Option<String>>,
    now_ms: UnixMillis,
) -> Result<Add, TableError> {
    let size = i64::try_from(file.bytes.len()).unwrap_or(i64::MAX);
    table.store().put(name, file.bytes).await?;
    Ok(Add {
        path: encode_path(name),
        size,
        modification_time: now_ms,
        data_change: true,
        stats: Some(file.stats.to_json()),
        tags: Some(tags),
        ..Add::default()
    })
}

/// Which buckets and offsets a file covers, for our own readers and compactors.
pub(crate) fn tags_of(buckets: &[Sealed]) -> BTreeMap<String, Option<String>> {
    let with_rows = || buckets.iter().filter(|sealed| sealed.rows > 0);
    let names: Vec<String> = with_rows()
        .map(|sealed| sealed.bucket.to_string())
        .collect();
    let offsets: BTreeMap<u32, (i64, i64)> = with_rows()
        .map(|sealed| (sealed.bucket.0, (sealed.from.0, sealed.to.0)))
        .collect();
    let offsets = serde_json::to_string(&offsets).expect("numbers are JSON");
    BTreeMap::from([
        (TAG_BUCKET.to_owned(), Some(names.join(","))),
        (TAG_OFFSETS.to_owned(), Some(offsets)),
        (TAG_LEVEL.to_owned(), Some("0".to_owned())),
    ])
}

#[cfg(test)]
mod tests;
