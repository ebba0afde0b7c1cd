//! All groups of the broker: hands requests to their state machines, answers to those who wait, and
//! time to both.
//!
//! Every group has a lock of its own, held for one step of its state machine; the map of all groups
//! is locked only to find one. So what a group costs is paid by its own members. Locks are taken in
//! the order map, group, deadlines. Invariant: whenever a group has something to do at a time, an
//! entry of `deadlines` stands at that time or before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::offsets::{Change, Committed, OffsetStore};
use super::session::Sync;
use super::state::{Answer, Caller, Group, Join, Outputs, Phase};

/// Groups with members at one time.
const GROUPS_MAX: usize = 20_000;
/// Longer ids of groups are refused: they are kept, and written with every commit.
const GROUP_ID_BYTES_MAX: usize = 1_024;
/// Longer instance ids are refused, as Kafka's own clients do.
const INSTANCE_ID_BYTES_MAX: usize = 249;
/// Protocols that one member may offer; real clients have a handful.
const PROTOCOLS_MAX: usize = 64;
/// Names and subscriptions of all that one member offers: they are kept as long as it lives.
const SUBSCRIPTION_BYTES_MAX: usize = 1 << 20;
/// Time-outs that members may ask for.
const SESSION_MS_MIN: u64 = 100;
const SESSION_MS_MAX: u64 = 30 * 60 * 1000;
const REBALANCE_MS_MIN: u64 = 100;
/// Positions of groups that nobody was in for this long are forgotten.
const OFFSETS_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// After a start members need time to come back before their groups count as abandoned.
const RETURN_MAX: Duration = Duration::from_secs(60 * 60);

type Waiter = oneshot::Sender<Answer>;

/// A member as the tools show it.
#[derive(Debug, Clone)]
pub(crate) struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub subscription: bytes::Bytes,
    pub assignment: bytes::Bytes,
}

/// A group as the tools show it.
#[derive(Debug, Clone)]
pub(crate) struct GroupDescription {
    pub id: String,
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

/// A group as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct GroupListing {
    pub id: String,
    pub state: &'static str,
    pub protocol_type: String,
}

/// A group under its lock.
#[derive(Debug)]
struct Held {
    group: Group<Waiter>,
    /// Where it stands among the deadlines.
    scheduled: Option<u64>,
    /// It is on its way out of the map: whoever still holds it must look again.
    gone: bool,
}

type SharedGroup = Arc<Mutex<Held>>;

/// The coordinator of every group there is.
#[derive(Debug)]
pub(crate) struct Coordinator {
    groups: Mutex<BTreeMap<String, SharedGroup>>,
    deadlines: Mutex<BTreeSet<(u64, String)>>,
    offsets: OffsetStore,
    initial_delay_ms: u64,
    started: Instant,
    /// A deadline has come closer.
    changed: Notify,
}

