//! ApiVersions, Metadata, DescribeCluster: what there is, and where.

use std::collections::HashSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, DescribeClusterRequest, DescribeClusterResponse,
    MetadataRequest, MetadataResponse, TopicName,
};

use crate::batch::LEADER_EPOCH;
use crate::state::NODE_ID;
use crate::topics::Topic;

use super::supported::SUPPORTED;
use super::{Context, Outcome, text};

pub(super) async fn api_versions(context: Context, _request: ApiVersionsRequest) -> Outcome {
    context.reply(&api_versions_response())
}

/// For clients newer than this broker: they try again with a version that they find here.
pub(super) fn unsupported_api_versions(context: &Context) -> Outcome {
    let error = ResponseError::UnsupportedVersion.code();
    context.reply(&api_versions_response().with_error_code(error))
}

fn api_versions_response() -> ApiVersionsResponse {
    let apis = SUPPORTED.iter().map(|(api, min, max)| {
        ApiVersion::default()
            .with_api_key(*api as i16)
            .with_min_version(*min)
            .with_max_version(*max)
    });
    ApiVersionsResponse::default().with_api_keys(apis.collect())
}

pub(super) async fn metadata(context: Context, request: MetadataRequest) -> Outcome {
    let broker = &context.broker;
    let everything = match &request.topics {
        None => true,
        // Version 0 has no null.
        Some(topics) => topics.is_empty() && context.version == 0,
    };
    let topics = if everything {
        broker
            .topics
            .all()
            .iter()
            .map(|topic| describe(topic))
            .collect()
    } else {
        // What is repeated is answered once: a few bytes must not cause a topic's whole description
        // over and over.
        let mut seen = HashSet::new();
        let asked = request.topics.unwrap_or_default();
        asked
            .into_iter()
            .filter(|asked| seen.insert((asked.name.clone(), asked.topic_id)))
            .map(|asked| find(&context, asked))
            .collect()
    };
    let node = MetadataResponseBroker::default()
        .with_node_id(NODE_ID)
        .with_host(broker.host())
        .with_port(broker.port());
    context.reply(
        &MetadataResponse::default()
            .with_brokers(vec![node])
            .with_cluster_id(Some(text(broker.identity.cluster_id())))
            .with_controller_id(NODE_ID)
            .with_topics(topics),
    )
}

fn find(context: &Context, asked: MetadataRequestTopic) -> MetadataResponseTopic {
    let topics = &context.broker.topics;
    match asked.name {
        Some(name) => match topics.by_name(&name.0) {
            Some(topic) => describe(&topic),
            None => MetadataResponseTopic::default()
                .with_error_code(ResponseError::UnknownTopicOrPartition.code())
                .with_name(Some(name)),
        },
        None => match topics.by_id(asked.topic_id) {
            Some(topic) => describe(&topic),
            None => MetadataResponseTopic::default()
                .with_error_code(ResponseError::UnknownTopicId.code())
                // Before version 12 the name could not be null.
                .with_name((context.version < 12).then(TopicName::default))
                .with_topic_id(asked.topic_id),
        },
    }
}

fn describe(topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partition_count()).map(|index| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(NODE_ID)
            .with_leader_epoch(LEADER_EPOCH)
            .with_replica_nodes(vec![NODE_ID])
            .with_isr_nodes(vec![NODE_ID])
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_partitions(partitions.collect())
}

pub(super) async fn describe_cluster(context: Context, request: DescribeClusterRequest) -> Outcome {
    let broker = &context.broker;
    let response = DescribeClusterResponse::default();
    if context.version >= 1 && request.endpoint_type != 1 {
        let error = ResponseError::UnsupportedEndpointType;
        return context.reply(&response.with_error_code(error.code()));
    }
    let node = DescribeClusterBroker::default()
        .with_broker_id(NODE_ID)
        .with_host(broker.host())
        .with_port(broker.port());
    let endpoint_type = if context.version >= 1 {
        request.endpoint_type
    } else {
        1
    };
    context.reply(
        &response
            .with_endpoint_type(endpoint_type)
            .with_cluster_id(text(broker.identity.cluster_id()))
            .with_controller_id(NODE_ID)
            .with_brokers(vec![node]),
    )
}
