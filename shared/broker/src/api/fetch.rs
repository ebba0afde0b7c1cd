//! Fetch: a plan for every partition, a wait if there is too little, then the bytes.
//!
//! The answer is encoded here by hand, around record bytes that are never copied. Fetch sessions are
//! declined (session id 0), which every client understands as "ask in full each time".

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::select_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::memory::{UNIT_BYTES, units};
use crate::partition::{Extent, Partition, Plan, ReadError};
use crate::time;

use super::{Context, Hangup, Outcome, Reply, blocking};

const TOPIC_IDS_FROM: i16 = 13;
const FLEXIBLE_FROM: i16 = 12;
/// An answer takes no more than this part of the memory that is left, so that a few clients that
/// stand still never have all of it.
const SHARE_PART: usize = 8;
/// What every answer may take.
const SHARE_BYTES_MIN: usize = 256 * 1024;
/// No client waits longer for records than this.
const WAIT_MAX: Duration = Duration::from_secs(60);

struct Wanted {
    index: i32,
    partition: Result<Arc<Partition>, ResponseError>,
    offset: i64,
    bytes_max: usize,
}

struct WantedTopic {
    name: String,
    id: Uuid,
    partitions: Vec<Wanted>,
}

/// What one partition answers.
struct Found {
    error: i16,
    extent: Extent,
    records: Vec<Bytes>,
}

impl Found {
    fn error(error: ResponseError) -> Self {
        let extent = Extent {
            log_start: -1,
            high_watermark: -1,
        };
        Self {
            error: error.code(),
            extent,
            records: Vec::new(),
        }
    }
}

pub(super) async fn fetch(context: Context, request: FetchRequest) -> Outcome {
    if request.session_id != 0 {
        // From before a restart, or from another broker.
        return encode(
            &context,
            ResponseError::FetchSessionIdNotFound.code(),
            &[],
            &[],
        );
    }
    let broker = Arc::clone(&context.broker);
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0);
    let bytes_max = bytes_max.min(broker.settings.fetch_bytes_max);
    let bytes_min = usize::try_from(request.min_bytes)
        .unwrap_or(0)
        .min(bytes_max);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = time::now() + wait.min(WAIT_MAX);
    let topics = resolve(&context, request);
    loop {
        // Taken before the plan, so that nothing that arrives after it is missed.
        let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
        let advanced: Vec<_> = partitions()
            .filter_map(|wanted| wanted.partition.as_ref().ok()?.advanced())
            .map(Box::pin)
            .collect();
        let share = share(&broker.fetch_budget).min(bytes_max);
        let (mut plans, mut bytes, urgent) = plan(&topics, share);
        let late = time::now() >= deadline;
        if !(bytes >= bytes_min.min(share) || urgent || late || broker.stopping.is_cancelled()) {
            let arrival = async {
                if advanced.is_empty() {
                    std::future::pending::<()>().await;
                } else {
                    select_all(advanced).await;
                }
            };
            let stopped = broker
                .stopping
                .run_until_cancelled(time::by(deadline, arrival));
            _ = stopped.await;
            continue;
        }
        let units = units(bytes, broker.settings.fetch_inflight_bytes_max);
        let budget = Arc::clone(&broker.fetch_budget)
            .try_acquire_many_owned(units)
            .ok();
        if budget.is_none() && bytes > SHARE_BYTES_MIN {
            // Others were faster. So much every connection may have, whatever others hold.
            (plans, bytes, _) = plan(&topics, SHARE_BYTES_MIN.min(bytes_max));
            tracing::trace!(bytes, "fetch answer cut for want of memory");
        }
        let found = read(&topics, plans).await;
        let mut outcome = encode(&context, 0, &topics, &found);
        if let Ok(Some(reply)) = &mut outcome {
            reply.budget = budget;
        }
        return outcome;
    }
}

