//! Messages in librdkafka's own memory.

#![expect(unsafe_code, reason = "reads librdkafka's message structs")]

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;

use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::{Bucket, Offset};

use super::native::{Client, text_of};

/// Messages of one poll. Given back to librdkafka when dropped, on whichever thread.
///
/// Not `Sync`: headers are parsed inside the message on first access, without a lock.
pub(crate) struct Batch {
    messages: Vec<*mut rd::rd_kafka_message_t>,
    /// Messages must not outlive their client.
    _client: Arc<Client>,
}

// SAFETY: a message may be read and destroyed on any thread, one at a time; what is borrowed from a
// batch holds raw pointers, so it can't be sent elsewhere while the batch is read here.
unsafe impl Send for Batch {}

/// Consecutive messages of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Views<'a>(&'a [*mut rd::rd_kafka_message_t]);

/// One message; borrows the batch.
#[derive(Clone, Copy)]
pub(crate) struct View<'a>(&'a rd::rd_kafka_message_t);

/// What came instead of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mishap {
    pub topic: String,
    /// `None` where it concerns the client as a whole.
    pub bucket: Option<Bucket>,
    pub offset: i64,
    /// How many messages of the batch came before it.
    pub place: usize,
    /// As librdkafka or the broker said it; may be one that this build has no name for.
    pub code: i32,
    pub text: String,
}

impl Batch {
    /// Takes ownership; what is not a message is set aside.
    pub(crate) fn new(
        raw: Vec<*mut rd::rd_kafka_message_t>,
        client: Arc<Client>,
    ) -> (Self, Vec<Mishap>) {
        let mut batch = Self {
            messages: raw,
            _client: client,
        };
        let mut mishaps = Vec::new();
        let mut place = 0;
        batch.messages.retain(|&message| {
            // SAFETY: every pointer came from the client and is destroyed exactly once: here, or on
            // drop for those that stay. A code may be none of the enum's, so it is read as a number
            // before anything looks at the message as a whole.
            unsafe {
                let code = (&raw const (*message).err).cast::<i32>().read();
                if code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR as i32 {
                    place += 1;
                    return true;
                }
                mishaps.push(Mishap {
                    topic: topic_of((*message).rkt).to_owned(),
                    bucket: u32::try_from((*message).partition).ok().map(Bucket),
                    offset: (*message).offset,
                    place,
                    code,
                    text: mishap_text(message, code),
                });
                rd::rd_kafka_message_destroy(message);
                false
            }
        });
        (batch, mishaps)
    }

    pub(crate) fn views(&self) -> Views<'_> {
        Views(&self.messages)
    }

    /// Keeps those messages for which `keep` says so, by place.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, View<'_>) -> bool) {
        let mut place = 0;
        self.messages.retain(|&message| {
            // SAFETY: alive until here; destroyed once.
            unsafe {
                let kept = keep(place, View(&*message));
                place += 1;
                if !kept {
                    rd::rd_kafka_message_destroy(message);
                }
                kept
            }
        });
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for &message in &self.messages {
            // SAFETY: owned, destroyed once.
            unsafe { rd::rd_kafka_message_destroy(message) };
        }
    }
}

impl<'a> Views<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(self, index: usize) -> Option<View<'a>> {
        // SAFETY: alive as long as the batch.
        self.0.get(index).map(|&message| View(unsafe { &*message }))
    }

    /// Cuts off the leading messages of one bucket.
    pub(crate) fn split_run(&mut self) -> Option<Self> {
        let first = self.get(0)?;
        let same = |message: &*mut rd::rd_kafka_message_t| {
            // SAFETY: alive as long as the batch.
            let other = unsafe { &**message };
            other.rkt == first.0.rkt && other.partition == first.0.partition
        };
        let len = self.0.iter().position(|message| !same(message));
        let (run, rest) = self.0.split_at(len.unwrap_or(self.0.len()));
        self.0 = rest;
        Some(Self(run))
    }
}

