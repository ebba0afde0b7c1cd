//! Consumer groups of the log in memory.
//!
//! Cooperative and sticky: members keep what they have, and one that has too much is asked for the
//! rest. A bucket has one owner in the group's eyes; it is given to another only once it was released.
//! A member that the group has given up goes on reading until it asks the group for something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use tidelake_core::Offset;

use super::state::{Found, Partition, State, Topic};
use super::{Shared, at};
use crate::{
    ConsumerSettings, Event, GroupLog, LogError, MessageBatch, Start, TopicBucket, TopicInfo,
    topics,
};

#[derive(Debug, Default)]
pub(super) struct Group {
    members: BTreeMap<u64, Member>,
    pub committed: BTreeMap<TopicBucket, Offset>,
}

#[derive(Debug, Default)]
struct Member {
    subscription: String,
    instance: Option<String>,
    standing: Standing,
    /// What the group has given it.
    owned: BTreeSet<TopicBucket>,
    /// What of it the group wants back.
    leaving: BTreeSet<TopicBucket>,
    /// What of it is being consumed.
    seats: BTreeMap<TopicBucket, Seat>,
    /// Topics of which it was told what they are.
    known: BTreeSet<Arc<str>>,
    events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    #[default]
    Present,
    /// Gone, but known by its instance id: its buckets wait for it.
    Away,
    /// Given up by the group, and does not know.
    Expired,
}

#[derive(Debug)]
struct Seat {
    next: i64,
    paused: bool,
}

impl Member {
    /// Buckets that it will keep.
    fn keeps(&self) -> usize {
        self.owned.len() - self.leaving.len()
    }

    fn ask_back(&mut self, buckets: Vec<TopicBucket>) {
        if !buckets.is_empty() {
            self.leaving.extend(buckets.iter().cloned());
            match self.standing {
                Standing::Present => self.events.push_back(Event::Revoked(buckets)),
                // Nobody is there to be asked.
                Standing::Away | Standing::Expired => self.give_up(&buckets),
            }
        }
    }

    fn give_up(&mut self, buckets: &[TopicBucket]) {
        for at in buckets {
            self.owned.remove(at);
            self.leaving.remove(at);
            self.seats.remove(at);
        }
        let topics: BTreeSet<_> = self.owned.iter().map(|at| at.topic.clone()).collect();
        self.known.retain(|topic| topics.contains(topic));
    }

    fn assign(&mut self, buckets: Vec<TopicBucket>, topics: &BTreeMap<String, Topic>) {
        if buckets.is_empty() {
            return;
        }
        self.owned.extend(buckets.iter().cloned());
        let of: BTreeSet<_> = buckets.iter().map(|at| at.topic.clone()).collect();
        self.events.push_back(Event::Assigned(buckets));
        for topic in of {
            if let Some(info) = topics.get(&*topic).map(Topic::info)
                && self.known.insert(topic.clone())
            {
                let info = Some(info);
                self.events.push_back(Event::TopicChanged { topic, info });
            }
        }
    }
}

impl Group {
    fn rebalance(&mut self, topics: &BTreeMap<String, Topic>) {
        let all = |subscription: &str| -> BTreeSet<TopicBucket> {
            let wanted = topics.values();
            let wanted = wanted.filter(|topic| matches(subscription, &topic.name));
            wanted
                .flat_map(|topic| (0..topic.buckets.len()).map(|bucket| at(&topic.name, bucket)))
                .collect()
        };
        let members = || |member: &&mut Member| member.standing != Standing::Expired;
        let mut wanted = BTreeSet::new();
        for member in self.members.values_mut().filter(members()) {
            let there = all(&member.subscription);
            let gone = member.owned.difference(&there);
            let gone = gone
                .filter(|at| !member.leaving.contains(at))
                .cloned()
                .collect();
            member.ask_back(gone);
            wanted.extend(there);
        }
        self.give_out(wanted, topics);
        self.even_out();
    }

