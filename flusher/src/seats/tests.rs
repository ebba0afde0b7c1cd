//! The seats against a model of the loop, in any order of events; and the paths that matter most.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const TOPICS: [&str; 3] = ["tl.a.one", "tl.a.two", "tl.b.three"];
const MIB: usize = 1 << 20;

fn seats() -> Seats {
    let limits = Limits {
        flush_bytes: 8 * MIB,
        flush_age: Duration::from_secs(5),
        pressure_bytes: 32 * MIB,
        draining: false,
    };
    Seats::new(limits, Budget::new(64 * MIB, 0), "tl")
}

fn at(topic: usize, bucket: u32) -> TopicBucket {
    TopicBucket {
        topic: Arc::from(TOPICS[topic]),
        bucket: Bucket(bucket),
    }
}

fn secs(seconds: u64) -> Moment {
    Moment::from_secs(seconds)
}

fn trouble(cause: Cause) -> Trouble {
    Trouble::new(cause, "told why")
}

fn held(rows: usize, since: Moment) -> Held {
    Held {
        rows,
        since: Some(since),
        ..Held::default()
    }
}

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
    opens: Vec<(Arc<str>, u64, Vec<Bucket>)>,
    /// The try that each bucket waits for, and the one that was answered last.
    tries: BTreeMap<TopicBucket, u64>,
    answered: Option<u64>,
    flights: BTreeMap<Arc<str>, Vec<Bucket>>,
    pauses: BTreeSet<TopicBucket>,
}

