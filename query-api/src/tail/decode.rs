//! Messages to rows, off the async threads: what came can hold many megabytes of JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::IntCounter;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{Bucket, Offset};
use tidelake_intake::{BucketIntake, IntakeTable, TableKind, Taken};
use tidelake_log::News;
use tidelake_manifest::Snapshot;
use tidelake_table::{Chunk, Deletes};

use super::log::visit;
use crate::error::QueryError;

/// What came of one bucket.
#[derive(Debug, Default)]
pub(super) struct Came {
    pub chunks: Vec<Chunk>,
    pub deletes: Vec<Deletes>,
    /// The offset after the last that was read.
    pub reached: Offset,
}

/// Intakes by bucket, kept from one batch of messages to the next.
#[derive(Debug)]
pub(super) struct Decoders {
    table: IntakeTable,
    /// Where the buckets' tails begin.
    snapshot: Arc<Snapshot>,
    rejected: IntCounter,
    by_bucket: BTreeMap<Bucket, BucketIntake>,
}

impl Decoders {
    pub(super) fn new(entry: &TableEntry, snapshot: Arc<Snapshot>, rejected: IntCounter) -> Self {
        let kind = match entry.mode {
            _ if entry.is_dead_letters() => TableKind::DeadLetters,
            TableMode::Append => TableKind::Append,
            TableMode::Upsert => TableKind::Upsert,
        };
        Self {
            table: IntakeTable::of(kind, entry.topic_id, entry.buckets, &snapshot),
            snapshot,
            rejected,
            by_bucket: BTreeMap::new(),
        }
    }

    /// The tails begin behind a newer snapshot now, which may cover what was never read here.
    pub(super) fn rebased(&mut self, snapshot: &Arc<Snapshot>) {
        self.snapshot = Arc::clone(snapshot);
        for intake in self.by_bucket.values_mut() {
            intake.rebased(snapshot);
        }
    }

    /// Decodes what lies at or behind `reached`; what lies before was decoded already.
    pub(super) fn decode(
        &mut self,
        news: &News,
        reached: &BTreeMap<Bucket, Offset>,
    ) -> Result<BTreeMap<Bucket, Came>, QueryError> {
        let mut came: BTreeMap<Bucket, Came> = BTreeMap::new();
        let mut failed = None;
        visit(&news.messages, |bucket, seen| {
            let known = reached.get(&bucket);
            if known.is_none_or(|reached| seen.offset < *reached) {
                return;
            }
            if !self.by_bucket.contains_key(&bucket) {
                match BucketIntake::open(&self.table, bucket, &self.snapshot) {
                    Ok(intake) => _ = self.by_bucket.insert(bucket, intake),
                    Err(error) => {
                        failed = Some(QueryError::Engine(error.to_string()));
                        return;
                    }
                }
            }
            let Some(intake) = self.by_bucket.get_mut(&bucket) else {
                return;
            };
            let came = came.entry(bucket).or_default();
            came.reached = came.reached.max(seen.offset.next());
            match intake.take(seen) {
                // A misrouted record comes again where it belongs, and counts there once.
                Taken::Rows(_) | Taken::Marker | Taken::Repeated | Taken::Misrouted(_) => {}
                Taken::Refused(_) => self.rejected.inc(),
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        for (bucket, end) in &news.ends {
            if reached.get(bucket).is_some_and(|reached| reached < end) {
                let came = came.entry(*bucket).or_default();
                came.reached = came.reached.max(*end);
            }
        }
        for (bucket, came) in &mut came {
            let Some(intake) = self.by_bucket.get_mut(bucket) else {
                continue;
            };
            let drained = intake.drain();
            let drained = drained.map_err(|error| QueryError::Engine(error.to_string()))?;
            came.chunks = drained.chunks;
            came.deletes = drained.deletes;
        }
        Ok(came)
    }
}
