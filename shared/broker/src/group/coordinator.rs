//! All groups of the broker: hands requests to their state machines, answers to those who wait, and
//! time to both.

use std::collections::BTreeMap;
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
/// Time-outs that members may ask for.
const SESSION_MS_MIN: u64 = 100;
const SESSION_MS_MAX: u64 = 30 * 60 * 1000;
const REBALANCE_MS_MIN: u64 = 100;
/// Positions of groups that are gone for this long are forgotten.
const OFFSETS_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

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

/// The coordinator of every group there is.
#[derive(Debug)]
pub(crate) struct Coordinator {
    groups: Mutex<BTreeMap<String, Group<Waiter>>>,
    offsets: OffsetStore,
    initial_delay_ms: u64,
    started: Instant,
    /// A deadline may have come closer.
    changed: Notify,
}

impl Coordinator {
    pub(crate) fn new(offsets: OffsetStore, initial_delay: Duration) -> Self {
        Self {
            groups: Mutex::default(),
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

    fn deliver(&self, outputs: Outputs<Waiter>) {
        for (waiter, answer) in outputs {
            // Who went away notices by its session.
            _ = waiter.send(answer);
        }
        self.changed.notify_one();
    }

    /// Joins a group, creating it if need be. Takes as long as the rebalance does.
    pub(crate) async fn join(&self, group_id: &str, mut join: Join) -> Answer {
        let refuse = |error| Answer::JoinRefused {
            error,
            member_id: String::new(),
        };
        if group_id.is_empty() {
            return refuse(ResponseError::InvalidGroupId);
        }
        if !(SESSION_MS_MIN..=SESSION_MS_MAX).contains(&join.session_timeout_ms) {
            return refuse(ResponseError::InvalidSessionTimeout);
        }
        join.rebalance_timeout_ms = join
            .rebalance_timeout_ms
            .clamp(REBALANCE_MS_MIN, SESSION_MS_MAX);
        let (waiter, answer) = oneshot::channel();
        {
            let mut groups = self.groups.lock();
            if !groups.contains_key(group_id) {
                if !join.member_id.is_empty() {
                    return refuse(ResponseError::UnknownMemberId);
                }
                if groups.len() >= GROUPS_MAX {
                    return refuse(ResponseError::CoordinatorLoadInProgress);
                }
            }
            let group = groups
                .entry(group_id.to_owned())
                .or_insert_with(|| Group::new(self.initial_delay_ms));
            let outputs = group.join(join, waiter, self.now());
            self.deliver(outputs);
        }
        answer
            .await
            .unwrap_or_else(|_| refuse(ResponseError::CoordinatorNotAvailable))
    }

    /// Asks for an assignment. Takes until the leader has decided.
    pub(crate) async fn sync(&self, group_id: &str, sync: Sync<'_>) -> Answer {
        let (waiter, answer) = oneshot::channel();
        {
            let mut groups = self.groups.lock();
            let Some(group) = groups.get_mut(group_id) else {
                return Answer::SyncRefused(ResponseError::UnknownMemberId);
            };
            let outputs = group.sync(sync, waiter, self.now());
            self.deliver(outputs);
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
        let mut groups = self.groups.lock();
        let group = groups
            .get_mut(group_id)
            .ok_or(ResponseError::UnknownMemberId)?;
        group.heartbeat(caller, generation, self.now())
    }

    pub(crate) fn leave(&self, group_id: &str, caller: Caller<'_>) -> Result<(), ResponseError> {
        let mut groups = self.groups.lock();
        let group = groups
            .get_mut(group_id)
            .ok_or(ResponseError::UnknownMemberId)?;
        let outputs = group.leave(caller, self.now())?;
        self.deliver(outputs);
        if group.is_idle() {
            groups.remove(group_id);
        }
        Ok(())
    }

    /// Commits positions; durable when it returns.
    pub(crate) async fn commit(
        &self,
        group_id: &str,
        caller: Caller<'_>,
        generation: i32,
        positions: Vec<(String, i32, Committed)>,
    ) -> Result<(), ResponseError> {
        if group_id.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        {
            let mut groups = self.groups.lock();
            match groups.get_mut(group_id) {
                Some(group) => group.check_commit(caller, generation, self.now())?,
                None if generation < 0 && caller.member_id.is_empty() => {}
                None => return Err(ResponseError::UnknownMemberId),
            }
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
        let known = self.offsets.group(group_id).is_some();
        {
            let mut groups = self.groups.lock();
            match groups.get(group_id).map(Group::phase) {
                Some(Phase::Empty) => _ = groups.remove(group_id),
                Some(_) => return Err(ResponseError::NonEmptyGroup),
                None if known => {}
                None => return Err(ResponseError::GroupIdNotFound),
            }
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
        let groups = self.groups.lock();
        let Some(group) = groups.get(group_id) else {
            drop(groups);
            return self.offsets.group(group_id).map(|_| empty(group_id));
        };
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
    pub(crate) fn list(&self) -> Vec<GroupDescription> {
        let mut names: Vec<String> = self.groups.lock().keys().cloned().collect();
        names.extend(self.offsets.groups());
        names.sort_unstable();
        names.dedup();
        names
            .iter()
            .filter_map(|name| self.describe(name))
            .collect()
    }

    /// What forgets the positions of groups that are gone for long.
    pub(crate) fn forget_stale(&self, now_ms: i64) -> Vec<Change> {
        self.offsets
            .forget_stale(now_ms.saturating_sub(OFFSETS_KEPT_MS), |group| {
                self.groups.lock().contains_key(group)
            })
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
                self.groups.lock().clear();
                return;
            }
        }
    }

    /// Lets time pass for every group; says when it should next.
    fn tick(&self) -> Option<u64> {
        let now = self.now();
        let mut groups = self.groups.lock();
        let mut outputs = Vec::new();
        groups.retain(|_, group| {
            if group.next_tick().is_some_and(|at| at <= now) {
                outputs.extend(group.tick(now));
            }
            !group.is_idle()
        });
        let next = groups.values().filter_map(Group::next_tick).min();
        drop(groups);
        for (waiter, answer) in outputs {
            _ = waiter.send(answer);
        }
        next
    }
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
