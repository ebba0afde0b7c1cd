//! Against a broker that answers as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, ListOffsetsResponse, MetadataResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, decode_request_header_from_buffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What the broker does with requests for offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    HasMoved,
    HangsUp,
    Babbles,
    IsSilent,
    AnswersAnother,
}

#[derive(Debug)]
struct Broker {
    address: String,
    mood: Mutex<Mood>,
    connections: AtomicUsize,
    metadata: AtomicUsize,
    offsets: AtomicUsize,
}

impl Broker {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            mood: Mutex::new(Mood::Answers),
            connections: AtomicUsize::new(0),
            metadata: AtomicUsize::new(0),
            offsets: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&broker);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        broker
    }

    fn ends(&self) -> Ends {
        Ends::new(&self.settings()).unwrap()
    }

    fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            bootstrap: self.address.clone(),
            ..KafkaSettings::default()
        }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> [usize; 3] {
        [&self.connections, &self.metadata, &self.offsets].map(|count| count.load(Ordering::SeqCst))
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        while let Ok(length) = stream.read_i32().await {
            let mut frame = vec![0; length as usize];
            stream.read_exact(&mut frame).await.unwrap();
            let mut frame = Bytes::from(frame);
            let header = decode_request_header_from_buffer(&mut frame).unwrap();
            let version = header.request_api_version;
            let api = ApiKey::try_from(header.request_api_key).unwrap();
            let mut answer = BytesMut::new();
            let mut id = header.correlation_id;
            let mood = *self.mood.lock().unwrap();
            match api {
                ApiKey::Metadata => {
                    let request = MetadataRequest::decode(&mut frame, version).unwrap();
                    self.metadata.fetch_add(1, Ordering::SeqCst);
                    assert!(!request.allow_auto_topic_creation);
                    self.leaders().encode(&mut answer, version).unwrap();
                }
                ApiKey::ListOffsets => {
                    let request = ListOffsetsRequest::decode(&mut frame, version).unwrap();
                    self.offsets.fetch_add(1, Ordering::SeqCst);
                    match mood {
                        Mood::HangsUp => return,
                        Mood::IsSilent => continue,
                        Mood::Babbles => answer.put_bytes(0xFF, 40),
                        Mood::AnswersAnother => id += 1,
                        Mood::Answers | Mood::HasMoved => {}
                    }
                    let answers = offsets(request, mood);
                    answers.encode(&mut answer, version).unwrap();
                }
                other => panic!("{other:?}"),
            }
            let mut whole = BytesMut::new();
            let header = ResponseHeader::default().with_correlation_id(id);
            header.encode(&mut whole, 0).unwrap();
            whole.extend_from_slice(&answer);
            stream.write_i32(whole.len() as i32).await.unwrap();
            stream.write_all(&whole).await.unwrap();
        }
    }

    /// Three buckets of topic t.
    fn leaders(&self) -> MetadataResponse {
        let (host, port) = self.address.split_once(':').unwrap();
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(7))
            .with_host(StrBytes::from_string(host.into()))
            .with_port(port.parse().unwrap());
        let partition = |index| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(7))
                .with_leader_epoch(5)
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(name("t")))
            .with_partitions((0..3).map(partition).collect());
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_topics(vec![topic])
    }
}

/// Bucket n ends at 100 + n.
fn offsets(request: ListOffsetsRequest, mood: Mood) -> ListOffsetsResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            assert_eq!((asked.timestamp, asked.current_leader_epoch), (LATEST, 5));
            let moved = mood == Mood::HasMoved && asked.partition_index == 1;
            let error = ResponseError::NotLeaderOrFollower.code();
            ListOffsetsPartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(if moved { error } else { 0 })
                .with_offset(if moved {
                    -1
                } else {
                    100 + i64::from(asked.partition_index)
                })
        });
        ListOffsetsTopicResponse::default()
            .with_partitions(partitions.collect())
            .with_name(topic.name)
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

