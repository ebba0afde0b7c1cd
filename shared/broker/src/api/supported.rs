//! Which requests are served, in which versions.

use kafka_protocol::messages::ApiKey;

/// Every API with its first and last version. Only what is listed here is ever decoded.
///
/// Produce is advertised from version 0, as Kafka 4 does, because librdkafka takes a missing version
/// 0 for a broker without compression; versions below 3 are refused all the same.
pub(crate) const SUPPORTED: [(ApiKey, i16, i16); 24] = [
    (ApiKey::Produce, 0, 13),
    (ApiKey::Fetch, 4, 16),
    (ApiKey::ListOffsets, 1, 9),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 9),
    (ApiKey::FindCoordinator, 0, 5),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeCluster, 0, 2),
];

/// True where a request of this version is decoded.
pub(super) fn serves(api: ApiKey, version: i16) -> bool {
    let first_decoded = if api == ApiKey::Produce { 3 } else { 0 };
    version >= first_decoded
        && SUPPORTED
            .iter()
            .any(|(supported, min, max)| *supported == api && (*min..=*max).contains(&version))
}
