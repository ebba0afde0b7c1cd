//! Buckets' states from what is stored: the files of a snapshot, their vectors, their keys.
//!
//! Keys come from the sidecar that a file's add names; where there is none, or it is lost or
//! damaged, they are read from the file's key columns. What an earlier state knows is not read again,
//! so that following a table costs what changed; nor is what others loaded before, where the index
//! home keeps it (`kept`).
//!
//! Files that don't name one bucket of their own (those of other engines) count for every bucket:
//! each bucket's index holds its own keys of them and no others, but the deleted rows of such a
//! file are always all that its vector says, whoever deleted them. Such a file is read once,
//! however many buckets are loaded.
//!
//! Invariant: memory of what is read at once is bounded, by objects in flight and by the bytes that
//! the index home hands out ([`crate::index::LOAD_BYTES_MAX`]).

mod facts;
mod kept;
mod runs;
mod vectors;

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_core::{Bucket, TableVersion, threads};
use tidelake_manifest::action::Metadata;
use tidelake_manifest::{DataFile, DeltaTable, Snapshot};
use tidelake_schema::TableSchema;

use crate::TableError;
use crate::index::{Index, IndexHome, KeySpec};
use crate::owners::Owners;
use crate::read::KeyColumns;
use crate::state::{BucketState, LiveFile};
use facts::describe;

pub(crate) use kept::KeptStates;
pub(crate) use runs::sidecar_bytes_max;
pub(crate) use vectors::read_vectors;

/// Tag of an add: object name of the file's index sidecar, relative to the table.
pub const TAG_INDEX: &str = "tidelake.index";
/// Objects that are read at a time.
const READS_IN_FLIGHT_MAX: usize = 8;
/// Loads states of one table's buckets.
#[derive(Debug, Clone)]
pub struct StateLoader {
    spec: KeySpec,
    columns: Arc<KeyColumns>,
    owners: Owners,
    home: Arc<IndexHome>,
}

/// What loading took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Files whose keys came from their sidecar.
    pub sidecars: u64,
    /// Files whose keys were read from Parquet.
    pub rebuilt: u64,
    /// Sidecars that could not be used.
    pub damaged: u64,
    pub vectors: u64,
}

/// A bucket on its way to its state.
struct Loading {
    bucket: Bucket,
    previous: Option<BucketState>,
    /// Each with whether it may hold keys of other buckets too.
    live: Vec<(Arc<DataFile>, bool)>,
    /// The same files, described.
    files: Vec<LiveFile>,
    index: Index,
    loaded: Loaded,
}

/// The bucket whose keys alone a file holds; none for files of several, or of other writers.
pub(crate) fn only_bucket(file: &DataFile) -> Option<Bucket> {
    match file.buckets().as_deref() {
        Some([bucket]) => Some(*bucket),
        _ => None,
    }
}

impl StateLoader {
    /// `None` for a table without a primary key. `owners` says which bucket a key belongs to.
    ///
    /// # Errors
    /// Where the schema can't be translated.
    pub fn new(
        schema: &TableSchema,
        delta_schema: &str,
        owners: Owners,
        home: Arc<IndexHome>,
    ) -> Result<Option<Self>, TableError> {
        let Some(spec) = KeySpec::of(schema) else {
            return Ok(None);
        };
        let columns = Arc::new(KeyColumns::new(schema, delta_schema)?);
        Ok(Some(Self {
            spec,
            columns,
            owners,
            home,
        }))
    }

    pub fn spec(&self) -> &KeySpec {
        &self.spec
    }

    pub fn columns(&self) -> &Arc<KeyColumns> {
        &self.columns
    }

    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    pub fn home(&self) -> &Arc<IndexHome> {
        &self.home
    }

    /// The state of a bucket at `snapshot`. Reads only what `previous` does not know.
    pub async fn load(
        &self,
        table: &DeltaTable,
        snapshot: &Arc<Snapshot>,
        bucket: Bucket,
        previous: Option<&BucketState>,
    ) -> Result<(BucketState, Loaded), TableError> {
        let wanted = [(bucket, previous.cloned())];
        let mut states = self.load_all(table, snapshot, wanted).await?;
        let (_, state, loaded) = states.pop().expect("one state for each bucket");
        Ok((state, loaded))
    }

