//! Every version of every request that is advertised, over a socket, with an answer that decodes.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    incremental_alter_configs_request as incremental, list_offsets_response,
};

use super::*;

/// A client that notes what it asked.
struct Sweep {
    client: Client,
    asked: BTreeSet<(i16, i16)>,
    /// First and last version of every request, as clients are told.
    advertised: BTreeMap<i16, (i16, i16)>,
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn group() -> GroupId {
    GroupId(text("g"))
}

impl Sweep {
    async fn ask<Q, A>(&mut self, api: ApiKey, version: i16, request: Q) -> A
    where
        Q: Encodable + HeaderVersion,
        A: Decodable + HeaderVersion,
    {
        self.asked.insert((api as i16, version));
        self.client.send(api, version, request).await;
        self.client.receive(version).await
    }

    async fn cluster(&mut self) {
        for version in 0..=4 {
            let request = ApiVersionsRequest::default();
            let answer: ApiVersionsResponse = self.ask(ApiKey::ApiVersions, version, request).await;
            let told = answer.api_keys.iter();
            let told: BTreeMap<_, _> = told
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect();
            assert_eq!(told.len(), answer.api_keys.len(), "each once");
            assert!(version == 0 || told == self.advertised, "version {version}");
            self.advertised = told;
        }
        for version in 0..=2 {
            let request = DescribeClusterRequest::default();
            let answer: DescribeClusterResponse =
                self.ask(ApiKey::DescribeCluster, version, request).await;
            assert_eq!(answer.brokers.len(), 1);
        }
        for version in 0..=5 {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(1);
            let answer: InitProducerIdResponse =
                self.ask(ApiKey::InitProducerId, version, request).await;
            assert_eq!(answer.error_code, 0);
        }
    }

    /// Topics come and go; `t` with one partition stays, and its id is returned.
    async fn topics(&mut self) -> uuid::Uuid {
        for version in 2..=7 {
            let topic = CreatableTopic::default()
                .with_name(name())
                .with_num_partitions(1)
                .with_replication_factor(1);
            let request = CreateTopicsRequest::default().with_topics(vec![topic]);
            let answer: CreateTopicsResponse =
                self.ask(ApiKey::CreateTopics, version, request).await;
            assert_eq!(answer.topics[0].error_code, 0, "version {version}");
            let partitions = CreatePartitionsTopic::default()
                .with_name(name())
                .with_count(2);
            let request = CreatePartitionsRequest::default().with_topics(vec![partitions]);
            let answer: CreatePartitionsResponse = self
                .ask(ApiKey::CreatePartitions, version.min(3), request)
                .await;
            assert_eq!(answer.results[0].error_code, 0);
            let deleted = version - 1;
            let request = match deleted {
                6 => DeleteTopicsRequest::default()
                    .with_topics(vec![DeleteTopicState::default().with_name(Some(name()))]),
                _ => DeleteTopicsRequest::default().with_topic_names(vec![name()]),
            };
            let answer: DeleteTopicsResponse =
                self.ask(ApiKey::DeleteTopics, deleted, request).await;
            assert_eq!(answer.responses[0].error_code, 0);
        }
        for version in 0..=3 {
            let request = CreatePartitionsRequest::default();
            let answer: CreatePartitionsResponse =
                self.ask(ApiKey::CreatePartitions, version, request).await;
            assert!(answer.results.is_empty());
        }
        create(&mut self.client, 1).await;
        let mut id = uuid::Uuid::nil();
        for version in 0..=13 {
            let asked = MetadataRequestTopic::default().with_name(Some(name()));
            let mut topics = vec![asked];
            if version >= 10 {
                let by_id = MetadataRequestTopic::default()
                    .with_name(None)
                    .with_topic_id(uuid::Uuid::from_u128(7));
                topics.push(by_id);
            }
            let request = MetadataRequest::default().with_topics(Some(topics));
            let answer: MetadataResponse = self.ask(ApiKey::Metadata, version, request).await;
            assert_eq!(answer.topics[0].partitions.len(), 1, "version {version}");
            id = answer.topics[0].topic_id;
        }
        id
    }

