//! The broker over its socket, with hand-written frames. Real clients are tried in the workspace's
//! own tests.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::batch::testing::{Batch, seal};
use crate::{Broker, BrokerError, BrokerSettings};

mod damage;
mod load;
mod sweep;

const PATIENCE: Duration = Duration::from_secs(20);

async fn start(dir: &std::path::Path) -> Result<Broker, BrokerError> {
    Broker::start(BrokerSettings::new(dir, ([127, 0, 0, 1], 0).into())).await
}

struct Client(TcpStream);

impl Client {
    async fn connect(broker: &Broker) -> Self {
        Self(TcpStream::connect(broker.address()).await.unwrap())
    }

    async fn send<R: Encodable + HeaderVersion>(&mut self, api: ApiKey, version: i16, request: R) {
        let header = RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(i32::from(version));
        let mut bytes = BytesMut::from(&[0; 4][..]);
        header
            .encode(&mut bytes, R::header_version(version))
            .unwrap();
        request.encode(&mut bytes, version).unwrap();
        let len = (bytes.len() - 4) as i32;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        self.0.write_all(&bytes).await.unwrap();
    }

    async fn receive<R: Decodable + HeaderVersion>(&mut self, version: i16) -> R {
        let len = timeout(PATIENCE, self.0.read_i32()).await.unwrap().unwrap();
        let mut bytes = vec![0; len as usize];
        self.0.read_exact(&mut bytes).await.unwrap();
        let mut bytes = Bytes::from(bytes);
        let header = ResponseHeader::decode(&mut bytes, R::header_version(version)).unwrap();
        assert_eq!(
            header.correlation_id,
            i32::from(version),
            "answers come in order"
        );
        let answer = R::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty(), "nothing follows the answer");
        answer
    }

    /// True once the broker has hung up without another byte.
    async fn is_cut_off(&mut self) -> bool {
        let read = timeout(PATIENCE, self.0.read_u8()).await.unwrap();
        read.is_err()
    }
}

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

async fn create(client: &mut Client, partitions: i32) {
    let topic = CreatableTopic::default()
        .with_name(name())
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]);
    client.send(ApiKey::CreateTopics, 5, request).await;
    let response: CreateTopicsResponse = client.receive(5).await;
    assert_eq!(response.topics[0].error_code, 0);
}

fn produce(acks: i16, set: Vec<u8>) -> ProduceRequest {
    let data = PartitionProduceData::default().with_records(Some(set.into()));
    let topic = TopicProduceData::default()
        .with_name(name())
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1_000)
        .with_topic_data(vec![topic])
}

fn fetch(offset: i64, max_wait_ms: i32, min_bytes: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(name())
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_min_bytes(min_bytes)
        .with_max_wait_ms(max_wait_ms)
        .with_topics(vec![topic])
}