    /// The states of several buckets at `snapshot`, in their order. Reads only what their earlier
    /// states don't know, and what several of them want once.
    pub async fn load_all(
        &self,
        table: &DeltaTable,
        snapshot: &Arc<Snapshot>,
        wanted: impl IntoIterator<Item = (Bucket, Option<BucketState>)>,
    ) -> Result<Vec<(Bucket, BucketState, Loaded)>, TableError> {
        let kind = self.spec.kind();
        let kept = self.home.kept();
        let version = kept.map(|kept| (kept, kept::Version::of(snapshot)));
        // What is kept is as new as what whoever asks has loaded, or newer: all of it was put there.
        let earlier = |bucket| {
            let (kept, version) = version.as_ref()?;
            kept.get(version, bucket)
        };
        let is_sound = |state: &BucketState| !state.index().is_damaged();
        let loadings = wanted.into_iter().map(|(bucket, previous)| Loading {
            bucket,
            previous: earlier(bucket).or(previous).filter(is_sound),
            live: Vec::new(),
            files: Vec::new(),
            index: Index::new(kind),
            loaded: Loaded::default(),
        });
        let mut loadings: Vec<Loading> = loadings.collect();
        deal(snapshot, &mut loadings);
        describe(table, &mut loadings).await?;
        for loading in &mut loadings {
            // An entry that a merge dropped as dead is not there any more: where rows came back to
            // life (another engine restored an older version), the index begins anew.
            let previous = loading.previous.take();
            let usable = previous.filter(|previous| !resurrects(previous, &loading.files));
            if let Some(previous) = usable {
                loading.index = previous.index().clone();
            }
        }
        self.cover(table, &mut loadings).await?;
        let settled = futures::stream::iter(loadings).map(|loading| {
            let home = Arc::clone(&self.home);
            blocking(move || {
                let state = BucketState::of(loading.index, loading.files);
                Ok((loading.bucket, state.settled(&home)?, loading.loaded))
            })
        });
        let settled = settled.buffered(READS_IN_FLIGHT_MAX);
        let settled: Vec<(Bucket, BucketState, Loaded)> = settled.try_collect().await?;
        if let Some((kept, version)) = &version {
            for (bucket, state, _) in &settled {
                kept.put(version, *bucket, state);
            }
        }
        Ok(settled)
    }

    /// Forgets what is kept of a bucket: something is wrong with it.
    pub fn forget(&self, of: &Metadata, bucket: Bucket) {
        if let Some(kept) = self.home.kept() {
            kept.forget(&of.id, bucket);
        }
    }

    /// Keeps the state of a bucket at a version that whoever has it has committed, for those who
    /// load the bucket next, where the index home keeps states.
    pub fn keep(&self, of: &Metadata, at: TableVersion, bucket: Bucket, state: &BucketState) {
        if let Some(kept) = self.home.kept() {
            kept.put(&kept::Version::at(of, at), bucket, state);
        }
    }
}

/// Gives each loading the live files that may hold its keys.
fn deal(snapshot: &Snapshot, loadings: &mut [Loading]) {
    let mut places: HashMap<Bucket, Vec<usize>> = HashMap::new();
    for (at, loading) in loadings.iter().enumerate() {
        places.entry(loading.bucket).or_default().push(at);
    }
    for file in snapshot.files() {
        match file.buckets() {
            None => {
                for loading in &mut *loadings {
                    loading.live.push((Arc::clone(file), true));
                }
            }
            Some(buckets) => {
                let is_shared = buckets.len() != 1;
                for at in buckets
                    .iter()
                    .filter_map(|bucket| places.get(bucket))
                    .flatten()
                {
                    loadings[*at].live.push((Arc::clone(file), is_shared));
                }
            }
        }
    }
}

/// True where a file has rows that the earlier state held for dead.
fn resurrects(previous: &BucketState, files: &[LiveFile]) -> bool {
    files.iter().any(|file| match previous.file(&file.path) {
        Some(known) => {
            !Arc::ptr_eq(&known.deleted, &file.deleted) && !file.deleted.covers(&known.deleted)
        }
        None => previous.index().covers(&file.path),
    })
}

/// Runs work that takes long on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    if threads::works_in_place() {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| TableError::Worker(error.to_string()))?
}
