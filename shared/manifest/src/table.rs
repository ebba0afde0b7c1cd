//! [`DeltaTable`]: a table by its folder, the thin shell of I/O around replay.
//!
//! Here: reading. Committing is in [`crate::commit`], creating and dropping in [`crate::lifetime`],
//! checkpoints in [`crate::checkpointer`], history in [`crate::history`].

use std::sync::Arc;

use tidelake_core::TableVersion;
use tidelake_core::clock::SharedClock;
use tidelake_core::ids::SharedIds;
use tidelake_storage::{StorageError, Store};

use crate::action::VectorDescriptor;
use crate::commit_file::has_length;
use crate::error::{ManifestError, Result};
use crate::log_io::LogReader;
use crate::replay::Replay;
use crate::snapshot::Snapshot;
use crate::vector::{self, DeletedRows, Place};

/// Commits on top of a snapshot that nobody has looked at for long; with more of them a checkpoint
/// is the shorter way.
const REPLAYED_MAX: u64 = 64;

/// A table by its folder. Keeps no state: cheap to clone.
#[derive(Debug, Clone)]
pub struct DeltaTable {
    pub(crate) reader: LogReader,
    pub(crate) clock: SharedClock,
    pub(crate) ids: SharedIds,
}

impl DeltaTable {
    /// The table whose folder is the root of `store`.
    pub fn new(store: Store, clock: SharedClock, ids: SharedIds) -> Self {
        Self {
            reader: LogReader::new(store, Arc::clone(&clock)),
            clock,
            ids,
        }
    }

    /// The store below the table's folder.
    pub fn store(&self) -> &Store {
        &self.reader.store
    }

    /// The latest version.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let asked_ms = self.clock.now_ms();
        Ok(Arc::new(self.reader.load(None, asked_ms).await?))
    }

    /// A given version. Same rows for ever, as long as it is kept.
    pub async fn snapshot_at(&self, version: TableVersion) -> Result<Arc<Snapshot>> {
        let asked_ms = self.clock.now_ms();
        Ok(Arc::new(self.reader.load(Some(version), asked_ms).await?))
    }

    /// The latest version, by way of a snapshot that is at hand: reads the new commits only. One
    /// request where there is none; two where nobody has looked for so long that the snapshot must
    /// be proven again. The whole state is read only where the snapshot is no
    /// part of the log any more, or so old that a checkpoint is the shorter way.
    pub async fn refresh(&self, base: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        let asked_ms = self.clock.now_ms();
        if self.has_grown(base).await? {
            return self.snapshot().await;
        }
        if !base.proof.holds(&base.metadata, asked_ms) {
            if !self.is_in_log(base).await? {
                return self.snapshot().await;
            }
            base.proof.saw(asked_ms);
            if !self.has_commit(base.version.0 + 1).await? {
                base.proof.renew(asked_ms);
                return Ok(Arc::clone(base));
            }
            if self.has_commit(base.version.0 + REPLAYED_MAX).await? {
                return self.snapshot().await;
            }
        }
        let at = self.reader.at();
        let mut replay = None;
        self.visit_commits_after(base.version, |version, commit| {
            let replay = replay.get_or_insert_with(|| Replay::resume(&at, base));
            replay.commit(version, commit)
        })
        .await?;
        match replay {
            Some(replay) => Ok(Arc::new(replay.finish(asked_ms)?)),
            None => {
                base.proof.renew(asked_ms);
                Ok(Arc::clone(base))
            }
        }
    }

    /// True where the commit that made this snapshot is another one by now: somebody wrote it piece
    /// by piece, and paused for so long that it was taken for whole. Asks nothing where none can.
    pub(crate) async fn has_grown(&self, of: &Snapshot) -> Result<bool> {
        let Some(known) = of.fingerprint.filter(|_| of.is_unnamed) else {
            return Ok(false);
        };
        if !self.reader.log.shows_parts() {
            return Ok(false);
        }
        let name = self.reader.log.name(of.version.0);
        match self.reader.store.head(&name).await {
            Ok(meta) => Ok(!has_length(known, meta.size)),
            // Cleaned away, which is looked for elsewhere.
            Err(StorageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn has_commit(&self, version: u64) -> Result<bool> {
        let name = self.reader.log.name(version);
        match self.reader.store.head(&name).await {
            Ok(_) => Ok(true),
            Err(StorageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The rows that a deletion vector takes away.
    pub async fn deleted_rows(&self, of: &VectorDescriptor) -> Result<DeletedRows> {
        let failed = |source| ManifestError::Vector {
            at: self.reader.at(),
            source,
        };
        let rows = match vector::locate(of).map_err(failed)? {
            Place::Inline(data) => vector::decode(&data),
            Place::File { name, range } => {
                vector::decode_in_file(&self.reader.store.get_range(&name, range).await?)
            }
        };
        rows.and_then(|rows| vector::checked(rows, of))
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests;
