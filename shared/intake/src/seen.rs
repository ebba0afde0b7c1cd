//! A message on its way in, what it counts as, and a message on its way out.

use std::borrow::Cow;
use std::fmt::Debug;

use bytes::Bytes;
use tidelake_codec::Rejection;
use tidelake_core::headers::Headers;
use tidelake_core::{Bucket, Offset};

/// One message as the log holds it, borrowed.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a dyn Headers,
}

impl<'a> Seen<'a> {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        if self.headers.is_empty() {
            return None;
        }
        self.headers.get(name)
    }
}

impl Debug for Seen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen")
            .field("offset", &self.offset)
            .field("key_bytes", &self.key.map(<[u8]>::len))
            .field("value_bytes", &self.value.map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}

/// What a message counts as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// So many records, deletes among them. They are held until they are drained.
    Rows(usize),
    /// No record, but the wish that the bucket be committed up to and including it.
    Marker,
    /// A re-publication whose record was taken before, or stood in a topic that the table has left.
    /// It counts for nothing.
    Repeated,
    /// One record, whose key belongs to this other bucket: to be republished there, before a commit
    /// passes it. Here it counts for nothing.
    Misrouted(Bucket),
    /// It fits no row: to be kept as a dead letter, before a commit passes it.
    Refused(Rejection),
}

/// Headers of a message that is owned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedHeaders(pub Vec<(Cow<'static, str>, Bytes)>);

impl Headers for OwnedHeaders {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        found.next_back().map(|(_, value)| value.as_ref())
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in &self.0 {
            visit(name, Some(value));
        }
    }
}

/// A message to be written to a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub bucket: Bucket,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: OwnedHeaders,
    /// The log stamps it where there is none.
    pub timestamp_ms: Option<i64>,
}

impl Outgoing {
    /// Memory that it holds while it waits, and what the log counts against its limit for a
    /// message, about.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.0.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + HEADER_BYTES)
            .sum();
        let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        part(&self.key) + part(&self.value) + headers + MESSAGE_BYTES
    }
}

/// Lengths and pointers of one header.
const HEADER_BYTES: usize = 64;
/// Everything else of a message.
const MESSAGE_BYTES: usize = 192;
