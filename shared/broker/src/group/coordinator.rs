//! The coordinator of all groups: what is asked of a group, and the positions it commits.
//!
//! Checks what can be checked without a group, hands the rest to the group's state machine by way of
//! the [`Registry`], and waits for its answer.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::offsets::{Change, Committed, OffsetStore};
use super::registry::{Limits, Registry};
use super::session::Sync;
use super::shares::CoordinatorUse;
use super::state::{Answer, Caller, Join, Phase};

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

/// The coordinator of every group there is.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(super) registry: Registry,
    offsets: OffsetStore,
}

impl Coordinator {
    pub(crate) fn new(offsets: OffsetStore, initial_delay: Duration) -> Self {
        Self {
            registry: Registry::new(initial_delay, Limits::default()),
            offsets,
        }
    }

    pub(crate) fn offsets(&self) -> &OffsetStore {
        &self.offsets
    }

    /// Ends what takes too long, until told to stop; then answers everybody who still waits.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        self.registry.run(stop).await;
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
        if let Err(error) = self.registry.enter(group_id, join, waiter) {
            return refuse(error);
        }
        answer
            .await
            .unwrap_or_else(|_| refuse(ResponseError::CoordinatorNotAvailable))
    }

    /// Asks for an assignment. Takes until the leader has decided.
    pub(crate) async fn sync(&self, group_id: &str, sync: Sync<'_>) -> Answer {
        let (waiter, answer) = oneshot::channel();
        let stepped = self
            .registry
            .step(group_id, |group, now| ((), group.sync(sync, waiter, now)));
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
        let shared = self
            .registry
            .find(group_id)
            .ok_or(ResponseError::UnknownMemberId)?;
        // Only puts a member's deadline off, which needs no look at the others.
        let mut held = shared.lock();
        held.group
            .heartbeat(caller, generation, self.registry.now())
    }

    pub(crate) fn leave(&self, group_id: &str, caller: Caller<'_>) -> Result<(), ResponseError> {
        let left = self
            .registry
            .step(group_id, |group, now| match group.leave(caller, now) {
                Ok(outputs) => (Ok(()), outputs),
                Err(error) => (Err(error), Vec::new()),
            });
        left.unwrap_or(Err(ResponseError::UnknownMemberId))
    }

    /// Commits positions; durable when it returns.
    pub(crate) async fn commit(
        &self,
        client: &str,
        group_id: &str,
        caller: Caller<'_>,
        generation: i32,
        positions: Vec<(String, i32, Committed)>,
    ) -> Result<(), ResponseError> {
        if !(1..=GROUP_ID_BYTES_MAX).contains(&group_id.len()) {
            return Err(ResponseError::InvalidGroupId);
        }
        match self.registry.find(group_id) {
            Some(shared) => {
                let mut held = shared.lock();
                held.group
                    .check_commit(caller, generation, self.registry.now())?;
            }
            None if generation < 0 && caller.member_id.is_empty() => {}
            None => return Err(ResponseError::UnknownMemberId),
        }
        self.offsets
            .admits(client, group_id, &positions)
            .map_err(|_| ResponseError::InvalidCommitOffsetSize)?;
        let changes = positions.into_iter().map(|(topic, partition, committed)| {
            let group = group_id.to_owned();
            Change::Commit {
                group,
                topic,
                partition,
                committed,
            }
        });
        let changes = changes.collect();
        if self.offsets.apply_for(client.to_owned(), changes).await {
            Ok(())
        } else {
            Err(ResponseError::CoordinatorNotAvailable)
        }
    }

    /// How much of what groups may take is taken.
    pub(crate) fn in_use(&self) -> Vec<CoordinatorUse> {
        let mut all = self.registry.in_use().to_vec();
        all.push(self.offsets.in_use());
        all
    }

    /// Forgets a group that nobody is in.
    pub(crate) async fn delete(&self, group_id: &str) -> Result<(), ResponseError> {
        let phase = self
            .registry
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

    /// What keeps the committed offsets in order: marks of groups in use, and the end of those that
    /// were abandoned.
    pub(crate) fn offsets_housekeeping(&self, now_ms: i64) -> Vec<Change> {
        let before_ms = if self.registry.started.elapsed() < RETURN_MAX {
            i64::MIN
        } else {
            now_ms.saturating_sub(OFFSETS_KEPT_MS)
        };
        let in_use = self.registry.names();
        let in_use = |group: &str| in_use.contains(group);
        self.offsets.keep_house(now_ms, before_ms, in_use)
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
    let bytes = join.offered_bytes();
    let instance_bytes = join.instance_id.as_ref().map_or(0, String::len);
    if join.protocols.len() > PROTOCOLS_MAX
        || bytes > SUBSCRIPTION_BYTES_MAX
        || instance_bytes > INSTANCE_ID_BYTES_MAX
    {
        return Err(ResponseError::InvalidRequest);
    }
    Ok(())
}
