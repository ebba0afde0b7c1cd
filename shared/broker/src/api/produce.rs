//! Produce and InitProducerId.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse, ProducerId,
};
use tokio::sync::oneshot;

use crate::batch::{BatchError, BatchHeader, check_record_set};
use crate::partition::{AppendError, Appended, Partition};
use crate::records::{RecordsError, check, codec};
use crate::topics::Topic;
use crate::unpack::UnpackError;

use super::{Context, Hangup, Outcome, blocking, decode, text};

/// Topics by id in requests, from this version on.
const TOPIC_IDS_FROM: i16 = 13;
/// Compressed records of this size and less are unpacked where they are read.
const CHECKED_AT_ONCE_BYTES: usize = 16 * 1024;
const TRANSACTIONS: &str = "transactions are not served by this broker";

struct Refusal {
    error: ResponseError,
    message: Option<String>,
}

impl From<ResponseError> for Refusal {
    fn from(error: ResponseError) -> Self {
        Self {
            error,
            message: None,
        }
    }
}

type Receiver = oneshot::Receiver<Result<Appended, AppendError>>;

/// What a topic's part of the request waits for.
struct Pending {
    response: TopicProduceResponse,
    partitions: Vec<(i32, Result<Receiver, Refusal>)>,
}

/// A partition's records, and the heads of their batches once they are checked.
struct Checked {
    partition: Arc<Partition>,
    records: Bytes,
    batch_bytes_max: usize,
    headers: Result<Vec<BatchHeader>, Refusal>,
}

/// Queues all appends before it returns; the future waits for them to be durable.
pub(super) async fn begin(
    context: Context,
    frame: Bytes,
) -> Result<BoxFuture<'static, Outcome>, Hangup> {
    let request = decode::<ProduceRequest>(frame, context.version)?;
    let acks = request.acks;
    let refused = if !(-1..=1).contains(&acks) {
        Some(ResponseError::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        Some(ResponseError::TransactionalIdAuthorizationFailed)
    } else {
        None
    };
    let mut pending = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let found = find_topic(&context, &data, refused);
        let response = TopicProduceResponse::default()
            .with_name(data.name)
            .with_topic_id(data.topic_id);
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for data in data.partition_data {
            let index = data.index;
            let begun = match &found {
                Ok(topic) => begin_partition(&context, topic, data).await,
                Err(error) => Err((*error).into()),
            };
            partitions.push((index, begun));
        }
        pending.push(Pending {
            response,
            partitions,
        });
    }
    Ok(Box::pin(finish(context, acks, pending)))
}

fn find_topic(
    context: &Context,
    data: &TopicProduceData,
    refused: Option<ResponseError>,
) -> Result<Arc<Topic>, ResponseError> {
    if let Some(error) = refused {
        return Err(error);
    }
    let topics = &context.broker.topics;
    if context.version >= TOPIC_IDS_FROM {
        topics
            .by_id(data.topic_id)
            .ok_or(ResponseError::UnknownTopicId)
    } else {
        topics
            .by_name(&data.name.0)
            .ok_or(ResponseError::UnknownTopicOrPartition)
    }
}

async fn begin_partition(
    context: &Context,
    topic: &Arc<Topic>,
    data: PartitionProduceData,
) -> Result<Receiver, Refusal> {
    let partition = topic
        .partition(data.index)
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    let checked = Checked {
        partition,
        records: data.records.unwrap_or_default(),
        batch_bytes_max: topic.config().message_bytes_max,
        headers: Ok(Vec::new()),
    };
    let broker = &context.broker;
    let unpacked_bytes_max = broker.settings.unpacked_bytes_max as u64;
    // What takes long must not hold up other connections: it goes to a thread of its own.
    let packed = BatchHeader::parse(&checked.records).is_ok_and(|head| codec(&head) != 0);
    let checked = if packed && checked.records.len() > CHECKED_AT_ONCE_BYTES {
        let _turn = broker.unpacking.acquire().await;
        blocking(move || checked.check(unpacked_bytes_max))
            .await
            .ok_or(ResponseError::KafkaStorageError)?
    } else {
        checked.check(unpacked_bytes_max)
    };
    let headers = checked.headers?;
    Ok(checked.partition.append(checked.records, headers))
}

impl Checked {
    fn check(mut self, unpacked_bytes_max: u64) -> Self {
        self.headers = self.check_set(unpacked_bytes_max).inspect_err(|refusal| {
            tracing::debug!(partition = self.partition.name(), code = ?refusal.error,
                reason = refusal.message, "record set refused");
        });
        self
    }

