//! Requests of librdkafka's admin interface, to wait for or to look after from a polling loop.

#![expect(
    unsafe_code,
    reason = "describe-topics, describe-cluster and list-offsets exist in the C API only"
)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::{Bucket, Offset, TopicId};

use super::native::{Client, PartitionList, c_string, describe, text_of};
use crate::{LogError, TopicBucket, TopicInfo};

/// After which librdkafka gives a request up.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// After which nobody waits for an answer any more.
pub(super) const PATIENCE: Duration = Duration::from_secs(11);

/// librdkafka's `RD_KAFKA_OFFSET_SPEC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spec {
    Latest = -1,
    Earliest = -2,
}

/// What a topic is; `None` where the broker that was asked does not know it.
pub(super) type Described = BTreeMap<String, Result<Option<TopicInfo>, LogError>>;
/// By bucket; an error is librdkafka's code.
pub(super) type Listed = Vec<(TopicBucket, Result<Offset, RespErr>)>;

/// A request on its way: options, a queue for the answer, the answer itself.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) options: *mut rd::rd_kafka_AdminOptions_t,
    pub(super) queue: *mut rd::rd_kafka_queue_t,
    pub(super) event: *mut rd::rd_kafka_event_t,
    what: String,
    /// The queue must not outlive it.
    _client: Arc<Client>,
}

// SAFETY: the objects are used by one owner at a time, and librdkafka ties none to a thread.
unsafe impl Send for Request {}

impl Request {
    pub(super) fn new(client: &Arc<Client>, kind: rd::rd_kafka_admin_op_t, what: String) -> Self {
        let timeout = c_int::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(c_int::MAX);
        let mut text = [0 as c_char; 256];
        // SAFETY: valid handle; freed on drop.
        unsafe {
            let options = rd::rd_kafka_AdminOptions_new(client.handle(), kind);
            rd::rd_kafka_AdminOptions_set_request_timeout(
                options,
                timeout,
                text.as_mut_ptr(),
                text.len(),
            );
            let queue = rd::rd_kafka_queue_new(client.handle());
            Self {
                options,
                queue,
                event: ptr::null_mut(),
                what,
                _client: Arc::clone(client),
            }
        }
    }

    /// `None` where there is no answer yet.
    fn poll(&mut self, wait: Duration) -> Option<Result<(), LogError>> {
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: own queue; the event is freed on drop.
        unsafe {
            self.event = rd::rd_kafka_queue_poll(self.queue, wait);
            if self.event.is_null() {
                return None;
            }
            let code = rd::rd_kafka_event_error(self.event);
            if code != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let text = text_of(rd::rd_kafka_event_error_string(self.event));
                return Some(Err(LogError::unavailable(&*self.what, text)));
            }
        }
        Some(Ok(()))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: owned, in the order that librdkafka asks for.
        unsafe {
            if !self.event.is_null() {
                rd::rd_kafka_event_destroy(self.event);
            }
            rd::rd_kafka_queue_destroy(self.queue);
            rd::rd_kafka_AdminOptions_destroy(self.options);
        }
    }
}

/// A question whose answer is a `T`.
pub(super) struct Question<T> {
    pub(super) request: Request,
    pub(super) read: fn(&Request) -> T,
}

impl<T> Question<T> {
    /// The answer, where it is there; a question that was answered is not asked again.
    pub(super) fn poll(&mut self) -> Option<Result<T, LogError>> {
        self.within(Duration::ZERO)
    }

    /// Blocks until there is an answer.
    pub(super) fn wait(self) -> Result<T, LogError> {
        self.wait_at_most(PATIENCE)
    }

    /// Blocks until there is an answer, or the time is over.
    pub(super) fn wait_at_most(mut self, time: Duration) -> Result<T, LogError> {
        let answer = self.within(time.min(PATIENCE));
        let late = || LogError::unavailable(&*self.request.what, "no answer in time");
        answer.unwrap_or_else(|| Err(late()))
    }

    fn within(&mut self, wait: Duration) -> Option<Result<T, LogError>> {
        let answered = self.request.poll(wait)?;
        Some(answered.map(|()| (self.read)(&self.request)))
    }
}

impl<T> std::fmt::Debug for Question<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Question").field(&self.request.what).finish()
    }
}