impl<'a> View<'a> {
    pub(crate) fn topic(self) -> &'a str {
        // SAFETY: the topic object lives as long as the message that refers to it.
        unsafe { topic_of(self.0.rkt) }
    }

    pub(crate) fn bucket(self) -> Bucket {
        bucket_of(self.0)
    }

    pub(crate) fn offset(self) -> Offset {
        Offset(self.0.offset)
    }

    /// The message's timestamp (producer's or broker's, as the topic is set); 0 when it has none.
    pub(crate) fn timestamp_ms(self) -> i64 {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: valid message.
        unsafe { rd::rd_kafka_message_timestamp(self.0, &raw mut kind) }.max(0)
    }

    pub(crate) fn key(self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka gives pointer and length of memory that the message owns.
        unsafe { bytes_of(self.0.key.cast(), self.0.key_len) }
    }

    pub(crate) fn value(self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes_of(self.0.payload.cast(), self.0.len) }
    }

    /// The last header of that name. Headers are parsed by librdkafka on first access.
    pub(crate) fn header(self, name: &str) -> Option<&'a [u8]> {
        let mut headers = ptr::null_mut();
        // SAFETY: valid message; headers and values live as long as it.
        unsafe {
            let code = rd::rd_kafka_message_headers(self.0, &raw mut headers);
            if code != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            let name = CString::new(name).ok()?;
            let (mut value, mut len) = (ptr::null(), 0);
            let code =
                rd::rd_kafka_header_get_last(headers, name.as_ptr(), &raw mut value, &raw mut len);
            if code != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            bytes_of(value.cast(), len)
        }
    }

    /// All headers, in order. Names that are not UTF-8 are left out.
    pub(crate) fn headers(self) -> Vec<(String, Option<&'a [u8]>)> {
        let mut found = Vec::new();
        let mut headers = ptr::null_mut();
        // SAFETY: valid message; headers, names and values live as long as it.
        unsafe {
            let code = rd::rd_kafka_message_headers(self.0, &raw mut headers);
            if code != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return found;
            }
            for place in 0.. {
                let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
                let code = rd::rd_kafka_header_get_all(
                    headers,
                    place,
                    &raw mut name,
                    &raw mut value,
                    &raw mut len,
                );
                if code != RespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                    break;
                }
                if let Ok(name) = CStr::from_ptr(name).to_str() {
                    found.push((name.to_owned(), bytes_of(value.cast(), len)));
                }
            }
        }
        found
    }

    /// True where the message has any header: most have none, and asking for one by name costs
    /// more.
    pub(crate) fn has_headers(self) -> bool {
        let mut headers = ptr::null_mut();
        // SAFETY: valid message.
        let code = unsafe { rd::rd_kafka_message_headers(self.0, &raw mut headers) };
        code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    }
}

/// # Safety
/// `data` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes_of<'a>(data: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the caller.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, len) })
}

fn bucket_of(message: &rd::rd_kafka_message_t) -> Bucket {
    Bucket(u32::try_from(message.partition).unwrap_or(u32::MAX))
}

/// # Safety
/// `topic` is null or a topic object that outlives the answer.
unsafe fn topic_of<'a>(topic: *mut rd::rd_kafka_topic_t) -> &'a str {
    if topic.is_null() {
        return "";
    }
    // SAFETY: by the caller; names are ASCII.
    unsafe {
        let name = CStr::from_ptr(rd::rd_kafka_topic_name(topic));
        name.to_str().unwrap_or("")
    }
}

/// # Safety
/// `message` must be alive.
unsafe fn mishap_text(message: *const rd::rd_kafka_message_t, code: i32) -> String {
    // SAFETY: by the caller.
    let text = text_of(unsafe { rd::rd_kafka_message_errstr(message) });
    match text.is_empty() {
        true => format!("error {code} of the log"),
        false => text,
    }
}
