//! Keys of files as runs of the index: from their sidecars, or else from their key columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_core::Bucket;
use tidelake_manifest::{DataFile, DeltaTable};

use super::{Loading, READS_IN_FLIGHT_MAX, StateLoader, TAG_INDEX, blocking, only_bucket};
use crate::TableError;
use crate::index::{IndexHome, Run, entries_run, sidecar_run};
use crate::read::RowKeys;

/// A sidecar that takes more than this for each key costs more than reading the key columns: it is
/// not written.
const SIDECAR_BYTES_PER_KEY_MAX: usize = 16;
/// Bytes of a sidecar beside its keys.
const SIDECAR_BYTES_BESIDE: usize = 1024;
/// Bytes of a file's part that a row takes at least: estimated, where the rows are not counted.
const FILE_ROW_BYTES: u64 = 16;

/// A file whose keys are read, for the loadings at these places.
type Wanted = (Arc<DataFile>, Vec<(usize, Bucket)>);

/// The keys of a file: a run for each loading that wants them.
struct Covered {
    runs: Vec<(usize, Run)>,
    from_sidecar: bool,
    damaged: bool,
}

impl StateLoader {
    /// Adds the keys of all live files that the indexes don't cover.
    pub(super) async fn cover(
        &self,
        table: &DeltaTable,
        loadings: &mut [Loading],
    ) -> Result<(), TableError> {
        let mut own: Vec<Wanted> = Vec::new();
        let mut shared: BTreeMap<Arc<str>, Wanted> = BTreeMap::new();
        for (at, loading) in loadings.iter().enumerate() {
            for ((file, is_shared), described) in loading.live.iter().zip(&loading.files) {
                if loading.index.covers(&described.path) {
                    continue;
                }
                let place = (at, loading.bucket);
                if !*is_shared {
                    own.push((Arc::clone(file), vec![place]));
                    continue;
                }
                let path = Arc::clone(&described.path);
                let wanted = shared.entry(path);
                let wanted = wanted.or_insert_with(|| (Arc::clone(file), Vec::new()));
                wanted.1.push(place);
            }
        }
        let files = own.into_iter().chain(shared.into_values());
        let mut covered = futures::stream::iter(files)
            .map(|(file, wanted)| self.runs(table.clone(), file, wanted))
            .buffered(READS_IN_FLIGHT_MAX)
            .boxed();
        while let Some(file) = covered.try_next().await? {
            for (at, run) in file.runs {
                let loading = &mut loadings[at];
                loading.index = loading.index.with_run(run);
                loading.loaded.sidecars += u64::from(file.from_sidecar);
                loading.loaded.rebuilt += u64::from(!file.from_sidecar);
                loading.loaded.damaged += u64::from(file.damaged);
            }
        }
        Ok(())
    }

    /// The keys of a file, from its sidecar or else from its columns.
    async fn runs(
        &self,
        table: DeltaTable,
        file: Arc<DataFile>,
        wanted: Vec<(usize, Bucket)>,
    ) -> Result<Covered, TableError> {
        let path: Arc<str> = Arc::from(file.path());
        let only = only_bucket(&file);
        let mut damaged = false;
        // A sidecar holds all keys of its file: it can't stand for one bucket of several.
        if let (Some(name), Some(_), [(at, _)]) = (file.tag(TAG_INDEX), only, wanted.as_slice()) {
            let bytes = sidecar_bytes_max(rows_about(&file) as usize) as u64;
            let _permit = self.home.load_permit(bytes).await;
            if let Some(bytes) = table.store().get_opt(name).await? {
                let (kind, home) = (self.spec.kind(), Arc::clone(&self.home));
                let name = Arc::clone(&path);
                let run = blocking(move || Ok(sidecar_run(kind, &home, name, bytes))).await?;
                match run {
                    Ok(run) => {
                        return Ok(Covered {
                            runs: vec![(*at, run)],
                            from_sidecar: true,
                            damaged,
                        });
                    }
                    Err(error) => {
                        damaged = true;
                        tracing::warn!(file = %path, %error, "index sidecar is damaged, reading the keys from the file");
                    }
                }
            }
        }
        let opened = self.columns.open(&table, &file).await?;
        let _permit = self.home.load_permit(opened.memory_bytes()).await;
        let owners = only.is_none().then_some(&self.owners);
        let keys = self.columns.read_opened(opened, &self.spec, owners).await?;
        let home = Arc::clone(&self.home);
        let runs = blocking(move || build(&home, &path, &keys, &wanted)).await?;
        Ok(Covered {
            runs,
            from_sidecar: false,
            damaged,
        })
    }
}

fn build(
    home: &IndexHome,
    path: &Arc<str>,
    keys: &RowKeys,
    wanted: &[(usize, Bucket)],
) -> Result<Vec<(usize, Run)>, TableError> {
    let mut runs = Vec::with_capacity(wanted.len());
    for (at, bucket) in wanted {
        let entries = keys.entries_of(*bucket);
        runs.push((*at, entries_run(home, Arc::clone(path), &entries)?));
    }
    Ok(runs)
}

/// Bytes that a sidecar of so many keys may have.
pub(crate) fn sidecar_bytes_max(keys: usize) -> usize {
    SIDECAR_BYTES_BESIDE.saturating_add(keys.saturating_mul(SIDECAR_BYTES_PER_KEY_MAX))
}

/// Rows of a file, about.
fn rows_about(file: &DataFile) -> u64 {
    file.num_records().unwrap_or(file.size() / FILE_ROW_BYTES)
}
