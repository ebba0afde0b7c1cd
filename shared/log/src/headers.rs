//! Headers of a message (DESIGN section 4). Unknown headers are kept and ignored.

/// How the value is encoded; absent: one JSON record.
pub const ENCODING: &str = "tl-encoding";
/// [`ENCODING`] of a packed batch: one Arrow IPC stream.
pub const ENCODING_ARROW: &[u8] = b"arrow";
/// What the message asks for; absent: its rows are written.
pub const OP: &str = "tl-op";
/// [`OP`]: no row at all, but the wish that the bucket be committed up to and including it.
pub const OP_FLUSH: &[u8] = b"flush";
/// Schema version that the value was written with.
pub const SCHEMA: &str = "tl-schema";

/// Headers of a dead letter: why, and where the original came from.
pub mod dead_letter {
    pub const REASON: &str = "tl-reason";
    pub const CODE: &str = "tl-code";
    pub const FIELD: &str = "tl-field";
    pub const ROW: &str = "tl-row";
    pub const SOURCE_TOPIC: &str = "tl-source-topic";
    pub const SOURCE_BUCKET: &str = "tl-source-bucket";
    pub const SOURCE_OFFSET: &str = "tl-source-offset";
    pub const SOURCE_TIMESTAMP: &str = "tl-source-timestamp";
}
