//! Consumer groups of the log in memory.
//!
//! Cooperative and sticky: members keep what they have, and one that has too much is asked for the
//! rest. A bucket has one owner in the group's eyes; it is given to another only once it was
//! released. A member that the group has given up goes on reading until it asks the group for
//! something.

use std::sync::Arc;

use async_trait::async_trait;
use tidelake_core::Offset;

use super::Shared;
use super::balance::{Member, Seat, Standing};
use super::state::{Found, Partition, State};
use crate::{
    ConsumerSettings, Event, GroupLog, LogError, MessageBatch, Start, TopicBucket, TopicInfo,
};

impl State {
    pub(super) fn rebalance_all(&mut self) {
        for group in self.groups.values_mut() {
            group.rebalance(&self.topics);
        }
    }

    pub(super) fn tell_change(&mut self, name: &str, info: Option<TopicInfo>) {
        let members = self
            .groups
            .values_mut()
            .flat_map(|group| group.members.values_mut());
        for member in members {
            let known = member.known.get(name).cloned();
            if let Some(topic) = known {
                member.events.push_back(Event::TopicChanged { topic, info });
            }
        }
    }

    pub(super) fn expire(&mut self, group: &str, id: u64) {
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        match group.members.get_mut(&id) {
            Some(member) if member.standing == Standing::Away => _ = group.members.remove(&id),
            Some(member) => member.standing = Standing::Expired,
            None => return,
        }
        group.rebalance(&self.topics);
    }

    fn join(&mut self, settings: &ConsumerSettings) -> u64 {
        let id = self.mint();
        let mut member = Member {
            subscription: settings.subscription.clone(),
            instance: settings.instance_id.clone(),
            leaves: settings.leaves,
            ..Member::default()
        };
        let group = self.groups.entry(settings.group.clone()).or_default();
        if let Some(instance) = &settings.instance_id {
            let before = group.members.iter_mut().find(|(_, before)| {
                before.instance.as_ref() == Some(instance) && before.standing != Standing::Expired
            });
            if let Some((&before_id, before)) = before {
                let owned: Vec<_> = before.owned.difference(&before.leaving).cloned().collect();
                if before.standing == Standing::Away {
                    group.members.remove(&before_id);
                } else {
                    before.standing = Standing::Expired;
                    let fenced = LogError::Fenced(instance.clone());
                    before.events.push_back(Event::Ended(fenced));
                }
                member.assign(owned, &self.topics);
            }
        }
        group.members.insert(id, member);
        group.rebalance(&self.topics);
        id
    }

    fn leave(&mut self, group: &str, id: u64) {
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        let stays = |member: &Member| {
            let is_known = member.instance.is_some() && !member.leaves;
            is_known && member.standing == Standing::Present
        };
        match group.members.get_mut(&id) {
            Some(member) if stays(member) => {
                member.standing = Standing::Away;
                member.seats.clear();
                member.events.clear();
                let leaving: Vec<_> = member.leaving.iter().cloned().collect();
                member.give_up(&leaving);
            }
            _ => _ = group.members.remove(&id),
        }
        group.rebalance(&self.topics);
    }

    fn member(&mut self, group: &str, id: u64) -> Option<&mut Member> {
        self.groups.get_mut(group)?.members.get_mut(&id)
    }

    /// A member asks the group for something. One that was given up learns it by that: it has lost
    /// what it had, and joins anew.
    fn ask(&mut self, group: &str, id: u64, ask: impl FnOnce(&mut Member)) {
        let Some(member) = self.member(group, id) else {
            return;
        };
        if member.standing == Standing::Expired {
            let lost: Vec<_> = std::mem::take(&mut member.owned).into_iter().collect();
            member.leaving.clear();
            member.seats.clear();
            member.known.clear();
            member.standing = Standing::Present;
            member.events.push_back(Event::Revoked(lost));
        } else {
            ask(member);
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.rebalance(&self.topics);
        }
    }