/// How many bytes an answer may take now.
fn share(budget: &Semaphore) -> usize {
    let left = budget.available_permits() * UNIT_BYTES;
    (left / SHARE_PART).max(SHARE_BYTES_MIN)
}

fn resolve(context: &Context, request: FetchRequest) -> Vec<WantedTopic> {
    let by_id = context.version >= TOPIC_IDS_FROM;
    let topics = request.topics.into_iter().map(|wanted| {
        let all = &context.broker.topics;
        let topic = if by_id {
            all.by_id(wanted.topic_id)
        } else {
            all.by_name(&wanted.topic.0)
        };
        let unknown = match by_id {
            true => ResponseError::UnknownTopicId,
            false => ResponseError::UnknownTopicOrPartition,
        };
        let partitions = wanted.partitions.into_iter().map(|partition| Wanted {
            index: partition.partition,
            partition: match &topic {
                None => Err(unknown),
                Some(_) if partition.current_leader_epoch > crate::batch::LEADER_EPOCH => {
                    Err(ResponseError::UnknownLeaderEpoch)
                }
                Some(topic) => topic
                    .partition(partition.partition)
                    .ok_or(ResponseError::UnknownTopicOrPartition),
            },
            offset: partition.fetch_offset,
            bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
        });
        WantedTopic {
            partitions: partitions.collect(),
            name: wanted.topic.0.to_string(),
            id: wanted.topic_id,
        }
    });
    topics.collect()
}

/// Plans for all partitions in order, the bytes they promise, and whether one must be told at once.
fn plan(
    topics: &[WantedTopic],
    bytes_max: usize,
) -> (Vec<Result<Plan, ResponseError>>, usize, bool) {
    let mut plans = Vec::new();
    let (mut bytes, mut urgent) = (0, false);
    for wanted in topics.iter().flat_map(|topic| &topic.partitions) {
        let left = wanted.bytes_max.min(bytes_max.saturating_sub(bytes));
        let plan = match &wanted.partition {
            Err(error) => Err(*error),
            // The first batch comes whatever its size: a consumer must be able to go on.
            Ok(partition) => partition
                .plan(wanted.offset, left, bytes == 0)
                .map_err(code),
        };
        match &plan {
            Ok(plan) => bytes += plan.bytes(),
            Err(_) => urgent = true,
        }
        plans.push(plan);
    }
    (plans, bytes, urgent)
}

fn code(error: ReadError) -> ResponseError {
    match error {
        ReadError::OutOfRange => ResponseError::OffsetOutOfRange,
        ReadError::Deleted => ResponseError::UnknownTopicOrPartition,
        ReadError::Storage => ResponseError::KafkaStorageError,
    }
}

async fn read(topics: &[WantedTopic], plans: Vec<Result<Plan, ResponseError>>) -> Vec<Found> {
    let on_disk = plans.iter().any(|plan| matches!(plan, Ok(Plan::Disk(_))));
    let read = if on_disk {
        let lost = plans.len();
        blocking(move || plans.into_iter().map(run).collect::<Vec<_>>())
            .await
            .unwrap_or_else(|| {
                (0..lost)
                    .map(|_| Err(ResponseError::KafkaStorageError))
                    .collect()
            })
    } else {
        plans.into_iter().map(run).collect()
    };
    let wanted = topics.iter().flat_map(|topic| &topic.partitions);
    let found = wanted.zip(read).map(|(wanted, read)| {
        let extent = wanted
            .partition
            .as_ref()
            .ok()
            .and_then(|partition| partition.extent());
        match (read, extent) {
            (Err(error), extent) => {
                let none = Found::error(error);
                Found {
                    extent: extent.unwrap_or(none.extent),
                    ..none
                }
            }
            (Ok(records), Some(extent)) => Found {
                error: 0,
                extent,
                records,
            },
            (Ok(_), None) => Found::error(ResponseError::UnknownTopicOrPartition),
        }
    });
    found.collect()
}

