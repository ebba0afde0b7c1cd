//! Reads ranges of offsets of one topic, outside of any group.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidelake_core::{Bucket, Offset};

use rdkafka::bindings as rd;

use super::compaction::Gaps;
use super::message::Batch;
use super::mishap::{Verdict, judge};
use super::native::Client;
use super::progress::Progress;
use super::request::{PATIENCE, Spec, list_offsets};
use super::time;
use crate::{KafkaSettings, LogError, MessageBatch, TopicBucket};

const BATCH_MESSAGES_MAX: usize = 10_000;
const POLL_MS: i32 = 5;

/// A consumer of one topic whose position its owner sets. A read that goes on where the last one
/// ended costs no new request: what librdkafka has fetched ahead is used.
#[derive(Debug, Clone)]
pub struct TailReader {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    topic: Arc<str>,
    client: Arc<Client>,
    /// Next offset that the client will deliver, of each assigned bucket.
    positions: BTreeMap<Bucket, Offset>,
    reading: Reading,
}

impl TailReader {
    /// Opens a reader; nothing is fetched yet.
    pub fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self, LogError> {
        let client = Client::consumer(&kafka.properties_of_readers())?;
        let inner = Inner {
            topic: Arc::from(topic),
            reading: Reading::new(client.clone(), &[]),
            client,
            positions: BTreeMap::new(),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// All messages with offsets in `from..to` of each bucket, and perhaps some beyond `to`;
    /// offsets may have gaps. Returns once every range is complete.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] where the log does not reach back to `from`,
    /// [`LogError::Unavailable`] when the deadline passes first.
    pub async fn read(
        &self,
        ranges: Vec<(Bucket, Offset, Offset)>,
        deadline: Duration,
    ) -> Result<Vec<MessageBatch>, LogError> {
        let inner = self.inner.clone();
        let read = move || {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            let result = inner.read(&ranges, deadline);
            if result.is_err() {
                // Positions are not known any more: the next read assigns anew.
                inner.positions.clear();
            }
            result
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| LogError::Client(error.to_string()))?
    }
}

impl Inner {
    fn read(
        &mut self,
        ranges: &[(Bucket, Offset, Offset)],
        deadline: Duration,
    ) -> Result<Vec<MessageBatch>, LogError> {
        let begun = time::now();
        let mut wanted: HashMap<Bucket, Offset> = HashMap::new();
        for &(bucket, from, to) in ranges {
            if from < to {
                wanted.insert(bucket, to);
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.position(ranges)?;
        let mut found = Vec::new();
        while !wanted.is_empty() {
            if begun.elapsed() > deadline {
                let behind: Vec<String> = wanted
                    .iter()
                    .map(|(bucket, to)| format!("bucket {bucket} to {to}"))
                    .collect();
                return Err(LogError::unavailable(
                    format!("read the tail of {}", self.topic),
                    format!("not within {deadline:?}: {}", behind.join(", ")),
                ));
            }
            let mut raw = Vec::new();
            self.client.consume(&mut raw, BATCH_MESSAGES_MAX, POLL_MS);
            let Outcome {
                messages,
                ends,
                failed,
            } = self
                .reading
                .take(raw, deadline.saturating_sub(begun.elapsed()));
            if let Some(error) = failed {
                return Err(error);
            }
            if !messages.is_empty() {
                note_progress(&messages, &mut wanted);
                self.advance(&messages);
                found.push(messages);
            }
            // Control records and gaps at the end: nothing more will come.
            for (bucket, end) in ends {
                if wanted.get(&bucket).is_some_and(|to| end >= *to) {
                    wanted.remove(&bucket);
                }
            }
        }
        Ok(found)
    }

    /// Puts the client at the start of every range, unless it stands there already.
    fn position(&mut self, ranges: &[(Bucket, Offset, Offset)]) -> Result<(), LogError> {
        let goes_on = ranges
            .iter()
            .all(|(bucket, from, _)| self.positions.get(bucket).is_some_and(|at| at == from));
        if goes_on {
            return Ok(());
        }
        self.positions = ranges
            .iter()
            .map(|&(bucket, from, _)| (bucket, from))
            .collect();
        let from: Vec<_> = self
            .positions
            .iter()
            .map(|(&bucket, &offset)| {
                (
                    TopicBucket {
                        topic: self.topic.clone(),
                        bucket,
                    },
                    offset,
                )
            })
            .collect();
        self.reading = Reading::new(self.client.clone(), &from);
        self.client.assign_by_hand(&from)
    }

    fn advance(&mut self, batch: &MessageBatch) {
        for run in batch.runs() {
            if let (Some(last), Some(position)) = (run.last(), self.positions.get_mut(&run.bucket))
            {
                *position = last.offset().next().max(*position);
            }
        }
    }
}

fn note_progress(batch: &MessageBatch, wanted: &mut HashMap<Bucket, Offset>) {
    for run in batch.runs() {
        let Some(last) = run.last() else {
            continue;
        };
        if wanted
            .get(&run.bucket)
            .is_some_and(|to| last.offset().next() >= *to)
        {
            wanted.remove(&run.bucket);
        }
    }
}

/// What one poll brought.
pub(super) struct Outcome {
    pub messages: MessageBatch,
    /// Buckets read up to their end.
    pub ends: Vec<(Bucket, Offset)>,
    /// Why one of the buckets can't be read on.
    pub failed: Option<LogError>,
}

/// Judges what a consumer outside of any group brings.
#[derive(Debug)]
pub(super) struct Reading {
    progress: Progress,
    gaps: Gaps,
    client: Arc<Client>,
}

impl Reading {
    pub(super) fn new(client: Arc<Client>, from: &[(TopicBucket, Offset)]) -> Self {
        // Whoever waits for a range has a deadline of its own.
        let mut progress = Progress::new(Duration::MAX);
        let now = time::now();
        for (at, offset) in from {
            progress.begin(at, *offset, now);
        }
        Self {
            progress,
            gaps: Gaps::new(client.clone()),
            client,
        }
    }

    /// `time` is there for what has to be asked of the log to judge it.
    pub(super) fn take(
        &mut self,
        raw: Vec<*mut rd::rd_kafka_message_t>,
        time: Duration,
    ) -> Outcome {
        let ends_at = time::now() + time.min(PATIENCE);
        let left = || ends_at.saturating_duration_since(time::now());
        let (batch, mishaps) = Batch::new(raw, self.client.clone());
        let mut outcome = Outcome {
            messages: MessageBatch::native(batch),
            ends: Vec::new(),
            failed: None,
        };
        let now = time::now();
        for run in outcome.messages.runs() {
            let at = || TopicBucket {
                topic: Arc::from(run.topic),
                bucket: run.bucket,
            };
            let end = || self.client.end_offset_seen(&at());
            if let Err(damage) = self.progress.took(&run, end, now) {
                outcome.failed.get_or_insert(LogError::Damaged {
                    topic: run.topic.to_owned(),
                    bucket: run.bucket,
                    offset: damage.offset,
                    reason: damage.reason,
                });
            }
        }
        for mishap in mishaps {
            let verdict = judge(&mishap);
            let (Some(bucket), topic) = (mishap.bucket, mishap.topic) else {
                tracing::debug!(error = mishap.text, "reader");
                continue;
            };
            let at = TopicBucket {
                topic: Arc::from(topic),
                bucket,
            };
            match verdict {
                Verdict::AtEnd(end) => {
                    self.progress.at_end(&at, end, now);
                    outcome.ends.push((bucket, end));
                }
                Verdict::Gap(from) => {
                    let judged = self.gaps.judge(&at, from, mishap.text, left());
                    outcome.failed = outcome.failed.or(judged.err());
                }
                Verdict::OutOfRange => {
                    let error = self.out_of_range(&at, mishap.offset, left);
                    outcome.failed.get_or_insert(error);
                }
                Verdict::Fails(error) | Verdict::Denied(error) => {
                    outcome.failed.get_or_insert(error);
                }
                // The client goes on by itself once the log is there again.
                Verdict::Passes | Verdict::Unknown => {
                    tracing::debug!(error = mishap.text, bucket = %at, "reader");
                }
            }
        }
        outcome
    }

    /// Asks the log what it still has.
    fn out_of_range(&self, at: &TopicBucket, offset: i64, left: impl Fn() -> Duration) -> LogError {
        let ask = |spec| {
            let asked = list_offsets(&self.client, std::slice::from_ref(at), spec)?;
            let listed = asked.wait_at_most(left())?;
            let offset = listed
                .into_iter()
                .next()
                .and_then(|(_, offset)| offset.ok());
            Ok::<_, LogError>(offset.map_or(-1, |offset| offset.0))
        };
        LogError::OffsetOutOfRange {
            topic: at.topic.to_string(),
            bucket: at.bucket,
            offset,
            start: ask(Spec::Earliest).unwrap_or(-1),
            end: ask(Spec::Latest).unwrap_or(-1),
        }
    }
}
