//! The administrative requests that Tidelake makes: topics and their offsets.

#![expect(
    unsafe_code,
    reason = "describe-topics and list-offsets exist in the C API only"
)]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr as RespErr};
use tidelake_core::{Bucket, Offset, TopicId};

use crate::ends::Ends;
use crate::native::{Client, PartitionList, c_string, describe, text_of};
use crate::producer::setting_error;
use crate::{KafkaSettings, LogError, TopicBucket};

/// A topic to create.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub buckets: u32,
    /// `None`: the broker's default; negative: for ever.
    pub retention_ms: Option<i64>,
    /// More topic settings.
    pub config: BTreeMap<String, String>,
}

/// Whether it was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicCreated {
    Created,
    Exists,
}

/// What a topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInfo {
    pub id: TopicId,
    pub buckets: u32,
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at something that is about to change.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Attempts at a request that meets a broker whose leadership has just moved.
const LEADER_ATTEMPTS_MAX: u32 = 20;

/// A shared administrative client.
#[derive(Clone)]
pub struct Admin {
    admin: Arc<AdminClient<DefaultClientContext>>,
    client: Arc<Client>,
    ends: Option<Arc<Ends>>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

impl Admin {
    /// Opens a client; nothing is contacted yet.
    pub fn new(kafka: &KafkaSettings) -> Result<Self, LogError> {
        let properties = kafka.properties(&[], &[]);
        let mut config = ClientConfig::new();
        for (name, value) in &properties {
            config.set(name, value);
        }
        let admin = config.create().map_err(|error| setting_error(&error))?;
        let mut properties = properties;
        properties.insert("group.id".into(), "tidelake-admin".into());
        let client = Client::consumer(&properties)?;
        Ok(Self {
            admin: Arc::new(admin),
            client,
            ends: Ends::new(kafka).map(Arc::new),
        })
    }

    /// Creates a topic whose settings suit a log of Tidelake: producers' own compression, messages up
    /// to [`tidelake_core::limits::MESSAGE_BYTES_MAX`].
    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<TopicCreated, LogError> {
        let mut config = spec.config.clone();
        config
            .entry("compression.type".into())
            .or_insert_with(|| "producer".into());
        // The limit counts the record batch around the message too.
        let largest = tidelake_core::limits::MESSAGE_BYTES_MAX + 64 * 1024;
        config
            .entry("max.message.bytes".into())
            .or_insert_with(|| largest.to_string());
        if let Some(retention) = spec.retention_ms {
            config.insert("retention.ms".into(), retention.to_string());
        }
        let buckets = i32::try_from(spec.buckets).unwrap_or(i32::MAX);
        // -1: the broker's default.replication.factor.
        let mut topic = NewTopic::new(&spec.name, buckets, TopicReplication::Fixed(-1));
        for (name, value) in &config {
            topic = topic.set(name, value);
        }
        let results = self
            .admin
            .create_topics([&topic], &options())
            .await
            .map_err(|error| LogError::unavailable(format!("create topic {}", spec.name), error))?;
        let created = match results.into_iter().next() {
            Some(Ok(_)) => TopicCreated::Created,
            Some(Err((_, Code::TopicAlreadyExists))) => TopicCreated::Exists,
            Some(Err((name, code))) => return Err(topic_error("create topic", &name, code)),
            None => return Err(LogError::Client("create topics: empty answer".into())),
        };
        self.wait_described(&spec.name).await?;
        Ok(created)
    }

    /// A controller answers before every broker knows the topic.
    async fn wait_described(&self, name: &str) -> Result<(), LogError> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let begun = Instant::now();
        while self.describe(name).await?.is_none() {
            if begun.elapsed() > REQUEST_TIMEOUT {
                return Err(LogError::unavailable(
                    format!("create topic {name}"),
                    "created, but not known to the brokers yet",
                ));
            }
            looks.tick().await;
        }
        Ok(())
    }

