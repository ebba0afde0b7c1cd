//! What is held of all tables together, and what goes when it is too much.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelake_core::TopicId;
use tokio::sync::Semaphore;

use super::slot::{Contents, Held, HeldDerived, Slot, carried};
use super::stats::{CacheStats, Counts};
use super::{Derived, Seen};
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;

/// Tables whose whole state is read at the same time.
const LOADS_MAX: usize = 16;
/// Past versions of one table.
const PAST_MAX: usize = 4;
/// An eviction makes room for more than the one who needs it: one n-th of the bound.
const ROOM_SHARE: u64 = 8;
/// Tables that are never looked through for those that nobody knows any more.
const SLOTS_MIN: usize = 1024;

/// Lock order: the table of slots, then a slot's contents.
#[derive(Debug)]
pub(super) struct Shared {
    bytes_max: u64,
    bytes: AtomicU64,
    /// Rises with each use.
    uses: AtomicU64,
    /// No look through all tables before so many uses: the last one found everything in use.
    patient_until: AtomicU64,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    pub(super) loading: Semaphore,
    pub(super) counts: Counts,
}

type Key = (String, TopicId);

impl Shared {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            patient_until: AtomicU64::new(0),
            slots: Mutex::default(),
            loading: Semaphore::new(LOADS_MAX),
            counts: Counts::default(),
        }
    }

    pub(super) fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(
        &self,
        location: &str,
        incarnation: TopicId,
        table: impl FnOnce() -> DeltaTable,
    ) -> Arc<Slot> {
        let mut slots = self.slots();
        let key = (location.to_owned(), incarnation);
        if let Some(slot) = slots.get(&key) {
            return Arc::clone(slot);
        }
        // At each doubling, so that it costs little for each table.
        if slots.len() >= SLOTS_MIN && slots.len().is_power_of_two() {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.newest().is_some());
        }
        let slot = Arc::new(Slot {
            table: table(),
            turn: tokio::sync::Mutex::default(),
            past_turn: tokio::sync::Mutex::default(),
            deriving: tokio::sync::Mutex::default(),
            contents: Mutex::default(),
        });
        slots.insert(key, Arc::clone(&slot));
        slot
    }

    #[cfg(test)]
    pub(super) fn slot_count(&self) -> usize {
        self.slots().len()
    }

    pub(super) fn stats(&self) -> CacheStats {
        let slots = self.slots();
        let held = slots.values().filter(|slot| slot.newest().is_some());
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.counts.stats(bytes, held.count() as u64)
    }

    /// Keeps what a look found. `before` is what it began with: where another version has been
    /// offered since, the later of the two counts, and it was the latest at that moment as well.
    pub(super) fn put_newest(
        &self,
        slot: &Slot,
        before: Option<&Arc<Snapshot>>,
        found: Seen,
    ) -> Seen {
        let seen = self.change(slot, |contents| {
            contents.failed = None;
            let held = contents.newest.take();
            let offered = held.as_ref().is_some_and(|held| {
                let is_new = before.is_none_or(|before| !Arc::ptr_eq(before, &held.snapshot));
                is_new && held.snapshot.version() > found.snapshot.version()
            });
            let snapshot = match &held {
                Some(held) if offered => Arc::clone(&held.snapshot),
                _ => found.snapshot,
            };
            contents.newest = Some(Held {
                derived: carried(held, &snapshot),
                at: Some(found.at),
                used: self.tick(),
                snapshot: Arc::clone(&snapshot),
            });
            Seen {
                snapshot,
                at: found.at,
            }
        });
        self.evict();
        seen
    }

    pub(super) fn offer(&self, slot: &Slot, snapshot: &Arc<Snapshot>) {
        self.change(slot, |contents| {
            let held = contents.newest.take();
            let is_later = held.as_ref().is_none_or(|held| {
                let held = &held.snapshot;
                // The same version with a checkpoint written since is the better one.
                held.metadata().id == snapshot.metadata().id
                    && (held.version, held.checkpoint) < (snapshot.version, snapshot.checkpoint)
            });
            if !is_later {
                contents.newest = held;
                return;
            }
            contents.newest = Some(Held {
                at: held.as_ref().and_then(|held| held.at),
                derived: carried(held, snapshot),
                used: self.tick(),
                snapshot: Arc::clone(snapshot),
            });
        });
        self.evict();
    }

    pub(super) fn put_past(&self, slot: &Slot, snapshot: &Arc<Snapshot>) {
        self.change(slot, |contents| {
            if contents.past.len() == PAST_MAX {
                let oldest = contents.past.iter().enumerate();
                let oldest = oldest.min_by_key(|(_, held)| held.used);
                if let Some((place, _)) = oldest {
                    contents.past.swap_remove(place);
                }
            }
            contents.past.push(Held {
                snapshot: Arc::clone(snapshot),
                at: None,
                derived: None,
                used: self.tick(),
            });
        });
        self.evict();
    }

    /// Keeps what was worked out from a version for as long as the version is held.
    pub(super) fn attach<T: Derived>(&self, slot: &Slot, value: &Arc<T>) {
        let value = Arc::clone(value);
        self.change(slot, |contents| {
            if let Some(held) = contents.of(value.snapshot()) {
                held.derived = Some(HeldDerived {
                    bytes: value.held_bytes(),
                    is_of_it: true,
                    value,
                });
            }
        });
        self.evict();
    }

    pub(super) fn forget(&self, slot: &Slot) {
        self.change(slot, |contents| *contents = Contents::default());
    }

    /// Every change of what is held comes through here, so that the sum stays true.
    fn change<R>(&self, slot: &Slot, change: impl FnOnce(&mut Contents) -> R) -> R {
        let mut contents = slot.contents();
        let before = contents.bytes();
        let result = change(&mut contents);
        let after = contents.bytes();
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    /// Drops what was used longest ago and by nobody now, where more is held than may be.
    fn evict(&self) {
        let uses = self.uses.load(Ordering::Relaxed);
        if self.bytes.load(Ordering::Relaxed) <= self.bytes_max
            || uses < self.patient_until.load(Ordering::Relaxed)
        {
            return;
        }
        let target = self.bytes_max - self.bytes_max / ROOM_SHARE;
        // Giving a large list of files back takes its time: only after the locks.
        let mut gone = Vec::new();
        let mut slots = self.slots();
        let mut idle = Vec::new();
        for slot in slots.values() {
            let contents = slot.contents();
            let unused = contents.all().filter(|held| !held.is_in_use());
            idle.extend(unused.map(|held| (held.used, Arc::clone(slot))));
        }
        idle.sort_unstable_by_key(|(used, _)| *used);
        for (used, slot) in idle {
            if self.bytes.load(Ordering::Relaxed) <= target {
                break;
            }
            self.change(&slot, |contents| {
                // Whoever has used it meanwhile keeps it.
                let is_it = |held: &mut Held| held.used == used && !held.is_in_use();
                gone.extend(contents.newest.take_if(is_it));
                gone.extend(contents.past.extract_if(.., is_it));
            });
        }
        self.counts.evicted(gone.len() as u64);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.contents().all().count() > 0);
        if self.bytes.load(Ordering::Relaxed) > self.bytes_max {
            // So that looking through many tables stays cheap for each use.
            let patience = slots.len() as u64 / ROOM_SHARE;
            self.patient_until.store(uses + patience, Ordering::Relaxed);
        }
        drop(slots);
        drop(gone);
    }
}
