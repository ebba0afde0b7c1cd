//! Whose turn it is, where some logs do not answer.

use std::sync::Mutex;

use futures::future::BoxFuture;
use tidelake_log::{Feed, MessageBatch, OwnedMessage};

use super::*;

type Answer<'t, T> = BoxFuture<'t, Result<T, LogError>>;
type Ends = Vec<(Bucket, Offset)>;

/// Each bucket holds one record, whose timestamp is its number; of those that are named nothing is
/// answered.
#[derive(Debug, Clone, Default)]
struct Log {
    silent: Vec<Bucket>,
    opened: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug)]
struct Ranges {
    log: Log,
    topic: Arc<str>,
}

impl BucketReader for Log {
    fn ends<'s, 'a, 'b, 't>(&'s self, _: &'a str, _: &'b [Bucket]) -> Answer<'t, Ends>
    where
        's: 't,
        'a: 't,
        'b: 't,
        Self: 't,
    {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn start<'s, 'a, 't>(&'s self, _: &'a str, _: Bucket) -> Answer<'t, Offset>
    where
        's: 't,
        'a: 't,
        Self: 't,
    {
        Box::pin(std::future::ready(Ok(Offset(0))))
    }

    fn follow(&self, topic: &str, _: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>, LogError> {
        Err(LogError::NoTopic(topic.to_owned()))
    }

    fn ranges(&self, topic: &str) -> Result<Box<dyn RangeReader>, LogError> {
        self.opened.lock().unwrap().push(topic.to_owned());
        Ok(Box::new(Ranges {
            log: self.clone(),
            topic: topic.into(),
        }))
    }
}

impl RangeReader for Ranges {
    fn read<'s, 't>(
        &'s self,
        ranges: Vec<(Bucket, Offset, Offset)>,
        _: Duration,
    ) -> Answer<'t, Vec<MessageBatch>>
    where
        's: 't,
        Self: 't,
    {
        let (bucket, offset, _) = ranges[0];
        if self.log.silent.contains(&bucket) {
            let (what, reason) = ("fetch".to_owned(), "silence".to_owned());
            let error = LogError::Unavailable { what, reason };
            return Box::pin(std::future::ready(Err(error)));
        }
        let of = |bucket: Bucket| OwnedMessage {
            topic: self.topic.clone(),
            bucket,
            offset,
            timestamp_ms: i64::from(bucket.0),
            key: None,
            value: None,
            headers: Arc::default(),
        };
        // Something of another bucket comes along.
        let messages = vec![of(Bucket(bucket.0 + 1000)), of(bucket)];
        let batches = vec![MessageBatch::owned(messages)];
        Box::pin(std::future::ready(Ok(batches)))
    }
}

fn wanted(topic: &str, buckets: u32) -> Vec<(TopicBucket, Offset)> {
    let at = |bucket| TopicBucket {
        topic: topic.into(),
        bucket: Bucket(bucket),
    };
    (0..buckets).map(|n| (at(n), Offset(7))).collect()
}

#[tokio::test]
async fn buckets_that_do_not_answer_keep_no_others_from_their_turn() {
    let log = Log {
        silent: vec![Bucket(0), Bucket(3)],
        ..Log::default()
    };
    let mut turns = Turns::default();
    let mut known = BTreeMap::new();
    for _ in 0..4 {
        let mut open = wanted("t", 6);
        open.retain(|(at, _)| !known.contains_key(&at.bucket.0));
        for (at, offset, ms) in oldest(&log, open, &mut turns).await {
            assert_eq!(offset, Offset(7));
            known.insert(at.bucket.0, ms);
        }
    }
    assert_eq!(known, BTreeMap::from([(1, 1), (2, 2), (4, 4), (5, 5)]));
}

#[tokio::test]
async fn one_look_opens_one_reader_for_each_topic_and_is_bounded() {
    let log = Log::default();
    let mut turns = Turns::default();
    let both = [wanted("b", 12), wanted("a", 12)].concat();
    let found = oldest(&log, both.clone(), &mut turns).await;
    assert_eq!(found.len(), RECORDS_MAX);
    assert_eq!(*log.opened.lock().unwrap(), ["a", "b"]);
    let more = oldest(&log, both, &mut turns).await;
    let first = (more[0].0.topic.as_ref(), more[0].0.bucket);
    assert_eq!(first, ("b", Bucket(4)), "behind the last");
}

#[test]
fn turns_go_round() {
    let all = || vec![(3, ()), (1, ()), (2, ())];
    let order = |last: Option<i32>| {
        let turns = in_turn(all(), last.as_ref()).into_iter();
        turns.map(|(key, ())| key).collect::<Vec<_>>()
    };
    assert_eq!(order(None), [1, 2, 3]);
    assert_eq!(order(Some(1)), [2, 3, 1]);
    assert_eq!(order(Some(3)), [1, 2, 3]);
    assert_eq!(order(Some(0)), [1, 2, 3], "of what is gone by now");
}
