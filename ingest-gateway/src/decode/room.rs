//! How much memory one batch of a body may take.

use tidelake_codec::arrow_ipc::StreamLimits;
use tidelake_codec::json::JsonLimits;
use tidelake_codec::packed;

/// What the whole of a small body may become before it is handled as a stream.
pub(super) const SMALL_DECODED_BYTES_MAX: usize = 4 << 20;

/// The memory that a body's records may take on their way, taken before they are decoded: by the
/// places that the body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A body that is in memory whole, and is decoded where it arrived.
    Small,
    /// So many bytes for one batch.
    Stream(usize),
}

impl Room {
    fn batch_bytes(self) -> usize {
        match self {
            Self::Small => SMALL_DECODED_BYTES_MAX / 4,
            Self::Stream(bytes) => bytes,
        }
    }

    /// An Arrow batch is held whole, so its sender must keep it small.
    pub(super) fn arrow(self) -> StreamLimits {
        StreamLimits {
            metadata_bytes_max: 4 << 20,
            body_bytes_max: 64 << 20,
            decoded_bytes_max: self.batch_bytes(),
            batch_rows_max: 4 << 20,
        }
    }

    pub(super) fn json(self) -> JsonLimits {
        JsonLimits {
            // What fits no message need not be decoded.
            decoded_bytes_max: self.batch_bytes().min(packed::COLUMN_BYTES_MAX),
            ..JsonLimits::default()
        }
    }
}
