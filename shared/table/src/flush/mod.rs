//! One flush: the rows of many buckets become files and one commit.
//!
//! ```text
//!  Flush ─┬─ Append: rows of all buckets ─► one file ───────────────────────┐
//!         └─ Upsert: each bucket ─► a file, its sidecar; vectors of older rows ┴─► one commit
//! ```
//! Owns the order of it (encode, upload, commit), what a commit says of itself, and what a flush
//! holds in memory. [`append`] and [`upsert`] differ in what they write; only upserts try again, when
//! others changed the files whose rows they supersede.
//!
//! Invariants: nothing is stored for a version that no commit can follow; nothing is visible before
//! the one commit, and that commit moves every bucket's watermark from where its rows begin to where
//! they end; rows that another schema decoded are never written; a flush that certainly failed
//! leaves no object behind ([`crate::uploads`]).

mod append;
mod encoders;
mod upsert;
mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, TableVersion, TopicId};
use tidelake_manifest::action::{Add, TAG_BUCKET, TAG_LEVEL, TAG_OFFSETS, Txn, encode_path};
use tidelake_manifest::{Conflict, DeltaTable, MarkMove, Snapshot, Transaction};
use uuid::Uuid;

use crate::load::StateLoader;
use crate::state::BucketState;
use crate::uploads::Uploads;
use crate::{EncodedFile, FileSettings, Sealed, TableError};

pub use encoders::{COLUMN_BYTES, Encoders};
pub use upsert::VECTOR_IDS;

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
    /// Of the deletion vectors.
    pub vector_bytes: u64,
    /// Older rows that newer records took away.
    pub superseded: u64,
    /// Files that got another vector, or went because all of their rows are dead.
    pub files_touched: u64,
}

/// Rows to commit.
#[derive(Debug)]
pub struct Flush {
    pub topic_id: TopicId,
    pub rows: FlushRows,
    /// Further transactions of the commit: origins of re-published records.
    pub txns: Vec<Txn>,
    pub files: FileSettings,
    /// Shown in the history.
    pub reason: &'static str,
    pub now_ms: UnixMillis,
}

/// What is flushed. Buckets without rows move their watermark all the same.
#[derive(Debug)]
pub enum FlushRows {
    /// Of an append table.
    Append {
        buckets: Vec<Sealed>,
        /// Names the one data file; ids must rise with time.
        file_id: Uuid,
    },
    /// Of an upsert table.
    Upsert {
        loader: StateLoader,
        buckets: Vec<UpsertBucket>,
        /// Names the object of the deletion vectors, [`VECTOR_IDS`] at most: each try of a commit
        /// that loses takes the next.
        vector_ids: Vec<Uuid>,
    },
}

/// A bucket's rows to commit, and what is known of the bucket.
#[derive(Debug)]
pub struct UpsertBucket {
    pub sealed: Sealed,
    /// At the base of the flush.
    pub state: BucketState,
    /// Names the data file and its sidecar; ids must rise with time.
    pub file_id: Uuid,
}

/// What a flush left behind.
#[derive(Debug)]
pub struct FlushEnded {
    pub outcome: FlushOutcome,
    /// Of the buckets of an upsert table: at the committed version, or, after a conflict, at the
    /// newest that was looked at.
    pub states: BTreeMap<Bucket, BucketState>,
}

impl Flush {
    /// [`Self::run_within`] no bound, for whoever flushes one table.
    pub async fn run(
        self,
        table: &DeltaTable,
        base: &Arc<Snapshot>,
    ) -> Result<FlushEnded, TableError> {
        self.run_within(&Encoders::default(), table, base).await
    }