    fn check_set(&self, unpacked_bytes_max: u64) -> Result<Vec<BatchHeader>, Refusal> {
        let headers = check_record_set(&self.records, self.batch_bytes_max)?;
        let mut rest = &self.records[..];
        for header in &headers {
            check(header, rest, unpacked_bytes_max)?;
            rest = &rest[header.bytes..];
        }
        Ok(headers)
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        let code = match &error {
            BatchError::TooLarge { .. } => ResponseError::MessageTooLarge,
            BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
            BatchError::Count { .. } | BatchError::TooMany { .. } | BatchError::Empty => {
                ResponseError::InvalidRecord
            }
            BatchError::Transactional => ResponseError::InvalidTxnState,
            BatchError::Short { .. } | BatchError::Length(_) | BatchError::Checksum { .. } => {
                ResponseError::CorruptMessage
            }
        };
        Self {
            error: code,
            message: Some(error.to_string()),
        }
    }
}

impl From<RecordsError> for Refusal {
    fn from(error: RecordsError) -> Self {
        // The checksum was right, so sending the same again would change nothing: no code that
        // makes clients try.
        let code = match &error {
            RecordsError::Unpack(UnpackError::Codec(_)) => {
                ResponseError::UnsupportedCompressionType
            }
            RecordsError::Unpack(UnpackError::TooLarge { .. }) => ResponseError::MessageTooLarge,
            RecordsError::Unpack(UnpackError::Damaged(_)) | RecordsError::Shape { .. } => {
                ResponseError::InvalidRecord
            }
        };
        Self {
            error: code,
            message: Some(error.to_string()),
        }
    }
}

async fn finish(context: Context, acks: i16, pending: Vec<Pending>) -> Outcome {
    let mut responses = Vec::with_capacity(pending.len());
    let mut failed = false;
    for Pending {
        response,
        partitions,
    } in pending
    {
        let mut answers = Vec::with_capacity(partitions.len());
        for (index, begun) in partitions {
            let result = match begun {
                Err(refusal) => Err(refusal),
                Ok(receiver) => {
                    let stored = receiver.await.unwrap_or(Err(AppendError::Storage));
                    stored.map_err(|error| code(error).into())
                }
            };
            failed |= result.is_err();
            answers.push(answer(index, result));
        }
        responses.push(response.with_partition_responses(answers));
    }
    if acks == 0 {
        // The only way left to tell such a producer is to hang up, as Kafka does.
        return if failed {
            Err(Hangup::Unanswered("see the broker's log"))
        } else {
            Ok(None)
        };
    }
    context.reply(&ProduceResponse::default().with_responses(responses))
}

fn answer(index: i32, result: Result<Appended, Refusal>) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default()
        .with_index(index)
        .with_log_append_time_ms(-1);
    match result {
        Ok(appended) => answer
            .with_base_offset(appended.base_offset)
            .with_log_start_offset(appended.log_start),
        Err(refusal) => answer
            .with_base_offset(-1)
            .with_log_start_offset(-1)
            .with_error_code(refusal.error.code())
            .with_error_message(refusal.message.map(text)),
    }
}

fn code(error: AppendError) -> ResponseError {
    match error {
        AppendError::OutOfOrderSequence => ResponseError::OutOfOrderSequenceNumber,
        AppendError::OldProducerEpoch => ResponseError::InvalidProducerEpoch,
        AppendError::Storage => ResponseError::KafkaStorageError,
        AppendError::Deleted => ResponseError::UnknownTopicOrPartition,
        AppendError::Closed => ResponseError::NotLeaderOrFollower,
    }
}

/// Gives out producer ids to idempotent producers; transactional ones are refused for good.
pub(super) async fn init_producer_id(context: Context, request: InitProducerIdRequest) -> Outcome {
    let response = InitProducerIdResponse::default()
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    if request.transactional_id.is_some() {
        tracing::warn!(client = ?context.client_id, "{TRANSACTIONS}");
        let error = ResponseError::TransactionalIdAuthorizationFailed;
        return context.reply(&response.with_error_code(error.code()));
    }
    let broker = Arc::clone(&context.broker);
    let id = blocking(move || broker.identity.next_producer_id()).await;
    let response = match id {
        Some(Ok(id)) => response
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0),
        failed => {
            tracing::error!(?failed, "producer id not reserved");
            response.with_error_code(ResponseError::CoordinatorNotAvailable.code())
        }
    };
    context.reply(&response)
}
