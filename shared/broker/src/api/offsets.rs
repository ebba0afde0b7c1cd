//! Committed positions of groups: OffsetCommit, OffsetFetch, OffsetDelete.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};

use crate::group::messages::client;
use crate::group::offsets::{Change, Committed, GroupOffsets};
use crate::group::state::Caller;

use super::{Context, Outcome, text};

/// Longer notes beside an offset are refused.
const METADATA_BYTES_MAX: usize = 4_096;
/// Positions in one commit.
const POSITIONS_MAX: usize = 20_000;
/// Offsets by group in one request, from this version on.
const MANY_GROUPS_FROM: i16 = 8;

pub(super) async fn offset_commit(context: Context, request: OffsetCommitRequest) -> Outcome {
    let broker = &context.broker;
    let now_ms = broker.settings.clock.now_ms();
    let mut positions = Vec::new();
    let mut answers = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = broker.topics.by_name(&wanted.name.0);
        let mut codes = Vec::with_capacity(wanted.partitions.len());
        for asked in wanted.partitions {
            let index = asked.partition_index;
            let metadata = asked.committed_metadata.unwrap_or_default();
            let error = if topic
                .as_ref()
                .is_none_or(|topic| topic.partition(index).is_none())
            {
                ResponseError::UnknownTopicOrPartition.code()
            } else if metadata.len() > METADATA_BYTES_MAX {
                ResponseError::OffsetMetadataTooLarge.code()
            } else {
                let committed = Committed {
                    offset: asked.committed_offset,
                    leader_epoch: asked.committed_leader_epoch,
                    metadata: metadata.to_string(),
                    committed_ms: now_ms,
                };
                positions.push((wanted.name.0.to_string(), index, committed));
                0
            };
            codes.push((index, error));
        }
        answers.push((wanted.name, codes));
    }
    let caller = Caller {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
    };
    let generation = request.generation_id_or_member_epoch;
    if positions.len() > POSITIONS_MAX {
        return context.reply(&commit_answers(
            answers,
            ResponseError::InvalidCommitOffsetSize.code(),
        ));
    }
    let client_id = context.client_id.as_ref().map_or("", |id| id.as_str());
    let client = client(client_id, &format!("/{}", context.peer.ip()));
    let committed = broker
        .coordinator
        .commit(&client, &request.group_id.0, caller, generation, positions)
        .await;
    let refused = committed.err().map_or(0, |error| error.code());
    context.reply(&commit_answers(answers, refused))
}

/// The codes of each partition; where the commit was refused as a whole, that code for all.
fn commit_answers(
    answers: Vec<(TopicName, Vec<(i32, i16)>)>,
    refused: i16,
) -> OffsetCommitResponse {
    let topics = answers.into_iter().map(|(name, codes)| {
        let partitions = codes.into_iter().map(|(index, code)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(if refused == 0 { code } else { refused })
        });
        OffsetCommitResponseTopic::default()
            .with_name(name)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Positions as asked for: topic by topic; `None` where nothing was committed.
type Positions = Vec<(TopicName, Vec<(i32, Option<Committed>)>)>;

fn positions(all: &GroupOffsets, asked: Option<Vec<(TopicName, Vec<i32>)>>) -> Positions {
    let Some(asked) = asked else {
        let mut topics: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for ((topic, partition), committed) in all {
            topics
                .entry(topic)
                .or_default()
                .push((*partition, Some(committed.clone())));
        }
        let named = |(topic, found): (&str, _)| (TopicName(text(topic)), found);
        return topics.into_iter().map(named).collect();
    };
    let found = asked.into_iter().map(|(topic, partitions)| {
        let name = topic.0.to_string();
        let found = partitions
            .into_iter()
            .map(|partition| (partition, all.get(&(name.clone(), partition)).cloned()));
        let found = found.collect();
        (topic, found)
    });
    found.collect()
}

pub(super) async fn offset_fetch(context: Context, request: OffsetFetchRequest) -> Outcome {
    let offsets = context.broker.coordinator.offsets();
    let response = OffsetFetchResponse::default();
    if context.version >= MANY_GROUPS_FROM {
        let mut seen = HashSet::new();
        let groups = request
            .groups
            .into_iter()
            .filter(|asked| seen.insert(asked.group_id.clone()))
            .map(|asked: OffsetFetchRequestGroup| {
                let all = offsets.group(&asked.group_id.0).unwrap_or_default();
                let named = |topic: OffsetFetchRequestTopics| (topic.name, topic.partition_indexes);
                let topics = asked
                    .topics
                    .map(|topics| topics.into_iter().map(named).collect());
                let topics = positions(&all, topics).into_iter().map(|(name, found)| {
                    OffsetFetchResponseTopics::default()
                        .with_name(name)
                        .with_partitions(found.into_iter().map(many_groups_partition).collect())
                });
                OffsetFetchResponseGroup::default()
                    .with_group_id(asked.group_id)
                    .with_topics(topics.collect())
            });
        let groups = groups.collect();
        return context.reply(&response.with_groups(groups));
    }
    let all = offsets.group(&request.group_id.0).unwrap_or_default();
    let topics = request.topics.map(|topics| {
        topics
            .into_iter()
            .map(|t| (t.name, t.partition_indexes))
            .collect()
    });
    // Version 1 has no null for "all".
    let topics = positions(&all, topics).into_iter().map(|(name, found)| {
        OffsetFetchResponseTopic::default()
            .with_name(name)
            .with_partitions(found.into_iter().map(one_group_partition).collect())
    });
    let topics = topics.collect();
    context.reply(&response.with_topics(topics))
}

fn many_groups_partition(
    (index, committed): (i32, Option<Committed>),
) -> OffsetFetchResponsePartitions {
    let (offset, leader_epoch, metadata) = written(committed);
    OffsetFetchResponsePartitions::default()
        .with_partition_index(index)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(leader_epoch)
        .with_metadata(Some(text(metadata)))
}

fn one_group_partition(
    (index, committed): (i32, Option<Committed>),
) -> OffsetFetchResponsePartition {
    let (offset, leader_epoch, metadata) = written(committed);
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(leader_epoch)
        .with_metadata(Some(text(metadata)))
}

fn written(committed: Option<Committed>) -> (i64, i32, String) {
    committed.map_or((-1, -1, String::new()), |c| {
        (c.offset, c.leader_epoch, c.metadata)
    })
}

pub(super) async fn offset_delete(context: Context, request: OffsetDeleteRequest) -> Outcome {
    let coordinator = &context.broker.coordinator;
    let group_id = request.group_id.0.to_string();
    let response = OffsetDeleteResponse::default();
    match coordinator.describe(&group_id) {
        None => {
            let error = ResponseError::GroupIdNotFound;
            return context.reply(&response.with_error_code(error.code()));
        }
        // Members may be consuming any topic: only they know.
        Some(group) if !group.members.is_empty() => {
            let error = ResponseError::NonEmptyGroup;
            return context.reply(&response.with_error_code(error.code()));
        }
        Some(_) => {}
    }
    let asked = request.topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .map(|partition| (topic.name.0.to_string(), partition.partition_index))
    });
    let changes = asked.map(|(topic, partition)| {
        let group = group_id.clone();
        Change::Forget {
            group,
            topic,
            partition,
        }
    });
    let stored = coordinator.offsets().apply(changes.collect()).await;
    let code = if stored {
        0
    } else {
        ResponseError::CoordinatorNotAvailable.code()
    };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        OffsetDeleteResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    let topics = topics.collect();
    context.reply(&response.with_topics(topics))
}
