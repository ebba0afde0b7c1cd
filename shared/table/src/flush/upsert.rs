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
use futures::future::{join_all, try_join_all};
use tidelake_core::Bucket;
use tidelake_manifest::action::Add;
use tidelake_manifest::{
    CommitOutcome, Conflict, DeltaTable, MarkMove, Snapshot, Transaction, fits_still,
};
use uuid::Uuid;

use super::vectors::Vectors;
use super::{
    Desk, FlushEnded, FlushOutcome, FlushReport, Flushed, UpsertBucket, bytes_while_flushing,
    refused, tags_of,
};
use crate::apply::{Changes, Superseded};
use crate::aside::aside;
use crate::index::{KeySpec, encode_sidecar};
use crate::load::{StateLoader, TAG_INDEX, sidecar_bytes_max};
use crate::state::{BucketState, Committed};
use crate::write::encode_newest;
use crate::{EncodedFile, FileLayout, FileSettings, Sealed, TableError};

/// Commits that are tried against writers who change the same files.
const ATTEMPTS_MAX: usize = 20;

/// How many vector ids a flush may need.
pub const VECTOR_IDS: usize = ATTEMPTS_MAX;

/// A bucket's part, written and waiting for its commit.
pub(super) struct Part {
    bucket: Bucket,
    changes: Arc<Changes>,
    /// None where every newest record is a delete.
    path: Option<Arc<str>>,
    add: Option<Add>,
    pub(super) state: BucketState,
}

/// Encoded, not stored yet.
struct Encoded {
    changes: Changes,
    file: Option<EncodedFile>,
    sidecar: Option<Bytes>,
}

/// Commits the buckets' rows.
pub(super) async fn run(
    desk: &Desk<'_>,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    buckets: Vec<UpsertBucket>,
    vector_ids: &[Uuid],
) -> Result<FlushEnded, TableError> {
    let marks: Vec<MarkMove> = buckets
        .iter()
        .map(|bucket| desk.mark(&bucket.sealed))
        .collect();
    if let Err(error) = refuse_forbidden(desk, base, loader, &buckets).await {
        let states = buckets.into_iter();
        let states = states.map(|bucket| (bucket.sealed.bucket, bucket.state));
        return Ok(conflicted(refused(error)?, states));
    }
    let mut report = FlushReport::default();
    let mut parts = match write(desk, base, loader, &buckets, &mut report).await {
        Ok(parts) => parts,
        Err(error) => {
            let states = buckets.into_iter();
            let states = states.map(|bucket| (bucket.sealed.bucket, bucket.state));
            return Ok(conflicted(refused(error)?, states));
        }
    };
    let mut base = Arc::clone(base);
    for vector_id in vector_ids.iter().take(ATTEMPTS_MAX) {
        let superseded = probe(&parts).await?;
        let vectors = Vectors::of(&base, &parts, &superseded, *vector_id, desk.now_ms)?;
        report.superseded = superseded.iter().map(|found| found.rows).sum();
        report.files_touched = vectors.removes.len() as u64;
        report.vector_bytes = 0;
        for (name, bytes) in &vectors.objects {
            report.vector_bytes += bytes.len() as u64;
            let stored = desk.uploads.put(desk.table.store(), name, bytes.clone());
            stored.await?;
        }
        let mut adds: Vec<Add> = parts.iter().filter_map(|part| part.add.clone()).collect();
        adds.extend(vectors.adds);
        let mut transaction = desk.transaction(adds, marks.clone(), &report);
        transaction.removes = vectors.removes;
        transaction.probed = parts.iter().map(|part| part.bucket).collect();
        describe(&mut transaction, &report);
        match desk.uploads.commit(desk.table, &base, transaction).await? {
            CommitOutcome::Committed { version, snapshot } => {
                let states = after(loader, parts, vectors.touched).await?;
                let flushed = Flushed {
                    version,
                    snapshot,
                    report,
                };
                let outcome = FlushOutcome::Committed(flushed);
                return Ok(FlushEnded { outcome, states });
            }
            CommitOutcome::Conflicted(
                Conflict::VectorChanged { .. }
                | Conflict::FileRemoved { .. }
                | Conflict::RowsAdded { .. },
            ) => {
                desk.uploads
                    .lose(vectors.objects.iter().map(|(name, _)| name));
                let newer = desk.table.refresh(&base).await?;
                if let Err(conflict) = fits_still(&base, &newer) {
                    let states = parts.into_iter().map(|part| (part.bucket, part.state));
                    return Ok(conflicted(conflict, states));
                }
                base = newer;
                follow(desk.table, &base, loader, &mut parts).await?;
            }
            CommitOutcome::Conflicted(conflict) => {
                let states = parts.into_iter().map(|part| (part.bucket, part.state));
                return Ok(conflicted(conflict, states));
            }
        }
    }
    Err(TableError::Contended {
        attempts: ATTEMPTS_MAX,
    })
}

