use bytes::{Bytes as Body, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use super::super::supported::{SUPPORTED, serves};
use super::*;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

/// Encodes `request` in every version that is served and that the request can be said in.
fn bodies<R: Encodable + Message>(
    api: ApiKey,
    make: impl Fn(i16) -> R,
) -> Vec<(ApiKey, i16, Body)> {
    let served = (R::VERSIONS.min..=R::VERSIONS.max).filter(|version| serves(api, *version));
    let encoded = served.map(|version| {
        let mut bytes = BytesMut::new();
        make(version)
            .encode(&mut bytes, version)
            .unwrap_or_else(|e| panic!("{api:?} {version}: {e}"));
        (api, version, bytes.freeze())
    });
    encoded.collect()
}

/// A filled-in body for every API and version that is served.
#[expect(clippy::too_many_lines, reason = "one sample for each request")]
fn samples() -> Vec<(ApiKey, i16, Body)> {
    use kafka_protocol::messages::{
        alter_configs_request as alter, create_partitions_request as grow,
        create_topics_request as create, delete_topics_request as delete,
        describe_configs_request as describe, fetch_request as fetch,
        incremental_alter_configs_request as incremental, join_group_request as join,
        leave_group_request as leave, list_offsets_request as list, metadata_request as metadata,
        offset_commit_request as commit, offset_delete_request as forget,
        offset_fetch_request as positions, produce_request as produce, sync_group_request as sync,
    };
    let topic = || TopicName(text("topic"));
    let group = || GroupId(text("group"));
    let named = |v: i16, last: i16| {
        if v <= last {
            topic()
        } else {
            TopicName::default()
        }
    };
    let id = |v: i16, first: i16| {
        if v >= first {
            Uuid::from_u128(7)
        } else {
            Uuid::nil()
        }
    };
    let since = |v: i16, first: i16| (v >= first).then(|| text("optional"));
    let mut all = Vec::new();
    all.extend(bodies(ApiKey::Produce, |v| {
        let data = produce::PartitionProduceData::default()
            .with_index(1)
            .with_records(Some(Body::from_static(b"records")));
        let data = produce::TopicProduceData::default()
            .with_name(named(v, 12))
            .with_topic_id(id(v, 13))
            .with_partition_data(vec![data.clone(), data.with_records(None)]);
        ProduceRequest::default().with_topic_data(vec![data])
    }));
    all.extend(bodies(ApiKey::Fetch, |v| {
        let partitions = vec![fetch::FetchPartition::default().with_partition(3); 2];
        let topics = fetch::FetchTopic::default()
            .with_topic(named(v, 12))
            .with_topic_id(id(v, 13))
            .with_partitions(partitions);
        let forgotten = fetch::ForgottenTopic::default()
            .with_topic(named(v, 12))
            .with_topic_id(id(v, 13))
            .with_partitions(vec![1, 2]);
        FetchRequest::default()
            .with_topics(vec![topics])
            .with_forgotten_topics_data(if v >= 7 { vec![forgotten] } else { vec![] })
            .with_cluster_id(since(v, 12))
            .with_rack_id(since(v, 11).unwrap_or_default())
    }));
    all.extend(bodies(ApiKey::ListOffsets, |_| {
        let partitions = vec![list::ListOffsetsPartition::default(); 2];
        let topics = list::ListOffsetsTopic::default()
            .with_name(topic())
            .with_partitions(partitions);
        ListOffsetsRequest::default().with_topics(vec![topics])
    }));
    all.extend(bodies(ApiKey::Metadata, |v| {
        let topics = metadata::MetadataRequestTopic::default()
            .with_name(Some(topic()))
            .with_topic_id(id(v, 10));
        MetadataRequest::default().with_topics(Some(vec![topics]))
    }));
    all.extend(bodies(ApiKey::OffsetCommit, |v| {
        let partitions = commit::OffsetCommitRequestPartition::default()
            .with_committed_metadata(Some(text("note")));
        let topics = commit::OffsetCommitRequestTopic::default()
            .with_name(topic())
            .with_partitions(vec![partitions; 2]);
        OffsetCommitRequest::default()
            .with_group_id(group())
            .with_group_instance_id(since(v, 7))
            .with_topics(vec![topics])
    }));
    all.extend(bodies(ApiKey::OffsetFetch, |v| {
        let one = positions::OffsetFetchRequestTopic::default()
            .with_name(topic())
            .with_partition_indexes(vec![1, 2]);
        let many = positions::OffsetFetchRequestTopics::default()
            .with_name(topic())
            .with_partition_indexes(vec![1, 2]);
        let groups = positions::OffsetFetchRequestGroup::default()
            .with_group_id(group())
            .with_member_id(since(v, 9))
            .with_topics(Some(vec![many]));
        match v >= 8 {
            true => OffsetFetchRequest::default().with_groups(vec![groups]),
            false => OffsetFetchRequest::default()
                .with_group_id(group())
                .with_topics(Some(vec![one])),
        }
    }));
    all.extend(bodies(ApiKey::FindCoordinator, |v| match v >= 4 {
        true => FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("b")]),
        false => FindCoordinatorRequest::default().with_key(text("a")),
    }));
    all.extend(bodies(ApiKey::JoinGroup, |v| {
        let protocols = join::JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Body::from_static(b"meta"));
        JoinGroupRequest::default()
            .with_group_id(group())
            .with_group_instance_id(since(v, 5))
            .with_protocols(vec![protocols; 2])
            .with_reason(since(v, 8))
    }));
    all.extend(bodies(ApiKey::Heartbeat, |v| {
        HeartbeatRequest::default()
            .with_group_id(group())
            .with_group_instance_id(since(v, 3))
    }));
    all.extend(bodies(ApiKey::LeaveGroup, |v| {
        let member = leave::MemberIdentity::default()
            .with_member_id(text("m"))
            .with_group_instance_id(since(v, 3))
            .with_reason(since(v, 5));
        match v >= 3 {
            true => LeaveGroupRequest::default()
                .with_group_id(group())
                .with_members(vec![member]),
            false => LeaveGroupRequest::default()
                .with_group_id(group())
                .with_member_id(text("m")),
        }
    }));
    all.extend(bodies(ApiKey::SyncGroup, |v| {
        let assigned = sync::SyncGroupRequestAssignment::default()
            .with_member_id(text("m"))
            .with_assignment(Body::from_static(b"part"));
        SyncGroupRequest::default()
            .with_group_id(group())
            .with_group_instance_id(since(v, 3))
            .with_protocol_name(since(v, 5))
            .with_assignments(vec![assigned; 3])
    }));
    all.extend(bodies(ApiKey::DescribeGroups, |_| {
        DescribeGroupsRequest::default().with_groups(vec![group(), group()])
    }));
    all.extend(bodies(ApiKey::ListGroups, |v| {
        let filter = |first| since(v, first).into_iter().collect::<Vec<_>>();
        ListGroupsRequest::default()
            .with_states_filter(filter(4))
            .with_types_filter(filter(5))
    }));
    all.extend(bodies(ApiKey::ApiVersions, |v| {
        let name = since(v, 3).unwrap_or_default();
        ApiVersionsRequest::default()
            .with_client_software_name(name.clone())
            .with_client_software_version(name)
    }));
    all.extend(bodies(ApiKey::CreateTopics, |_| {
        let assigned = create::CreatableReplicaAssignment::default()
            .with_broker_ids(vec![BrokerId(1), BrokerId(2)]);
        let config = create::CreatableTopicConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("1")));
        let topics = create::CreatableTopic::default()
            .with_name(topic())
            .with_assignments(vec![assigned; 2])
            .with_configs(vec![config; 2]);
        CreateTopicsRequest::default().with_topics(vec![topics])
    }));
    all.extend(bodies(ApiKey::DeleteTopics, |v| {
        let state = delete::DeleteTopicState::default().with_name(Some(topic()));
        match v >= 6 {
            true => DeleteTopicsRequest::default().with_topics(vec![state; 2]),
            false => DeleteTopicsRequest::default().with_topic_names(vec![topic(); 2]),
        }
    }));
    all.extend(bodies(ApiKey::InitProducerId, |_| {
        InitProducerIdRequest::default()
    }));
    all.extend(bodies(ApiKey::DescribeConfigs, |_| {
        let resource = describe::DescribeConfigsResource::default()
            .with_resource_name(text("topic"))
            .with_configuration_keys(Some(vec![text("a"), text("b")]));
        DescribeConfigsRequest::default().with_resources(vec![resource; 2])
    }));
    all.extend(bodies(ApiKey::AlterConfigs, |_| {
        let config = alter::AlterableConfig::default()
            .with_name(text("a"))
            .with_value(Some(text("b")));
        let resource = alter::AlterConfigsResource::default()
            .with_resource_name(text("topic"))
            .with_configs(vec![config; 2]);
        AlterConfigsRequest::default().with_resources(vec![resource])
    }));
    all.extend(bodies(ApiKey::IncrementalAlterConfigs, |_| {
        let config = incremental::AlterableConfig::default()
            .with_name(text("a"))
            .with_value(None);
        let resource = incremental::AlterConfigsResource::default()
            .with_resource_name(text("topic"))
            .with_configs(vec![config; 2]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    }));
    all.extend(bodies(ApiKey::CreatePartitions, |_| {
        let assigned =
            grow::CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
        let topics = grow::CreatePartitionsTopic::default()
            .with_name(topic())
            .with_assignments(Some(vec![assigned; 2]));
        CreatePartitionsRequest::default().with_topics(vec![topics])
    }));
    all.extend(bodies(ApiKey::DeleteGroups, |_| {
        DeleteGroupsRequest::default().with_groups_names(vec![group(); 2])
    }));
    all.extend(bodies(ApiKey::OffsetDelete, |_| {
        let partitions = vec![forget::OffsetDeleteRequestPartition::default(); 2];
        let topics = forget::OffsetDeleteRequestTopic::default()
            .with_name(topic())
            .with_partitions(partitions);
        OffsetDeleteRequest::default()
            .with_group_id(group())
            .with_topics(vec![topics])
    }));
    all.extend(bodies(ApiKey::DescribeCluster, |_| {
        DescribeClusterRequest::default()
    }));
    all
}

