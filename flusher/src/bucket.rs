//! One bucket that this flusher owns: its position, its rows in memory, their age.
//!
//! What a message counts as is the intake's; here it becomes a row of the memtable, or a message to
//! be sent before the commit that passes it: to the bucket of its key, or to the dead letters.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::{CodecError, Reason, Rejection};
use tidelake_core::clock::UnixMillis;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_intake::{BucketIntake, IntakeError, IntakeTable, Outgoing, Seen, TableKind};
use tidelake_intake::{dead_letter, misrouted};
use tidelake_log::{Run, TopicBucket};
use tidelake_manifest::Snapshot;
use tidelake_manifest::action::Txn;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;
use tidelake_table::{Memtable, Sealed, flush_needs};

use crate::policy::Moment;
use crate::seats::Held;

/// Decoded rows go into the memtable in pieces of this size, so that growing columns are not copied
/// again and again.
const CHUNK_BYTES: usize = 8 << 20;
/// What a re-publication may take: what the log takes, less room for its origin and for what
/// surrounds a message.
const REPUBLISHED_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

/// A record of another bucket's key.
#[derive(Debug, Clone)]
pub(crate) struct Misrouted {
    /// Where it stands.
    pub offset: Offset,
    /// Hash of its row's key text: the message's own key may be another, or none.
    pub key: u64,
    /// For the bucket of its key, without its origin: that depends on when it is sent.
    pub message: Outgoing,
}

/// What a bucket hands to a flush.
#[derive(Debug)]
pub(crate) struct SealedBucket {
    pub sealed: Sealed,
    pub dead_letters: Vec<Outgoing>,
    pub misrouted: Vec<Misrouted>,
    /// What the commit has to hold of the re-publications that the rows include.
    pub txns: Vec<Txn>,
    /// Some offsets before its end had no message.
    pub has_gaps: bool,
}

/// What a run of messages brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub messages: u64,
    pub rows: u64,
    pub bytes: u64,
    pub rejected: u64,
    /// Records of other buckets' keys.
    pub misrouted: u64,
    /// Re-publications that were taken before.
    pub repeated: u64,
    /// Offsets that hold no message for us: markers of producers' transactions, normally none.
    pub skipped: u64,
}

/// A bucket's state between two commits.
#[derive(Debug)]
pub(crate) struct BucketState {
    pub at: TopicBucket,
    memtable: Memtable,
    intake: BucketIntake,
    kind: TableKind,
    /// What the rows are decoded for.
    schema: Arc<TableSchema>,
    names: Arc<PhysicalNames>,
    /// Of the memtable.
    deletes: usize,
    /// To be re-published before a commit passes them.
    misrouted: Vec<Misrouted>,
    dead_letters: Vec<Outgoing>,
    /// Memory of misrouted records and dead letters.
    aside_bytes: usize,
    /// Everything before it has been taken in or skipped as taken before.
    next: Watermark,
    first_taken: Option<Moment>,
    oldest_ms: Option<i64>,
    has_gaps: bool,
    /// When the first flush marker came through.
    asked: Option<Moment>,
    /// Messages are ignored: they come from before a restart, or the bucket is being given up.
    pub muted: bool,
    /// Oldest message of the flush under way.
    in_flight_oldest_ms: Option<i64>,
    /// Covered by a commit.
    pub committed: Watermark,
}

/// What the messages of a table's topic are to it.
pub(crate) fn kind_of(entry: &TableEntry) -> TableKind {
    match entry.mode {
        _ if entry.is_dead_letters() => TableKind::DeadLetters,
        TableMode::Append => TableKind::Append,
        TableMode::Upsert => TableKind::Upsert,
    }
}

