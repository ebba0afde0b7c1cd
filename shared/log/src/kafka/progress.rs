//! How far each bucket that is consumed has come: whether its offsets go on as they must, and
//! whether it stands still.
//!
//! Pure: what happened and when comes in, what follows from it goes out. The polling thread asks
//! the log for the ends of those buckets that have brought nothing for a while; one that lies
//! behind its end then is in trouble, by name, until something comes again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::{Bucket, Offset};

use super::time::Instant;
use crate::message::Run;
use crate::{Event, LogError, TopicBucket};

#[derive(Debug)]
pub(crate) struct Progress {
    /// How long a bucket may bring nothing before the log is asked for its end.
    patience: Duration,
    seats: HashMap<Arc<str>, HashMap<Bucket, Seat>>,
    /// The log does not answer at all.
    silent: bool,
}

#[derive(Debug)]
struct Seat {
    /// The next offset that may come.
    next: i64,
    /// When something came last, or nothing was known to be there.
    moved: Instant,
    paused: bool,
    /// The client's position may still be the one of before this beginning.
    doubted: bool,
    /// It was told that the bucket stands still.
    stalled: bool,
}

/// Where a run contradicts the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Index of the first message that can't be, within the run.
    pub index: usize,
    pub offset: i64,
    pub reason: String,
}

