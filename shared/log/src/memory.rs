//! A log in memory: topics with ids, writers, readers, consumer groups, and faults on demand.
//!
//! Nothing is kept on disk, and nothing has a thread: whoever waits is woken by what others do, so
//! a run on one thread of tokio is the same every time. Time is a seam and is used for stamps only.
//!
//! Owns what a log promises, without its ways: offsets of a bucket rise by one and are never given
//! out again, each topic made anew has another id, a group's bucket has one owner at most, who is
//! asked before it is taken away (`group`). Does not own the network: a log that is "down"
//! answers nothing and takes nothing.

mod balance;
mod client;
mod group;
mod state;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelake_core::clock::SharedClock;
use tidelake_core::{Bucket, Offset};
use tokio::sync::Notify;

use crate::{OwnedMessage, TopicBucket, TopicSpec};
use state::State;

pub use group::MemoryGroup;

/// See the module. Clones are handles of one log.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is there that was not before.
    changed: Notify,
    clock: SharedClock,
    /// Requests for ends, and feeds that are open: for who wants to know what something costs.
    end_requests: AtomicU64,
    feeds: AtomicUsize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all who wait.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_waiters();
        changed
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            changed.await;
        }
    }
}

impl MemoryLog {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::default()),
                changed: Notify::new(),
                clock,
                end_requests: AtomicU64::new(0),
                feeds: AtomicUsize::new(0),
            }),
        }
    }

    /// Names of all topics.
    pub fn topics(&self) -> Vec<String> {
        self.shared.state().topics.keys().cloned().collect()
    }

    /// How a topic was created.
    pub fn spec(&self, topic: &str) -> Option<TopicSpec> {
        let state = self.shared.state();
        state.topics.get(topic).map(|topic| topic.spec.clone())
    }

    /// What a bucket holds.
    pub fn messages(&self, at: &TopicBucket) -> Vec<OwnedMessage> {
        let state = self.shared.state();
        let partition = state.partition(&at.topic, at.bucket);
        partition.map_or_else(Vec::new, |partition| {
            partition.messages.iter().cloned().collect()
        })
    }

    /// The next offset of a bucket; none where there is no such bucket.
    pub fn end(&self, at: &TopicBucket) -> Option<Offset> {
        let state = self.shared.state();
        let partition = state.partition(&at.topic, at.bucket)?;
        Some(Offset(partition.end))
    }

    /// Requests for ends so far.
    pub fn end_requests(&self) -> u64 {
        self.shared.end_requests.load(Ordering::SeqCst)
    }

    /// Messages of a topic that were handed to feeds so far.
    pub fn delivered(&self, topic: &str) -> u64 {
        let state = self.shared.state();
        state.topics.get(topic).map_or(0, |topic| topic.delivered)
    }

    /// Feeds that are open.
    pub fn feeds(&self) -> usize {
        self.shared.feeds.load(Ordering::SeqCst)
    }

    /// What a group has told lag tools.
    pub fn committed(&self, group: &str, at: &TopicBucket) -> Option<Offset> {
        let state = self.shared.state();
        state.groups.get(group)?.committed.get(at).copied()
    }

    /// Members that a group has, those among them that it has given up, in the order they came.
    pub fn members(&self, group: &str) -> Vec<u64> {
        let state = self.shared.state();
        let group = state.groups.get(group);
        group.map_or_else(Vec::new, |group| group.members.keys().copied().collect())
    }

    // Faults.

    /// Down, it answers nothing and takes nothing; followers and members wait.
    pub fn set_down(&self, down: bool) {
        self.shared.change(|state| state.down = down);
    }

    /// The next so many messages are taken, but nobody hears of it.
    pub fn lose_acknowledgements(&self, messages: usize) {
        self.shared.change(|state| state.lose_acks = messages);
    }

    /// The next so many messages are neither taken nor acknowledged.
    pub fn lose_messages(&self, messages: usize) {
        self.shared.change(|state| state.lose_messages = messages);
    }

    /// While held, messages are taken and their acknowledgements kept back.
    pub fn hold_acknowledgements(&self, held: bool) {
        self.shared.change(|state| state.hold_acks(held));
    }

    /// While held, nothing is delivered to readers and members.
    pub fn hold_delivery(&self, held: bool) {
        self.shared.change(|state| state.held = held);
    }

    /// Retention removes what lies before `start`.
    pub fn cut_before(&self, at: &TopicBucket, start: Offset) {
        self.shared.change(|state| {
            if let Some(partition) = state.partition_mut(&at.topic, at.bucket) {
                partition.cut_before(start);
            }
        });
    }

    /// The log loses what it had from `end` on, as an unclean election does.
    pub fn cut_back(&self, at: &TopicBucket, end: Offset) {
        self.shared.change(|state| {
            if let Some(partition) = state.partition_mut(&at.topic, at.bucket) {
                partition.cut_back(end);
            }
        });
    }

    /// Offsets without messages, as transactions leave them.
    pub fn skip_offsets(&self, at: &TopicBucket, count: u32) {
        self.shared.change(|state| {
            if let Some(partition) = state.partition_mut(&at.topic, at.bucket) {
                partition.end += i64::from(count);
            }
        });
    }

    /// Readers see nothing from an offset on while a transaction is open there; `None` ends it.
    pub fn open_transaction(&self, at: &TopicBucket, from: Option<Offset>) {
        self.shared.change(|state| {
            if let Some(partition) = state.partition_mut(&at.topic, at.bucket) {
                partition.stable = from.map(|from| from.0);
            }
        });
    }

    /// The message at an offset can't be read any more.
    pub fn damage(&self, at: &TopicBucket, offset: Offset, reason: &str) {
        self.shared.change(|state| {
            if let Some(partition) = state.partition_mut(&at.topic, at.bucket) {
                partition.damaged.insert(offset.0, reason.to_owned());
            }
        });
    }

    /// Deletes a topic and makes it again at once, empty: followers and members go on as if nothing
    /// had been, as they do with a log over a network.
    pub fn remake_topic(&self, topic: &str) {
        self.shared.change(|state| state.remake(topic));
    }

    /// Gives a topic so many buckets more.
    pub fn add_buckets(&self, topic: &str, buckets: u32) {
        self.shared
            .change(|state| state.add_buckets(topic, buckets));
    }

    /// The group gives a member up that it has not heard of: its buckets go to others at once, and
    /// it does not know. It goes on reading, as a zombie does, until it asks the group for
    /// something.
    pub fn expire_member(&self, group: &str, member: u64) {
        self.shared.change(|state| state.expire(group, member));
    }
}

/// A bucket's name.
fn at(topic: &Arc<str>, bucket: usize) -> TopicBucket {
    TopicBucket {
        topic: topic.clone(),
        bucket: Bucket(u32::try_from(bucket).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests;
