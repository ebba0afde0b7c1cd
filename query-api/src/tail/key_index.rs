//! Who knows where the rows of keys are: a follower of the table, or what is stored beside its files.

use std::sync::Arc;
use tidelake_core::threads;

use datafusion::arrow::record_batch::RecordBatch;

use super::{Finder, Found};
use crate::error::QueryError;
use crate::table::keys::TableKeys;
use crate::table::pinned::Pinned;
use crate::table::readers::Readers;
use crate::table::stored_keys::StoredKeys;

/// So few keys are found where the request is handled: a probe of pages in memory costs less than
/// the way to another thread.
const FEW_KEYS_MAX: usize = 8;

/// The keys of an upsert table in one view, or at one version.
#[derive(Debug, Clone)]
pub(crate) enum KeyIndex {
    /// All keys are at hand.
    Followed(Finder),
    /// They are read as they are asked for.
    Stored(StoredKeys),
}

impl KeyIndex {
    pub(crate) fn keys(&self) -> &Arc<TableKeys> {
        match self {
            Self::Followed(finder) => finder.keys(),
            Self::Stored(stored) => stored.keys(),
        }
    }

    pub(crate) fn pinned(&self) -> &Arc<Pinned> {
        match self {
            Self::Followed(finder) => finder.pinned(),
            Self::Stored(stored) => stored.pinned(),
        }
    }

    /// The live row of each key, in their order; `None` where only a scan tells.
    pub(crate) async fn find(
        &self,
        readers: &Readers,
        keys: RecordBatch,
    ) -> Result<Option<Vec<Option<Found>>>, QueryError> {
        match self {
            Self::Followed(finder) => match finder.found(keys).await {
                Ok(found) => Ok(Some(found)),
                // A scan needs no index; the follower reads it anew for whoever comes next.
                Err(error) if finder.is_damaged() => {
                    tracing::warn!(%error, "a key index is damaged, keys are looked for by a scan");
                    Ok(None)
                }
                Err(error) => Err(error),
            },
            Self::Stored(stored) => {
                let found = stored.find(readers, &keys).await?;
                let found = found.map(|rows| {
                    let rows = rows.into_iter();
                    rows.map(|row| row.map(Found::from)).collect()
                });
                Ok(found)
            }
        }
    }
}

impl Finder {
    /// As [`Finder::find`], on a thread that may read files for a while where the keys are many.
    pub(crate) async fn found(&self, keys: RecordBatch) -> Result<Vec<Option<Found>>, QueryError> {
        if keys.num_rows() <= FEW_KEYS_MAX {
            return self.find(&keys);
        }
        let search = self.clone();
        searched(move || search.find(&keys)).await
    }
}

/// Searches on a thread that may read files for a while.
pub(crate) async fn searched(
    find: impl FnOnce() -> Result<Vec<Option<Found>>, QueryError> + Send + 'static,
) -> Result<Vec<Option<Found>>, QueryError> {
    if threads::works_in_place() {
        return find();
    }
    let found = tokio::task::spawn_blocking(find).await;
    found.map_err(|error| QueryError::Engine(format!("looking for keys: {error}")))?
}
