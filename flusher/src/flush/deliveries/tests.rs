//! Deliveries to a log that loses, delays and refuses.

mod heard;

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_core::{TopicId, headers};
use tidelake_intake::{OwnedHeaders, Signed};

use super::*;

/// What becomes of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    /// Kept, but the sender does not learn of it.
    Unanswered,
    Lost,
}

#[derive(Debug, Default)]
struct Log {
    fates: Mutex<Vec<Fate>>,
    /// What it keeps: bucket, origin or dead letter's key.
    kept: Mutex<Vec<(Bucket, String)>>,
    bytes_max: usize,
}

impl Log {
    fn new(fates: Vec<Fate>) -> Self {
        Self {
            fates: Mutex::new(fates),
            bytes_max: MESSAGE_BYTES_MAX,
            ..Self::default()
        }
    }

    fn kept(&self) -> Vec<(Bucket, String)> {
        self.kept.lock().unwrap().clone()
    }
}

fn text_of(message: &Message) -> String {
    let origin = message
        .headers
        .iter()
        .find(|(name, _)| name == headers::ORIGIN);
    let Some((_, header)) = origin else {
        return String::from_utf8_lossy(message.key.as_ref().unwrap()).into_owned();
    };
    let signed = routes().origin_key.read(header, message.bucket, 4);
    let Some(Signed::Here(origin)) = signed else {
        panic!("{header:?} is no origin of this topic: {signed:?}");
    };
    format!("{}/{}", origin.bucket, origin.offset)
}

impl Sends for Log {
    fn send(&self, message: Message) -> BoxFuture<'_, Result<Offset, LogError>> {
        if message.value.as_ref().map_or(0, Bytes::len) > self.bytes_max {
            let topic = message.topic.to_string();
            let error = LogError::MessageTooLarge { topic, bytes: 0 };
            return futures::future::ready(Err(error)).boxed();
        }
        let fate = self.fates.lock().unwrap().pop().unwrap_or(Fate::Kept);
        if fate != Fate::Lost {
            let kept = (message.bucket, text_of(&message));
            self.kept.lock().unwrap().push(kept);
        }
        let answer = match fate {
            Fate::Kept => Ok(Offset(0)),
            Fate::Unanswered | Fate::Lost => Err(LogError::Unacknowledged {
                topic: message.topic.to_string(),
                bucket: message.bucket,
                reason: "timed out".into(),
            }),
        };
        futures::future::ready(answer).boxed()
    }
}

fn record(offset: i64, target: u32, bytes: usize) -> Misrouted {
    let message = Outgoing {
        bucket: Bucket(target),
        key: Some(Bytes::from(format!("k{}", offset % 3))),
        value: Some(Bytes::from(vec![b'x'; bytes])),
        headers: OwnedHeaders::default(),
        timestamp_ms: Some(1),
    };
    Misrouted {
        key: (offset % 3) as u64,
        offset: Offset(offset),
        message,
    }
}

fn routes() -> Routes {
    Routes {
        topic: Arc::from("tl.a.t"),
        dead_letters: Some(Arc::from("tl.a.t.dlq")),
        origin_key: OriginKey::new("table", TopicId([1; 16])),
    }
}

fn deliveries(records: Vec<Misrouted>) -> Deliveries {
    let mut by_target: BTreeMap<Bucket, Vec<Misrouted>> = BTreeMap::new();
    for record in records {
        by_target
            .entry(record.message.bucket)
            .or_default()
            .push(record);
    }
    let lanes = by_target.into_values();
    let lanes = lanes.map(|records| Lane::new(Bucket(0), records));
    Deliveries {
        routes: routes(),
        lanes: lanes.collect(),
        dead_letters: Vec::new(),
    }
}

fn deliver(deliveries: &mut Deliveries, log: &Log) -> Result<(), LogError> {
    deliveries
        .deliver(log)
        .now_or_never()
        .expect("the log answers at once")
}

#[test]
fn a_record_whose_delivery_fails_is_sent_again_and_acknowledged_ones_are_not() {
    // Taken from the end: the first message is lost, those after it arrive.
    let log = Log::new(vec![Fate::Lost]);
    let mut deliveries = deliveries((0..5).map(|offset| record(offset, 1, 10)).collect());
    assert!(deliver(&mut deliveries, &log).is_err());
    let arrived = log.kept().len();
    assert!((1..5).contains(&arrived), "{arrived}");
    assert!(deliver(&mut deliveries, &log).is_ok());
    let mut kept: Vec<_> = log.kept().into_iter().map(|(_, origin)| origin).collect();
    kept.sort();
    assert_eq!(kept, ["0/0", "0/1", "0/2", "0/3", "0/4"]);
    assert!(deliver(&mut deliveries, &log).is_ok());
    assert_eq!(log.kept().len(), 5);
}

#[test]
fn a_record_that_the_log_finds_too_large_becomes_a_dead_letter_and_blocks_nothing() {
    let log = Log {
        bytes_max: 2_000,
        ..Log::default()
    };
    let records = vec![record(7, 1, 10), record(8, 1, 2_001), record(9, 1, 10)];
    let mut deliveries = deliveries(records);
    // The dead letter of this one is too large as well: that is for the flush to say.
    assert!(matches!(
        deliver(&mut deliveries, &log),
        Err(LogError::MessageTooLarge { topic, .. }) if topic == "tl.a.t.dlq"
    ));
    let log = Log::new(Vec::new());
    assert!(deliver(&mut deliveries, &log).is_ok());
    assert_eq!(log.kept(), [(Bucket(0), "0/8".to_owned())]);
    let [dead_letter] = &dead_letters_of(7, 8 << 10)[..] else {
        panic!("one dead letter");
    };
    let code = dead_letter
        .headers
        .0
        .iter()
        .find(|(name, _)| name == headers::dead_letter::CODE);
    assert_eq!(code.map(|(_, code)| &code[..]), Some(&b"TOO_LARGE"[..]));
}

/// The dead letters that a record of this size leaves with a log of the usual limit.
fn dead_letters_of(offset: i64, bytes: usize) -> Vec<Outgoing> {
    let lane = Lane::new(Bucket(0), vec![record(offset, 1, bytes)]);
    vec![lane.dead_letter(0, "tl.a.t")]
}

proptest! {
    #[test]
    fn whatever_the_log_does_every_record_is_in_it_before_the_flush_goes_on(
        fates in prop::collection::vec(
            prop::sample::select(vec![Fate::Kept, Fate::Kept, Fate::Unanswered, Fate::Lost]),
            0..200,
        ),
        targets in prop::collection::vec(1u32..4, 1..100),
    ) {
        let log = Log::new(fates);
        let records = targets.iter().enumerate();
        let records: Vec<_> = records.map(|(at, target)| record(at as i64, *target, 5)).collect();
        let expected: Vec<_> = records
            .iter()
            .map(|record| (record.message.bucket, format!("0/{}", record.offset)))
            .collect();
        let mut deliveries = deliveries(records);
        let mut tries = 0;
        while deliver(&mut deliveries, &log).is_err() {
            tries += 1;
            prop_assert!(tries < 1_000);
        }
        let kept = log.kept();
        prop_assert!(expected.iter().all(|record| kept.contains(record)));
    }
}
