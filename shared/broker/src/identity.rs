//! What the broker is called, and the producer ids it has given out: `broker.json`.
//!
//! Producer ids are reserved on disk in blocks before the first of a block is used, so that no id is
//! ever given out twice, whatever happens to the process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidelake_core::TopicId;
use tidelake_core::ids::IdSource;

use crate::error::BrokerError;
use crate::files::{decode, encode, write_atomic};

/// Producer ids reserved at once.
const BLOCK: i64 = 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// 22 characters, as Kafka writes ids.
    cluster_id: TopicId,
    /// Ids below this may have been given out.
    producer_ids_reserved: i64,
}

#[derive(Debug)]
struct Ids {
    stored: Stored,
    next: i64,
}

/// The broker's name and its producer ids.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    cluster_id: String,
    ids: Mutex<Ids>,
}

impl Identity {
    /// Reads `broker.json`, or writes the first one. Blocks on the disk.
    pub(crate) fn open(dir: &Path, ids: &dyn IdSource) -> Result<Self, BrokerError> {
        let path = dir.join("broker.json");
        let stored = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(|reason| BrokerError::Corrupt {
                path: path.clone(),
                reason,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let cluster_id = TopicId(ids.next_uuid().into_bytes());
                let stored = Stored {
                    version: 1,
                    cluster_id,
                    producer_ids_reserved: 0,
                };
                write_atomic(&path, &encode(&stored)).map_err(BrokerError::io(&path))?;
                stored
            }
            Err(error) => return Err(BrokerError::io(&path)(error)),
        };
        let next = stored.producer_ids_reserved;
        let cluster_id = stored.cluster_id.to_string();
        Ok(Self {
            path,
            cluster_id,
            ids: Mutex::new(Ids { stored, next }),
        })
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// A producer id that was never given out before. Blocks on the disk once for each block.
    pub(crate) fn next_producer_id(&self) -> io::Result<i64> {
        let mut ids = self.ids.lock();
        if ids.next == ids.stored.producer_ids_reserved {
            let mut stored = ids.stored.clone();
            stored.producer_ids_reserved += BLOCK;
            write_atomic(&self.path, &encode(&stored))?;
            ids.stored = stored;
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use tidelake_core::ids::CountingIds;

    use super::*;

    #[test]
    fn producer_ids_never_repeat_across_starts() {
        let dir = tempfile::tempdir().unwrap();
        let ids = CountingIds::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..4 {
            let identity = Identity::open(dir.path(), &ids).unwrap();
            for _ in 0..BLOCK + 3 {
                assert!(seen.insert(identity.next_producer_id().unwrap()));
            }
        }
    }

    #[test]
    fn the_cluster_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let ids = CountingIds::default();
        let first = Identity::open(dir.path(), &ids)
            .unwrap()
            .cluster_id()
            .to_owned();
        assert_eq!(
            Identity::open(dir.path(), &ids).unwrap().cluster_id(),
            first
        );
    }
}