    /// Commits the rows on top of `base` or of what came since. Its files are encoded when there is
    /// room for them.
    ///
    /// # Errors
    /// Nothing is visible then, unless the error is one of an unknown outcome; in that case the next
    /// try finds its watermark moved, by itself.
    pub async fn run_within(
        self,
        encoders: &Encoders,
        table: &DeltaTable,
        base: &Arc<Snapshot>,
    ) -> Result<FlushEnded, TableError> {
        // A table that another engine made unfit stays so for long, and is tried again and again.
        table.check_writable(base)?;
        let desk = Desk {
            table,
            encoders,
            topic_id: self.topic_id,
            txns: self.txns,
            files: self.files,
            reason: self.reason,
            now_ms: self.now_ms,
            uploads: Uploads::default(),
        };
        let ended = match self.rows {
            FlushRows::Append { buckets, file_id } => {
                append::run(&desk, base, buckets, file_id).await
            }
            FlushRows::Upsert {
                loader,
                buckets,
                vector_ids,
            } => upsert::run(&desk, base, &loader, buckets, &vector_ids).await,
        };
        desk.uploads.discard(table.store()).await;
        ended
    }
}

/// What both kinds of flush work with.
struct Desk<'a> {
    table: &'a DeltaTable,
    encoders: &'a Encoders,
    topic_id: TopicId,
    txns: Vec<Txn>,
    files: FileSettings,
    reason: &'static str,
    now_ms: UnixMillis,
    uploads: Uploads,
}

impl Desk<'_> {
    /// How the commit moves a bucket's watermark.
    fn mark(&self, sealed: &Sealed) -> MarkMove {
        MarkMove {
            topic_id: self.topic_id,
            bucket: sealed.bucket,
            from: sealed.from,
            to: sealed.to,
        }
    }

    /// A commit of these files that tells what it holds.
    fn transaction(
        &self,
        adds: Vec<Add>,
        marks: Vec<MarkMove>,
        report: &FlushReport,
    ) -> Transaction {
        let mut transaction = Transaction::flush(adds, marks);
        transaction.txns = self.txns.clone();
        let parameters = &mut transaction.parameters;
        parameters.insert("reason".into(), self.reason.to_owned());
        let metrics = &mut transaction.metrics;
        metrics.insert("numOutputRows".into(), report.rows.to_string());
        metrics.insert("numOutputBytes".into(), report.bytes.to_string());
        transaction
    }

    /// Stores the file whole under a name that rises with time, and describes it.
    async fn upload(
        &self,
        name: &str,
        file: EncodedFile,
        tags: BTreeMap<String, Option<String>>,
    ) -> Result<Add, TableError> {
        let size = i64::try_from(file.bytes.len()).unwrap_or(i64::MAX);
        let stored = self.uploads.put(self.table.store(), name, file.bytes);
        stored.await?;
        Ok(Add {
            path: encode_path(name),
            size,
            modification_time: self.now_ms,
            data_change: true,
            stats: Some(file.stats.to_json()),
            tags: Some(tags),
            ..Add::default()
        })
    }
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

/// Memory that a flush of these rows holds beside them.
pub fn bytes_while_flushing(sealed: &Sealed, has_keys: bool) -> usize {
    let deletes = sealed.deletes.iter();
    let deletes: usize = deletes.map(|removed| removed.keys.num_rows()).sum();
    let records = sealed.rows.saturating_add(deletes);
    flush_needs(sealed.bytes, has_keys.then_some(records))
}

/// Memory that a flush needs beside its rows, of which it is told the bytes, and where the table
/// has keys the number of records, deletes included. From its beginning until it is stored: the
/// encoded file while its buffer grows, and the keys, their order and the sidecar. An upper
/// estimate, for budgets; what writers of files hold whatever the rows are is the [`Encoders`]'.
pub fn flush_needs(bytes: usize, records: Option<usize>) -> usize {
    let keys = records.map_or(0, |records| records.saturating_mul(KEY_BYTES));
    bytes.saturating_add(keys)
}

/// Which buckets and offsets a file covers, for our own readers and compactors.
fn tags_of(buckets: &[Sealed]) -> BTreeMap<String, Option<String>> {
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
