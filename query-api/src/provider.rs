//! Tables as DataFusion sees them.
//!
//! ```text
//!  snapshot's files ─► prune (statistics of the manifest) ─► scan (Parquet) ─► live rows ─┐
//!  tail's rows ──────────────────────────────────────────► memory ──────────────────────┴► union
//! ```
//!
//! Owns the provider of a pinned table ([`scan`]), pruning ([`prune`]), counts and ends without reads
//! ([`counted`], [`unopened`]), batches of bounded size ([`batches`]), fields of null structs
//! ([`fields`]), uuids in any case ([`uuids`]), zeros of both signs ([`zeros`]), deleted rows
//! ([`live`]), filters that name keys ([`points`]), what changed between two versions ([`changes`]),
//! the versions of a key ([`key_history`]), commits ([`history`]), and the tables that are about
//! tables ([`about`]). Does not own what is pinned, nor what is known of its files: that is
//! [`crate::table`]'s.

pub(crate) mod about;
mod batches;
pub(crate) mod changes;
mod counted;
pub(crate) mod decimals;
pub(crate) mod fields;
mod fresh;
pub(crate) mod history;
pub(crate) mod key_history;
mod live;
mod pairs;
pub(crate) mod points;
pub(crate) mod prune;
pub(crate) mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod unopened;
pub(crate) mod uuids;
pub(crate) mod zeros;
