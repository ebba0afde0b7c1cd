//! What a message of a table's topic counts as: the one place that decides.
//!
//! ```text
//!                      ┌ Rows        in the memtable, or in the tail of a query
//!  Seen ─ take ─► Taken┤ Marker      asks for a flush
//!                      ├ Repeated    a re-publication that was taken before, or in a topic left
//!                      ├ Misrouted   its key belongs to another bucket: republished there
//!                      └ Refused     a dead letter
//! ```
//! Owns the kinds of table ([`TableKind`]), the decoding of messages ([`decode`]), which
//! re-publications count ([`origin`], [`Origins`]), and the wire form of what is sent on
//! ([`misrouted`], [`dead_letter`]). Owns no log client: a message comes in as a [`Seen`] and goes
//! out as an [`Outgoing`]. Used by the flusher, the query's tail, the replay of dead letters and
//! `tidelake tail`, so that all of them agree.
//!
//! Invariant: what a message counts as depends on the messages before it in its bucket, the
//! table's schema and nothing else: no clock, no request, no setting of a process.

mod bucket;
pub mod dead_letter;
pub mod decode;
mod kind;
pub mod misrouted;
pub mod origin;
mod origins;
mod seen;

pub use bucket::{BucketIntake, Drained, IntakeError};
pub use decode::{MessageDecoder, Placement, Pushed, WireMessage};
pub use kind::{IntakeTable, TableKind};
pub use origin::{ORIGIN_WINDOW, Origin, OriginKey, Signed};
pub use origins::Origins;
pub use seen::{Outgoing, OwnedHeaders, Seen, Taken};
pub use tidelake_core::headers::{Headers, NoHeaders};
