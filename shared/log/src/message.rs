//! Messages as they came from the log, in librdkafka's own memory.

#![expect(unsafe_code, reason = "reads librdkafka's message structs")]

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::{Bucket, Offset};

use crate::native::{Client, describe, text_of};

/// Messages of one poll. Given back to librdkafka when dropped, on whichever thread.
pub struct MessageBatch {
    messages: Vec<*mut rd::rd_kafka_message_t>,
    /// Messages must not outlive their client.
    _client: Arc<Client>,
}

// SAFETY: a message may be read and destroyed on any thread, one at a time.
unsafe impl Send for MessageBatch {}
// SAFETY: reading is immutable, but for header parsing: see `Received::header`.
unsafe impl Sync for MessageBatch {}

/// Consecutive messages of one bucket.
#[derive(Debug)]
pub struct Run<'a> {
    pub topic: &'a str,
    pub bucket: Bucket,
    messages: &'a [*mut rd::rd_kafka_message_t],
}

/// One message; borrows the batch.
#[derive(Clone, Copy)]
pub struct Received<'a>(&'a rd::rd_kafka_message_t);

/// What came instead of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mishap {
    pub topic: String,
    pub bucket: Bucket,
    pub offset: i64,
    pub code: RespErr,
    pub text: String,
}

impl MessageBatch {
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
        batch.messages.retain(|&message| {
            // SAFETY: every pointer came from the client and is destroyed exactly once: here, or on
            // drop for those that stay.
            unsafe {
                let view = &*message;
                if view.err == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return true;
                }
                mishaps.push(Mishap {
                    topic: topic_of(view).to_owned(),
                    bucket: bucket_of(view),
                    offset: view.offset,
                    code: view.err,
                    text: mishap_text(view),
                });
                rd::rd_kafka_message_destroy(message);
                false
            }
        });
        (batch, mishaps)
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        // SAFETY: alive as long as the batch.
        self.messages
            .iter()
            .map(|&message| Received(unsafe { &*message }))
    }

    /// Messages grouped by consecutive bucket: one look-up for many messages.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.messages
            .chunk_by(|&a, &b| {
                // SAFETY: alive as long as the batch.
                let (a, b) = unsafe { (&*a, &*b) };
                a.rkt == b.rkt && a.partition == b.partition
            })
            .map(|messages| {
                // SAFETY: as above; a chunk is never empty.
                let first = unsafe { &*messages[0] };
                Run {
                    topic: topic_of(first),
                    bucket: bucket_of(first),
                    messages,
                }
            })
    }
}

impl Drop for MessageBatch {
    fn drop(&mut self) {
        for &message in &self.messages {
            // SAFETY: owned, destroyed once.
            unsafe { rd::rd_kafka_message_destroy(message) };
        }
    }
}

impl fmt::Debug for MessageBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageBatch({} messages)", self.messages.len())
    }
}

impl<'a> Run<'a> {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Received<'a>> + use<'a> {
        // SAFETY: alive as long as the batch.
        self.messages
            .iter()
            .map(|&message| Received(unsafe { &*message }))
    }
}

impl<'a> Received<'a> {
    pub fn bucket(&self) -> Bucket {
        bucket_of(self.0)
    }

    pub fn offset(&self) -> Offset {
        Offset(self.0.offset)
    }

    /// The message's timestamp (producer's or broker's, as the topic is set); 0 when it has none.
    pub fn timestamp_ms(&self) -> i64 {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: valid message.
        unsafe { rd::rd_kafka_message_timestamp(self.0, &raw mut kind) }.max(0)
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka gives pointer and length of memory that the message owns.
        unsafe { bytes_of(self.0.key.cast(), self.0.key_len) }
    }

    pub fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes_of(self.0.payload.cast(), self.0.len) }
    }

    /// The last header of that name. Headers are parsed by librdkafka on first access, so a message
    /// must not be read by two threads at once: a batch is handed on whole.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
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
    pub fn headers(&self) -> Vec<(String, Option<&'a [u8]>)> {
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

    /// True where the message has any header: most have none, and asking for one by name costs more.
    pub fn has_headers(&self) -> bool {
        let mut headers = ptr::null_mut();
        // SAFETY: valid message.
        let code = unsafe { rd::rd_kafka_message_headers(self.0, &raw mut headers) };
        code == RespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    }
}

impl tidelake_core::headers::Headers for Received<'_> {
    fn is_empty(&self) -> bool {
        !self.has_headers()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.header(name)
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in self.headers() {
            visit(&name, value);
        }
    }
}

impl fmt::Debug for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Received({}/{}@{})",
            topic_of(self.0),
            self.0.partition,
            self.0.offset
        )
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

fn topic_of(message: &rd::rd_kafka_message_t) -> &str {
    if message.rkt.is_null() {
        return "";
    }
    // SAFETY: the topic object lives as long as the message that refers to it; names are ASCII.
    unsafe {
        let name = std::ffi::CStr::from_ptr(rd::rd_kafka_topic_name(message.rkt));
        name.to_str().unwrap_or("")
    }
}

fn mishap_text(message: &rd::rd_kafka_message_t) -> String {
    // SAFETY: valid message.
    let text = text_of(unsafe { rd::rd_kafka_message_errstr(message) });
    if text.is_empty() {
        describe(message.err)
    } else {
        text
    }
}
