//! Rows by primary key, without SQL planning.
//!
//! ```text
//!  key text, JSON ─► keys ─► find: bucket ─► its state ─► index ─► place ─┬─► pages of a file ─┬─► JSON
//!                                  └─► sidecars of a version ─────► place ┴─► rows of the tail ┘
//! ```
//! Owns the way from keys to rows: [`TableKeys`] (what a key of the table is), [`KeyIndex`] (where its
//! row is, in one view or at one version), fetching, and the two shapes of an answer: JSON and Arrow
//! batches. SQL takes the same way where a statement names whole keys, its scans use the index where
//! filters do. Does not own which row of a key is the newest: that is the bucket's state.
//!
//! Keys of versions that nobody follows are looked up in the sidecars of their files; where those do
//! not tell, and for ranges of keys, a scan with the keys as filters answers.
//!
//! [`TableKeys`]: crate::table::keys::TableKeys
//! [`KeyIndex`]: crate::tail::KeyIndex

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
