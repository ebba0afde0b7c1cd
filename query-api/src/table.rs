//! A table at one version, as everything above reads it.
//!
//! Owns what is pinned ([`pinned`]), what is known of its files ([`files`], [`bounds`]), cached
//! footers and pages ([`readers`]), the columns that queries see ([`shape`], [`type_names`]) and what
//! a key of the table is ([`keys`]). Knows neither the log behind a version nor how rows are asked
//! for.

pub(crate) mod bounds;
pub(crate) mod files;
pub(crate) mod keys;
pub(crate) mod pinned;
pub(crate) mod readers;
pub(crate) mod shape;
pub(crate) mod type_names;
