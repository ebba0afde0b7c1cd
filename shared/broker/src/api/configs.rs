//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: settings of topics; the broker's own are
//! shown, not changed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_response,
    incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;

use crate::state::{BrokerState, NODE_ID};
use crate::topic_config::{ConfigType, NAMES};

use super::topics::{Refused, refused, told};
use super::{Context, Outcome, blocking, text};

/// Kafka's numbers of resource types.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Kafka's numbers for where a value comes from.
const FROM_TOPIC: i8 = 1;
const FROM_BROKER: i8 = 4;
const FROM_DEFAULT: i8 = 5;
/// Kafka's numbers of incremental changes.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Where the value of a topic's setting comes from.
pub(super) fn source(overrides: &BTreeMap<String, String>, name: &str) -> i8 {
    if overrides.contains_key(name) {
        FROM_TOPIC
    } else {
        FROM_DEFAULT
    }
}

pub(super) async fn describe_configs(context: Context, request: DescribeConfigsRequest) -> Outcome {
    let mut seen = HashSet::new();
    let once = |resource: &&DescribeConfigsResource| {
        seen.insert((resource.resource_type, resource.resource_name.clone()))
    };
    let results = request.resources.iter().filter(once).map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe(&context.broker, resource) {
            Ok(configs) => result.with_configs(configs).with_error_message(None),
            Err(error) => {
                let (code, message) = told(error);
                result.with_error_code(code).with_error_message(message)
            }
        }
    });
    let results = results.collect();
    context.reply(&DescribeConfigsResponse::default().with_results(results))
}

fn describe(
    broker: &BrokerState,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let wanted = |name: &str| match &resource.configuration_keys {
        None => true,
        Some(keys) => keys.is_empty() || keys.iter().any(|key| key.as_str() == name),
    };
    match resource.resource_type {
        TOPIC => {
            let name = resource.resource_name.as_str();
            let topic = broker
                .topics
                .by_name(name)
                .ok_or_else(|| unknown_topic(name))?;
            let (config, overrides) = (topic.config(), topic.overrides());
            let entries = NAMES
                .iter()
                .filter(|(name, _)| wanted(name))
                .map(|(name, kind)| {
                    entry(name, config.value(name), source(&overrides, name), *kind)
                });
            Ok(entries.collect())
        }
        BROKER => {
            let name = resource.resource_name.as_str();
            if !name.is_empty() && name != NODE_ID.0.to_string() {
                let message = format!("there is one broker, {}", NODE_ID.0);
                return Err((ResponseError::InvalidRequest, message));
            }
            let entries = broker_settings(broker)
                .into_iter()
                .filter(|(name, ..)| wanted(name));
            let entries = entries.map(|(name, value, kind)| {
                entry(name, value, FROM_BROKER, kind).with_read_only(true)
            });
            Ok(entries.collect())
        }
        _ => Err(unsupported()),
    }
}

fn unknown_topic(name: &str) -> Refused {
    (
        ResponseError::UnknownTopicOrPartition,
        format!("topic {name:?} does not exist"),
    )
}

fn unsupported() -> Refused {
    let message = "only settings of topics (and, to read, of the broker) are served";
    (ResponseError::InvalidRequest, message.to_owned())
}

fn broker_settings(broker: &BrokerState) -> Vec<(&'static str, String, ConfigType)> {
    let settings = &broker.settings;
    let retention = settings.default_retention_ms.unwrap_or(-1);
    vec![
        ("log.retention.ms", retention.to_string(), ConfigType::Long),
        (
            "log.segment.bytes",
            settings.segment_bytes_max.to_string(),
            ConfigType::Int,
        ),
        (
            "message.max.bytes",
            settings.message_bytes_max.to_string(),
            ConfigType::Int,
        ),
        (
            "num.partitions",
            settings.default_partitions.to_string(),
            ConfigType::Int,
        ),
        (
            "socket.request.max.bytes",
            settings.request_bytes_max.to_string(),
            ConfigType::Int,
        ),
        (
            "auto.create.topics.enable",
            "false".to_owned(),
            ConfigType::Text,
        ),
    ]
}

fn entry(
    name: &'static str,
    value: String,
    source: i8,
    kind: ConfigType,
) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(name))
        .with_value(Some(text(value)))
        .with_config_source(source)
        .with_config_type(kind.code())
        .with_documentation(None)
}

/// What one resource's settings are to become.
enum Change {
    Replace(BTreeMap<String, String>),
    Each(Vec<(String, Option<String>)>),
}

async fn change(
    context: &Context,
    resource_type: i8,
    name: &StrBytes,
    dry_run: bool,
    change: Result<Change, Refused>,
) -> Result<(), Refused> {
    let change = change?;
    if resource_type != TOPIC {
        return Err(unsupported());
    }
    let topics = Arc::clone(&context.broker.topics);
    let name = name.to_string();
    let done = blocking(move || {
        topics.configure(&name, dry_run, |overrides| match change {
            Change::Replace(new) => *overrides = new,
            Change::Each(changes) => {
                for (name, value) in changes {
                    match value {
                        Some(value) => _ = overrides.insert(name, value),
                        None => _ = overrides.remove(&name),
                    }
                }
            }
        })
    });
    let lost = || {
        (
            ResponseError::KafkaStorageError,
            "the broker is stopping".to_owned(),
        )
    };
    done.await
        .map_or_else(|| Err(lost()), |done| done.map_err(refused))
}

pub(super) async fn alter_configs(context: Context, request: AlterConfigsRequest) -> Outcome {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let configs = resource.configs.iter().filter_map(|config| {
            Some((config.name.to_string(), config.value.as_ref()?.to_string()))
        });
        let new = Ok(Change::Replace(configs.collect()));
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let done = change(&context, kind, &name, request.validate_only, new).await;
        let (code, message) = done.map_or_else(told, |()| (0, None));
        responses.push(
            alter_configs_response::AlterConfigsResourceResponse::default()
                .with_resource_type(kind)
                .with_resource_name(name)
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    context.reply(&AlterConfigsResponse::default().with_responses(responses))
}

pub(super) async fn incremental_alter_configs(
    context: Context,
    request: IncrementalAlterConfigsRequest,
) -> Outcome {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let changes = resource.configs.iter().map(|config| {
            let name = config.name.to_string();
            match (config.config_operation, &config.value) {
                (SET, Some(value)) => Ok((name, Some(value.to_string()))),
                (DELETE, _) => Ok((name, None)),
                _ => {
                    let message = format!("setting {name:?} can only be set or deleted");
                    Err((ResponseError::InvalidConfig, message))
                }
            }
        });
        let new = changes.collect::<Result<Vec<_>, _>>().map(Change::Each);
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let done = change(&context, kind, &name, request.validate_only, new).await;
        let (code, message) = done.map_or_else(told, |()| (0, None));
        responses.push(
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_resource_type(kind)
                .with_resource_name(name)
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    context.reply(&IncrementalAlterConfigsResponse::default().with_responses(responses))
}
