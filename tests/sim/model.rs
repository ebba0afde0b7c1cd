//! What the tables must hold: computed from the log's true content, by the words of the design and
//! without the code under test.
//!
//! Every message that a workload writes names its intent in a header; what reached the log, how
//! often and in which order is read from the log itself. A version of a table is the one before it
//! and, of each bucket, the messages from the watermark that it had to the one that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tidelake_core::partition::bucket_of;
use tidelake_core::{Bucket, TopicId, headers};
use tidelake_log::memory::MemoryLog;
use tidelake_log::{OwnedMessage, TopicBucket};

/// Names a message's intent.
pub(crate) const INTENT: &str = "sim-intent";

/// A key and its value.
pub(crate) type Row = (i64, i64);

/// One row's fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Put(i64, i64),
    Delete(i64),
}

impl Op {
    pub(crate) fn key(self) -> i64 {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// What a message is meant to do; nothing where it can't be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Intent {
    pub ops: Vec<Op>,
    pub is_poison: bool,
}

impl Intent {
    /// Whether keys of an upsert table's message belong to another bucket.
    fn is_misrouted(&self, bucket: u32, buckets: u32) -> bool {
        let elsewhere = |op: &Op| bucket_of(op.key().to_string().as_bytes(), buckets).0 != bucket;
        self.ops.iter().any(elsewhere)
    }
}

/// All intents, numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct Intents(Vec<Intent>);

impl Intents {
    pub(crate) fn add(&mut self, intent: Intent) -> usize {
        self.0.push(intent);
        self.0.len() - 1
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Intent> {
        self.0.get(number)
    }
}

/// A message of a table's topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub intent: usize,
    /// Where it came from, where it was sent on.
    pub origin: Option<Origin>,
}

/// Where a message was before it was sent on, and below which offset of that bucket nothing is on
/// its way any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    bucket: u32,
    offset: i64,
    floor: i64,
}

/// Messages of the buckets of one incarnation of a topic, those that retention took among them.
#[derive(Debug, Default)]
pub(crate) struct TopicHistory {
    pub buckets: BTreeMap<u32, BTreeMap<i64, Entry>>,
}

/// What all topics ever held.
#[derive(Debug, Default)]
pub(crate) struct History {
    topics: BTreeMap<TopicId, TopicHistory>,
}

impl History {
    /// Takes in what a topic holds now.
    pub(crate) fn absorb(&mut self, log: &MemoryLog, topic: &str, id: TopicId) {
        let known = self.topics.entry(id).or_default();
        for (bucket, at) in (0..).zip(buckets(log, topic)) {
            let held = known.buckets.entry(bucket).or_default();
            for message in log.messages(&at) {
                if let Some(entry) = entry_of(&message) {
                    held.insert(message.offset.0, entry);
                }
            }
        }
    }

    pub(crate) fn topic(&self, id: &TopicId) -> Option<&TopicHistory> {
        self.topics.get(id)
    }
}

/// The buckets that a topic has now.
pub(crate) fn buckets(log: &MemoryLog, topic: &str) -> impl Iterator<Item = TopicBucket> {
    let topic: Arc<str> = topic.into();
    let at = (0..).map(move |bucket| TopicBucket {
        topic: topic.clone(),
        bucket: Bucket(bucket),
    });
    at.take_while(|at| log.end(at).is_some())
}

fn entry_of(message: &OwnedMessage) -> Option<Entry> {
    let header = |wanted: &str| {
        let mut headers = message.headers.iter().rev();
        let found = headers.find(|(name, _)| name == wanted)?.1.as_deref()?;
        std::str::from_utf8(found).ok()
    };
    let origin = header(headers::ORIGIN).and_then(|text| {
        let mut parts = text.split('/').skip(1);
        Some(Origin {
            bucket: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            floor: parts.next()?.parse().ok()?,
        })
    });
    Some(Entry {
        intent: header(INTENT)?.parse().ok()?,
        origin,
    })
}

/// How a table takes its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    Upsert,
}

/// A table's rows.
#[derive(Debug, Clone, Default)]
struct Content {
    /// Of an append table: each row and how often.
    bag: BTreeMap<Row, u64>,
    /// Of an upsert table.
    map: BTreeMap<i64, i64>,
}

/// A table's rows, and how far it has got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    now: Content,
    pub marks: BTreeMap<u32, i64>,
    /// By target and source: the floor, and what was taken.
    origins: BTreeMap<(u32, u32), (i64, BTreeSet<i64>)>,
    /// The rows of the last versions.
    past: BTreeMap<u64, Model>,
}

/// Versions that can be gone back to.
const PAST_MAX: usize = 80;

impl Model {
    /// Keeps the rows for whoever comes back to them.
    pub(crate) fn is_version(&mut self, version: u64) {
        let past = std::mem::take(&mut self.past);
        let now = self.clone();
        self.past = past;
        self.past.insert(version, now);
        if self.past.len() > PAST_MAX {
            self.past.pop_first();
        }
    }

