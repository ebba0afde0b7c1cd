//! The log in memory, spoken to as tests do.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidelake_core::clock::SharedClock;
use tidelake_core::headers;
use tidelake_core::{Bucket, Offset, TableId, TableVersion, TopicId};
use tidelake_intake::decode::WireMessage;
use tidelake_log::memory::MemoryLog;
use tidelake_log::topics::commits_topic;
use tidelake_log::{
    LogAdmin, Message, OwnedMessage, TopicBucket, TopicCreated, TopicSpec, TopicWriter,
};

use crate::tail::TailLog;

/// Names the installation's topics.
const PREFIX: &str = "tidelake";

/// What a message is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub encoding: Option<Vec<u8>>,
    pub op: Option<Vec<u8>>,
}

impl Wire {
    pub(crate) fn json(text: &str) -> Self {
        Self {
            value: Some(text.as_bytes().to_vec()),
            ..Self::default()
        }
    }

    pub(crate) fn at(&self, offset: i64) -> WireMessage<'_> {
        WireMessage {
            offset,
            timestamp_ms: 0,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            encoding: self.encoding.as_deref(),
            op: self.op.as_deref(),
            dead_letter: None,
        }
    }

    pub(crate) fn tombstone(key: &str) -> Self {
        Self {
            key: Some(key.as_bytes().to_vec()),
            ..Self::default()
        }
    }

    fn of(message: &OwnedMessage) -> Self {
        let header = |wanted: &str| {
            let mut own = message.headers.iter();
            let value = own.find(|(name, _)| name == wanted)?.1.as_ref()?;
            Some(value.to_vec())
        };
        Self {
            key: message.key.as_ref().map(|key| key.to_vec()),
            value: message.value.as_ref().map(|value| value.to_vec()),
            encoding: header(headers::ENCODING),
            op: header(headers::OP),
        }
    }

    fn into_message(self, topic: &str, bucket: u32) -> Message {
        let named = [(headers::ENCODING, self.encoding), (headers::OP, self.op)];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        Message {
            key: self.key.map(Bytes::from),
            value: self.value.map(Bytes::from),
            headers: named
                .map(|(name, value)| (Cow::Borrowed(name), Bytes::from(value)))
                .collect(),
            timestamp_ms: Some(0),
            ..Message::new(topic, Bucket(bucket), Bytes::new())
        }
    }
}

/// The log of a world.
#[derive(Debug, Clone)]
pub(crate) struct TestLog(MemoryLog);

impl TestLog {
    /// With the topic of commit events.
    pub(crate) async fn new(clock: SharedClock) -> Self {
        let log = Self(MemoryLog::new(clock));
        log.add_topic(&commits_topic(PREFIX), 1).await;
        log
    }

    pub(crate) fn tail(&self) -> TailLog {
        TailLog::new(&self.0, PREFIX)
    }

    /// Makes a topic.
    pub(crate) async fn add_topic(&self, topic: &str, buckets: u32) -> TopicId {
        let spec = TopicSpec {
            name: topic.to_owned(),
            buckets,
            retention_ms: None,
            config: BTreeMap::new(),
        };
        let created = self.0.create_topic(&spec).await.unwrap();
        assert_eq!(created, TopicCreated::Created, "{topic}");
        self.0.describe(topic).await.unwrap().unwrap().id
    }

    /// Deletes a topic and makes it again.
    pub(crate) fn remake_topic(&self, topic: &str) {
        self.0.remake_topic(topic);
    }

    pub(crate) async fn remove_topic(&self, topic: &str) {
        self.0.delete_topic(topic).await.unwrap();
    }

    pub(crate) fn add_partition(&self, topic: &str) {
        self.0.add_buckets(topic, 1);
    }

    /// Takes away what lies at or behind `end`.
    pub(crate) fn cut_back(&self, topic: &str, bucket: u32, end: i64) {
        self.0.cut_back(&at(topic, bucket), Offset(end));
    }

    /// Retention removes what lies before `start`.
    pub(crate) fn cut(&self, topic: &str, bucket: u32, start: i64) {
        self.0.cut_before(&at(topic, bucket), Offset(start));
    }

    pub(crate) fn push(&self, topic: &str, bucket: u32, message: Wire) -> i64 {
        let offset = self.end(topic, bucket);
        // The log has it once this returns; nobody waits to hear so.
        let _delivery = self.0.enqueue(message.into_message(topic, bucket)).unwrap();
        offset
    }

    pub(crate) fn end(&self, topic: &str, bucket: u32) -> i64 {
        self.0.end(&at(topic, bucket)).unwrap().0
    }

    pub(crate) fn messages(&self, topic: &str, bucket: u32, from: i64, to: i64) -> Vec<Wire> {
        let all = self.0.messages(&at(topic, bucket));
        let wanted = all
            .iter()
            .filter(|found| (from..to).contains(&found.offset.0));
        wanted.map(Wire::of).collect()
    }

    /// As the flusher tells of a commit.
    pub(crate) fn announce(&self, id: &TableId, version: TableVersion) {
        let event = serde_json::json!({"event": "commit", "tenant": id.tenant,
            "table": id.table, "version": version, "watermarks": {}});
        self.push(&commits_topic(PREFIX), 0, Wire::json(&event.to_string()));
    }

    /// Nothing is delivered while it is held.
    pub(crate) fn hold(&self, held: bool) {
        self.0.hold_delivery(held);
    }

    /// Answers nothing while it is down.
    pub(crate) fn set_down(&self, down: bool) {
        self.0.set_down(down);
    }

    /// Requests for the log's ends.
    pub(crate) fn asked(&self) -> u64 {
        self.0.end_requests()
    }

    /// Messages of a topic that were handed out.
    pub(crate) fn delivered(&self, topic: &str) -> u64 {
        self.0.delivered(topic)
    }

    /// Topics that are being followed.
    pub(crate) fn feeds(&self) -> usize {
        self.0.feeds()
    }
}

fn at(topic: &str, bucket: u32) -> TopicBucket {
    TopicBucket {
        topic: Arc::from(topic),
        bucket: Bucket(bucket),
    }
}
