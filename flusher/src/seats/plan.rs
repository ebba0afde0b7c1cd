//! What follows from what the seats hold: flushes, pauses, releases; and what others may know.

use super::*;
use crate::budget::Holding;
use crate::due::{Load, due};

impl Seats {
    pub(super) fn plan(&mut self, now: Moment) {
        let (topics, loads, holdings) = self.loads(now);
        let held = Budget::held(&holdings);
        let limits = Limits {
            pressure_bytes: self.budget.pressure_bytes(&holdings),
            ..self.limits
        };
        self.awaits_markers = false;
        for load in &loads {
            self.awaits_markers |= load.asked.is_some() && load.awaits_markers && !load.busy;
        }
        for (index, reason) in due(&loads, &limits, held) {
            self.calm(&topics[index], &loads[index], reason, now);
            self.flush(&topics[index], reason);
        }
        self.balance(&topics, &holdings, now);
        self.release(now);
    }

    /// What each table holds, for flushes and for the budget.
    fn loads(&self, now: Moment) -> (Vec<Arc<str>>, Vec<Load>, Vec<Holding>) {
        let (mut topics, mut loads, mut holdings) = (Vec::new(), Vec::new(), Vec::new());
        let mut seats = self.seats.iter().peekable();
        for (topic, table) in &self.tables {
            let mut load = Load {
                bytes: 0,
                weight: 0,
                age: None,
                asked: None,
                awaits_markers: false,
                calm: table.calm,
                leaving: false,
                busy: table.flight.is_some(),
            };
            let mut holding = Holding {
                tenant: table.tenant.clone(),
                flying: table.flying,
                index: table.index,
                troubled: table.trouble.is_some(),
                ..Holding::default()
            };
            let mut next_beside = 0;
            while let Some((_, seat)) = seats.next_if(|(at, _)| at.topic <= *topic) {
                let (State::Open { held, .. } | State::Leaving { held, .. }) = &seat.state else {
                    continue;
                };
                let leaving = matches!(seat.state, State::Leaving { .. });
                let age = |since: Moment| now.saturating_sub(since);
                load.bytes += held.rows;
                load.weight += held.rows + held.beside;
                load.age = load.age.max(held.since.map(age));
                load.asked = load.asked.max(held.asked.map(age));
                // Nothing comes through a bucket that is not fetched.
                load.awaits_markers |= held.asked.is_none() && !leaving && seat.is_fetched();
                load.leaving |= leaving && held.since.is_some();
                holding.rows += held.rows;
                next_beside += held.beside;
                holding.room += held.room;
            }
            let since = load.age.map(|age| now.saturating_sub(age));
            let pause = since.and_then(|since| Some(since.saturating_sub(table.flushed_at?)));
            if pause.is_some_and(|pause| pause > self.limits.age(load.calm)) {
                load.calm = 0;
            }
            // One flush at a time: the next one takes what the one before it gives back.
            holding.beside = table.beside.max(next_beside);
            topics.push(topic.clone());
            loads.push(load);
            holdings.push(holding);
        }
        (topics, loads, holdings)
    }

    /// Notes how little a flush finds.
    fn calm(&mut self, topic: &Arc<str>, load: &Load, reason: Reason, now: Moment) {
        let Some(table) = self.tables.get_mut(topic) else {
            return;
        };
        let oldest = load.age.map(|age| now.saturating_sub(age));
        let pause = oldest.and_then(|oldest| Some(oldest.saturating_sub(table.flushed_at?)));
        table.calm = self.limits.calm_after(load, reason, pause);
        table.flushed_at = Some(now);
    }

    /// Pauses and resumes, and takes memory back.
    fn balance(&mut self, topics: &[Arc<str>], holdings: &[Holding], now: Moment) {
        let verdict = self.budget.decide(holdings);
        for &index in &verdict.give_way {
            self.give_way(&topics[index], now);
        }
        let (mut pause, mut resume, mut shrink) = (Vec::new(), Vec::new(), Vec::new());
        let mut index = 0;
        for (at, seat) in &mut self.seats {
            while topics.get(index).is_some_and(|topic| *topic < at.topic) {
                index += 1;
            }
            let State::Open { held, .. } = &mut seat.state else {
                continue;
            };
            let wanted = verdict.paused.contains(&index);
            if wanted != seat.paused {
                seat.paused = wanted;
                let list = if wanted { &mut pause } else { &mut resume };
                list.push(at.clone());
            }
            if verdict.shrink && held.room > 0 {
                held.room = 0;
                shrink.push(at.clone());
            }
        }
        let lists = [
            (pause, Command::Pause as fn(_) -> _),
            (resume, Command::Resume),
            (shrink, Command::Shrink),
        ];
        for (list, command) in lists {
            if !list.is_empty() {
                self.out.push(command(list));
            }
        }
    }

