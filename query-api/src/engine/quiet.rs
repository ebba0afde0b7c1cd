//! Upsert tables that nobody follows and whose log holds nothing new: their files are all there is.
//!
//! To follow a table means to know where each of its keys is, which is read from every file's index
//! first. A query that does not name whole keys does without, as long as no row behind the files
//! supersedes one of theirs. A table that is queried again and again is followed all the same, while
//! nobody waits for it: a follower's snapshot and ends are at hand, ours are asked for each time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{Bucket, TableId, Token, Watermark};
use tokio::time::Instant;

use super::Engine;
use crate::moment;
use crate::table::pinned::Pinned;
use crate::tail::look;
use crate::wait::behind;

/// Tables whose last query is remembered.
const TABLES_MAX: usize = 1024;

/// When tables that are not followed were queried last.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    queried: Mutex<HashMap<TableId, Instant>>,
}

impl Quiet {
    /// Notes a query; true where the last one is no longer ago than `within`.
    fn note(&self, id: &TableId, within: Duration) -> bool {
        let now = moment::now();
        let recent = |at: &Instant| now.saturating_duration_since(*at) <= within;
        let mut queried = self.queried.lock();
        if queried.len() >= TABLES_MAX && !queried.contains_key(id) {
            queried.retain(|_, at| recent(at));
            if queried.len() >= TABLES_MAX {
                queried.clear();
            }
        }
        queried
            .insert(id.clone(), now)
            .is_some_and(|at| recent(&at))
    }
}

impl Engine {
    /// The newest version and the log's ends, where the version holds everything up to them, which
    /// were asked for after this call; none where the tail must be read, or it is not known whether
    /// it must.
    pub(super) async fn quiet(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
    ) -> Option<(Arc<Pinned>, BTreeMap<Bucket, Watermark>)> {
        let inner = &self.inner;
        if entry.mode != TableMode::Upsert {
            return None;
        }
        let followed = inner.tails.followed(entry);
        if followed.is_some_and(|followed| followed.view().is_some()) {
            return None;
        }
        // What fails here fails again, and is told, where the table is followed.
        let ends = look(inner.tails.source(), entry).await.ok()?;
        let ends = ends.into_iter();
        let ends = ends.map(|(bucket, end)| (bucket, Watermark(end.0)));
        let ends: BTreeMap<_, _> = ends.collect();
        let age = Duration::from_millis(inner.settings.snapshot_age_ms_max);
        let mut pinned = inner.pins.newest(entry, age).await.ok()?;
        if !holds_all(&pinned, &ends) {
            // What is missing may have been committed since that one was read.
            pinned = inner.pins.newest(entry, Duration::ZERO).await.ok()?;
        }
        if !holds_all(&pinned, &ends) {
            return None;
        }
        let reached = |bucket| ends.get(&bucket).copied().unwrap_or_default();
        if behind(entry, token, reached).is_some() {
            return None;
        }
        let idle = Duration::from_millis(inner.settings.tail_idle_ms);
        if inner.quiet.note(&entry.id, idle) {
            drop(inner.tails.follow(entry));
        }
        Some((pinned, ends))
    }
}

/// A log that ends before a watermark is another's: that is not for here to say.
fn holds_all(pinned: &Pinned, ends: &BTreeMap<Bucket, Watermark>) -> bool {
    let mut ends = ends.iter();
    ends.all(|(bucket, end)| pinned.watermark(*bucket) == *end)
}

#[cfg(test)]
mod tests {
    use tidelake_core::{TableName, TenantId};

    use super::*;

    #[test]
    fn a_table_that_is_queried_again_is_told_and_few_are_remembered() {
        let quiet = Quiet::default();
        let table = |name: &str| TableId::new(TenantId::default(), TableName::new(name).unwrap());
        let long = Duration::from_secs(60);
        assert!(!quiet.note(&table("t"), long));
        assert!(quiet.note(&table("t"), long));
        for number in 0..3 * TABLES_MAX {
            assert!(!quiet.note(&table(&format!("t{number}")), long));
        }
        assert!(quiet.queried.lock().len() <= TABLES_MAX);
    }
}