    /// Deletes a topic; one that is not there is fine.
    pub async fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        let results = self
            .admin
            .delete_topics(&[name], &options())
            .await
            .map_err(|error| LogError::unavailable(format!("delete topic {name}"), error))?;
        match results.into_iter().next() {
            Some(Ok(_))
            | Some(Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)))
            | None => Ok(()),
            Some(Err((name, code))) => Err(topic_error("delete topic", &name, code)),
        }
    }

    /// Id and bucket count; `None` where there is no such topic.
    pub async fn describe(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        let name = name.to_owned();
        self.blocking(move |client| describe_topic(client, &name))
            .await
    }

    /// Names of all topics.
    pub async fn list_topics(&self) -> Result<Vec<String>, LogError> {
        let admin = self.admin.clone();
        tokio::task::spawn_blocking(move || {
            let metadata = admin
                .inner()
                .fetch_metadata(None, REQUEST_TIMEOUT)
                .map_err(|error| LogError::unavailable("list topics", error))?;
            Ok(metadata
                .topics()
                .iter()
                .map(|topic| topic.name().to_owned())
                .collect())
        })
        .await
        .map_err(|error| LogError::Client(error.to_string()))?
    }

    /// The next offset that each bucket will give out.
    pub async fn end_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        if let Some(ends) = &self.ends
            && let Some(found) = ends.of(topic, buckets).await
        {
            return Ok(found);
        }
        self.offsets_at(topic, buckets, Spec::Latest).await
    }

    /// The first offset that each bucket still has.
    pub async fn start_offsets(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        self.offsets_at(topic, buckets, Spec::Earliest).await
    }

    /// `Ok` where the log answers.
    pub async fn alive(&self) -> Result<(), LogError> {
        self.list_topics().await.map(|_| ())
    }

    async fn offsets_at(
        &self,
        topic: &str,
        buckets: &[Bucket],
        spec: Spec,
    ) -> Result<Vec<(Bucket, Offset)>, LogError> {
        if buckets.is_empty() {
            return Ok(Vec::new());
        }
        let what = format!("offsets of {topic}");
        let topic: Arc<str> = Arc::from(topic);
        let wanted: Vec<_> = buckets
            .iter()
            .map(|&bucket| {
                (
                    TopicBucket {
                        topic: topic.clone(),
                        bucket,
                    },
                    Offset(spec as i64),
                )
            })
            .collect();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut attempt = 1;
        loop {
            let (topic, wanted) = (topic.clone(), wanted.clone());
            let listed = self
                .blocking(move |client| list_offsets(client, &topic, &wanted))
                .await?;
            match listed {
                Listed::Offsets(offsets) => return Ok(offsets),
                Listed::LeaderMoved(why) if attempt >= LEADER_ATTEMPTS_MAX => {
                    return Err(LogError::unavailable(what, why));
                }
                Listed::LeaderMoved(_) => _ = looks.tick().await,
            }
            attempt += 1;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Client) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let client = self.client.clone();
        tokio::task::spawn_blocking(move || work(&client))
            .await
            .map_err(|error| LogError::Client(error.to_string()))?
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT))
}

fn topic_error(what: &str, topic: &str, code: Code) -> LogError {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => LogError::NoTopic(topic.to_owned()),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            LogError::Denied(format!("{what} {topic}"))
        }
        Code::InvalidConfig | Code::InvalidPartitions | Code::InvalidReplicationFactor => {
            LogError::Setting {
                name: topic.to_owned(),
                reason: code.to_string(),
            }
        }
        code => LogError::unavailable(format!("{what} {topic}"), code),
    }
}

/// librdkafka's `RD_KAFKA_OFFSET_SPEC_*`.
#[derive(Clone, Copy)]
enum Spec {
    Latest = -1,
    Earliest = -2,
}

/// A request on its way: options, a queue for the answer, the answer itself.
struct Request {
    options: *mut rd::rd_kafka_AdminOptions_t,
    queue: *mut rd::rd_kafka_queue_t,
    event: *mut rd::rd_kafka_event_t,
}

impl Request {
    fn new(client: &Client, kind: rd::rd_kafka_admin_op_t) -> Self {
        let timeout = c_int::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(c_int::MAX);
        let mut text = [0 as c_char; 256];
        // SAFETY: valid handle; freed on drop.
        unsafe {
            let options = rd::rd_kafka_AdminOptions_new(client.handle(), kind);
            rd::rd_kafka_AdminOptions_set_request_timeout(
                options,
                timeout,
                text.as_mut_ptr(),
                text.len(),
            );
            let queue = rd::rd_kafka_queue_new(client.handle());
            Self {
                options,
                queue,
                event: ptr::null_mut(),
            }
        }
    }

