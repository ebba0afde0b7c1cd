//! Who has which bucket: the members of a group of the log in memory, and how buckets are shared out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidelake_core::Offset;

use super::at;
use super::state::Topic;
use crate::{Event, TopicBucket, topics};

#[derive(Debug, Default)]
pub(super) struct Group {
    pub members: BTreeMap<u64, Member>,
    pub committed: BTreeMap<TopicBucket, Offset>,
}

#[derive(Debug, Default)]
pub(super) struct Member {
    pub subscription: String,
    pub instance: Option<String>,
    /// Where it stops, its buckets are others' at once.
    pub leaves: bool,
    pub standing: Standing,
    /// What the group has given it.
    pub owned: BTreeSet<TopicBucket>,
    /// What of it the group wants back.
    pub leaving: BTreeSet<TopicBucket>,
    /// What of it is being consumed.
    pub seats: BTreeMap<TopicBucket, Seat>,
    /// Topics of which it was told what they are.
    pub known: BTreeSet<Arc<str>>,
    pub events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    #[default]
    Present,
    /// Gone, but known by its instance id: its buckets wait for it.
    Away,
    /// Given up by the group, and does not know.
    Expired,
}

#[derive(Debug)]
pub(super) struct Seat {
    pub next: i64,
    pub paused: bool,
}

impl Member {
    /// Buckets that it will keep.
    fn keeps(&self) -> usize {
        self.owned.len() - self.leaving.len()
    }

    pub(super) fn ask_back(&mut self, buckets: Vec<TopicBucket>) {
        if !buckets.is_empty() {
            self.leaving.extend(buckets.iter().cloned());
            match self.standing {
                Standing::Present => self.events.push_back(Event::Revoked(buckets)),
                // Nobody is there to be asked.
                Standing::Away | Standing::Expired => self.give_up(&buckets),
            }
        }
    }

    pub(super) fn give_up(&mut self, buckets: &[TopicBucket]) {
        for at in buckets {
            self.owned.remove(at);
            self.leaving.remove(at);
            self.seats.remove(at);
        }
        let topics: BTreeSet<_> = self.owned.iter().map(|at| at.topic.clone()).collect();
        self.known.retain(|topic| topics.contains(topic));
    }

    pub(super) fn assign(&mut self, buckets: Vec<TopicBucket>, topics: &BTreeMap<String, Topic>) {
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
    pub(super) fn rebalance(&mut self, topics: &BTreeMap<String, Topic>) {
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

/// Whether a subscription takes a topic. Of patterns it knows the one that takes every table's
/// topic ([`topics::table_topics_pattern`]); any other takes what begins with its literal
/// beginning.
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
