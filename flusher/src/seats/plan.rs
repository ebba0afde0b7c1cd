//! What follows from what the seats hold: flushes, pauses, releases; and what others may know.

use super::*;
use crate::due::Load;

impl Seats {
    /// Brings the sums up to date; the tables that changed since.
    pub(super) fn settle(&mut self) {
        let changed = self.ledger.settle(&self.limits);
        self.touched.extend(changed);
    }

    pub(super) fn plan(&mut self, now: Moment) {
        self.settle();
        let pressure = self.budget.pressure_bytes(self.ledger.total());
        for (topic, reason) in self.ledger.take_due(now, pressure) {
            self.calm(&topic, reason, now);
            self.flush(&topic, reason);
        }
        self.settle();
        self.balance(now);
        self.release(now);
        self.settle();
        self.touched.clear();
    }

    /// Notes how little a flush finds.
    fn calm(&mut self, topic: &Arc<str>, reason: Reason, now: Moment) {
        let Some(load) = self.ledger.sum(topic).map(|sum| sum.load) else {
            return;
        };
        let limits = self.limits;
        if let Some(table) = self.ledger.table_mut(topic) {
            table.calm = limits.calm_after(&load, reason, table.pause_before(&load));
            table.flushed_at = Some(now);
        }
    }

    /// Pauses and resumes, and takes memory back. Looks at tables that have changed, that wait or
    /// whose commits fail, and at all of them only while memory is short.
    fn balance(&mut self, now: Moment) {
        let judgement = self.budget.judge(self.ledger.total());
        let shrink = judgement.shrink;
        let (mut paused, mut give_way, mut looked_at) = (BTreeSet::new(), Vec::new(), Vec::new());
        let all = judgement.concerns_all();
        for (topic, sum) in self
            .ledger
            .sums(all || shrink, [&self.touched, &self.paused])
        {
            let verdict = judgement.of(&sum.holding);
            if verdict.give_way {
                give_way.push(topic.clone());
            }
            if verdict.paused {
                paused.insert(topic.clone());
            }
            looked_at.push(topic);
        }
        for topic in &give_way {
            self.give_way(topic, now);
        }
        let before = std::mem::replace(&mut self.paused, paused);
        let (mut pause, mut resume, mut shrunk) = (Vec::new(), Vec::new(), Vec::new());
        for topic in looked_at {
            let wanted = self.paused.contains(&topic);
            if wanted == before.contains(&topic) && !shrink && !self.touched.contains(&topic) {
                continue;
            }
            let changes = |seat: &Seat| match &seat.state {
                State::Open { held, .. } => seat.paused != wanted || (shrink && held.room > 0),
                _ => false,
            };
            let seats = self.ledger.of_topic(&topic);
            let changing = seats.filter(|(_, seat)| changes(seat));
            let changing: Vec<_> = changing.map(|(at, _)| at.clone()).collect();
            for at in changing {
                let Some(seat) = self.ledger.seat_mut(&at) else {
                    continue;
                };
                if seat.paused != wanted {
                    seat.paused = wanted;
                    let list = if wanted { &mut pause } else { &mut resume };
                    list.push(at.clone());
                }
                if let State::Open { held, .. } = &mut seat.state
                    && shrink
                    && held.room > 0
                {
                    held.room = 0;
                    shrunk.push(at);
                }
            }
        }
        let lists = [
            (pause, Command::Pause as fn(_) -> _),
            (resume, Command::Resume),
            (shrunk, Command::Shrink),
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
            let pending = self.ledger.counts().leaving > 0;
            if !pending || now >= leave_by {
                self.leave_by = None;
                let gone = self.ledger.take_leaving();
                self.tidy.extend(gone.iter().map(|at| at.topic.clone()));
                self.out.extend(gone.iter().cloned().map(Command::Forget));
                self.out.push(Command::Release(gone));
            }
        }
        self.forget_tables();
    }

