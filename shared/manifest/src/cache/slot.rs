//! One table of a cache: its versions, and whose turn it is to look for a newer one.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelake_core::TableVersion;
use tokio::time::Instant;

use super::hold::Shared;
use super::{Derived, Seen};
use crate::error::ManifestError;
use crate::snapshot::Snapshot;
use crate::table::DeltaTable;

/// One incarnation of a table.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) table: DeltaTable,
    /// One look at the newest version at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) past_turn: tokio::sync::Mutex<()>,
    pub(super) deriving: tokio::sync::Mutex<()>,
    pub(super) contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) newest: Option<Held>,
    pub(super) past: Vec<Held>,
    pub(super) failed: Option<Failed>,
}

/// A look that found the store away.
#[derive(Debug)]
pub(super) struct Failed {
    /// It began then.
    pub(super) at: Instant,
    pub(super) error: Arc<ManifestError>,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) snapshot: Arc<Snapshot>,
    /// It was the latest then; none where nobody has looked.
    pub(super) at: Option<Instant>,
    pub(super) derived: Option<HeldDerived>,
    pub(super) used: u64,
}

#[derive(Debug, Clone)]
pub(super) struct HeldDerived {
    pub(super) value: Arc<dyn Any + Send + Sync>,
    /// Of an earlier version where not; it serves the making of the next one.
    pub(super) is_of_it: bool,
    pub(super) bytes: u64,
}

impl Held {
    pub(super) fn bytes(&self) -> u64 {
        let derived = self.derived.as_ref().map_or(0, |derived| derived.bytes);
        self.snapshot.held_bytes() + derived
    }

    /// Somebody has it, so that forgetting it would free nothing.
    pub(super) fn is_in_use(&self) -> bool {
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
    pub(super) fn bytes(&self) -> u64 {
        self.all().map(Held::bytes).sum()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Held> {
        self.newest.iter().chain(&self.past)
    }

    pub(super) fn of(&mut self, snapshot: &Arc<Snapshot>) -> Option<&mut Held> {
        let mut all = self.newest.iter_mut().chain(&mut self.past);
        all.find(|held| Arc::ptr_eq(&held.snapshot, snapshot))
    }
}

impl Slot {
    pub(super) fn contents(&self) -> MutexGuard<'_, Contents> {
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

/// What was worked out from the version before goes on with the next.
pub(super) fn carried(before: Option<Held>, to: &Arc<Snapshot>) -> Option<HeldDerived> {
    let before = before?;
    let same = Arc::ptr_eq(&before.snapshot, to);
    let derived = before.derived?;
    Some(HeldDerived {
        is_of_it: derived.is_of_it && same,
        ..derived
    })
}