async fn produced(client: &mut Client, version: i16) -> (i16, i64) {
    let response: ProduceResponse = client.receive(version).await;
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

async fn fetched(client: &mut Client) -> (i16, usize) {
    let response: FetchResponse = client.receive(11).await;
    let partition = &response.responses[0].partitions[0];
    (
        partition.error_code,
        partition.records.as_ref().map_or(0, Bytes::len),
    )
}

#[tokio::test]
async fn records_survive_a_stop_and_a_second_broker_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    assert!(matches!(
        start(dir.path()).await,
        Err(BrokerError::InUse { .. })
    ));
    let mut client = Client::connect(&broker).await;
    create(&mut client, 1).await;
    // Pipelined: all are under way before the first is answered.
    for _ in 0..5 {
        client
            .send(ApiKey::Produce, 9, produce(-1, Batch::default().encode()))
            .await;
    }
    for offset in 0..5 {
        assert_eq!(produced(&mut client, 9).await, (0, offset));
    }
    broker.shutdown().await.unwrap();
    assert!(client.is_cut_off().await);

    let broker = start(dir.path()).await.unwrap();
    let mut client = Client::connect(&broker).await;
    client.send(ApiKey::Fetch, 11, fetch(0, 0, 1)).await;
    let all = 5 * Batch::default().encode().len();
    assert_eq!(fetched(&mut client).await, (0, all));
    client.send(ApiKey::Fetch, 11, fetch(6, 0, 1)).await;
    assert_eq!(
        fetched(&mut client).await.0,
        ResponseError::OffsetOutOfRange.code()
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_waiting_fetch_is_answered_by_the_append_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut producer = Client::connect(&broker).await;
    let mut consumer = Client::connect(&broker).await;
    create(&mut producer, 1).await;
    let batch = Batch::default().encode();
    // Three batches' worth: one append must not be enough.
    consumer
        .send(ApiKey::Fetch, 11, fetch(0, 600_000, 3 * batch.len() as i32))
        .await;
    for offset in 0..3 {
        producer
            .send(ApiKey::Produce, 9, produce(-1, batch.clone()))
            .await;
        assert_eq!(produced(&mut producer, 9).await, (0, offset));
    }
    assert_eq!(fetched(&mut consumer).await, (0, 3 * batch.len()));
    // A topic that goes away answers too.
    consumer.send(ApiKey::Fetch, 11, fetch(3, 600_000, 1)).await;
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name()]);
    producer.send(ApiKey::DeleteTopics, 4, delete).await;
    let deleted: DeleteTopicsResponse = producer.receive(4).await;
    assert_eq!(deleted.responses[0].error_code, 0);
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(fetched(&mut consumer).await.0, unknown);
    // And so does a broker that stops.
    create(&mut producer, 1).await;
    let idle = std::sync::Arc::strong_count(&broker.state);
    consumer.send(ApiKey::Fetch, 11, fetch(0, 600_000, 1)).await;
    let under_way = async {
        while std::sync::Arc::strong_count(&broker.state) == idle {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, under_way).await.unwrap();
    broker.shutdown().await.unwrap();
    assert_eq!(fetched(&mut consumer).await, (0, 0));
}

/// One batch of one record, its value all zeros, that unpacks to so many bytes.
fn gzip_of_zeros(bytes: u64) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // The lengths of the record and its value; no key.
    let head = [
        0x80, 0x80, 0x80, 0x80, 0x08, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x04,
    ];
    std::io::Write::write_all(&mut gzip, &head).unwrap();
    let mut zeros = std::io::Read::take(std::io::repeat(0), bytes);
    std::io::copy(&mut zeros, &mut gzip).unwrap();
    let packed = gzip.finish().unwrap();
    let mut batch = Batch {
        payload_bytes: packed.len(),
        ..Batch::default()
    }
    .encode();
    batch[22] = 1;
    let start = batch.len() - packed.len();
    batch[start..].copy_from_slice(&packed);
    seal(&mut batch);
    batch
}