    /// Lets go of tables whose buckets are all another flusher's. One whose flush is still under
    /// way is known until that has ended, but no longer troubled: that is for the other one to
    /// tell.
    fn forget_tables(&mut self) {
        for topic in std::mem::take(&mut self.tidy) {
            if self.ledger.has_seats(&topic) {
                continue;
            }
            let Some(table) = self.ledger.table_mut(&topic) else {
                continue;
            };
            if table.flight.is_some() {
                table.trouble = None;
                self.end_flight(&topic);
            } else {
                self.ledger.forget_table(&topic);
                self.out.push(Command::ForgetTable(topic));
            }
        }
    }

    /// Everything that stands still, and why: buckets by name, tables whose commits fail.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (&Arc<str>, Option<Bucket>, &Trouble)> {
        let seats = self.ledger.seats_where(|counts| counts.troubled > 0);
        let stopped = seats.filter_map(|(at, seat)| {
            let why = seat
                .trouble()
                .filter(|why| why.cause.is_loud(seat.failures));
            let why = why.or(seat.stalled.as_ref())?;
            Some((&at.topic, Some(at.bucket), why))
        });
        let tables = self.ledger.tables();
        let failing =
            tables.filter_map(|(topic, table)| Some((topic, None, table.trouble.as_ref()?)));
        stopped.chain(failing)
    }

    /// All buckets of ours, and whether each is consumed.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (&TopicBucket, bool)> {
        let seats = self.ledger.seats();
        seats.map(|(at, seat)| (at, matches!(seat.state, State::Open { .. })))
    }

    /// True where the catalog has no table for the bucket, and nobody is told of it.
    pub(crate) fn has_quietly_no_table(&self, at: &TopicBucket) -> bool {
        let Some(seat) = self.ledger.seat(at) else {
            return false;
        };
        let cause = seat.trouble().map(|why| why.cause);
        cause.is_some_and(|cause| cause.is_no_table() && !cause.is_loud(seat.failures))
    }

    /// How many buckets' topics belong to no table of the catalog.
    pub(crate) fn without_table(&self) -> usize {
        let seats = self.ledger.seats_where(|counts| counts.troubled > 0);
        let troubles = seats.filter_map(|(_, seat)| seat.trouble());
        troubles.filter(|why| why.cause.is_no_table()).count()
    }

    /// Why a bucket is not consumed.
    pub(crate) fn trouble_of(&self, at: &TopicBucket) -> Option<&Trouble> {
        self.ledger.seat(at)?.trouble()
    }

    pub(crate) fn owns(&self, at: &TopicBucket) -> bool {
        self.ledger.seat(at).is_some()
    }

    pub(crate) fn is_open(&self, at: &TopicBucket) -> bool {
        let state = self.ledger.seat(at).map(|seat| &seat.state);
        matches!(state, Some(State::Open { .. }))
    }

    pub(crate) fn has_table(&self, topic: &Arc<str>) -> bool {
        self.ledger.table(topic).is_some()
    }

    /// Buckets that the consumer fetches nothing for: nobody sees their logs grow.
    pub(crate) fn unwatched(&self) -> impl Iterator<Item = &TopicBucket> {
        let seats = self.ledger.seats_where(|counts| counts.unwatched > 0);
        let unwatched =
            seats.filter(|(_, seat)| seat.paused || !matches!(seat.state, State::Open { .. }));
        unwatched.map(|(at, _)| at)
    }

    /// Nothing is held and nothing is under way.
    pub(crate) fn is_drained(&self) -> bool {
        self.ledger.is_drained()
    }

    /// Nothing is waited for but messages.
    pub(crate) fn is_quiet(&self) -> bool {
        self.leave_by.is_none() && self.is_drained()
    }

    /// A flush waits for markers, which come within moments or not at all.
    pub(crate) fn awaits_markers(&self) -> bool {
        self.ledger.is_held_up()
    }

    pub(crate) fn memory(&self) -> Memory {
        let all = self.ledger.total();
        Memory {
            rows: all.rows,
            all: all.held + all.index,
            paused: self.ledger.counts().paused > 0,
        }
    }
}

impl Table {
    /// How long nothing came before the oldest of this load, from the last flush on.
    pub(super) fn pause_before(&self, load: &Load) -> Option<Duration> {
        Some(load.since?.saturating_sub(self.flushed_at?))
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
