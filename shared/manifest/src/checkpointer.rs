//! Writing a checkpoint: the state of a snapshot, and what the log says of files that are gone.
//! The format is in [`crate::checkpoint`].
//!
//! Older snapshots, and vacuums of other engines, need the removes that are not expired. Snapshots
//! do not carry them: a busy table makes millions, and nobody who reads rows looks at one. The
//! writer of a checkpoint gathers them where they stand, newest first:
//!
//! ```text
//!  commit v ─► v - 1 ─► … ─► commit after the last checkpoint ─► removes of that checkpoint
//! ```
//! Of a file that was removed several times the newest remove counts; one that is live again is not
//! gone. Memory: a few commits at a time, the last checkpoint's compressed bytes, and 16 bytes for
//! each remove since.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableVersion, threads};
use tidelake_storage::{PutOnce, StorageError};

use crate::action::{Remove, decode_path, vector_id};
use crate::checkpoint::{self, Pen, Written};
use crate::commit_file::Commit;
use crate::error::{ManifestError, Result};
use crate::log_files::{LOG_FOLDER, LogFiles, checkpoint_name};
use crate::log_io::{Failed, LastCheckpoint, LogReader};
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;
use crate::trust::tombstones_kept_ms;

/// Commits that are in memory at a time.
const COMMITS_HELD_MAX: u64 = 16;

impl DeltaTable {
    /// Writes the classic checkpoint of a snapshot, unless there is one, and points
    /// `_last_checkpoint` at it. Returns the snapshot that knows of it.
    pub async fn write_checkpoint(&self, snapshot: &Snapshot) -> Result<Arc<Snapshot>> {
        let version = snapshot.version;
        let known = Arc::new(Snapshot {
            checkpoint: Some(version),
            ..snapshot.clone()
        });
        self.check_writable(snapshot)?;
        let rel = checkpoint_name(version);
        match self.reader.store.head(&rel).await {
            Ok(_) => return Ok(known),
            Err(StorageError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let expired_before_ms = self.clock.now_ms() - tombstones_kept_ms(&snapshot.metadata);
        let written = checkpoint_of(&self.reader, snapshot, expired_before_ms).await?;
        let hint = LastCheckpoint {
            version: version.0,
            size: written.actions,
            size_in_bytes: Some(written.bytes.len() as u64),
            num_of_add_files: Some(written.adds),
        };
        let ours = written.bytes.clone();
        let put = self
            .reader
            .store
            .put_once(&rel, written.bytes, |found| *found == ours)
            .await?;
        if put == PutOnce::Created {
            self.reader.set_hint(&hint).await?;
        }
        Ok(known)
    }
}

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
    let oldest = before.map_or(begin.0, |(version, _)| version + 1);
    let (state, named) = (snapshot.clone(), at.clone());
    let pen =
        on_thread(move || Pen::begin(&state).map_err(|source| checkpoint_error(&named, source)));
    let mut drafted = Draft {
        pen: pen.await?,
        gone: Gone::new(snapshot.clone(), expired_before_ms),
    };
    let mut next = snapshot.version.0 + 1;
    while next > oldest {
        let first = oldest.max(next.saturating_sub(COMMITS_HELD_MAX));
        drafted = drafted.commits(reader, first, next).await?;
        next = first;
    }
    for part in before.map_or(&[][..], |(_, parts)| parts) {
        drafted = drafted.part(reader, format!("{LOG_FOLDER}/{part}")).await?;
    }
    on_thread(move || {
        let written = drafted.pen.finish();
        written.map_err(|source| checkpoint_error(&at, source))
    })
    .await
}

/// A checkpoint to which tombstones are added.
struct Draft {
    pen: Pen,
    gone: Gone,
}

impl Draft {
    /// Adds what the commits from `first` to before `end` removed.
    async fn commits(mut self, reader: &LogReader, first: u64, end: u64) -> Result<Self> {
        let at = reader.at();
        let mut commits = Vec::new();
        let missing = reader
            .log
            .visit_range(first, end - 1, |version, bytes| {
                commits.push((version, bytes));
                Ok::<_, ManifestError>(())
            })
            .await?;
        if let Some(missing) = missing {
            return Err(ManifestError::VersionGone {
                at,
                version: TableVersion(missing),
                earliest: TableVersion(end),
            });
        }
        on_thread(move || {
            for (version, bytes) in commits.into_iter().rev() {
                let mut removes = Commit::parse(&at, version, &bytes)?.removes;
                removes.retain(|remove| self.gone.meets(remove));
                let added = self.pen.removes(&removes);
                added.map_err(|source| checkpoint_error(&at, source))?;
            }
            Ok(self)
        })
        .await
    }

    /// Adds what a part of the checkpoint before those commits knows to be gone.
    async fn part(mut self, reader: &LogReader, rel: String) -> Result<Self> {
        let bytes = reader.store.get(&rel).await?;
        let reader = reader.clone();
        on_thread(move || {
            let read = checkpoint::read(bytes, checkpoint::REMOVES, |part: Commit| {
                let mut removes = part.removes;
                removes.retain(|remove| self.gone.knows(remove));
                let added = self.pen.removes(&removes);
                added.map_err(|source| Failed::Inside(checkpoint_error(&reader.at(), source)))
            });
            read.map_err(|failed| reader.unreadable_checkpoint(&rel, failed))?;
            Ok(self)
        })
        .await
    }
}

fn checkpoint_error(at: &str, source: parquet::errors::ParquetError) -> ManifestError {
    ManifestError::Checkpoint {
        at: at.to_owned(),
        source,
    }
}

/// The files of the log from the newest checkpoint that is known; from its start where that is
/// gone.
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
    if threads::works_in_place() {
        return work();
    }
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
