//! What the polling thread asks the brokers itself, without waiting for an answer: the ends of
//! buckets that are quiet, what is left of a bucket whose offset is gone, what the topics are that
//! it consumes.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidelake_core::Offset;

use super::native::Client;
use super::progress::Progress;
use super::request::{Described, Listed, Question, Spec, describe_topics, list_offsets};
use super::time::Instant;
use super::watch::Watch;
use crate::{Event, LogError, TopicBucket};

/// Between two looks at buckets that are quiet.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at positions, which cost no request.
const POSITIONS_INTERVAL: Duration = Duration::from_millis(500);
/// Topics are not asked about more often.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Inquiries {
    client: Arc<Client>,
    quiet: Option<Question<Listed>>,
    quiet_due: Instant,
    positions_due: Instant,
    lost: Vec<Lost>,
    topics: Option<Question<Described>>,
    topics_due: Instant,
    pace: Duration,
    watch: Watch,
}

/// A bucket whose offset the log does not have.
#[derive(Debug)]
struct Lost {
    at: TopicBucket,
    offset: Offset,
    start: Side,
    end: Side,
}

/// One end of what is left.
#[derive(Debug)]
enum Side {
    Asked(Question<Listed>),
    Known(i64),
}

/// Where the log did not say.
const UNKNOWN: i64 = -1;

impl Inquiries {
    pub(super) fn new(client: Arc<Client>, pace: Duration, now: Instant) -> Self {
        Self {
            client,
            quiet: None,
            quiet_due: now,
            positions_due: now,
            lost: Vec::new(),
            topics: None,
            topics_due: now,
            pace: pace.max(WATCH_INTERVAL_MIN),
            watch: Watch::default(),
        }
    }

    /// Asks what is due and takes what was answered.
    pub(super) fn look(
        &mut self,
        progress: &mut Progress,
        owned: &HashSet<TopicBucket>,
        now: Instant,
    ) -> Vec<Event> {
        let mut events = self.look_at_positions(progress, now);
        events.extend(self.look_at_quiet(progress, now));
        self.lost.retain_mut(|lost| match lost.look() {
            None => true,
            Some(event) => {
                events.push(event);
                false
            }
        });
        events.extend(self.look_at_topics(owned, now));
        events
    }

    /// The bucket's offset is not in the log: reported once the log has said what is.
    pub(super) fn lost(&mut self, at: TopicBucket, offset: Offset) {
        let of = std::slice::from_ref(&at);
        let side = |spec| match list_offsets(&self.client, of, spec) {
            Ok(question) => Side::Asked(question),
            Err(_) => Side::Known(UNKNOWN),
        };
        let (start, end) = (side(Spec::Earliest), side(Spec::Latest));
        self.lost.push(Lost {
            at,
            offset,
            start,
            end,
        });
    }

    /// A broker does not know the bucket: reported once that is sure.
    pub(super) fn suspect(&mut self, at: TopicBucket, now: Instant) {
        self.watch.suspect(at);
        self.topics_due = self.topics_due.min(now + WATCH_INTERVAL_MIN);
    }

    pub(super) fn forget(&mut self, at: &TopicBucket) {
        self.lost.retain(|lost| lost.at != *at);
        self.watch.forget(at);
    }

    /// Gives all questions up: they must not outlive the client.
    pub(super) fn end(&mut self) {
        self.quiet = None;
        self.topics = None;
        self.lost.clear();
    }

    /// A bucket's end may have offsets without a message, of which the client tells nothing. It
    /// only moves its position behind them, and behind messages once they were taken from it.
    fn look_at_positions(&mut self, progress: &mut Progress, now: Instant) -> Vec<Event> {
        progress.trust(|at| self.client.position(at));
        if now < self.positions_due {
            return Vec::new();
        }
        self.positions_due = now + POSITIONS_INTERVAL;
        let behind = progress.behind(|at| self.client.end_offset_seen(at));
        let reached = behind.iter().filter_map(|at| {
            let position = self.client.position(at)?;
            progress.reached(at, position)
        });
        reached.collect()
    }

    fn look_at_quiet(&mut self, progress: &mut Progress, now: Instant) -> Vec<Event> {
        if let Some(question) = &mut self.quiet {
            let Some(answer) = question.poll() else {
                return Vec::new();
            };
            self.quiet = None;
            return match answer {
                Ok(listed) => {
                    let known = |(at, end): (TopicBucket, Result<Offset, _>)| Some((at, end.ok()?));
                    let ends: Vec<_> = listed.into_iter().filter_map(known).collect();
                    let reached = ends.iter().filter_map(|(at, _)| {
                        let position = self.client.position(at)?;
                        progress.reached(at, position)
                    });
                    let mut events: Vec<_> = reached.collect();
                    events.extend(progress.answered(&ends, now));
                    events
                }
                Err(error) => progress.unanswered(error).into_iter().collect(),
            };
        }
        if now >= self.quiet_due {
            self.quiet_due = now + QUIET_INTERVAL;
            let quiet = progress.quiet(now);
            if !quiet.is_empty() {
                match list_offsets(&self.client, &quiet, Spec::Latest) {
                    Ok(question) => self.quiet = Some(question),
                    Err(error) => tracing::warn!(%error, "ask for ends"),
                }
            }
        }
        Vec::new()
    }

    fn look_at_topics(&mut self, owned: &HashSet<TopicBucket>, now: Instant) -> Vec<Event> {
        if let Some(question) = &mut self.topics {
            let Some(answer) = question.poll() else {
                return Vec::new();
            };
            self.topics = None;
            return match answer {
                Ok(described) => self.watch.answered(described, owned),
                // What lasts is seen by the look at quiet buckets.
                Err(error) => {
                    tracing::debug!(%error, "look at topics");
                    Vec::new()
                }
            };
        }
        if now >= self.topics_due {
            self.topics_due = now + self.pace;
            let topics: BTreeSet<&str> = owned.iter().map(|at| &*at.topic).collect();
            self.watch.keep(&topics);
            if !topics.is_empty() {
                let names: Vec<&str> = topics.into_iter().collect();
                match describe_topics(&self.client, &names) {
                    Ok(question) => self.topics = Some(question),
                    Err(error) => tracing::warn!(%error, "ask for topics"),
                }
            }
        }
        Vec::new()
    }
}

impl Side {
    fn look(&mut self) -> Option<i64> {
        if let Self::Asked(question) = self {
            let answer = question.poll()?;
            let listed = answer.ok().and_then(|listed| listed.into_iter().next());
            let offset = listed.and_then(|(_, offset)| offset.ok());
            *self = Self::Known(offset.map_or(UNKNOWN, |offset| offset.0));
        }
        match self {
            Self::Known(offset) => Some(*offset),
            Self::Asked(_) => None,
        }
    }
}

impl Lost {
    fn look(&mut self) -> Option<Event> {
        let (start, end) = (self.start.look(), self.end.look());
        let error = LogError::OffsetOutOfRange {
            topic: self.at.topic.to_string(),
            bucket: self.at.bucket,
            offset: self.offset.0,
            start: start?,
            end: end?,
        };
        Some(Event::Failed(self.at.clone(), error))
    }
}
