//! Which records of one source may be sent to one target now: a window over what the log has not
//! acknowledged.
//!
//! ```text
//!   acknowledged │ first unacknowledged … at most ORIGIN_WINDOW records … │ not sent yet
//!                └ floor: everything misrouted below it is in the target's log
//! ```
//! Owns the order and the bound; sending, and the header that carries the floor, are the caller's.
//!
//! Invariants, on which the receiver relies:
//! - no record is given out while one that stands [`ORIGIN_WINDOW`] places before it is
//!   unacknowledged, so whoever remembers the floor and that many origins above it knows them all;
//! - of one key, no record is given out while an older one is unacknowledged: one that had to be
//!   sent again would arrive behind a newer one, and win;
//! - the floor never passes a record that is not settled;
//! - a record that failed is given out again, before any that was never sent; one that is settled
//!   never is.

use tidelake_core::Offset;
use tidelake_intake::ORIGIN_WINDOW;

/// One source's records for one target, in rising order of their offsets.
#[derive(Debug)]
pub(crate) struct Window {
    offsets: Vec<Offset>,
    /// Hashes: two keys that share one only wait for each other.
    keys: Vec<u64>,
    states: Vec<State>,
    /// Everything before it is settled.
    first: usize,
    /// Everything from it on was never sent.
    fresh: usize,
    width: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    Settled,
}

/// A record to send: its place in the list, and the floor to say with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub index: usize,
    pub floor: Offset,
}

impl Window {
    /// Of records by their offsets, which rise strictly, and hashes of their keys.
    pub(crate) fn new(records: impl IntoIterator<Item = (Offset, u64)>) -> Self {
        let (offsets, keys): (Vec<_>, Vec<_>) = records.into_iter().unzip();
        debug_assert!(offsets.is_sorted_by(|a, b| a < b));
        Self {
            states: vec![State::Waiting; offsets.len()],
            offsets,
            keys,
            first: 0,
            fresh: 0,
            width: ORIGIN_WINDOW,
        }
    }

    /// The next record to send; it counts as sent from here on.
    pub(crate) fn next(&mut self) -> Option<Due> {
        let floor = *self.offsets.get(self.first)?;
        let end = self.offsets.len().min(self.first + self.width);
        let index = (self.first..end)
            .find(|&index| self.states[index] == State::Waiting && !self.follows_its_key(index))?;
        self.states[index] = State::Sent;
        self.fresh = self.fresh.max(index + 1);
        Some(Due { index, floor })
    }

    /// True where an older record of the same key is not settled.
    fn follows_its_key(&self, index: usize) -> bool {
        (self.first..index).any(|older| {
            self.states[older] != State::Settled && self.keys[older] == self.keys[index]
        })
    }

    /// The log has the record, or it was dealt with in another way: it is never sent again.
    pub(crate) fn settled(&mut self, index: usize) {
        if let Some(state) = self.states.get_mut(index) {
            *state = State::Settled;
        }
        while self.states.get(self.first) == Some(&State::Settled) {
            self.first += 1;
        }
    }

    /// Whether the log has the record is not known: it is sent again.
    pub(crate) fn failed(&mut self, index: usize) {
        if let Some(state @ State::Sent) = self.states.get_mut(index) {
            *state = State::Waiting;
        }
    }

    /// What is on its way counts as failed: nobody waits for its acknowledgement any more.
    pub(crate) fn interrupted(&mut self) {
        for index in self.first..self.fresh {
            self.failed(index);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.first == self.offsets.len()
    }
}

#[cfg(test)]
mod tests;
