//! A table as this flusher knows it, and how it is looked up when one of its buckets is assigned.

use std::sync::Arc;

use tidelake_catalog::{Catalog, CatalogError, TableEntry};
use tidelake_core::ErrorKind;
use tidelake_log::topics::{dead_letter_topic, parse_table_topic};
use tidelake_manifest::{DeltaTable, ManifestError, Snapshot};
use tidelake_service::Runtime;
use tidelake_storage::Store;

/// One incarnation of a table.
#[derive(Debug)]
pub struct OpenTable {
    pub entry: Arc<TableEntry>,
    /// Where its dead letters go; a dead-letter table has none itself.
    pub dead_letters: Option<Arc<str>>,
    pub delta: DeltaTable,
}

/// Why a topic's table can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("topic {0} belongs to no table of the catalog")]
    NoTable(String),
    #[error("read the catalog")]
    Catalog(#[from] CatalogError),
    #[error("read the log of table {table}")]
    Manifest {
        table: String,
        #[source]
        source: ManifestError,
    },
}

impl OpenError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoTable(_) => ErrorKind::NotFound,
            Self::Catalog(error) => error.kind(),
            Self::Manifest { source, .. } => source.kind(),
        }
    }
}

/// Opens tables by their topics.
#[derive(Debug, Clone)]
pub struct Opener {
    pub store: Store,
    pub catalog: Catalog,
    pub topic_prefix: String,
    pub runtime: Runtime,
}

impl Opener {
    /// The table of a topic, at its newest version.
    pub async fn open(&self, topic: &Arc<str>) -> Result<(OpenTable, Arc<Snapshot>), OpenError> {
        let no_table = || OpenError::NoTable(topic.to_string());
        let id = parse_table_topic(&self.topic_prefix, topic).ok_or_else(no_table)?;
        let entry = self.catalog.find_fresh(&id).await?.ok_or_else(no_table)?;
        let store = self.store.scoped(&entry.location());
        let delta = DeltaTable::new(store, self.runtime.clock.clone(), self.runtime.ids.clone());
        let snapshot = delta
            .snapshot()
            .await
            .map_err(|source| OpenError::Manifest {
                table: id.to_string(),
                source,
            })?;
        let dead_letters = (!entry.is_dead_letters())
            .then(|| Arc::from(dead_letter_topic(&self.topic_prefix, &id)));
        Ok((
            OpenTable {
                entry,
                dead_letters,
                delta,
            },
            snapshot,
        ))
    }

    /// True where the catalog still knows this incarnation of the table.
    pub async fn is_current(&self, table: &OpenTable) -> Result<bool, CatalogError> {
        let found = self.catalog.find_fresh(&table.entry.id).await?;
        Ok(found.is_some_and(|entry| entry.topic_id == table.entry.topic_id))
    }
}
