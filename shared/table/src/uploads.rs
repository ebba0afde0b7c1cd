//! What was stored for a commit, so that a flush or a rewrite that came to nothing takes it away
//! again.
//!
//! They are tried again for as long as it takes, under new names each time: what a try leaves behind
//! adds up where a disk is full or a log can't be written.
//!
//! Invariant: an object is deleted only where no version can ever name it. That is before its
//! commit was tried, after one that lost, and after one that the store refused where the log shows
//! that the watermarks did not move. Whatever else a commit ended in, its objects stay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tidelake_manifest::{
    CommitOutcome, DeltaTable, ManifestError, MarkMove, Snapshot, Transaction,
};
use tidelake_storage::{StorageError, Store};

use crate::TableError;
use crate::error::is_refusal;

const DELETES_IN_FLIGHT: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    /// For a commit that is not made yet.
    open: Vec<String>,
    /// For commits that lost.
    lost: Vec<String>,
}

impl Uploads {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an object. A put that fails may have stored it all the same.
    pub(crate) async fn put(
        &self,
        store: &Store,
        name: &str,
        bytes: Bytes,
    ) -> Result<(), StorageError> {
        self.names().open.push(name.to_owned());
        store.put(name, bytes).await
    }

    /// The commit of these lost; another try has others in their place.
    pub(crate) fn lose<'a>(&self, lost: impl Iterator<Item = &'a String>) {
        let mut names = self.names();
        for name in lost {
            names.open.retain(|open| open != name);
            names.lost.push(name.clone());
        }
    }

    /// A version names the open ones, or may.
    fn keep(&self) {
        self.names().open.clear();
    }

    /// Deletes what no version names. A store that refuses even that is not asked again: the rest
    /// stays, for a vacuum to find.
    pub(crate) async fn discard(&self, store: &Store) {
        let Names { open, lost } = std::mem::take(&mut *self.names());
        let names = open.into_iter().chain(lost);
        let deletes = names.map(|name| async move { store.delete(&name).await });
        let deletes = futures::stream::iter(deletes).buffer_unordered(DELETES_IN_FLIGHT);
        if let Err(error) = deletes.try_collect::<Vec<()>>().await {
            tracing::debug!(%error, "files of a commit that failed stay behind");
        }
    }

    /// Commits, and settles whether a version may name what was stored.
    pub(crate) async fn commit(
        &self,
        table: &DeltaTable,
        base: &Arc<Snapshot>,
        transaction: Transaction,
    ) -> Result<CommitOutcome, TableError> {
        let marks = transaction.marks.clone();
        let outcome = table.commit(base, transaction).await;
        let named = match &outcome {
            Ok(CommitOutcome::Committed { .. }) => true,
            Ok(CommitOutcome::Conflicted(_)) => false,
            Err(error) => !may_be_unmade(error) || !is_unmade(table, base, &marks).await,
        };
        if named {
            self.keep();
        }
        Ok(outcome?)
    }
}

/// True where the log says that the commit was not made. A store may refuse what follows the
/// making of it, so its word alone is no proof.
async fn is_unmade(table: &DeltaTable, base: &Arc<Snapshot>, marks: &[MarkMove]) -> bool {
    let Ok(newest) = table.refresh(base).await else {
        return false;
    };
    let unmoved = |mark: &MarkMove| {
        let found = newest.watermark(&mark.topic_id, mark.bucket);
        found.unwrap_or_default() == mark.from
    };
    marks.iter().any(|mark| mark.from != mark.to) && marks.iter().all(unmoved)
}

/// True for errors after which no commit is on its way any more.
fn may_be_unmade(error: &ManifestError) -> bool {
    match error {
        ManifestError::Storage(error) => is_refusal(error),
        ManifestError::Contended { .. }
        | ManifestError::Forbidden { .. }
        | ManifestError::Invariant { .. }
        | ManifestError::Partitioned { .. }
        | ManifestError::WriterFeatures { .. } => true,
        _ => false,
    }
}
