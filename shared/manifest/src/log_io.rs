//! Which files of a `_delta_log` a snapshot is made of, and reading them.
//!
//! ```text
//! _last_checkpoint (a hint) ─► one listing from there ─► newest whole checkpoint ─► commits after it
//! ```
//!
//! A hint that is absent, damaged or stale costs a listing of the whole log, nothing else. So does a
//! checkpoint that can't be read, as long as an older one or all commits are still there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;
use tidelake_storage::{NumberedLog, Store};

use crate::checkpoint;
use crate::error::{ManifestError, Result};
use crate::replay::{Commit, Replay};
use crate::snapshot::Snapshot;

pub(crate) const LOG_FOLDER: &str = "_delta_log";
const LAST_CHECKPOINT: &str = "_delta_log/_last_checkpoint";

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

/// The files of a log, as far as they were listed.
#[derive(Debug, Default)]
pub(crate) struct LogFiles {
    /// Commit numbers and the times of their files.
    pub(crate) commits: BTreeMap<u64, UnixMillis>,
    /// Whole classic checkpoints: names of their parts, relative to the log folder.
    pub(crate) checkpoints: BTreeMap<u64, Vec<String>>,
}

impl LogFiles {
    /// Sorts file names (with their times).
    pub(crate) fn of<'a>(names: impl Iterator<Item = (&'a str, UnixMillis)>) -> Self {
        let mut files = Self::default();
        let mut parts: BTreeMap<(u64, u32), Vec<String>> = BTreeMap::new();
        for (name, time_ms) in names {
            if let Some(version) = NumberedLog::parse(name) {
                files.commits.insert(version, time_ms);
            } else if let Some((version, of)) = parse_checkpoint(name) {
                parts
                    .entry((version, of))
                    .or_default()
                    .push(name.to_owned());
            }
        }
        for ((version, of), mut names) in parts {
            if names.len() == of as usize {
                names.sort();
                files.checkpoints.insert(version, names);
            }
        }
        files
    }

    /// The oldest version that can be read.
    pub(crate) fn earliest(&self) -> Option<u64> {
        let first = self
            .commits
            .first_key_value()
            .map(|(version, _)| *version)?;
        if first == 0 {
            return Some(0);
        }
        // Later commits build on a checkpoint at or after the commit before them.
        self.checkpoints
            .range(first.saturating_sub(1)..)
            .next()
            .map(|(version, _)| *version)
    }

    pub(crate) fn latest(&self) -> Option<u64> {
        let commit = self.commits.last_key_value().map(|(version, _)| *version);
        commit.max(
            self.checkpoints
                .last_key_value()
                .map(|(version, _)| *version),
        )
    }
}

/// Version and number of parts of a classic checkpoint: `N.checkpoint.parquet` or
/// `N.checkpoint.I.OF.parquet`.
fn parse_checkpoint(name: &str) -> Option<(u64, u32)> {
    fn digits<T: std::str::FromStr>(text: &str, width: usize) -> Option<T> {
        let plain = text.len() == width && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok())?
    }
    let parts: Vec<_> = name.split('.').collect();
    match parts[..] {
        [version, "checkpoint", "parquet"] => Some((digits(version, 20)?, 1)),
        [version, "checkpoint", part, of, "parquet"] => {
            digits::<u32>(part, 10)?;
            Some((digits(version, 20)?, digits(of, 10)?))
        }
        _ => None,
    }
}

pub(crate) fn checkpoint_name(version: TableVersion) -> String {
    format!("{LOG_FOLDER}/{:020}.checkpoint.parquet", version.0)
}

/// Reads a table's log folder.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    pub(crate) store: Store,
    pub(crate) log: NumberedLog,
}

