//! Messages to rows, off the async threads: what came can hold many megabytes of JSON.
//!
//! Each message has room in the tails' budget before it is decoded, by what those before it became.
//! Where there is none, what was decoded so far stands, and the rest is taken later.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use prometheus::IntCounter;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{Bucket, Offset};
use tidelake_intake::{BucketIntake, IntakeTable, Seen, TableKind, Taken};
use tidelake_log::News;
use tidelake_manifest::Snapshot;
use tidelake_table::{Chunk, Deletes};

use super::budget::Room;
use super::log::visit;
use crate::error::QueryError;

/// What came of one bucket.
#[derive(Debug, Default)]
pub(super) struct Came {
    pub chunks: Vec<Chunk>,
    pub deletes: Vec<Deletes>,
    /// Of rows and deletes.
    pub bytes: usize,
    /// The offset after the last that was read.
    pub reached: Offset,
}

impl Came {
    pub(super) fn rows(&self) -> usize {
        self.chunks.iter().map(Chunk::rows).sum()
    }
}

/// What became of messages.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub came: BTreeMap<Bucket, Came>,
    /// Room that the next message needs beyond what was decoded; none where all was. Some of what
    /// came was decoded, unless there is no room for its first message.
    pub needs: Option<usize>,
}

/// Decoded bytes of a message's byte before any was seen, and what a message takes in any case.
const GROWTH_FIRST: f64 = 4.0;
const GROWTH_MAX: f64 = 64.0;
/// What is decoded at once: what was taken in shows before the next part is begun with.
const BITE_BYTES_MAX: usize = 8 << 20;
/// Fewer bytes say nothing of those that come.
const GROWTH_SEEN_BYTES: usize = 64 << 10;
const MESSAGE_BYTES: usize = 64;

/// Intakes by bucket, kept from one batch of messages to the next.
#[derive(Debug)]
pub(super) struct Decoders {
    table: IntakeTable,
    /// Where the buckets' tails begin.
    snapshot: Arc<Snapshot>,
    /// Counts what is refused, where nobody else does.
    rejected: Option<IntCounter>,
    by_bucket: BTreeMap<Bucket, BucketIntake>,
    /// Decoded bytes for each byte of a message.
    growth: f64,
}

impl Decoders {
    pub(super) fn new(
        entry: &TableEntry,
        snapshot: Arc<Snapshot>,
        rejected: Option<IntCounter>,
    ) -> Self {
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
            growth: GROWTH_FIRST,
        }
    }

    /// The tails begin behind a newer snapshot now, which may cover what was never read here.
    pub(super) fn rebased(&mut self, snapshot: &Arc<Snapshot>) {
        self.snapshot = Arc::clone(snapshot);
        for intake in self.by_bucket.values_mut() {
            intake.rebased(snapshot);
        }
    }

    /// Decodes what lies at or behind `reached`, as far as there is room; what lies before was
    /// decoded already. Of a bucket that `until` names, what lies at or behind that is left out.
    pub(super) fn decode(
        &mut self,
        news: &[News],
        (reached, until): (&BTreeMap<Bucket, Offset>, &BTreeMap<Bucket, Offset>),
        room: &mut Room,
    ) -> Result<Decoded, QueryError> {
        let mut decoded = Decoded::default();
        let (mut wire, mut planned) = (0, 0);
        let mut failed = None;
        for news in news {
            visit(&news.messages, |bucket, seen| {
                let known = reached.get(&bucket);
                let is_over = decoded.needs.is_some() || failed.is_some();
                if is_over || known.is_none_or(|reached| seen.offset < *reached) {
                    return;
                }
                if let Some(until) = until.get(&bucket)
                    && seen.offset >= *until
                {
                    let came = decoded.came.entry(bucket).or_default();
                    came.reached = came.reached.max(*until);
                    return;
                }
                let bytes = seen.value.map_or(0, <[u8]>::len) + MESSAGE_BYTES;
                let wanted = (bytes as f64 * self.growth) as usize;
                if planned >= BITE_BYTES_MAX || !room.cover(planned + wanted) {
                    decoded.needs = Some(wanted);
                    return;
                }
                (wire, planned) = (wire + bytes, planned + wanted);
                let came = decoded.came.entry(bucket).or_default();
                came.reached = came.reached.max(seen.offset.next());
                failed = self.take(bucket, seen).err();
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if decoded.needs.is_none() {
            for (bucket, end) in news.iter().flat_map(|news| &news.ends) {
                let end = until.get(bucket).map_or(*end, |until| *end.min(until));
                if reached.get(bucket).is_some_and(|reached| *reached < end) {
                    let came = decoded.came.entry(*bucket).or_default();
                    came.reached = came.reached.max(end);
                }
            }
        }
        self.drain(&mut decoded.came, wire)?;
        Ok(decoded)
    }

    fn take(&mut self, bucket: Bucket, seen: &Seen<'_>) -> Result<(), QueryError> {
        let intake = match self.by_bucket.entry(bucket) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let opened = BucketIntake::open(&self.table, bucket, &self.snapshot);
                new.insert(opened.map_err(|error| QueryError::Engine(error.to_string()))?)
            }
        };
        match intake.take(seen) {
            // A misrouted record comes again where it belongs, and counts there once.
            Taken::Rows(_) | Taken::Marker | Taken::Repeated | Taken::Misrouted(_) => {}
            Taken::Refused(_) => {
                if let Some(rejected) = &self.rejected {
                    rejected.inc();
                }
            }
        }
        Ok(())
    }

    /// `wire`: bytes of the messages that were taken.
    fn drain(&mut self, came: &mut BTreeMap<Bucket, Came>, wire: usize) -> Result<(), QueryError> {
        let mut bytes = 0;
        for (bucket, came) in came {
            let Some(intake) = self.by_bucket.get_mut(bucket) else {
                continue;
            };
            let drained = intake.drain();
            let drained = drained.map_err(|error| QueryError::Engine(error.to_string()))?;
            came.bytes = drained.chunks.iter().map(Chunk::bytes).sum::<usize>()
                + drained.deletes.iter().map(Deletes::bytes).sum::<usize>();
            bytes += came.bytes;
            came.chunks = drained.chunks;
            came.deletes = drained.deletes;
        }
        // Of a few small messages the rooms that columns begin with would tell.
        if wire >= GROWTH_SEEN_BYTES {
            self.growth = (bytes as f64 / wire as f64).clamp(1.0, GROWTH_MAX);
        }
        Ok(())
    }
}
