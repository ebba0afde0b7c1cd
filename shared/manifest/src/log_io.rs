//! Which files of a `_delta_log` a snapshot is made of, and reading them.
//!
//! ```text
//! _last_checkpoint (a hint) ─► one listing from there ─► newest whole checkpoint ─► commits after it
//! ```
//!
//! A hint that is absent, damaged or stale costs a listing of the whole log, nothing else. So does
//! a checkpoint that can't be read, as long as an older one or all commits are still there. A
//! listing is no snapshot: a commit that it skips is asked for by name before it counts as missing,
//! and one that goes between listing and reading (another engine cleans the log) costs another
//! listing. Few commits are in memory at a time, however many there are.

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tidelake_core::TableVersion;
use tidelake_core::clock::{SharedClock, UnixMillis};
use tidelake_storage::{NumberedLog, StorageError, Store};

use crate::checkpoint;
use crate::commit_file::{self, Commit, Fingerprint};
use crate::error::{ManifestError, Result};
use crate::log_files::{LOG_FOLDER, LogFiles};
use crate::replay::Replay;
use crate::snapshot::Snapshot;

const LAST_CHECKPOINT: &str = "_delta_log/_last_checkpoint";
const ASKED_IN_FLIGHT_MAX: usize = 16;
/// Commits from a table's beginning that are replayed without a checkpoint to start from. Longer
/// runs have lost their checkpoint; the beginning is not looked for in them.
const BEGINNING_RUN_MAX: u64 = 256;

/// What `_last_checkpoint` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastCheckpoint {
    pub(crate) version: u64,
    /// Actions in the checkpoint.
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size_in_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) num_of_add_files: Option<u64>,
}

/// Reads a table's log folder.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    pub(crate) store: Store,
    pub(crate) log: NumberedLog,
}

impl LogReader {
    pub(crate) fn new(store: Store, clock: SharedClock) -> Self {
        let log = NumberedLog::new(store.clone(), LOG_FOLDER)
            .written_by_others(commit_file::names_its_engine, clock);
        Self { store, log }
    }

    pub(crate) fn at(&self) -> String {
        self.store.url().trim_end_matches('/').to_owned()
    }

    /// Where the newest checkpoint should be; none where nobody says, or not in a form we know.
    pub(crate) async fn hint(&self) -> Result<Option<u64>> {
        let bytes = self.store.get_opt(LAST_CHECKPOINT).await?;
        let hint = bytes.and_then(|bytes| serde_json::from_slice::<LastCheckpoint>(&bytes).ok());
        Ok(hint.map(|hint| hint.version))
    }

    /// Writes the hint, unless it points further already.
    pub(crate) async fn set_hint(&self, hint: &LastCheckpoint) -> Result<()> {
        if self.hint().await?.is_some_and(|held| held >= hint.version) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(hint).expect("numbers only");
        Ok(self.store.put(LAST_CHECKPOINT, bytes.into()).await?)
    }

    /// The log's files from commit `version` on.
    pub(crate) async fn files_from(&self, version: u64) -> Result<LogFiles> {
        let found = match version.checked_sub(1) {
            None => self.store.list(LOG_FOLDER).await?,
            Some(before) => {
                self.store
                    .list_from(LOG_FOLDER, &self.log.name(before))
                    .await?
            }
        };
        let names = found.iter().filter_map(|meta| {
            // Subfolders (sidecars of other checkpoint kinds) are not ours to read.
            let rel = self.store.relative(&meta.location)?;
            let name = rel.strip_prefix(LOG_FOLDER)?.strip_prefix('/')?;
            (!name.contains('/')).then(|| (name.to_owned(), meta.last_modified.timestamp_millis()))
        });
        let names: Vec<_> = names.collect();
        let mut files = LogFiles::of(
            names
                .iter()
                .map(|(name, time_ms)| (name.as_str(), *time_ms)),
        );
        self.ask_for_gaps(&mut files, version).await?;
        self.leave_out_unfinished(&mut files).await?;
        Ok(files)
    }