    /// Gives revoked buckets up once they are flushed, or their time is over. All at once: the
    /// group takes one answer to a revocation.
    fn release(&mut self, now: Moment) {
        if let Some(leave_by) = self.leave_by {
            let pending = self.seats.values().any(|seat| match &seat.state {
                State::Leaving { held, flying } => held.since.is_some() || *flying > 0,
                _ => false,
            });
            if !pending || now >= leave_by {
                self.leave_by = None;
                self.tidy = true;
                let leaving = |seat: &Seat| matches!(seat.state, State::Leaving { .. });
                let gone = self.seats.extract_if(.., |_, seat| leaving(seat));
                let gone: Vec<_> = gone.map(|(at, _)| at).collect();
                self.out.extend(gone.iter().cloned().map(Command::Forget));
                self.out.push(Command::Release(gone));
            }
        }
        if std::mem::take(&mut self.tidy) {
            self.forget_tables();
        }
    }

    /// Lets go of tables whose buckets are all another flusher's. One whose flush is still under
    /// way is known until that has ended, but no longer troubled: that is for the other one to
    /// tell.
    fn forget_tables(&mut self) {
        let seats = &self.seats;
        let without_seats = |topic: &Arc<str>| of_topic(seats, topic).next().is_none();
        let unused = self.tables.extract_if(.., |topic, table| {
            table.flight.is_none() && without_seats(topic)
        });
        let unused = unused.map(|(topic, _)| Command::ForgetTable(topic));
        self.out.extend(unused);
        let mut ending = Vec::new();
        for (topic, table) in &mut self.tables {
            if without_seats(topic) {
                table.trouble = None;
                ending.push(topic.clone());
            }
        }
        for topic in ending {
            self.end_flight(&topic);
        }
    }

    /// Everything that stands still, and why: buckets by name, tables whose commits fail.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (&Arc<str>, Option<Bucket>, &Trouble)> {
        let stopped = self.seats.iter().filter_map(|(at, seat)| {
            let why = seat
                .trouble()
                .filter(|why| why.cause.is_loud(seat.failures));
            let why = why.or(seat.stalled.as_ref())?;
            Some((&at.topic, Some(at.bucket), why))
        });
        let failing = self
            .tables
            .iter()
            .filter_map(|(topic, table)| table.trouble.as_ref().map(|why| (topic, None, why)));
        stopped.chain(failing)
    }

    /// All buckets of ours, and whether each is consumed.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (&TopicBucket, bool)> {
        self.seats
            .iter()
            .map(|(at, seat)| (at, matches!(seat.state, State::Open { .. })))
    }

    /// True where the catalog has no table for the bucket, and nobody is told of it.
    pub(crate) fn has_quietly_no_table(&self, at: &TopicBucket) -> bool {
        let Some(seat) = self.seats.get(at) else {
            return false;
        };
        let cause = seat.trouble().map(|why| why.cause);
        cause.is_some_and(|cause| cause.is_no_table() && !cause.is_loud(seat.failures))
    }

    /// How many buckets' topics belong to no table of the catalog.
    pub(crate) fn without_table(&self) -> usize {
        let troubles = self.seats.values().filter_map(Seat::trouble);
        troubles.filter(|why| why.cause.is_no_table()).count()
    }

    /// Why a bucket is not consumed.
    pub(crate) fn trouble_of(&self, at: &TopicBucket) -> Option<&Trouble> {
        self.seats.get(at)?.trouble()
    }

    pub(crate) fn owns(&self, at: &TopicBucket) -> bool {
        self.seats.contains_key(at)
    }

    pub(crate) fn is_open(&self, at: &TopicBucket) -> bool {
        let state = self.seats.get(at).map(|seat| &seat.state);
        matches!(state, Some(State::Open { .. }))
    }

    pub(crate) fn has_table(&self, topic: &Arc<str>) -> bool {
        self.tables.contains_key(topic)
    }

    /// Buckets that the consumer fetches nothing for: nobody sees their logs grow.
    pub(crate) fn unwatched(&self) -> impl Iterator<Item = &TopicBucket> {
        self.seats
            .iter()
            .filter(|(_, seat)| seat.paused || !matches!(seat.state, State::Open { .. }))
            .map(|(at, _)| at)
    }

    /// Nothing is held and nothing is under way.
    pub(crate) fn is_drained(&self) -> bool {
        self.tables.values().all(|table| table.flight.is_none())
            && self.seats.values().all(|seat| match &seat.state {
                State::Open { held, .. } | State::Leaving { held, .. } => held.since.is_none(),
                State::Opening { .. } | State::Stopped { .. } => true,
            })
    }

    /// Nothing is waited for but messages.
    pub(crate) fn is_quiet(&self) -> bool {
        self.leave_by.is_none() && self.is_drained()
    }

    /// A flush waits for markers, which come within moments or not at all.
    pub(crate) fn awaits_markers(&self) -> bool {
        self.awaits_markers
    }

    pub(crate) fn memory(&self, now: Moment) -> Memory {
        let (_, _, holdings) = self.loads(now);
        Memory {
            rows: holdings.iter().map(|table| table.rows + table.flying).sum(),
            all: Budget::held(&holdings) + Budget::indexes(&holdings),
            paused: self
                .seats
                .values()
                .any(|seat| seat.paused && matches!(seat.state, State::Open { .. })),
        }
    }
}

/// What is held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Rows that no commit covers.
    pub rows: usize,
    /// With all that belongs to them.
    pub all: usize,
    /// Some bucket waits for memory.
    pub paused: bool,
}
