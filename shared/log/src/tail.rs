//! Reads ranges of offsets of one topic, outside of any group.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::{Bucket, Offset};

use crate::native::Client;
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
}

impl TailReader {
    /// Opens a reader; nothing is fetched yet.
    pub fn open(kafka: &KafkaSettings, topic: &str) -> Result<Self, LogError> {
        let client = Client::consumer(&kafka.properties_of_readers())?;
        let inner = Inner {
            topic: Arc::from(topic),
            client,
            positions: BTreeMap::new(),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// All messages with offsets in `from..to` of each bucket, and perhaps some beyond `to`; offsets
    /// may have gaps. Returns once every range is complete.
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
        let begun = Instant::now();
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
            let (batch, mishaps) = MessageBatch::new(raw, self.client.clone());
            for mishap in mishaps {
                match mishap.code {
                    RespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                        // Control records and gaps at the end: nothing more will come.
                        if wanted
                            .get(&mishap.bucket)
                            .is_some_and(|to| mishap.offset >= to.0)
                        {
                            wanted.remove(&mishap.bucket);
                        }
                    }
                    RespErr::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
                    | RespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
                        return Err(LogError::OffsetOutOfRange {
                            topic: self.topic.to_string(),
                            bucket: mishap.bucket,
                            offset: mishap.offset,
                        });
                    }
                    _ => tracing::debug!(error = mishap.text, "tail reader"),
                }
            }
            if !batch.is_empty() {
                note_progress(&batch, &mut wanted);
                self.advance(&batch);
                found.push(batch);
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
        self.client.assign_by_hand(&from)
    }

    fn advance(&mut self, batch: &MessageBatch) {
        for run in batch.runs() {
            if let (Some(last), Some(position)) =
                (run.iter().last(), self.positions.get_mut(&run.bucket))
            {
                *position = last.offset().next().max(*position);
            }
        }
    }
}

fn note_progress(batch: &MessageBatch, wanted: &mut HashMap<Bucket, Offset>) {
    for run in batch.runs() {
        let Some(last) = run.iter().last() else {
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
