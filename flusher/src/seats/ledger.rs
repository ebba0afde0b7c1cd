//! The seats and their tables, and what they come to: sums by table and over all, kept as they
//! change. There may be tens of thousands of seats, and events come by the thousand a second.
//!
//! Invariant: whoever may change a seat or a table gets it here, which notes the table; the sums
//! are those of the seats once [`Ledger::settle`] has been called.

use super::*;
use crate::budget::{Holding, Total};
use crate::due::{Agenda, Load};

/// What the seats of one table come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub load: Load,
    pub holding: Holding,
    /// When the first of its seats is tried again, while no flush is under way.
    retry_at: Option<Moment>,
    seats: Counts,
    /// Flushes under way.
    flights: usize,
    /// Flushes that were asked for and wait for markers.
    held_up: usize,
}

/// Seats by what they wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// With something that a flush would commit.
    pub full: usize,
    /// Revoked, and not flushed yet.
    pub leaving: usize,
    /// Open, and not read for want of memory.
    pub paused: usize,
    /// Nothing is fetched for them.
    pub unwatched: usize,
    /// Something keeps them.
    pub troubled: usize,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    seats: BTreeMap<TopicBucket, Seat>,
    tables: BTreeMap<Arc<str>, Table>,
    /// May have changed since the sums were made.
    changed: BTreeSet<Arc<str>>,
    sums: BTreeMap<Arc<str>, Sum>,
    agenda: Agenda<Arc<str>>,
    retries: BTreeSet<(Moment, Arc<str>)>,
    /// Tables whose commits fail.
    troubled: BTreeSet<Arc<str>>,
    total: Total,
    counts: Counts,
    flights: usize,
    held_up: usize,
}

impl Ledger {
    pub(super) fn seat(&self, at: &TopicBucket) -> Option<&Seat> {
        self.seats.get(at)
    }

    pub(super) fn seat_mut(&mut self, at: &TopicBucket) -> Option<&mut Seat> {
        let seat = self.seats.get_mut(at)?;
        note(&mut self.changed, &at.topic);
        Some(seat)
    }

    /// Takes a seat in; the one that was there before.
    pub(super) fn insert(&mut self, at: TopicBucket, seat: Seat) -> Option<Seat> {
        note(&mut self.changed, &at.topic);
        self.seats.insert(at, seat)
    }

