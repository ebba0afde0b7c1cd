//! The polling thread of a group consumer.
//!
//! It never waits for the owner: while an assignment or a revocation waits for its answer it goes
//! on polling, so other buckets keep flowing and the group sees a live member. When the owner's
//! channel stays full, everything is paused, and resumed once there is room.
//!
//! Invariants:
//! - a bucket that can't be read, or whose offsets contradict the log, is parked with the first
//!   message that is in doubt: nothing behind it is handed on (`faults`);
//! - what the thread asks the brokers itself, it asks without waiting ([`Inquiries`]).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tidelake_core::Offset;
use tokio::sync::mpsc;

use super::compaction::Gaps;
use super::consumer::Pulse;
use super::inquiry::Inquiries;
use super::message::Batch;
use super::mishap::Verdict;
use super::native::{Client, Rebalance};
use super::progress::{Progress, trouble};
use super::time::{self, Instant};
use super::visit::Visit;
use crate::{ConsumerSettings, Event, KafkaSettings, LogError, MessageBatch, Start, TopicBucket};

mod commands;
mod faults;

/// Messages of one poll at most.
const BATCH_MESSAGES_MAX: usize = 10_000;
const POLL_MS: i32 = 40;
/// For the group to be left; beyond it the session times out.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How long the channel may be full before everything is paused.
const STALL_MAX: Duration = Duration::from_millis(500);

/// What the owner wants.
#[derive(Debug)]
pub(super) enum Command {
    Begin {
        starts: Vec<Start>,
        parked: Vec<TopicBucket>,
    },
    Restart(Vec<Start>),
    Release(Vec<TopicBucket>),
    Pause(Vec<TopicBucket>),
    Resume(Vec<TopicBucket>),
    Commit(Vec<(TopicBucket, Offset)>),
    Close,
}

/// What the thread owns.
pub(super) struct Poller {
    client: Arc<Client>,
    events: mpsc::Sender<Event>,
    commands: std_mpsc::Receiver<Command>,
    pulse: Arc<Pulse>,
    /// What the group has given us and not asked back.
    granted: HashSet<TopicBucket>,
    /// What of it the owner has answered for.
    owned: HashSet<TopicBucket>,
    /// What of it is being consumed.
    assigned: HashSet<TopicBucket>,
    /// Paused at the owner's wish.
    held: HashSet<TopicBucket>,
    progress: Progress,
    inquiries: Inquiries,
    gaps: Gaps,
    /// Events that commands brought about.
    news: Vec<Event>,
    /// Everything is paused because the owner does not keep up.
    stalled: bool,
    /// Why the client as a whole is not let in, as it was told last.
    denied: Option<String>,
    /// To be paid once the group has taken us in.
    visit: Option<Visit>,
    /// See [`ConsumerSettings::leaves`].
    leaves: bool,
}

enum Next {
    Go,
    Stop,
}

impl Poller {
    pub(super) fn new(
        client: Arc<Client>,
        events: mpsc::Sender<Event>,
        commands: std_mpsc::Receiver<Command>,
        pulse: Arc<Pulse>,
        patience: Duration,
        kafka: &KafkaSettings,
        settings: &ConsumerSettings,
    ) -> Self {
        let now = time::now();
        let visited = settings.instance_id.is_some() && !settings.visited_topic.is_empty();
        Self {
            inquiries: Inquiries::new(client.clone(), settings.discovery, now),
            gaps: Gaps::new(client.clone()),
            client,
            events,
            commands,
            pulse,
            granted: HashSet::new(),
            owned: HashSet::new(),
            assigned: HashSet::new(),
            held: HashSet::new(),
            progress: Progress::new(patience),
            news: Vec::new(),
            stalled: false,
            denied: None,
            visit: visited.then(|| Visit {
                kafka: kafka.clone(),
                group: settings.group.clone(),
                topic: settings.visited_topic.clone(),
            }),
            leaves: settings.leaves,
        }
    }

    pub(super) fn run(mut self) {
        let mut waiting: VecDeque<Event> = VecDeque::new();
        let mut full_since: Option<Instant> = None;
        loop {
            self.pulse.beat();
            if matches!(self.obey(), Next::Stop) {
                break;
            }
            waiting.extend(self.news.drain(..));
            if let Some(error) = self.client.fatal_error() {
                waiting.push_back(Event::Ended(error));
            }
            // While the owner has not taken what waits, nothing new is consumed, but polling goes
            // on: rebalances and heartbeats depend on it. Paused buckets deliver nothing.
            if waiting.is_empty() || self.stalled {
                waiting.extend(self.poll());
            }
            let ended = matches!(waiting.back(), Some(Event::Ended(_)));
            match self.hand_over(&mut waiting) {
                Next::Stop => break,
                Next::Go if ended && waiting.is_empty() => break,
                Next::Go => {}
            }
            if waiting.is_empty() {
                full_since = None;
                self.set_stalled(false);
            } else if full_since.get_or_insert_with(time::now).elapsed() > STALL_MAX {
                self.set_stalled(true);
            }
        }
        drop(waiting);
        self.inquiries.end();
        self.gaps.end();
        if self.leaves
            && let Err(error) = self.leave()
        {
            tracing::debug!(%error, "leave the group");
        }
        self.client.close();
    }

