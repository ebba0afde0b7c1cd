//! The groups that have members: where each is found, who is in it at a time, and when it is due.
//!
//! Every group has a lock of its own, held for one step of its state machine; the map of all groups
//! is locked only to find one. So what a group costs is paid by its own members. Locks are taken in
//! the order map, group, deadlines. Invariant: whenever a group has something to do at a time, an
//! entry of `deadlines` stands at that time or before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::state::{Answer, Group, Join, Outputs};

/// Groups with members at one time.
const GROUPS_MAX: usize = 20_000;
/// Subscriptions and assignments of all members; beyond it nobody joins.
const KEPT_BYTES_MAX: usize = 256 << 20;

pub(super) type Waiter = oneshot::Sender<Answer>;

/// A group under its lock.
#[derive(Debug)]
pub(super) struct Held {
    pub group: Group<Waiter>,
    /// Where it stands among the deadlines.
    scheduled: Option<u64>,
    /// What it was last seen to take.
    kept_bytes: usize,
    /// It is on its way out of the map: whoever still holds it must look again.
    gone: bool,
}

pub(super) type SharedGroup = Arc<Mutex<Held>>;

/// All groups that have members, or are about to.
#[derive(Debug)]
pub(super) struct Registry {
    groups: Mutex<BTreeMap<String, SharedGroup>>,
    deadlines: Mutex<BTreeSet<(u64, String)>>,
    kept_bytes: AtomicUsize,
    initial_delay_ms: u64,
    pub started: Instant,
    /// A deadline has come closer.
    changed: Notify,
}

