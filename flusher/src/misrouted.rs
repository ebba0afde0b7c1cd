//! Records that were written to another bucket than their key's, on their way to the right one.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use tidelake_codec::{Reason, Rejection};
use tidelake_core::Bucket;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_log::{Message, Received, headers};

/// What key, value and headers may take: what the log takes, less room for the origin and for what
/// surrounds a message.
const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;
/// What a header costs beside its name and value.
const HEADER_BYTES: usize = 16;

/// The same record for the bucket that its key belongs to; its origin is added when it is sent.
///
/// # Errors
/// It is larger, decompressed, than the log takes: it can only become a dead letter.
pub fn republished(
    topic: &Arc<str>,
    record: &Received<'_>,
    to: Bucket,
) -> Result<Message, Rejection> {
    let headers: Vec<(Cow<'static, str>, Bytes)> = record
        .headers()
        .into_iter()
        // One that a producer made up would stand beside ours.
        .filter(|(name, _)| name != headers::ORIGIN)
        .map(|(name, value)| {
            let value = Bytes::copy_from_slice(value.unwrap_or_default());
            (Cow::Owned(name), value)
        })
        .collect();
    let message = Message {
        topic: topic.clone(),
        bucket: to,
        key: record.key().map(Bytes::copy_from_slice),
        value: record.value().map(Bytes::copy_from_slice),
        headers,
        timestamp_ms: Some(record.timestamp_ms()),
    };
    if bytes_of(&message) > RECORD_BYTES_MAX {
        return Err(too_large());
    }
    Ok(message)
}

/// Why a record that the log does not take becomes a dead letter.
pub fn too_large() -> Rejection {
    let what =
        "a record of another bucket's key, which is written to that bucket with its headers,";
    let max = RECORD_BYTES_MAX;
    Rejection::of_row(0, Reason::TooLarge { what, max })
}

/// What the log counts.
pub fn bytes_of(message: &Message) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| name.len() + value.len() + HEADER_BYTES);
    len(&message.key) + len(&message.value) + headers.sum::<usize>()
}