    /// Gives what nobody has to those who have least.
    fn give_out(&mut self, mut free: BTreeSet<TopicBucket>, topics: &BTreeMap<String, Topic>) {
        for member in self
            .members
            .values()
            .filter(|member| member.standing != Standing::Expired)
        {
            free.retain(|at| !member.owned.contains(at));
        }
        let mut given: BTreeMap<u64, Vec<TopicBucket>> = BTreeMap::new();
        for at in free {
            let takers = self.members.iter().filter(|(_, member)| {
                member.standing == Standing::Present && matches(&member.subscription, &at.topic)
            });
            let least = takers
                .min_by_key(|(id, member)| member.keeps() + given.get(id).map_or(0, Vec::len));
            if let Some((&id, _)) = least {
                given.entry(id).or_default().push(at);
            }
        }
        for (id, buckets) in given {
            if let Some(member) = self.members.get_mut(&id) {
                member.assign(buckets, topics);
            }
        }
    }

    /// Asks those who have too much for what others lack.
    fn even_out(&mut self) {
        let present = |member: &Member| member.standing == Standing::Present;
        let mut counts: BTreeMap<u64, usize> = self
            .members
            .iter()
            .filter(|(_, member)| present(member))
            .map(|(&id, member)| (id, member.keeps()))
            .collect();
        // What is on its way already goes to those who have least.
        let on_the_way: usize = self
            .members
            .values()
            .map(|member| member.leaving.len())
            .sum();
        for _ in 0..on_the_way {
            if let Some(least) = counts.values_mut().min() {
                *least += 1;
            }
        }
        let mut asked: BTreeMap<u64, Vec<TopicBucket>> = BTreeMap::new();
        loop {
            let most = counts.iter().max_by_key(|(_, count)| **count);
            let least = counts.iter().min_by_key(|(_, count)| **count);
            let (Some((&most, &from)), Some((&least, &to))) = (most, least) else {
                break;
            };
            let Some(member) = self.members.get(&most) else {
                break;
            };
            let of = asked.entry(most).or_default();
            let mut kept = member.owned.iter().rev();
            let next = kept.find(|at| !member.leaving.contains(at) && !of.contains(at));
            let (true, Some(next)) = (from - to > 1, next) else {
                break;
            };
            of.push(next.clone());
            counts.insert(most, from - 1);
            counts.insert(least, to + 1);
        }
        for (id, buckets) in asked {
            if let Some(member) = self.members.get_mut(&id) {
                member.ask_back(buckets);
            }
        }
    }
}

/// Whether a subscription takes a topic. Of patterns it knows the one that takes every table's topic
/// ([`topics::table_topics_pattern`]); any other takes what begins with its literal beginning.
fn matches(subscription: &str, topic: &str) -> bool {
    let Some(pattern) = subscription.strip_prefix('^') else {
        return subscription == topic;
    };
    match pattern.split_once("\\.[a-z]") {
        Some((prefix, _)) => topics::parse_table_topic(&prefix.replace('\\', ""), topic).is_some(),
        None => {
            let literal: String = pattern.replace("\\.", ".");
            let end = literal.find(['[', '(', '*', '+', '?', '$', '\\']);
            topic.starts_with(&literal[..end.unwrap_or(literal.len())])
        }
    }
}

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
        match group.members.get_mut(&id) {
            Some(member) if member.instance.is_some() && member.standing == Standing::Present => {
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
        let mut failed = Vec::new();
        for (at, seat) in &mut member.seats {
            let topic = self.topics.get(&*at.topic);
            let partition = topic.and_then(|topic| topic.buckets.get(at.bucket.0 as usize));
            let (Some(partition), false) = (partition, seat.paused) else {
                continue;
            };
            match Partition::read(partition, at, seat.next) {
                Found::AtEnd(end) => seat.next = end,
                Found::Messages(found, next) => {
                    messages.extend(found);
                    seat.next = next;
                }
                Found::Failed(error) => failed.push((at.clone(), error)),
            }
        }
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
