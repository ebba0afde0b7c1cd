//! What an error of the client means for its bucket.
//!
//! librdkafka hands errors out in place of messages and goes on as if nothing had been. So the list
//! here is of what is known to pass by itself; everything else stops the bucket, by name.

use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::Offset;

use super::message::Mishap;
use crate::LogError;

/// See [`judge`].
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing is wrong, or it heals inside the client. One that lasts is seen by the watchdog.
    Passes,
    /// Everything below the offset was read.
    AtEnd(Offset),
    /// The log does not have the offset.
    OutOfRange,
    /// From the offset on there are offsets that no record batch takes: right in a topic that is
    /// compacted, and in no other.
    Gap(Offset),
    /// A broker does not know the topic: it may be gone, or not known there yet.
    Unknown,
    /// Not allowed to read; the bucket, or with none the client, can't go on.
    Denied(LogError),
    /// The bucket can't go on.
    Fails(LogError),
}

pub(crate) fn judge(mishap: &Mishap) -> Verdict {
    // A pattern that matches no topic yet is reported as an unknown topic: nothing is wrong.
    if mishap.topic.starts_with('^') {
        return Verdict::Passes;
    }
    let is = |known: &[RespErr]| known.iter().any(|known| *known as i32 == mishap.code);
    if is(&[RespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF]) {
        Verdict::AtEnd(Offset(mishap.offset))
    } else if is(&[RespErr::RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE]) {
        Verdict::Gap(Offset(mishap.offset))
    } else if is(OUT_OF_RANGE) {
        Verdict::OutOfRange
    } else if is(UNKNOWN) {
        Verdict::Unknown
    } else if is(PASSING) {
        Verdict::Passes
    } else if is(DENIED) {
        Verdict::Denied(LogError::Denied(mishap.text.clone()))
    } else if let Some(bucket) = mishap.bucket {
        Verdict::Fails(LogError::Damaged {
            topic: mishap.topic.clone(),
            bucket,
            offset: mishap.offset,
            reason: mishap.text.clone(),
        })
    } else {
        Verdict::Denied(LogError::Client(mishap.text.clone()))
    }
}

const OUT_OF_RANGE: &[RespErr] = &[
    RespErr::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET,
    RespErr::RD_KAFKA_RESP_ERR__LOG_TRUNCATION,
    RespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
];

const UNKNOWN: &[RespErr] = &[
    RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
    RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID,
    RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
    RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
];

const DENIED: &[RespErr] = &[
    RespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    RespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    RespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    RespErr::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
    RespErr::RD_KAFKA_RESP_ERR__AUTHENTICATION,
];

/// Connections that break, leaders and coordinators that move, groups that are shared out anew:
/// librdkafka tries again until it succeeds.
const PASSING: &[RespErr] = &[
    RespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    RespErr::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
    RespErr::RD_KAFKA_RESP_ERR__RESOLVE,
    RespErr::RD_KAFKA_RESP_ERR__SSL,
    RespErr::RD_KAFKA_RESP_ERR__TIMED_OUT,
    RespErr::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE,
    RespErr::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT,
    RespErr::RD_KAFKA_RESP_ERR__WAIT_COORD,
    RespErr::RD_KAFKA_RESP_ERR__WAIT_CACHE,
    RespErr::RD_KAFKA_RESP_ERR__IN_PROGRESS,
    RespErr::RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS,
    RespErr::RD_KAFKA_RESP_ERR__RETRY,
    RespErr::RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST,
    RespErr::RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED,
    RespErr::RD_KAFKA_RESP_ERR__OUTDATED,
    RespErr::RD_KAFKA_RESP_ERR__DESTROY,
    RespErr::RD_KAFKA_RESP_ERR__NO_OFFSET,
    RespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    RespErr::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
    RespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
    RespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    RespErr::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
    RespErr::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
    RespErr::RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE,
    RespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    RespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
    RespErr::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
    RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
    RespErr::RD_KAFKA_RESP_ERR_STALE_BROKER_EPOCH,
    RespErr::RD_KAFKA_RESP_ERR_FETCH_SESSION_ID_NOT_FOUND,
    RespErr::RD_KAFKA_RESP_ERR_INVALID_FETCH_SESSION_EPOCH,
    RespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    RespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    RespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    RespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
    RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
    RespErr::RD_KAFKA_RESP_ERR_MEMBER_ID_REQUIRED,
    RespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
    RespErr::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
];

#[cfg(test)]
mod tests {
    use tidelake_core::{Bucket, ErrorKind};

    use super::*;

    fn mishap(code: i32, bucket: Option<u32>) -> Mishap {
        Mishap {
            topic: "t".into(),
            bucket: bucket.map(Bucket),
            offset: 7,
            place: 0,
            code,
            text: "reason".into(),
        }
    }

    #[test]
    fn what_is_not_known_to_pass_stops_its_bucket() {
        use RespErr as E;
        for code in [
            E::RD_KAFKA_RESP_ERR__BAD_MSG,
            E::RD_KAFKA_RESP_ERR__BAD_COMPRESSION,
            E::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED,
            E::RD_KAFKA_RESP_ERR_INVALID_MSG,
            E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            E::RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE,
            E::RD_KAFKA_RESP_ERR_UNKNOWN,
        ] {
            stops(code as i32);
        }
        // A code that this client has never heard of.
        stops(9_999);
        for code in [
            E::RD_KAFKA_RESP_ERR__TRANSPORT,
            E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        ] {
            assert!(matches!(
                judge(&mishap(code as i32, Some(3))),
                Verdict::Passes
            ));
            assert!(matches!(judge(&mishap(code as i32, None)), Verdict::Passes));
        }
    }

    fn stops(code: i32) {
        let Verdict::Fails(error) = judge(&mishap(code, Some(3))) else {
            panic!("{code} passes");
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.to_string();
        assert!(
            text.starts_with("t/3 is damaged at offset 7: reason"),
            "{text}"
        );
    }
}