impl Coordinator {
    pub(crate) fn new(offsets: OffsetStore, initial_delay: Duration) -> Self {
        Self {
            groups: Mutex::default(),
            deadlines: Mutex::default(),
            offsets,
            initial_delay_ms: u64::try_from(initial_delay.as_millis()).unwrap_or(u64::MAX),
            started: Instant::now(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn offsets(&self) -> &OffsetStore {
        &self.offsets
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The group, if it has members or is about to.
    fn find(&self, group_id: &str) -> Option<SharedGroup> {
        self.groups.lock().get(group_id).cloned()
    }

    /// Takes one step of a group's state machine; `None` where there is no such group.
    fn step<T>(
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

    /// Joins a group, creating it if need be. Takes as long as the rebalance does.
    pub(crate) async fn join(&self, group_id: &str, mut join: Join) -> Answer {
        let refuse = |error| Answer::JoinRefused {
            error,
            member_id: String::new(),
        };
        if let Err(error) = check_join(group_id, &join) {
            return refuse(error);
        }
        join.rebalance_timeout_ms = join
            .rebalance_timeout_ms
            .clamp(REBALANCE_MS_MIN, SESSION_MS_MAX);
        let (waiter, answer) = oneshot::channel();
        if let Err(error) = self.enter(group_id, join, waiter) {
            return refuse(error);
        }
        answer
            .await
            .unwrap_or_else(|_| refuse(ResponseError::CoordinatorNotAvailable))
    }

    fn enter(&self, group_id: &str, join: Join, waiter: Waiter) -> Result<(), ResponseError> {
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
            gone: false,
        };
        let shared = Arc::new(Mutex::new(held));
        groups.insert(group_id.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }

    /// Asks for an assignment. Takes until the leader has decided.
    pub(crate) async fn sync(&self, group_id: &str, sync: Sync<'_>) -> Answer {
        let (waiter, answer) = oneshot::channel();
        let stepped = self.step(group_id, |group, now| ((), group.sync(sync, waiter, now)));
        if stepped.is_none() {
            return Answer::SyncRefused(ResponseError::UnknownMemberId);
        }
        answer
            .await
            .unwrap_or(Answer::SyncRefused(ResponseError::CoordinatorNotAvailable))
    }

    pub(crate) fn heartbeat(
        &self,
        group_id: &str,
        caller: Caller<'_>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let shared = self.find(group_id).ok_or(ResponseError::UnknownMemberId)?;
        // Only puts a member's deadline off, which needs no look at the others.
        let mut held = shared.lock();
        held.group.heartbeat(caller, generation, self.now())
    }

    pub(crate) fn leave(&self, group_id: &str, caller: Caller<'_>) -> Result<(), ResponseError> {
        let left = self.step(group_id, |group, now| match group.leave(caller, now) {
            Ok(outputs) => (Ok(()), outputs),
            Err(error) => (Err(error), Vec::new()),
        });
        left.unwrap_or(Err(ResponseError::UnknownMemberId))
    }

    /// Commits positions; durable when it returns.
    pub(crate) async fn commit(
        &self,
        group_id: &str,
        caller: Caller<'_>,
        generation: i32,
        positions: Vec<(String, i32, Committed)>,
    ) -> Result<(), ResponseError> {
        if !(1..=GROUP_ID_BYTES_MAX).contains(&group_id.len()) {
            return Err(ResponseError::InvalidGroupId);
        }
        match self.find(group_id) {
            Some(shared) => {
                let mut held = shared.lock();
                held.group.check_commit(caller, generation, self.now())?;
            }
            None if generation < 0 && caller.member_id.is_empty() => {}
            None => return Err(ResponseError::UnknownMemberId),
        }
        let changes = positions.into_iter().map(|(topic, partition, committed)| {
            let group = group_id.to_owned();
            Change::Commit {
                group,
                topic,
                partition,
                committed,
            }
        });
        if self.offsets.apply(changes.collect()).await {
            Ok(())
        } else {
            Err(ResponseError::CoordinatorNotAvailable)
        }
    }

    /// Forgets a group that nobody is in.
    pub(crate) async fn delete(&self, group_id: &str) -> Result<(), ResponseError> {
        let phase = self
            .find(group_id)
            .map(|shared| shared.lock().group.phase());
        match phase {
            Some(Phase::Empty) => {}
            Some(_) => return Err(ResponseError::NonEmptyGroup),
            None if self.offsets.knows(group_id) => {}
            None => return Err(ResponseError::GroupIdNotFound),
        }
        if self
            .offsets
            .apply(vec![Change::ForgetGroup {
                group: group_id.to_owned(),
            }])
            .await
        {
            Ok(())
        } else {
            Err(ResponseError::CoordinatorNotAvailable)
        }
    }

    /// What is known of a group; `None` if nothing is.
    pub(crate) fn describe(&self, group_id: &str) -> Option<GroupDescription> {
        let Some(shared) = self.find(group_id) else {
            return self.offsets.knows(group_id).then(|| empty(group_id));
        };
        let held = shared.lock();
        let group = &held.group;
        let settled = matches!(group.phase(), Phase::Stable | Phase::Completing);
        let members = group.members().iter().map(|member| MemberDescription {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            subscription: member
                .subscription(group.protocol())
                .filter(|_| settled)
                .unwrap_or_default(),
            assignment: member.assignment.clone(),
        });
        Some(GroupDescription {
            id: group_id.to_owned(),
            state: group.phase().name(),
            protocol_type: group.protocol_type().to_owned(),
            protocol: if settled {
                group.protocol().to_owned()
            } else {
                String::new()
            },
            members: members.collect(),
        })
    }

    /// All groups, with members or only with positions.
    pub(crate) fn list(&self) -> Vec<GroupListing> {
        let groups = self.groups.lock().clone();
        let mut listed: BTreeMap<String, GroupListing> = BTreeMap::new();
        for id in self.offsets.groups() {
            let GroupDescription {
                id,
                state,
                protocol_type,
                ..
            } = empty(&id);
            let listing = GroupListing {
                id: id.clone(),
                state,
                protocol_type,
            };
            listed.insert(id, listing);
        }
        for (id, shared) in groups {
            let held = shared.lock();
            let listing = GroupListing {
                id: id.clone(),
                state: held.group.phase().name(),
                protocol_type: held.group.protocol_type().to_owned(),
            };
            listed.insert(id, listing);
        }
        listed.into_values().collect()
    }

    /// What keeps the committed offsets in order: marks of groups in use, and the end of those that
    /// were abandoned.
    pub(crate) fn offsets_housekeeping(&self, now_ms: i64) -> Vec<Change> {
        let before_ms = if self.started.elapsed() < RETURN_MAX {
            i64::MIN
        } else {
            now_ms.saturating_sub(OFFSETS_KEPT_MS)
        };
        let in_use: BTreeSet<String> = self.groups.lock().keys().cloned().collect();
        let in_use = |group: &str| in_use.contains(group);
        self.offsets.keep_house(now_ms, before_ms, in_use)
    }

    /// Ends what takes too long, until told to stop; then answers everybody who still waits.
    pub(crate) async fn run(&self, stop: CancellationToken) {
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

/// What can be said about a join without a look at its group.
fn check_join(group_id: &str, join: &Join) -> Result<(), ResponseError> {
    if !(1..=GROUP_ID_BYTES_MAX).contains(&group_id.len()) {
        return Err(ResponseError::InvalidGroupId);
    }
    if !(SESSION_MS_MIN..=SESSION_MS_MAX).contains(&join.session_timeout_ms) {
        return Err(ResponseError::InvalidSessionTimeout);
    }
    let offered = join.protocols.iter();
    let bytes: usize = offered.map(|p| p.name.len() + p.metadata.len()).sum();
    let instance_bytes = join.instance_id.as_ref().map_or(0, String::len);
    if join.protocols.len() > PROTOCOLS_MAX
        || bytes > SUBSCRIPTION_BYTES_MAX
        || instance_bytes > INSTANCE_ID_BYTES_MAX
    {
        return Err(ResponseError::InvalidRequest);
    }
    Ok(())
}

fn empty(group_id: &str) -> GroupDescription {
    GroupDescription {
        id: group_id.to_owned(),
        state: Phase::Empty.name(),
        protocol_type: "consumer".to_owned(),
        protocol: String::new(),
        members: Vec::new(),
    }
}
