use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn origin(offset: i64, floor: i64) -> Origin {
    Origin {
        bucket: Bucket(1),
        offset: Offset(offset),
        floor: Offset(floor),
    }
}

fn taken(origins: &mut Origins, offset: i64, floor: i64) -> bool {
    let new = origins.judge(origin(offset, floor)) == Judged::New;
    if new {
        origins.take(origin(offset, floor));
    }
    new
}

const TOPIC: TopicId = TopicId([7; 16]);

fn sealed(origins: &mut Origins) -> BTreeMap<String, i64> {
    let prefix = format!("tidelake/{TOPIC}/0/");
    let txns = origins.seal(&TOPIC, Bucket(0), 5).into_iter();
    let txns = txns.map(|txn| {
        (
            txn.app_id.strip_prefix(&prefix).unwrap().into(),
            txn.version,
        )
    });
    txns.collect()
}

#[test]
fn a_record_that_comes_after_a_later_one_is_taken_once() {
    let mut origins = Origins::default();
    assert!(taken(&mut origins, 17, 15));
    assert!(taken(&mut origins, 15, 15), "sent again, it comes late");
    assert!(!taken(&mut origins, 17, 15) && !taken(&mut origins, 15, 15));
    assert!(taken(&mut origins, 19, 19));
    assert!(
        !taken(&mut origins, 16, 15),
        "the log had everything below 19"
    );
}

#[test]
fn no_maximum_hides_what_was_never_taken() {
    let mut origins = Origins::default();
    assert!(taken(&mut origins, 1_000_000, 10));
    assert!((10..40).all(|offset| taken(&mut origins, offset, 10)));
}

#[test]
fn more_than_senders_may_send_is_refused_and_forgets_nothing() {
    let mut origins = Origins::default();
    assert!((0..SLOTS as i64).all(|offset| taken(&mut origins, offset, 0)));
    assert_eq!(origins.judge(origin(500, 0)), Judged::TooFar);
    assert_eq!(origins.judge(origin(3, 0)), Judged::Repeated);
    assert_eq!(origins.judge(origin(500, 1)), Judged::New);
}

#[test]
fn a_commit_holds_what_changed_since_the_last_and_each_name_once() {
    let mut origins = Origins::default();
    taken(&mut origins, 15, 15);
    taken(&mut origins, 17, 15);
    let first = sealed(&mut origins);
    let expected = [("origin/1", 15), ("origin/1/0", 15), ("origin/1/1", 17)];
    assert_eq!(first, expected.map(|(id, at)| (id.to_owned(), at)).into());
    assert!(sealed(&mut origins).is_empty());
    taken(&mut origins, 20, 17);
    let next = sealed(&mut origins);
    let expected = [("origin/1", 17), ("origin/1/0", 20)];
    assert_eq!(next, expected.map(|(id, at)| (id.to_owned(), at)).into());
}