    fn next_event(&mut self, group: &str, id: u64) -> Option<Option<Event>> {
        let (down, held) = (self.down, self.held);
        let Some(member) = self
            .groups
            .get_mut(group)
            .and_then(|all| all.members.get_mut(&id))
        else {
            return Some(None);
        };
        if let Some(event) = member.events.pop_front() {
            return Some(Some(event));
        }
        if down || held {
            return None;
        }
        let mut messages = Vec::new();
        let (mut failed, mut passed) = (Vec::new(), Vec::new());
        for (at, seat) in &mut member.seats {
            let topic = self.topics.get(&*at.topic);
            let partition = topic.and_then(|topic| topic.buckets.get(at.bucket.0 as usize));
            let (Some(partition), false) = (partition, seat.paused) else {
                continue;
            };
            match Partition::read(partition, at, seat.next) {
                Found::AtEnd(end) if end > seat.next => {
                    seat.next = end;
                    passed.push(Event::Passed(at.clone(), Offset(end)));
                }
                Found::AtEnd(_) => {}
                Found::Messages(found, next) => {
                    messages.extend(found);
                    seat.next = next;
                }
                Found::Failed(error) => failed.push((at.clone(), error)),
            }
        }
        member.events.extend(passed);
        for (at, error) in failed {
            member.seats.remove(&at);
            member.events.push_back(Event::Failed(at, error));
        }
        match messages.is_empty() {
            false => Some(Some(Event::Messages(MessageBatch::owned(messages)))),
            true => member.events.pop_front().map(Some),
        }
    }
}

/// A member of a group of the log in memory. Dropped, it leaves.
#[derive(Debug)]
pub struct MemoryGroup {
    shared: Arc<Shared>,
    group: String,
    id: u64,
}

impl MemoryGroup {
    pub(super) fn join(shared: Arc<Shared>, settings: &ConsumerSettings) -> Self {
        let id = shared.change(|state| state.join(settings));
        Self {
            shared,
            group: settings.group.clone(),
            id,
        }
    }

    /// What the group calls this member ([`super::MemoryLog::expire_member`]).
    pub fn id(&self) -> u64 {
        self.id
    }

    fn ask(&self, ask: impl FnOnce(&mut Member)) {
        self.shared
            .change(|state| state.ask(&self.group, self.id, ask));
    }

    fn with(&self, change: impl FnOnce(&mut Member)) {
        self.shared.change(|state| {
            if let Some(member) = state.member(&self.group, self.id) {
                change(member);
            }
        });
    }

    fn set_paused(&self, buckets: &[TopicBucket], paused: bool) {
        self.with(|member| {
            for at in buckets {
                if let Some(seat) = member.seats.get_mut(at) {
                    seat.paused = paused;
                }
            }
        });
    }
}

fn sit(member: &mut Member, start: &Start) {
    let seat = Seat {
        next: start.offset.0,
        paused: false,
    };
    member.seats.insert(start.at.clone(), seat);
}

#[async_trait]
impl GroupLog for MemoryGroup {
    async fn next(&mut self) -> Option<Event> {
        let (group, id) = (&self.group, self.id);
        self.shared.until(|state| state.next_event(group, id)).await
    }

    fn begin(&self, starts: Vec<Start>, _parked: Vec<TopicBucket>) {
        self.ask(|member| {
            for start in &starts {
                if member.owned.contains(&start.at) && !member.leaving.contains(&start.at) {
                    sit(member, start);
                }
            }
        });
    }

    fn restart(&self, starts: Vec<Start>) {
        self.with(|member| {
            let keeps = |start: &&Start| {
                member.owned.contains(&start.at) && !member.leaving.contains(&start.at)
            };
            let starts: Vec<Start> = starts.iter().filter(keeps).cloned().collect();
            for start in &starts {
                sit(member, start);
            }
            if !starts.is_empty() {
                let restarted = starts.into_iter().map(|start| start.at).collect();
                member.events.push_back(Event::Restarted(restarted));
            }
        });
    }

    fn release(&self, buckets: Vec<TopicBucket>) {
        self.ask(|member| member.give_up(&buckets));
    }

    fn pause(&self, buckets: Vec<TopicBucket>) {
        self.set_paused(&buckets, true);
    }

    fn resume(&self, buckets: Vec<TopicBucket>) {
        self.set_paused(&buckets, false);
    }

    fn commit(&self, offsets: Vec<(TopicBucket, Offset)>) {
        self.shared.change(|state| {
            let mut heard = false;
            state.ask(&self.group, self.id, |_| heard = true);
            if let (true, Some(group)) = (heard, state.groups.get_mut(&self.group)) {
                group.committed.extend(offsets);
            }
        });
    }

    fn end_offset_seen(&self, at: &TopicBucket) -> Option<Offset> {
        let state = self.shared.state();
        let partition = state.partition(&at.topic, at.bucket)?;
        Some(Offset(partition.end))
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        self.shared
            .change(|state| state.leave(&self.group, self.id));
    }
}
