use bytes::Bytes;

use super::*;
use crate::{MessageBatch, OwnedMessage};

const PATIENCE: Duration = Duration::from_secs(30);

fn at() -> TopicBucket {
    TopicBucket {
        topic: "t".into(),
        bucket: Bucket(2),
    }
}

fn batch(offsets: impl IntoIterator<Item = i64>) -> MessageBatch {
    let message = |offset| OwnedMessage {
        topic: "t".into(),
        bucket: Bucket(2),
        offset: Offset(offset),
        timestamp_ms: 0,
        key: None,
        value: Some(Bytes::new()),
        headers: [].into(),
    };
    MessageBatch::owned(offsets.into_iter().map(message).collect())
}

fn began(from: i64) -> (Progress, Instant) {
    let now = crate::kafka::time::now();
    let mut progress = Progress::new(PATIENCE);
    progress.begin(&at(), Offset(from), now);
    (progress, now)
}

fn took(
    progress: &mut Progress,
    offsets: impl IntoIterator<Item = i64>,
    end: i64,
) -> Result<bool, Damage> {
    let batch = batch(offsets);
    let run = batch.runs().next().unwrap();
    progress.took(&run, || Some(Offset(end)), crate::kafka::time::now())
}

#[test]
fn offsets_that_follow_need_no_look_at_the_end() {
    let (mut progress, now) = began(5);
    let batch = batch(5..9);
    let run = batch.runs().next().unwrap();
    let end = || panic!("asked");
    assert_eq!(progress.took(&run, end, now), Ok(false));
    assert_eq!(progress.next(&at()), Some(Offset(9)));
}

#[test]
fn a_gap_below_the_end_may_be_and_a_jump_beyond_it_may_not() {
    let (mut progress, _) = began(30);
    assert_eq!(took(&mut progress, [30, 33, 34], 200), Ok(false));
    let jump = took(&mut progress, (65_567..65_600).collect::<Vec<_>>(), 200).unwrap_err();
    assert_eq!((jump.index, jump.offset), (0, 35));
    let inside = took(&mut progress, [35, 36, 500], 200).unwrap_err();
    assert_eq!((inside.index, inside.offset), (2, 37));
}

#[test]
fn offsets_never_go_back() {
    let (mut progress, _) = began(30);
    assert_eq!(took(&mut progress, [30, 31], 200), Ok(false));
    assert_eq!(took(&mut progress, [31], 200).unwrap_err().index, 0);
    assert_eq!(
        took(&mut progress, [32, 40, 39, 35], 200)
            .unwrap_err()
            .index,
        2
    );
}

#[test]
fn a_bucket_that_lies_behind_and_brings_nothing_is_in_trouble_until_it_does() {
    let (mut progress, begun) = began(5);
    assert_eq!(progress.quiet(begun + PATIENCE / 2), []);
    let later = begun + PATIENCE;
    assert_eq!(progress.quiet(later), [at()]);
    let events = progress.answered(&[(at(), Offset(9))], later);
    let [
        Event::Trouble {
            at: Some(of),
            error: Some(error),
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(*of, at());
    assert!(
        matches!(
            error,
            LogError::Stalled {
                offset: 5,
                end: 9,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        progress.answered(&[(at(), Offset(9))], later).is_empty(),
        "told once"
    );
    assert_eq!(took(&mut progress, [5], 9), Ok(true), "and taken back");
    assert_eq!(took(&mut progress, [6], 9), Ok(false));
}

#[test]
fn at_its_end_or_paused_a_bucket_may_be_quiet() {
    let (mut progress, begun) = began(5);
    let later = begun + PATIENCE;
    assert!(progress.answered(&[(at(), Offset(5))], later).is_empty());
    assert_eq!(progress.quiet(later), [], "it was looked at just now");
    // A control record at the end: no message will come of it.
    assert!(!progress.at_end(&at(), Offset(6), later));
    let later = later + PATIENCE;
    assert!(progress.answered(&[(at(), Offset(6))], later).is_empty());
    progress.pause(&at(), true, later);
    assert_eq!(progress.quiet(later + PATIENCE), []);
    progress.pause(&at(), false, later + PATIENCE);
    assert_eq!(progress.quiet(later + PATIENCE), []);
    progress.forget(&at());
    assert_eq!(progress.quiet(later + PATIENCE * 9), []);
}

#[test]
fn offsets_without_a_message_are_told_once_they_are_passed() {
    let (mut progress, begun) = began(5);
    let ends_at = |end| move |_: &TopicBucket| Some(Offset(end));
    assert_eq!(progress.behind(ends_at(5)), []);
    assert_eq!(progress.behind(ends_at(6)), [at()]);
    assert!(progress.reached(&at(), Offset(5)).is_none());
    let told = progress.reached(&at(), Offset(6));
    assert!(
        matches!(&told, Some(Event::Passed(of, Offset(6))) if *of == at()),
        "{told:?}"
    );
    assert!(progress.reached(&at(), Offset(6)).is_none(), "told once");
    assert_eq!(progress.behind(ends_at(6)), []);
    progress.begin(&at(), Offset(2), begun);
    progress.doubt(&at());
    progress.trust(|_| Some(Offset(6)));
    let stale = progress.reached(&at(), Offset(6));
    assert!(stale.is_none(), "where it stood before: {stale:?}");
    assert_eq!(took(&mut progress, [2, 3], 6), Ok(false));
    assert!(progress.reached(&at(), Offset(6)).is_some());
    progress.begin(&at(), Offset(2), begun);
    progress.doubt(&at());
    progress.trust(|_| None);
    assert!(progress.reached(&at(), Offset(6)).is_some());
    progress.pause(&at(), true, begun);
    assert_eq!(progress.behind(ends_at(7)), []);
    progress.forget(&at());
    assert!(progress.reached(&at(), Offset(9)).is_none());
}

#[test]
fn a_log_that_does_not_answer_is_told_once_and_taken_back() {
    let (mut progress, now) = began(5);
    let silence = || LogError::unavailable("ends", "no answer");
    let told = progress.unanswered(silence());
    assert!(matches!(
        told,
        Some(Event::Trouble {
            at: None,
            error: Some(_)
        })
    ));
    assert!(progress.unanswered(silence()).is_none());
    let events = progress.answered(&[], now);
    assert!(
        matches!(
            events[..],
            [Event::Trouble {
                at: None,
                error: None
            }]
        ),
        "{events:?}"
    );
}
