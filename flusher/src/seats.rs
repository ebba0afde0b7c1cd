//! Every bucket that the group gave us, and what becomes of it: events in, commands out.
//!
//! ```text
//!   assigned ─► Opening ──opened──► Open ──revoked──► Leaving ──flushed, or time is over──► released
//!                 ▲  ▲ └─refused─► Stopped ─┘▲              (revoked from anywhere)
//!                 │  └──retry_at────┘        │
//!                 └───── the table changed, a surprise of the log, another flusher was faster
//! ```
//! Owns which bucket is consumed, paused, flushed, stopped, tried again and given up. It does no I/O,
//! asks no clock and holds no rows: the loop carries the commands out ([`Command`]) and reports what
//! came of them ([`Event`]).
//!
//! Invariants:
//! - a bucket of ours has exactly one seat, from its assignment to its release;
//! - a seat that is not open has a time at which it is tried again, and a stopped one a reason;
//! - a revoked bucket is released at its deadline at the latest, and never opened again before it
//!   is assigned again: answers that belong to an earlier try are ignored;
//! - one flush at a time for a table.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::{Bucket, Watermark};
use tidelake_log::{TopicBucket, topics};

use crate::budget::Budget;
use crate::due::{Limits, Reason};
use crate::policy::{Cause, Moment, Trouble};

/// How long a revocation waits for its flush.
pub const RELEASE_MAX: Duration = Duration::from_secs(10);
/// An opening that was not answered by then is begun anew.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Debug)]
pub enum Event {
    Assigned(Vec<TopicBucket>),
    Revoked(Vec<TopicBucket>),
    /// A try to open these buckets ended.
    Opened {
        topic: Arc<str>,
        attempt: u64,
        ready: Vec<Bucket>,
        refused: Vec<(Bucket, Trouble)>,
    },
    /// Messages were taken in; what the buckets hold now.
    Taken(Vec<(TopicBucket, Held)>),
    /// A bucket can't go on.
    Failed(TopicBucket, Trouble),
    /// The log answered as if the bucket were not what it was: look at the table again.
    Surprised(TopicBucket),
    /// The topic is another now, or gone.
    TopicChanged(Arc<str>),
    /// A flush failed and tries again.
    FlushFailing(Arc<str>, Trouble),
    FlushEnded(Arc<str>, FlushEnd),
    Tick,
    /// Everything is flushed, nothing new begins.
    Drain,
}

/// How a flush ended.
#[derive(Debug)]
pub enum FlushEnd {
    Committed {
        moved: Vec<(Bucket, Watermark)>,
        /// Another flusher was faster: these begin anew at the watermark it left.
        fenced: Vec<Bucket>,
    },
    /// There was nothing to commit.
    Nothing,
    /// The table is another now, or gone: look it up again.
    Changed,
    Stopped(Trouble),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Answer an assignment: nothing of it is consumed yet.
    Begin(Vec<TopicBucket>),
    /// Look the table up.
    Open {
        topic: Arc<str>,
        attempt: u64,
        buckets: Vec<Bucket>,
    },
    /// Consume from the watermark of the table's newest known version.
    Restart(Vec<TopicBucket>),
    /// Give revoked buckets back to the group.
    Release(Vec<TopicBucket>),
    Pause(Vec<TopicBucket>),
    Resume(Vec<TopicBucket>),
    Flush(Arc<str>, Reason),
    /// Tell lag tools.
    Commit(Vec<(TopicBucket, Watermark)>),
    /// Drop what is held in memory: it is in the log.
    Forget(TopicBucket),
    ForgetTable(Arc<str>),
    /// Buckets without rows give their decoders' room back.
    Shrink(Vec<TopicBucket>),
    /// End the table's flush at its next failure.
    GiveWay(Arc<str>),
}

/// What a bucket holds that no flush has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Freed by a flush.
    pub rows: usize,
    /// Kept by the decoder while it holds no rows.
    pub room: usize,
    /// When the oldest of it came in; none where a flush would move no watermark.
    pub since: Option<Moment>,
    /// Somebody waits for a flush.
    pub asked: bool,
}

#[derive(Debug)]
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
struct Seat {
    state: State,
    /// Which of its openings: results of flushes belong to one.
    generation: u64,
    /// Since the last commit.
    failures: u32,
    /// The consumer was told to pause.
    paused: bool,
}

