//! Which re-publications a bucket has taken.
//!
//! ```text
//!  bucket A @17: key belongs to B ─► republished to B, before A's watermark passes 17
//!  bucket B, for each source:   floor ──────┬───┬──────┬──►
//!                               all taken   17  19     31      taken beyond the floor
//! ```
//! A source's flusher may send a record twice: after a crash, as a zombie, or because no
//! acknowledgement came. And records may come in another order than they were sent in, where an
//! early one had to be sent again. So a bucket keeps the exact set of what it has taken from each
//! source. What keeps the set small is the floor that each record names ([`crate::origin`]):
//! everything below it stands before that record, so it was taken. A sender has at most
//! [`ORIGIN_WINDOW`] records beyond its floor on the way, and which records of a source are
//! misrouted depends on the source's log alone, so that is what all senders together have.
//!
//! A sender must not send a record while one of the same key waits for its acknowledgement:
//! otherwise the older one, sent again, would come to stand behind the newer.
//!
//! The set is kept in the table's log, in the commit that holds the rows: the floor as transaction
//! `tidelake/<topic>/<bucket>/origin/<source>`, what was taken beyond it in
//! `…/origin/<source>/<slot>`. A slot below the floor is free. Earlier versions kept only the last
//! offset, as `…/from/<source>`: everything up to it counts as taken.

use std::collections::BTreeMap;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, Offset, TopicId};
use tidelake_manifest::action::Txn;
use tidelake_manifest::{Snapshot, app_id};

use crate::origin::{ORIGIN_WINDOW, Origin};

/// Twice what senders that keep to the rule can bring: room for records that count as misrouted
/// only since the schema changed.
const SLOTS: usize = 2 * ORIGIN_WINDOW;

/// What became of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    New,
    Repeated,
    /// More lies beyond the floor than any sender may have sent.
    TooFar,
}

/// What one bucket has taken of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Source {
    floor: Offset,
    /// By slot. What lies below the floor is stale.
    slots: Vec<Offset>,
}

impl Source {
    fn has(&self, offset: Offset) -> bool {
        offset < self.floor || self.slots.contains(&offset)
    }

    /// A slot for one more; `None` where all hold something.
    fn free_slot(&self) -> Option<usize> {
        let stale = self.slots.iter().position(|held| *held < self.floor);
        stale.or_else(|| (self.slots.len() < SLOTS).then_some(self.slots.len()))
    }

    fn put(&mut self, slot: usize, offset: Offset) {
        if slot == self.slots.len() {
            self.slots.push(offset);
        } else {
            self.slots[slot] = offset;
        }
    }
}

/// What one bucket has taken of every source.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    sources: BTreeMap<Bucket, Source>,
    /// What the table's log holds of it.
    kept: BTreeMap<Bucket, Source>,
}

impl Origins {
    /// What a table's log holds for a bucket.
    pub fn of(snapshot: &Snapshot, topic: &TopicId, bucket: Bucket) -> Self {
        Self::of_txns(snapshot.txns(), topic, bucket)
    }

    fn of_txns<'a>(txns: impl Iterator<Item = &'a Txn>, topic: &TopicId, bucket: Bucket) -> Self {
        let own = app_id(topic, bucket);
        let prefix = format!("{own}/origin/");
        let before = format!("{own}/from/");
        let mut kept: BTreeMap<Bucket, Source> = BTreeMap::new();
        for txn in txns {
            let version = Offset(txn.version);
            if let Some(source) = txn.app_id.strip_prefix(&before) {
                if let Ok(source) = source.parse() {
                    let known = kept.entry(Bucket(source)).or_default();
                    known.floor = known.floor.max(version.next());
                }
                continue;
            }
            let Some(rest) = txn.app_id.strip_prefix(&prefix) else {
                continue;
            };
            let (source, slot) = match rest.split_once('/') {
                None => (rest.parse(), None),
                Some((source, slot)) => (source.parse(), slot.parse::<usize>().ok()),
            };
            let Ok(source) = source else { continue };
            let known = kept.entry(Bucket(source)).or_default();
            match slot {
                None => known.floor = known.floor.max(version),
                Some(slot) if slot < SLOTS => {
                    let slots = known.slots.len().max(slot + 1);
                    known.slots.resize(slots, FREE);
                    known.slots[slot] = version;
                }
                Some(_) => {}
            }
        }
        Self {
            sources: kept.clone(),
            kept,
        }
    }

    /// A commit may cover more than was read here: what it took counts as taken.
    pub fn committed(&mut self, snapshot: &Snapshot, topic: &TopicId, bucket: Bucket) {
        let kept = Self::of(snapshot, topic, bucket).kept;
        for (bucket, theirs) in &kept {
            let own = self.sources.entry(*bucket).or_default();
            own.floor = own.floor.max(theirs.floor);
            for offset in &theirs.slots {
                if !own.has(*offset)
                    && let Some(slot) = own.free_slot()
                {
                    own.put(slot, *offset);
                }
            }
        }
        self.kept = kept;
    }

    /// What an origin counts as. Nothing is noted yet, but the floor is, which holds whatever
    /// becomes of the record.
    pub(crate) fn judge(&mut self, origin: Origin) -> Judged {
        let source = self.sources.entry(origin.bucket).or_default();
        source.floor = source.floor.max(origin.floor);
        if source.has(origin.offset) {
            Judged::Repeated
        } else if source.free_slot().is_none() {
            Judged::TooFar
        } else {
            Judged::New
        }
    }

    /// Notes that the record of an origin was taken, or refused for good.
    pub(crate) fn take(&mut self, origin: Origin) {
        let source = self.sources.entry(origin.bucket).or_default();
        if let Some(slot) = source.free_slot() {
            source.put(slot, origin.offset);
        }
    }

    /// The transactions that the next commit has to hold: what changed since the last call.
    pub fn seal(&mut self, topic: &TopicId, bucket: Bucket, now_ms: UnixMillis) -> Vec<Txn> {
        let own = app_id(topic, bucket);
        let mut txns = Vec::new();
        let mut note = |app_id: String, version: Offset| {
            txns.push(Txn {
                app_id,
                version: version.0,
                last_updated: Some(now_ms),
            });
        };
        let none = Source::default();
        for (bucket, source) in &self.sources {
            let kept = self.kept.get(bucket).unwrap_or(&none);
            if source.floor != kept.floor {
                note(format!("{own}/origin/{bucket}"), source.floor);
            }
            for (slot, offset) in source.slots.iter().enumerate() {
                if *offset >= source.floor && kept.slots.get(slot) != Some(offset) {
                    note(format!("{own}/origin/{bucket}/{slot}"), *offset);
                }
            }
        }
        self.kept = self.sources.clone();
        txns
    }
}

/// Of a slot that was never used: below every floor.
const FREE: Offset = Offset(-1);

#[cfg(test)]
mod tests;
