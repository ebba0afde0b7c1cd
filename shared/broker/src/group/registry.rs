//! The groups that have members: where each is found, who is in it at a time, and when it is due.
//!
//! Every group has a lock of its own, held for one step of its state machine; the map of all groups
//! is locked only to find one. So what a group costs is paid by its own members. Locks are taken in
//! the order map, group, deadlines or shares. Invariant: whenever a group has something to do at a
//! time, an entry of `deadlines` stands at that time or before it.
//!
//! What there is room for is shared fairly ([`super::shares`]): a group counts for the client that
//! brought it up. One that nobody has joined yet, but has only given out ids, makes room for others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::time::{self, Instant};

use super::shares::{CoordinatorUse, Refused, Shares};
use super::state::{Answer, Group, Join, Outputs};

/// What all groups may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Groups with members at one time.
    pub groups_max: usize,
    /// Subscriptions and assignments of all members; beyond it nobody joins.
    pub kept_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            groups_max: 20_000,
            kept_bytes_max: 256 << 20,
        }
    }
}

pub(super) type Waiter = oneshot::Sender<Answer>;

/// A group under its lock.
#[derive(Debug)]
pub(super) struct Held {
    pub group: Group<Waiter>,
    /// The client that brought it up.
    client: String,
    /// Where it stands among the deadlines.
    scheduled: Option<u64>,
    /// What it was last seen to take.
    kept_bytes: usize,
    /// It is on its way out of the map: whoever still holds it must look again.
    gone: bool,
}

pub(super) type SharedGroup = Arc<Mutex<Held>>;

/// Every group by its name.
#[derive(Debug)]
struct Groups {
    by_name: BTreeMap<String, SharedGroup>,
    shares: Shares,
    /// In the order they came, those that nobody had joined then.
    unjoined: VecDeque<(String, SharedGroup)>,
}

/// All groups that have members, or are about to.
#[derive(Debug)]
pub(super) struct Registry {
    groups: Mutex<Groups>,
    deadlines: Mutex<BTreeSet<(u64, String)>>,
    kept_bytes: Mutex<Shares>,
    limits: Limits,
    initial_delay_ms: u64,
    pub started: Instant,
    /// A deadline has come closer.
    changed: Notify,
}

impl Registry {
    pub(super) fn new(initial_delay: Duration, limits: Limits) -> Self {
        let groups = Groups {
            by_name: BTreeMap::new(),
            shares: Shares::new("groups", limits.groups_max),
            unjoined: VecDeque::new(),
        };
        let kept_bytes = Shares::new("subscription_bytes", limits.kept_bytes_max);
        Self {
            groups: Mutex::new(groups),
            deadlines: Mutex::default(),
            kept_bytes: Mutex::new(kept_bytes),
            limits,
            initial_delay_ms: u64::try_from(initial_delay.as_millis()).unwrap_or(u64::MAX),
            started: time::now(),
            changed: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn all(&self) -> BTreeMap<String, SharedGroup> {
        self.groups.lock().by_name.clone()
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.groups.lock().by_name.keys().cloned().collect()
    }

    /// How much of what there is room for is taken.
    pub(super) fn in_use(&self) -> [CoordinatorUse; 2] {
        let groups = self.groups.lock().shares.in_use();
        [groups, self.kept_bytes.lock().in_use()]
    }

    /// The group, if it has members or is about to.
    pub(super) fn find(&self, group_id: &str) -> Option<SharedGroup> {
        self.groups.lock().by_name.get(group_id).cloned()
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
        if before != kept_bytes {
            let mut shares = self.kept_bytes.lock();
            shares.change(&held.client, before, kept_bytes);
        }
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
        self.groups.lock().remove(group_id, shared);
    }

    /// Lets somebody join, who is answered through `waiter`.
    pub(super) fn enter(
        &self,
        group_id: &str,
        join: Join,
        waiter: Waiter,
    ) -> Result<(), ResponseError> {
        let client = join.client();
        let offered = self.kept_bytes.lock().check(&client, join.offered_bytes());
        offered.map_err(refusal)?;
        loop {
            let shared = self.find_or_create(group_id, &join, &client)?;
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

    fn find_or_create(
        &self,
        group_id: &str,
        join: &Join,
        client: &str,
    ) -> Result<SharedGroup, ResponseError> {
        let mut groups = self.groups.lock();
        if let Some(shared) = groups.by_name.get(group_id) {
            return Ok(Arc::clone(shared));
        }
        if !join.member_id.is_empty() {
            return Err(ResponseError::UnknownMemberId);
        }
        while let Err(refused) = groups.shares.check(client, 1) {
            if !self.make_room(&mut groups) {
                return Err(refusal(refused));
            }
        }
        let held = Held {
            group: Group::new(self.initial_delay_ms),
            client: client.to_owned(),
            scheduled: None,
            kept_bytes: 0,
            gone: false,
        };
        let shared = Arc::new(Mutex::new(held));
        groups.insert(group_id, &shared, client);
        if groups.unjoined.len() > self.limits.groups_max * 2 {
            groups.trim_unjoined();
        }
        Ok(shared)
    }

    /// Gives up the oldest group that has given out ids and has no member: whoever comes with such
    /// an id begins anew. False where there is none.
    fn make_room(&self, groups: &mut Groups) -> bool {
        while let Some((group_id, shared)) = groups.unjoined.pop_front() {
            // One that is being worked on is not idle; it will be given up another time.
            let Some(mut held) = shared.try_lock() else {
                continue;
            };
            if held.gone || !held.group.is_unjoined() {
                continue;
            }
            held.group = Group::new(self.initial_delay_ms);
            self.settle(&group_id, &mut held, Vec::new());
            drop(held);
            groups.remove(&group_id, &shared);
            return true;
        }
        false
    }

    /// Ends what takes too long, until told to stop; then answers everybody who still waits.
    pub(super) async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.tick();
            let wait = async {
                match next {
                    Some(at) => {
                        let at = self.started + Duration::from_millis(at);
                        _ = time::by(at, self.changed.notified()).await;
                    }
                    None => self.changed.notified().await,
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                // Dropping the waiters answers them: the coordinator is not available.
                let groups = std::mem::take(&mut self.groups.lock().by_name);
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

impl Groups {
    fn insert(&mut self, group_id: &str, shared: &SharedGroup, client: &str) {
        let group_id = group_id.to_owned();
        self.shares.change(client, 0, 1);
        self.by_name.insert(group_id.clone(), Arc::clone(shared));
        self.unjoined.push_back((group_id, Arc::clone(shared)));
    }

    /// Takes a group out, unless another one has its name by now.
    fn remove(&mut self, group_id: &str, shared: &SharedGroup) {
        let current = self.by_name.get(group_id);
        if current.is_some_and(|current| Arc::ptr_eq(current, shared)) {
            self.by_name.remove(group_id);
            let client = shared.lock().client.clone();
            self.shares.change(&client, 1, 0);
        }
    }

    /// Forgets those that have come to members or have gone since.
    fn trim_unjoined(&mut self) {
        self.unjoined.retain(|(_, shared)| {
            let held = shared.try_lock();
            held.is_none_or(|held| !held.gone && held.group.is_unjoined())
        });
    }
}

fn refusal(refused: Refused) -> ResponseError {
    match refused {
        Refused::Share => ResponseError::GroupMaxSizeReached,
        Refused::Full => ResponseError::CoordinatorLoadInProgress,
    }
}

#[cfg(test)]
mod tests;