    /// A newest commit that somebody is still writing is none yet.
    async fn leave_out_unfinished(&self, files: &mut LogFiles) -> Result<()> {
        let newest = files.commits.last_key_value();
        let newest = newest.map(|(number, time_ms)| (*number, *time_ms));
        if let Some((number, time_ms)) = newest
            && self.log.may_grow(time_ms)
            && self.log.read(number).await?.is_none()
        {
            files.commits.remove(&number);
        }
        Ok(())
    }

    /// Adds commits that the listing, which began at `from`, skipped.
    async fn ask_for_gaps(&self, files: &mut LogFiles, from: u64) -> Result<()> {
        let asked = files.gaps(from).into_iter().map(|number| {
            let (store, name) = (self.store.clone(), self.log.name(number));
            async move { (number, store.head(&name).await) }
        });
        let mut answers = futures::stream::iter(asked).buffered(ASKED_IN_FLIGHT_MAX);
        while let Some((number, answer)) = answers.next().await {
            match answer {
                Ok(meta) => {
                    let time_ms = meta.last_modified.timestamp_millis();
                    files.commits.insert(number, time_ms);
                }
                Err(StorageError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The table at `wanted`, or at its latest version. `asked_ms` is the time before the call.
    pub(crate) async fn load(
        &self,
        wanted: Option<TableVersion>,
        asked_ms: UnixMillis,
    ) -> Result<Snapshot> {
        if let Some(hint) = self
            .hint()
            .await?
            .filter(|hint| wanted.is_none_or(|w| w.0 >= *hint))
        {
            let files = self.files_from(hint).await?;
            if files.checkpoints.contains_key(&hint) {
                match self.load_from(&files, wanted, asked_ms).await {
                    Err(
                        error @ (ManifestError::Corrupt { .. } | ManifestError::VersionGone { .. }),
                    ) => {
                        tracing::warn!(at = self.at(), %error, "reading the whole log instead");
                    }
                    loaded => return loaded,
                }
            }
        }
        let files = self.files_from(0).await?;
        self.load_from(&files, wanted, asked_ms).await
    }

    async fn load_from(
        &self,
        files: &LogFiles,
        wanted: Option<TableVersion>,
        asked_ms: UnixMillis,
    ) -> Result<Snapshot> {
        let Some(latest) = files.latest() else {
            return Err(ManifestError::NoTable { at: self.at() });
        };
        let target = wanted.map_or(latest, |wanted| wanted.0);
        if target > latest {
            return Err(ManifestError::VersionAhead {
                at: self.at(),
                version: TableVersion(target),
                latest: TableVersion(latest),
            });
        }
        let proven_ms = if target == latest { asked_ms } else { i64::MIN };
        let mut damaged = None;
        let candidates = files.checkpoints.range(..=target).rev();
        let starts = candidates.map(|(version, parts)| Some((*version, parts.as_slice())));
        for start in starts.chain([None]) {
            let next = match start {
                Some((version, _)) => version + 1,
                None => first_without_checkpoint(files, target),
            };
            if (next..=target).any(|version| !files.commits.contains_key(&version)) {
                continue;
            }
            match self.replay(files, start, next, target).await {
                Ok(Some(replay)) => return replay.finish(proven_ms),
                // Cleaned away since the listing.
                Ok(None) => {}
                Err(error @ ManifestError::Corrupt { .. }) if start.is_some() => {
                    tracing::warn!(at = self.at(), next, %error, "skipping a checkpoint");
                    damaged = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(damaged.unwrap_or_else(|| self.unreadable(files, target)))
    }

    /// The commits `next` to `target` on top of a checkpoint; none where one of them is gone, or
    /// where they stand on nothing.
    async fn replay(
        &self,
        files: &LogFiles,
        start: Option<(u64, &[String])>,
        next: u64,
        target: u64,
    ) -> Result<Option<Replay>> {
        let at = self.at();
        let mut replay = Replay::new(&at);
        if let Some((version, parts)) = start {
            self.read_checkpoint(&mut replay, version, parts, files)
                .await?;
        }
        let missing = self
            .log
            .visit_range(next, target, |version, bytes| {
                let commit = Commit::parse(&at, version, &bytes)?;
                replay.commit(TableVersion(version), commit)
            })
            .await?;
        Ok((missing.is_none() && replay.is_grounded()).then_some(replay))
    }

    fn unreadable(&self, files: &LogFiles, target: u64) -> ManifestError {
        match files.earliest() {
            Some(earliest) if target < earliest => ManifestError::VersionGone {
                at: self.at(),
                version: TableVersion(target),
                earliest: TableVersion(earliest),
            },
            _ => ManifestError::Corrupt {
                at: format!("{} version {target}", self.at()),
                reason: "commits that it builds on are missing from `_delta_log`, and no classic \
                         checkpoint stands in for them"
                    .into(),
            },
        }
    }

    async fn read_checkpoint(
        &self,
        replay: &mut Replay,
        version: u64,
        parts: &[String],
        files: &LogFiles,
    ) -> Result<()> {
        for part in parts {
            let rel = format!("{LOG_FOLDER}/{part}");
            let Some(bytes) = self.store.get_opt(&rel).await? else {
                return Err(ManifestError::Corrupt {
                    at: self.store.url_of(&rel),
                    reason: "it was listed, and is gone".into(),
                });
            };
            let read = checkpoint::read(bytes, checkpoint::STATE, |commit| {
                replay
                    .checkpoint(TableVersion(version), commit)
                    .map_err(Failed::Inside)
            });
            read.map_err(|failed| self.unreadable_checkpoint(&rel, failed))?;
        }
        let (time_ms, fingerprint) = self.commit_facts(version, files).await?;
        replay.set_commit(time_ms, fingerprint);
        Ok(())
    }

    pub(crate) fn unreadable_checkpoint(&self, rel: &str, failed: Failed) -> ManifestError {
        match failed {
            Failed::Inside(error) => error,
            Failed::Parquet(error) => ManifestError::Corrupt {
                at: self.store.url_of(rel),
                reason: error.to_string(),
            },
        }
    }

    /// When a version was committed, by its own word, or by its file's time where it says nothing
    /// or is gone.
    pub(crate) async fn commit_time(&self, version: u64, files: &LogFiles) -> Result<UnixMillis> {
        Ok(self.commit_facts(version, files).await?.0)
    }

    /// See [`Self::commit_time`]; and what identifies the commit's bytes, where it is still there.
    async fn commit_facts(
        &self,
        version: u64,
        files: &LogFiles,
    ) -> Result<(UnixMillis, Option<Fingerprint>)> {
        let Some(file_ms) = files.commits.get(&version).copied() else {
            return Ok((0, None));
        };
        let Some(bytes) = self.log.read(version).await? else {
            return Ok((file_ms, None));
        };
        let commit = Commit::parse(&self.at(), version, &bytes)?;
        Ok((commit.info.timestamp.unwrap_or(file_ms), commit.fingerprint))
    }
}

/// Where replay begins that starts from no checkpoint: at version 0, or where the commits that lead
/// to `target` begin. That is the beginning of a table whose first checkpoint is not there yet; if
/// it is not, replay says so.
fn first_without_checkpoint(files: &LogFiles, target: u64) -> u64 {
    match files.run_start(target) {
        Some(first) if target - first < BEGINNING_RUN_MAX => first,
        _ => 0,
    }
}

/// Reading a checkpoint fails by its bytes, or in what is done with what they say.
#[derive(Debug)]
pub(crate) enum Failed {
    Parquet(parquet::errors::ParquetError),
    Inside(ManifestError),
}

impl From<parquet::errors::ParquetError> for Failed {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Parquet(error)
    }
}
