//! Memory of all tails of the process: one budget, taken before anything is decoded.
//!
//! Invariants: what is decoded has room before it is there, by estimate, and is counted as what it
//! is once it is there; what is counted is given back with its last holder, a query that still
//! reads an older view among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::moment;

/// Room is asked for in steps of this size while there is enough.
const STEP_BYTES: usize = 1 << 20;

/// What all tails together may hold.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

/// What one table may decode now.
#[derive(Debug)]
pub(super) struct Room {
    held: Held,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            used: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    pub(super) fn free(&self) -> usize {
        self.bytes_max.saturating_sub(self.used())
    }

    /// The share that is in use.
    pub(super) fn filled(&self) -> f64 {
        self.used() as f64 / self.bytes_max.max(1) as f64
    }

    /// Nothing of it, to begin with.
    pub(super) fn nothing(self: &Arc<Self>) -> Held {
        Held {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }

    /// True once so much is free; false where it is not in time.
    pub(super) async fn wait_free(&self, bytes: usize, time: Duration) -> bool {
        let until = moment::now() + time;
        loop {
            let freed = self.freed.notified();
            if self.free() >= bytes {
                return true;
            }
            if moment::by(until, freed).await.is_err() {
                return false;
            }
        }
    }
}

impl Held {
    /// Takes more where there is room for it.
    fn grow(&mut self, bytes: usize) -> bool {
        let room = |used: usize| {
            let used = used.checked_add(bytes)?;
            (used <= self.budget.bytes_max).then_some(used)
        };
        let taken = &self.budget.used;
        if taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, room)
            .is_err()
        {
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Counts what is there: more than there is room for, where an estimate was too low.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            let more = bytes - self.bytes;
            self.budget.used.fetch_add(more, Ordering::SeqCst);
        } else {
            let less = self.bytes - bytes;
            self.budget.used.fetch_sub(less, Ordering::SeqCst);
            self.budget.freed.notify_waiters();
        }
        self.bytes = bytes;
    }

    /// A part of its own, as far as this one goes.
    pub(super) fn part(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: Arc::clone(&self.budget),
            bytes,
        }
    }

    /// Nothing, of the same budget.
    pub(super) fn nothing(&self) -> Self {
        self.budget.nothing()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Room {
    /// `bytes_max`: what the table itself may still take.
    pub(super) fn new(budget: &Arc<Budget>, bytes_max: usize) -> Self {
        let held = budget.nothing();
        Self { held, bytes_max }
    }

    /// True where there is room for so much in all, which is taken.
    pub(super) fn cover(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes_max {
            return false;
        }
        let Some(more) = bytes.checked_sub(self.held.bytes) else {
            return true;
        };
        let step = more.max(STEP_BYTES).min(self.bytes_max - self.held.bytes);
        more == 0 || self.held.grow(step) || self.held.grow(more)
    }

    pub(super) fn part(&mut self, bytes: usize) -> Held {
        self.held.part(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_with_its_last_holder() {
        let budget = Budget::new(3 * STEP_BYTES);
        let mut room = Room::new(&budget, 2 * STEP_BYTES);
        assert!(room.cover(10));
        assert_eq!(budget.used(), STEP_BYTES);
        assert!(room.cover(STEP_BYTES + 1));
        assert_eq!(budget.used(), 2 * STEP_BYTES);
        assert!(!room.cover(2 * STEP_BYTES + 1), "the table's own bound");
        let mut piece = room.part(100);
        drop(room);
        assert_eq!(budget.used(), 100);
        piece.set(5 * STEP_BYTES);
        assert_eq!((budget.used(), budget.free()), (5 * STEP_BYTES, 0));
        assert!(!Room::new(&budget, 1).cover(1));
        drop(piece);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_last_bytes_are_found_in_smaller_steps() {
        let budget = Budget::new(100);
        let mut room = Room::new(&budget, usize::MAX);
        assert!(room.cover(40) && room.cover(100));
        assert!(!room.cover(101));
        assert_eq!(budget.used(), 100);
    }

    #[tokio::test]
    async fn room_is_waited_for() {
        let budget = Budget::new(100);
        let mut held = budget.nothing();
        held.set(60);
        assert!(!budget.wait_free(50, Duration::from_millis(5)).await);
        let wait = budget.wait_free(50, Duration::from_secs(20));
        let give = async { drop(held) };
        assert!(futures::join!(wait, give).0);
    }
}
