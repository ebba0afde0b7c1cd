//! What happened to a table, and which version a point in time means.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, TableVersion, Watermark};
use tidelake_storage::StorageError;

use crate::action::{Remove, Txn, VectorDescriptor};
use crate::commit_file::Commit;
use crate::error::{ManifestError, Result};
use crate::log_files::LogFiles;
use crate::stats::Stats;
use crate::table::DeltaTable;

/// Commits that a walk over the log has in memory at a time.
const COMMITS_HELD_MAX: u64 = 16;

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
    /// Physical rows of the files that are new.
    pub rows_added: u64,
    /// Rows taken away by deletion vectors and removes. Unknown where a file goes whose number of
    /// rows the commit does not tell.
    pub rows_deleted: Option<u64>,
    /// Watermarks that the commit moved buckets to.
    pub watermarks: BTreeMap<Bucket, Watermark>,
    pub files_added: u64,
    pub files_removed: u64,
}

impl DeltaTable {
    /// The newest `limit` commits of the table that are still in the log, newest first. Few are in
    /// memory at a time; what an earlier table of the same folder left is not among them.
    pub async fn history(&self, limit: usize) -> Result<Vec<CommitSummary>> {
        let mut history = self.walk_history().await?;
        let mut summaries = Vec::new();
        while summaries.len() < limit {
            let most = limit - summaries.len();
            match history.next(most).await? {
                some if some.is_empty() => break,
                some => summaries.extend(some),
            }
        }
        Ok(summaries)
    }

