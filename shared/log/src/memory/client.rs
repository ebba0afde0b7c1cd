//! Writers, readers and administration of the log in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tidelake_core::{Bucket, Offset};

use super::group::MemoryGroup;
use super::state::{Found, Partition};
use super::{MemoryLog, Shared};
use crate::{
    BucketReader, ConsumerSettings, Delivery, END, Feed, GroupLog, LogAdmin, LogClient, LogError,
    Message, MessageBatch, News, ProducerSettings, RangeReader, TopicBucket, TopicCreated,
    TopicInfo, TopicSpec, TopicWriter,
};

impl LogClient for MemoryLog {
    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.clone())
    }

    fn reader(&self) -> Arc<dyn BucketReader> {
        Arc::new(self.clone())
    }

    fn writer(&self, _settings: ProducerSettings) -> Result<Arc<dyn TopicWriter>, LogError> {
        Ok(Arc::new(self.clone()))
    }

    fn join(&self, settings: &ConsumerSettings) -> Result<Box<dyn GroupLog>, LogError> {
        Ok(Box::new(MemoryGroup::join(self.shared.clone(), settings)))
    }
}

#[async_trait]
impl TopicWriter for MemoryLog {
    fn enqueue(&self, message: Message) -> Result<Delivery, LogError> {
        let now = self.shared.clock.now_ms();
        self.shared.change(|state| state.append(message, now))
    }

    async fn enqueue_waiting(&self, message: Message) -> Result<Delivery, LogError> {
        self.enqueue(message)
    }

    async fn flush(&self, _deadline: Duration) -> Result<(), LogError> {
        self.shared.state().check()
    }
}

#[async_trait]
impl LogAdmin for MemoryLog {
    async fn create_topic(&self, spec: &TopicSpec) -> Result<TopicCreated, LogError> {
        self.shared.change(|state| state.create(spec))
    }

    async fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        self.shared.change(|state| state.delete(name))
    }

    async fn describe(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        let state = self.shared.state();
        state.check()?;
        Ok(state.topics.get(name).map(|topic| topic.info()))
    }

    async fn list_topics(&self) -> Result<Vec<String>, LogError> {
        let state = self.shared.state();
        state.check()?;
        Ok(state.topics.keys().cloned().collect())
    }

    async fn end_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        self.shared.end_requests.fetch_add(1, Ordering::SeqCst);
        // As over a network: others come to wait meanwhile.
        tokio::task::yield_now().await;
        self.offsets(topic, buckets, Partition::readable_end)
    }

    async fn start_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        self.offsets(topic, buckets, |partition| partition.start)
    }

    async fn alive(&self) -> Result<(), LogError> {
        self.shared.state().check()
    }

    async fn cluster_id(&self) -> Result<String, LogError> {
        self.alive().await?;
        Ok("memory".into())
    }
}

impl MemoryLog {
    fn offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
        of: impl Fn(&Partition) -> i64,
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        let state = self.shared.state();
        let found = state.topic(topic)?;
        let offsets = buckets.iter().map(|bucket| {
            let partition = found.buckets.get(bucket.0 as usize);
            let partition = partition.ok_or_else(|| LogError::NoTopic(topic.to_owned()))?;
            Ok((*bucket, Offset(of(partition))))
        });
        offsets.collect()
    }
}

#[async_trait]
impl BucketReader for MemoryLog {
    async fn ends(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        self.end_offsets(topic, buckets).await
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        let starts = self.start_offsets(topic, &[bucket]).await?;
        let start = starts.first().map(|(_, start)| *start);
        start.ok_or_else(|| LogError::NoTopic(topic.to_owned()))
    }

    fn follow(&self, topic: &str, from: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>, LogError> {
        let topic: Arc<str> = Arc::from(topic);
        let state = self.shared.state();
        let seats = from.iter().map(|&(bucket, from)| {
            let end = state.partition(&topic, bucket).map(Partition::readable_end);
            Seat {
                at: TopicBucket {
                    topic: topic.clone(),
                    bucket,
                },
                next: if from == END {
                    end.unwrap_or(0)
                } else {
                    from.0
                },
                told: None,
            }
        });
        let seats = seats.collect();
        drop(state);
        self.shared.feeds.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(MemoryFeed {
            shared: self.shared.clone(),
            seats,
        }))
    }

    fn ranges(&self, topic: &str) -> Result<Box<dyn RangeReader>, LogError> {
        Ok(Box::new(MemoryRanges {
            log: self.clone(),
            topic: topic.to_owned(),
        }))
    }
}

#[derive(Debug)]
struct MemoryFeed {
    shared: Arc<Shared>,
    seats: Vec<Seat>,
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        self.shared.feeds.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Seat {
    at: TopicBucket,
    next: i64,
    /// The end that was told last.
    told: Option<i64>,
}

#[async_trait]
impl Feed for MemoryFeed {
    async fn next(&mut self) -> Result<News, LogError> {
        let seats = &mut self.seats;
        self.shared
            .until(|state| {
                if state.down || state.held {
                    return None;
                }
                let (mut messages, mut ends) = (Vec::new(), Vec::new());
                for seat in seats.iter_mut() {
                    let Some(partition) = state.partition(&seat.at.topic, seat.at.bucket) else {
                        continue;
                    };
                    match partition.read(&seat.at, seat.next) {
                        Found::Failed(error) => return Some(Err(error)),
                        Found::Messages(found, next) => {
                            messages.extend(found);
                            seat.next = next;
                        }
                        Found::AtEnd(end) => seat.next = end,
                    }
                    if seat.next == partition.readable_end() && seat.told != Some(seat.next) {
                        seat.told = Some(seat.next);
                        ends.push((seat.at.bucket, Offset(seat.next)));
                    }
                }
                // A feed is of one topic.
                if let Some(seat) = seats.first()
                    && let Some(topic) = state.topics.get_mut(&*seat.at.topic)
                {
                    topic.delivered += messages.len() as u64;
                }
                let messages = MessageBatch::owned(messages);
                let news = !messages.is_empty() || !ends.is_empty();
                news.then_some(Ok(News { messages, ends }))
            })
            .await
    }
}

#[derive(Debug)]
struct MemoryRanges {
    log: MemoryLog,
    topic: String,
}

#[async_trait]
impl RangeReader for MemoryRanges {
    async fn read(
        &self,
        ranges: Vec<(Bucket, Offset, Offset)>,
        deadline: Duration,
    ) -> Result<Vec<MessageBatch>, LogError> {
        let mut wanted: Vec<_> = ranges
            .into_iter()
            .filter(|(_, from, to)| from < to)
            .collect();
        let from: Vec<_> = wanted
            .iter()
            .map(|(bucket, from, _)| (*bucket, *from))
            .collect();
        let mut feed = self.log.follow(&self.topic, &from)?;
        let mut found = Vec::new();
        let read = async {
            while !wanted.is_empty() {
                let News { messages, ends } = feed.next().await?;
                let last = messages
                    .iter()
                    .map(|one| (one.bucket(), one.offset().next()));
                let reached: Vec<_> = last.chain(ends).collect();
                wanted.retain(|(bucket, _, to)| {
                    !reached.iter().any(|(of, next)| of == bucket && next >= to)
                });
                if !messages.is_empty() {
                    found.push(messages);
                }
            }
            Ok(found)
        };
        let late = |_| {
            let what = format!("read the tail of {}", self.topic);
            Err(LogError::unavailable(
                what,
                format!("not within {deadline:?}"),
            ))
        };
        tokio::time::timeout(deadline, read)
            .await
            .unwrap_or_else(late)
    }
}