fn conflicted(
    conflict: Conflict,
    states: impl Iterator<Item = (Bucket, BucketState)>,
) -> FlushEnded {
    FlushEnded {
        outcome: FlushOutcome::Conflicted(conflict),
        states: states.collect(),
    }
}

/// Brings the parts' states to a newer base.
async fn follow(
    table: &DeltaTable,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    parts: &mut [Part],
) -> Result<(), TableError> {
    let known = parts.iter();
    let known = known.map(|part| (part.bucket, Some(part.state.clone())));
    let known: Vec<_> = known.collect();
    let states = loader.load_all(table, base, known).await?;
    for (part, (_, state, _)) in parts.iter_mut().zip(states) {
        part.state = state;
    }
    Ok(())
}

fn describe(transaction: &mut Transaction, report: &FlushReport) {
    let mut metric = |name: &str, value: u64| {
        transaction
            .metrics
            .insert(name.to_owned(), value.to_string());
    };
    metric("numDeletedRows", report.superseded);
    metric("numIndexBytes", report.index_bytes);
    metric("numVectorBytes", report.vector_bytes);
    metric("numTouchedFiles", report.files_touched);
}

/// How rows of the base's schema become keys: as the loader's index has them.
fn spec_of(base: &Snapshot, loader: &StateLoader) -> Result<KeySpec, TableError> {
    let spec = KeySpec::of(base.schema());
    let same = spec.filter(|spec| spec.encodes_like(loader.spec()));
    same.ok_or_else(|| TableError::OtherSchema {
        reason: "the table has another primary key than its index".into(),
    })
}

/// Refuses rows that would take others away where a property that another engine set forbids it,
/// before anything is stored: a flush that is tried again and again would leave its files behind at
/// each try. Costs the work of finding those rows twice, where there is such a property only.
async fn refuse_forbidden(
    desk: &Desk<'_>,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    buckets: &[UpsertBucket],
) -> Result<(), TableError> {
    if !desk.table.forbids_some(base) {
        return Ok(());
    }
    let layout = FileLayout::new(base.schema(), base.metadata())?;
    let spec = spec_of(base, loader)?;
    let mut parts = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let (layout, spec, sealed) = (layout.clone(), spec.clone(), bucket.sealed.clone());
        let changes = aside(move || {
            let sealed = layout.fit(sealed)?;
            Changes::newest_of(&spec, &sealed.chunks, &sealed.deletes)
        });
        parts.push(Part {
            bucket: bucket.sealed.bucket,
            changes: Arc::new(changes.await?),
            path: None,
            add: None,
            state: bucket.state.clone(),
        });
    }
    let superseded = probe(&parts).await?;
    let vectors = Vectors::of(base, &parts, &superseded, Uuid::nil(), desk.now_ms)?;
    let mut transaction = desk.transaction(vectors.adds, Vec::new(), &FlushReport::default());
    transaction.removes = vectors.removes;
    Ok(desk.table.check_allowed(base, &transaction)?)
}