impl LogReader {
    pub(crate) fn new(store: Store) -> Self {
        let log = NumberedLog::new(store.clone(), LOG_FOLDER);
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
        Ok(LogFiles::of(
            names
                .iter()
                .map(|(name, time_ms)| (name.as_str(), *time_ms)),
        ))
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
        let starts = candidates.map(|(version, parts)| Some((*version, parts)));
        for start in starts.chain([None]) {
            let next = start.map_or(0, |(version, _)| version + 1);
            if (next..=target).any(|version| !files.commits.contains_key(&version)) {
                continue;
            }
            let mut replay = Replay::new(&self.at());
            if let Some((version, parts)) = start
                && let Err(error) = self
                    .read_checkpoint(&mut replay, version, parts, files)
                    .await
            {
                let ManifestError::Corrupt { .. } = error else {
                    return Err(error);
                };
                tracing::warn!(at = self.at(), version, %error, "skipping a checkpoint");
                damaged = Some(error);
                continue;
            }
            let numbers: Vec<_> = (next..=target).collect();
            for (version, bytes) in self.log.read_all(&numbers).await? {
                let commit = Commit::parse(&self.at(), version, &bytes)?;
                replay.commit(TableVersion(version), commit)?;
            }
            return replay.finish(proven_ms);
        }
        Err(damaged.unwrap_or_else(|| self.unreadable(files, target)))
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
            let bytes = self.store.get(&rel).await?;
            let read = checkpoint::read(bytes, |commit| {
                replay
                    .checkpoint(TableVersion(version), commit)
                    .map_err(Failed::Replay)
            });
            read.map_err(|failed| match failed {
                Failed::Replay(error) => error,
                Failed::Parquet(error) => ManifestError::Corrupt {
                    at: self.store.url_of(&rel),
                    reason: error.to_string(),
                },
            })?;
        }
        replay.set_timestamp(self.commit_time(version, files).await?);
        Ok(())
    }

    /// When a version was committed, by its own word, or by its file's time where it says nothing
    /// or is gone.
    pub(crate) async fn commit_time(&self, version: u64, files: &LogFiles) -> Result<UnixMillis> {
        let file_ms = files.commits.get(&version).copied();
        if file_ms.is_none() {
            return Ok(0);
        }
        let Some(bytes) = self.log.read(version).await? else {
            return Ok(file_ms.unwrap_or(0));
        };
        let commit = Commit::parse(&self.at(), version, &bytes)?;
        Ok(commit.info.timestamp.or(file_ms).unwrap_or(0))
    }
}

/// Reading a checkpoint fails by its bytes or by what they say.
#[derive(Debug)]
enum Failed {
    Parquet(parquet::errors::ParquetError),
    Replay(ManifestError),
}

impl From<parquet::errors::ParquetError> for Failed {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Parquet(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> LogFiles {
        LogFiles::of(names.iter().map(|name| (*name, 0)))
    }

    #[test]
    fn only_whole_classic_checkpoints_count() {
        let found = files(&[
            "00000000000000000007.json",
            "00000000000000000007.checkpoint.parquet",
            "00000000000000000008.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000009.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000009.checkpoint.0000000002.0000000002.parquet",
            "00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json",
            "00000000000000000001.00000000000000000007.compacted.json",
            "00000000000000000007.crc",
            "_last_checkpoint",
        ]);
        assert_eq!(
            found.checkpoints.keys().copied().collect::<Vec<_>>(),
            [7, 9]
        );
        assert_eq!(found.checkpoints[&9].len(), 2);
        assert_eq!(found.commits.len(), 1);
    }

    #[test]
    fn the_earliest_version_needs_a_start_to_build_on() {
        assert_eq!(files(&["00000000000000000000.json"]).earliest(), Some(0));
        let cleaned = [
            "00000000000000000005.json",
            "00000000000000000006.json",
            "00000000000000000006.checkpoint.parquet",
        ];
        assert_eq!(files(&cleaned).earliest(), Some(6));
        assert_eq!(files(&cleaned[..2]).earliest(), None);
    }
}
