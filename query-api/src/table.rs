//! A table at one version, as everything above reads it.
//!
//! Owns what is pinned ([`pinned`]), what is known of its files ([`files`], [`segment`],
//! [`column_bounds`], [`bounds`]) and of one of them ([`facts`]), cached footers and pages
//! ([`readers`], [`lru`]) without the bounds that are not to be trusted ([`float_bounds`]), how large
//! decoded rows are ([`row_bytes`]), what scans hold of files ([`scan_bytes`]), the columns that queries see ([`shape`], [`type_names`]), what a
//! key of the table is ([`keys`]) and where its row is by what is stored alone ([`stored_keys`],
//! [`sidecars`]). Knows neither the log behind a version nor how rows are asked for.

pub(crate) mod bounds;
pub(crate) mod column_bounds;
pub(crate) mod facts;
pub(crate) mod files;
mod float_bounds;
pub(crate) mod keys;
mod lru;
mod page_bytes;
pub(crate) mod pinned;
pub(crate) mod readers;
mod row_bytes;
pub(crate) mod scan_bytes;
pub(crate) mod segment;
pub(crate) mod shape;
mod sidecars;
pub(crate) mod stored_keys;
pub(crate) mod type_names;