    /// Waits for the answer.
    fn wait(&mut self, what: &str) -> Result<(), LogError> {
        let timeout = c_int::try_from(REQUEST_TIMEOUT.as_millis() + 1000).unwrap_or(c_int::MAX);
        // SAFETY: own queue; the event is freed on drop.
        unsafe {
            self.event = rd::rd_kafka_queue_poll(self.queue, timeout);
            if self.event.is_null() {
                return Err(LogError::unavailable(what, "no answer in time"));
            }
            let code = rd::rd_kafka_event_error(self.event);
            if code != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let text = text_of(rd::rd_kafka_event_error_string(self.event));
                return Err(LogError::unavailable(what, text));
            }
        }
        Ok(())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: owned, in the order that librdkafka asks for.
        unsafe {
            if !self.event.is_null() {
                rd::rd_kafka_event_destroy(self.event);
            }
            rd::rd_kafka_queue_destroy(self.queue);
            rd::rd_kafka_AdminOptions_destroy(self.options);
        }
    }
}

fn describe_topic(client: &Client, name: &str) -> Result<Option<TopicInfo>, LogError> {
    let what = format!("describe topic {name}");
    let c_name = c_string("topic", name)?;
    let mut request = Request::new(
        client,
        rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
    );
    // SAFETY: pointers are valid for the calls; everything that the answer points to lives as long as
    // the event, which `request` holds.
    unsafe {
        let mut names = [c_name.as_ptr()];
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        rd::rd_kafka_DescribeTopics(client.handle(), topics, request.options, request.queue);
        rd::rd_kafka_TopicCollection_destroy(topics);
        request.wait(&what)?;
        let result = rd::rd_kafka_event_DescribeTopics_result(request.event);
        let mut count = 0;
        let descriptions = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count == 0 {
            return Ok(None);
        }
        let description = *descriptions;
        let error = rd::rd_kafka_TopicDescription_error(description);
        match rd::rd_kafka_error_code(error) {
            RespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC => return Ok(None),
            RespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => {
                return Err(LogError::Denied(what));
            }
            code => return Err(LogError::unavailable(what, describe(code))),
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(description);
        let high = rd::rd_kafka_Uuid_most_significant_bits(id).to_be_bytes();
        let low = rd::rd_kafka_Uuid_least_significant_bits(id).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high);
        bytes[8..].copy_from_slice(&low);
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        let buckets = u32::try_from(partitions).unwrap_or(u32::MAX);
        Ok(Some(TopicInfo {
            id: TopicId(bytes),
            buckets,
        }))
    }
}

/// The answer to a request for offsets.
enum Listed {
    Offsets(Vec<(Bucket, Offset)>),
    /// What the client knew of the leaders is out of date; it knows better now.
    LeaderMoved(String),
}

fn list_offsets(
    client: &Client,
    topic: &str,
    wanted: &[(TopicBucket, Offset)],
) -> Result<Listed, LogError> {
    let what = format!("offsets of {topic}");
    let list = PartitionList::of(wanted)?;
    let mut request = Request::new(
        client,
        rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
    );
    // SAFETY: as in `describe_topic`.
    unsafe {
        rd::rd_kafka_ListOffsets(client.handle(), list.0, request.options, request.queue);
        request.wait(&what)?;
        let result = rd::rd_kafka_event_ListOffsets_result(request.event);
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        let mut offsets = Vec::with_capacity(count);
        for index in 0..count {
            let entry = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            match entry.err {
                RespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => {
                    return Err(LogError::NoTopic(topic.to_owned()));
                }
                code @ (RespErr::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH
                | RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH
                | RespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                | RespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION) => {
                    refresh_metadata(client);
                    return Ok(Listed::LeaderMoved(describe(code)));
                }
                code => return Err(LogError::unavailable(what, describe(code))),
            }
            let bucket = Bucket(u32::try_from(entry.partition).unwrap_or(u32::MAX));
            offsets.push((bucket, Offset(entry.offset)));
        }
        offsets.sort_unstable_by_key(|(bucket, _)| *bucket);
        Ok(Listed::Offsets(offsets))
    }
}

/// Asks for all topics' metadata, which renews the client's cache of leaders.
fn refresh_metadata(client: &Client) {
    let timeout = c_int::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(c_int::MAX);
    let mut metadata: *const rd::rd_kafka_metadata = ptr::null();
    // SAFETY: valid handle; what is given back is ours to free.
    unsafe {
        let code = rd::rd_kafka_metadata(
            client.handle(),
            1,
            ptr::null_mut(),
            &raw mut metadata,
            timeout,
        );
        if code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            rd::rd_kafka_metadata_destroy(metadata);
        }
    }
}
