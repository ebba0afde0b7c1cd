//! The table engine: rows of a bucket in memory, rows to Parquet, a flush of many buckets as one
//! commit.
//!
//! ```text
//!  Chunk (columns + positions) ─► Memtable of a bucket ─ seal ─► Sealed ─┐
//!                                 Memtable of a bucket ─ seal ─► Sealed ─┼─► encode ─► Parquet ─► put
//!                                                                        └─► one commit: add + marks
//! ```
//! Owns the layout of a data file (hidden columns, encodings, row groups) and the order of a flush:
//! encode, upload, commit. For upsert tables also the key [`index`], what newer records do to older
//! rows ([`apply`]) and where the live row of a key is ([`state`]). Both kinds are flushed by
//! [`Flush`]; rows are read by number with [`lookup`]. Knows nothing of Kafka, so that it can be simulated; which
//! buckets are due and what to do when a commit was refused is the flusher's.
//!
//! Invariants: the rows of a bucket stand in sequence order; a [`Sealed`] memtable covers exactly
//! `from..to` of its bucket, with no message left out; a file is uploaded whole before the commit
//! that names it, and never changed after.

pub mod apply;
mod aside;
pub mod check;
mod encoding;
mod error;
mod flush;
pub mod index;
mod layout;
mod load;
pub mod lookup;
mod memtable;
mod owners;
mod read;
mod rewrite;
mod rowset;
pub mod state;
mod uploads;
mod write;

pub use apply::{Changes, Superseded};
pub use error::TableError;
pub use flush::{
    COLUMN_BYTES, Encoders, Flush, FlushEnded, FlushOutcome, FlushReport, FlushRows, Flushed,
    UpsertBucket, VECTOR_IDS, bytes_while_flushing, flush_needs,
};
pub use layout::FileLayout;
pub use load::{Loaded, StateLoader, TAG_INDEX};
pub use lookup::{FileRows, LookupError, RowRead};
pub use memtable::{Chunk, Deletes, Memtable, Positions, Sealed};
pub use owners::{Owners, Unowned};
pub use read::{KeyColumns, RowKeys};
pub use rewrite::{Rewrite, RewriteOutcome, RewriteReport, Rewritten, TAG_FULL};
pub use rowset::RowSet;
pub use state::{BucketState, LiveFile, Place};
pub use write::{
    EncodedFile, FileSettings, HIDDEN_COLUMNS, encode, encode_newest, float_bounds_cover_nan,
};