impl BucketState {
    pub(crate) fn new(
        at: TopicBucket,
        entry: &TableEntry,
        snapshot: &Snapshot,
    ) -> Result<Self, IntakeError> {
        let kind = kind_of(entry);
        let table = IntakeTable::of(kind, entry.topic_id, entry.buckets, snapshot);
        let from = snapshot
            .watermark(&entry.topic_id, at.bucket)
            .unwrap_or_default();
        Ok(Self {
            memtable: Memtable::new(at.bucket, from),
            intake: BucketIntake::open(&table, at.bucket, snapshot)?,
            kind,
            schema: Arc::clone(snapshot.schema()),
            names: Arc::clone(snapshot.physical_names()),
            deletes: 0,
            misrouted: Vec::new(),
            dead_letters: Vec::new(),
            at,
            aside_bytes: 0,
            next: from,
            first_taken: None,
            oldest_ms: None,
            has_gaps: false,
            asked: None,
            muted: false,
            in_flight_oldest_ms: None,
            committed: from,
        })
    }

    /// True where a commit on top of the snapshot finds the columns that the rows are decoded for,
    /// called in files as they were then. Field ids alone don't tell: an engine that switches column
    /// mapping on may count them anew.
    pub(crate) fn is_decoded_for(&self, snapshot: &Snapshot) -> bool {
        let (schema, names) = (snapshot.schema(), snapshot.physical_names());
        (Arc::ptr_eq(&self.schema, schema) || self.schema == *schema)
            && (Arc::ptr_eq(&self.names, names) || self.names == *names)
    }

    /// Takes messages in. Those before the position were taken before and are skipped.
    pub(crate) fn take(&mut self, run: &Run<'_>, now: Moment) -> Result<Taken, CodecError> {
        let mut taken = Taken::default();
        if self.muted {
            return Ok(taken);
        }
        for message in run.iter() {
            let seen = Seen {
                offset: message.offset(),
                timestamp_ms: message.timestamp_ms(),
                key: message.key(),
                value: message.value(),
                headers: &message,
            };
            if !self.next.covers(seen.offset) {
                self.take_one(&seen, now, &mut taken);
                self.first_taken.get_or_insert(now);
            }
        }
        if self.intake.bytes() > CHUNK_BYTES {
            self.drain()?;
        }
        Ok(taken)
    }

    /// Goes on behind offsets without a message for us, up to `to`. True where that moves the
    /// position; the next commit covers them.
    pub(crate) fn pass(&mut self, to: Offset, now: Moment) -> bool {
        if self.muted || to.0 <= self.next.0 {
            return false;
        }
        self.next = Watermark(to.0);
        self.has_gaps = true;
        self.first_taken.get_or_insert(now);
        true
    }

    fn take_one(&mut self, seen: &Seen<'_>, now: Moment, taken: &mut Taken) {
        let skipped = u64::try_from(seen.offset.0 - self.next.0).unwrap_or(0);
        self.has_gaps |= skipped > 0;
        taken.skipped += skipped;
        taken.messages += 1;
        taken.bytes += seen.value.map_or(0, <[u8]>::len) as u64;
        match self.intake.take(seen) {
            tidelake_intake::Taken::Rows(rows) => taken.rows += rows as u64,
            tidelake_intake::Taken::Marker => {
                self.asked.get_or_insert(now);
            }
            tidelake_intake::Taken::Repeated => taken.repeated += 1,
            tidelake_intake::Taken::Misrouted(to) => self.send_on(seen, to, taken),
            tidelake_intake::Taken::Refused(why) => self.bury(seen, &why, taken),
        }
        self.next = Watermark::after(seen.offset);
        let oldest_ms = self.oldest_ms.unwrap_or(i64::MAX);
        self.oldest_ms = Some(oldest_ms.min(seen.timestamp_ms));
    }

    /// Keeps a record of another bucket's key for the next flush, which sends it there first. One
    /// that is larger, decompressed, than the log takes can only become a dead letter.
    fn send_on(&mut self, seen: &Seen<'_>, to: Bucket, taken: &mut Taken) {
        let message = misrouted::republished(seen, to);
        if message.bytes() > REPUBLISHED_BYTES_MAX {
            return self.bury(seen, &too_large(), taken);
        }
        taken.misrouted += 1;
        self.aside_bytes += message.bytes();
        self.misrouted.push(Misrouted {
            offset: seen.offset,
            key: hash_of(self.intake.misrouted_key()),
            message,
        });
    }

