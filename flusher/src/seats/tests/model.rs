//! The seats against a model of the loop, in any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// The world around the seats: the group, the loop's rows, what is under way.
#[derive(Debug, Default)]
struct World {
    now: Moment,
    /// Ours, as the group sees it.
    ours: BTreeSet<TopicBucket>,
    /// Revoked, not released, and since when.
    leaving: BTreeMap<TopicBucket, Moment>,
    /// Buckets with rows in the loop's memory.
    rows: BTreeMap<TopicBucket, Held>,
    opens: Vec<Opening>,
    /// How often each table was made; odd while it is there.
    made: BTreeMap<Arc<str>, u32>,
    /// The table that each topic's buckets begin on, and the one whose rows a bucket has.
    slots: BTreeMap<Arc<str>, u32>,
    rows_of: BTreeMap<TopicBucket, u32>,
    /// The try that each bucket waits for, and the one that was answered last.
    tries: BTreeMap<TopicBucket, u64>,
    answered: Option<u64>,
    flights: BTreeMap<Arc<str>, Vec<Bucket>>,
    pauses: BTreeSet<TopicBucket>,
}

/// A lookup under way.
#[derive(Debug)]
struct Opening {
    topic: Arc<str>,
    attempt: u64,
    buckets: Vec<Bucket>,
    /// What was there when it began.
    made: u32,
}

/// The table that was made so often, where it is there.
fn found(made: u32) -> Found {
    if made.is_multiple_of(2) {
        return Found::NoTable;
    }
    Found::Table(Incarnation {
        restores: made,
        ..FIRST
    })
}

impl World {
    fn made(&self, topic: &Arc<str>) -> u32 {
        self.made.get(topic).copied().unwrap_or(1)
    }

    /// Answers a lookup with what is there, or with what was when it began; perhaps one bucket is
    /// refused.
    fn answer(&mut self, opening: Opening, late: bool, cause: Option<Cause>) -> Event {
        let Opening {
            topic,
            attempt,
            buckets,
            made,
        } = opening;
        let made = if late { made } else { self.made(&topic) };
        let (mut ready, mut refused) = (buckets, Vec::new());
        if found(made) == Found::NoTable {
            self.slots.remove(&topic);
            let all = ready
                .drain(..)
                .map(|bucket| (bucket, trouble(Cause::NoTable)));
            refused.extend(all);
        } else {
            self.slots.insert(topic.clone(), made);
            if let Some(cause) = cause {
                refused.extend(ready.pop().map(|bucket| (bucket, trouble(cause))));
            }
        }
        Event::Opened {
            topic,
            attempt,
            found: found(made),
            ready,
            refused,
        }
    }

