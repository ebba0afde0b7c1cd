//! Tables as DataFusion sees them.
//!
//! ```text
//!  snapshot's files ─► prune (statistics of the manifest) ─► scan (Parquet, row selections)  ─┐
//!  tail's rows ──────────────────────────────────────────► memory ──────────────────────────┴► union
//! ```
//!
//! Owns the provider of a pinned table ([`scan`]), what is known of its files ([`facts`]), pruning
//! ([`prune`]), cached footers ([`readers`]), and the tables that are about tables ([`about`]). Does
//! not own what is pinned: that is the engine's.

pub(crate) mod about;
mod bounds;
pub(crate) mod facts;
pub(crate) mod prune;
pub(crate) mod readers;
pub(crate) mod scan;
pub(crate) mod shape;
#[cfg(test)]
mod tests;
