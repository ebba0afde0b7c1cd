//! What a flush sends to the log before its commit: misrouted records to the buckets of their keys,
//! and dead letters.
//!
//! Owns the sending until every one of them is acknowledged, over as many tries as the flush makes.
//! What may be sent when is [`Window`]'s. One that the log acknowledged is never sent again by the
//! same flush; one whose acknowledgement did not come is sent again with the same origin.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tidelake_core::{Bucket, Offset};
use tidelake_log::{LogError, Message, Producer, headers};

use crate::bucket::SealedBucket;
use crate::dead_letters::{self, Original};
use crate::misrouted;
use crate::outbox::Window;

/// Dead letters on their way at once.
const DEAD_LETTERS_MAX: usize = 1_000;

/// A record of another bucket's key, without its origin: that depends on when it is sent.
#[derive(Debug, Clone)]
pub struct Misrouted {
    /// Where it stood.
    pub offset: Offset,
    /// `message.bucket` is the one of its key.
    pub message: Message,
}

/// Where messages go: a producer, or a log made up by a test.
pub trait Sends: Sync {
    /// Resolves once the log has the message on disk.
    fn send(&self, message: Message) -> BoxFuture<'_, Result<Offset, LogError>>;
}

impl Sends for Producer {
    fn send(&self, message: Message) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(Producer::send(self, message))
    }
}

/// The messages of one flush.
#[derive(Debug)]
pub struct Outgoing {
    /// Where records go that the log finds too large.
    dead_topic: Option<Arc<str>>,
    lanes: Vec<Lane>,
    /// Those that the log does not have yet.
    dead_letters: Vec<Message>,
}

/// One source's records for one target.
#[derive(Debug)]
struct Lane {
    source: Bucket,
    records: Vec<Misrouted>,
    window: Window,
}

impl Outgoing {
    /// Takes the messages of sealed buckets out of them.
    pub fn of(sealed: &mut [SealedBucket], dead_topic: Option<Arc<str>>) -> Self {
        let mut outgoing = Self {
            dead_topic,
            lanes: Vec::new(),
            dead_letters: Vec::new(),
        };
        for held in sealed {
            outgoing.dead_letters.append(&mut held.dead_letters);
            let mut by_target: BTreeMap<Bucket, Vec<Misrouted>> = BTreeMap::new();
            for record in std::mem::take(&mut held.misrouted) {
                by_target
                    .entry(record.message.bucket)
                    .or_default()
                    .push(record);
            }
            let source = held.sealed.bucket;
            let lanes = by_target
                .into_values()
                .map(|records| Lane::new(source, records));
            outgoing.lanes.extend(lanes);
        }
        outgoing
    }

    /// Sends until the log has everything. After an error, calling again goes on where it ended.
    pub async fn deliver(&mut self, to: &impl Sends) -> Result<(), LogError> {
        let lanes = self.lanes.iter_mut().map(|lane| lane.deliver(to));
        let delivered = futures::future::join_all(lanes).await;
        let mut failure = None;
        for (lane, (refused, outcome)) in self.lanes.iter().zip(delivered) {
            failure = outcome.err().or(failure);
            for index in refused {
                let letter = lane.dead_letter(index, self.dead_topic.as_ref());
                self.dead_letters.extend(letter);
            }
        }
        self.lanes.retain(|lane| !lane.window.is_done());
        if let Some(error) = failure {
            return Err(error);
        }
        self.deliver_dead_letters(to).await
    }

    async fn deliver_dead_letters(&mut self, to: &impl Sends) -> Result<(), LogError> {
        let waiting = std::mem::take(&mut self.dead_letters);
        let mut answers = futures::stream::iter(waiting)
            .map(|message| async move { (to.send(message.clone()).await, message) })
            .buffer_unordered(DEAD_LETTERS_MAX);
        let mut failure = None;
        while let Some((answer, message)) = answers.next().await {
            if let Err(error) = answer {
                self.dead_letters.push(message);
                failure = Some(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

impl Lane {
    fn new(source: Bucket, records: Vec<Misrouted>) -> Self {
        let window = Window::new(records.iter().map(|r| (r.offset, hash_of(&r.message))));
        Self {
            source,
            records,
            window,
        }
    }

    /// Gives the records that the log finds too large: they count as settled.
    async fn deliver(&mut self, to: &impl Sends) -> (Vec<usize>, Result<(), LogError>) {
        self.window.interrupted();
        let mut on_their_way = FuturesUnordered::new();
        let (mut refused, mut outcome) = (Vec::new(), Ok(()));
        loop {
            while outcome.is_ok()
                && let Some(due) = self.window.next()
            {
                let message = self.stamped(due.index, due.floor);
                on_their_way.push(async move { (due.index, to.send(message).await) });
            }
            let Some((index, answer)) = on_their_way.next().await else {
                return (refused, outcome);
            };
            match answer {
                Ok(_) => self.window.settled(index),
                Err(LogError::MessageTooLarge { .. }) => {
                    refused.push(index);
                    self.window.settled(index);
                }
                Err(error) => {
                    self.window.failed(index);
                    outcome = Err(error);
                }
            }
        }
    }

    /// The record with its origin.
    fn stamped(&self, index: usize, _floor: Offset) -> Message {
        let record = &self.records[index];
        let mut message = record.message.clone();
        let origin = format!("{}/{}", self.source, record.offset);
        message
            .headers
            .push((Cow::Borrowed(headers::ORIGIN), Bytes::from(origin)));
        message
    }

    fn dead_letter(&self, index: usize, topic: Option<&Arc<str>>) -> Option<Message> {
        let record = &self.records[index];
        let original = Original::of_message(self.source, record.offset, &record.message);
        Some(dead_letters::dead_letter(
            topic?,
            &original,
            &misrouted::too_large(),
        ))
    }
}

fn hash_of(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
