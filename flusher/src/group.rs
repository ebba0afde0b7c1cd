//! The consumer group of an installation's flushers.
//!
//! A group's members share the buckets of all topics that match: a flusher of another installation
//! would be given buckets of tables that it does not know, and nobody else would read them. So the
//! group is named after the installation, unless somebody names it by hand. Invariant: the name is
//! the same for all flushers of one catalog, for ever. That it changes does no harm: what was read
//! is told by the tables' watermarks, never by the group.

use std::sync::Arc;

use tidelake_catalog::{CatalogError, InstallationId};
use tidelake_core::ids::IdSource;
use tidelake_storage::Store;

const PREFIX: &str = "tidelake-flusher-";

/// The group, and whether its name is the installation's own.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    name: Arc<str>,
    by_hand: bool,
}

impl Group {
    /// The group that the settings name, or the installation's own where they name none.
    pub(crate) async fn of(
        named: &str,
        store: &Store,
        ids: &dyn IdSource,
    ) -> Result<Self, CatalogError> {
        if !named.is_empty() {
            return Ok(Self {
                name: named.into(),
                by_hand: true,
            });
        }
        let id = InstallationId::of(store, ids).await?;
        Ok(Self {
            name: format!("{PREFIX}{id}").into(),
            by_hand: false,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name, where others may have given it to their flushers too.
    pub(crate) fn named_by_hand(&self) -> Option<Arc<str>> {
        self.by_hand.then(|| self.name.clone())
    }
}