    /// Takes all seats out that are being given up.
    pub(super) fn take_leaving(&mut self) -> Vec<TopicBucket> {
        let leaving = |seat: &Seat| matches!(seat.state, State::Leaving { .. });
        let gone = self.seats.extract_if(.., |_, seat| leaving(seat));
        let gone: Vec<_> = gone.map(|(at, _)| at).collect();
        for at in &gone {
            note(&mut self.changed, &at.topic);
        }
        gone
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = (&TopicBucket, &Seat)> {
        self.seats.iter()
    }

    pub(super) fn of_topic(&self, topic: &Arc<str>) -> impl Iterator<Item = (&TopicBucket, &Seat)> {
        self.seats.range(range_of(topic))
    }

    pub(super) fn has_seats(&self, topic: &Arc<str>) -> bool {
        self.of_topic(topic).next().is_some()
    }

    pub(super) fn table(&self, topic: &Arc<str>) -> Option<&Table> {
        self.tables.get(topic)
    }

    pub(super) fn table_mut(&mut self, topic: &Arc<str>) -> Option<&mut Table> {
        let table = self.tables.get_mut(topic)?;
        note(&mut self.changed, topic);
        Some(table)
    }

    pub(super) fn table_or_new(&mut self, topic: &Arc<str>) -> &mut Table {
        note(&mut self.changed, topic);
        self.tables.entry(topic.clone()).or_default()
    }

    /// A table with its seats.
    pub(super) fn whole_mut(
        &mut self,
        topic: &Arc<str>,
    ) -> Option<(&mut Table, impl Iterator<Item = (&TopicBucket, &mut Seat)>)> {
        let table = self.tables.get_mut(topic)?;
        note(&mut self.changed, topic);
        Some((table, self.seats.range_mut(range_of(topic))))
    }

    pub(super) fn forget_table(&mut self, topic: &Arc<str>) {
        note(&mut self.changed, topic);
        self.tables.remove(topic);
    }

    /// Every sum is made anew: what they are made by is another.
    pub(super) fn all_changed(&mut self) {
        self.changed.extend(self.tables.keys().cloned());
    }

    /// Brings the sums up to date; the tables that changed.
    pub(super) fn settle(&mut self, limits: &Limits) -> BTreeSet<Arc<str>> {
        let changed = std::mem::take(&mut self.changed);
        for topic in &changed {
            let before = self.sums.remove(topic);
            if let Some(before) = before {
                self.total.remove(&before.holding);
                self.counts.remove(&before.seats);
                self.flights -= before.flights;
                self.held_up -= before.held_up;
                if let Some(at) = before.retry_at {
                    self.retries.remove(&(at, topic.clone()));
                }
                self.troubled.remove(topic);
            }
            let Some(table) = self.tables.get(topic) else {
                self.agenda.remove(topic);
                continue;
            };
            let sum = Sum::of(table, self.of_topic(topic), limits);
            self.agenda.set(topic, &sum.load, limits);
            self.total.add(&sum.holding);
            self.counts.add(&sum.seats);
            self.flights += sum.flights;
            self.held_up += sum.held_up;
            if let Some(at) = sum.retry_at {
                self.retries.insert((at, topic.clone()));
            }
            if sum.holding.troubled {
                self.troubled.insert(topic.clone());
            }
            self.sums.insert(topic.clone(), sum);
        }
        changed
    }

    pub(super) fn sum(&self, topic: &Arc<str>) -> Option<&Sum> {
        self.sums.get(topic)
    }

    /// All of them; or those of tables whose commits fail, and of these.
    pub(super) fn sums(&self, all: bool, these: [&BTreeSet<Arc<str>>; 2]) -> Vec<(Arc<str>, &Sum)> {
        let wanted: BTreeSet<_> = match all {
            true => self.sums.keys().collect(),
            false => these.into_iter().flatten().chain(&self.troubled).collect(),
        };
        let found = |topic: &Arc<str>| Some((topic.clone(), self.sums.get(topic)?));
        wanted.into_iter().filter_map(found).collect()
    }

    pub(super) fn total(&self) -> &Total {
        &self.total
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Some flush that was asked for waits for markers.
    pub(super) fn is_held_up(&self) -> bool {
        self.held_up > 0
    }

    /// Nothing is held and nothing is under way.
    pub(super) fn is_drained(&self) -> bool {
        self.flights == 0 && self.counts.full == 0
    }

    /// Takes out what is to be flushed now.
    pub(super) fn take_due(&mut self, now: Moment, pressure: usize) -> Vec<(Arc<str>, Reason)> {
        let due = self.agenda.take(now, self.total.held, pressure);
        self.changed
            .extend(due.iter().map(|(topic, _)| topic.clone()));
        due
    }

    /// Tables with seats to be tried again by now.
    pub(super) fn to_retry(&self, now: Moment) -> Vec<Arc<str>> {
        let due = self.retries.iter().take_while(|(at, _)| *at <= now);
        let mut topics: Vec<_> = due.map(|(_, topic)| topic.clone()).collect();
        topics.sort_unstable();
        topics
    }

    /// Tables with such seats, and the seats of theirs.
    pub(super) fn seats_where(
        &self,
        is: impl Fn(&Counts) -> bool,
    ) -> impl Iterator<Item = (&TopicBucket, &Seat)> {
        let tables = self.sums.iter().filter(move |(_, sum)| is(&sum.seats));
        tables.flat_map(|(topic, _)| self.of_topic(topic))
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = (&Arc<str>, &Table)> {
        self.tables.iter()
    }
}

/// Not a method: the seat or table that it is about is borrowed meanwhile.
fn note(changed: &mut BTreeSet<Arc<str>>, topic: &Arc<str>) {
    if !changed.contains(topic) {
        changed.insert(topic.clone());
    }
}

fn range_of(topic: &Arc<str>) -> std::ops::RangeInclusive<TopicBucket> {
    let at = |bucket| TopicBucket {
        topic: topic.clone(),
        bucket,
    };
    at(Bucket(0))..=at(Bucket(u32::MAX))
}

impl Sum {
    fn of<'a>(
        table: &Table,
        seats: impl Iterator<Item = (&'a TopicBucket, &'a Seat)>,
        limits: &Limits,
    ) -> Self {
        let busy = table.flight.is_some();
        let mut sum = Self {
            load: Load {
                calm: table.calm,
                busy,
                ..Load::default()
            },
            holding: Holding {
                tenant: table.tenant.clone(),
                flying: table.flying,
                index: table.index,
                troubled: table.trouble.is_some(),
                ..Holding::default()
            },
            flights: usize::from(busy),
            ..Self::default()
        };
        let mut next_beside = 0;
        for (_, seat) in seats {
            sum.seats.count(seat);
            match &seat.state {
                // A flush under way is about to move the watermark to begin at.
                State::Opening { retry_at, .. } | State::Stopped { retry_at, .. } if !busy => {
                    sum.retry_at = earliest(sum.retry_at, Some(*retry_at));
                }
                State::Opening { .. } | State::Stopped { .. } => {}
                State::Open { held, .. } | State::Leaving { held, .. } => {
                    sum.hold(held, seat);
                    next_beside += held.beside;
                }
            }
        }
        let pause = table.pause_before(&sum.load);
        if pause.is_some_and(|pause| pause > limits.age(table.calm)) {
            sum.load.calm = 0;
        }
        // One flush at a time: the next one takes what the one before it gives back.
        sum.holding.beside = table.beside.max(next_beside);
        sum.held_up = usize::from(sum.load.is_held_up());
        sum
    }

    fn hold(&mut self, held: &Held, seat: &Seat) {
        let leaving = matches!(seat.state, State::Leaving { .. });
        let (load, holding) = (&mut self.load, &mut self.holding);
        load.bytes += held.rows;
        load.weight += held.rows + held.beside;
        load.since = earliest(load.since, held.since);
        load.asked = earliest(load.asked, held.asked);
        // Nothing comes through a bucket that is not fetched.
        load.awaits_markers |= held.asked.is_none() && !leaving && seat.is_fetched();
        load.leaving |= leaving && held.since.is_some();
        holding.rows += held.rows;
        holding.room += held.room;
    }
}

fn earliest(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    a.into_iter().chain(b).min()
}

impl Counts {
    fn count(&mut self, seat: &Seat) {
        let open = matches!(seat.state, State::Open { .. });
        let (full, flying) = match &seat.state {
            State::Open { held, flying, .. } | State::Leaving { held, flying } => {
                (held.since.is_some(), *flying > 0)
            }
            State::Opening { .. } | State::Stopped { .. } => (false, false),
        };
        let leaving = matches!(seat.state, State::Leaving { .. }) && (full || flying);
        self.add(&Self {
            full: usize::from(full),
            leaving: usize::from(leaving),
            paused: usize::from(open && seat.paused),
            unwatched: usize::from(!open || seat.paused),
            troubled: usize::from(seat.trouble().is_some() || seat.stalled.is_some()),
        });
    }

    fn each(&mut self, other: &Self, change: fn(&mut usize, usize)) {
        change(&mut self.full, other.full);
        change(&mut self.leaving, other.leaving);
        change(&mut self.paused, other.paused);
        change(&mut self.unwatched, other.unwatched);
        change(&mut self.troubled, other.troubled);
    }

    fn add(&mut self, other: &Self) {
        self.each(other, |count, by| *count += by);
    }

    fn remove(&mut self, other: &Self) {
        self.each(other, |count, by| *count -= by);
    }
}

#[cfg(test)]
impl Ledger {
    /// The sums are those that would be made anew.
    pub(super) fn check(&self, limits: &Limits) {
        let mut anew = Self {
            seats: self.seats.clone(),
            tables: self.tables.clone(),
            ..Self::default()
        };
        anew.all_changed();
        anew.settle(limits);
        assert_eq!(self.sums, anew.sums);
        assert_eq!(self.total, anew.total);
        assert_eq!(self.counts, anew.counts);
        assert_eq!((self.flights, self.held_up), (anew.flights, anew.held_up));
        assert_eq!(self.retries, anew.retries);
        assert_eq!(self.troubled, anew.troubled);
        assert_eq!(self.agenda, anew.agenda);
    }
}
