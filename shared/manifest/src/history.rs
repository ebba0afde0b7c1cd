//! What happened to a table, and which version a point in time means.

use std::collections::BTreeMap;

use serde_json::Value;
use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;

use crate::error::{ManifestError, Result};
use crate::log_io::LogFiles;
use crate::replay::Commit;
use crate::stats::Stats;
use crate::table::DeltaTable;

/// One commit, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSummary {
    pub version: TableVersion,
    /// By the writer's clock; the file's time where the writer says nothing.
    pub timestamp_ms: UnixMillis,
    pub operation: String,
    /// Unique for commits of ours, and of most other engines.
    pub commit_id: Option<String>,
    pub engine: Option<String>,
    pub parameters: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, String>,
    /// Physical rows of the added files.
    pub rows_added: u64,
    pub files_added: u64,
    pub files_removed: u64,
}

impl DeltaTable {
    /// The newest `limit` commits that are still in the log, newest first.
    pub async fn history(&self, limit: usize) -> Result<Vec<CommitSummary>> {
        let files = self.log_files().await?;
        let newest = files.commits.iter().rev().take(limit);
        let numbers: Vec<_> = newest.map(|(version, _)| *version).collect();
        let mut summaries = Vec::with_capacity(numbers.len());
        for (version, bytes) in self.reader.log.read_all(&numbers).await? {
            let commit = Commit::parse(&self.reader.at(), version, &bytes)?;
            let file_ms = files.commits.get(&version).copied().unwrap_or_default();
            summaries.push(summary(TableVersion(version), commit, file_ms));
        }
        Ok(summaries)
    }

    /// The version that was the latest at `ts_ms`. A time after the last commit means the latest
    /// version; one before the first that is kept is an error.
    ///
    /// Versions are ordered by their commits' timestamps, which rise within what Tidelake writes;
    /// where another writer's clock is behind, its commit counts as made at the time of the one
    /// before. Costs one listing and a handful of commits, by bisection.
    pub async fn version_at(&self, ts_ms: UnixMillis) -> Result<TableVersion> {
        let files = self.log_files().await?;
        let earliest = files.earliest().ok_or_else(|| self.no_table())?;
        let latest = files.latest().unwrap_or(earliest);
        let earliest_ms = self.reader.commit_time(earliest, &files).await?;
        if ts_ms < earliest_ms {
            return Err(ManifestError::BeforeFirst {
                at: self.reader.at(),
                asked_ms: ts_ms,
                earliest: TableVersion(earliest),
                earliest_ms,
            });
        }
        // `low` is at or before the time, `high` after it.
        let (mut low, mut high) = (earliest, latest + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.reader.commit_time(middle, &files).await? <= ts_ms {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(TableVersion(low))
    }

    async fn log_files(&self) -> Result<LogFiles> {
        let files = self.reader.files_from(0).await?;
        if files.latest().is_none() {
            return Err(self.no_table());
        }
        Ok(files)
    }

    fn no_table(&self) -> ManifestError {
        ManifestError::NoTable {
            at: self.reader.at(),
        }
    }
}

fn summary(version: TableVersion, commit: Commit, file_ms: UnixMillis) -> CommitSummary {
    let rows = commit
        .adds
        .iter()
        .filter(|add| add.data_change)
        .filter_map(|add| Stats::parse(add.stats.as_deref()?).ok()?.num_records);
    let rows_added = rows.sum();
    let info = commit.info;
    CommitSummary {
        version,
        timestamp_ms: info.timestamp.unwrap_or(file_ms),
        operation: info.operation.unwrap_or_else(|| "UNKNOWN".into()),
        commit_id: info.txn_id,
        engine: info.engine_info,
        parameters: texts(info.operation_parameters),
        metrics: texts(info.operation_metrics),
        rows_added,
        files_added: commit.adds.len() as u64,
        files_removed: commit.removes.len() as u64,
    }
}

fn texts(values: Option<BTreeMap<String, Value>>) -> BTreeMap<String, String> {
    let values = values.unwrap_or_default().into_iter();
    values
        .map(|(key, value)| match value {
            Value::String(text) => (key, text),
            other => (key, other.to_string()),
        })
        .collect()
}
