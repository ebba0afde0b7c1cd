//! Records that were written to another bucket than their key's, on their way to the right one.

use std::borrow::Cow;

use bytes::Bytes;
use tidelake_core::{Bucket, headers};

use crate::seen::{Outgoing, OwnedHeaders, Seen};

/// The same record for the bucket that its key belongs to. Its origin is added when it is sent
/// ([`with_origin`]): what it says depends on what the log has acknowledged by then. An origin that
/// it came with is dropped: it was not ours.
pub fn republished(seen: &Seen<'_>, to: Bucket) -> Outgoing {
    let mut list: Vec<(Cow<'static, str>, Bytes)> = Vec::new();
    seen.headers.visit(&mut |name, value| {
        if name != headers::ORIGIN {
            let value = Bytes::copy_from_slice(value.unwrap_or_default());
            list.push((Cow::Owned(name.to_owned()), value));
        }
    });
    Outgoing {
        bucket: to,
        key: seen.key.map(Bytes::copy_from_slice),
        value: seen.value.map(Bytes::copy_from_slice),
        headers: OwnedHeaders(list),
        timestamp_ms: Some(seen.timestamp_ms),
    }
}

/// A re-publication as it is sent, with the header of its origin
/// ([`crate::OriginKey::header`]).
pub fn with_origin(mut message: Outgoing, origin: Bytes) -> Outgoing {
    message.headers.0.push((headers::ORIGIN.into(), origin));
    message
}
