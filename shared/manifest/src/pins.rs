//! Named snapshots: versions of a table that are kept until they are dropped by name.
//!
//! One object for each, `_tidelake/snapshots/<name>.json`, written with put-if-absent and never
//! changed. It belongs to the table whose metadata id it names: what an earlier table left in the
//! same folder does not count. Readers of the Delta log know nothing of it; who deletes (vacuum,
//! cleaning of the log) must ask here.
//!
//! ```text
//!  create:  put the pin of version v ──► list floors ──► v below one? take the pin back, refuse
//!  vacuum:  put floor f ──► list pins ──► delete what no version from f on and no pin needs
//! ```
//! Each writes before it looks, so of a creation and a vacuum that meet, at least one sees the other:
//! a pin that was answered is respected by every vacuum, and a version that a vacuum may have begun
//! to take apart can't be pinned any more.
//!
//! What is owed to a pinned version v: its data files and vector files stay, and
//! [`DeltaTable::snapshot_at`] of it works. Cleaning the log therefore either keeps all from a
//! checkpoint at or before v up to commit v, or writes a checkpoint at v and keeps it with commit v.

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{SnapshotName, TableVersion};
use tidelake_storage::{NumberedLog, PutOnce};

use crate::error::{ManifestError, Result};
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;

/// Named snapshots of one table. Creations at the same moment may exceed it by their number.
pub const NAMED_SNAPSHOTS_MAX: usize = 1000;

const FOLDER: &str = "_tidelake/snapshots";
/// Below it a folder for each table id: objects named by the number of a version, without content.
const FLOORS: &str = "_tidelake/floors";
const READS_IN_FLIGHT_MAX: usize = 16;

/// A version under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSnapshot {
    pub name: SnapshotName,
    pub version: TableVersion,
    /// Id in the metadata of the table that it is of.
    pub table_id: String,
    /// When the version was committed.
    pub version_ms: UnixMillis,
    /// When it was given the name.
    pub created_ms: UnixMillis,
    /// Unique for each creation.
    pub id: String,
}

/// What became of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateNamed {
    Created(NamedSnapshot),
    /// The name is taken.
    Exists(NamedSnapshot),
    /// The table has [`NAMED_SNAPSHOTS_MAX`] of them.
    Full,
}

fn object(name: &SnapshotName) -> String {
    format!("{FOLDER}/{name}.json")
}

impl DeltaTable {
    /// The named snapshots of the table with that id, by name. One that can't be read is an error:
    /// nobody may delete on the strength of a list that is not whole.
    pub async fn named_snapshots(&self, table_id: &str) -> Result<Vec<NamedSnapshot>> {
        let names = self.pin_names().await?;
        let read = futures::stream::iter(names.into_iter().map(|name| self.clone().pin_of(name)))
            .buffered(READS_IN_FLIGHT_MAX);
        let all: Vec<Option<NamedSnapshot>> = read.try_collect().await?;
        let own = all.into_iter().flatten();
        Ok(own.filter(|pin| pin.table_id == table_id).collect())
    }

    /// The named snapshot of the table with that id.
    pub async fn named_snapshot(
        &self,
        table_id: &str,
        name: &SnapshotName,
    ) -> Result<Option<NamedSnapshot>> {
        let pin = self.clone().pin_of(name.clone()).await?;
        Ok(pin.filter(|pin| pin.table_id == table_id))
    }

    /// Names in the folder, of whatever table.
    async fn pin_names(&self) -> Result<Vec<SnapshotName>> {
        let found = self.reader.store.list(FOLDER).await?;
        let names = found.iter().filter_map(|meta| {
            let name = meta.location.filename()?.strip_suffix(".json")?;
            SnapshotName::new(name).ok()
        });
        Ok(names.collect())
    }

