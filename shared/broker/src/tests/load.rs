//! Clients that ask for much, send slowly or do not read keep nobody else from being served.

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;

use super::*;

/// Long enough for a machine that builds beside, shorter than any time-out that would end the stall:
/// the least of them is half a minute.
const PROMPT: Duration = Duration::from_secs(25);

/// A record of 100 KiB goes in and comes out promptly.
async fn is_served(broker: &Broker) {
    let mut client = Client::connect(broker).await;
    let batch = Batch {
        payload_bytes: 100 << 10,
        ..Batch::default()
    };
    let round = async {
        let produced_at = {
            client
                .send(ApiKey::Produce, 9, produce(-1, batch.encode()))
                .await;
            let (error, offset) = produced(&mut client, 9).await;
            assert_eq!(error, 0);
            offset
        };
        client
            .send(ApiKey::Fetch, 11, fetch(produced_at, 0, 1))
            .await;
        let (error, bytes) = fetched(&mut client).await;
        assert_eq!((error, bytes), (0, batch.encode().len()));
    };
    timeout(PROMPT, round).await.expect("others are served");
}

#[tokio::test]
async fn announced_requests_that_never_arrive_hold_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    create(&mut Client::connect(&broker).await, 1).await;
    let mut announced = Vec::new();
    for bytes in [0, 1, 70_000, 300_000].repeat(4) {
        let mut client = Client::connect(&broker).await;
        client.0.write_i32(100 << 20).await.unwrap();
        client.0.write_all(&vec![0; bytes]).await.unwrap();
        announced.push(client);
    }
    is_served(&broker).await;
    let used = broker.state.request_memory.used_bytes();
    assert!(used < 16 << 20, "{used} bytes for what never came");
    drop(announced);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn readers_that_stand_still_stop_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = BrokerSettings::new(dir.path(), ([127, 0, 0, 1], 0).into());
    settings.fetch_inflight_bytes_max = 64 << 20;
    settings.tail_bytes_max = 0;
    let broker = Broker::start(settings).await.unwrap();
    let mut client = Client::connect(&broker).await;
    create(&mut client, 1).await;
    let large = Batch {
        payload_bytes: 4 << 20,
        ..Batch::default()
    }
    .encode();
    for _ in 0..10 {
        client
            .send(ApiKey::Produce, 9, produce(-1, large.clone()))
            .await;
        assert_eq!(produced(&mut client, 9).await.0, 0);
    }
    let mut standing = Vec::new();
    for _ in 0..32 {
        let mut reader = Client::connect(&broker).await;
        let mut request = fetch(0, 0, 1);
        request.max_bytes = 64 << 20;
        request.topics[0].partitions[0].partition_max_bytes = 64 << 20;
        reader.send(ApiKey::Fetch, 11, request).await;
        // The answer has begun; the rest stays where it is.
        timeout(PROMPT, reader.0.read_i32()).await.unwrap().unwrap();
        standing.push(reader);
    }
    is_served(&broker).await;
    drop(standing);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_asked_over_and_over_is_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut client = Client::connect(&broker).await;
    create(&mut client, 200).await;
    let asked = MetadataRequestTopic::default().with_name(Some(name()));
    let request = MetadataRequest::default().with_topics(Some(vec![asked; 5_000]));
    client.send(ApiKey::Metadata, 5, request).await;
    let answer: MetadataResponse = client.receive(5).await;
    assert_eq!(answer.topics.len(), 1);
    assert_eq!(answer.topics[0].partitions.len(), 200);
    // Two bytes for each: more elements than memory is there for.
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName::default()));
    let request = MetadataRequest::default().with_topics(Some(vec![asked; 2_000_000]));
    client.send(ApiKey::Metadata, 5, request).await;
    assert!(client.is_cut_off().await);
    is_served(&broker).await;
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_group_of_many_members_and_protocols_costs_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let text = |text: String| StrBytes::from_string(text);
    let join = |group: &'static str, protocols: usize| {
        let protocols = (0..protocols).map(|n| {
            JoinGroupRequestProtocol::default()
                .with_name(text(format!("a-protocol-of-some-length-{n}")))
                .with_metadata(Bytes::from_static(b"m"))
        });
        JoinGroupRequest::default()
            .with_group_id(GroupId(StrBytes::from_static_str(group)))
            .with_session_timeout_ms(60_000)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(protocols.collect())
    };
    let mut client = Client::connect(&broker).await;
    client.send(ApiKey::JoinGroup, 5, join("many", 65)).await;
    let refused: JoinGroupResponse = client.receive(5).await;
    assert_eq!(refused.error_code, ResponseError::InvalidRequest.code());
    let started = crate::time::now();
    let mut members = Vec::new();
    for _ in 0..400 {
        let mut member = Client::connect(&broker).await;
        member.send(ApiKey::JoinGroup, 3, join("many", 64)).await;
        members.push(member);
    }
    // While they all wait, another group goes through its life.
    client.send(ApiKey::JoinGroup, 3, join("other", 1)).await;
    let joined: JoinGroupResponse = client.receive(3).await;
    assert_eq!(joined.error_code, 0);
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("other")))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id);
    client.send(ApiKey::Heartbeat, 3, request).await;
    let beat: HeartbeatResponse = client.receive(3).await;
    assert_eq!(beat.error_code, 0);
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    drop(members);
    broker.shutdown().await.unwrap();
}
