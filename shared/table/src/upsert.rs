//! A flush of an upsert table: new rows, their index sidecars and the deletion vectors of the rows
//! that they supersede, in one commit.
//!
//! ```text
//!  each bucket:  Sealed ─► Changes ─► Parquet + sidecar ─► put ─┐
//!                             └─ probe the BucketState ─────────┼─► vectors ─► put ─► commit
//!                                        ▲                      │                       │
//!                                        └── load what won ◄────┴── lost against a change of a file
//! ```
//! Invariants: the data files are written once, whatever happens to the commit; superseded rows are
//! probed for again whenever somebody else changed a file of the base or brought rows into the
//! buckets, so the vectors of the commit unite theirs and ours, and no row of theirs is missed; a
//! file whose rows are all dead is removed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, TopicId};
use tidelake_manifest::action::{Add, Remove, Txn};
use tidelake_manifest::stats::widened;
use tidelake_manifest::vector::VectorFile;
use tidelake_manifest::{CommitOutcome, Conflict, DeltaTable, MarkMove, Snapshot, Transaction};
use uuid::Uuid;

use crate::apply::{Changes, Superseded};
use crate::flush::{FlushReport, Flushed, tags_of, upload};
use crate::index::encode_sidecar;
use crate::load::{StateLoader, TAG_INDEX, blocking};
use crate::state::BucketState;
use crate::write::encode_newest;
use crate::{EncodedFile, FileSettings, FlushOutcome, Sealed, TableError};

/// Commits that are tried against writers who change the same files.
const ATTEMPTS_MAX: usize = 20;
/// A sidecar that takes more than this for each key costs more than reading the key columns.
const SIDECAR_BYTES_PER_KEY_MAX: usize = 16;

/// A bucket's rows to commit, and what is known of the bucket.
#[derive(Debug)]
pub struct KeyedBucket {
    pub sealed: Sealed,
    /// At the base of the flush.
    pub state: BucketState,
    /// Names the data file and its sidecar; ids must rise with time.
    pub file_id: Uuid,
}

/// Rows of an upsert table to commit.
#[derive(Debug)]
pub struct KeyedRequest {
    pub topic_id: TopicId,
    pub buckets: Vec<KeyedBucket>,
    /// Further transactions of the commit: origins of re-published records.
    pub txns: Vec<Txn>,
    pub files: FileSettings,
    /// Shown in the history.
    pub reason: &'static str,
    /// Names the object of the deletion vectors. Each try of a commit that loses takes the next.
    pub vector_ids: Vec<Uuid>,
    pub now_ms: UnixMillis,
}

/// How many [`KeyedRequest::vector_ids`] a flush may need.
pub const VECTOR_IDS: usize = ATTEMPTS_MAX;

/// What a flush left behind: the outcome, and the buckets' states after it.
#[derive(Debug)]
pub struct KeyedOutcome {
    pub outcome: FlushOutcome,
    /// At the committed version, or, after a conflict, at the newest that was looked at.
    pub states: BTreeMap<Bucket, BucketState>,
}

/// A bucket's part, written and waiting for its commit.
struct Part {
    bucket: Bucket,
    changes: Arc<Changes>,
    /// None where every newest record is a delete.
    path: Option<Arc<str>>,
    add: Option<Add>,
    state: BucketState,
}

/// Encoded, not stored yet.
struct Encoded {
    changes: Changes,
    file: Option<EncodedFile>,
    sidecar: Option<Bytes>,
}

