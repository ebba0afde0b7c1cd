//! What a cache holds, and what goes when it is too much.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelake_core::{TableVersion, TopicId};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Derived, Seen};
use crate::error::ManifestError;
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

/// What a cache holds, and what it has saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// About; versions of one table are counted as if they shared nothing.
    pub bytes: u64,
    /// Tables of which a version is held.
    pub tables: u64,
    /// Answers without a request to the store.
    pub hits: u64,
    /// Looks for new commits.
    pub refreshes: u64,
    /// Versions that were read as a whole.
    pub loads: u64,
    /// Versions that had to go.
    pub evictions: u64,
}

impl CacheStats {
    /// What has happened, by name.
    pub fn events(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("hit", self.hits),
            ("refresh", self.refreshes),
            ("load", self.loads),
            ("eviction", self.evictions),
        ]
    }

    /// What is there, by unit.
    pub fn held(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes", self.bytes), ("tables", self.tables)]
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    hits: AtomicU64,
    refreshes: AtomicU64,
    loads: AtomicU64,
    evictions: AtomicU64,
}

impl Counts {
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refreshed(&self) {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn loaded(&self) {
        self.loads.fetch_add(1, Ordering::Relaxed);
    }
}

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

/// One incarnation of a table.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) table: DeltaTable,
    /// One look at the newest version at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) past_turn: tokio::sync::Mutex<()>,
    pub(super) deriving: tokio::sync::Mutex<()>,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    newest: Option<Held>,
    past: Vec<Held>,
    failed: Option<Failed>,
}

/// A look that found the store away.
#[derive(Debug)]
pub(super) struct Failed {
    /// It began then.
    pub(super) at: Instant,
    pub(super) error: Arc<ManifestError>,
}

#[derive(Debug)]
struct Held {
    snapshot: Arc<Snapshot>,
    /// It was the latest then; none where nobody has looked.
    at: Option<Instant>,
    derived: Option<HeldDerived>,
    used: u64,
}

#[derive(Debug, Clone)]
struct HeldDerived {
    value: Arc<dyn Any + Send + Sync>,
    /// Of an earlier version where not; it serves the making of the next one.
    is_of_it: bool,
    bytes: u64,
}

impl Held {
    fn bytes(&self) -> u64 {
        let derived = self.derived.as_ref().map_or(0, |derived| derived.bytes);
        self.snapshot.held_bytes() + derived
    }

    /// Somebody has it, so that forgetting it would free nothing.
    fn is_in_use(&self) -> bool {
        let (own, shared) = match &self.derived {
            Some(derived) => (
                1 + usize::from(derived.is_of_it),
                Arc::strong_count(&derived.value) > 1,
            ),
            None => (1, false),
        };
        shared || Arc::strong_count(&self.snapshot) > own
    }
}

impl Contents {
    fn bytes(&self) -> u64 {
        self.all().map(Held::bytes).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Held> {
        self.newest.iter().chain(&self.past)
    }

    fn of(&mut self, snapshot: &Arc<Snapshot>) -> Option<&mut Held> {
        let mut all = self.newest.iter_mut().chain(&mut self.past);
        all.find(|held| Arc::ptr_eq(&held.snapshot, snapshot))
    }
}

impl Slot {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Nobody panics while holding it.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn newest(&self) -> Option<Arc<Snapshot>> {
        let contents = self.contents();
        let newest = contents.newest.as_ref();
        newest.map(|held| Arc::clone(&held.snapshot))
    }

    /// The newest version, where it is known when it was that.
    pub(super) fn seen(&self, shared: &Shared) -> Option<Seen> {
        let mut contents = self.contents();
        let held = contents.newest.as_mut()?;
        held.used = shared.tick();
        Some(Seen {
            at: held.at?,
            snapshot: Arc::clone(&held.snapshot),
        })
    }

    pub(super) fn at(&self, shared: &Shared, version: TableVersion) -> Option<Arc<Snapshot>> {
        let mut contents = self.contents();
        let contents = &mut *contents;
        let mut all = contents.newest.iter_mut().chain(&mut contents.past);
        let held = all.find(|held| held.snapshot.version() == version)?;
        held.used = shared.tick();
        Some(Arc::clone(&held.snapshot))
    }

    /// Why the store did not answer a look that began after `asked`.
    pub(super) fn failed_since(&self, asked: Instant) -> Option<Arc<ManifestError>> {
        let contents = self.contents();
        let failed = contents.failed.as_ref()?;
        (failed.at >= asked).then(|| Arc::clone(&failed.error))
    }

    pub(super) fn note_failure(&self, failed: Failed) {
        self.contents().failed = Some(failed);
    }

    /// What was worked out from a version or, where nothing was yet, from the one before it; and
    /// whether it is of that version.
    pub(super) fn derived<T: Derived>(&self, of: &Arc<Snapshot>) -> Option<(Arc<T>, bool)> {
        let mut contents = self.contents();
        let derived = contents.of(of)?.derived.clone()?;
        let value = derived.value.downcast().ok()?;
        Some((value, derived.is_of_it))
    }
}

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

    fn tick(&self) -> u64 {
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
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        CacheStats {
            bytes: count(&self.bytes),
            tables: held.count() as u64,
            hits: count(&self.counts.hits),
            refreshes: count(&self.counts.refreshes),
            loads: count(&self.counts.loads),
            evictions: count(&self.counts.evictions),
        }
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
                let is_it = |held: &Held| held.used == used && !held.is_in_use();
                let count = contents.all().count();
                contents.newest = contents.newest.take().filter(|held| !is_it(held));
                contents.past.retain(|held| !is_it(held));
                let evicted = count - contents.all().count();
                self.counts
                    .evictions
                    .fetch_add(evicted as u64, Ordering::Relaxed);
            });
        }
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.contents().all().count() > 0);
        if self.bytes.load(Ordering::Relaxed) > self.bytes_max {
            // So that looking through many tables stays cheap for each use.
            let patience = slots.len() as u64 / ROOM_SHARE;
            self.patient_until.store(uses + patience, Ordering::Relaxed);
        }
    }
}

/// What was worked out from the version before goes on with the next.
fn carried(before: Option<Held>, to: &Arc<Snapshot>) -> Option<HeldDerived> {
    let before = before?;
    let same = Arc::ptr_eq(&before.snapshot, to);
    let derived = before.derived?;
    Some(HeldDerived {
        is_of_it: derived.is_of_it && same,
        ..derived
    })
}
