//! What the log in memory holds: topics, their buckets, faults. Groups are next door.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_core::{Bucket, Offset, TopicId};
use tokio::sync::oneshot;

use super::balance::Group;
use crate::{
    Delivery, LogError, Message, OwnedMessage, TopicBucket, TopicCreated, TopicInfo, TopicSpec,
};

/// Messages of one delivery.
const DELIVERED_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct State {
    pub topics: BTreeMap<String, Topic>,
    pub groups: BTreeMap<String, Group>,
    /// Ids given out: of topics and members.
    minted: u64,
    pub down: bool,
    pub held: bool,
    pub lose_acks: usize,
    pub lose_messages: usize,
    /// Acknowledgements that are kept back; `None` while none are.
    kept_back: Option<Vec<(oneshot::Sender<Answer>, Answer)>>,
}

type Answer = Result<Offset, LogError>;

#[derive(Debug)]
pub(super) struct Topic {
    pub id: TopicId,
    pub name: Arc<str>,
    pub spec: TopicSpec,
    pub buckets: Vec<Partition>,
    /// Messages handed to feeds.
    pub delivered: u64,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    pub start: i64,
    /// The next offset.
    pub end: i64,
    pub messages: VecDeque<OwnedMessage>,
    pub damaged: BTreeMap<i64, String>,
    /// Where a transaction is open.
    pub stable: Option<i64>,
}

/// What lies at a position.
#[derive(Debug)]
pub(super) enum Found {
    /// Messages, and the position after them.
    Messages(Vec<OwnedMessage>, i64),
    /// Nothing yet. Offsets before the position have been read, or have no message.
    AtEnd(i64),
    Failed(LogError),
}