impl Registry {
    pub(super) fn new(initial_delay: Duration) -> Self {
        Self {
            groups: Mutex::default(),
            deadlines: Mutex::default(),
            kept_bytes: AtomicUsize::new(0),
            initial_delay_ms: u64::try_from(initial_delay.as_millis()).unwrap_or(u64::MAX),
            started: Instant::now(),
            changed: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn all(&self) -> BTreeMap<String, SharedGroup> {
        self.groups.lock().clone()
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.groups.lock().keys().cloned().collect()
    }

    /// The group, if it has members or is about to.
    pub(super) fn find(&self, group_id: &str) -> Option<SharedGroup> {
        self.groups.lock().get(group_id).cloned()
    }

    /// Takes one step of a group's state machine; `None` where there is no such group.
    pub(super) fn step<T>(
        &self,
        group_id: &str,
        step: impl FnOnce(&mut Group<Waiter>, u64) -> (T, Outputs<Waiter>),
    ) -> Option<T> {
        let shared = self.find(group_id)?;
        let mut held = shared.lock();
        if held.gone {
            return None;
        }
        let (result, outputs) = step(&mut held.group, self.now());
        let idle = self.settle(group_id, &mut held, outputs);
        drop(held);
        if idle {
            self.forget(group_id, &shared);
        }
        Some(result)
    }

    /// After a step: answers who waited, and notes when time must pass. True where the group has
    /// become idle and is to be forgotten.
    fn settle(&self, group_id: &str, held: &mut Held, outputs: Outputs<Waiter>) -> bool {
        for (waiter, answer) in outputs {
            // Who went away notices by its session.
            _ = waiter.send(answer);
        }
        held.gone = held.group.is_idle();
        let kept_bytes = if held.gone {
            0
        } else {
            held.group.kept_bytes()
        };
        let before = std::mem::replace(&mut held.kept_bytes, kept_bytes);
        self.kept_bytes.fetch_add(kept_bytes, Ordering::Relaxed);
        self.kept_bytes.fetch_sub(before, Ordering::Relaxed);
        let next = held.group.next_tick().filter(|_| !held.gone);
        let closer = match (next, held.scheduled) {
            (Some(next), Some(scheduled)) => next < scheduled,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if closer || held.gone {
            let mut deadlines = self.deadlines.lock();
            if let Some(scheduled) = held.scheduled {
                deadlines.remove(&(scheduled, group_id.to_owned()));
            }
            deadlines.extend(next.map(|next| (next, group_id.to_owned())));
            held.scheduled = next;
        }
        if closer {
            self.changed.notify_one();
        }
        held.gone
    }

    /// Takes a group that is gone out of the map, unless another one has its name by now.
    fn forget(&self, group_id: &str, shared: &SharedGroup) {
        let mut groups = self.groups.lock();
        if groups
            .get(group_id)
            .is_some_and(|current| Arc::ptr_eq(current, shared))
        {
            groups.remove(group_id);
        }
    }

    /// Lets somebody join, who is answered through `waiter`.
    pub(super) fn enter(
        &self,
        group_id: &str,
        join: Join,
        waiter: Waiter,
    ) -> Result<(), ResponseError> {
        if self.kept_bytes.load(Ordering::Relaxed) > KEPT_BYTES_MAX {
            return Err(ResponseError::CoordinatorLoadInProgress);
        }
        loop {
            let shared = self.find_or_create(group_id, &join)?;
            let mut held = shared.lock();
            if held.gone {
                drop(held);
                self.forget(group_id, &shared);
                continue;
            }
            let outputs = held.group.join(join, waiter, self.now());
            let idle = self.settle(group_id, &mut held, outputs);
            drop(held);
            if idle {
                self.forget(group_id, &shared);
            }
            return Ok(());
        }
    }

    fn find_or_create(&self, group_id: &str, join: &Join) -> Result<SharedGroup, ResponseError> {
        let mut groups = self.groups.lock();
        if let Some(shared) = groups.get(group_id) {
            return Ok(Arc::clone(shared));
        }
        if !join.member_id.is_empty() {
            return Err(ResponseError::UnknownMemberId);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(ResponseError::CoordinatorLoadInProgress);
        }
        let held = Held {
            group: Group::new(self.initial_delay_ms),
            scheduled: None,
            kept_bytes: 0,
            gone: false,
        };
        let shared = Arc::new(Mutex::new(held));
        groups.insert(group_id.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }

    /// Ends what takes too long, until told to stop; then answers everybody who still waits.
    pub(super) async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.tick();
            let wait = async {
                match next {
                    Some(at) => {
                        let at = tokio::time::Instant::from_std(
                            self.started + Duration::from_millis(at),
                        );
                        _ = tokio::time::timeout_at(at, self.changed.notified()).await;
                    }
                    None => self.changed.notified().await,
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                // Dropping the waiters answers them: the coordinator is not available.
                let groups = std::mem::take(&mut *self.groups.lock());
                for shared in groups.into_values() {
                    let mut held = shared.lock();
                    held.group = Group::new(self.initial_delay_ms);
                    held.gone = true;
                    held.kept_bytes = 0;
                }
                return;
            }
        }
    }

    /// Lets time pass for groups that have something to do; says when it should next.
    fn tick(&self) -> Option<u64> {
        let now = self.now();
        loop {
            let (at, group_id) = {
                let deadlines = self.deadlines.lock();
                deadlines.first().cloned()?
            };
            if at > now {
                return Some(at);
            }
            self.tick_group(at, &group_id, now);
        }
    }

    fn tick_group(&self, at: u64, group_id: &str, now: u64) {
        let Some(shared) = self.find(group_id) else {
            self.deadlines.lock().remove(&(at, group_id.to_owned()));
            return;
        };
        let mut held = shared.lock();
        self.deadlines.lock().remove(&(at, group_id.to_owned()));
        if held.scheduled == Some(at) {
            held.scheduled = None;
        }
        let due = held.group.next_tick().is_some_and(|next| next <= now);
        let outputs = match due && !held.gone {
            true => held.group.tick(now),
            false => Vec::new(),
        };
        let idle = self.settle(group_id, &mut held, outputs);
        drop(held);
        if idle {
            self.forget(group_id, &shared);
        }
    }
}
