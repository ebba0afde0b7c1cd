//! What stops a bucket: mishaps of the client, and offsets that contradict the log.

use std::collections::HashSet;
use std::sync::Arc;

use tidelake_core::Offset;

use super::Poller;
use crate::kafka::compaction::Decided;
use crate::kafka::message::Mishap;
use crate::kafka::mishap::{Verdict, judge};
use crate::kafka::progress::trouble;
use crate::kafka::time::Instant;
use crate::{Event, LogError, MessageBatch, TopicBucket};

impl Poller {
    /// What each mishap means; of those that stop a bucket only its first, because nothing behind
    /// that is of interest.
    pub(super) fn first_stops(
        &self,
        mishaps: Vec<Mishap>,
    ) -> Vec<(Verdict, Option<TopicBucket>, Mishap)> {
        let mut stopped = HashSet::new();
        let mut kept = Vec::with_capacity(mishaps.len());
        for mishap in mishaps {
            let (mut verdict, at) = (judge(&mishap), bucket_of(&mishap));
            if matches!(verdict, Verdict::Gap(_)) && self.gaps.may_be(&mishap.topic) {
                verdict = Verdict::Passes;
            }
            let stops = matches!(
                verdict,
                Verdict::Gap(_) | Verdict::OutOfRange | Verdict::Denied(_) | Verdict::Fails(_)
            );
            let first = at.clone().is_none_or(|at| !stops || stopped.insert(at));
            if first {
                kept.push((verdict, at, mishap));
            }
        }
        kept
    }

    /// A mishap that does not pass by itself: nothing of its bucket that came after it is handed
    /// on.
    pub(super) fn mishap(
        &mut self,
        verdict: Verdict,
        at: Option<TopicBucket>,
        mishap: &Mishap,
        batch: &mut MessageBatch,
        now: Instant,
    ) -> Option<Event> {
        let Some(at) = at else {
            let (Verdict::Denied(error) | Verdict::Fails(error)) = verdict else {
                return None;
            };
            let told = self.denied.replace(error.to_string());
            return (told != self.denied).then(|| trouble(None, Some(error)));
        };
        if !self.assigned.contains(&at) {
            return None;
        }
        let error = match verdict {
            Verdict::Passes | Verdict::AtEnd(_) => return None,
            Verdict::Unknown => {
                self.inquiries.suspect(at, now);
                return None;
            }
            Verdict::Gap(from) => return self.gap(at, from, mishap, batch),
            Verdict::OutOfRange => None,
            Verdict::Denied(error) | Verdict::Fails(error) => Some(error),
        };
        withhold(batch, &at, mishap.place);
        let expected = self.progress.next(&at);
        self.park(&at);
        match error {
            None => {
                let offset = Offset(mishap.offset);
                let offset = if offset.0 < 0 {
                    expected.unwrap_or(offset)
                } else {
                    offset
                };
                self.inquiries.lost(at, offset);
                None
            }
            Some(error) => Some(Event::Failed(at, located(error, expected))),
        }
    }

    /// Notes how far buckets have come. One whose offsets contradict the log can't go on.
    pub(super) fn follow(&mut self, batch: &mut MessageBatch, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let mut damages = Vec::new();
        let mut place = 0;
        for run in batch.runs() {
            let at = || TopicBucket {
                topic: Arc::from(run.topic),
                bucket: run.bucket,
            };
            let end = || self.client.end_offset_seen(&at());
            match self.progress.took(&run, end, now) {
                Ok(false) => {}
                Ok(true) => events.push(trouble(Some(at()), None)),
                Err(damage) => damages.push((at(), place, damage)),
            }
            place += run.len();
        }
        for (at, place, damage) in damages.into_iter().rev() {
            withhold(batch, &at, place + damage.index);
            self.park(&at);
            let error = LogError::Damaged {
                topic: at.topic.to_string(),
                bucket: at.bucket,
                offset: damage.offset,
                reason: damage.reason,
            };
            events.push(Event::Failed(at, error));
        }
        events
    }

    /// Offsets are missing. The bucket stands still before them until it is known whether they may
    /// be: one of the batches around them can also have said a wrong offset.
    fn gap(
        &mut self,
        at: TopicBucket,
        from: Offset,
        mishap: &Mishap,
        batch: &mut MessageBatch,
    ) -> Option<Event> {
        withhold(batch, &at, mishap.place);
        self.set_aside(&at);
        let asked = self.gaps.ask(at.clone(), from, mishap.text.clone());
        asked.err().map(|error| Event::Failed(at, error))
    }

    /// Buckets that stood before a gap, and now go on or can't.
    pub(super) fn judged_gaps(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for decided in self.gaps.look() {
            let (at, error) = match decided {
                Decided::GoesOn(at, from) => match self.go_on(&at, from, now) {
                    Ok(()) => continue,
                    Err(error) => (at, error),
                },
                Decided::Fails(at, error) => (at, error),
            };
            self.held.remove(&at);
            events.push(Event::Failed(at, error));
        }
        events
    }
}

fn bucket_of(mishap: &Mishap) -> Option<TopicBucket> {
    Some(TopicBucket {
        topic: Arc::from(mishap.topic.as_str()),
        bucket: mishap.bucket?,
    })
}

/// Takes a bucket's messages out from a place on.
fn withhold(batch: &mut MessageBatch, at: &TopicBucket, from: usize) {
    batch.retain(|place, message| {
        place < from || message.bucket() != at.bucket || message.topic() != &*at.topic
    });
}

/// The client does not always say which offset it could not read.
fn located(error: LogError, expected: Option<Offset>) -> LogError {
    match (error, expected) {
        (
            LogError::Damaged {
                topic,
                bucket,
                offset,
                reason,
            },
            Some(expected),
        ) if offset < 0 => LogError::Damaged {
            topic,
            bucket,
            offset: expected.0,
            reason,
        },
        (error, _) => error,
    }
}