    /// Keeps the dead letter of a bad record for the next flush.
    fn bury(&mut self, seen: &Seen<'_>, why: &Rejection, taken: &mut Taken) {
        tracing::warn!(bucket = %self.at, offset = %seen.offset, reason = %why, "dead letter");
        taken.rejected += 1;
        let source = dead_letter::Source {
            topic: &self.at.topic,
            bucket: self.at.bucket,
        };
        let message = dead_letter::of(source, seen, why);
        self.aside_bytes += message.bytes();
        self.dead_letters.push(message);
    }

    fn drain(&mut self) -> Result<(), CodecError> {
        let drained = self.intake.drain()?;
        for deletes in drained.deletes {
            self.deletes += deletes.keys.num_rows();
            self.memtable.delete(deletes);
        }
        for chunk in drained.chunks {
            self.memtable.push(chunk);
        }
        Ok(())
    }

    /// Hands over everything taken in so far; `None` where a commit would not move the watermark.
    pub(crate) fn seal(&mut self, now_ms: UnixMillis) -> Result<Option<SealedBucket>, CodecError> {
        self.drain()?;
        self.memtable.advance(self.next);
        if self.memtable.is_empty() {
            return Ok(None);
        }
        let sealed = self.memtable.seal();
        self.in_flight_oldest_ms = self.oldest_ms.take();
        self.first_taken = None;
        self.asked = None;
        (self.aside_bytes, self.deletes) = (0, 0);
        Ok(Some(SealedBucket {
            sealed,
            misrouted: std::mem::take(&mut self.misrouted),
            txns: self.intake.seal_origins(now_ms),
            dead_letters: std::mem::take(&mut self.dead_letters),
            has_gaps: std::mem::take(&mut self.has_gaps),
        }))
    }

    /// A commit covers everything before `to`.
    pub(crate) fn committed(&mut self, to: Watermark) {
        self.committed = to;
        self.in_flight_oldest_ms = None;
    }

    /// What the bucket holds that no flush has taken. What the intake keeps room for while it holds
    /// no rows is told apart: no flush frees it.
    pub(crate) fn held(&self) -> Held {
        let encoded = self.memtable.bytes() + self.intake.bytes();
        let bytes = encoded + self.aside_bytes;
        let (rows, room) = match self.first_taken {
            Some(_) => (bytes, 0),
            None => (0, bytes),
        };
        let records = || self.memtable.rows() + self.deletes + self.intake.rows();
        let beside = match (self.first_taken, self.kind) {
            (None, _) => 0,
            (Some(_), TableKind::Append) => flush_needs(encoded, None),
            (Some(_), _) => flush_needs(encoded, Some(records())),
        };
        Held {
            rows,
            beside,
            room,
            since: self.first_taken,
            asked: self.asked,
        }
    }

    /// Gives back the room that the intake keeps, where it holds no rows.
    pub(crate) fn shrink(&mut self) {
        if self.first_taken.is_none() {
            self.intake.shrink();
        }
    }

    /// Timestamp of the oldest message that no commit covers.
    pub(crate) fn oldest_uncommitted_ms(&self) -> Option<i64> {
        match (self.in_flight_oldest_ms, self.oldest_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(crate) fn next_offset(&self) -> Offset {
        Offset(self.next.0)
    }
}

/// Why a record that the log does not take becomes a dead letter.
pub(crate) fn too_large() -> Rejection {
    let what = "a record of another bucket's key, which is sent there with its headers,";
    let max = REPUBLISHED_BYTES_MAX;
    Rejection::of_row(0, Reason::TooLarge { what, max })
}

fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