/// Decodes a body that passed the check, as dispatch would.
fn decode(api: ApiKey, version: i16, body: &Body) -> bool {
    let mut body = body.clone();
    RequestKind::decode(api, &mut body, version)
}

/// Stands in for the handlers: decodes any request.
struct RequestKind;

impl RequestKind {
    fn decode(api: ApiKey, body: &mut Body, version: i16) -> bool {
        macro_rules! decode_one {
            ($($api:ident => $request:ty),* $(,)?) => {
                match api {
                    $(ApiKey::$api => <$request>::decode(body, version).is_ok(),)*
                    api => panic!("{api:?} has no sample"),
                }
            };
        }
        decode_one! {
            Produce => ProduceRequest, Fetch => FetchRequest, ListOffsets => ListOffsetsRequest,
            Metadata => MetadataRequest, OffsetCommit => OffsetCommitRequest,
            OffsetFetch => OffsetFetchRequest, FindCoordinator => FindCoordinatorRequest,
            JoinGroup => JoinGroupRequest, Heartbeat => HeartbeatRequest,
            LeaveGroup => LeaveGroupRequest, SyncGroup => SyncGroupRequest,
            DescribeGroups => DescribeGroupsRequest, ListGroups => ListGroupsRequest,
            ApiVersions => ApiVersionsRequest, CreateTopics => CreateTopicsRequest,
            DeleteTopics => DeleteTopicsRequest, InitProducerId => InitProducerIdRequest,
            DescribeConfigs => DescribeConfigsRequest, AlterConfigs => AlterConfigsRequest,
            CreatePartitions => CreatePartitionsRequest, DeleteGroups => DeleteGroupsRequest,
            IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
            OffsetDelete => OffsetDeleteRequest, DescribeCluster => DescribeClusterRequest,
        }
    }
}

