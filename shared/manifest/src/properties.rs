//! The table properties that are Tidelake's own.

use tidelake_core::TableVersion;

use crate::action::Metadata;

/// The number of the table's current schema.
pub(crate) const SCHEMA_ID: &str = "tidelake.schemaId";
/// The version at which the table's log begins, where that is not 0.
pub(crate) const FIRST_VERSION: &str = "tidelake.firstVersion";
/// The table was dropped by the commit that set it.
pub(crate) const DROPPED: &str = "tidelake.dropped";

/// All of them: nobody else sets one.
pub(crate) const OWN: [&str; 3] = [SCHEMA_ID, FIRST_VERSION, DROPPED];

/// Where the table's log begins.
pub(crate) fn first_version(metadata: &Metadata) -> TableVersion {
    let first = metadata.configuration.get(FIRST_VERSION);
    TableVersion(first.and_then(|first| first.parse().ok()).unwrap_or(0))
}

/// True where the table was dropped.
pub(crate) fn is_dropped(metadata: &Metadata) -> bool {
    let dropped = metadata.configuration.get(DROPPED);
    dropped.is_some_and(|dropped| dropped == "true")
}
