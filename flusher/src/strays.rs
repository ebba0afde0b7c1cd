//! Records that were written to another bucket than their key's, on their way to the right one.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use tidelake_core::Bucket;
use tidelake_log::{Message, Received, headers};

/// The same record for the bucket that its key belongs to.
pub fn republished(topic: &Arc<str>, record: &Received<'_>, to: Bucket) -> Message {
    let origin = format!("{}/{}", record.bucket(), record.offset());
    let mut list: Vec<(Cow<'static, str>, Bytes)> = record
        .headers()
        .into_iter()
        .map(|(name, value)| {
            let value = Bytes::copy_from_slice(value.unwrap_or_default());
            (Cow::Owned(name), value)
        })
        .collect();
    list.push((headers::ORIGIN.into(), Bytes::from(origin.into_bytes())));
    Message {
        topic: topic.clone(),
        bucket: to,
        key: record.key().map(Bytes::copy_from_slice),
        value: record.value().map(Bytes::copy_from_slice),
        headers: list,
        timestamp_ms: Some(record.timestamp_ms()),
    }
}
