//! Messages as they came from the log.
//!
//! A [`MessageBatch`] either borrows librdkafka's memory, without a copy, or owns its messages (the
//! log in memory, tests). Readers see the same [`Run`]s and [`Received`] messages of both.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tidelake_core::{Bucket, Offset};

use crate::kafka::{Batch, View, Views};

/// Messages that were read together; those of one bucket in the order of their offsets.
///
/// Can be sent to another thread, but is read by one at a time:
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<tidelake_log::MessageBatch>();
/// ```
#[derive(Debug)]
pub struct MessageBatch(Held);

enum Held {
    Native(Batch),
    Owned(Vec<OwnedMessage>),
}

/// A message in memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedMessage {
    pub topic: Arc<str>,
    pub bucket: Bucket,
    pub offset: Offset,
    /// 0 where it has none.
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Arc<[(String, Option<Bytes>)]>,
}

/// Consecutive messages of one bucket.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub topic: &'a str,
    pub bucket: Bucket,
    messages: Messages<'a>,
}

#[derive(Clone, Copy)]
enum Messages<'a> {
    Native(Views<'a>),
    Owned(&'a [OwnedMessage]),
}

/// One message; borrows the batch.
#[derive(Clone, Copy)]
pub struct Received<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    Native(View<'a>),
    Owned(&'a OwnedMessage),
}

impl MessageBatch {
    pub(crate) fn native(batch: Batch) -> Self {
        Self(Held::Native(batch))
    }

    /// A batch of messages in memory of their own; those of one bucket must be in order.
    pub fn owned(messages: Vec<OwnedMessage>) -> Self {
        Self(Held::Owned(messages))
    }

    pub fn len(&self) -> usize {
        self.messages().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.messages().iter()
    }

    /// Messages grouped by consecutive bucket: one look-up for many messages.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let mut rest = self.messages();
        std::iter::from_fn(move || {
            let messages = rest.split_run()?;
            let first = messages.get(0)?;
            Some(Run {
                topic: first.topic(),
                bucket: first.bucket(),
                messages,
            })
        })
    }

    /// Keeps those messages for which `keep` says so, by their place in the batch.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, Received<'_>) -> bool) {
        match &mut self.0 {
            Held::Native(batch) => {
                batch.retain(|place, view| keep(place, Received(Source::Native(view))));
            }
            Held::Owned(messages) => {
                let mut place = 0..;
                messages.retain(|message| {
                    let place = place.next().unwrap_or(usize::MAX);
                    keep(place, Received(Source::Owned(message)))
                });
            }
        }
    }

    fn messages(&self) -> Messages<'_> {
        match &self.0 {
            Held::Native(batch) => Messages::Native(batch.views()),
            Held::Owned(messages) => Messages::Owned(messages),
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages = match self {
            Self::Native(batch) => batch.views().len(),
            Self::Owned(messages) => messages.len(),
        };
        write!(f, "{messages} messages")
    }
}

impl<'a> Messages<'a> {
    fn len(self) -> usize {
        match self {
            Self::Native(views) => views.len(),
            Self::Owned(messages) => messages.len(),
        }
    }

    fn get(self, index: usize) -> Option<Received<'a>> {
        Some(Received(match self {
            Self::Native(views) => Source::Native(views.get(index)?),
            Self::Owned(messages) => Source::Owned(messages.get(index)?),
        }))
    }

    fn iter(self) -> impl Iterator<Item = Received<'a>> {
        (0..self.len()).filter_map(move |index| self.get(index))
    }

    fn split_run(&mut self) -> Option<Self> {
        match self {
            Self::Native(views) => views.split_run().map(Self::Native),
            Self::Owned(messages) => {
                let all: &'a [OwnedMessage] = messages;
                let first = all.first()?;
                let other = |message: &OwnedMessage| {
                    message.bucket != first.bucket || message.topic != first.topic
                };
                let (run, rest) = all.split_at(all.iter().position(other).unwrap_or(all.len()));
                *messages = rest;
                Some(Self::Owned(run))
            }
        }
    }
}

impl fmt::Debug for Messages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages", self.len())
    }
}

impl<'a> Run<'a> {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Received<'a>> + use<'a> {
        self.messages.iter()
    }