impl Progress {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            seats: HashMap::new(),
            silent: false,
        }
    }

    pub(crate) fn begin(&mut self, at: &TopicBucket, from: Offset, now: Instant) {
        let seat = Seat {
            next: from.0,
            moved: now,
            paused: false,
            doubted: false,
            stalled: false,
        };
        let topic = self.seats.entry(at.topic.clone()).or_default();
        topic.insert(at.bucket, seat);
    }

    pub(crate) fn forget(&mut self, at: &TopicBucket) {
        if let Some(topic) = self.seats.get_mut(&at.topic) {
            topic.remove(&at.bucket);
            if topic.is_empty() {
                self.seats.remove(&at.topic);
            }
        }
    }

    /// A paused bucket brings nothing, and nothing is wrong with it.
    pub(crate) fn pause(&mut self, at: &TopicBucket, paused: bool, now: Instant) {
        if let Some(seat) = self.seat(&at.topic, at.bucket) {
            seat.paused = paused;
            seat.moved = now;
        }
    }

    /// All were paused until now: none of them could move.
    pub(crate) fn resumed(&mut self, now: Instant) {
        for seat in self.seats.values_mut().flat_map(HashMap::values_mut) {
            seat.moved = now;
        }
    }

    /// The next offset that is expected of a bucket.
    pub(crate) fn next(&self, at: &TopicBucket) -> Option<Offset> {
        let seat = self.seats.get(&at.topic)?.get(&at.bucket)?;
        Some(Offset(seat.next))
    }

    /// Messages came. `end` is the log's end as the client has seen it: it is asked for only where
    /// offsets do not follow on one another, and no offset can lie at or beyond it.
    ///
    /// True where the bucket had been in trouble.
    pub(crate) fn took(
        &mut self,
        run: &Run<'_>,
        end: impl FnOnce() -> Option<Offset>,
        now: Instant,
    ) -> Result<bool, Damage> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(false);
        };
        let (first, last) = (first.offset().0, last.offset().0);
        let Some(seat) = self.seat(run.topic, run.bucket) else {
            return Ok(false);
        };
        let from = if seat.next < 0 { first } else { seat.next };
        if !follows_on(run, from) {
            check(run, from, end())?;
        }
        seat.next = last + 1;
        seat.moved = now;
        seat.doubted = false;
        Ok(std::mem::take(&mut seat.stalled))
    }

    /// Everything below `end` was read, whether there were messages or not. True where the bucket
    /// had been in trouble.
    pub(crate) fn at_end(&mut self, at: &TopicBucket, end: Offset, now: Instant) -> bool {
        let Some(seat) = self.seat(&at.topic, at.bucket) else {
            return false;
        };
        seat.next = seat.next.max(end.0);
        seat.moved = now;
        std::mem::take(&mut seat.stalled)
    }

    /// Everything below an offset was read, whenever that was: what has not come holds no message.
    pub(crate) fn reached(&mut self, at: &TopicBucket, position: Offset) -> Option<Event> {
        let seat = self.seat(&at.topic, at.bucket)?;
        if seat.doubted || !(0..position.0).contains(&seat.next) {
            return None;
        }
        seat.next = position.0;
        Some(Event::Passed(at.clone(), position))
    }

    /// The bucket was just begun with, and the client takes a while to forget where it stood: until
    /// it has no position, or something came, its position says nothing.
    pub(crate) fn doubt(&mut self, at: &TopicBucket) {
        if let Some(seat) = self.seat(&at.topic, at.bucket) {
            seat.doubted = true;
        }
    }

    /// Takes back doubts in buckets of which the client has forgotten its position.
    pub(crate) fn trust(&mut self, position: impl Fn(&TopicBucket) -> Option<Offset>) {
        for (topic, seats) in &mut self.seats {
            for (&bucket, seat) in seats.iter_mut().filter(|(_, seat)| seat.doubted) {
                let topic = topic.clone();
                seat.doubted = position(&TopicBucket { topic, bucket }).is_some();
            }
        }
    }

    /// Buckets that may be read and have not come to the end that `end` knows.
    pub(crate) fn behind(&self, end: impl Fn(&TopicBucket) -> Option<Offset>) -> Vec<TopicBucket> {
        let mut behind = Vec::new();
        for (topic, seats) in &self.seats {
            for (&bucket, seat) in seats {
                let topic = topic.clone();
                let at = TopicBucket { topic, bucket };
                let quiet = seat.paused || seat.doubted;
                if !quiet && end(&at).is_some_and(|end| seat.next < end.0) {
                    behind.push(at);
                }
            }
        }
        behind
    }

    /// Buckets that brought nothing for too long: their ends are to be asked for.
    pub(crate) fn quiet(&self, now: Instant) -> Vec<TopicBucket> {
        let mut quiet = Vec::new();
        for (topic, seats) in &self.seats {
            for (&bucket, seat) in seats {
                let idle = now.saturating_duration_since(seat.moved);
                if !seat.paused && idle >= self.patience {
                    let topic = topic.clone();
                    quiet.push(TopicBucket { topic, bucket });
                }
            }
        }
        quiet
    }

    /// The log's ends, of buckets that were quiet when it was asked.
    pub(crate) fn answered(&mut self, ends: &[(TopicBucket, Offset)], now: Instant) -> Vec<Event> {
        let mut events = self.heard();
        let patience = self.patience;
        for (at, end) in ends {
            let Some(seat) = self.seat(&at.topic, at.bucket) else {
                continue;
            };
            let waited = now.saturating_duration_since(seat.moved);
            if seat.paused || waited < patience {
                continue;
            }
            if seat.next >= end.0 {
                seat.moved = now;
            } else if !std::mem::replace(&mut seat.stalled, true) {
                let error = LogError::Stalled {
                    topic: at.topic.to_string(),
                    bucket: at.bucket,
                    offset: seat.next,
                    end: end.0,
                    waited,
                };
                events.push(trouble(Some(at.clone()), Some(error)));
            }
        }
        events
    }

    /// The log did not answer.
    pub(crate) fn unanswered(&mut self, error: LogError) -> Option<Event> {
        let told = std::mem::replace(&mut self.silent, true);
        (!told).then(|| trouble(None, Some(error)))
    }

    /// The log answers.
    pub(crate) fn heard(&mut self) -> Vec<Event> {
        let was_silent = std::mem::take(&mut self.silent);
        was_silent
            .then(|| trouble(None, None))
            .into_iter()
            .collect()
    }

    fn seat(&mut self, topic: &str, bucket: Bucket) -> Option<&mut Seat> {
        self.seats.get_mut(topic)?.get_mut(&bucket)
    }
}

pub(crate) fn trouble(at: Option<TopicBucket>, error: Option<LogError>) -> Event {
    Event::Trouble { at, error }
}

/// The usual case: one message for each offset.
fn follows_on(run: &Run<'_>, from: i64) -> bool {
    run.iter()
        .zip(from..)
        .all(|(message, expected)| message.offset().0 == expected)
}

fn check(run: &Run<'_>, expected: i64, end: Option<Offset>) -> Result<(), Damage> {
    let mut next = expected;
    for (index, message) in run.iter().enumerate() {
        let offset = message.offset().0;
        if let Some(end) = end
            && offset >= end.0
        {
            return Err(Damage {
                index,
                offset: next,
                reason: format!(
                    "the next record says it has offset {offset}, but the log ends \
                     at {end}"
                ),
            });
        }
        if offset < next {
            return Err(Damage {
                index,
                offset: next,
                reason: format!("the next record says it has offset {offset} again"),
            });
        }
        next = offset + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