    /// A walk over the commits that [`Self::history`] gives: as of now, those that come are not
    /// among them.
    pub async fn walk_history(&self) -> Result<History> {
        let files = self.log_files().await?;
        let latest = files.commits.last_key_value().map(|(version, _)| *version);
        let oldest = latest.and_then(|latest| files.run_start(latest).or(Some(latest)));
        let ages = oldest.map(|oldest| files.commits.range(oldest..));
        Ok(History {
            table: self.clone(),
            oldest: oldest.unwrap_or(0),
            next: latest.map_or(0, |latest| latest + 1),
            written_ms: ages
                .map(|ages| ages.map(|(_, ms)| *ms).collect())
                .unwrap_or_default(),
        })
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

    /// The oldest version that can be read.
    pub async fn earliest(&self) -> Result<TableVersion> {
        let earliest = self.log_files().await?.earliest();
        earliest.map(TableVersion).ok_or_else(|| self.no_table())
    }

    /// Shows `visit` the commits of `versions` with their times, in order. Few are in memory at a
    /// time. One that is missing is an error.
    pub async fn visit_commits(
        &self,
        versions: std::ops::RangeInclusive<u64>,
        mut visit: impl FnMut(TableVersion, UnixMillis, Commit) -> Result<()>,
    ) -> Result<()> {
        let at = self.reader.at();
        // As in replay: times are made to rise.
        let mut before_ms = i64::MIN;
        let (first, last) = versions.into_inner();
        let missing = self
            .reader
            .log
            .visit_range(first, last, |version, bytes| {
                let commit = Commit::parse(&at, version, &bytes)?;
                let after = before_ms.saturating_add(1);
                before_ms = commit.info.timestamp.map_or(after, |own| own.max(after));
                visit(TableVersion(version), before_ms, commit)
            })
            .await?;
        match missing {
            None => Ok(()),
            Some(missing) => Err(StorageError::NotFound {
                at: self.reader.store.url_of(&self.reader.log.name(missing)),
            }
            .into()),
        }
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

/// The commits of a table from the newest down, a few in memory at a time.
#[derive(Debug, Clone)]
pub struct History {
    table: DeltaTable,
    /// The last that will come.
    oldest: u64,
    /// Above the one that comes next.
    next: u64,
    /// Times of the commits' files from `oldest` on.
    written_ms: Arc<[UnixMillis]>,
}

impl History {
    /// The next commits, `most` or fewer of them; none at the end.
    pub async fn next(&mut self, most: usize) -> Result<Vec<CommitSummary>> {
        if self.next <= self.oldest || most == 0 {
            return Ok(Vec::new());
        }
        let step = COMMITS_HELD_MAX.min(most as u64);
        let first = self.oldest.max(self.next.saturating_sub(step));
        let (oldest, ages) = (self.oldest, Arc::clone(&self.written_ms));
        let reader = &self.table.reader;
        let at = reader.at();
        let mut commits = Vec::with_capacity(COMMITS_HELD_MAX as usize);
        let mut begun = false;
        let visit = |version: u64, bytes: Bytes| {
            let commit = Commit::parse(&at, version, &bytes)?;
            if commit.begins_at(TableVersion(version)) {
                commits.clear();
                begun = true;
            }
            let age = usize::try_from(version - oldest).ok();
            let file_ms = age
                .and_then(|age| ages.get(age))
                .copied()
                .unwrap_or_default();
            commits.push(summary(TableVersion(version), commit, file_ms));
            Ok::<_, ManifestError>(())
        };
        let missing = reader.log.visit_range(first, self.next - 1, visit).await?;
        // Below its beginning is another table; a missing one tells that another engine cleans the
        // log from below.
        self.next = match begun || missing.is_some() {
            true => self.oldest,
            false => first,
        };
        commits.reverse();
        Ok(commits)
    }
}

fn summary(version: TableVersion, commit: Commit, file_ms: UnixMillis) -> CommitSummary {
    let watermarks = commit.txns.iter().filter_map(watermark).collect();
    let (files_added, files_removed) = (commit.adds.len() as u64, commit.removes.len() as u64);
    let (rows_added, rows_deleted) = rows(&commit);
    let info = commit.info;
    let metrics = texts(info.operation_metrics);
    // What a writer says about itself counts where the actions don't tell.
    let told = || {
        let told = ["numDeletedRows", "numTargetRowsDeleted"];
        told.iter()
            .find_map(|name| metrics.get(*name)?.parse().ok())
    };
    CommitSummary {
        version,
        timestamp_ms: info.timestamp.unwrap_or(file_ms),
        operation: info.operation.unwrap_or_else(|| "UNKNOWN".into()),
        commit_id: info.txn_id,
        engine: info.engine_info,
        parameters: texts(info.operation_parameters),
        rows_added,
        rows_deleted: rows_deleted.or_else(told),
        watermarks,
        files_added,
        files_removed,
        metrics,
    }
}

/// Rows that came and rows that went. A file that is removed and added in one commit has got
/// another deletion vector: its rows did not come.
fn rows(commit: &Commit) -> (u64, Option<u64>) {
    let cardinality = |vector: &Option<VectorDescriptor>| {
        let rows = vector.as_ref().map_or(0, |vector| vector.cardinality);
        u64::try_from(rows).unwrap_or(0)
    };
    let mut removed: BTreeMap<&str, &Remove> = BTreeMap::new();
    for remove in commit.removes.iter().filter(|remove| remove.data_change) {
        removed.insert(&remove.path, remove);
    }
    let (mut added, mut deleted) = (0, 0);
    for add in commit.adds.iter().filter(|add| add.data_change) {
        match removed.remove(add.path.as_str()) {
            Some(before) => {
                let before = cardinality(&before.deletion_vector);
                deleted += cardinality(&add.deletion_vector).saturating_sub(before);
            }
            None => {
                let stats = add
                    .stats
                    .as_deref()
                    .and_then(|text| Stats::parse(text).ok());
                added += stats.and_then(|stats| stats.num_records).unwrap_or(0);
                deleted += cardinality(&add.deletion_vector);
            }
        }
    }
    (added, removed.is_empty().then_some(deleted))
}

/// The bucket and watermark of a transaction of ours.
fn watermark(txn: &Txn) -> Option<(Bucket, Watermark)> {
    let (topic, bucket) = txn.app_id.strip_prefix("tidelake/")?.split_once('/')?;
    (!topic.is_empty()).then_some(())?;
    Some((Bucket(bucket.parse().ok()?), Watermark(txn.version)))
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