    async fn pin_of(self, name: SnapshotName) -> Result<Option<NamedSnapshot>> {
        let rel = object(&name);
        match self.reader.store.get_opt(&rel).await? {
            Some(bytes) => self.parse_pin(&rel, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn parse_pin(&self, rel: &str, bytes: &[u8]) -> Result<NamedSnapshot> {
        serde_json::from_slice(bytes).map_err(|error| ManifestError::Corrupt {
            at: self.reader.store.url_of(rel),
            reason: format!("it is not a named snapshot: {error}"),
        })
    }

    /// Gives a version a name; from the answer on no vacuum takes from it.
    ///
    /// [`ManifestError::VersionGone`] where a vacuum may have begun to.
    pub async fn create_named_snapshot(
        &self,
        name: SnapshotName,
        of: &Snapshot,
    ) -> Result<CreateNamed> {
        let store = &self.reader.store;
        let rel = object(&name);
        let table_id = of.metadata.id.clone();
        if self.pin_names().await?.len() >= NAMED_SNAPSHOTS_MAX {
            return Ok(match self.named_snapshot(&table_id, &name).await? {
                Some(held) => CreateNamed::Exists(held),
                None => CreateNamed::Full,
            });
        }
        let pin = NamedSnapshot {
            name,
            version: of.version,
            table_id,
            version_ms: of.timestamp_ms,
            created_ms: self.clock.now_ms(),
            id: self.ids.next_uuid().to_string(),
        };
        let bytes = serde_json::to_vec(&pin).expect("names and numbers only");
        let is_ours =
            |found: &[u8]| matches!(self.parse_pin(&rel, found), Ok(found) if found.id == pin.id);
        loop {
            let put = store.put_once(&rel, bytes.clone().into(), is_ours).await?;
            let PutOnce::Exists(found) = put else { break };
            let held = self.parse_pin(&rel, &found)?;
            if held.table_id == pin.table_id {
                return Ok(CreateNamed::Exists(held));
            }
            // Left behind by a table that is no more.
            store.delete(&rel).await?;
        }
        let floor = self.floor(&pin.table_id).await?;
        if let Err(gone) = self.check_floor(pin.version, floor) {
            store.delete(&rel).await?;
            return Err(gone);
        }
        Ok(CreateNamed::Created(pin))
    }

    /// Drops a name, so that its version may expire; returns what it named. None where there was
    /// none. Of a drop and a creation of the same name at the same moment either may come first.
    pub async fn drop_named_snapshot(
        &self,
        table_id: &str,
        name: &SnapshotName,
    ) -> Result<Option<NamedSnapshot>> {
        let held = self.named_snapshot(table_id, name).await?;
        if held.is_some() {
            self.reader.store.delete(&object(name)).await?;
        }
        Ok(held)
    }

    /// What every vacuum calls before it deletes anything: announces that versions below `oldest`
    /// will not be kept, and returns the named snapshots that must be kept all the same.
    pub async fn raise_floor(
        &self,
        table_id: &str,
        oldest: TableVersion,
    ) -> Result<Vec<NamedSnapshot>> {
        let log = NumberedLog::new(self.reader.store.clone(), &floors_of(table_id));
        let put = log.append(oldest.0, "{}".into(), |_| true).await?;
        if put == PutOnce::Created {
            // Lower ones say nothing any more.
            for lower in log.numbers_from(0).await? {
                if lower < oldest.0 {
                    self.reader.store.delete(&log.name(lower)).await?;
                }
            }
        }
        self.named_snapshots(table_id).await
    }

    async fn floor(&self, table_id: &str) -> Result<TableVersion> {
        let log = NumberedLog::new(self.reader.store.clone(), &floors_of(table_id));
        Ok(TableVersion(log.latest().await?.unwrap_or(0)))
    }

    fn check_floor(&self, version: TableVersion, floor: TableVersion) -> Result<()> {
        if version >= floor {
            return Ok(());
        }
        Err(ManifestError::VersionGone {
            at: self.reader.at(),
            version,
            earliest: floor,
        })
    }
}

fn floors_of(table_id: &str) -> String {
    format!("{FLOORS}/{table_id}")
}

#[cfg(test)]
mod tests;
