//! The ends of a topic's buckets over connections of our own: a short cut.
//!
//! Every fresh read asks for them. librdkafka's way there and back passes a blocking thread, its
//! main thread and a broker's thread, twice; here it is one frame on a socket of the async runtime.
//!
//! Owns no promise: whatever does not go as planned (TLS or SASL, a leader that moved, a broker
//! that is away) gives `None`, and the caller asks librdkafka, which knows how to wait and retry.
//! An answer is always to a request that was sent after the call began.

mod wire;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use tidelake_core::{Bucket, Offset};

use super::time::{self, Instant};
use crate::KafkaSettings;
use wire::Connection;

/// Since Kafka 2.1; both tell and check leader epochs.
const METADATA_VERSION: i16 = 7;
const LIST_OFFSETS_VERSION: i16 = 4;
/// Kafka's name for: not beyond the first record of a transaction that is open.
const READ_COMMITTED: i8 = 1;
/// Kafka's name for the end of a log.
const LATEST: i64 = -1;
/// For one call, connecting included.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a broker could not be reached.
const PAUSE: Duration = Duration::from_secs(1);
/// Open connections kept for each broker.
const IDLE_MAX: usize = 4;
/// Topics whose leaders are remembered.
const TOPICS_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ends {
    bootstrap: Vec<Arc<str>>,
    client_id: StrBytes,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    topics: HashMap<String, Arc<Leaders>>,
    /// By address.
    idle: HashMap<Arc<str>, Vec<Connection>>,
    /// Not tried before.
    broken_until: Option<Instant>,
}

/// Where a topic's buckets are led.
#[derive(Debug)]
struct Leaders {
    addresses: BTreeMap<BrokerId, Arc<str>>,
    /// Broker and epoch, by bucket.
    buckets: BTreeMap<Bucket, (BrokerId, i32)>,
}

impl Ends {
    /// `None` where connections need more than a socket.
    pub(crate) fn new(kafka: &KafkaSettings) -> Option<Self> {
        let secured = kafka.properties.iter().any(|(name, value)| {
            name.starts_with("sasl.")
                || name.starts_with("ssl.")
                || (name == "security.protocol" && !value.eq_ignore_ascii_case("plaintext"))
        });
        if secured {
            return None;
        }
        let addresses = kafka.bootstrap.split(',').map(str::trim);
        // librdkafka also takes `PLAINTEXT://host:port`, and hosts alone.
        let addresses = addresses.map(|address| {
            let address = address
                .split_once("://")
                .map_or(address, |(_, address)| address);
            match address.contains(':') {
                true => Arc::from(address),
                false => Arc::from(format!("{address}:9092")),
            }
        });
        Some(Self {
            bootstrap: addresses.collect(),
            client_id: StrBytes::from_string(kafka.client_id.clone()),
            known: Mutex::default(),
        })
    }

