//! What a tail begins at: a snapshot and, for upsert tables, each bucket's state at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Watermark};
use tidelake_table::StateLoader;
use tokio::time::Instant;

use super::super::Shared;
use super::super::pieces::BucketTail;
use super::super::upsert::{Pen, UpsertState};
use super::super::view::{Followed, View};
use crate::error::QueryError;
use crate::table::pinned::Pinned;
use crate::table::shape::is_same;

/// A snapshot and, for upsert tables, each bucket's state at it.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub pinned: Arc<Pinned>,
    pub looked: Instant,
    /// Of upsert tables.
    pub pen: Option<Pen>,
    upsert: BTreeMap<Bucket, UpsertState>,
}

impl Base {
    /// Reads what `before` does not know.
    pub(super) async fn read(
        shared: &Shared,
        followed: &Followed,
        age: Duration,
        before: Option<&Self>,
    ) -> Result<Self, QueryError> {
        let entry = followed.entry();
        let read = shared.pins.newest_read(entry, age).await?;
        Self::of(shared, entry, read, before).await
    }

    /// As [`Self::read`], of a version that is known.
    pub(super) async fn of(
        shared: &Shared,
        entry: &Arc<TableEntry>,
        (pinned, looked): (Arc<Pinned>, Instant),
        before: Option<&Self>,
    ) -> Result<Self, QueryError> {
        let before = before.filter(|before| before.has_schema_of(&pinned));
        if let Some(before) = before
            && before.is_at(&pinned)
        {
            return Ok(Self {
                looked,
                ..before.clone()
            });
        }
        let pen = match before {
            Some(before) => before.pen.clone(),
            None => pen(shared, &pinned)?,
        };
        let mut upsert = BTreeMap::new();
        if let Some(pen) = &pen {
            let table = shared.pins.table(entry);
            let wanted = (0..entry.buckets).map(Bucket).map(|bucket| {
                let known = before.and_then(|before| before.upsert.get(&bucket));
                (bucket, known.map(|known| known.committed.clone()))
            });
            let wanted: Vec<_> = wanted.collect();
            let states = pen
                .loader
                .load_all(&table, &pinned.snapshot, wanted)
                .await?;
            let read = states
                .iter()
                .map(|(_, _, loaded)| loaded.sidecars + loaded.rebuilt);
            shared.metrics.tail_key_files.inc_by(read.sum());
            let states = states.into_iter();
            upsert = states
                .map(|(bucket, state, _)| (bucket, UpsertState::of(state)))
                .collect();
        }
        Ok(Self {
            pinned,
            looked,
            pen,
            upsert,
        })
    }

    /// True where there is nothing to read for the version: it is the same, and where its keys are can
    /// be read.
    pub(super) fn is_at(&self, pinned: &Pinned) -> bool {
        self.pinned.snapshot.is_same_as(&pinned.snapshot) && !self.is_damaged()
    }

    /// A read of where its keys are has failed.
    pub(super) fn is_damaged(&self) -> bool {
        let damaged = |state: &UpsertState| state.committed.index().is_damaged();
        self.upsert.values().any(damaged)
    }

    /// The version that a view begins at, whose states it knows; none where it does
    /// not, or where they can't be read.
    pub(super) fn of_view(
        shared: &Shared,
        view: &View,
        looked: Instant,
    ) -> Result<Option<Self>, QueryError> {
        let pinned = Arc::clone(&view.pinned);
        let pen = pen(shared, &pinned)?;
        let states = view.buckets.iter().map(|(bucket, tail)| {
            let committed = tail.upsert.as_ref()?.committed.clone();
            Some((*bucket, UpsertState::of(committed)))
        });
        let upsert = match pen {
            Some(_) => states.collect(),
            None => Some(BTreeMap::new()),
        };
        let base = upsert.map(|upsert| Self {
            pinned,
            looked,
            pen,
            upsert,
        });
        Ok(base.filter(|base| !base.is_damaged()))
    }

    pub(super) fn has_schema_of(&self, pinned: &Pinned) -> bool {
        let metadata = self.pinned.snapshot.metadata();
        is_same(metadata, pinned.snapshot.metadata())
    }

    pub(super) fn mark(&self, bucket: Bucket) -> Watermark {
        self.pinned.watermark(bucket)
    }

    /// An empty tail behind the snapshot.
    pub(super) fn tail(&self, bucket: Bucket) -> BucketTail {
        BucketTail::new(self.mark(bucket), self.upsert.get(&bucket).cloned())
    }
}

/// What pieces of an upsert table are made with.
fn pen(shared: &Shared, pinned: &Pinned) -> Result<Option<Pen>, QueryError> {
    let Some(keys) = &pinned.keys else {
        return Ok(None);
    };
    let metadata = &pinned.snapshot.metadata().schema_string;
    let home = Arc::clone(&shared.home);
    let loader = StateLoader::new(&pinned.shape.table, metadata, keys.owners(), home)?;
    Ok(loader.map(|loader| Pen::new(loader, Arc::clone(&pinned.shape))))
}