#[derive(Debug, Default)]
struct Table {
    tenant: Arc<str>,
    /// Generations of the buckets whose rows a flush under way holds.
    flight: Option<BTreeMap<Bucket, u64>>,
    /// Of the flush: also of rows whose bucket has begun anew since.
    flying: usize,
    /// Why its commits fail.
    trouble: Option<Trouble>,
    /// The flush was told to end at its next failure.
    giving_way: bool,
}

/// See the module's head.
#[derive(Debug)]
pub struct Seats {
    limits: Limits,
    budget: Budget,
    topic_prefix: String,
    seats: BTreeMap<TopicBucket, Seat>,
    tables: BTreeMap<Arc<str>, Table>,
    /// When revoked buckets are released whatever they hold.
    leave_by: Option<Moment>,
    /// Numbers tries and generations.
    counter: u64,
    out: Vec<Command>,
}

impl Seats {
    pub fn new(limits: Limits, budget: Budget, topic_prefix: &str) -> Self {
        Self {
            limits,
            budget,
            topic_prefix: topic_prefix.to_owned(),
            seats: BTreeMap::new(),
            tables: BTreeMap::new(),
            leave_by: None,
            counter: 0,
            out: Vec::new(),
        }
    }

    /// Takes an event in and says what to do, in this order.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Command> {
        match event {
            Event::Assigned(buckets) => self.assigned(buckets, now),
            Event::Revoked(buckets) => self.revoked(buckets, now),
            Event::Opened {
                topic,
                attempt,
                ready,
                refused,
            } => self.opened(&topic, attempt, ready, refused, now),
            Event::Taken(taken) => self.taken(taken),
            Event::Failed(at, trouble) => self.fail(&at, trouble, now),
            Event::Surprised(at) => {
                self.surprised(&at, now);
                self.retry(now);
            }
            Event::TopicChanged(topic) => {
                for at in self.at_work(&topic) {
                    self.surprised(&at, now);
                }
                self.retry(now);
            }
            Event::FlushFailing(topic, trouble) => self.flush_failing(&topic, trouble),
            Event::FlushEnded(topic, end) => self.flush_ended(&topic, end, now),
            Event::Tick => self.retry(now),
            Event::Drain => self.limits.draining = true,
        }
        self.plan(now);
        std::mem::take(&mut self.out)
    }

    fn assigned(&mut self, buckets: Vec<TopicBucket>, now: Moment) {
        for at in &buckets {
            if self.seats.remove(at).is_some() {
                self.out.push(Command::Forget(at.clone()));
            }
            let table = self.tables.entry(at.topic.clone()).or_default();
            if table.tenant.is_empty() {
                let id = topics::parse_table_topic(&self.topic_prefix, &at.topic);
                table.tenant = id.map_or_else(Arc::default, |id| id.tenant.as_str().into());
            }
            let seat = Seat {
                state: State::Opening {
                    attempt: 0,
                    retry_at: now,
                    why: None,
                },
                generation: 0,
                failures: 0,
                paused: false,
            };
            self.seats.insert(at.clone(), seat);
        }
        // The group's answer must not wait for an object store.
        self.out.push(Command::Begin(buckets));
        self.retry(now);
    }

    fn revoked(&mut self, buckets: Vec<TopicBucket>, now: Moment) {
        for at in buckets {
            let seat = self.seats.entry(at.clone()).or_insert(Seat {
                state: State::Leaving {
                    held: Held::default(),
                    flying: 0,
                },
                generation: 0,
                failures: 0,
                paused: false,
            });
            let (held, flying) = match &seat.state {
                State::Open { held, flying, .. } => (*held, *flying),
                State::Leaving { held, flying } => (*held, *flying),
                State::Opening { .. } | State::Stopped { .. } => (Held::default(), 0),
            };
            seat.state = State::Leaving { held, flying };
            self.tables.entry(at.topic).or_default();
            self.leave_by.get_or_insert(now + RELEASE_MAX);
        }
    }

    /// Tries again what is due; one try for all of a table's buckets that are.
    fn retry(&mut self, now: Moment) {
        if self.limits.draining {
            return;
        }
        let mut tries: BTreeMap<Arc<str>, Vec<Bucket>> = BTreeMap::new();
        for (at, seat) in &self.seats {
            let (State::Opening { retry_at, .. } | State::Stopped { retry_at, .. }) = &seat.state
            else {
                continue;
            };
            // A flush under way is about to move the watermark to begin at.
            let busy = self
                .tables
                .get(&at.topic)
                .is_some_and(|table| table.flight.is_some());
            if *retry_at <= now && !busy {
                tries.entry(at.topic.clone()).or_default().push(at.bucket);
            }
        }
        for (topic, buckets) in tries {
            self.counter += 1;
            for bucket in &buckets {
                let at = TopicBucket {
                    topic: topic.clone(),
                    bucket: *bucket,
                };
                let Some(seat) = self.seats.get_mut(&at) else {
                    continue;
                };
                let why = seat.trouble().cloned();
                seat.state = State::Opening {
                    attempt: self.counter,
                    retry_at: now + OPEN_MAX,
                    why,
                };
            }
            self.out.push(Command::Open {
                topic,
                attempt: self.counter,
                buckets,
            });
        }
    }

    fn opened(
        &mut self,
        topic: &Arc<str>,
        attempt: u64,
        ready: Vec<Bucket>,
        refused: Vec<(Bucket, Trouble)>,
        now: Moment,
    ) {
        let at = |bucket| TopicBucket {
            topic: topic.clone(),
            bucket,
        };
        let mut begun = Vec::new();
        for at in ready.into_iter().map(at) {
            let Some(seat) = self.seats.get_mut(&at).filter(|seat| seat.awaits(attempt)) else {
                continue;
            };
            let why = seat.trouble().filter(|why| why.cause.outlives_opening());
            seat.state = State::Open {
                held: Held::default(),
                flying: 0,
                why: why.cloned(),
            };
            self.counter += 1;
            seat.generation = self.counter;
            // Beginning anew undoes a pause.
            seat.paused = false;
            begun.push(at);
        }
        if !begun.is_empty() {
            self.out.push(Command::Restart(begun));
        }
        for (bucket, trouble) in refused {
            let at = at(bucket);
            if self.seats.get(&at).is_some_and(|seat| seat.awaits(attempt)) {
                self.fail(&at, trouble, now);
            }
        }
    }

    fn taken(&mut self, taken: Vec<(TopicBucket, Held)>) {
        for (at, now_held) in taken {
            let seat = self.seats.get_mut(&at).map(|seat| &mut seat.state);
            if let Some(State::Open { held, .. } | State::Leaving { held, .. }) = seat {
                *held = now_held;
            }
        }
    }

    /// Takes a bucket out of work, until its cause says that it is worth another try.
    fn fail(&mut self, at: &TopicBucket, why: Trouble, now: Moment) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let was_open = match &mut seat.state {
            State::Leaving { held, flying } => {
                (*held, *flying) = (Held::default(), 0);
                self.out.push(Command::Forget(at.clone()));
                return;
            }
            State::Open { .. } => true,
            State::Opening { .. } | State::Stopped { .. } => false,
        };
        let retry_at = now + why.cause.retry(seat.failures);
        seat.failures = seat.failures.saturating_add(1);
        seat.state = if why.cause.is_loud(seat.failures) {
            State::Stopped { retry_at, why }
        } else {
            State::Opening {
                attempt: 0,
                retry_at,
                why: Some(why),
            }
        };
        if was_open {
            seat.paused = true;
            self.out.push(Command::Pause(vec![at.clone()]));
            self.out.push(Command::Forget(at.clone()));
        }
    }

    /// Opens a bucket anew: at once the first time, then with growing waits.
    fn surprised(&mut self, at: &TopicBucket, now: Moment) {
        let Some(seat) = self.seats.get(at) else {
            return;
        };
        match &seat.state {
            State::Opening { .. } | State::Stopped { .. } => return,
            State::Open { .. } | State::Leaving { .. } => {}
        }
        let first = seat.failures == 0;
        let text = "the log did not have what was expected; the table is looked up again";
        self.fail(at, Trouble::new(Cause::NoTable, text), now);
        if let Some(seat) = self.seats.get_mut(at)
            && let State::Opening { retry_at, .. } = &mut seat.state
            && first
        {
            *retry_at = now;
        }
    }

    fn flush_failing(&mut self, topic: &Arc<str>, trouble: Trouble) {
        if let Some(table) = self.tables.get_mut(topic) {
            table.trouble = Some(trouble);
        }
    }

    fn flush_ended(&mut self, topic: &Arc<str>, end: FlushEnd, now: Moment) {
        let Some(table) = self.tables.get_mut(topic) else {
            return;
        };
        (table.flying, table.giving_way) = (0, false);
        let flight = table.flight.take().unwrap_or_default();
        if let FlushEnd::Committed { .. } = end {
            table.trouble = None;
        }
        for (at, seat) in of_topic_mut(&mut self.seats, topic) {
            if let State::Open { flying, .. } | State::Leaving { flying, .. } = &mut seat.state
                && flight.get(&at.bucket) == Some(&seat.generation)
            {
                *flying = 0;
            }
        }
        match end {
            FlushEnd::Nothing => {}
            FlushEnd::Committed { moved, fenced } => {
                self.committed(topic, &flight, moved);
                self.fenced(topic, &flight, fenced);
            }
            FlushEnd::Changed => {
                for at in self.at_work(topic) {
                    self.surprised(&at, now);
                }
            }
            FlushEnd::Stopped(trouble) => {
                for at in self.at_work(topic) {
                    self.fail(&at, trouble.clone(), now);
                }
            }
        }
        self.retry(now);
    }

    fn committed(
        &mut self,
        topic: &Arc<str>,
        flight: &BTreeMap<Bucket, u64>,
        moved: Vec<(Bucket, Watermark)>,
    ) {
        let mut progress = Vec::new();
        for (bucket, to) in moved {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            let Some(seat) = self.seats.get_mut(&at) else {
                continue;
            };
            if flight.get(&bucket) != Some(&seat.generation) {
                continue;
            }
            seat.failures = 0;
            if let State::Open { why, .. } = &mut seat.state {
                *why = None;
            }
            progress.push((at, to));
        }
        if !progress.is_empty() {
            self.out.push(Command::Commit(progress));
        }
    }

    fn fenced(&mut self, topic: &Arc<str>, flight: &BTreeMap<Bucket, u64>, fenced: Vec<Bucket>) {
        let mut begun = Vec::new();
        for bucket in fenced {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            let Some(seat) = self.seats.get_mut(&at) else {
                continue;
            };
            if flight.get(&bucket) != Some(&seat.generation) {
                continue;
            }
            match &mut seat.state {
                State::Open { held, .. } => {
                    *held = Held::default();
                    self.counter += 1;
                    seat.generation = self.counter;
                    seat.paused = false;
                    begun.push(at.clone());
                }
                State::Leaving { held, .. } => *held = Held::default(),
                State::Opening { .. } | State::Stopped { .. } => continue,
            }
            self.out.push(Command::Forget(at));
        }
        if !begun.is_empty() {
            self.out.push(Command::Restart(begun));
        }
    }

    fn at_work(&self, topic: &Arc<str>) -> Vec<TopicBucket> {
        of_topic(&self.seats, topic)
            .filter(|(_, seat)| matches!(seat.state, State::Open { .. } | State::Leaving { .. }))
            .map(|(at, _)| at.clone())
            .collect()
    }
}

impl Seat {
    fn awaits(&self, attempt: u64) -> bool {
        matches!(&self.state, State::Opening { attempt: awaited, .. } if *awaited == attempt)
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

fn of_topic<'a>(
    seats: &'a BTreeMap<TopicBucket, Seat>,
    topic: &Arc<str>,
) -> impl Iterator<Item = (&'a TopicBucket, &'a Seat)> {
    seats.range(range_of(topic))
}

fn of_topic_mut<'a>(
    seats: &'a mut BTreeMap<TopicBucket, Seat>,
    topic: &Arc<str>,
) -> impl Iterator<Item = (&'a TopicBucket, &'a mut Seat)> {
    seats.range_mut(range_of(topic))
}

fn range_of(topic: &Arc<str>) -> std::ops::RangeInclusive<TopicBucket> {
    let at = |bucket| TopicBucket {
        topic: topic.clone(),
        bucket,
    };
    at(Bucket(0))..=at(Bucket(u32::MAX))
}

#[cfg(test)]
mod tests;