    pub fn first(&self) -> Option<Received<'a>> {
        self.messages.get(0)
    }

    pub fn last(&self) -> Option<Received<'a>> {
        self.messages.get(self.len().checked_sub(1)?)
    }
}

impl<'a> Received<'a> {
    pub fn topic(&self) -> &'a str {
        match self.0 {
            Source::Native(view) => view.topic(),
            Source::Owned(message) => &message.topic,
        }
    }

    pub fn bucket(&self) -> Bucket {
        match self.0 {
            Source::Native(view) => view.bucket(),
            Source::Owned(message) => message.bucket,
        }
    }

    pub fn offset(&self) -> Offset {
        match self.0 {
            Source::Native(view) => view.offset(),
            Source::Owned(message) => message.offset,
        }
    }

    /// The message's timestamp (producer's or broker's, as the topic is set); 0 when it has none.
    pub fn timestamp_ms(&self) -> i64 {
        match self.0 {
            Source::Native(view) => view.timestamp_ms(),
            Source::Owned(message) => message.timestamp_ms,
        }
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        match self.0 {
            Source::Native(view) => view.key(),
            Source::Owned(message) => message.key.as_deref(),
        }
    }

    pub fn value(&self) -> Option<&'a [u8]> {
        match self.0 {
            Source::Native(view) => view.value(),
            Source::Owned(message) => message.value.as_deref(),
        }
    }

    /// The last header of that name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        match self.0 {
            Source::Native(view) => view.header(name),
            Source::Owned(message) => {
                let mut backwards = message.headers.iter().rev();
                backwards.find(|(known, _)| known == name)?.1.as_deref()
            }
        }
    }

    /// All headers, in order. Names that are not UTF-8 are left out.
    pub fn headers(&self) -> Vec<(String, Option<&'a [u8]>)> {
        match self.0 {
            Source::Native(view) => view.headers(),
            Source::Owned(message) => {
                let all = message.headers.iter();
                all.map(|(name, value)| (name.clone(), value.as_deref()))
                    .collect()
            }
        }
    }

    /// True where the message has any header: most have none, and asking for one by name costs
    /// more.
    pub fn has_headers(&self) -> bool {
        match self.0 {
            Source::Native(view) => view.has_headers(),
            Source::Owned(message) => !message.headers.is_empty(),
        }
    }
}

impl tidelake_core::headers::Headers for Received<'_> {
    fn is_empty(&self) -> bool {
        !self.has_headers()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.header(name)
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in self.headers() {
            visit(&name, value);
        }
    }
}

impl fmt::Debug for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topic, bucket) = (self.topic(), self.bucket());
        write!(f, "Received({topic}/{bucket}@{})", self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, bucket: u32, offset: i64) -> OwnedMessage {
        OwnedMessage {
            topic: topic.into(),
            bucket: Bucket(bucket),
            offset: Offset(offset),
            timestamp_ms: 7,
            key: None,
            value: Some(Bytes::from_static(b"v")),
            headers: Arc::new([
                ("a".into(), Some(Bytes::from_static(b"1"))),
                ("a".into(), Some(Bytes::from_static(b"2"))),
                ("b".into(), None),
            ]),
        }
    }

    #[test]
    fn owned_messages_are_seen_in_runs_and_alone() {
        let mut batch = MessageBatch::owned(vec![
            message("t", 0, 5),
            message("t", 0, 6),
            message("t", 1, 0),
            message("u", 1, 0),
        ]);
        let runs: Vec<_> = batch
            .runs()
            .map(|run| (run.topic, run.bucket.0, run.len()))
            .collect();
        assert_eq!(runs, [("t", 0, 2), ("t", 1, 1), ("u", 1, 1)]);
        let first = batch.runs().next().unwrap();
        assert_eq!(first.last().unwrap().offset(), Offset(6));
        let seen = first.first().unwrap();
        assert_eq!(seen.header("a"), Some(&b"2"[..]), "the last one counts");
        assert_eq!(seen.header("b"), None);
        assert_eq!(seen.headers().len(), 3);
        batch.retain(|place, message| place != 1 && message.topic() == "t");
        let left: Vec<_> = batch.iter().map(|message| message.offset().0).collect();
        assert_eq!(left, [5, 0]);
    }
}
