//! Classic (V1) checkpoints: the state of a snapshot as one Parquet file, one row for each action.
//!
//! Writing makes `N.checkpoint.parquet`; reading also takes the old multi-part form and the columns
//! of other writers in whatever order. Rows come in groups of one kind, so that a group holds one
//! column of values and otherwise nulls, and memory for a group is all that building needs beside
//! the compressed bytes. Statistics are carried as text, as they stand in the log.

mod read;
mod write;

use std::sync::Arc;

use tidelake_storage::PutOnce;

use crate::error::Result;
use crate::features::check_writable;
use crate::log_files::checkpoint_name;
use crate::log_io::LastCheckpoint;
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;
use crate::tombstones::checkpoint_of;
use crate::trust::tombstones_kept_ms;

pub(crate) use read::{REMOVES, STATE, read};
pub(crate) use write::{Pen, Written};

/// Actions in one batch on their way to or from the file.
const BATCH_ROWS: usize = 4096;

impl DeltaTable {
    /// Writes the classic checkpoint of a snapshot, unless there is one, and points
    /// `_last_checkpoint` at it. Returns the snapshot that knows of it.
    pub async fn write_checkpoint(&self, snapshot: &Snapshot) -> Result<Arc<Snapshot>> {
        let version = snapshot.version;
        let known = Arc::new(Snapshot {
            checkpoint: Some(version),
            ..snapshot.clone()
        });
        check_writable(&self.reader.at(), &snapshot.protocol, &snapshot.metadata)?;
        let rel = checkpoint_name(version);
        if self.reader.store.get_opt(&rel).await?.is_some() {
            return Ok(known);
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