    async fn configs(&mut self) {
        for version in 1..=4 {
            for (kind, name) in [(2, "t"), (4, ""), (2, "absent")] {
                let resource = DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(name))
                    .with_configuration_keys(None);
                let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
                let answer: DescribeConfigsResponse =
                    self.ask(ApiKey::DescribeConfigs, version, request).await;
                assert_eq!(answer.results[0].error_code == 0, name != "absent");
            }
        }
        for version in 0..=2 {
            let config = AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("1000000")));
            let resource = AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configs(vec![config]);
            let request = AlterConfigsRequest::default().with_resources(vec![resource]);
            let answer: AlterConfigsResponse =
                self.ask(ApiKey::AlterConfigs, version, request).await;
            assert_eq!(answer.responses[0].error_code, 0);
        }
        for version in 0..=1 {
            let config = incremental::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_config_operation(1);
            let resource = incremental::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configs(vec![config]);
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            let answer: IncrementalAlterConfigsResponse = self
                .ask(ApiKey::IncrementalAlterConfigs, version, request)
                .await;
            assert_eq!(answer.responses[0].error_code, 0);
        }
    }

    async fn records(&mut self, id: uuid::Uuid) {
        for version in 3..=13 {
            let mut request = produce(-1, Batch::default().encode());
            if version >= 13 {
                request.topic_data[0].name = TopicName::default();
                request.topic_data[0].topic_id = id;
            }
            let answer: ProduceResponse = self.ask(ApiKey::Produce, version, request).await;
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!(
                (partition.error_code, partition.base_offset),
                (0, i64::from(version - 3))
            );
        }
        for version in 4..=16 {
            let mut request = fetch(0, 0, 1);
            if version >= 13 {
                request.topics[0].topic = TopicName::default();
                request.topics[0].topic_id = id;
            }
            let answer: FetchResponse = self.ask(ApiKey::Fetch, version, request).await;
            let partition = &answer.responses[0].partitions[0];
            assert_eq!((partition.error_code, partition.high_watermark), (0, 11));
            let bytes = partition.records.as_ref().map_or(0, Bytes::len);
            assert_eq!(bytes, 11 * Batch::default().encode().len());
        }
        for version in 1..=9 {
            // Latest, earliest, newest record, earliest local, tiered; then by time.
            let expected = [
                (-1, 11),
                (-2, 0),
                (-3, 0),
                (-4, 0),
                (-5, -1),
                (1_000, 0),
                (2_000, -1),
            ];
            for (timestamp, offset) in expected {
                let found = self.list_offsets(version, timestamp).await;
                assert_eq!(
                    (found.error_code, found.offset),
                    (0, offset),
                    "version {version} at {timestamp}"
                );
                let epoch = if version >= 4 && offset >= 0 { 0 } else { -1 };
                assert_eq!(found.leader_epoch, epoch);
            }
        }
    }

    async fn list_offsets(
        &mut self,
        version: i16,
        timestamp: i64,
    ) -> list_offsets_response::ListOffsetsPartitionResponse {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(name())
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let mut answer: ListOffsetsResponse = self.ask(ApiKey::ListOffsets, version, request).await;
        answer.topics.remove(0).partitions.remove(0)
    }

    async fn offsets(&mut self) {
        for version in 2..=9 {
            let partition =
                OffsetCommitRequestPartition::default().with_committed_offset(version.into());
            let topic = OffsetCommitRequestTopic::default()
                .with_name(name())
                .with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default()
                .with_group_id(group())
                .with_topics(vec![topic]);
            let answer: OffsetCommitResponse =
                self.ask(ApiKey::OffsetCommit, version, request).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        }
        for version in 1..=9 {
            let offset = self.committed(version).await;
            assert_eq!(offset, 9, "version {version}");
        }
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(name())
            .with_partitions(vec![OffsetDeleteRequestPartition::default()]);
        let request = OffsetDeleteRequest::default()
            .with_group_id(group())
            .with_topics(vec![topic]);
        let answer: OffsetDeleteResponse = self.ask(ApiKey::OffsetDelete, 0, request).await;
        assert_eq!(answer.error_code, 0);
    }

    async fn committed(&mut self, version: i16) -> i64 {
        if version < 8 {
            let topic = OffsetFetchRequestTopic::default()
                .with_name(name())
                .with_partition_indexes(vec![0]);
            let request = OffsetFetchRequest::default()
                .with_group_id(group())
                .with_topics(Some(vec![topic]));
            let answer: OffsetFetchResponse = self.ask(ApiKey::OffsetFetch, version, request).await;
            return answer.topics[0].partitions[0].committed_offset;
        }
        let topic = OffsetFetchRequestTopics::default()
            .with_name(name())
            .with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(group())
            .with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![asked]);
        let answer: OffsetFetchResponse = self.ask(ApiKey::OffsetFetch, version, request).await;
        answer.groups[0].topics[0].partitions[0].committed_offset
    }

    async fn groups(&mut self) {
        for version in 0..=5 {
            for (key_type, served) in [(0, true), (1, false)] {
                let mut request = FindCoordinatorRequest::default();
                if version >= 1 {
                    request.key_type = key_type;
                }
                if version >= 4 {
                    request.coordinator_keys = vec![text("g")];
                } else {
                    request.key = text("g");
                }
                let answer: FindCoordinatorResponse =
                    self.ask(ApiKey::FindCoordinator, version, request).await;
                let code = match answer.coordinators.first() {
                    Some(coordinator) => coordinator.error_code,
                    None => answer.error_code,
                };
                assert_eq!(code == 0, served || version == 0);
            }
        }
        for version in 0..=9 {
            self.membership(version).await;
        }
        for version in 0..=5 {
            let request = ListGroupsRequest::default();
            let answer: ListGroupsResponse = self.ask(ApiKey::ListGroups, version, request).await;
            assert_eq!(answer.groups.len(), 0, "all left");
        }
        for version in 0..=2 {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
            let answer: DeleteGroupsResponse =
                self.ask(ApiKey::DeleteGroups, version, request).await;
            let absent = ResponseError::GroupIdNotFound.code();
            assert_eq!(answer.results[0].error_code, absent);
        }
    }

    async fn join(&mut self, version: i16, member: StrBytes) -> JoinGroupResponse {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"subscription"));
        let mut request = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_member_id(member)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        if version >= 1 {
            request.rebalance_timeout_ms = 10_000;
        }
        self.ask(ApiKey::JoinGroup, version, request).await
    }

    /// A member joins, synchronizes, shows itself and leaves.
    async fn membership(&mut self, version: i16) {
        let mut joined = self.join(version, StrBytes::new()).await;
        if joined.error_code == ResponseError::MemberIdRequired.code() {
            joined = self.join(version, joined.member_id).await;
        }
        assert_eq!(joined.error_code, 0, "version {version}");
        let member = joined.member_id;
        let assigned = SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment(Bytes::from_static(b"all"));
        let request = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(joined.generation_id)
            .with_member_id(member.clone())
            .with_assignments(vec![assigned]);
        let answer: SyncGroupResponse = self.ask(ApiKey::SyncGroup, version.min(5), request).await;
        assert_eq!(answer.assignment.as_ref(), b"all");
        let request = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(joined.generation_id)
            .with_member_id(member.clone());
        let answer: HeartbeatResponse = self.ask(ApiKey::Heartbeat, version.min(4), request).await;
        assert_eq!(answer.error_code, 0);
        let names = vec![group(), GroupId(text("absent"))];
        let request = DescribeGroupsRequest::default().with_groups(names);
        let answer: DescribeGroupsResponse = self
            .ask(ApiKey::DescribeGroups, version.min(6), request)
            .await;
        assert_eq!(answer.groups[0].members.len(), 1);
        let request = match version {
            0..=2 => LeaveGroupRequest::default().with_member_id(member),
            _ => LeaveGroupRequest::default()
                .with_members(vec![MemberIdentity::default().with_member_id(member)]),
        };
        let answer: LeaveGroupResponse = self
            .ask(
                ApiKey::LeaveGroup,
                version.min(5),
                request.with_group_id(group()),
            )
            .await;
        assert_eq!(answer.error_code, 0);
    }
}