/// Blocks for plans that need the disk.
fn run(plan: Result<Plan, ResponseError>) -> Result<Vec<Bytes>, ResponseError> {
    match plan? {
        Plan::Nothing => Ok(Vec::new()),
        Plan::Memory(chunks) => Ok(chunks),
        Plan::Disk(read) => match read.run() {
            Ok(bytes) => Ok(vec![bytes]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ResponseError::OffsetOutOfRange)
            }
            Err(error) => {
                tracing::error!(%error, "records cannot be read");
                Err(ResponseError::KafkaStorageError)
            }
        },
    }
}

fn encode(context: &Context, error: i16, topics: &[WantedTopic], found: &[Found]) -> Outcome {
    let mut encoder = Encoder {
        version: context.version,
        bytes: BytesMut::with_capacity(256),
        chunks: Vec::new(),
    };
    context.reply_head(&mut encoder.bytes)?;
    encoder
        .response(error, topics, found)
        .map_err(|()| Hangup::Encode {
            api: context.api,
            version: context.version,
            reason: "more than 2 GiB".to_owned(),
        })?;
    Ok(Some(Reply {
        chunks: encoder.finish(),
        budget: None,
    }))
}

/// Writes a fetch response, versions 4 to 16.
struct Encoder {
    version: i16,
    bytes: BytesMut,
    chunks: Vec<Bytes>,
}

impl Encoder {
    fn flexible(&self) -> bool {
        self.version >= FLEXIBLE_FROM
    }

    fn response(&mut self, error: i16, topics: &[WantedTopic], found: &[Found]) -> Result<(), ()> {
        self.bytes.put_i32(0); // throttle time
        if self.version >= 7 {
            self.bytes.put_i16(error);
            self.bytes.put_i32(0); // session id: none
        }
        self.length(topics.len())?;
        let mut found = found.iter();
        for topic in topics {
            if self.version >= TOPIC_IDS_FROM {
                self.bytes.put_slice(topic.id.as_bytes());
            } else {
                self.text(&topic.name)?;
            }
            self.length(topic.partitions.len())?;
            for (wanted, found) in topic.partitions.iter().zip(&mut found) {
                self.partition(wanted.index, found)?;
            }
            self.no_tags();
        }
        self.no_tags();
        Ok(())
    }

    fn partition(&mut self, index: i32, found: &Found) -> Result<(), ()> {
        self.bytes.put_i32(index);
        self.bytes.put_i16(found.error);
        self.bytes.put_i64(found.extent.high_watermark);
        self.bytes.put_i64(found.extent.high_watermark); // last stable offset
        if self.version >= 5 {
            self.bytes.put_i64(found.extent.log_start);
        }
        self.length(0)?; // aborted transactions
        if self.version >= 11 {
            self.bytes.put_i32(-1); // preferred read replica
        }
        let records_bytes = found.records.iter().map(Bytes::len).sum();
        self.length(records_bytes)?;
        if records_bytes > 0 {
            self.chunks.push(self.bytes.split().freeze());
            self.chunks.extend(found.records.iter().cloned());
        }
        self.no_tags();
        Ok(())
    }

    fn length(&mut self, length: usize) -> Result<(), ()> {
        let length = i32::try_from(length).map_err(|_| ())?;
        if !self.flexible() {
            self.bytes.put_i32(length);
            return Ok(());
        }
        let mut rest = length as u32 + 1;
        while rest >= 0x80 {
            self.bytes.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.put_u8(rest as u8);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), ()> {
        if self.flexible() {
            self.length(text.len())?;
        } else {
            self.bytes
                .put_i16(i16::try_from(text.len()).map_err(|_| ())?);
        }
        self.bytes.put_slice(text.as_bytes());
        Ok(())
    }

    fn no_tags(&mut self) {
        if self.flexible() {
            self.bytes.put_u8(0);
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.bytes.is_empty() {
            self.chunks.push(self.bytes.freeze());
        }
        self.chunks
    }
}

#[cfg(test)]
mod tests;
