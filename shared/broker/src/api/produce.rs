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

use crate::batch::{BatchError, check_record_set};
use crate::partition::{AppendError, Appended};
use crate::topics::Topic;

use super::{Context, Hangup, Outcome, blocking, decode, text};

/// Topics by id in requests, from this version on.
const TOPIC_IDS_FROM: i16 = 13;
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

/// Queues all appends before it returns; the future waits for them to be durable.
pub(super) fn begin(context: Context, frame: Bytes) -> Result<BoxFuture<'static, Outcome>, Hangup> {
    let request = decode::<ProduceRequest>(frame, context.version)?;
    let acks = request.acks;
    let refused = if !(-1..=1).contains(&acks) {
        Some(ResponseError::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        Some(ResponseError::TransactionalIdAuthorizationFailed)
    } else {
        None
    };
    let pending: Vec<_> = request
        .topic_data
        .into_iter()
        .map(|topic| begin_topic(&context, topic, refused))
        .collect();
    Ok(Box::pin(finish(context, acks, pending)))
}

fn begin_topic(
    context: &Context,
    data: TopicProduceData,
    refused: Option<ResponseError>,
) -> Pending {
    let topics = &context.broker.topics;
    let by_id = context.version >= TOPIC_IDS_FROM;
    let topic = if by_id {
        topics.by_id(data.topic_id)
    } else {
        topics.by_name(&data.name.0)
    };
    let unknown = match by_id {
        true => ResponseError::UnknownTopicId,
        false => ResponseError::UnknownTopicOrPartition,
    };
    let partitions = data.partition_data.into_iter().map(|partition| {
        let index = partition.index;
        let begun = match (refused, &topic) {
            (Some(error), _) => Err(error.into()),
            (None, None) => Err(unknown.into()),
            (None, Some(topic)) => begin_partition(topic, partition),
        };
        (index, begun)
    });
    Pending {
        partitions: partitions.collect(),
        response: TopicProduceResponse::default()
            .with_name(data.name)
            .with_topic_id(data.topic_id),
    }
}

fn begin_partition(topic: &Arc<Topic>, data: PartitionProduceData) -> Result<Receiver, Refusal> {
    let partition = topic
        .partition(data.index)
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    let records = data.records.unwrap_or_default();
    let headers =
        check_record_set(&records, topic.config().message_bytes_max).map_err(|error| {
            let code = match &error {
                BatchError::TooLarge { .. } => ResponseError::MessageTooLarge,
                BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
                BatchError::Count { .. } | BatchError::Empty => ResponseError::InvalidRecord,
                BatchError::Transactional => ResponseError::InvalidTxnState,
                BatchError::Short { .. } | BatchError::Length(_) | BatchError::Checksum { .. } => {
                    ResponseError::CorruptMessage
                }
            };
            tracing::debug!(partition = partition.name(), %error, "record set refused");
            Refusal {
                error: code,
                message: Some(error.to_string()),
            }
        })?;
    Ok(partition.append(records, headers))
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
