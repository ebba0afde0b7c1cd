//! CreateTopics, DeleteTopics, CreatePartitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::state::{BrokerState, NODE_ID};
use crate::topic_config::{NAMES, TopicConfig};
use crate::topics::TopicError;

use super::{Context, Outcome, blocking, text};

/// An error code with its explanation.
pub(super) type Refused = (ResponseError, String);

pub(super) fn refused(error: TopicError) -> Refused {
    let code = match &error {
        TopicError::Exists(_) => ResponseError::TopicAlreadyExists,
        TopicError::Unknown(_) => ResponseError::UnknownTopicOrPartition,
        TopicError::Name(_) => ResponseError::InvalidTopicException,
        TopicError::Partitions(_) | TopicError::Shrinks { .. } => ResponseError::InvalidPartitions,
        TopicError::TooMany => ResponseError::PolicyViolation,
        TopicError::Config(_) => ResponseError::InvalidConfig,
        TopicError::Io(_) => ResponseError::KafkaStorageError,
    };
    if let TopicError::Io(source) = &error {
        tracing::error!(%source, "{error}");
    }
    (code, error.to_string())
}

/// Code and message as responses carry them.
pub(super) fn told(refused: Refused) -> (i16, Option<StrBytes>) {
    (refused.0.code(), Some(text(refused.1)))
}

fn lost() -> Refused {
    (
        ResponseError::KafkaStorageError,
        "the broker is stopping".to_owned(),
    )
}

pub(super) async fn create_topics(context: Context, request: CreateTopicsRequest) -> Outcome {
    let broker = Arc::clone(&context.broker);
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let name = asked.name.clone();
        let broker = Arc::clone(&broker);
        let dry_run = request.validate_only;
        let created = blocking(move || create(&broker, &asked, dry_run)).await;
        let result = CreatableTopicResult::default().with_name(name);
        results.push(match created.unwrap_or_else(|| Err(lost())) {
            Ok(created) => result
                .with_topic_id(created.id)
                .with_num_partitions(created.partitions)
                .with_replication_factor(1)
                .with_error_message(None)
                .with_configs(Some(config_list(&created.config, &created.overrides))),
            Err(error) => {
                let (code, message) = told(error);
                result
                    .with_error_code(code)
                    .with_error_message(message)
                    .with_num_partitions(-1)
                    .with_replication_factor(-1)
                    .with_configs(None)
            }
        });
    }
    context.reply(&CreateTopicsResponse::default().with_topics(results))
}

struct Created {
    id: uuid::Uuid,
    partitions: i32,
    config: TopicConfig,
    overrides: BTreeMap<String, String>,
}

fn create(broker: &BrokerState, asked: &CreatableTopic, dry_run: bool) -> Result<Created, Refused> {
    let partitions = partition_count(broker, asked)?;
    let overrides: BTreeMap<_, _> = asked
        .configs
        .iter()
        .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())))
        .collect();
    let name = asked.name.0.as_str();
    if dry_run {
        let config = broker
            .topics
            .check_new(name, partitions, &overrides)
            .map_err(refused)?;
        return Ok(Created {
            id: uuid::Uuid::nil(),
            partitions,
            config,
            overrides,
        });
    }
    let id = broker.settings.ids.next_uuid();
    let topic = broker
        .topics
        .create(name, id, partitions, overrides.clone())
        .map_err(refused)?;
    Ok(Created {
        id,
        partitions,
        config: topic.config(),
        overrides,
    })
}

