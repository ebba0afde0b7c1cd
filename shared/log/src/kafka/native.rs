//! The safe shell around librdkafka's C API, for what the `rdkafka` crate does not reach: consuming
//! in batches, an assignment that waits for its owner's offsets, topic ids, offsets of many buckets
//! at once.

#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::{Bucket, Offset};

use crate::{LogError, TopicBucket};

const ERROR_TEXT_BYTES: usize = 512;

/// What a group coordinator asks for; to be answered with [`Client::assign`] or
/// [`Client::unassign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rebalance {
    Assign(Vec<TopicBucket>),
    Revoke(Vec<TopicBucket>),
    Failed(String),
}

#[derive(Debug, Default)]
struct Callbacks {
    rebalances: Mutex<Vec<Rebalance>>,
    /// Set while closing: nobody is there to answer, so the callback does.
    closing: std::sync::atomic::AtomicBool,
}

/// One librdkafka client (consumer type), destroyed when the last reference goes.
#[derive(Debug)]
pub(crate) struct Client {
    handle: *mut rd::rd_kafka_t,
    queue: *mut rd::rd_kafka_queue_t,
    callbacks: Box<Callbacks>,
}

// SAFETY: librdkafka handles are thread-safe; the callbacks' state is behind a mutex.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// A consumer with these properties. Nothing is contacted yet.
    pub(crate) fn consumer(properties: &BTreeMap<String, String>) -> Result<Arc<Self>, LogError> {
        let callbacks = Box::new(Callbacks::default());
        // SAFETY: the configuration is owned here until `rd_kafka_new` takes it; the opaque pointer
        // lives in a box that the client owns and drops after the handle.
        unsafe {
            let conf = rd::rd_kafka_conf_new();
            for (name, value) in properties {
                if let Err(error) = set(conf, name, value) {
                    rd::rd_kafka_conf_destroy(conf);
                    return Err(error);
                }
            }
            rd::rd_kafka_conf_set_opaque(conf, ptr::from_ref(&*callbacks).cast_mut().cast());
            rd::rd_kafka_conf_set_rebalance_cb(conf, Some(on_rebalance));
            rd::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            rd::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            let mut text = [0 as c_char; ERROR_TEXT_BYTES];
            let handle = rd::rd_kafka_new(
                rd::rd_kafka_type_t::RD_KAFKA_CONSUMER,
                conf,
                text.as_mut_ptr(),
                text.len(),
            );
            if handle.is_null() {
                rd::rd_kafka_conf_destroy(conf);
                return Err(LogError::Client(text_of(text.as_ptr())));
            }
            rd::rd_kafka_poll_set_consumer(handle);
            let queue = rd::rd_kafka_queue_get_consumer(handle);
            Ok(Arc::new(Self {
                handle,
                queue,
                callbacks,
            }))
        }
    }

    pub(crate) fn subscribe(&self, pattern: &str) -> Result<(), LogError> {
        let list = PartitionList::new();
        list.add(pattern, -1, rd::RD_KAFKA_OFFSET_INVALID as i64)?;
        // SAFETY: both pointers are valid; the list is copied.
        let code = unsafe { rd::rd_kafka_subscribe(self.handle, list.0) };
        check(code, "subscribe")
    }

    pub(crate) fn unsubscribe(&self) -> Result<(), LogError> {
        // SAFETY: valid handle.
        let code = unsafe { rd::rd_kafka_unsubscribe(self.handle) };
        check(code, "unsubscribe")
    }

    /// True between being taken in by a group and leaving it.
    pub(crate) fn is_member(&self) -> bool {
        // SAFETY: valid handle; the text is ours to free.
        unsafe {
            let id = rd::rd_kafka_memberid(self.handle);
            let is_member = !text_of(id).is_empty();
            if !id.is_null() {
                rd::rd_kafka_mem_free(self.handle, id.cast());
            }
            is_member
        }
    }

    /// Up to `max` messages, or fewer once `timeout_ms` has passed. Rebalances are noted on the
    /// way.
    pub(crate) fn consume(
        &self,
        into: &mut Vec<*mut rd::rd_kafka_message_t>,
        max: usize,
        timeout_ms: i32,
    ) {
        into.reserve(max);
        // SAFETY: the spare capacity is `max` pointers; librdkafka says how many it wrote.
        unsafe {
            let room = into.as_mut_ptr().add(into.len());
            let n = rd::rd_kafka_consume_batch_queue(self.queue, timeout_ms, room, max);
            if let Ok(n) = usize::try_from(n) {
                into.set_len(into.len() + n.min(max));
            }
        }
    }

    pub(crate) fn take_rebalances(&self) -> Vec<Rebalance> {
        std::mem::take(&mut *lock(&self.callbacks.rebalances))
    }

    /// Adds to the assignment, from the given offsets.
    pub(crate) fn assign(&self, from: &[(TopicBucket, Offset)]) -> Result<(), LogError> {
        let list = PartitionList::of(from)?;
        // SAFETY: valid pointers; the list is copied; the returned error is owned by us.
        unsafe {
            owned_error(
                rd::rd_kafka_incremental_assign(self.handle, list.0),
                "assign",
            )
        }
    }

    pub(crate) fn unassign(&self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        let list = PartitionList::without_offsets(buckets)?;
        // SAFETY: as in `assign`.
        unsafe {
            owned_error(
                rd::rd_kafka_incremental_unassign(self.handle, list.0),
                "unassign",
            )
        }
    }

    /// Replaces the whole assignment of a consumer that is in no group.
    pub(crate) fn assign_by_hand(&self, from: &[(TopicBucket, Offset)]) -> Result<(), LogError> {
        let list = PartitionList::of(from)?;
        // SAFETY: valid pointers; the list is copied.
        check(
            unsafe { rd::rd_kafka_assign(self.handle, list.0) },
            "assign",
        )
    }

    pub(crate) fn pause(&self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        let list = PartitionList::without_offsets(buckets)?;
        // SAFETY: valid pointers.
        check(
            unsafe { rd::rd_kafka_pause_partitions(self.handle, list.0) },
            "pause",
        )
    }

    pub(crate) fn resume(&self, buckets: &[TopicBucket]) -> Result<(), LogError> {
        let list = PartitionList::without_offsets(buckets)?;
        // SAFETY: valid pointers.
        check(
            unsafe { rd::rd_kafka_resume_partitions(self.handle, list.0) },
            "resume",
        )
    }

    /// Commits group offsets without waiting: for lag tools only.
    pub(crate) fn commit(&self, offsets: &[(TopicBucket, Offset)]) -> Result<(), LogError> {
        let list = PartitionList::of(offsets)?;
        // SAFETY: valid pointers; the list is copied.
        check(
            unsafe { rd::rd_kafka_commit(self.handle, list.0, 1) },
            "commit",
        )
    }

    /// The bucket's end as the last fetch saw it; local.
    pub(crate) fn end_offset_seen(&self, at: &TopicBucket) -> Option<Offset> {
        let topic = c_string("topic", &at.topic).ok()?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: valid pointers; reads what the client has cached.
        let code = unsafe {
            rd::rd_kafka_get_watermark_offsets(
                self.handle,
                topic.as_ptr(),
                partition_of(at.bucket),
                &raw mut low,
                &raw mut high,
            )
        };
        (code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
    }

    /// Where the client goes on, offsets without a message included; local.
    pub(crate) fn position(&self, at: &TopicBucket) -> Option<Offset> {
        let list = PartitionList::without_offsets(std::slice::from_ref(at)).ok()?;
        // SAFETY: valid pointers; the list has the one entry that was added.
        let offset = unsafe {
            let code = rd::rd_kafka_position(self.handle, list.0);
            check(code, "position").ok()?;
            (*(*list.0).elems).offset
        };
        (offset >= 0).then_some(Offset(offset))
    }

    /// The error that ended this client, if one did.
    pub(crate) fn fatal_error(&self) -> Option<LogError> {
        let mut text = [0 as c_char; ERROR_TEXT_BYTES];
        // SAFETY: the buffer is as long as said.
        let code = unsafe { rd::rd_kafka_fatal_error(self.handle, text.as_mut_ptr(), text.len()) };
        if code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let text = text_of(text.as_ptr());
        Some(match code {
            RespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID => LogError::Fenced(text),
            _ => LogError::Client(text),
        })
    }

    /// From here on nobody answers revocations but this.
    pub(crate) fn begin_closing(&self) {
        self.callbacks
            .closing
            .store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Leaves the group, unless it has an instance id. Revocations that come of it are answered at
    /// once.
    pub(crate) fn close(&self) {
        self.begin_closing();
        let revoked = |rebalance: &Rebalance| matches!(rebalance, Rebalance::Revoke(_));
        if self.take_rebalances().iter().any(revoked) {
            // SAFETY: valid handle.
            unsafe { unassign_all(self.handle) };
        }
        // SAFETY: valid handle; may be called once, which the consumer thread sees to.
        unsafe { rd::rd_kafka_consumer_close(self.handle) };
    }

    pub(crate) fn handle(&self) -> *mut rd::rd_kafka_t {
        self.handle
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.callbacks
            .closing
            .store(true, std::sync::atomic::Ordering::SeqCst);
        // SAFETY: last owner; messages hold their own reference to the client and are gone.
        unsafe {
            rd::rd_kafka_queue_destroy(self.queue);
            rd::rd_kafka_destroy(self.handle);
        }
    }
}

/// An owned list of partitions.
pub(crate) struct PartitionList(pub(crate) *mut rd::rd_kafka_topic_partition_list_t);

impl PartitionList {
    fn new() -> Self {
        // SAFETY: plain allocation.
        Self(unsafe { rd::rd_kafka_topic_partition_list_new(16) })
    }

    fn add(&self, topic: &str, partition: i32, offset: i64) -> Result<(), LogError> {
        let topic = c_string("topic", topic)?;
        // SAFETY: the list grows as needed; the name is copied.
        unsafe {
            let entry = rd::rd_kafka_topic_partition_list_add(self.0, topic.as_ptr(), partition);
            (*entry).offset = offset;
        }
        Ok(())
    }

    pub(crate) fn of(entries: &[(TopicBucket, Offset)]) -> Result<Self, LogError> {
        let list = Self::new();
        for (at, offset) in entries {
            list.add(&at.topic, partition_of(at.bucket), offset.0)?;
        }
        Ok(list)
    }

    fn without_offsets(buckets: &[TopicBucket]) -> Result<Self, LogError> {
        let list = Self::new();
        for at in buckets {
            list.add(
                &at.topic,
                partition_of(at.bucket),
                rd::RD_KAFKA_OFFSET_INVALID as i64,
            )?;
        }
        Ok(list)
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { rd::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

fn partition_of(bucket: Bucket) -> i32 {
    i32::try_from(bucket.0).unwrap_or(i32::MAX)
}

pub(crate) fn c_string(what: &str, text: &str) -> Result<CString, LogError> {
    CString::new(text).map_err(|_| LogError::Setting {
        name: what.to_owned(),
        reason: "has a zero byte in it".to_owned(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// `conf` must be a live configuration.
unsafe fn set(conf: *mut rd::rd_kafka_conf_t, name: &str, value: &str) -> Result<(), LogError> {
    let (key, val) = (c_string(name, name)?, c_string(name, value)?);
    let mut text = [0 as c_char; ERROR_TEXT_BYTES];
    // SAFETY: by the caller; the strings are copied.
    let result = unsafe {
        rd::rd_kafka_conf_set(
            conf,
            key.as_ptr(),
            val.as_ptr(),
            text.as_mut_ptr(),
            text.len(),
        )
    };
    if result == rd::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
        Ok(())
    } else {
        Err(LogError::Setting {
            name: name.to_owned(),
            reason: text_of(text.as_ptr()),
        })
    }
}

pub(crate) fn check(code: RespErr, what: &str) -> Result<(), LogError> {
    if code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        Ok(())
    } else {
        Err(LogError::Client(format!("{what}: {}", describe(code))))
    }
}

/// # Safety
/// `error` is null or an error object that the caller owns.
unsafe fn owned_error(error: *mut rd::rd_kafka_error_t, what: &str) -> Result<(), LogError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: by the caller.
    unsafe {
        let text = text_of(rd::rd_kafka_error_string(error));
        rd::rd_kafka_error_destroy(error);
        Err(LogError::Client(format!("{what}: {text}")))
    }
}

/// librdkafka's own words for a code.
pub(crate) fn describe(code: RespErr) -> String {
    // SAFETY: returns a static string.
    text_of(unsafe { rd::rd_kafka_err2str(code) })
}

/// A copy of a C string; empty for null.
pub(crate) fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka's strings end in a zero byte.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// # Safety
/// `list` must be a live list.
pub(crate) unsafe fn buckets_of(
    list: *const rd::rd_kafka_topic_partition_list_t,
) -> Vec<TopicBucket> {
    // SAFETY: by the caller; `cnt` elements are there.
    let entries = unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        if count == 0 {
            &[]
        } else {
            std::slice::from_raw_parts((*list).elems, count)
        }
    };
    entries
        .iter()
        .filter_map(|entry| {
            Some(TopicBucket {
                topic: Arc::from(text_of(entry.topic)),
                bucket: Bucket(u32::try_from(entry.partition).ok()?),
            })
        })
        .collect()
}

unsafe extern "C" fn on_rebalance(
    handle: *mut rd::rd_kafka_t,
    code: RespErr,
    partitions: *mut rd::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the client's box, which outlives the handle; called from our own poll.
    unsafe {
        let callbacks = &*opaque.cast::<Callbacks>();
        let closing = callbacks.closing.load(std::sync::atomic::Ordering::SeqCst);
        let rebalance = match code {
            RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                Rebalance::Assign(buckets_of(partitions))
            }
            RespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                if closing {
                    unassign_all(handle);
                    return;
                }
                Rebalance::Revoke(buckets_of(partitions))
            }
            other => Rebalance::Failed(describe(other)),
        };
        lock(&callbacks.rebalances).push(rebalance);
    }
}

/// Gives up what is assigned, which may be less than what the group gave us.
///
/// # Safety
/// `handle` must be a live client.
unsafe fn unassign_all(handle: *mut rd::rd_kafka_t) {
    let mut assigned = ptr::null_mut();
    // SAFETY: by the caller; the list that we are given is ours to free.
    unsafe {
        if rd::rd_kafka_assignment(handle, &raw mut assigned) != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return;
        }
        let error = rd::rd_kafka_incremental_unassign(handle, assigned);
        if let Err(error) = owned_error(error, "unassign") {
            tracing::debug!(%error, "close");
        }
        rd::rd_kafka_topic_partition_list_destroy(assigned);
    }
}

unsafe extern "C" fn on_log(
    _handle: *const rd::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    let (facility, text) = (text_of(facility), text_of(text));
    // syslog levels: 3 and below are errors, 4 warnings.
    match level {
        ..=3 => tracing::warn!(target: "librdkafka", facility, "{text}"),
        4 => tracing::info!(target: "librdkafka", facility, "{text}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

unsafe extern "C" fn on_error(
    _handle: *mut rd::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    _opaque: *mut c_void,
) {
    tracing::debug!(target: "librdkafka", code, "{}", text_of(reason));
}
