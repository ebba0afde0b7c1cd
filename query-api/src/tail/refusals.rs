//! Tables whose tails did not fit: remembered until more of them is committed, so that the next query
//! decodes nothing to find out the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, TableId, TopicId, Watermark};

use super::Shared;
use crate::error::QueryError;
use crate::table::pinned::Pinned;

/// More are forgotten, and found out again.
const REFUSALS_MAX: usize = 1024;
/// How long a table that became small enough may still be refused.
const LOOK_AGE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_table: Mutex<HashMap<TableId, Refusal>>,
}

/// What was found out when there was no room.
#[derive(Debug, Clone)]
struct Refusal {
    topic: TopicId,
    marks: BTreeMap<Bucket, Watermark>,
    /// Bytes that were not enough for all that lies behind the watermarks.
    needs: usize,
    error: QueryError,
}

impl Refusal {
    fn is_of(&self, pinned: &Pinned) -> bool {
        self.topic == pinned.entry.topic_id && self.marks == marks(pinned)
    }
}

fn marks(pinned: &Pinned) -> BTreeMap<Bucket, Watermark> {
    let marks = pinned.snapshot.watermarks(&pinned.entry.topic_id);
    marks.into_iter().collect()
}

impl Shared {
    /// What one table may hold at most.
    pub(super) fn tail_bytes_max(&self) -> usize {
        let settings = &self.settings;
        settings.tail_bytes_max.min(settings.tail_cache_bytes_max)
    }

    /// The tail behind this version did not fit; `needs` is what would not have been enough.
    pub(super) fn refuse(&self, pinned: &Pinned, needs: usize, error: QueryError) {
        let refusal = Refusal {
            topic: pinned.entry.topic_id,
            marks: marks(pinned),
            needs,
            error,
        };
        let mut by_table = self.refusals.by_table.lock();
        if by_table.len() >= REFUSALS_MAX {
            by_table.clear();
        }
        by_table.insert(pinned.entry.id.clone(), refusal);
    }

    /// # Errors
    /// [`QueryError::TailTooLarge`] where it is known that the tail does not fit: nothing of it was
    /// committed since, and there is no more room than there was.
    pub(super) async fn check_refused(&self, entry: &Arc<TableEntry>) -> Result<(), QueryError> {
        let known = self.refusals.by_table.lock().get(&entry.id).cloned();
        let Some(refusal) = known else {
            return Ok(());
        };
        let unused = self.tables.lock().unused_bytes();
        let room = self.budget.free().saturating_add(unused);
        if refusal.needs > room.min(self.tail_bytes_max()) {
            let age = Duration::from_millis(self.settings.snapshot_age_ms_max);
            let pinned = self.pins.newest(entry, age.min(LOOK_AGE_MAX)).await?;
            if refusal.is_of(&pinned) {
                return Err(refusal.error);
            }
        }
        self.refusals.by_table.lock().remove(&entry.id);
        Ok(())
    }
}
