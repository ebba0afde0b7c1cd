//! A bucket's state from what is stored: the files of a snapshot, their vectors, their keys.
//!
//! Keys come from the sidecar that a file's add names; where there is none, or it is lost or
//! damaged, they are read from the file's key columns. What an earlier state knows is kept, so that
//! following a table costs what changed. Files of other writers, which name no bucket, count for
//! every bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_core::Bucket;
use tidelake_manifest::vector::{self, Place as VectorPlace};
use tidelake_manifest::{DataFile, DeltaTable, Snapshot};
use tidelake_schema::TableSchema;

use crate::TableError;
use crate::index::{Entries, Index, IndexHome, KeySpec};
use crate::read::KeyColumns;
use crate::rowset::RowSet;
use crate::state::{BucketState, LiveFile};

/// Tag of an add: object name of the file's index sidecar, relative to the table.
pub const TAG_INDEX: &str = "tidelake.index";
/// Objects that are read at a time.
const READS_IN_FLIGHT_MAX: usize = 8;

/// Loads states of one table's buckets.
#[derive(Debug, Clone)]
pub struct StateLoader {
    spec: KeySpec,
    columns: Arc<KeyColumns>,
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

impl StateLoader {
    /// `None` for a table without a primary key.
    ///
    /// # Errors
    /// Where the schema can't be translated.
    pub fn new(
        schema: &TableSchema,
        delta_schema: &str,
        home: Arc<IndexHome>,
    ) -> Result<Option<Self>, TableError> {
        let Some(spec) = KeySpec::of(schema) else {
            return Ok(None);
        };
        let columns = Arc::new(KeyColumns::new(schema, delta_schema)?);
        Ok(Some(Self {
            spec,
            columns,
            home,
        }))
    }

    pub fn spec(&self) -> &KeySpec {
        &self.spec
    }

    pub fn columns(&self) -> &Arc<KeyColumns> {
        &self.columns
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
        let live: Vec<&Arc<DataFile>> = snapshot
            .files()
            .filter(|file| {
                file.buckets()
                    .is_none_or(|buckets| buckets.contains(&bucket))
            })
            .collect();
        let mut loaded = Loaded::default();
        let mut files = self.files(table, &live, previous, &mut loaded).await?;
        // An entry that a merge dropped as dead is not there any more: where rows came back to life
        // (another engine restored an older version), the index begins anew.
        let previous = previous.filter(|previous| !resurrects(previous, &files));
        let index = match previous {
            Some(previous) => previous.index().clone(),
            None => Index::new(self.spec.kind()),
        };
        let index = self.cover(table, &live, index, &mut loaded).await?;
        for file in &mut files {
            file.rows = file.rows.max(file.deleted.len());
        }
        let state = BucketState::of(index, files);
        let home = Arc::clone(&self.home);
        let state = blocking(move || state.settled(&home)).await?;
        Ok((state, loaded))
    }

    async fn files(
        &self,
        table: &DeltaTable,
        live: &[&Arc<DataFile>],
        previous: Option<&BucketState>,
        loaded: &mut Loaded,
    ) -> Result<Vec<LiveFile>, TableError> {
        let mut files = Vec::with_capacity(live.len());
        let mut missing = Vec::new();
        for file in live {
            let vector = file.dv().map(|vector| Arc::from(vector.unique_id()));
            let known = previous.and_then(|previous| previous.file(file.path()));
            let known = known.filter(|known| known.vector == vector);
            let deleted = match (known, &vector) {
                (Some(known), _) => Arc::clone(&known.deleted),
                (None, None) => Arc::default(),
                (None, Some(_)) => {
                    missing.push(files.len());
                    Arc::default()
                }
            };
            let rows = file.num_records().unwrap_or(0);
            files.push(LiveFile {
                path: known.map_or_else(|| Arc::from(file.path()), |known| Arc::clone(&known.path)),
                rows: u32::try_from(rows).unwrap_or(u32::MAX),
                deleted,
                vector,
            });
        }
        loaded.vectors += missing.len() as u64;
        let wanted: Vec<(usize, Arc<DataFile>)> = missing
            .into_iter()
            .map(|place| (place, Arc::clone(live[place])))
            .collect();
        for (place, deleted) in read_vectors(table, wanted).await? {
            files[place].deleted = Arc::new(deleted);
        }
        Ok(files)
    }

