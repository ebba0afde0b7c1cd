//! The table engine: rows of a bucket in memory, rows to Parquet, a flush of many buckets as one
//! commit.
//!
//! ```text
//!  Chunk (columns + positions) ─► Memtable of a bucket ─ seal ─► Sealed ─┐
//!                                 Memtable of a bucket ─ seal ─► Sealed ─┼─► encode ─► Parquet ─► put
//!                                                                        └─► one commit: add + marks
//! ```
//! Owns the layout of a data file (hidden columns, encodings, row groups) and the order of a flush:
//! encode, upload, commit. Knows nothing of Kafka, so that it can be simulated; which buckets are due
//! and what to do when a commit was refused is the flusher's.
//!
//! Invariants: the rows of a bucket stand in sequence order; a [`Sealed`] memtable covers exactly
//! `from..to` of its bucket, with no message left out; a file is uploaded whole before the commit
//! that names it, and never changed after.

mod encoding;
mod error;
mod flush;
mod memtable;
mod write;

pub use error::TableError;
pub use flush::{FlushOutcome, FlushReport, FlushRequest, Flushed, flush};
pub use memtable::{Chunk, Memtable, Positions, Sealed};
pub use write::{EncodedFile, FileSettings, HIDDEN_COLUMNS, encode, file_schema};