#[tokio::test]
async fn bad_records_are_refused_by_code_and_cost_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut client = Client::connect(&broker).await;
    create(&mut client, 1).await;
    let good = Batch::default().encode();
    let mut corrupt = good.clone();
    corrupt[65] ^= 1;
    let mut old = good.clone();
    old[16] = 1;
    let large = Batch {
        payload_bytes: 10 << 20,
        ..Batch::default()
    }
    .encode();
    let mut miscounted = good.clone();
    miscounted[23..27].copy_from_slice(&8_i32.to_be_bytes());
    miscounted[57..61].copy_from_slice(&9_i32.to_be_bytes());
    seal(&mut miscounted);
    let mut unknown = good.clone();
    unknown[22] = 7;
    seal(&mut unknown);
    let cases = [
        (miscounted, ResponseError::InvalidRecord),
        (unknown, ResponseError::UnsupportedCompressionType),
        (gzip_of_zeros(140 << 20), ResponseError::MessageTooLarge),
        (corrupt.clone(), ResponseError::CorruptMessage),
        (old, ResponseError::UnsupportedForMessageFormat),
        (large, ResponseError::MessageTooLarge),
        (Vec::new(), ResponseError::InvalidRecord),
        (good[..70].to_vec(), ResponseError::CorruptMessage),
    ];
    for (set, error) in cases {
        client.send(ApiKey::Produce, 9, produce(-1, set)).await;
        assert_eq!(produced(&mut client, 9).await.0, error.code());
    }
    client
        .send(ApiKey::Produce, 9, produce(2, good.clone()))
        .await;
    assert_eq!(
        produced(&mut client, 9).await.0,
        ResponseError::InvalidRequiredAcks.code()
    );
    // Without acknowledgement there is no answer, but the next request has one.
    client
        .send(ApiKey::Produce, 8, produce(0, good.clone()))
        .await;
    client.send(ApiKey::Produce, 9, produce(1, good)).await;
    assert_eq!(produced(&mut client, 9).await, (0, 1));
    client.send(ApiKey::Produce, 9, produce(0, corrupt)).await;
    assert!(
        client.is_cut_off().await,
        "the only way to tell a producer that wants no answer"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn frames_that_make_no_sense_end_their_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut witness = Client::connect(&broker).await;
    create(&mut witness, 1).await;
    let metadata_of_two_thousand_million_topics = [
        &[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff][..],
        &i32::MAX.to_be_bytes(),
    ]
    .concat();
    let frames: [&[u8]; 6] = [
        &i32::MAX.to_be_bytes(),
        &(-1_i32).to_be_bytes(),
        &[0, 0, 0, 3, 1, 2, 3],
        &[0, 0, 0, 10, 3, 231, 0, 0, 0, 0, 0, 1, 0xff, 0xff],
        &[0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff],
        &metadata_of_two_thousand_million_topics,
    ];
    for frame in frames {
        let mut client = Client::connect(&broker).await;
        client.0.write_all(frame).await.unwrap();
        assert!(client.is_cut_off().await, "{frame:?}");
    }
    // A newer client asks for versions in a way not known yet, and is answered in the oldest one.
    let mut newer = Client::connect(&broker).await;
    newer
        .0
        .write_all(&[0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 0, 0xff, 0xff])
        .await
        .unwrap();
    let versions: ApiVersionsResponse = newer.receive(0).await;
    assert_eq!(
        versions.error_code,
        ResponseError::UnsupportedVersion.code()
    );
    assert!(
        versions
            .api_keys
            .iter()
            .any(|api| api.api_key == ApiKey::ApiVersions as i16)
    );
    witness
        .send(ApiKey::Produce, 9, produce(-1, Batch::default().encode()))
        .await;
    assert_eq!(produced(&mut witness, 9).await, (0, 0));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn topic_names_of_any_legal_length_live_and_die() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = start(dir.path()).await.unwrap();
    for len in [1, 214, 215, 218, 219, 249] {
        let long = TopicName(StrBytes::from_string("n".repeat(len)));
        for _ in 0..2 {
            let mut client = Client::connect(&broker).await;
            let topic = CreatableTopic::default()
                .with_name(long.clone())
                .with_num_partitions(2)
                .with_replication_factor(1);
            let request = CreateTopicsRequest::default().with_topics(vec![topic]);
            client.send(ApiKey::CreateTopics, 5, request).await;
            let created: CreateTopicsResponse = client.receive(5).await;
            assert_eq!(created.topics[0].error_code, 0, "{len} bytes");
            let mut request = produce(-1, Batch::default().encode());
            request.topic_data[0].name = long.clone();
            client.send(ApiKey::Produce, 9, request).await;
            assert_eq!(produced(&mut client, 9).await, (0, 0), "{len} bytes");
            broker.shutdown().await.unwrap();
            broker = start(dir.path()).await.unwrap();
            let mut client = Client::connect(&broker).await;
            let delete = DeleteTopicsRequest::default().with_topic_names(vec![long.clone()]);
            client.send(ApiKey::DeleteTopics, 4, delete).await;
            let deleted: DeleteTopicsResponse = client.receive(4).await;
            assert_eq!(deleted.responses[0].error_code, 0, "{len} bytes");
        }
    }
    broker.shutdown().await.unwrap();
}

