//! Whether a process lives, and what it can do about it.
//!
//! A crash is an end of effects: nothing that a dead process asks for is done any more, and none of
//! its questions is answered, so its tasks stand at the await where it died. That is every await of
//! the process that others can tell from another. Requests that were on their way may still arrive.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tidelake_core::clock::{Clock, SystemClock, UnixMillis};
use tokio::sync::Notify;

use crate::sim::{Sight, Sim, lock};

/// A process's life. It ends once.
#[derive(Debug)]
pub(crate) struct Life {
    pub name: String,
    dead: AtomicBool,
    died: Notify,
    /// Requests to the store until it dies; none where negative.
    requests_left: AtomicI64,
    /// It does not hear from its group.
    deaf: AtomicBool,
    /// By how much its wall clock is wrong.
    skew_ms: AtomicI64,
}

impl Life {
    pub(crate) fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            dead: AtomicBool::new(false),
            died: Notify::new(),
            requests_left: AtomicI64::new(-1),
            deaf: AtomicBool::new(false),
            skew_ms: AtomicI64::new(0),
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self, sim: &Sim) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            sim.note(format_args!("{self} dies"));
            sim.sees(Sight::Crash);
            self.died.notify_one();
        }
    }

    /// Returns when the process has died; one may wait for it.
    pub(crate) async fn ended(&self) {
        if !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// Returns while it lives, never after.
    pub(crate) async fn goes_on(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Dies at the request to the store that follows so many others.
    pub(crate) fn end_after(&self, requests: u64) {
        let requests = i64::try_from(requests).unwrap_or(i64::MAX);
        self.requests_left.store(requests, Ordering::SeqCst);
    }

    /// Counts a request. True for the one that is the last.
    pub(crate) fn ends_with_this(&self) -> bool {
        let left = self.requests_left.load(Ordering::SeqCst);
        if left > 0 {
            self.requests_left.store(left - 1, Ordering::SeqCst);
        }
        left == 0 && !self.is_dead()
    }

    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    pub(crate) fn skew(&self, by_ms: i64) {
        self.skew_ms.store(by_ms, Ordering::SeqCst);
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The wall clock of a process.
#[derive(Debug, Clone)]
pub(crate) struct OwnClock(pub Arc<Life>);

impl Clock for OwnClock {
    fn now_ms(&self) -> UnixMillis {
        SystemClock.now_ms() + self.0.skew_ms.load(Ordering::SeqCst)
    }
}

/// Ids that rise, by a process's clock and the seed.
#[derive(Debug)]
pub(crate) struct OwnIds {
    clock: OwnClock,
    dice: std::sync::Mutex<(crate::dice::Dice, u128)>,
}

impl OwnIds {
    pub(crate) fn new(life: &Arc<Life>, sim: &Sim) -> Self {
        let seed = sim.draw(crate::dice::Dice::number);
        Self {
            clock: OwnClock(life.clone()),
            dice: std::sync::Mutex::new((crate::dice::Dice::new(seed), 0)),
        }
    }
}

impl tidelake_core::ids::IdSource for OwnIds {
    fn next_uuid(&self) -> uuid::Uuid {
        let mut held = lock(&self.dice);
        let (dice, last) = &mut *held;
        let bytes: [u8; 10] = std::array::from_fn(|_| dice.number() as u8);
        let ms = u64::try_from(self.clock.now_ms()).unwrap_or(0);
        let new = uuid::Builder::from_unix_timestamp_millis(ms, &bytes).into_uuid();
        // As one source's do, also where the clock was turned back.
        *last = new.as_u128().max(*last + 1);
        uuid::Uuid::from_u128(*last)
    }
}

/// As long as a group waits for a member that it does not hear of.
pub(crate) const SESSION: Duration = Duration::from_secs(6);