/// Commits the buckets' rows: one data file for each, and the vectors of what they supersede.
///
/// # Errors
/// As [`crate::flush`].
pub async fn flush_keyed(
    table: &DeltaTable,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    request: KeyedRequest,
) -> Result<KeyedOutcome, TableError> {
    let marks = marks(&request);
    let mut report = FlushReport::default();
    let parts = write(table, base, loader, &request, &mut report);
    let mut parts = parts.await?;
    let mut base = Arc::clone(base);
    for vector_id in request.vector_ids.iter().take(ATTEMPTS_MAX) {
        let superseded = probe(&parts).await?;
        let vectors = Vectors::of(&base, &parts, &superseded, *vector_id, request.now_ms)?;
        report.superseded = superseded.iter().map(|found| found.rows).sum();
        report.files_touched = vectors.removes.len() as u64;
        report.vector_bytes = 0;
        for (name, bytes) in &vectors.objects {
            report.vector_bytes += bytes.len() as u64;
            table.store().put(name, bytes.clone()).await?;
        }
        let mut transaction = Transaction::flush(Vec::new(), marks.clone());
        transaction.adds = parts.iter().filter_map(|part| part.add.clone()).collect();
        transaction.adds.extend(vectors.adds);
        transaction.removes = vectors.removes;
        transaction.txns = request.txns.clone();
        transaction.probed = parts.iter().map(|part| part.bucket).collect();
        describe(&mut transaction, request.reason, &report);
        match table.commit(&base, transaction).await? {
            CommitOutcome::Committed { version, snapshot } => {
                let states = after(loader, parts, superseded, vectors.identities).await?;
                let flushed = Flushed {
                    version,
                    snapshot,
                    report,
                };
                let outcome = FlushOutcome::Committed(flushed);
                return Ok(KeyedOutcome { outcome, states });
            }
            CommitOutcome::Conflicted(
                Conflict::VectorChanged { .. }
                | Conflict::FileRemoved { .. }
                | Conflict::RowsAdded { .. },
            ) => {
                base = table.refresh(&base).await?;
                for part in &mut parts {
                    let state = loader.load(table, &base, part.bucket, Some(&part.state));
                    part.state = state.await?.0;
                }
            }
            CommitOutcome::Conflicted(conflict) => {
                let states = parts.into_iter().map(|part| (part.bucket, part.state));
                return Ok(KeyedOutcome {
                    outcome: FlushOutcome::Conflicted(conflict),
                    states: states.collect(),
                });
            }
        }
    }
    Err(TableError::Contended {
        attempts: ATTEMPTS_MAX,
    })
}

fn marks(request: &KeyedRequest) -> Vec<MarkMove> {
    let marks = request.buckets.iter().map(|bucket| MarkMove {
        topic_id: request.topic_id,
        bucket: bucket.sealed.bucket,
        from: bucket.sealed.from,
        to: bucket.sealed.to,
    });
    marks.collect()
}

fn describe(transaction: &mut Transaction, reason: &str, report: &FlushReport) {
    transaction
        .parameters
        .insert("reason".into(), reason.to_owned());
    let mut metric = |name: &str, value: u64| {
        transaction
            .metrics
            .insert(name.to_owned(), value.to_string());
    };
    metric("numOutputRows", report.rows);
    metric("numOutputBytes", report.bytes);
    metric("numDeletedRows", report.superseded);
    metric("numIndexBytes", report.index_bytes);
    metric("numVectorBytes", report.vector_bytes);
    metric("numTouchedFiles", report.files_touched);
}

/// Encodes and stores the rows of all buckets: one after the other in memory, as many at a time as
/// there are blocking threads to take them.
async fn write(
    table: &DeltaTable,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    request: &KeyedRequest,
    report: &mut FlushReport,
) -> Result<Vec<Part>, TableError> {
    let files = request.files.keyed();
    let writes = request.buckets.iter().map(|bucket| {
        let (schema, spec) = (base.schema().clone(), loader.spec().clone());
        let sealed = bucket.sealed.clone();
        let (state, file_id) = (bucket.state.clone(), bucket.file_id);
        async move {
            let tags = tags_of(std::slice::from_ref(&sealed));
            let bucket = sealed.bucket;
            let encoded = blocking(move || {
                let changes = Changes::newest_of(&spec, &sealed.chunks, &sealed.deletes)?;
                let file = encode_newest(&schema, &sealed, &changes, files)?;
                let sidecar = file.is_some().then(|| encode_sidecar(&changes.entries()));
                let keys = changes.kept_rows() as usize;
                let sidecar =
                    sidecar.filter(|bytes| bytes.len() <= 1024 + keys * SIDECAR_BYTES_PER_KEY_MAX);
                Ok(Encoded {
                    changes,
                    file,
                    sidecar,
                })
            });
            let encoded = encoded.await?;
            let mut written = FlushReport::default();
            let (add, path) = match encoded.file {
                None => (None, None),
                Some(file) => {
                    let name = format!("{}.parquet", file_id.simple());
                    let mut tags = tags;
                    written.rows = file.rows;
                    written.files = 1;
                    written.bytes = file.bytes.len() as u64;
                    if let Some(sidecar) = encoded.sidecar {
                        let sidecar_name = format!("_tidelake/index/{}.idx", file_id.simple());
                        written.index_bytes = sidecar.len() as u64;
                        table.store().put(&sidecar_name, sidecar).await?;
                        tags.insert(TAG_INDEX.to_owned(), Some(sidecar_name));
                    }
                    let add = upload(table, &name, file, tags, request.now_ms).await?;
                    (Some(add), Some(Arc::from(name)))
                }
            };
            let part = Part {
                bucket,
                changes: Arc::new(encoded.changes),
                path,
                add,
                state,
            };
            Ok::<_, TableError>((part, written))
        }
    });
    let mut parts = Vec::with_capacity(request.buckets.len());
    for (part, written) in try_join_all(writes).await? {
        report.rows += written.rows;
        report.files += written.files;
        report.bytes += written.bytes;
        report.index_bytes += written.index_bytes;
        parts.push(part);
    }
    Ok(parts)
}

