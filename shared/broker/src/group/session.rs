//! What members do once they joined: sync, heartbeat, commit, leave; and what time does to them.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::state::{Answer, Caller, Group, Outputs, Phase};

/// A request for the assignment; the leader brings everybody's.
#[derive(Debug, Clone)]
pub(crate) struct Sync<'a> {
    pub caller: Caller<'a>,
    pub generation: i32,
    /// Checked where the client says what it believes.
    pub protocol_type: Option<&'a str>,
    pub protocol: Option<&'a str>,
    pub assignments: Vec<(String, Bytes)>,
}

impl<W> Group<W> {
    /// A member asks for its assignment.
    pub(crate) fn sync(&mut self, sync: Sync<'_>, waiter: W, now: u64) -> Outputs<W> {
        let mut out = Vec::new();
        let at = match self.check_sync(&sync) {
            Ok(at) => at,
            Err(error) => return vec![(waiter, Answer::SyncRefused(error))],
        };
        self.members[at].heard(now);
        match self.phase {
            Phase::Empty => out.push(refused(waiter, ResponseError::UnknownMemberId)),
            Phase::Preparing => out.push(refused(waiter, ResponseError::RebalanceInProgress)),
            Phase::Stable => {
                let answer = self.synced(at);
                out.push((waiter, answer));
            }
            Phase::Completing => {
                if let Some(earlier) = self.members[at].syncing.replace(waiter) {
                    out.push(refused(earlier, ResponseError::RebalanceInProgress));
                }
                if self.leader.as_deref() == Some(&self.members[at].id) {
                    self.assign(sync.assignments, now, &mut out);
                }
            }
        }
        out
    }

    fn check_sync(&self, sync: &Sync<'_>) -> Result<usize, ResponseError> {
        let at = self.identify(sync.caller)?;
        if sync.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |said: Option<&str>, is: &Option<String>| {
            said.is_some_and(|said| is.as_deref().is_some_and(|is| is != said))
        };
        if differs(sync.protocol_type, &self.protocol_type)
            || differs(sync.protocol, &self.protocol)
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(at)
    }

    /// The leader decided: everybody who waits gets its part.
    fn assign(&mut self, assignments: Vec<(String, Bytes)>, now: u64, out: &mut Outputs<W>) {
        for (member_id, assignment) in assignments {
            if let Some(at) = self.position(&member_id) {
                self.members[at].assignment = assignment;
            }
        }
        self.phase = Phase::Stable;
        self.deadline = None;
        for at in 0..self.members.len() {
            self.members[at].heard(now);
            if let Some(waiter) = self.members[at].syncing.take() {
                let answer = self.synced(at);
                out.push((waiter, answer));
            }
        }
    }

    fn synced(&self, at: usize) -> Answer {
        Answer::Synced {
            protocol_type: self.protocol_type().to_owned(),
            protocol: self.protocol().to_owned(),
            assignment: self.members[at].assignment.clone(),
        }
    }

    /// A member says that it lives.
    pub(crate) fn heartbeat(
        &mut self,
        caller: Caller<'_>,
        generation: i32,
        now: u64,
    ) -> Result<(), ResponseError> {
        let at = self.identify(caller)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        self.members[at].heard(now);
        match self.phase {
            Phase::Empty => Err(ResponseError::UnknownMemberId),
            Phase::Preparing => Err(ResponseError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    /// May this caller commit offsets? Generation -1 without a member id is a consumer that manages
    /// its partitions itself; it may commit while the group has no members.
    pub(crate) fn check_commit(
        &mut self,
        caller: Caller<'_>,
        generation: i32,
        now: u64,
    ) -> Result<(), ResponseError> {
        let alone = generation < 0 && caller.member_id.is_empty() && caller.instance_id.is_none();
        if alone {
            let free = self.phase == Phase::Empty;
            return if free {
                Ok(())
            } else {
                Err(ResponseError::UnknownMemberId)
            };
        }
        let at = self.identify(caller)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        self.members[at].heard(now);
        match self.phase {
            // Cooperative members commit what they give up while the group rebalances.
            Phase::Stable | Phase::Preparing => Ok(()),
            Phase::Completing => Err(ResponseError::RebalanceInProgress),
            Phase::Empty => Err(ResponseError::UnknownMemberId),
        }
    }

    /// A member leaves; a static one may be named by its instance id alone.
    pub(crate) fn leave(
        &mut self,
        caller: Caller<'_>,
        now: u64,
    ) -> Result<Outputs<W>, ResponseError> {
        let id = match (caller.instance_id, caller.member_id) {
            (Some(instance_id), "") => {
                let id = self.static_ids.get(instance_id);
                id.cloned().ok_or(ResponseError::UnknownMemberId)?
            }
            (None, id) if self.pending.remove(id).is_some() => {
                let mut out = Vec::new();
                self.try_complete(now, &mut out);
                return Ok(out);
            }
            _ => self.members[self.identify(caller)?].id.clone(),
        };
        let mut out = Vec::new();
        self.remove(&id, now, &mut out);
        Ok(out)
    }

    fn remove(&mut self, member_id: &str, now: u64, out: &mut Outputs<W>) {
        let Some(member) = self.drop_member(member_id) else {
            return;
        };
        let error = ResponseError::UnknownMemberId;
        if let Some(waiter) = member.joining {
            let member_id = String::new();
            out.push((waiter, Answer::JoinRefused { error, member_id }));
        }
        if let Some(waiter) = member.syncing {
            out.push(refused(waiter, error));
        }
        match self.phase {
            Phase::Stable | Phase::Completing if self.members.is_empty() => self.become_empty(),
            Phase::Stable | Phase::Completing => {
                self.prepare(now, out);
                self.try_complete(now, out);
            }
            Phase::Preparing if self.members.is_empty() => self.become_empty(),
            Phase::Preparing => self.try_complete(now, out),
            Phase::Empty => {}
        }
    }

    /// The next time at which [`Group::tick`] has something to do.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        let initial = (self.phase == Phase::Preparing).then_some(self.not_before);
        let initial = initial.filter(|_| {
            self.pending.is_empty() && self.members.iter().all(|m| m.joining.is_some())
        });
        let expiries = self.members.iter().filter_map(|member| member.expiry());
        expiries
            .chain(self.pending.values().copied())
            .chain(self.deadline)
            .chain(initial)
            .min()
    }

    /// Lets time pass: ends what took too long.
    pub(crate) fn tick(&mut self, now: u64) -> Outputs<W> {
        let mut out = Vec::new();
        self.pending.retain(|_, until| *until > now);
        let dead: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.expiry().is_some_and(|at| at <= now))
            .map(|member| member.id.clone())
            .collect();
        for id in dead {
            self.remove(&id, now, &mut out);
        }
        let time_is_up = self.deadline.is_some_and(|deadline| deadline <= now);
        if self.phase == Phase::Completing && time_is_up {
            // Who has not asked for its assignment by now is out.
            let late: Vec<_> = self
                .members
                .iter()
                .filter(|member| member.syncing.is_none())
                .map(|member| member.id.clone())
                .collect();
            for id in late {
                self.remove(&id, now, &mut out);
            }
            // The leader may have been among them, or be the only one left to ask again.
            if self.phase == Phase::Completing {
                self.prepare(now, &mut out);
            }
        }
        self.try_complete(now, &mut out);
        out
    }
}

fn refused<W>(waiter: W, error: ResponseError) -> (W, Answer) {
    (waiter, Answer::SyncRefused(error))
}