#[tokio::test]
async fn every_advertised_version_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await.unwrap();
    let mut sweep = Sweep {
        client: Client::connect(&broker).await,
        asked: BTreeSet::new(),
        advertised: BTreeMap::new(),
    };
    sweep.cluster().await;
    let id = sweep.topics().await;
    sweep.configs().await;
    sweep.records(id).await;
    sweep.offsets().await;
    sweep.groups().await;
    assert!(!sweep.advertised.is_empty());
    for (api, (first, last)) in std::mem::take(&mut sweep.advertised) {
        for version in first..=last {
            // Advertised, because librdkafka takes a broker without them for one of before
            // compression, and refused.
            if api == ApiKey::Produce as i16 && version < 3 {
                let mut client = Client::connect(&broker).await;
                let request = produce(-1, Batch::default().encode());
                client.send(ApiKey::Produce, 3, request).await;
                assert_eq!(produced(&mut client, 3).await.0, 0);
                let head = [0, 0, 0, 10, 0, 0, 0, version as u8, 0, 0, 0, 7, 0, 0];
                client.0.write_all(&head).await.unwrap();
                assert!(client.is_cut_off().await, "version {version}");
                continue;
            }
            assert!(
                sweep.asked.contains(&(api, version)),
                "{:?} version {version} is advertised and was not asked",
                ApiKey::try_from(api)
            );
        }
    }
    broker.shutdown().await.unwrap();
}
