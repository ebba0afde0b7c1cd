//! The window against a receiver that keeps one floor and a bounded set for each source, over a log
//! that loses, delays and repeats.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A few keys, each with many records.
fn key_of(offset: i64) -> u64 {
    (offset as u64 * 7) % 5
}

/// What a receiver keeps of a source: the contract of re-published records.
#[derive(Debug, Default)]
struct Receiver {
    floor: i64,
    above: BTreeSet<i64>,
    taken: Vec<i64>,
    /// The record that each key shows.
    rows: BTreeMap<u64, i64>,
}

impl Receiver {
    fn read(&mut self, (offset, floor): (i64, i64)) {
        if offset >= self.floor && self.above.insert(offset) {
            self.taken.push(offset);
            self.rows.insert(key_of(offset), offset);
        }
        if floor > self.floor {
            self.floor = floor;
            self.above = self.above.split_off(&floor);
        }
        assert!(
            self.above.len() <= ORIGIN_WINDOW,
            "the receiver's memory is bounded"
        );
    }
}

/// A flusher that sends the records, perhaps one that was replaced without knowing it.
struct Sender {
    window: Window,
    on_its_way: Vec<usize>,
}

impl Sender {
    fn new(offsets: &[i64]) -> Self {
        Self {
            window: Window::new(
                offsets
                    .iter()
                    .map(|&offset| (Offset(offset), key_of(offset))),
            ),
            on_its_way: Vec::new(),
        }
    }
}

/// What happens next; `pick` chooses among the records on their way.
#[derive(Debug, Clone, Copy)]
enum Step {
    Send,
    /// The log keeps it, the sender learns of it.
    Acknowledge,
    /// The log keeps it, the acknowledgement is lost.
    LoseAnswer,
    /// It never arrives.
    LoseRecord,
    Interrupt,
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step, prop::sample::Index)>> {
    let step = prop_oneof![
        6 => Just(Step::Send),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::LoseRecord),
        1 => Just(Step::Interrupt),
    ];
    prop::collection::vec((any::<bool>(), step, any::<prop::sample::Index>()), 0..600)
}

/// Applies a step; what reaches the log is appended to it.
fn apply(
    sender: &mut Sender,
    offsets: &[i64],
    floors: &mut Vec<(usize, i64)>,
    step: Step,
    pick: prop::sample::Index,
    log: &mut Vec<(i64, i64)>,
) {
    if let Step::Send = step {
        if let Some(due) = sender.window.next() {
            sender.on_its_way.push(due.index);
            floors.push((due.index, due.floor.0));
        }
        return;
    }
    if let Step::Interrupt = step {
        sender.window.interrupted();
        sender.on_its_way.clear();
        return;
    }
    if sender.on_its_way.is_empty() {
        return;
    }
    let index = sender
        .on_its_way
        .remove(pick.index(sender.on_its_way.len()));
    let sent = floors.iter().rev().find(|(known, _)| *known == index);
    let record = (offsets[index], sent.map_or(0, |(_, floor)| *floor));
    match step {
        Step::Acknowledge => {
            log.push(record);
            sender.window.settled(index);
        }
        Step::LoseAnswer => {
            log.push(record);
            sender.window.failed(index);
        }
        _ => sender.window.failed(index),
    }
}

/// Sends what is left, every record acknowledged.
fn finish(sender: &mut Sender, offsets: &[i64], log: &mut Vec<(i64, i64)>) {
    sender.window.interrupted();
    sender.on_its_way.clear();
    while let Some(due) = sender.window.next() {
        log.push((offsets[due.index], due.floor.0));
        sender.window.settled(due.index);
    }
}

proptest! {
    #[test]
    fn every_record_is_taken_exactly_once_whatever_the_log_does_to_two_senders(
        gaps in prop::collection::vec(1i64..5, 1..120),
        steps in steps(),
    ) {
        let offsets: Vec<i64> = gaps
            .iter()
            .scan(0, |at, gap| {
                *at += gap;
                Some(*at)
            })
            .collect();
        let (mut one, mut two) = (Sender::new(&offsets), Sender::new(&offsets));
        let (mut floors_one, mut floors_two) = (Vec::new(), Vec::new());
        let mut log = Vec::new();
        for (first, step, pick) in steps {
            if first {
                apply(&mut one, &offsets, &mut floors_one, step, pick, &mut log);
            } else {
                apply(&mut two, &offsets, &mut floors_two, step, pick, &mut log);
            }
        }
        finish(&mut one, &offsets, &mut log);
        // The zombie may do as much as it likes afterwards.
        finish(&mut two, &offsets, &mut log);
        prop_assert!(one.window.is_done() && two.window.is_done());
        let mut receiver = Receiver::default();
        for record in log {
            receiver.read(record);
        }
        for (key, shown) in &receiver.rows {
            let newest = offsets.iter().rev().find(|offset| key_of(**offset) == *key);
            prop_assert_eq!(Some(shown), newest, "an older record of key {} won", key);
        }
        let mut taken = receiver.taken;
        taken.sort_unstable();
        prop_assert_eq!(taken, offsets);
    }
}

#[test]
fn no_more_than_the_window_is_on_its_way_and_failures_go_first() {
    let mut window = Window::new((0..100).map(|n| (Offset(n), n as u64)));
    let sent: Vec<_> = std::iter::from_fn(|| window.next())
        .map(|due| due.index)
        .collect();
    assert_eq!(sent, (0..ORIGIN_WINDOW).collect::<Vec<_>>());
    for index in 1..ORIGIN_WINDOW {
        window.settled(index);
    }
    assert_eq!(window.next(), None, "the first one holds the window");
    window.failed(0);
    let floor = Offset(0);
    assert_eq!(window.next(), Some(Due { index: 0, floor }));
    window.settled(0);
    let floor = Offset(ORIGIN_WINDOW as i64);
    let index = ORIGIN_WINDOW;
    assert_eq!(
        window.next(),
        Some(Due { index, floor }),
        "settled ones never return"
    );
}

#[test]
fn records_of_one_key_follow_each_other() {
    let mut window = Window::new([(Offset(3), 1), (Offset(5), 1), (Offset(6), 2)]);
    let sent: Vec<_> = std::iter::from_fn(|| window.next())
        .map(|due| due.index)
        .collect();
    assert_eq!(sent, [0, 2]);
    window.failed(0);
    assert_eq!(window.next().map(|due| due.index), Some(0));
    window.settled(0);
    let floor = Offset(5);
    assert_eq!(window.next(), Some(Due { index: 1, floor }));
}

#[test]
fn an_empty_window_is_done() {
    let mut window = Window::new([]);
    assert!(window.is_done() && window.next().is_none());
}
