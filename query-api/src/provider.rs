//! Tables as DataFusion sees them.
//!
//! ```text
//!  snapshot's files ─► prune (statistics of the manifest) ─► scan (Parquet) ─► live rows ─┐
//!  tail's rows ──────────────────────────────────────────► memory ──────────────────────┴► union
//! ```
//!
//! Owns the provider of a pinned table ([`scan`]), what is known of its files ([`facts`]), pruning
//! ([`prune`]), deleted rows ([`live`]), filters that name keys ([`points`]), cached footers
//! ([`readers`]), what changed between two versions ([`changes`]), the versions of a key
//! ([`key_history`]), and the tables that are about tables ([`about`]). Does not own what is pinned:
//! that is the engine's.

pub(crate) mod about;
pub(crate) mod changes;
mod fresh;
pub(crate) mod key_history;
mod live;
mod pairs;
mod points;
pub(crate) mod prune;
pub(crate) mod scan;
#[cfg(test)]
mod tests;