/// A kill, and damage in the middle of what was acknowledged: the broker serves everything else,
/// names the partition, and serves it again once it is repaired.
#[tokio::test]
async fn a_damaged_partition_is_named_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut client = Client::connect(&broker).await;
    create(&mut client, 1).await;
    for offset in 0..20 {
        client
            .send(ApiKey::Produce, 9, produce(-1, Batch::default().encode()))
            .await;
        assert_eq!(produced(&mut client, 9).await, (0, offset));
    }
    // A copy of the files is what a kill leaves.
    let killed = tempfile::tempdir().unwrap();
    let folder = "topics/t/0";
    std::fs::create_dir_all(killed.path().join(folder)).unwrap();
    let log = format!("{folder}/00000000000000000000.log");
    for file in ["broker.json", "topics/t/topic.json", log.as_str()] {
        std::fs::copy(dir.path().join(file), killed.path().join(file)).unwrap();
    }
    broker.shutdown().await.unwrap();
    let log = killed.path().join(log);
    let mut bytes = std::fs::read(&log).unwrap();
    let batch = Batch::default().encode().len();
    bytes[5 * batch + 64] ^= 1;
    std::fs::write(&log, bytes).unwrap();

    let broker = start(killed.path()).await.unwrap();
    let mut client = Client::connect(&broker).await;
    client.send(ApiKey::Fetch, 11, fetch(0, 0, 1)).await;
    let storage = ResponseError::KafkaStorageError.code();
    assert_eq!(fetched(&mut client).await.0, storage);
    client
        .send(ApiKey::Produce, 9, produce(-1, Batch::default().encode()))
        .await;
    assert_eq!(produced(&mut client, 9).await.0, storage);
    let offline = broker.offline_partitions();
    assert_eq!((offline[0].topic.as_str(), offline[0].partition), ("t", 0));
    let running = crate::check(killed.path());
    assert!(matches!(running, Err(BrokerError::InUse { .. })));
    broker.shutdown().await.unwrap();

    assert_eq!(crate::check(killed.path()).unwrap(), offline);
    let clock = tidelake_core::clock::system();
    let lost = crate::repair(killed.path(), "t", 0, clock.as_ref()).unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].offsets, 5..6);
    assert_eq!(crate::check(killed.path()).unwrap(), []);
    let broker = start(killed.path()).await.unwrap();
    assert_eq!(broker.offline_partitions(), []);
    let mut client = Client::connect(&broker).await;
    client
        .send(ApiKey::Produce, 9, produce(-1, Batch::default().encode()))
        .await;
    assert_eq!(produced(&mut client, 9).await, (0, 20));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn transactions_are_refused_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut client = Client::connect(&broker).await;
    let refused = ResponseError::TransactionalIdAuthorizationFailed.code();
    let id = Some(TransactionalId(StrBytes::from_static_str("tx")));
    let init = |id| InitProducerIdRequest::default().with_transactional_id(id);
    let request = init(id);
    client.send(ApiKey::InitProducerId, 4, request).await;
    assert_eq!(
        client.receive::<InitProducerIdResponse>(4).await.error_code,
        refused
    );
    let request = FindCoordinatorRequest::default()
        .with_key_type(1)
        .with_coordinator_keys(vec![StrBytes::from_static_str("tx")]);
    client.send(ApiKey::FindCoordinator, 4, request).await;
    let response: FindCoordinatorResponse = client.receive(4).await;
    assert_eq!(response.coordinators[0].error_code, refused);
    client.send(ApiKey::InitProducerId, 4, init(None)).await;
    let first = client
        .receive::<InitProducerIdResponse>(4)
        .await
        .producer_id;
    client.send(ApiKey::InitProducerId, 4, init(None)).await;
    let second = client
        .receive::<InitProducerIdResponse>(4)
        .await
        .producer_id;
    assert!(first.0 >= 0 && second.0 > first.0);
    broker.shutdown().await.unwrap();
}