/// The rows that each part supersedes.
async fn probe(parts: &[Part]) -> Result<Vec<Superseded>, TableError> {
    let probes = parts.iter().map(|part| {
        let (state, changes) = (part.state.clone(), Arc::clone(&part.changes));
        blocking(move || state.superseded(&changes))
    });
    try_join_all(probes).await
}

/// The buckets' states after the commit.
async fn after(
    loader: &StateLoader,
    parts: Vec<Part>,
    superseded: Vec<Superseded>,
    identities: HashMap<Arc<str>, Option<Arc<str>>>,
) -> Result<BTreeMap<Bucket, BucketState>, TableError> {
    let identities = Arc::new(identities);
    let states = parts.into_iter().zip(superseded).map(|(part, superseded)| {
        let (home, identities) = (Arc::clone(loader.home()), Arc::clone(&identities));
        blocking(move || {
            let Part {
                bucket,
                changes,
                path,
                state,
                ..
            } = part;
            let mut state = match path {
                Some(path) => state.after(&home, path, &changes, &superseded)?,
                None => {
                    let mut state = state;
                    state.delete(&superseded);
                    state
                }
            };
            state.committed(&identities);
            Ok((bucket, state))
        })
    });
    Ok(try_join_all(states).await?.into_iter().collect())
}

/// The part of a commit that takes older rows away.
struct Vectors {
    adds: Vec<Add>,
    removes: Vec<Remove>,
    /// Names and contents of the objects that hold the vectors too large for the log.
    objects: Vec<(String, Bytes)>,
    /// Of each touched file: its new vector, none where the file goes.
    identities: HashMap<Arc<str>, Option<Arc<str>>>,
}

impl Vectors {
    fn of(
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
            identities: HashMap::new(),
        };
        // A file of another writer may belong to several buckets.
        let mut touched: BTreeMap<&Arc<str>, (crate::RowSet, u32)> = BTreeMap::new();
        for (part, found) in parts.iter().zip(superseded) {
            for (slot, rows) in &found.by_slot {
                let file = &part.state.files()[*slot];
                let (deleted, _) = touched
                    .entry(&file.path)
                    .or_insert_with(|| (file.deleted.as_ref().clone(), file.rows));
                for row in rows {
                    deleted.insert(*row);
                }
            }
        }
        for (path, (deleted, rows)) in touched {
            let Some(file) = base.file(path) else {
                // The state is older than the base: the commit could only lose.
                return Err(TableError::Damaged {
                    what: path.to_string(),
                    reason: "the key index knows it, the table's version does not".into(),
                });
            };
            vectors.removes.push(file.add.to_remove(now_ms, true));
            if deleted.len() >= rows && file.num_records().is_some() {
                vectors.identities.insert(Arc::clone(path), None);
                continue;
            }
            let vector = object.place(&deleted.to_deleted_rows());
            let vector = vector.map_err(|error| TableError::Encode(error.to_string()))?;
            let identity = Arc::from(vector.unique_id());
            vectors.identities.insert(Arc::clone(path), Some(identity));
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
