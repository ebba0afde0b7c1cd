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
use uuid::Uuid;

use crate::error::BrokerError;
use crate::files::{decode, encode, write_atomic};

/// Producer ids reserved at once.
const BLOCK: i64 = 1_000;
/// More than a broker gives out in a millisecond; 48 bits of time leave room for as many.
const IDS_PER_MS: u64 = 1 << 10;

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
                let id = ids.next_uuid();
                let stored = Stored {
                    version: 1,
                    cluster_id: TopicId(id.into_bytes()),
                    producer_ids_reserved: beginning(id),
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

/// Where producer ids begin, by an id that begins with the time in milliseconds: above all that were
/// given out before, should the file have been lost. The partitions remember what their producers
/// wrote, so the records of a second one of the same id would count as sent again.
fn beginning(id: Uuid) -> i64 {
    let (time_and_more, _) = id.as_u64_pair();
    let millis = time_and_more >> 16;
    i64::try_from(millis * IDS_PER_MS).unwrap_or_default()
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
    fn producer_ids_do_not_repeat_where_the_file_is_lost() {
        #[derive(Debug)]
        struct At(u64);
        impl IdSource for At {
            fn next_uuid(&self) -> Uuid {
                Uuid::from_u64_pair((self.0 << 16) | 0x7000, 1)
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let mut last = -1;
        for millis in [1_700_000_000_000, 1_700_000_000_900, (1 << 48) - 1] {
            let identity = Identity::open(dir.path(), &At(millis)).unwrap();
            let first = identity.next_producer_id().unwrap();
            assert!(first > last, "{first} after {last}");
            for _ in 0..BLOCK {
                last = identity.next_producer_id().unwrap();
            }
            fs::remove_file(dir.path().join("broker.json")).unwrap();
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
