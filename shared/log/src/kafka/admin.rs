//! The administrative requests that Tidelake makes: topics and their offsets.

#![expect(unsafe_code, reason = "asks for metadata through the C API")]

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr as RespErr};
use tidelake_core::{Bucket, Offset};

use super::ends::Ends;
use super::native::{Client, describe};
use super::producer::setting_error;
use super::request::{
    Listed, REQUEST_TIMEOUT, Spec, describe_cluster, describe_topics, list_offsets,
};
use super::time;
use crate::{KafkaSettings, LogError, TopicBucket, TopicCreated, TopicInfo, TopicSpec};

/// Between two looks at something that is about to change.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Attempts at a request that meets a broker whose leadership has just moved.
const LEADER_ATTEMPTS_MAX: u32 = 20;
/// Looks at a topic that the controller may not be asked about.
const UNSURE_LOOKS: u32 = 4;

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

    /// Creates a topic whose settings suit a log of Tidelake: producers' own compression, messages
    /// up to [`tidelake_core::limits::MESSAGE_BYTES_MAX`], nothing compacted away, whatever the
    /// brokers' defaults are.
    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<TopicCreated, LogError> {
        let mut config = spec.config.clone();
        config
            .entry("compression.type".into())
            .or_insert_with(|| "producer".into());
        config
            .entry("cleanup.policy".into())
            .or_insert_with(|| "delete".into());
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
        let begun = time::now();
        while self.look(name).await?.is_none() {
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

    /// Id and bucket count; `None` where there is no such topic. Any broker may be asked what a
    /// topic is, but one that has just started, or lags behind, knows less than there is: that
    /// there is none, only the controller can say.
    pub async fn describe(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        for attempt in 1..=LEADER_ATTEMPTS_MAX {
            looks.tick().await;
            let found = self.look(name).await?;
            if found.is_some() {
                return Ok(found);
            }
            if let Some(concluded) = conclude(name, self.controller_has(name).await?, attempt) {
                return concluded.map(|()| None);
            }
        }
        Err(LogError::unavailable(
            format!("describe topic {name}"),
            "the controller has it, but the brokers do not know it yet",
        ))
    }

    /// What one broker knows of a topic.
    async fn look(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        let name = name.to_owned();
        self.blocking(move |client| {
            let mut described = describe_topics(client, &[&name])?.wait()?;
            described.remove(&name).unwrap_or(Ok(None))
        })
        .await
    }

    /// Asks the controller by way of a creation that is only tried: it alone can say that a topic
    /// is not there. `None` where it does not let us ask.
    async fn controller_has(&self, name: &str) -> Result<Option<bool>, LogError> {
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(-1));
        let options = options().validate_only(true);
        let what = || format!("look for topic {name}");
        let results = self
            .admin
            .create_topics([&topic], &options)
            .await
            .map_err(|error| LogError::unavailable(what(), error))?;
        match results.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(Some(true)),
            Some(Err((_, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed))) => {
                Ok(None)
            }
            Some(Err((
                _,
                code @ (Code::RequestTimedOut
                | Code::OperationTimedOut
                | Code::NotController
                | Code::ThrottlingQuotaExceeded),
            ))) => Err(LogError::unavailable(what(), code)),
            // It could be created, or could not for another reason than that it is there.
            Some(Ok(_) | Err(_)) => Ok(Some(false)),
            None => Ok(None),
        }
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

    /// `Ok` where the log answers: asks for the brokers only, never for topics.
    pub async fn alive(&self) -> Result<(), LogError> {
        self.cluster_id().await.map(|_| ())
    }

    /// What the cluster calls itself.
    pub async fn cluster_id(&self) -> Result<String, LogError> {
        self.blocking(|client| describe_cluster(client).wait())
            .await
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
        let name: Arc<str> = Arc::from(topic);
        let of = |&bucket| {
            let topic = name.clone();
            TopicBucket { topic, bucket }
        };
        let wanted: Vec<_> = buckets.iter().map(of).collect();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut attempt = 1;
        loop {
            let wanted = wanted.clone();
            let listed = self
                .blocking(move |client| list_offsets(client, &wanted, spec)?.wait())
                .await?;
            let moved = match sorted(topic, listed) {
                Ok(offsets) => return Ok(offsets),
                Err(Unlisted::Fails(error)) => return Err(error),
                // The client's knowledge is out of date, or that of the broker which it asked.
                Err(Unlisted::Moved(code)) => code,
            };
            if moved == RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                && self.describe(topic).await?.is_none()
            {
                return Err(LogError::NoTopic(topic.to_owned()));
            }
            if attempt >= LEADER_ATTEMPTS_MAX {
                return Err(LogError::unavailable(what, describe(moved)));
            }
            self.blocking(|client| {
                refresh_metadata(client);
                Ok(())
            })
            .await?;
            looks.tick().await;
            attempt += 1;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Client>) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let client = self.client.clone();
        tokio::task::spawn_blocking(move || work(&client))
            .await
            .map_err(|error| LogError::Client(error.to_string()))?
    }
}

/// What follows once the brokers know nothing of a topic; none where another look is worth it. A
/// broker that has just started knows nothing of any, so its word alone would have a topic pass for
/// deleted that is there.
fn conclude(
    name: &str,
    controller_has: Option<bool>,
    attempt: u32,
) -> Option<Result<(), LogError>> {
    match controller_has {
        Some(false) => Some(Ok(())),
        None if attempt >= UNSURE_LOOKS => Some(Err(LogError::unavailable(
            format!("describe topic {name}"),
            "the brokers do not know it, and the controller, which alone can say that it is not \
             there, does not let this user ask: allow Create on the topic, or make the topic",
        ))),
        Some(true) | None => None,
    }
}

/// Why offsets are not there.
enum Unlisted {
    /// What was known of the leaders is out of date.
    Moved(RespErr),
    Fails(LogError),
}

fn sorted(topic: &str, listed: Listed) -> Result<Vec<(Bucket, Offset)>, Unlisted> {
    let mut offsets = Vec::with_capacity(listed.len());
    for (at, offset) in listed {
        match offset {
            Ok(offset) => offsets.push((at.bucket, offset)),
            Err(
                RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
            ) => {
                let code = RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
                return Err(Unlisted::Moved(code));
            }
            Err(
                code @ (RespErr::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH
                | RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH
                | RespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                | RespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION
                | RespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE),
            ) => return Err(Unlisted::Moved(code)),
            Err(code) => {
                let what = format!("offsets of {topic}");
                return Err(Unlisted::Fails(LogError::unavailable(what, describe(code))));
            }
        }
    }
    offsets.sort_unstable_by_key(|(bucket, _)| *bucket);
    Ok(offsets)
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

#[cfg(test)]
mod tests {
    use tidelake_core::ErrorKind;

    use super::*;

    #[test]
    fn only_the_controller_says_that_a_topic_is_not_there() {
        assert!(matches!(conclude("t", Some(false), 1), Some(Ok(()))));
        for attempt in 1..=LEADER_ATTEMPTS_MAX {
            assert!(conclude("t", Some(true), attempt).is_none());
            // Whoever may not ask it waits a little, and then does not know.
            match conclude("t", None, attempt) {
                None => assert!(attempt < UNSURE_LOOKS),
                Some(told) => {
                    let error = told.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    assert!(error.to_string().contains("allow Create"), "{error}");
                }
            }
        }
    }
}
