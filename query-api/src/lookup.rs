//! Rows by primary key, without SQL planning.
//!
//! ```text
//!  key text, JSON ─► keys ─► find: bucket ─► its state ─► index ─► place ─┬─► pages of a file ─┬─► JSON
//!                                                                         └─► rows of the tail ┘
//! ```
//! Owns the way from keys to rows: [`TableKeys`] (what a key of the table is), [`Finder`] (where its
//! row is, in one view), fetching, and the two shapes of an answer: JSON and Arrow batches. SQL takes the same way where a statement names
//! whole keys, its scans use the finder where filters do. Does not own which row of a key is the
//! newest: that is the bucket's state.
//!
//! Versions whose keys nobody has indexed here are answered by a scan with the keys as filters.

pub(crate) mod ask;
mod batches;
mod fetch;
mod gather;
mod scan;
pub(crate) mod serve;
#[cfg(test)]
mod tests;

pub use batches::KeyedBatches;
pub(crate) use fetch::fetch;
pub(crate) use gather::gathered;
pub(crate) use serve::found;
