//! A group shares its work out anew: who is waited for, who leads, by which protocol.

use std::collections::HashMap;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::member::{Member, Protocol};
use super::state::{Answer, Group, Joined, Outputs, Phase};

impl<W> Group<W> {
    /// Starts a rebalance, unless one is under way.
    pub(super) fn prepare(&mut self, now: u64, out: &mut Outputs<W>) {
        if self.phase == Phase::Preparing {
            return;
        }
        if self.phase == Phase::Empty {
            self.not_before = now + self.initial_delay_ms;
        }
        for member in &mut self.members {
            if let Some(waiter) = member.syncing.take() {
                let error = ResponseError::RebalanceInProgress;
                out.push((waiter, Answer::SyncRefused(error)));
                // It could not send heartbeats while it waited.
                member.heard(now);
            }
            member.assignment = Bytes::new();
        }
        self.phase = Phase::Preparing;
        self.deadline = Some(now + self.rebalance_timeout_ms().max(self.initial_delay_ms));
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members
            .iter()
            .map(|member| member.rebalance_timeout_ms)
            .max()
            .unwrap_or(0)
    }

    /// Ends Preparing if everybody is there, or time is up.
    pub(super) fn try_complete(&mut self, now: u64, out: &mut Outputs<W>) {
        if self.phase != Phase::Preparing {
            return;
        }
        let time_is_up = self.deadline.is_some_and(|deadline| now >= deadline);
        let all_joined =
            self.pending.is_empty() && self.members.iter().all(|member| member.joining.is_some());
        if !(time_is_up || all_joined && now >= self.not_before) {
            return;
        }
        // Static members may come back under their name; others that did not come are out.
        let missing: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.joining.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in missing {
            self.drop_member(&id);
        }
        if self.members.is_empty() {
            self.become_empty();
            return;
        }
        if self.members.iter().all(|member| member.joining.is_none()) {
            self.deadline = Some(now + self.rebalance_timeout_ms());
            return;
        }
        self.elect_leader();
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.choose_protocol();
        self.phase = Phase::Completing;
        self.deadline = Some(now + self.rebalance_timeout_ms());
        for at in 0..self.members.len() {
            self.members[at].heard(now);
            if let Some(waiter) = self.members[at].joining.take() {
                out.push((waiter, Answer::Joined(self.joined(at, false))));
            }
        }
    }

    /// The leader must be one who joined this round.
    fn elect_leader(&mut self) {
        let joined = |member: &&Member<W>| member.joining.is_some();
        let stays = self
            .leader
            .as_deref()
            .and_then(|leader| self.position(leader));
        if stays.is_none_or(|at| self.members[at].joining.is_none()) {
            self.leader = self
                .members
                .iter()
                .find(joined)
                .map(|member| member.id.clone());
        }
    }

    /// The protocol that every member knows and most like best.
    pub(super) fn choose_protocol(&self) -> Option<String> {
        let first = self.members.first()?;
        let everywhere = |protocol: &&Protocol| {
            self.offers.get(&protocol.name).copied() == Some(self.members.len())
        };
        let shared: Vec<&str> = first
            .protocols
            .iter()
            .filter(everywhere)
            .map(|protocol| protocol.name.as_str())
            .collect();
        let mut votes: HashMap<&str, usize> = HashMap::new();
        for member in &self.members {
            if let Some(liked) = member.protocols.iter().find(everywhere) {
                *votes.entry(&liked.name).or_default() += 1;
            }
        }
        // `max_by_key` takes the last of equals; the first member's order should decide.
        shared
            .iter()
            .rev()
            .max_by_key(|name| votes.get(*name).copied().unwrap_or(0))
            .map(|name| (*name).to_owned())
    }

    pub(super) fn joined(&self, at: usize, skip_assignment: bool) -> Joined {
        let member_id = self.members[at].id.clone();
        let leader = self.leader.clone().unwrap_or_default();
        let members = if leader == member_id {
            let subscription =
                |member: &Member<W>| member.subscription(self.protocol()).unwrap_or_default();
            self.members
                .iter()
                .map(|member| {
                    (
                        member.id.clone(),
                        member.instance_id.clone(),
                        subscription(member),
                    )
                })
                .collect()
        } else {
            Vec::new()
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type().to_owned(),
            protocol: self.protocol().to_owned(),
            skip_assignment: skip_assignment && leader == member_id,
            leader,
            member_id,
            members,
        }
    }

    pub(super) fn drop_member(&mut self, member_id: &str) -> Option<Member<W>> {
        let member = self.members.remove(self.position(member_id)?);
        self.discount_offers(&member.protocols);
        if let Some(instance_id) = &member.instance_id {
            self.static_ids.remove(instance_id);
        }
        if self.leader.as_deref() == Some(member_id) {
            self.leader = self.members.first().map(|member| member.id.clone());
        }
        Some(member)
    }

    pub(super) fn become_empty(&mut self) {
        self.phase = Phase::Empty;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = None;
        self.leader = None;
        self.deadline = None;
    }
}
