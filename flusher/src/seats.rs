//! Every bucket that the group gave us, and what becomes of it: events in, commands out.
//!
//! ```text
//!   assigned ─► Opening ──opened──► Open ──revoked──► Leaving ──flushed, or time over──► released
//!                 ▲  ▲ └─refused─► Stopped ─┘▲           (revoked from anywhere)
//!                 │  └──retry_at────┘        │
//!                 └───── the table changed, a surprise of the log, another flusher was faster
//! ```
//! Owns which bucket is consumed, paused, flushed, stopped, tried again and given up. It does no
//! I/O, asks no clock and holds no rows: the loop carries the commands out ([`Command`]) and
//! reports what came of them ([`Event`]).
//!
//! Invariants:
//! - a bucket of ours has exactly one seat, from its assignment to its release;
//! - a seat that is not open has a time at which it is tried again, and a stopped one a reason;
//! - a revoked bucket is released at its deadline at the latest, and never opened again before it
//!   is assigned again: answers that belong to an earlier try are ignored;
//! - one flush at a time for a table;
//! - buckets that are open at one time were opened on one incarnation of their table: where another
//!   is found, or none, those of the earlier begin anew.

mod assignment;
mod events;
mod flights;
mod incarnation;
mod ledger;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::{Bucket, Watermark};
use tidelake_log::{TopicBucket, topics};

pub(crate) use events::{Command, Event, FlushEnd, Found, Held, Incarnation};

use crate::budget::Budget;
use crate::due::{Limits, Reason};
use crate::policy::{Cause, Moment, Trouble};
use ledger::Ledger;

/// How long a revocation waits for its flush.
pub(crate) const RELEASE_MAX: Duration = Duration::from_secs(10);
/// An opening that was not answered by then is begun anew.
const OPEN_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum State {
    Opening {
        attempt: u64,
        retry_at: Moment,
        why: Option<Trouble>,
    },
    Open {
        held: Held,
        flying: usize,
        why: Option<Trouble>,
    },
    Leaving {
        held: Held,
        flying: usize,
    },
    Stopped {
        retry_at: Moment,
        why: Trouble,
    },
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Seat {
    state: State,
    /// Which of its openings: results of flushes belong to one.
    generation: u64,
    /// Since the last commit.
    failures: u32,
    /// The consumer was told to pause.
    paused: bool,
    /// It is read, and nothing comes although the log goes on.
    stalled: Option<Trouble>,
}

/// A flush under way.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Flight {
    of: Option<Incarnation>,
    /// Generations of the buckets whose rows it holds.
    buckets: BTreeMap<Bucket, u64>,
}

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Table {
    tenant: Arc<str>,
    /// The one that open buckets were opened on.
    incarnation: Option<Incarnation>,
    flight: Option<Flight>,
    /// Rows of the flush: also those whose bucket has begun anew since.
    flying: usize,
    /// What the flush holds beside them.
    beside: usize,
    /// What key indexes hold.
    index: usize,
    /// Why its commits fail.
    trouble: Option<Trouble>,
    /// The flush was told to end at its next failure.
    giving_way: bool,
    /// Flushes by age, one after another, that found next to nothing.
    calm: u32,
    /// When the last flush began.
    flushed_at: Option<Moment>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Seats {
    limits: Limits,
    budget: Budget,
    topic_prefix: String,
    ledger: Ledger,
    /// Tables that wait for memory.
    paused: BTreeSet<Arc<str>>,
    /// Tables that this event changed.
    touched: BTreeSet<Arc<str>>,
    /// When revoked buckets are released whatever they hold.
    leave_by: Option<Moment>,
    /// A seat or a flush of these went: they may have none left.
    tidy: BTreeSet<Arc<str>>,
    /// Numbers tries and generations.
    counter: u64,
    out: Vec<Command>,
}

impl Seats {
    pub(crate) fn new(limits: Limits, budget: Budget, topic_prefix: &str) -> Self {
        Self {
            limits,
            budget,
            topic_prefix: topic_prefix.to_owned(),
            ledger: Ledger::default(),
            paused: BTreeSet::new(),
            touched: BTreeSet::new(),
            leave_by: None,
            tidy: BTreeSet::new(),
            counter: 0,
            out: Vec::new(),
        }
    }

    /// Takes an event in and says what to do, in this order.
    pub(crate) fn on(&mut self, event: Event, now: Moment) -> Vec<Command> {
        match event {
            Event::Assigned(buckets) => self.assigned(buckets, now),
            Event::Revoked(buckets) => self.revoked(buckets, now),
            Event::Opened {
                topic,
                attempt,
                found,
                ready,
                refused,
            } => {
                self.found(&topic, found, now);
                self.opened(&topic, attempt, ready, refused, now);
            }
            Event::CaughtUp(topic, buckets) => self.caught_up(&topic, buckets),
            Event::Taken(taken) => self.taken(taken),
            Event::Failed(at, trouble) => self.fail(&at, trouble, now),
            Event::Surprised(at) => {
                self.surprised(&at, now);
                self.retry(now);
            }
            Event::Stalled(at, trouble) => {
                if let Some(seat) = self.ledger.seat_mut(&at) {
                    seat.stalled = trouble;
                }
            }
            Event::TableChanged(topic) => {
                for at in self.at_work(&topic) {
                    self.surprised(&at, now);
                }
                self.retry(now);
            }
            Event::FlushHolds(topic, bytes) => {
                if let Some(table) = self.ledger.table_mut(&topic) {
                    table.beside = bytes;
                }
            }
            Event::IndexHolds(topic, bytes) => {
                if let Some(table) = self.ledger.table_mut(&topic) {
                    table.index = bytes;
                }
            }
            Event::FlushFailing(topic, trouble) => self.flush_failing(&topic, trouble),
            Event::FlushEnded(topic, end) => self.flush_ended(&topic, end, now),
            Event::Tick => self.retry(now),
            Event::Drain => {
                self.limits.draining = true;
                self.ledger.all_changed();
            }
        }
        self.plan(now);
        std::mem::take(&mut self.out)
    }

    fn taken(&mut self, taken: Vec<(TopicBucket, Held)>) {
        for (at, now_held) in taken {
            let seat = self.ledger.seat_mut(&at).map(|seat| &mut seat.state);
            if let Some(State::Open { held, .. } | State::Leaving { held, .. }) = seat {
                *held = now_held;
            }
        }
    }
}

impl Seat {
    fn new(state: State) -> Self {
        Self {
            state,
            generation: 0,
            failures: 0,
            paused: false,
            stalled: None,
        }
    }

    fn awaits(&self, attempt: u64) -> bool {
        matches!(&self.state, State::Opening { attempt: awaited, .. } if *awaited == attempt)
    }

    /// Messages of it may come.
    fn is_fetched(&self) -> bool {
        matches!(self.state, State::Open { .. }) && !self.paused && self.stalled.is_none()
    }

    /// Why it does not, or did not, go on.
    fn trouble(&self) -> Option<&Trouble> {
        match &self.state {
            State::Opening { why, .. } | State::Open { why, .. } => why.as_ref(),
            State::Stopped { why, .. } => Some(why),
            State::Leaving { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
