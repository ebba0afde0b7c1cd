//! The shapes of all requests that are served, as far as [`super::shape`] must know them.
//!
//! Fields that are only ever tagged are left out: tags are skipped by their length.

use kafka_protocol::messages::ApiKey;

/// What a field takes.
pub(super) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// Text, nullable or not.
    Text,
    /// Bytes, nullable or not.
    Bytes,
    /// An array of plain values, nullable or not.
    Plain(&'static Kind),
    /// An array of structures, nullable or not.
    List(&'static [Field]),
}

/// A field and the versions it appears in.
pub(super) struct Field(pub i16, pub i16, pub Kind);

use Kind::{Bytes, Fixed, List, Plain, Text};

const LAST: i16 = i16::MAX;
const BOOL: Kind = Fixed(1);
const I8: Kind = Fixed(1);
const I16: Kind = Fixed(2);
const I32: Kind = Fixed(4);
const I64: Kind = Fixed(8);
const UUID: Kind = Fixed(16);

const fn always(kind: Kind) -> Field {
    Field(0, LAST, kind)
}

const fn from(first: i16, kind: Kind) -> Field {
    Field(first, LAST, kind)
}

const PRODUCE: &[Field] = &[
    always(Text),
    always(I16),
    always(I32),
    always(List(&[
        Field(0, 12, Text),
        from(13, UUID),
        always(List(&[always(I32), always(Bytes)])),
    ])),
];

const FETCH: &[Field] = &[
    Field(0, 14, I32),
    always(I32),
    always(I32),
    always(I32),
    always(I8),
    from(7, I32),
    from(7, I32),
    always(List(&[
        Field(0, 12, Text),
        from(13, UUID),
        always(List(&[
            always(I32),
            from(9, I32),
            always(I64),
            from(12, I32),
            from(5, I64),
            always(I32),
        ])),
    ])),
    from(
        7,
        List(&[Field(0, 12, Text), from(13, UUID), always(Plain(&I32))]),
    ),
    from(11, Text),
];

const LIST_OFFSETS: &[Field] = &[
    always(I32),
    from(2, I8),
    always(List(&[
        always(Text),
        always(List(&[always(I32), from(4, I32), always(I64)])),
    ])),
    from(10, I32),
];

const METADATA: &[Field] = &[
    always(List(&[from(10, UUID), always(Text)])),
    from(4, BOOL),
    Field(8, 10, BOOL),
    from(8, BOOL),
];

const OFFSET_COMMIT: &[Field] = &[
    always(Text),
    always(I32),
    always(Text),
    from(7, Text),
    Field(2, 4, I64),
    always(List(&[
        always(Text),
        always(List(&[
            always(I32),
            always(I64),
            from(6, I32),
            always(Text),
        ])),
    ])),
];

const OFFSET_FETCH: &[Field] = &[
    Field(0, 7, Text),
    Field(0, 7, List(&[always(Text), always(Plain(&I32))])),
    from(
        8,
        List(&[
            always(Text),
            from(9, Text),
            from(9, I32),
            always(List(&[always(Text), always(Plain(&I32))])),
        ]),
    ),
    from(7, BOOL),
];

const JOIN_GROUP: &[Field] = &[
    always(Text),
    always(I32),
    from(1, I32),
    always(Text),
    from(5, Text),
    always(Text),
    always(List(&[always(Text), always(Bytes)])),
    from(8, Text),
];

const SYNC_GROUP: &[Field] = &[
    always(Text),
    always(I32),
    always(Text),
    from(3, Text),
    from(5, Text),
    from(5, Text),
    always(List(&[always(Text), always(Bytes)])),
];

const CREATE_TOPICS: &[Field] = &[
    always(List(&[
        always(Text),
        always(I32),
        always(I16),
        always(List(&[always(I32), always(Plain(&I32))])),
        always(List(&[always(Text), always(Text)])),
    ])),
    always(I32),
    always(BOOL),
];

const CREATE_PARTITIONS: &[Field] = &[
    always(List(&[
        always(Text),
        always(I32),
        always(List(&[always(Plain(&I32))])),
    ])),
    always(I32),
    always(BOOL),
];

const HEARTBEAT: &[Field] = &[always(Text), always(I32), always(Text), from(3, Text)];

const LEAVE_GROUP: &[Field] = &[
    always(Text),
    Field(0, 2, Text),
    from(3, List(&[always(Text), always(Text), from(5, Text)])),
];

const DESCRIBE_GROUPS: &[Field] = &[always(Plain(&Text)), from(3, BOOL)];

const LIST_GROUPS: &[Field] = &[from(4, Plain(&Text)), from(5, Plain(&Text))];

const API_VERSIONS: &[Field] = &[from(3, Text), from(3, Text)];

const DELETE_TOPICS: &[Field] = &[
    from(6, List(&[always(Text), always(UUID)])),
    Field(0, 5, Plain(&Text)),
    always(I32),
];

const INIT_PRODUCER_ID: &[Field] = &[always(Text), always(I32), from(3, I64), from(3, I16)];

const DESCRIBE_CONFIGS: &[Field] = &[
    always(List(&[always(I8), always(Text), always(Plain(&Text))])),
    always(BOOL),
    from(3, BOOL),
];

const ALTER_CONFIGS: &[Field] = &[
    always(List(&[
        always(I8),
        always(Text),
        always(List(&[always(Text), always(Text)])),
    ])),
    always(BOOL),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(List(&[
        always(I8),
        always(Text),
        always(List(&[always(Text), always(I8), always(Text)])),
    ])),
    always(BOOL),
];

const DELETE_GROUPS: &[Field] = &[always(Plain(&Text))];

const DESCRIBE_CLUSTER: &[Field] = &[always(BOOL), from(1, I8), from(2, BOOL)];

const FIND_COORDINATOR: &[Field] = &[Field(0, 3, Text), from(1, I8), from(4, Plain(&Text))];

const OFFSET_DELETE: &[Field] = &[
    always(Text),
    always(List(&[always(Text), always(List(&[always(I32)]))])),
];

/// The fields of a request's body.
pub(super) fn shape(api: ApiKey) -> Option<&'static [Field]> {
    Some(match api {
        ApiKey::Produce => PRODUCE,
        ApiKey::Fetch => FETCH,
        ApiKey::ListOffsets => LIST_OFFSETS,
        ApiKey::Metadata => METADATA,
        ApiKey::OffsetCommit => OFFSET_COMMIT,
        ApiKey::OffsetFetch => OFFSET_FETCH,
        ApiKey::JoinGroup => JOIN_GROUP,
        ApiKey::SyncGroup => SYNC_GROUP,
        ApiKey::CreateTopics => CREATE_TOPICS,
        ApiKey::CreatePartitions => CREATE_PARTITIONS,
        ApiKey::FindCoordinator => FIND_COORDINATOR,
        ApiKey::Heartbeat => HEARTBEAT,
        ApiKey::LeaveGroup => LEAVE_GROUP,
        ApiKey::DescribeGroups => DESCRIBE_GROUPS,
        ApiKey::ListGroups => LIST_GROUPS,
        ApiKey::ApiVersions => API_VERSIONS,
        ApiKey::DeleteTopics => DELETE_TOPICS,
        ApiKey::InitProducerId => INIT_PRODUCER_ID,
        ApiKey::DescribeConfigs => DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => ALTER_CONFIGS,
        ApiKey::IncrementalAlterConfigs => INCREMENTAL_ALTER_CONFIGS,
        ApiKey::DeleteGroups => DELETE_GROUPS,
        ApiKey::OffsetDelete => OFFSET_DELETE,
        ApiKey::DescribeCluster => DESCRIBE_CLUSTER,
        _ => return None,
    })
}