const BUCKETS: [Bucket; 2] = [Bucket(2), Bucket(1)];

fn expected() -> Option<Vec<(Bucket, Offset)>> {
    Some(vec![(Bucket(2), Offset(102)), (Bucket(1), Offset(101))])
}

#[tokio::test]
async fn one_connection_and_one_look_at_the_leaders_serve_many_calls() {
    let broker = Broker::start().await;
    let ends = broker.ends();
    for _ in 0..10 {
        assert_eq!(ends.of("t", &BUCKETS).await, expected());
    }
    assert_eq!(broker.asked(), [1, 1, 10]);
    let calls = (0..20).map(|_| ends.of("t", &BUCKETS));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer, expected());
    }
    assert!(
        ends.known()
            .idle
            .values()
            .all(|open| open.len() <= IDLE_MAX)
    );
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_has_moved_is_left_to_librdkafka() {
    let broker = Broker::start().await;
    let ends = broker.ends();
    assert_eq!(ends.of("t", &[Bucket(3)]).await, None);
    assert_eq!(ends.of("t", &BUCKETS).await, expected());
    broker.is(Mood::HasMoved);
    assert_eq!(ends.of("t", &BUCKETS).await, None);
    let [_, metadata, _] = broker.asked();
    broker.is(Mood::Answers);
    assert_eq!(ends.of("t", &BUCKETS).await, expected());
    assert_eq!(
        broker.asked()[1],
        metadata + 1,
        "it looks where they are led"
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_opened_again() {
    let broker = Broker::start().await;
    let ends = broker.ends();
    assert_eq!(ends.of("t", &BUCKETS).await, expected());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let closed = Connection::open(&address).await.unwrap();
    drop(listener);
    *ends.known().idle.values_mut().next().unwrap() = vec![closed];
    assert_eq!(ends.of("t", &BUCKETS).await, expected());
    assert_eq!(broker.asked()[0], 2);
}

#[tokio::test]
async fn what_breaks_is_not_tried_again_at_once() {
    for mood in [
        Mood::HangsUp,
        Mood::Babbles,
        Mood::AnswersAnother,
        Mood::IsSilent,
    ] {
        let broker = Broker::start().await;
        let ends = broker.ends();
        assert_eq!(ends.of("t", &BUCKETS).await, expected());
        broker.is(mood);
        assert_eq!(ends.of("t", &BUCKETS).await, None, "{mood:?}");
        let asked = broker.asked();
        broker.is(Mood::Answers);
        assert_eq!(ends.of("t", &BUCKETS).await, None, "{mood:?}");
        assert_eq!(broker.asked(), asked, "{mood:?}");
        ends.known().broken_until = None;
        assert_eq!(ends.of("t", &BUCKETS).await, expected(), "{mood:?}");
    }
}

#[tokio::test]
async fn nobody_listens() {
    let settings = KafkaSettings {
        bootstrap: "127.0.0.1:1".into(),
        ..KafkaSettings::default()
    };
    assert_eq!(Ends::new(&settings).unwrap().of("t", &BUCKETS).await, None);
}

#[tokio::test]
async fn settings_that_need_more_than_a_socket_are_left_to_librdkafka() {
    let broker = Broker::start().await;
    let of = |name: &str, value: &str| {
        let mut settings = broker.settings();
        settings.properties.insert(name.into(), value.into());
        Ends::new(&settings)
    };
    assert!(of("security.protocol", "SASL_SSL").is_none());
    assert!(of("sasl.mechanism", "PLAIN").is_none());
    assert!(of("ssl.ca.location", "x").is_none());
    let plain = of("security.protocol", "PLAINTEXT").unwrap();
    assert_eq!(plain.of("t", &BUCKETS).await, expected());
    let mut settings = broker.settings();
    settings.bootstrap = format!("127.0.0.1:1, PLAINTEXT://{}", broker.address);
    let second = Ends::new(&settings).unwrap();
    assert_eq!(second.of("t", &BUCKETS).await, expected());
}
