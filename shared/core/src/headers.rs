//! Headers of a message (DESIGN section 4). Unknown headers are kept and ignored.

/// How the value is encoded; absent: one JSON record.
pub const ENCODING: &str = "tl-encoding";
/// [`ENCODING`] of a packed batch: one Arrow IPC stream.
pub const ENCODING_ARROW: &[u8] = b"arrow";
/// What the message asks for; absent: its rows are written.
pub const OP: &str = "tl-op";
/// [`OP`]: no row at all, but the wish that the bucket be committed up to and including it.
pub const OP_FLUSH: &[u8] = b"flush";
/// Where a record came from that was written to another bucket than its key's, signed by the
/// flusher that sent it on.
pub const ORIGIN: &str = "tl-origin";
/// The dead letter that this record was replayed from: `bucket/offset` of its source.
pub const REPLAY: &str = "tl-replay";
/// Schema version that the value was written with.
pub const SCHEMA: &str = "tl-schema";

/// A message's headers, read only where somebody asks.
pub trait Headers {
    /// True where a look at any header is in vain.
    fn is_empty(&self) -> bool;

    /// The last header of this name; `None` where it has no value either.
    fn get(&self, name: &str) -> Option<&[u8]>;

    /// All headers, in their order.
    fn visit(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>));
}

/// A message without headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn is_empty(&self) -> bool {
        true
    }

    fn get(&self, _: &str) -> Option<&[u8]> {
        None
    }

    fn visit(&self, _: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

/// Headers of a dead letter: why, and where the original came from.
pub mod dead_letter {
    pub const REASON: &str = "tl-reason";
    pub const CODE: &str = "tl-code";
    pub const FIELD: &str = "tl-field";
    pub const ROW: &str = "tl-row";
    pub const SOURCE_TOPIC: &str = "tl-source-topic";
    pub const SOURCE_BUCKET: &str = "tl-source-bucket";
    pub const SOURCE_OFFSET: &str = "tl-source-offset";
    /// Milliseconds since 1970, as all times here.
    pub const SOURCE_TIMESTAMP: &str = "tl-source-timestamp";
    /// The original's key.
    pub const KEY: &str = "tl-key";
    /// When the record was first found bad, of a dead letter that was written again later.
    pub const DEAD_AT: &str = "tl-dead-at";
    /// Of a replayed record's dead letter: when, and as what (`bucket/offset`).
    pub const REPLAYED_AT: &str = "tl-replayed-at";
    pub const REPLAYED_TO: &str = "tl-replayed-to";
}