impl World {
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
                self.opens.push((topic, attempt, buckets));
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
        assert_eq!(seats.seats.len(), self.ours.len() + self.leaving.len());
        for (at, seat) in &seats.seats {
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
    /// Answers an open, perhaps a very old one.
    Open(prop::sample::Index, Option<Cause>),
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
        6 => (index(), prop::option::weighted(0.2, cause())).prop_map(|(i, c)| Step::Open(i, c)),
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
        Step::Open(index, cause) => {
            if world.opens.is_empty() {
                return;
            }
            let place = index.index(world.opens.len());
            let (topic, attempt, buckets) = world.opens.remove(place);
            let (mut ready, mut refused) = (buckets, Vec::new());
            if let Some(cause) = cause {
                refused.extend(ready.pop().map(|bucket| (bucket, trouble(cause))));
            }
            Event::Opened {
                topic,
                attempt,
                ready,
                refused,
            }
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
        // Whatever happened: once everything answers, every bucket of ours is at work again.
        for _ in 0..40 {
            for (topic, buckets) in std::mem::take(&mut world.flights) {
                world.feed(&mut seats, Event::FlushEnded(topic, ending(9, buckets)));
            }
            for (topic, attempt, ready) in std::mem::take(&mut world.opens) {
                let refused = Vec::new();
                world.feed(&mut seats, Event::Opened { topic, attempt, ready, refused });
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

/// Seats with these buckets open.
fn opened(buckets: &[TopicBucket]) -> Seats {
    let mut seats = seats();
    let commands = seats.on(Event::Assigned(buckets.to_vec()), secs(0));
    for command in commands {
        if let Command::Open {
            topic,
            attempt,
            buckets: ready,
        } = command
        {
            let refused = Vec::new();
            seats.on(
                Event::Opened {
                    topic,
                    attempt,
                    ready,
                    refused,
                },
                secs(0),
            );
        }
    }
    seats
}

#[test]
fn a_bucket_that_opens_during_a_pause_is_paused() {
    let mut seats = opened(&[at(0, 0)]);
    let full = vec![(at(0, 0), held(64 * MIB, secs(0)))];
    let commands = seats.on(Event::Taken(full), secs(1));
    assert!(
        commands.contains(&Command::Pause(vec![at(0, 0)])),
        "{commands:?}"
    );
    let commands = seats.on(Event::Assigned(vec![at(1, 0)]), secs(1));
    let Some(Command::Open { attempt, .. }) = commands.last() else {
        panic!("{commands:?}");
    };
    let event = Event::Opened {
        topic: at(1, 0).topic,
        attempt: *attempt,
        ready: vec![Bucket(0)],
        refused: Vec::new(),
    };
    let expected = [
        Command::Restart(vec![at(1, 0)]),
        Command::Pause(vec![at(1, 0)]),
    ];
    assert_eq!(seats.on(event, secs(1)), expected);
}

#[test]
fn a_revoked_bucket_that_was_being_opened_never_comes_back() {
    let mut seats = seats();
    let commands = seats.on(Event::Assigned(vec![at(0, 0)]), secs(0));
    assert!(
        matches!(commands[1], Command::Open { attempt: 1, .. }),
        "{commands:?}"
    );
    let commands = seats.on(Event::Revoked(vec![at(0, 0)]), secs(1));
    assert!(
        commands.contains(&Command::Release(vec![at(0, 0)])),
        "{commands:?}"
    );
    let late = Event::Opened {
        topic: at(0, 0).topic,
        attempt: 1,
        ready: vec![Bucket(0)],
        refused: Vec::new(),
    };
    assert_eq!(seats.on(late, secs(2)), []);
    seats.on(
        Event::Failed(at(0, 0), trouble(Cause::TopicMissing)),
        secs(3),
    );
    assert!(!seats.owns(&at(0, 0)));
    assert_eq!(seats.on(Event::Tick, secs(60)), []);
}

#[test]
fn what_stops_says_why_and_is_tried_again_without_help() {
    let mut seats = opened(&[at(0, 0)]);
    seats.on(
        Event::Failed(at(0, 0), trouble(Cause::TopicReplaced)),
        secs(1),
    );
    let shown: Vec<_> = seats.troubles().map(|(_, _, why)| why.cause).collect();
    assert_eq!(shown, [Cause::TopicReplaced]);
    assert_eq!(seats.on(Event::Tick, secs(1)), []);
    let commands = seats.on(Event::Tick, secs(2));
    assert!(
        matches!(commands[..], [Command::Open { .. }]),
        "{commands:?}"
    );
    assert_eq!(
        seats.troubles().count(),
        1,
        "shown until it is known to have passed"
    );
}

#[test]
fn a_bucket_whose_log_stands_still_is_named_until_it_goes_on() {
    let mut seats = opened(&[at(0, 0)]);
    let stalled = Some(trouble(Cause::LogStalled));
    assert_eq!(seats.on(Event::Stalled(at(0, 0), stalled), secs(1)), []);
    let shown: Vec<_> = seats.troubles().map(|(_, _, why)| why.cause).collect();
    assert_eq!(shown, [Cause::LogStalled]);
    seats.on(Event::Stalled(at(0, 0), None), secs(2));
    assert_eq!(seats.troubles().count(), 0);
}

#[test]
fn a_table_that_never_settles_is_shown() {
    let mut seats = opened(&[at(0, 0)]);
    for round in 0..3 {
        let now = secs(round * 60);
        let commands = seats.on(Event::Surprised(at(0, 0)), now);
        let commands = commands
            .into_iter()
            .chain(seats.on(Event::Tick, now + secs(20)));
        for command in commands.collect::<Vec<_>>() {
            if let Command::Open { topic, attempt, .. } = command
                && round < 2
            {
                let (ready, refused) = (vec![Bucket(0)], Vec::new());
                let opened = Event::Opened {
                    topic,
                    attempt,
                    ready,
                    refused,
                };
                seats.on(opened, now + secs(20));
            }
        }
    }
    let shown: Vec<_> = seats.troubles().map(|(_, _, why)| why.cause).collect();
    assert_eq!(shown, [Cause::Unsettled]);
}

#[test]
fn a_table_whose_commits_fail_gives_way_and_is_opened_after_its_flush_has_ended() {
    let mut seats = opened(&[at(0, 0), at(1, 0)]);
    let taken = vec![(at(0, 0), held(50 * MIB, secs(0)))];
    let commands = seats.on(Event::Taken(taken), secs(0));
    assert_eq!(commands, [Command::Flush(at(0, 0).topic, Reason::Size)]);
    let topic = at(0, 0).topic;
    let failing = Event::FlushFailing(topic.clone(), trouble(Cause::FlushFailing));
    let commands = seats.on(failing, secs(1));
    assert!(
        commands.contains(&Command::GiveWay(topic.clone())),
        "{commands:?}"
    );
    assert!(
        commands.contains(&Command::Forget(at(0, 0))),
        "{commands:?}"
    );
    assert_eq!(
        seats.on(Event::Tick, secs(20)),
        [],
        "not while the flush may still commit"
    );
    let ended = FlushEnd::Stopped(trouble(Cause::GaveWay));
    let commands = seats.on(Event::FlushEnded(topic, ended), secs(20));
    assert!(matches!(commands[0], Command::Open { .. }), "{commands:?}");
}

#[test]
fn results_of_an_earlier_opening_are_not_taken_for_the_new_one() {
    let mut seats = opened(&[at(0, 0)]);
    let topic = at(0, 0).topic;
    seats.on(
        Event::Taken(vec![(at(0, 0), held(9 * MIB, secs(0)))]),
        secs(0),
    );
    seats.on(Event::Revoked(vec![at(0, 0)]), secs(0));
    let commands = seats.on(Event::Tick, secs(10));
    assert!(
        commands.contains(&Command::Release(vec![at(0, 0)])),
        "{commands:?}"
    );
    let commands = seats.on(Event::Assigned(vec![at(0, 0)]), secs(11));
    assert_eq!(
        commands,
        [Command::Begin(vec![at(0, 0)])],
        "its watermark is about to move"
    );
    let moved = vec![(Bucket(0), Watermark(7))];
    let fenced = Vec::new();
    let ended = FlushEnd::Committed { moved, fenced };
    let commands = seats.on(Event::FlushEnded(topic, ended), secs(12));
    assert!(
        matches!(commands[..], [Command::Open { .. }]),
        "{commands:?}"
    );
}

/// An idle bucket gives way too, and so does one whose last rows a flush commits after all: no
/// later commit shows that commits succeed again.
#[test]
fn a_bucket_that_gave_way_with_nothing_left_to_commit_counts_as_sound_once_it_is_open() {
    let mut seats = opened(&[at(0, 0), at(0, 1), at(1, 0)]);
    let topic = at(0, 0).topic;
    let taken = vec![(at(0, 0), held(50 * MIB, secs(0)))];
    seats.on(Event::Taken(taken), secs(0));
    let failing = Event::FlushFailing(topic.clone(), trouble(Cause::FlushFailing));
    seats.on(failing, secs(1));
    let moved = vec![(Bucket(0), Watermark(7))];
    let ended = FlushEnd::Committed {
        moved,
        fenced: Vec::new(),
    };
    let commands = seats.on(Event::FlushEnded(topic.clone(), ended), secs(20));
    let opening = commands.iter().find_map(|command| match command {
        Command::Open {
            attempt, buckets, ..
        } => Some((*attempt, buckets.clone())),
        _ => None,
    });
    let (attempt, ready) = opening.expect("both are opened");
    assert_eq!(ready, [Bucket(0), Bucket(1)]);
    let event = Event::Opened {
        topic: topic.clone(),
        attempt,
        ready: ready.clone(),
        refused: Vec::new(),
    };
    seats.on(event, secs(21));
    seats.on(Event::CaughtUp(topic.clone(), vec![Bucket(0)]), secs(21));
    let stopped: Vec<_> = seats.troubles().map(|(_, bucket, _)| bucket).collect();
    assert_eq!(stopped, [Some(Bucket(1))], "it may have rows left");
    seats.on(Event::CaughtUp(topic, vec![Bucket(1)]), secs(21));
    assert_eq!(seats.troubles().count(), 0);
}