    /// Adds the keys of all live files that the index does not cover.
    async fn cover(
        &self,
        table: &DeltaTable,
        live: &[&Arc<DataFile>],
        mut index: Index,
        loaded: &mut Loaded,
    ) -> Result<Index, TableError> {
        let missing: Vec<Arc<DataFile>> = live
            .iter()
            .filter(|file| !index.covers(file.path()))
            .map(|file| Arc::clone(file))
            .collect();
        let mut fetched = futures::stream::iter(missing)
            .map(|file| {
                let (table, columns) = (table.clone(), Arc::clone(&self.columns));
                let spec = self.spec.clone();
                async move {
                    let sidecar = match file.tag(TAG_INDEX) {
                        Some(name) => table.store().get_opt(name).await?,
                        None => None,
                    };
                    let keys = match sidecar {
                        Some(bytes) => FileKeys::Sidecar(bytes),
                        None => FileKeys::Read(columns.entries(&table, &file, &spec).await?),
                    };
                    Ok::<_, TableError>((file, keys))
                }
            })
            .buffered(READS_IN_FLIGHT_MAX)
            .boxed();
        while let Some((file, keys)) = fetched.try_next().await? {
            let path: Arc<str> = Arc::from(file.path());
            let entries = match keys {
                FileKeys::Sidecar(bytes) => {
                    let (home, own) = (Arc::clone(&self.home), index.clone());
                    let name = Arc::clone(&path);
                    let added = blocking(move || Ok(own.with_sidecar(&home, name, bytes)));
                    match added.await? {
                        Ok(next) => {
                            index = next;
                            loaded.sidecars += 1;
                            continue;
                        }
                        Err(error) => {
                            loaded.damaged += 1;
                            tracing::warn!(file = %path, %error, "index sidecar is damaged, reading the keys from the file");
                            self.columns.entries(table, &file, &self.spec).await?
                        }
                    }
                }
                FileKeys::Read(entries) => entries,
            };
            loaded.rebuilt += 1;
            let home = Arc::clone(&self.home);
            index = blocking(move || Ok(index.with_entries(&home, path, &entries)?)).await?;
        }
        Ok(index)
    }
}

enum FileKeys {
    Sidecar(bytes::Bytes),
    Read(Entries),
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

/// A file by its place, and where its vector lies in an object.
type Part = (usize, Arc<DataFile>, std::ops::Range<u64>);

/// Vectors of many files; those that lie in one object are read together.
async fn read_vectors(
    table: &DeltaTable,
    wanted: Vec<(usize, Arc<DataFile>)>,
) -> Result<Vec<(usize, RowSet)>, TableError> {
    let mut found = Vec::with_capacity(wanted.len());
    let mut objects: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for (place, file) in wanted {
        let Some(descriptor) = file.dv() else {
            continue;
        };
        match vector::locate(descriptor).map_err(|error| damaged(&file, &error))? {
            VectorPlace::Inline(data) => {
                let rows = vector::decode(&data);
                let rows = rows.and_then(|rows| vector::checked(rows, descriptor));
                found.push((place, row_set(&file, rows)?));
            }
            VectorPlace::File { name, range } => {
                objects.entry(name).or_default().push((place, file, range));
            }
        }
    }
    let mut reads = futures::stream::iter(objects)
        .map(|(name, parts)| {
            let table = table.clone();
            async move {
                let from = parts
                    .iter()
                    .map(|(_, _, range)| range.start)
                    .min()
                    .unwrap_or(0);
                let to = parts
                    .iter()
                    .map(|(_, _, range)| range.end)
                    .max()
                    .unwrap_or(0);
                let bytes = table.store().get_range(&name, from..to).await?;
                Ok::<_, TableError>((from, bytes, parts))
            }
        })
        .buffered(READS_IN_FLIGHT_MAX)
        .boxed();
    while let Some((from, bytes, parts)) = reads.try_next().await? {
        for (place, file, range) in parts {
            let own = (range.start - from) as usize..(range.end - from) as usize;
            let rows = bytes.get(own).unwrap_or_default();
            let rows = vector::decode_in_file(rows);
            let rows = match file.dv() {
                Some(descriptor) => rows.and_then(|rows| vector::checked(rows, descriptor)),
                None => rows,
            };
            found.push((place, row_set(&file, rows)?));
        }
    }
    Ok(found)
}

fn row_set(
    file: &DataFile,
    rows: Result<vector::DeletedRows, vector::VectorError>,
) -> Result<RowSet, TableError> {
    let rows = rows.map_err(|error| damaged(file, &error))?;
    RowSet::from_deleted_rows(&rows).ok_or_else(|| TableError::Damaged {
        what: file.path().to_owned(),
        reason: "its deletion vector names rows beyond 2^32".into(),
    })
}

fn damaged(file: &DataFile, error: &vector::VectorError) -> TableError {
    TableError::Damaged {
        what: file.path().to_owned(),
        reason: format!("its deletion vector can't be read: {error}"),
    }
}

/// Runs work that takes long on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| TableError::Worker(error.to_string()))?
}