impl Topic {
    pub(super) fn info(&self) -> TopicInfo {
        TopicInfo {
            id: self.id,
            buckets: u32::try_from(self.buckets.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Partition {
    /// The end that readers see.
    pub(super) fn readable_end(&self) -> i64 {
        self.stable.map_or(self.end, |stable| stable.min(self.end))
    }

    pub(super) fn cut_before(&mut self, start: Offset) {
        self.start = self.start.max(start.0.min(self.end));
        let start = self.start;
        self.messages.retain(|message| message.offset.0 >= start);
    }

    pub(super) fn cut_back(&mut self, end: Offset) {
        self.end = end.0.clamp(0, self.end);
        self.start = self.start.min(self.end);
        let end = self.end;
        self.messages.retain(|message| message.offset.0 < end);
    }

    pub(super) fn read(&self, at: &TopicBucket, from: i64) -> Found {
        if from < self.start || from > self.end {
            return Found::Failed(LogError::OffsetOutOfRange {
                topic: at.topic.to_string(),
                bucket: at.bucket,
                offset: from,
                start: self.start,
                end: self.end,
            });
        }
        let damaged = self.damaged.range(from..).next();
        let end = self.readable_end();
        let until = damaged.map_or(end, |(offset, _)| end.min(*offset));
        let first = self
            .messages
            .partition_point(|message| message.offset.0 < from);
        let found = self.messages.range(first..).take(DELIVERED_MAX);
        let found: Vec<_> = found
            .take_while(|message| message.offset.0 < until)
            .cloned()
            .collect();
        if let Some(last) = found.last() {
            let next = last.offset.0 + 1;
            return Found::Messages(found, next);
        }
        match damaged {
            Some((offset, reason)) if *offset < end => Found::Failed(LogError::Damaged {
                topic: at.topic.to_string(),
                bucket: at.bucket,
                offset: *offset,
                reason: reason.clone(),
            }),
            _ => Found::AtEnd(end.max(from)),
        }
    }
}

impl State {
    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.down {
            true => Err(LogError::unavailable("the log in memory", "it is down")),
            false => Ok(()),
        }
    }

    pub(super) fn mint(&mut self) -> u64 {
        self.minted += 1;
        self.minted
    }

    fn mint_topic_id(&mut self) -> TopicId {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.mint().to_be_bytes());
        TopicId(id)
    }

    pub(super) fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        self.check()?;
        let topic = self.topics.get(name);
        topic.ok_or_else(|| LogError::NoTopic(name.to_owned()))
    }

    pub(super) fn partition(&self, topic: &str, bucket: Bucket) -> Option<&Partition> {
        self.topics.get(topic)?.buckets.get(bucket.0 as usize)
    }

    pub(super) fn partition_mut(&mut self, topic: &str, bucket: Bucket) -> Option<&mut Partition> {
        let topic = self.topics.get_mut(topic)?;
        topic.buckets.get_mut(bucket.0 as usize)
    }

    pub(super) fn create(&mut self, spec: &TopicSpec) -> Result<TopicCreated, LogError> {
        self.check()?;
        if self.topics.contains_key(&spec.name) {
            return Ok(TopicCreated::Exists);
        }
        let topic = Topic {
            id: self.mint_topic_id(),
            name: Arc::from(spec.name.as_str()),
            spec: spec.clone(),
            buckets: (0..spec.buckets).map(|_| Partition::default()).collect(),
            delivered: 0,
        };
        self.topics.insert(spec.name.clone(), topic);
        self.rebalance_all();
        Ok(TopicCreated::Created)
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<(), LogError> {
        self.check()?;
        if self.topics.remove(name).is_some() {
            self.tell_change(name, None);
            self.rebalance_all();
        }
        Ok(())
    }

    pub(super) fn remake(&mut self, name: &str) {
        let id = self.mint_topic_id();
        let Some(topic) = self.topics.get_mut(name) else {
            return;
        };
        topic.id = id;
        topic.buckets.fill_with(Partition::default);
        let info = topic.info();
        self.tell_change(name, Some(info));
    }

    pub(super) fn add_buckets(&mut self, name: &str, buckets: u32) {
        let Some(topic) = self.topics.get_mut(name) else {
            return;
        };
        let more = (0..buckets).map(|_| Partition::default());
        topic.buckets.extend(more);
        let info = topic.info();
        self.tell_change(name, Some(info));
        self.rebalance_all();
    }

    /// Takes a message, unless a fault says otherwise.
    pub(super) fn append(&mut self, message: Message, now_ms: i64) -> Result<Delivery, LogError> {
        self.check()?;
        let bytes = message.value.as_ref().map_or(0, bytes::Bytes::len);
        if bytes > MESSAGE_BYTES_MAX {
            return Err(LogError::MessageTooLarge {
                topic: message.topic.to_string(),
                bytes,
            });
        }
        let unacknowledged = LogError::Unacknowledged {
            topic: message.topic.to_string(),
            bucket: message.bucket,
            reason: "the log in memory was told to lose it".into(),
        };
        let (sender, receiver) = oneshot::channel();
        let answer = if self.lose_messages > 0 {
            self.lose_messages -= 1;
            Err(unacknowledged)
        } else {
            let offset = self.store(message, now_ms)?;
            match self.lose_acks {
                0 => Ok(offset),
                left => {
                    self.lose_acks = left - 1;
                    Err(unacknowledged)
                }
            }
        };
        match &mut self.kept_back {
            Some(kept) => kept.push((sender, answer)),
            // Who does not wait any more needs no answer.
            None => _ = sender.send(answer),
        }
        Ok(Delivery(receiver))
    }

    fn store(&mut self, message: Message, now_ms: i64) -> Result<Offset, LogError> {
        let (name, bucket) = (message.topic.clone(), message.bucket);
        let no_topic = || LogError::NoTopic(name.to_string());
        let partition = self.partition_mut(&name, bucket).ok_or_else(no_topic)?;
        let offset = Offset(partition.end);
        partition.end += 1;
        let headers = message.headers.into_iter();
        partition.messages.push_back(OwnedMessage {
            topic: message.topic,
            bucket,
            offset,
            timestamp_ms: message.timestamp_ms.unwrap_or(now_ms),
            key: message.key,
            value: message.value,
            headers: headers
                .map(|(name, value)| (name.into_owned(), Some(value)))
                .collect(),
        });
        Ok(offset)
    }

    pub(super) fn hold_acks(&mut self, held: bool) {
        if held {
            self.kept_back.get_or_insert_default();
        } else {
            for (sender, answer) in self.kept_back.take().into_iter().flatten() {
                let _ = sender.send(answer);
            }
        }
    }
}
