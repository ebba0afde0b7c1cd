//! ListOffsets: where a log starts, ends, or was at a time.

use std::io;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};

use crate::batch::LEADER_EPOCH;
use crate::partition::Partition;
use crate::records::first_at_time;

use super::{Context, Outcome, blocking};

/// Kafka's names for special times.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Answers carry a leader epoch from this version on; the encoder refuses one before it.
const EPOCHS_FROM: i16 = 4;

pub(super) async fn list_offsets(context: Context, request: ListOffsetsRequest) -> Outcome {
    let broker = Arc::clone(&context.broker);
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = broker.topics.by_name(&wanted.name.0);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for asked in wanted.partitions {
            let partition = topic
                .as_ref()
                .and_then(|t| t.partition(asked.partition_index));
            partitions.push(answer(context.version, partition, &asked).await);
        }
        topics.push(topic_response(wanted.name, partitions));
    }
    context.reply(&ListOffsetsResponse::default().with_topics(topics))
}

fn topic_response(
    name: TopicName,
    partitions: Vec<ListOffsetsPartitionResponse>,
) -> ListOffsetsTopicResponse {
    ListOffsetsTopicResponse::default()
        .with_name(name)
        .with_partitions(partitions)
}

async fn answer(
    version: i16,
    partition: Option<Arc<Partition>>,
    asked: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let response =
        ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
    let response = response
        .with_timestamp(-1)
        .with_offset(-1)
        .with_leader_epoch(-1);
    let found = match partition {
        None => Err(ResponseError::UnknownTopicOrPartition),
        Some(_) if asked.current_leader_epoch > LEADER_EPOCH => {
            Err(ResponseError::UnknownLeaderEpoch)
        }
        Some(partition) => look_up(partition, asked.timestamp).await,
    };
    match found {
        Err(error) => response.with_error_code(error.code()),
        Ok(None) => response,
        Ok(Some((timestamp, offset))) => response
            .with_timestamp(timestamp)
            .with_offset(offset)
            .with_leader_epoch(match version {
                EPOCHS_FROM.. => LEADER_EPOCH,
                _ => -1,
            }),
    }
}

/// Timestamp and offset; `None` where no record is as new as asked.
async fn look_up(
    partition: Arc<Partition>,
    timestamp: i64,
) -> Result<Option<(i64, i64)>, ResponseError> {
    let extent = partition.extent().ok_or(ResponseError::KafkaStorageError)?;
    let wanted = match timestamp {
        LATEST => return Ok(Some((-1, extent.high_watermark))),
        EARLIEST | EARLIEST_LOCAL => return Ok(Some((-1, extent.log_start))),
        LATEST_TIERED => return Ok(None),
        MAX_TIMESTAMP => match partition.newest_timestamp() {
            Some(newest) => newest,
            None => return Ok(None),
        },
        timestamp if timestamp < 0 => return Err(ResponseError::InvalidRequest),
        timestamp => timestamp,
    };
    let found = blocking(move || -> io::Result<_> {
        let batch = partition.batch_at_time(wanted)?;
        Ok(batch.and_then(|batch| first_at_time(&batch, wanted)))
    });
    match found.await {
        Some(Ok(found)) => Ok(found),
        failed => {
            tracing::error!(?failed, "offset cannot be looked up by time");
            Err(ResponseError::KafkaStorageError)
        }
    }
}