/// Encodes and stores the rows of all buckets: as many at a time as there are threads and memory
/// for them.
async fn write(
    desk: &Desk<'_>,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    buckets: &[UpsertBucket],
    report: &mut FlushReport,
) -> Result<Vec<Part>, TableError> {
    let layout = FileLayout::new(base.schema(), base.metadata())?;
    let spec = spec_of(base, loader)?;
    let writes = buckets.iter().map(|bucket| {
        let (layout, spec) = (layout.clone(), spec.clone());
        async move {
            let bytes = bytes_while_flushing(&bucket.sealed, true) as u64;
            let _permit = loader.home().flush_permit(bytes).await;
            write_part(desk, bucket, layout, spec).await
        }
    });
    let mut parts = Vec::with_capacity(buckets.len());
    // Whatever fails, the others end first: a put that is under way can't be taken back.
    for written in join_all(writes).await {
        let (part, written) = written?;
        report.rows += written.rows;
        report.files += written.files;
        report.bytes += written.bytes;
        report.index_bytes += written.index_bytes;
        parts.push(part);
    }
    Ok(parts)
}

/// Encodes and stores the rows of a bucket.
async fn write_part(
    desk: &Desk<'_>,
    bucket: &UpsertBucket,
    layout: FileLayout,
    spec: KeySpec,
) -> Result<(Part, FlushReport), TableError> {
    let (sealed, file_id) = (bucket.sealed.clone(), bucket.file_id);
    let mut tags = tags_of(std::slice::from_ref(&sealed));
    let settings = desk.files.for_lookups();
    let permit = desk.encoders.permit(&layout).await;
    let encoded = aside(move || encode_part(&layout, &spec, sealed, settings)).await?;
    drop(permit);
    let mut written = FlushReport::default();
    let mut part = Part {
        bucket: bucket.sealed.bucket,
        changes: Arc::new(encoded.changes),
        path: None,
        add: None,
        state: bucket.state.clone(),
    };
    let Some(file) = encoded.file else {
        return Ok((part, written));
    };
    let name = format!("{}.parquet", file_id.simple());
    written.rows = file.rows;
    written.files = 1;
    written.bytes = file.bytes.len() as u64;
    if let Some(sidecar) = encoded.sidecar {
        let sidecar_name = format!("_tidelake/index/{}.idx", file_id.simple());
        written.index_bytes = sidecar.len() as u64;
        let stored = desk.uploads.put(desk.table.store(), &sidecar_name, sidecar);
        stored.await?;
        tags.insert(TAG_INDEX.to_owned(), Some(sidecar_name));
    }
    part.add = Some(desk.upload(&name, file, tags).await?);
    part.path = Some(Arc::from(name));
    Ok((part, written))
}

fn encode_part(
    layout: &FileLayout,
    spec: &KeySpec,
    sealed: Sealed,
    settings: FileSettings,
) -> Result<Encoded, TableError> {
    let sealed = layout.fit(sealed)?;
    let changes = Changes::newest_of(spec, &sealed.chunks, &sealed.deletes)?;
    let file = encode_newest(layout, &sealed, &changes, settings)?;
    let sidecar = file.is_some().then(|| encode_sidecar(&changes.entries()));
    let keys = changes.kept_rows() as usize;
    let sidecar = sidecar.filter(|bytes| bytes.len() <= sidecar_bytes_max(keys));
    Ok(Encoded {
        changes,
        file,
        sidecar,
    })
}

/// The rows that each part supersedes.
async fn probe(parts: &[Part]) -> Result<Vec<Superseded>, TableError> {
    let probes = parts.iter().map(|part| {
        let (state, changes) = (part.state.clone(), Arc::clone(&part.changes));
        aside(move || state.superseded(&changes))
    });
    try_join_all(probes).await
}

/// The buckets' states after the commit.
async fn after(
    loader: &StateLoader,
    parts: Vec<Part>,
    touched: HashMap<Arc<str>, Option<Committed>>,
) -> Result<BTreeMap<Bucket, BucketState>, TableError> {
    let touched = Arc::new(touched);
    let states = parts.into_iter().map(|part| {
        let (home, touched) = (Arc::clone(loader.home()), Arc::clone(&touched));
        aside(move || {
            let mut state = part.state;
            state.committed(&touched);
            if let Some(path) = part.path {
                let (rows, entries) = (part.changes.kept_rows(), part.changes.entries());
                state.add(&home, path, rows, &entries)?;
            }
            Ok((part.bucket, state))
        })
    });
    Ok(try_join_all(states).await?.into_iter().collect())
}
