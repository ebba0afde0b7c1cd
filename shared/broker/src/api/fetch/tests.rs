use kafka_protocol::messages::FetchResponse;
use kafka_protocol::protocol::Decodable;

use super::*;

fn encoded(version: i16, topics: &[WantedTopic], found: &[Found]) -> Bytes {
    let mut encoder = Encoder {
        version,
        bytes: BytesMut::new(),
        chunks: Vec::new(),
    };
    encoder.response(0, topics, found).unwrap();
    encoder.finish().concat().into()
}

fn wanted(index: i32) -> Wanted {
    let partition = Err(ResponseError::UnknownTopicOrPartition);
    Wanted {
        index,
        partition,
        offset: 0,
        bytes_max: 0,
    }
}

#[test]
fn the_answer_is_what_the_generated_decoder_reads_in_every_version() {
    let id = Uuid::from_u128(9);
    let topics = [
        WantedTopic {
            name: "one".to_owned(),
            id,
            partitions: vec![wanted(0), wanted(5)],
        },
        WantedTopic {
            name: "two".to_owned(),
            id,
            partitions: vec![wanted(1)],
        },
    ];
    let extent = Extent {
        log_start: 3,
        high_watermark: 40,
    };
    let large = Bytes::from(vec![7; 300]);
    let records = vec![Bytes::from_static(b"head"), large];
    let found = [
        Found {
            error: 0,
            extent,
            records: records.clone(),
        },
        Found::error(ResponseError::OffsetOutOfRange),
        Found {
            error: 0,
            extent,
            records: Vec::new(),
        },
    ];
    for version in 4..=16 {
        let mut bytes = encoded(version, &topics, &found);
        let response = FetchResponse::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty(), "version {version}");
        assert_eq!(response.responses.len(), 2, "version {version}");
        let first = &response.responses[0];
        if version < TOPIC_IDS_FROM {
            assert_eq!(first.topic.0.as_str(), "one");
        } else {
            assert_eq!(first.topic_id, id);
        }
        let parts = &first.partitions;
        assert_eq!(
            parts[0].records.as_deref(),
            Some(records.concat().as_slice())
        );
        assert_eq!(
            (parts[0].high_watermark, parts[0].last_stable_offset),
            (40, 40)
        );
        assert_eq!(parts[0].log_start_offset, if version >= 5 { 3 } else { -1 });
        assert_eq!(parts[1].partition_index, 5);
        assert_eq!(parts[1].error_code, ResponseError::OffsetOutOfRange.code());
        assert_eq!(response.responses[1].partitions[0].partition_index, 1);
    }
}
