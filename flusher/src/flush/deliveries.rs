//! What a flush sends to the log before its commit: misrouted records to the buckets of their keys,
//! and dead letters.
//!
//! Owns the sending until every one of them is acknowledged, over as many tries as the flush makes.
//! What may be sent when is [`Window`]'s. One that the log acknowledged is never sent again by the
//! same flush; one whose acknowledgement did not come is sent again with the same origin.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tidelake_core::{Bucket, Offset};
use tidelake_intake::{Origin, OriginKey, Outgoing, Seen, dead_letter, misrouted};
use tidelake_log::{LogError, Message, TopicWriter};

use crate::bucket::{Misrouted, SealedBucket, too_large};
use crate::outbox::{Due, Window};

/// Dead letters on their way at once.
const DEAD_LETTERS_MAX: usize = 1_000;

/// Where messages go: a writer of the log, or what a test makes up.
pub(crate) trait Sends: Sync {
    /// Resolves once the log has the message on disk.
    fn send(&self, message: Message) -> BoxFuture<'_, Result<Offset, LogError>>;
}

impl Sends for dyn TopicWriter {
    fn send(&self, message: Message) -> BoxFuture<'_, Result<Offset, LogError>> {
        TopicWriter::send(self, message)
    }
}

/// The messages of one flush.
#[derive(Debug)]
pub(crate) struct Deliveries {
    routes: Routes,
    lanes: Vec<Lane>,
    /// Those that the log does not have yet.
    dead_letters: Vec<Outgoing>,
}

/// Where messages go, and who signs them.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    pub topic: Arc<str>,
    /// None of dead-letter tables, which take every message.
    pub dead_letters: Option<Arc<str>>,
    pub origin_key: OriginKey,
}

/// One source's records for one target.
#[derive(Debug)]
struct Lane {
    source: Bucket,
    records: Vec<Misrouted>,
    window: Window,
}

impl Deliveries {
    /// Takes the messages of sealed buckets out of them.
    pub(crate) fn of(sealed: &mut [SealedBucket], routes: Routes) -> Self {
        let mut deliveries = Self {
            routes,
            lanes: Vec::new(),
            dead_letters: Vec::new(),
        };
        for held in sealed {
            deliveries.dead_letters.append(&mut held.dead_letters);
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
            deliveries.lanes.extend(lanes);
        }
        deliveries
    }

    /// True where some record was refused that the log does not have as a dead letter yet.
    pub(crate) fn has_dead_letters(&self) -> bool {
        !self.dead_letters.is_empty()
    }

    /// Sends until the log has everything. After an error, calling again goes on where it ended.
    pub(crate) async fn deliver(&mut self, to: &(impl Sends + ?Sized)) -> Result<(), LogError> {
        let routes = &self.routes;
        let lanes = self.lanes.iter_mut().map(|lane| lane.deliver(routes, to));
        let delivered = futures::future::join_all(lanes).await;
        let mut failure = None;
        for (lane, (refused, outcome)) in self.lanes.iter().zip(delivered) {
            failure = outcome.err().or(failure);
            let refused = refused.into_iter();
            let refused = refused.map(|index| lane.dead_letter(index, &self.routes.topic));
            self.dead_letters.extend(refused);
        }
        self.lanes.retain(|lane| !lane.window.is_done());
        if let Some(error) = failure {
            return Err(error);
        }
        self.deliver_dead_letters(to).await
    }

    async fn deliver_dead_letters(&mut self, to: &(impl Sends + ?Sized)) -> Result<(), LogError> {
        let Some(topic) = &self.routes.dead_letters else {
            debug_assert!(
                self.dead_letters.is_empty(),
                "a dead letter of a dead letter"
            );
            return Ok(());
        };
        let waiting = std::mem::take(&mut self.dead_letters);
        let mut answers = futures::stream::iter(waiting)
            .map(|dead| async move { (to.send(message(topic, dead.clone())).await, dead) })
            .buffer_unordered(DEAD_LETTERS_MAX);
        let mut failure = None;
        while let Some((answer, dead)) = answers.next().await {
            if let Err(error) = answer {
                self.dead_letters.push(dead);
                failure = Some(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

impl Lane {
    fn new(source: Bucket, records: Vec<Misrouted>) -> Self {
        let window = Window::new(records.iter().map(|r| (r.offset, r.key)));
        Self {
            source,
            records,
            window,
        }
    }

    /// Gives the records that the log finds too large: they count as settled.
    async fn deliver(
        &mut self,
        routes: &Routes,
        to: &(impl Sends + ?Sized),
    ) -> (Vec<usize>, Result<(), LogError>) {
        self.window.interrupted();
        let mut on_their_way = FuturesUnordered::new();
        let (mut refused, mut outcome) = (Vec::new(), Ok(()));
        loop {
            while outcome.is_ok()
                && let Some(due) = self.window.next()
            {
                let message = self.stamped(due, routes);
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
    fn stamped(&self, due: Due, routes: &Routes) -> Message {
        let record = &self.records[due.index];
        let origin = Origin {
            bucket: self.source,
            offset: record.offset,
            floor: due.floor,
        };
        let header = routes.origin_key.header(origin, record.message.bucket);
        message(
            &routes.topic,
            misrouted::with_origin(record.message.clone(), header),
        )
    }

    fn dead_letter(&self, index: usize, topic: &str) -> Outgoing {
        let record = &self.records[index];
        let seen = Seen {
            offset: record.offset,
            timestamp_ms: record.message.timestamp_ms.unwrap_or(0),
            key: record.message.key.as_deref(),
            value: record.message.value.as_deref(),
            headers: &record.message.headers,
        };
        let bucket = self.source;
        dead_letter::of(dead_letter::Source { topic, bucket }, &seen, &too_large())
    }
}

fn message(topic: &Arc<str>, outgoing: Outgoing) -> Message {
    Message {
        topic: topic.clone(),
        bucket: outgoing.bucket,
        key: outgoing.key,
        value: outgoing.value,
        headers: outgoing.headers.0,
        timestamp_ms: outgoing.timestamp_ms,
    }
}

#[cfg(test)]
mod tests;