#[test]
fn every_served_request_has_its_shape_in_every_version() {
    let samples = samples();
    for (api, min, max) in SUPPORTED {
        for version in (min..=max).filter(|version| serves(api, *version)) {
            let sample = samples.iter().find(|(a, v, _)| (*a, *v) == (api, version));
            let (_, _, body) = sample.unwrap_or_else(|| panic!("{api:?} {version} has no sample"));
            assert!(
                check(api, version, body).is_ok(),
                "{api:?} version {version}"
            );
            for len in 0..body.len() {
                assert!(
                    check(api, version, &body[..len]).is_err(),
                    "{api:?} {version} cut at {len}"
                );
            }
            let long = [body, &[0][..]].concat();
            assert!(check(api, version, &long).is_ok(), "{api:?} {version}");
        }
    }
}

#[test]
fn a_claimed_length_reserves_nothing() {
    // An array of two thousand million topics.
    let metadata = [&i32::MAX.to_be_bytes()[..], &[1; 20]].concat();
    assert!(check(ApiKey::Metadata, 1, &metadata).is_err());
    // The same as a compact array, and as a varint that never ends.
    assert!(check(ApiKey::Metadata, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1]).is_err());
    assert!(check(ApiKey::Metadata, 12, &[0xff; 20]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn damaged_requests_are_refused_or_decoded_but_never_harm(
        at in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = samples();
        let (api, version, body) = at.get(&samples);
        let mut bytes = body.to_vec();
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if check(*api, *version, &bytes).is_ok() {
            // May fail, must not panic or reserve without bound.
            decode(*api, *version, &bytes.into());
        }
    }
}