    fn feed(&mut self, seats: &mut Seats, event: Event) {
        self.answered = match &event {
            Event::Opened { attempt, .. } => Some(*attempt),
            Event::Assigned(buckets) | Event::Revoked(buckets) => {
                self.tries.retain(|at, _| !buckets.contains(at));
                None
            }
            _ => None,
        };
        let commands = seats.on(event, self.now);
        for command in commands {
            self.obey(command);
        }
        self.answered = None;
        self.check(seats);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open {
                topic,
                attempt,
                buckets,
            } => {
                for bucket in &buckets {
                    let (topic, bucket) = (topic.clone(), *bucket);
                    self.tries.insert(TopicBucket { topic, bucket }, attempt);
                }
                let made = self.made(&topic);
                self.opens.push(Opening {
                    topic,
                    attempt,
                    buckets,
                    made,
                });
            }
            Command::Restart(buckets) => {
                for at in buckets {
                    assert!(
                        self.ours.contains(&at),
                        "{at} begins although it is not ours"
                    );
                    assert!(!self.leaving.contains_key(&at), "{at} comes back");
                    if let Some(answered) = self.answered {
                        let awaited = self.tries.remove(&at);
                        assert_eq!(awaited, Some(answered), "{at}: an old answer counts");
                    }
                    let before = self.rows.insert(at.clone(), Held::default());
                    assert_eq!(before, None, "{at} is owned twice");
                    let slot = self.slots.get(&at.topic).expect("a table to begin on");
                    self.rows_of.insert(at.clone(), *slot);
                    self.pauses.remove(&at);
                }
            }
            Command::Release(buckets) => {
                for at in buckets {
                    self.tries.remove(&at);
                    assert!(self.leaving.remove(&at).is_some(), "{at} was not revoked");
                    assert!(
                        !self.rows.contains_key(&at),
                        "{at} is released with its rows"
                    );
                }
            }
            Command::Forget(at) => {
                self.rows.remove(&at);
            }
            Command::Flush(topic, _) => {
                let of_topic = self.rows.iter_mut().filter(|(at, _)| at.topic == topic);
                let with_rows = of_topic.filter(|(_, held)| held.since.is_some());
                let buckets = with_rows.map(|(at, held)| {
                    let (rows_of, slot) = (self.rows_of.get(at), self.slots.get(&topic));
                    assert_eq!(rows_of, slot, "{at}: rows of another table");
                    *held = Held::default();
                    at.bucket
                });
                let buckets: Vec<_> = buckets.collect();
                assert!(!buckets.is_empty(), "a flush of nothing");
                let before = self.flights.insert(topic, buckets);
                assert_eq!(before, None, "two flushes of one table");
            }
            Command::Pause(buckets) => self.pauses.extend(buckets),
            Command::Resume(buckets) => self.pauses.retain(|at| !buckets.contains(at)),
            Command::Begin(_)
            | Command::Commit(_)
            | Command::ForgetTable(_)
            | Command::Shrink(_)
            | Command::GiveWay(_) => {}
        }
    }

    fn check(&self, seats: &Seats) {
        for at in self.ours.iter().chain(self.leaving.keys()) {
            assert!(seats.owns(at), "{at} is lost");
        }
        seats.ledger.check(&seats.limits);
        let known = seats.ledger.seats().count();
        assert_eq!(known, self.ours.len() + self.leaving.len());
        for (at, seat) in seats.ledger.seats() {
            let soon = self.now + secs(300);
            match &seat.state {
                State::Opening { retry_at, .. } => assert!(*retry_at <= soon),
                State::Stopped { retry_at, why } => {
                    assert!(*retry_at <= soon && !why.text.is_empty());
                }
                State::Open { .. } => assert!(self.rows.contains_key(at), "{at} has no rows"),
                State::Leaving { .. } => assert!(self.leaving.contains_key(at)),
            }
        }
        for at in self.rows.keys() {
            assert!(seats.owns(at), "rows of {at}, which is not ours");
        }
        for since in self.leaving.values() {
            assert!(self.now < *since + RELEASE_MAX, "not released in time");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Assign(usize, u32),
    Revoke(usize, u32),
    Take(usize, u32, usize),
    /// Answers an open, perhaps a very old one, perhaps by what was there when it began.
    Open(prop::sample::Index, bool, Option<Cause>),
    /// The table is dropped, or made again.
    Make(usize),
    Fail(usize, u32, Cause),
    Surprise(usize, u32),
    FlushFailing(prop::sample::Index),
    EndFlush(prop::sample::Index, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bucket = || (0usize..TOPICS.len(), 0u32..3);
    let index = any::<prop::sample::Index>;
    let cause = || {
        prop::sample::select(vec![
            Cause::NoTable,
            Cause::Unavailable,
            Cause::TopicReplaced,
            Cause::Corrupt,
            Cause::FlushFailing,
        ])
    };
    prop_oneof![
        3 => bucket().prop_map(|(topic, bucket)| Step::Assign(topic, bucket)),
        2 => bucket().prop_map(|(topic, bucket)| Step::Revoke(topic, bucket)),
        8 => (bucket(), 0..20 * MIB).prop_map(|((t, b), rows)| Step::Take(t, b, rows)),
        6 => (index(), prop::bool::weighted(0.2), prop::option::weighted(0.2, cause()))
            .prop_map(|(index, late, cause)| Step::Open(index, late, cause)),
        1 => (0usize..TOPICS.len()).prop_map(Step::Make),
        1 => (bucket(), cause()).prop_map(|((t, b), cause)| Step::Fail(t, b, cause)),
        1 => bucket().prop_map(|(topic, bucket)| Step::Surprise(topic, bucket)),
        1 => index().prop_map(Step::FlushFailing),
        4 => (index(), 0u8..6).prop_map(|(index, end)| Step::EndFlush(index, end)),
        4 => (0u64..15_000).prop_map(Step::Wait),
    ]
}

fn play(world: &mut World, seats: &mut Seats, step: Step) {
    let event = match step {
        Step::Assign(topic, bucket) => {
            let at = at(topic, bucket);
            // The group gives nothing out that it waits for.
            if world.leaving.contains_key(&at) || !world.ours.insert(at.clone()) {
                return;
            }
            Event::Assigned(vec![at])
        }
        Step::Revoke(topic, bucket) => {
            let at = at(topic, bucket);
            if !world.ours.remove(&at) {
                return;
            }
            let since = world.leaving.values().copied().min().unwrap_or(world.now);
            world.leaving.insert(at.clone(), since);
            Event::Revoked(vec![at])
        }
        Step::Take(topic, bucket, rows) => {
            let (at, now) = (at(topic, bucket), world.now);
            let Some(known) = world.rows.get_mut(&at) else {
                return;
            };
            // A bucket that is being given up takes nothing in.
            if world.leaving.contains_key(&at) {
                return;
            }
            *known = held(known.rows + rows, known.since.unwrap_or(now));
            Event::Taken(vec![(at, *known)])
        }
        Step::Open(index, late, cause) => {
            if world.opens.is_empty() {
                return;
            }
            let place = index.index(world.opens.len());
            let opening = world.opens.remove(place);
            world.answer(opening, late, cause)
        }
        Step::Make(topic) => {
            let topic = at(topic, 0).topic;
            let made = world.made(&topic) + 1;
            world.made.insert(topic, made);
            return;
        }
        Step::Fail(topic, bucket, cause) => Event::Failed(at(topic, bucket), trouble(cause)),
        Step::Surprise(topic, bucket) => Event::Surprised(at(topic, bucket)),
        Step::FlushFailing(index) => {
            let Some(topic) = pick(&world.flights, index) else {
                return;
            };
            Event::FlushFailing(topic, trouble(Cause::FlushFailing))
        }
        Step::EndFlush(index, end) => {
            let Some(topic) = pick(&world.flights, index) else {
                return;
            };
            let buckets = world.flights.remove(&topic).unwrap_or_default();
            Event::FlushEnded(topic, ending(end, buckets))
        }
        Step::Wait(ms) => {
            // The loop ticks: no deadline passes unseen by more than a tick.
            for _ in 0..ms / 50 {
                world.now += Duration::from_millis(50);
                let commands = seats.on(Event::Tick, world.now);
                commands.into_iter().for_each(|command| world.obey(command));
            }
            return world.check(seats);
        }
    };
    world.feed(seats, event);
}

fn pick(flights: &BTreeMap<Arc<str>, Vec<Bucket>>, index: prop::sample::Index) -> Option<Arc<str>> {
    let names: Vec<_> = flights.keys().cloned().collect();
    (!names.is_empty()).then(|| names[index.index(names.len())].clone())
}

fn ending(end: u8, mut buckets: Vec<Bucket>) -> FlushEnd {
    match end {
        0 => FlushEnd::Changed,
        1 => FlushEnd::Stopped(trouble(Cause::Bug)),
        2 => FlushEnd::Nothing,
        end => {
            let fenced = if end == 3 { buckets.pop() } else { None };
            FlushEnd::Committed {
                moved: buckets.into_iter().map(|b| (b, Watermark(1))).collect(),
                fenced: fenced.into_iter().collect(),
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bucket_is_lost_owned_twice_or_kept_past_its_deadline(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (mut world, mut seats) = (World::default(), seats());
        for step in steps {
            play(&mut world, &mut seats, step);
        }
        for made in world.made.values_mut() {
            *made |= 1;
        }
        // Whatever happened: once everything answers, every bucket of ours is at work again.
        for _ in 0..40 {
            for (topic, buckets) in std::mem::take(&mut world.flights) {
                world.feed(&mut seats, Event::FlushEnded(topic, ending(9, buckets)));
            }
            for opening in std::mem::take(&mut world.opens) {
                let event = world.answer(opening, false, None);
                world.feed(&mut seats, event);
            }
            world.now += secs(9);
            for since in world.leaving.values_mut() {
                *since = (*since).max(world.now - secs(9));
            }
            let commands = seats.on(Event::Tick, world.now);
            commands.into_iter().for_each(|command| world.obey(command));
        }
        let at_work = seats.buckets().filter(|(_, open)| *open).count();
        prop_assert_eq!(at_work, world.ours.len());
        prop_assert!(world.leaving.is_empty());
        let idle = world.pauses.iter().all(|at| !world.rows.contains_key(at));
        prop_assert!(idle, "paused for nothing");
    }
}