    /// The next offset of each of the buckets.
    pub(crate) async fn of(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> Option<Vec<(Bucket, Offset)>> {
        let paused = self.known().broken_until;
        if paused.is_some_and(|until| time::now() < until) {
            return None;
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(topic, buckets)).await;
        match asked.unwrap_or_else(|late| Err(late.into())) {
            Ok(Some(ends)) => Some(ends),
            Ok(None) => {
                self.known().topics.remove(topic);
                None
            }
            Err(error) => {
                tracing::debug!(topic, %error, "ends are left to librdkafka for a while");
                let mut known = self.known();
                known.broken_until = Some(time::now() + PAUSE);
                known.topics.clear();
                known.idle.clear();
                None
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nobody panics while holding it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where what is known of the leaders does not hold.
    async fn ask(
        &self,
        topic: &str,
        buckets: &[Bucket],
    ) -> io::Result<Option<Vec<(Bucket, Offset)>>> {
        let leaders = self.known().topics.get(topic).cloned();
        let leaders = match leaders {
            Some(leaders) => leaders,
            None => match self.leaders(topic).await? {
                Some(leaders) => leaders,
                None => return Ok(None),
            },
        };
        let mut by_broker: BTreeMap<BrokerId, Vec<(Bucket, i32)>> = BTreeMap::new();
        for bucket in buckets {
            let Some((broker, epoch)) = leaders.buckets.get(bucket) else {
                return Ok(None);
            };
            let of_broker = by_broker.entry(*broker).or_default();
            of_broker.push((*bucket, *epoch));
        }
        let asked = by_broker.into_iter().map(|(broker, wanted)| {
            let address = leaders.addresses.get(&broker).cloned();
            async move {
                match address {
                    Some(address) => self.ends_at(address, topic, &wanted).await,
                    None => Ok(None),
                }
            }
        });
        let mut found = BTreeMap::new();
        for ends in try_join_all(asked).await? {
            match ends {
                Some(ends) => found.extend(ends),
                None => return Ok(None),
            }
        }
        let ends = buckets
            .iter()
            .map(|bucket| Some((*bucket, *found.get(bucket)?)));
        Ok(ends.collect())
    }

    async fn leaders(&self, topic: &str) -> io::Result<Option<Arc<Leaders>>> {
        let wanted = MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(false);
        let mut answer = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in &self.bootstrap {
            answer = self.call(address, METADATA_VERSION, &request).await;
            if answer.is_ok() {
                break;
            }
        }
        let answer = answer?;
        let addresses = answer.brokers.iter().map(|broker| {
            let address = format!("{}:{}", broker.host.as_str(), broker.port);
            (broker.node_id, Arc::from(address))
        });
        let Some(found) = answer.topics.first().filter(|found| found.error_code == 0) else {
            return Ok(None);
        };
        let led = |partition: &&_| is_led(partition);
        let buckets = found.partitions.iter().filter(led).map(|partition| {
            let bucket = Bucket(partition.partition_index.unsigned_abs());
            (bucket, (partition.leader_id, partition.leader_epoch))
        });
        let leaders = Arc::new(Leaders {
            addresses: addresses.collect(),
            buckets: buckets.collect(),
        });
        let mut known = self.known();
        if known.topics.len() >= TOPICS_MAX {
            known.topics.clear();
        }
        known.topics.insert(topic.to_owned(), Arc::clone(&leaders));
        Ok(Some(leaders))
    }

    /// `None` where this broker does not lead one of them any more.
    async fn ends_at(
        &self,
        address: Arc<str>,
        topic: &str,
        wanted: &[(Bucket, i32)],
    ) -> io::Result<Option<Vec<(Bucket, Offset)>>> {
        let partitions = wanted.iter().map(|(bucket, epoch)| {
            ListOffsetsPartition::default()
                .with_partition_index(bucket.0.cast_signed())
                .with_current_leader_epoch(*epoch)
                .with_timestamp(LATEST)
        });
        let of_topic = ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(partitions.collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(READ_COMMITTED)
            .with_topics(vec![of_topic]);
        let answer = self.call(&address, LIST_OFFSETS_VERSION, &request).await?;
        let partitions = answer.topics.into_iter().flat_map(|found| found.partitions);
        let ends = partitions.map(|partition| {
            let bucket = Bucket(partition.partition_index.unsigned_abs());
            let sound = partition.error_code == 0 && partition.offset >= 0;
            sound.then_some((bucket, Offset(partition.offset)))
        });
        Ok(ends.collect())
    }

    /// A request on a connection that is open, or on a new one.
    async fn call<R: Request>(
        &self,
        address: &Arc<str>,
        version: i16,
        request: &R,
    ) -> io::Result<R::Response> {
        let idle = self.known().idle.get_mut(address).and_then(Vec::pop);
        if let Some(mut connection) = idle
            // A broker may have closed it meanwhile.
            && let Ok(answer) = connection.call(version, &self.client_id, request).await
        {
            self.keep(address, connection);
            return Ok(answer);
        }
        let mut connection = Connection::open(address).await?;
        let answer = connection.call(version, &self.client_id, request).await?;
        self.keep(address, connection);
        Ok(answer)
    }

    fn keep(&self, address: &Arc<str>, connection: Connection) {
        let mut known = self.known();
        let idle = known.idle.entry(Arc::clone(address)).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

fn is_led(
    partition: &kafka_protocol::messages::metadata_response::MetadataResponsePartition,
) -> bool {
    partition.error_code == 0 && partition.partition_index >= 0 && partition.leader_id.0 >= 0
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

#[cfg(test)]
mod tests;
