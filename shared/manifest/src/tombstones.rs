//! What a checkpoint must tell of files that are gone, and how it learns it.
//!
//! Older snapshots, and vacuums of other engines, need the removes that are not expired. Snapshots do
//! not carry them: a busy table makes millions, and nobody who reads rows looks at one. The writer of
//! a checkpoint gathers them where they stand, newest first:
//!
//! ```text
//!  commit v ─► v - 1 ─► … ─► commit after the last checkpoint ─► removes of that checkpoint
//! ```
//! Of a file that was removed several times the newest remove counts; one that is live again is not
//! gone. Memory: a few commits at a time, the last checkpoint's compressed bytes, and 16 bytes for
//! each remove since.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;

use crate::action::{Remove, decode_path};
use crate::checkpoint::{self, Pen, Written};
use crate::error::{ManifestError, Result};
use crate::log_files::{LOG_FOLDER, LogFiles};
use crate::log_io::{Failed, LogReader};
use crate::replay::{Commit, vector_id};
use crate::snapshot::Snapshot;

/// Commits that are in memory at a time.
const COMMITS_HELD_MAX: u64 = 16;

/// The state of a snapshot as a checkpoint, with the tombstones of its log. Those from before
/// `expired_before_ms` are left out: their files may have been deleted by then.
pub(crate) async fn checkpoint_of(
    reader: &LogReader,
    snapshot: &Snapshot,
    expired_before_ms: UnixMillis,
) -> Result<Written> {
    let at = reader.at();
    let files = files_since_checkpoint(reader, snapshot).await?;
    let begin = snapshot.first_version();
    let before = files.checkpoint_between(begin, snapshot.version);
    let oldest = match before {
        Some((version, _)) => version + 1,
        None => begin.0,
    };
    let (state, named) = (snapshot.clone(), at.clone());
    let mut pen =
        on_thread(move || Pen::begin(&state).map_err(|source| checkpoint_error(&named, source)))
            .await?;
    let mut gone = Gone::new(snapshot.clone(), expired_before_ms);
    let mut next = snapshot.version.0 + 1;
    while next > oldest {
        let first = oldest.max(next.saturating_sub(COMMITS_HELD_MAX));
        let mut commits = Vec::new();
        let missing = reader
            .log
            .visit_range(first, next - 1, |version, bytes| {
                commits.push((version, bytes));
                Ok::<_, ManifestError>(())
            })
            .await?;
        if let Some(missing) = missing {
            return Err(ManifestError::VersionGone {
                at,
                version: TableVersion(missing),
                earliest: TableVersion(next),
            });
        }
        let named = at.clone();
        (pen, gone) = on_thread(move || {
            for (version, bytes) in commits.into_iter().rev() {
                let mut removes = Commit::parse(&named, version, &bytes)?.removes;
                removes.retain(|remove| gone.meets(remove));
                pen.removes(&removes)
                    .map_err(|source| checkpoint_error(&named, source))?;
            }
            Ok((pen, gone))
        })
        .await?;
        next = first;
    }
    for part in before.map_or(&[][..], |(_, parts)| parts) {
        let rel = format!("{LOG_FOLDER}/{part}");
        let bytes = reader.store.get(&rel).await?;
        let (named, reader) = (at.clone(), reader.clone());
        (pen, gone) = on_thread(move || {
            let read = checkpoint::read(bytes, checkpoint::REMOVES, |part: Commit| {
                let mut removes = part.removes;
                removes.retain(|remove| gone.knows(remove));
                pen.removes(&removes)
                    .map_err(|source| Failed::Inside(checkpoint_error(&named, source)))
            });
            read.map_err(|failed| reader.unreadable_checkpoint(&rel, failed))?;
            Ok((pen, gone))
        })
        .await?;
    }
    on_thread(move || pen.finish().map_err(|source| checkpoint_error(&at, source))).await
}

fn checkpoint_error(at: &str, source: parquet::errors::ParquetError) -> ManifestError {
    ManifestError::Checkpoint {
        at: at.to_owned(),
        source,
    }
}

/// The files of the log from the newest checkpoint that is known; from its start where that is gone.
async fn files_since_checkpoint(reader: &LogReader, snapshot: &Snapshot) -> Result<LogFiles> {
    if let Some(known) = snapshot.checkpoint {
        let files = reader.files_from(known.0).await?;
        let found = files.checkpoint_between(snapshot.first_version(), snapshot.version);
        if found.is_some() {
            return Ok(files);
        }
    }
    reader.files_from(0).await
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels; nobody waits for the answer then.
            Err(cancelled) => Err(checkpoint_error(
                "a table of a runtime that shuts down",
                parquet::errors::ParquetError::External(cancelled.into()),
            )),
        },
    }
}

/// Which removes are tombstones, of those that are met from the newest to the oldest.
struct Gone {
    snapshot: Snapshot,
    expired_before_ms: UnixMillis,
    met: HashSet<u128>,
}

impl Gone {
    fn new(snapshot: Snapshot, expired_before_ms: UnixMillis) -> Self {
        Self {
            snapshot,
            expired_before_ms,
            met: HashSet::new(),
        }
    }

    /// A remove of a commit.
    fn meets(&mut self, remove: &Remove) -> bool {
        self.is_unexpired(remove)
            && self
                .identity(remove)
                .is_some_and(|identity| self.met.insert(identity))
    }

    /// A remove of the checkpoint before those commits, in which each file stands once.
    fn knows(&self, remove: &Remove) -> bool {
        self.is_unexpired(remove)
            && self
                .identity(remove)
                .is_some_and(|identity| !self.met.contains(&identity))
    }

    fn is_unexpired(&self, remove: &Remove) -> bool {
        remove
            .deletion_timestamp
            .is_none_or(|deleted| deleted >= self.expired_before_ms)
    }

    /// The file with its vector; none where just that is live.
    fn identity(&self, remove: &Remove) -> Option<u128> {
        let path = decode_path(&remove.path)?;
        let vector = vector_id(remove.deletion_vector.as_ref());
        let live = self.snapshot.file(&path);
        if live.is_some_and(|file| vector_id(file.dv()) == vector) {
            return None;
        }
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, path.as_str(), vector.as_deref()).hash(&mut hasher);
            hasher.finish()
        };
        Some(u128::from(half(0)) << 64 | u128::from(half(1)))
    }
}