/// Asks what topics are; of one broker, which may not have heard of one yet.
pub(super) fn describe_topics(
    client: &Arc<Client>,
    names: &[&str],
) -> Result<Question<Described>, LogError> {
    let what = match names {
        [name] => format!("describe topic {name}"),
        _ => format!("describe {} topics", names.len()),
    };
    let names: Result<Vec<CString>, _> = names.iter().map(|name| c_string("topic", name)).collect();
    let names = names?;
    let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    let request = Request::new(client, kind, what);
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: pointers are valid for the calls, which copy the names.
    unsafe {
        let topics =
            rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        rd::rd_kafka_DescribeTopics(client.handle(), topics, request.options, request.queue);
        rd::rd_kafka_TopicCollection_destroy(topics);
    }
    Ok(Question {
        request,
        read: read_described,
    })
}

fn read_described(request: &Request) -> Described {
    let mut described = Described::new();
    // SAFETY: everything that the answer points to lives as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(request.event);
        let mut count = 0;
        let all = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for index in 0..count {
            let description = *all.add(index);
            let name = text_of(rd::rd_kafka_TopicDescription_name(description));
            let info = topic_info(description, &name);
            described.insert(name, info);
        }
    }
    described
}

/// # Safety
/// `description` must be alive.
unsafe fn topic_info(
    description: *const rd::rd_kafka_TopicDescription_t,
    name: &str,
) -> Result<Option<TopicInfo>, LogError> {
    let what = || format!("describe topic {name}");
    // SAFETY: by the caller.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(description);
        match rd::rd_kafka_error_code(error) {
            RespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC => return Ok(None),
            RespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => {
                return Err(LogError::Denied(what()));
            }
            code => return Err(LogError::unavailable(what(), describe(code))),
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(description);
        let high = rd::rd_kafka_Uuid_most_significant_bits(id).to_be_bytes();
        let low = rd::rd_kafka_Uuid_least_significant_bits(id).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high);
        bytes[8..].copy_from_slice(&low);
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        let buckets = u32::try_from(partitions).unwrap_or(u32::MAX);
        let id = TopicId(bytes);
        Ok(Some(TopicInfo { id, buckets }))
    }
}

/// Asks the leaders of buckets for an offset of each: as readers see them, so an end lies before
/// the first record of a transaction that is open.
pub(super) fn list_offsets(
    client: &Arc<Client>,
    of: &[TopicBucket],
    spec: Spec,
) -> Result<Question<Listed>, LogError> {
    let what = match of.first() {
        Some(at) => format!("offsets of {}", at.topic),
        None => "offsets of nothing".into(),
    };
    let wanted: Vec<_> = of
        .iter()
        .map(|at| (at.clone(), Offset(spec as i64)))
        .collect();
    let list = PartitionList::of(&wanted)?;
    let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
    let request = Request::new(client, kind, what);
    // SAFETY: valid pointers; the list is copied.
    unsafe {
        let error = rd::rd_kafka_AdminOptions_set_isolation_level(
            request.options,
            rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        );
        if !error.is_null() {
            rd::rd_kafka_error_destroy(error);
        }
        rd::rd_kafka_ListOffsets(client.handle(), list.0, request.options, request.queue);
    }
    Ok(Question {
        request,
        read: read_listed,
    })
}

fn read_listed(request: &Request) -> Listed {
    let mut listed = Listed::new();
    // SAFETY: everything that the answer points to lives as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_ListOffsets_result(request.event);
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        for index in 0..count {
            let entry = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let at = TopicBucket {
                topic: Arc::from(text_of(entry.topic)),
                bucket: Bucket(u32::try_from(entry.partition).unwrap_or(u32::MAX)),
            };
            let offset = match entry.err {
                RespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(Offset(entry.offset)),
                code => Err(code),
            };
            listed.push((at, offset));
        }
    }
    listed
}

/// Asks for the cluster's id: the smallest question that a broker answers.
pub(super) fn describe_cluster(client: &Arc<Client>) -> Question<String> {
    let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER;
    let request = Request::new(client, kind, "describe the cluster".into());
    // SAFETY: valid pointers.
    unsafe {
        rd::rd_kafka_DescribeCluster(client.handle(), request.options, request.queue);
    }
    Question {
        request,
        read: |request| {
            // SAFETY: everything that the answer points to lives as long as the event.
            unsafe {
                let result = rd::rd_kafka_event_DescribeCluster_result(request.event);
                text_of(rd::rd_kafka_DescribeCluster_result_cluster_id(result))
            }
        },
    }
}
