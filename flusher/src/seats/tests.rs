//! The seats: the paths that matter most. Any order of events: [`model`].

mod model;

use tidelake_core::TopicId;

use super::*;

const TOPICS: [&str; 3] = ["tl.a.one", "tl.a.two", "tl.b.three"];
const MIB: usize = 1 << 20;

fn seats() -> Seats {
    let limits = Limits {
        flush_bytes: 8 * MIB,
        flush_age: Duration::from_secs(5),
        flush_age_max: Duration::from_secs(5),
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

/// The first table of each topic.
const FIRST: Incarnation = Incarnation {
    topic_id: TopicId([1; 16]),
    restores: 0,
};

/// All of them can go on.
fn all_ready(topic: Arc<str>, attempt: u64, ready: Vec<Bucket>) -> Event {
    Event::Opened {
        topic,
        attempt,
        found: Found::Table(FIRST),
        ready,
        refused: Vec::new(),
    }
}

fn held(rows: usize, since: Moment) -> Held {
    Held {
        rows,
        since: Some(since),
        ..Held::default()
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
            seats.on(all_ready(topic, attempt, ready), secs(0));
        }
    }
    seats
}

/// One row comes and is flushed; how long it waited, in seconds.
fn waited(seats: &mut Seats, since: u64) -> u64 {
    seats.on(
        Event::Taken(vec![(at(0, 0), held(10, secs(since)))]),
        secs(since),
    );
    for now in since.. {
        let commands = seats.on(Event::Tick, secs(now));
        if matches!(commands[..], [Command::Flush(_, Reason::Age)]) {
            let (moved, fenced) = (Vec::new(), Vec::new());
            let ended = FlushEnd::Committed { moved, fenced };
            seats.on(Event::FlushEnded(at(0, 0).topic, ended), secs(now));
            return now - since;
        }
    }
    unreachable!("a row is flushed at some time")
}

#[test]
fn little_that_keeps_coming_waits_longer_and_the_first_after_a_pause_does_not() {
    let mut seats = opened(&[at(0, 0)]);
    seats.limits.flush_age_max = Duration::from_secs(30);
    let (mut now, mut waits) = (0, Vec::new());
    for pause in [1, 1, 1, 1, 31, 1] {
        now += pause;
        let wait = waited(&mut seats, now);
        now += wait;
        waits.push(wait);
    }
    assert_eq!(waits, [5, 10, 20, 30, 5, 10]);
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
    let event = all_ready(at(1, 0).topic, *attempt, vec![Bucket(0)]);
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
    let late = all_ready(at(0, 0).topic, 1, vec![Bucket(0)]);
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
                let opened = all_ready(topic, attempt, vec![Bucket(0)]);
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
    seats.on(all_ready(topic.clone(), attempt, ready), secs(21));
    seats.on(Event::CaughtUp(topic.clone(), vec![Bucket(0)]), secs(21));
    let stopped: Vec<_> = seats.troubles().map(|(_, bucket, _)| bucket).collect();
    assert_eq!(stopped, [Some(Bucket(1))], "it may have rows left");
    seats.on(Event::CaughtUp(topic, vec![Bucket(1)]), secs(21));
    assert_eq!(seats.troubles().count(), 0);
}

/// Asks for a flush by a marker in each of these, and gives what follows.
fn asked(seats: &mut Seats, buckets: &[TopicBucket], now: Moment) -> Vec<Command> {
    let marked = buckets.iter().map(|at| {
        let asked = Some(now);
        (
            at.clone(),
            Held {
                asked,
                ..held(100, now)
            },
        )
    });
    let marked = marked.collect();
    seats.on(Event::Taken(marked), now)
}

#[test]
fn a_flush_whose_markers_come_in_two_polls_is_one_commit() {
    let buckets = [at(0, 0), at(0, 1), at(0, 2)];
    let flush = Command::Flush(at(0, 0).topic, Reason::Request);
    let mut seats = opened(&buckets);
    assert_eq!(asked(&mut seats, &buckets[..2], secs(1)), []);
    assert!(seats.awaits_markers());
    let soon = secs(1) + Duration::from_millis(9);
    assert_eq!(seats.on(Event::Tick, soon), []);
    assert_eq!(
        asked(&mut seats, &buckets[2..], soon),
        std::slice::from_ref(&flush)
    );
    assert!(!seats.awaits_markers());
    // One that does not come, and those that can't, hold nothing up.
    let mut seats = opened(&buckets);
    assert_eq!(asked(&mut seats, &buckets[..2], secs(1)), []);
    assert_eq!(
        seats.on(Event::Tick, secs(1) + crate::due::MARKERS_WAIT),
        std::slice::from_ref(&flush)
    );
    let mut seats = opened(&buckets);
    seats.on(Event::Failed(at(0, 2), trouble(Cause::Corrupt)), secs(1));
    assert_eq!(asked(&mut seats, &buckets[..2], secs(1)), [flush]);
}

#[test]
fn a_table_whose_buckets_went_to_others_is_no_longer_this_one_s_trouble() {
    let mut seats = opened(&[at(0, 0), at(0, 1)]);
    let topic = at(0, 0).topic;
    let taken = vec![(at(0, 0), held(9 * MIB, secs(0)))];
    seats.on(Event::Taken(taken), secs(0));
    let failing = || Event::FlushFailing(topic.clone(), trouble(Cause::FlushFailing));
    seats.on(failing(), secs(1));
    assert_eq!(seats.troubles().count(), 1);
    seats.on(Event::Revoked(vec![at(0, 0)]), secs(2));
    seats.on(Event::Tick, secs(13));
    assert_eq!(seats.troubles().count(), 1, "the other bucket is ours");
    let commands = seats.on(Event::Revoked(vec![at(0, 1)]), secs(14));
    assert!(
        commands.contains(&Command::GiveWay(topic.clone())),
        "{commands:?}"
    );
    assert_eq!(seats.troubles().count(), 0);
    seats.on(failing(), secs(26));
    assert_eq!(
        seats.troubles().count(),
        0,
        "its flush tries on, for nobody here"
    );
    let ended = FlushEnd::Stopped(trouble(Cause::GaveWay));
    let commands = seats.on(Event::FlushEnded(topic.clone(), ended), secs(27));
    assert_eq!(commands, [Command::ForgetTable(topic)]);
}

/// Rows of the table that was dropped must not be committed with what is known of its successor.
#[test]
fn a_table_made_again_ends_what_is_open_of_the_one_before_it() {
    let mut seats = opened(&[at(0, 0), at(0, 1)]);
    let topic = at(0, 0).topic;
    let taken = vec![(at(0, 1), held(100, secs(0)))];
    seats.on(Event::Taken(taken), secs(0));
    let commands = seats.on(Event::Surprised(at(0, 0)), secs(1));
    let Some(Command::Open { attempt, .. }) = commands.last() else {
        panic!("{commands:?}");
    };
    let again = Event::Opened {
        topic: topic.clone(),
        attempt: *attempt,
        found: Found::Table(Incarnation {
            topic_id: TopicId([2; 16]),
            restores: 0,
        }),
        ready: vec![Bucket(0)],
        refused: Vec::new(),
    };
    let commands = seats.on(again, secs(1));
    let (forget, restart) = (Command::Forget(at(0, 1)), Command::Restart(vec![at(0, 0)]));
    let place = |wanted| commands.iter().position(|command| *command == wanted);
    assert!(
        place(forget).unwrap() < place(restart).unwrap(),
        "{commands:?}"
    );
    let reopens = |command: &Command| match command {
        Command::Open { buckets, .. } => *buckets == [Bucket(1)],
        _ => false,
    };
    assert!(commands.iter().any(reopens), "{commands:?}");
    let later = seats.on(Event::Tick, secs(9));
    let flushes = |command: &Command| matches!(command, Command::Flush(..));
    assert!(!later.iter().any(flushes), "{later:?}");
}

/// A flush of the table before says nothing of the one that is there now.
#[test]
fn the_end_of_a_flush_of_the_table_before_stops_nothing() {
    for end in [
        FlushEnd::Changed,
        FlushEnd::Stopped(trouble(Cause::TopicMissing)),
    ] {
        let mut seats = opened(&[at(0, 0), at(0, 1)]);
        let topic = at(0, 0).topic;
        let commands = seats.on(Event::Assigned(vec![at(0, 2)]), secs(0));
        let Some(Command::Open { attempt, .. }) = commands.last() else {
            panic!("{commands:?}");
        };
        let taken = vec![(at(0, 1), held(9 * MIB, secs(0)))];
        seats.on(Event::Taken(taken), secs(0));
        // Found while the flush is under way, by a bucket that was being opened before.
        let again = Event::Opened {
            topic: topic.clone(),
            attempt: *attempt,
            found: Found::Table(Incarnation {
                restores: 1,
                ..FIRST
            }),
            ready: vec![Bucket(2)],
            refused: Vec::new(),
        };
        let commands = seats.on(again, secs(1));
        assert!(
            commands.contains(&Command::GiveWay(topic.clone())),
            "{commands:?}"
        );
        seats.on(Event::FlushEnded(topic, end), secs(2));
        assert!(seats.is_open(&at(0, 2)), "it is of the new table");
        assert_eq!(seats.troubles().count(), 0);
    }
}
