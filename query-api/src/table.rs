//! A table at one version, as everything above reads it.
//!
//! Owns what is pinned ([`pinned`]), what is known of its files ([`files`], [`bounds`]), cached
//! footers and pages ([`readers`]) without the bounds that are not to be trusted ([`float_bounds`]),
//! the columns that queries see ([`shape`], [`type_names`]) and what a key of the table is
//! ([`keys`]). Knows neither the log behind a version nor how rows are asked for.

pub(crate) mod bounds;
pub(crate) mod files;
mod float_bounds;
pub(crate) mod keys;
pub(crate) mod pinned;
pub(crate) mod readers;
pub(crate) mod shape;
pub(crate) mod type_names;
