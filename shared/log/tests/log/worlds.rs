//! What happens to each log from outside of its seams.

use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tidelake_core::Offset;
use tidelake_log::conformance::changes::World;
use tidelake_log::memory::MemoryLog;
use tidelake_log::{LogClient, LogError, TopicBucket, TopicSpec};

const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct InMemory(pub(crate) MemoryLog);

#[async_trait]
impl World for InMemory {
    async fn forget_before(&self, at: &TopicBucket, offset: Offset) -> Result<(), LogError> {
        self.0.cut_before(at, offset);
        Ok(())
    }

    async fn add_buckets(&self, topic: &str, buckets: u32) -> Result<(), LogError> {
        let now = self.0.admin().describe(topic).await?;
        self.0.add_buckets(topic, buckets - now.unwrap().buckets);
        Ok(())
    }

    async fn leave_offsets_empty(&self, at: &TopicBucket) -> Result<bool, LogError> {
        self.0.skip_offsets(at, 4);
        Ok(true)
    }
}

/// What speaks Kafka's protocol, by the client that everybody uses.
#[derive(Debug)]
pub(crate) struct Brokers {
    bootstrap: String,
    is_embedded: bool,
}

impl Brokers {
    pub(crate) fn embedded(bootstrap: String) -> Self {
        Self {
            bootstrap,
            is_embedded: true,
        }
    }

    pub(crate) fn apache_kafka(bootstrap: String) -> Self {
        Self {
            bootstrap,
            is_embedded: false,
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(WAIT_MAX))
}

#[async_trait]
impl World for Brokers {
    /// The embedded broker deletes no records on request, but whole segments by their size.
    fn short_lived(&self, name: &str) -> TopicSpec {
        let config = match self.is_embedded {
            true => [("segment.bytes", "1024"), ("retention.bytes", "9000")].as_slice(),
            false => &[],
        };
        let pairs = config.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        TopicSpec {
            name: name.into(),
            buckets: 1,
            retention_ms: None,
            config: pairs.collect(),
        }
    }

    async fn forget_before(&self, at: &TopicBucket, offset: Offset) -> Result<(), LogError> {
        if !self.is_embedded {
            let mut before = TopicPartitionList::new();
            let offset = rdkafka::Offset::Offset(offset.0);
            let bucket = at.bucket.0 as i32;
            before
                .add_partition_offset(&at.topic, bucket, offset)
                .unwrap();
            self.admin()
                .delete_records(&before, &options())
                .await
                .unwrap();
        }
        Ok(())
    }

    async fn add_buckets(&self, topic: &str, buckets: u32) -> Result<(), LogError> {
        let more = NewPartitions::new(topic, buckets as usize);
        let admin = self.admin();
        let done = admin.create_partitions([&more], &options()).await.unwrap();
        done[0].as_ref().unwrap();
        Ok(())
    }

    /// A transaction that is aborted leaves its records and a marker.
    async fn leave_offsets_empty(&self, at: &TopicBucket) -> Result<bool, LogError> {
        if self.is_embedded {
            return Ok(false);
        }
        let mut config = self.config();
        config.set("transactional.id", "leaves-offsets-empty");
        let at = at.clone();
        let aborted = move || {
            let producer: BaseProducer = config.create().unwrap();
            begin_transactions(&producer);
            producer.begin_transaction().unwrap();
            let record = BaseRecord::<(), _>::to(&at.topic)
                .partition(at.bucket.0 as i32)
                .payload("nobody sees it");
            producer.send(record).unwrap();
            producer.flush(WAIT_MAX).unwrap();
            producer.abort_transaction(WAIT_MAX).unwrap();
        };
        tokio::task::spawn_blocking(aborted).await.unwrap();
        Ok(true)
    }
}

/// A coordinator of transactions that has just come up says for a while that it is none.
fn begin_transactions(producer: &BaseProducer) {
    let mut attempts = 0;
    while let Err(error) = producer.init_transactions(WAIT_MAX) {
        attempts += 1;
        let passes = matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
        assert!(passes && attempts < 20, "{error}");
    }
}