    /// The table as it was at one of the last versions.
    pub(crate) fn at(&self, version: u64) -> Option<&Self> {
        self.past.get(&version)
    }

    /// Does what another engine's commit says of itself.
    pub(crate) fn does(&mut self, kind: Kind, effect: &Value) -> Option<()> {
        if let Some(version) = effect.get("restore") {
            self.now = self.past.get(&version.as_u64()?)?.now.clone();
        }
        let rows = |name| {
            let rows = effect.get(name).cloned().unwrap_or_default();
            serde_json::from_value::<Option<Vec<Row>>>(rows).ok()
        };
        for row in rows("delete")?.unwrap_or_default() {
            match kind {
                Kind::Upsert => (self.now.map.remove(&row.0)? == row.1).then_some(())?,
                Kind::Append => {
                    let times = self.now.bag.get_mut(&row)?;
                    *times -= 1;
                    if *times == 0 {
                        self.now.bag.remove(&row);
                    }
                }
            }
        }
        for row in rows("add")?.unwrap_or_default() {
            match kind {
                Kind::Upsert => _ = self.now.map.insert(row.0, row.1),
                Kind::Append => self.append(Op::Put(row.0, row.1)),
            }
        }
        Some(())
    }

    /// Where messages lie that can't be read, and whether the watermark has passed them.
    pub(crate) fn letters(&self, topic: &TopicHistory, intents: &Intents) -> BTreeMap<Row, bool> {
        let mut letters = BTreeMap::new();
        for (bucket, messages) in &topic.buckets {
            let mark = self.marks.get(bucket).copied().unwrap_or(0);
            for (offset, entry) in messages {
                if intents
                    .get(entry.intent)
                    .is_some_and(|intent| intent.is_poison)
                {
                    letters.insert((i64::from(*bucket), *offset), *offset < mark);
                }
            }
        }
        letters
    }

    /// Takes what a bucket's messages say up to a watermark.
    pub(crate) fn advance(
        &mut self,
        (kind, buckets): (Kind, u32),
        (topic, intents): (&TopicHistory, &Intents),
        bucket: u32,
        to: i64,
    ) {
        let from = self.marks.insert(bucket, to).unwrap_or(0);
        let Some(messages) = topic.buckets.get(&bucket) else {
            return;
        };
        for entry in messages.range(from..to.max(from)).map(|(_, entry)| entry) {
            if let Some(origin) = entry.origin {
                let (floor, taken) = self.origins.entry((bucket, origin.bucket)).or_default();
                *floor = origin.floor.max(*floor);
                if origin.offset < *floor || !taken.insert(origin.offset) {
                    continue;
                }
            }
            let intent = intents.get(entry.intent);
            let Some(intent) = intent.filter(|intent| !intent.is_poison) else {
                continue;
            };
            match kind {
                Kind::Append => intent.ops.iter().for_each(|op| self.append(*op)),
                // Sent on; it counts where it arrives.
                Kind::Upsert if intent.is_misrouted(bucket, buckets) => {}
                Kind::Upsert => intent.ops.iter().for_each(|op| self.upsert(*op)),
            }
        }
    }

    /// A misrouted message that the watermark has passed, and that was not sent on.
    pub(crate) fn stranded(
        &self,
        buckets: u32,
        (topic, intents): (&TopicHistory, &Intents),
    ) -> Option<(u32, i64)> {
        let all = topic.buckets.values().flat_map(BTreeMap::values);
        let arrived: BTreeSet<_> = all
            .filter_map(|entry| entry.origin)
            .map(|origin| (origin.bucket, origin.offset))
            .collect();
        self.marks.iter().find_map(|(bucket, mark)| {
            let mut passed = topic.buckets.get(bucket)?.range(..mark);
            let stranded = passed.find(|(offset, entry)| {
                let intent = intents.get(entry.intent);
                entry.origin.is_none()
                    && intent.is_some_and(|intent| intent.is_misrouted(*bucket, buckets))
                    && !arrived.contains(&(*bucket, **offset))
            });
            stranded.map(|(offset, _)| (*bucket, *offset))
        })
    }

    fn append(&mut self, op: Op) {
        if let Op::Put(key, value) = op {
            *self.now.bag.entry((key, value)).or_default() += 1;
        }
    }

    fn upsert(&mut self, op: Op) {
        match op {
            Op::Put(key, value) => _ = self.now.map.insert(key, value),
            Op::Delete(key) => _ = self.now.map.remove(&key),
        }
    }

    /// All rows, in their order.
    pub(crate) fn rows(&self, kind: Kind) -> Vec<Row> {
        match kind {
            Kind::Upsert => self
                .now
                .map
                .iter()
                .map(|(&key, &value)| (key, value))
                .collect(),
            Kind::Append => {
                let times = self.now.bag.iter();
                times
                    .flat_map(|(&row, &times)| (0..times).map(move |_| row))
                    .collect()
            }
        }
    }
}