fn partition_count(broker: &BrokerState, asked: &CreatableTopic) -> Result<i32, Refused> {
    if asked.assignments.is_empty() {
        if !matches!(asked.replication_factor, -1 | 1) {
            let message = format!(
                "replication factor {} is not possible: there is one broker",
                asked.replication_factor
            );
            return Err((ResponseError::InvalidReplicationFactor, message));
        }
        return Ok(match asked.num_partitions {
            -1 => broker.settings.default_partitions,
            count => count,
        });
    }
    let mut indexes: Vec<_> = asked
        .assignments
        .iter()
        .map(|a| a.partition_index)
        .collect();
    indexes.sort_unstable();
    let dense = indexes.iter().copied().eq(0..indexes.len() as i32);
    let here = |assignment: &CreatableReplicaAssignment| assignment.broker_ids == [NODE_ID];
    if !dense || !asked.assignments.iter().all(here) {
        let message = format!(
            "every partition from 0 on must be assigned to broker {}",
            NODE_ID.0
        );
        return Err((ResponseError::InvalidReplicaAssignment, message));
    }
    Ok(indexes.len() as i32)
}

fn config_list(
    config: &TopicConfig,
    overrides: &BTreeMap<String, String>,
) -> Vec<CreatableTopicConfigs> {
    let listed = NAMES.iter().map(|(name, _)| {
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(text(config.value(name))))
            .with_config_source(super::configs::source(overrides, name))
    });
    listed.collect()
}

pub(super) async fn delete_topics(context: Context, request: DeleteTopicsRequest) -> Outcome {
    let named = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState::default().with_name(Some(name)));
    let mut responses = Vec::new();
    for asked in request.topics.into_iter().chain(named) {
        responses.push(delete(&context, asked).await);
    }
    context.reply(&DeleteTopicsResponse::default().with_responses(responses))
}

async fn delete(context: &Context, asked: DeleteTopicState) -> DeletableTopicResult {
    let broker = &context.broker;
    let result = DeletableTopicResult::default()
        .with_name(asked.name.clone())
        .with_topic_id(asked.topic_id);
    let topic = match &asked.name {
        Some(name) => broker.topics.by_name(&name.0),
        None => broker.topics.by_id(asked.topic_id),
    };
    let Some(topic) = topic else {
        let error = match asked.name {
            Some(_) => ResponseError::UnknownTopicOrPartition,
            None => ResponseError::UnknownTopicId,
        };
        return result.with_error_code(error.code());
    };
    let result = result
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(topic.id);
    let (topics, name) = (Arc::clone(&broker.topics), topic.name.clone());
    let deleted = blocking(move || topics.delete(&name).map_err(refused)).await;
    if let Err(error) = deleted.unwrap_or_else(|| Err(lost())) {
        let (code, message) = told(error);
        return result.with_error_code(code).with_error_message(message);
    }
    // A topic of the same name must not inherit positions; if this fails, they are out of range.
    let offsets = broker.coordinator.offsets();
    if !offsets.apply(offsets.forget_topic(&topic.name)).await {
        tracing::warn!(
            topic = topic.name,
            "committed offsets of a deleted topic are still there"
        );
    }
    result
}

pub(super) async fn create_partitions(
    context: Context,
    request: CreatePartitionsRequest,
) -> Outcome {
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let name = asked.name.clone();
        let broker = Arc::clone(&context.broker);
        let dry_run = request.validate_only;
        let grown = blocking(move || grow(&broker, &asked, dry_run)).await;
        let result = CreatePartitionsTopicResult::default().with_name(name);
        results.push(match grown.unwrap_or_else(|| Err(lost())) {
            Ok(()) => result,
            Err(error) => {
                let (code, message) = told(error);
                result.with_error_code(code).with_error_message(message)
            }
        });
    }
    context.reply(&CreatePartitionsResponse::default().with_results(results))
}

fn grow(broker: &BrokerState, asked: &CreatePartitionsTopic, dry_run: bool) -> Result<(), Refused> {
    let assignments = asked.assignments.as_deref().unwrap_or_default();
    if !assignments
        .iter()
        .all(|assignment| assignment.broker_ids == [NODE_ID])
    {
        let message = format!("every partition must be assigned to broker {}", NODE_ID.0);
        return Err((ResponseError::InvalidReplicaAssignment, message));
    }
    broker
        .topics
        .grow(&asked.name.0, asked.count, dry_run)
        .map_err(refused)
}
