//! States of buckets that outlive those who loaded them: whoever loads such a bucket next reads only
//! what its table got since.
//!
//! A state is a value of shared parts, so keeping one costs nothing while it is in use elsewhere.
//! Invariants: of a bucket only the state of its newest version is kept; what all of them hold is
//! bounded, and what was used longest ago goes first. A kept state is no more than a `previous` one:
//! loading reads what its version lacks. Versions before the kept one are loaded without it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelake_core::{Bucket, TableVersion};
use tidelake_manifest::Snapshot;
use tidelake_manifest::action::Metadata;

use crate::state::BucketState;

/// Bytes of what is kept, those on disk counted by [`DISK_SHARE`].
const WEIGHT_MAX: u64 = 64 << 20;
/// Bytes on disk that weigh as one in memory.
const DISK_SHARE: u64 = 16;
/// What a file of a state takes beside its deleted rows; estimated.
const FILE_BYTES: u64 = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct KeptStates {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_bucket: HashMap<(Arc<str>, Bucket), Kept>,
    weight: u64,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    version: TableVersion,
    /// As the version's metadata has it: with other columns keys may be others.
    schema: Arc<str>,
    state: BucketState,
    weight: u64,
    used: u64,
}

/// One version of a table.
#[derive(Debug)]
pub(super) struct Version {
    /// Unique among all tables, for ever.
    table: Arc<str>,
    schema: Arc<str>,
    version: TableVersion,
}

impl Version {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self::at(snapshot.metadata(), snapshot.version())
    }

    pub(super) fn at(metadata: &Metadata, version: TableVersion) -> Self {
        Self {
            table: Arc::from(metadata.id.as_str()),
            schema: Arc::from(metadata.schema_string.as_str()),
            version,
        }
    }
}

impl KeptStates {
    /// The state of the version that is wanted, or of an earlier one.
    pub(super) fn get(&self, wanted: &Version, bucket: Bucket) -> Option<BucketState> {
        let mut held = self.held();
        held.uses += 1;
        let now = held.uses;
        let kept = held.by_bucket.get_mut(&(Arc::clone(&wanted.table), bucket));
        let fits = |kept: &&mut Kept| {
            let is_earlier = kept.version <= wanted.version;
            is_earlier && kept.schema == wanted.schema && !kept.state.index().is_damaged()
        };
        let kept = kept.filter(fits)?;
        kept.used = now;
        Some(kept.state.clone())
    }

    /// Keeps the state unless that of a newer version is there.
    pub(super) fn put(&self, of: &Version, bucket: Bucket, state: &BucketState) {
        let mut held = self.held();
        let place = (Arc::clone(&of.table), bucket);
        let known = held.by_bucket.get(&place);
        let newer = |known: &Kept| known.version > of.version && !known.state.index().is_damaged();
        if state.index().is_damaged() || known.is_some_and(newer) {
            return;
        }
        held.uses += 1;
        let kept = Kept {
            version: of.version,
            schema: Arc::clone(&of.schema),
            state: state.clone(),
            weight: weight(state),
            used: held.uses,
        };
        held.weight += kept.weight;
        if let Some(known) = held.by_bucket.insert(place, kept) {
            held.weight -= known.weight;
        }
        held.shrink();
    }

    pub(super) fn forget(&self, table: &str, bucket: Bucket) {
        let mut held = self.held();
        if let Some(kept) = held.by_bucket.remove(&(Arc::from(table), bucket)) {
            held.weight -= kept.weight;
        }
    }

    /// No state is half put where a holder panicked.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn shrink(&mut self) {
        while self.weight > WEIGHT_MAX {
            let oldest = self.by_bucket.iter().min_by_key(|(_, kept)| kept.used);
            let Some(place) = oldest.map(|(place, _)| place.clone()) else {
                break;
            };
            if let Some(kept) = self.by_bucket.remove(&place) {
                self.weight -= kept.weight;
            }
        }
    }
}

fn weight(state: &BucketState) -> u64 {
    let index = state.index();
    let memory = index.memory_bytes() as u64;
    let disk = index.bytes().saturating_sub(memory);
    let files = state.files().iter();
    let files = files.map(|file| file.deleted.bytes() as u64 + FILE_BYTES);
    memory + disk / DISK_SHARE + files.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::KeyKind;
    use crate::rowset::RowSet;
    use crate::state::LiveFile;

    fn version(table: &str, version: u64) -> Version {
        Version {
            table: table.into(),
            schema: "columns".into(),
            version: TableVersion(version),
        }
    }

    /// A state with a file of so many rows, the last one deleted.
    fn state(rows: u32) -> BucketState {
        let mut deleted = RowSet::default();
        deleted.insert(rows - 1);
        let file = LiveFile {
            path: "a".into(),
            rows,
            deleted: Arc::new(deleted),
            vector: None,
        };
        let empty = BucketState::new(KeyKind::Bytes);
        BucketState::of(empty.index().clone(), vec![file])
    }

    #[test]
    fn the_newest_state_of_a_bucket_is_kept() {
        let kept = KeptStates::default();
        let rows = |found: Option<BucketState>| found.map(|state| state.files()[0].rows);
        kept.put(&version("t", 2), Bucket(0), &state(20));
        kept.put(&version("t", 1), Bucket(0), &state(10));
        kept.put(&version("t", 1), Bucket(1), &state(11));
        assert_eq!(rows(kept.get(&version("t", 1), Bucket(0))), None);
        assert_eq!(rows(kept.get(&version("t", 2), Bucket(0))), Some(20));
        assert_eq!(rows(kept.get(&version("t", 9), Bucket(1))), Some(11));
        assert_eq!(rows(kept.get(&version("u", 1), Bucket(1))), None);
        let others = Version {
            schema: "others".into(),
            ..version("t", 3)
        };
        assert_eq!(rows(kept.get(&others, Bucket(0))), None);
        kept.put(&others, Bucket(0), &state(30));
        assert_eq!(rows(kept.get(&version("t", 2), Bucket(0))), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = KeptStates::default();
        // Some 24 MiB each.
        let large = state(200_000_000);
        for bucket in 0..3 {
            kept.put(&version("t", 1), Bucket(bucket), &large);
            kept.get(&version("t", 1), Bucket(0));
        }
        let found: Vec<bool> = (0..3)
            .map(|bucket| kept.get(&version("t", 1), Bucket(bucket)).is_some())
            .collect();
        assert_eq!(found, [true, false, true]);
        assert!(kept.held().weight <= WEIGHT_MAX);
    }
}