/// What versions before there were floors and slots left behind: the last offset alone.
#[test]
fn everything_up_to_the_last_offset_of_an_earlier_version_counts_as_taken() {
    let own = format!("tidelake/{TOPIC}/0");
    let txn = |id: &str, version| Txn {
        app_id: format!("{own}/{id}"),
        version,
        last_updated: None,
    };
    let old = txn("from/1", 40);
    let mut origins = Origins::of_txns([&old].into_iter(), &TOPIC, Bucket(0));
    assert!((0..=40).all(|offset| !taken(&mut origins, offset, 0)));
    assert!(taken(&mut origins, 41, 0));
    assert!(!taken(&mut origins, 41, 0));
    // The old transaction goes on telling the floor until a sender names a higher one.
    let next = sealed(&mut origins);
    assert_eq!(next, [("origin/1/0".to_owned(), 41)].into());
    let new = txn("origin/1/0", 41);
    let mut read_again = Origins::of_txns([&old, &new].into_iter(), &TOPIC, Bucket(0));
    assert!((0..=41).all(|offset| !taken(&mut read_again, offset, 0)));
    assert!(taken(&mut read_again, 42, 0));
    // Floors of both forms: the higher one counts, in whichever order they are read.
    for (low, high) in [("from/1", "origin/1"), ("origin/1", "from/1")] {
        let (low, high) = (txn(low, 10), txn(high, 30));
        for both in [[&low, &high], [&high, &low]] {
            let mut origins = Origins::of_txns(both.into_iter(), &TOPIC, Bucket(0));
            assert!(!taken(&mut origins, 29, 0));
            assert!(taken(&mut origins, 31, 0));
        }
    }
    // Of another bucket, another topic, or no number: nothing of it counts here.
    let other = TopicId([8; 16]);
    let strangers = [
        format!("tidelake/{TOPIC}/1/from/1"),
        format!("tidelake/{other}/0/from/1"),
        format!("{own}/from/x"),
        format!("{own}/from/1/0"),
    ];
    let strangers = strangers.map(|app_id| Txn {
        app_id,
        version: 99,
        last_updated: None,
    });
    let mut origins = Origins::of_txns(strangers.iter(), &TOPIC, Bucket(0));
    assert!(taken(&mut origins, 5, 0));
}

/// What one sender does: it begins at a floor, keeps to the window, and sends what was not
/// acknowledged again.
#[derive(Debug, Clone)]
struct Sender {
    /// Misrouted records of the source from here on are its to send.
    from: usize,
    acknowledged: BTreeSet<usize>,
}

impl Sender {
    fn floor(&self, records: &[i64]) -> usize {
        let mut place = self.from;
        while place < records.len() && self.acknowledged.contains(&place) {
            place += 1;
        }
        place
    }
}

proptest! {
    /// Senders that crash, repeat, and lose acknowledgements; a receiver that is restarted from
    /// what its commits hold.
    #[test]
    fn every_record_is_taken_exactly_once_whatever_senders_and_receiver_go_through(
        gaps in prop::collection::vec(1i64..5, 1..120),
        steps in prop::collection::vec((0usize..2, 0usize..ORIGIN_WINDOW, any::<bool>(), 0u8..40), 1..900),
    ) {
        let mut offset = 0;
        let records: Vec<i64> = gaps.iter().map(|gap| { offset += gap; offset }).collect();
        let mut senders = vec![Sender { from: 0, acknowledged: BTreeSet::new() }; 2];
        // Positions of the source's watermark: a new sender begins there.
        let mut watermark = 0;
        let mut origins = Origins::default();
        let mut count: BTreeMap<i64, usize> = BTreeMap::new();
        let mut durable: BTreeMap<String, Txn> = BTreeMap::new();
        for (who, ahead, lost, event) in steps {
            let sender = &mut senders[who];
            let floor = sender.floor(&records);
            watermark = watermark.max(floor);
            let place = floor + ahead;
            if place < records.len() && !sender.acknowledged.contains(&place) {
                let floor = records[floor];
                if taken(&mut origins, records[place], floor) {
                    *count.entry(records[place]).or_default() += 1;
                }
                if !lost {
                    sender.acknowledged.insert(place);
                }
            }
            match event {
                // A crash of the sender.
                0 => senders[who] = Sender { from: watermark, acknowledged: BTreeSet::new() },
                // A commit and a restart of the receiver.
                1 | 2 => {
                    for txn in origins.seal(&TOPIC, Bucket(0), 5) {
                        durable.insert(txn.app_id.clone(), txn);
                    }
                    origins = Origins::of_txns(durable.values(), &TOPIC, Bucket(0));
                }
                _ => {}
            }
        }
        // Whatever is left is sent until the log has it.
        let sender = &mut senders[0];
        while sender.floor(&records) < records.len() {
            let place = sender.floor(&records);
            if taken(&mut origins, records[place], records[place]) {
                *count.entry(records[place]).or_default() += 1;
            }
            sender.acknowledged.insert(place);
        }
        prop_assert!(records.iter().all(|record| count.get(record) == Some(&1)), "{count:?}");
    }
}