    /// Gives everything back while the client still runs: one with an instance id that is only
    /// closed keeps its buckets from others until its session is over.
    fn leave(&self) -> Result<(), LogError> {
        self.client.begin_closing();
        // An assignment or a revocation may wait for an answer that nobody will give any more. Where
        // none does, the first changes nothing, and the second begins what follows.
        let answers = [self.client.assign(&[]), self.client.unassign(&self.all())];
        for error in answers.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "leave the group");
        }
        self.client.unsubscribe()?;
        let begun = time::now();
        while self.client.is_member() && begun.elapsed() < LEAVE_MAX {
            for rebalance in self.client.take_rebalances() {
                match rebalance {
                    Rebalance::Assign(_) => self.client.assign(&[])?,
                    Rebalance::Revoke(_) => self.client.unassign(&self.all())?,
                    Rebalance::Failed(_) => {}
                }
            }
            let mut raw = Vec::new();
            self.client.consume(&mut raw, BATCH_MESSAGES_MAX, POLL_MS);
            drop(Batch::new(raw, Arc::clone(&self.client)));
        }
        Ok(())
    }

    fn poll(&mut self) -> Vec<Event> {
        let mut raw = Vec::new();
        self.client.consume(&mut raw, BATCH_MESSAGES_MAX, POLL_MS);
        let now = time::now();
        let (batch, mishaps) = Batch::new(raw, self.client.clone());
        let mut batch = MessageBatch::native(batch);
        let mut failed = Vec::new();
        let mut ends = Vec::new();
        // The last first, so that places of earlier ones hold.
        for (verdict, at, mishap) in self.first_stops(mishaps).into_iter().rev() {
            match (verdict, at) {
                (Verdict::AtEnd(end), Some(at)) => ends.push((at, end)),
                (Verdict::Passes | Verdict::AtEnd(_), _) => {
                    tracing::debug!(error = mishap.text, topic = mishap.topic, "consumer");
                }
                (verdict, at) => {
                    failed.extend(self.mishap(verdict, at, &mishap, &mut batch, now));
                }
            }
        }
        failed.extend(self.follow(&mut batch, now));
        let mut events = Vec::new();
        if !batch.is_empty() {
            events.push(Event::Messages(batch));
        }
        for (at, end) in ends.into_iter().rev() {
            if self.progress.at_end(&at, end, now) {
                failed.push(trouble(Some(at), None));
            }
        }
        events.extend(failed);
        events.extend(self.judged_gaps(now));
        events.extend(self.rebalances());
        if self.denied.is_some() && !events.is_empty() && self.progress_is_made(&events) {
            self.denied = None;
            events.push(trouble(None, None));
        }
        if !self.stalled {
            let looked = self.inquiries.look(&mut self.progress, &self.owned, now);
            events.extend(looked);
        }
        events
    }

    fn progress_is_made(&self, events: &[Event]) -> bool {
        events
            .iter()
            .any(|event| matches!(event, Event::Messages(_) | Event::Assigned(_)))
    }

    fn rebalances(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for rebalance in self.client.take_rebalances() {
            match rebalance {
                Rebalance::Assign(buckets) => {
                    if let Some(visit) = self.visit.take() {
                        visit.begin();
                    }
                    self.granted.extend(buckets.iter().cloned());
                    events.push(Event::Assigned(buckets));
                }
                Rebalance::Revoke(buckets) => {
                    for at in &buckets {
                        self.granted.remove(at);
                    }
                    events.push(Event::Revoked(buckets));
                }
                Rebalance::Failed(text) => tracing::warn!(error = text, "rebalance failed"),
            }
        }
        events
    }

    /// Gives the owner as many events as it has room for.
    fn hand_over(&self, waiting: &mut VecDeque<Event>) -> Next {
        while let Some(event) = waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return Next::Stop,
                Err(mpsc::error::TrySendError::Full(event)) => {
                    waiting.push_front(event);
                    // No message is taken meanwhile, so this wait is what paces the loop.
                    std::thread::park_timeout(Duration::from_millis(1));
                    return Next::Go;
                }
            }
        }
        Next::Go
    }
}
