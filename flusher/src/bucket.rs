//! One bucket that this flusher owns: its position, its rows in memory, their age.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::message::{Letter, MessageDecoder, Placement, Pushed, WireMessage};
use tidelake_codec::{CodecError, Reason, Rejection};
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_log::headers::{ENCODING, OP, ORIGIN};
use tidelake_log::{Message, Received, Run, TopicBucket};
use tidelake_manifest::Snapshot;
use tidelake_schema::{SchemaError, TableSchema};
use tidelake_table::origins::{Origin, Origins};
use tidelake_table::{Chunk, Deletes, Memtable, Positions, Sealed};

use crate::dead_letters::{self, Original};
use crate::flush::Misrouted;
use crate::misrouted;
use crate::policy::Moment;
use crate::seats::Held;

/// Decoded rows go into the memtable in pieces of this size, so that growing columns are not copied
/// again and again.
const CHUNK_BYTES: usize = 8 << 20;

/// What a bucket hands to a flush.
#[derive(Debug)]
pub struct SealedBucket {
    pub sealed: Sealed,
    pub dead_letters: Vec<Message>,
    /// Records of other buckets' keys.
    pub misrouted: Vec<Misrouted>,
    /// Some offsets before its end had no message.
    pub has_gaps: bool,
    /// The last origin of each source that the rows include.
    pub origins: BTreeMap<Bucket, Offset>,
}

/// What one message was.
enum Decoded {
    Rows(usize),
    Marker,
    /// A re-publication that was taken before.
    Repeated,
    /// Its key belongs to this other bucket.
    Misrouted(Bucket),
}

/// What a run of messages brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
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

/// What its decoder is made from.
#[derive(Debug)]
struct Shape {
    schema: Arc<TableSchema>,
    /// Where keys and origins count: of upsert tables.
    placement: Option<Placement>,
    of_dead_letters: bool,
}

impl Shape {
    fn decoder(&self) -> Result<MessageDecoder, SchemaError> {
        if self.of_dead_letters {
            MessageDecoder::dead_letters()
        } else if self.placement.is_some() {
            MessageDecoder::keyed(&self.schema, self.placement)
        } else {
            MessageDecoder::new(&self.schema)
        }
    }

    fn has_keys(&self) -> bool {
        self.placement.is_some()
    }
}

/// A bucket's state between two commits.
#[derive(Debug)]
pub struct BucketState {
    pub at: TopicBucket,
    memtable: Memtable,
    decoder: MessageDecoder,
    shape: Shape,
    buckets: u32,
    origins: Origins,
    /// Records of other buckets' keys, to be re-published before a commit passes them.
    misrouted: Vec<Misrouted>,
    dead: Vec<Message>,
    /// Of every table that is not a dead-letter table itself.
    dead_topic: Option<Arc<str>>,
    /// Memory of misrouted records and dead letters.
    aside_bytes: usize,
    /// Everything before it has been taken in or skipped as taken before.
    next: Watermark,
    first_taken: Option<Moment>,
    oldest_ms: Option<i64>,
    has_gaps: bool,
    /// A flush marker came through.
    pub asked: bool,
    /// Messages are ignored: they come from before a restart, or the bucket is being given up.
    pub muted: bool,
    /// Oldest message of the flush under way.
    pub in_flight_oldest_ms: Option<i64>,
    /// Covered by a commit.
    pub committed: Watermark,
}

impl BucketState {
    pub fn new(
        at: TopicBucket,
        entry: &TableEntry,
        snapshot: &Snapshot,
        dead_topic: Option<Arc<str>>,
    ) -> Result<Self, SchemaError> {
        let of_dead_letters = entry.is_dead_letters();
        let has_keys = entry.mode == TableMode::Upsert && !of_dead_letters;
        let shape = Shape {
            schema: Arc::clone(snapshot.schema()),
            placement: has_keys.then_some(Placement {
                bucket: at.bucket,
                buckets: entry.buckets,
            }),
            of_dead_letters,
        };
        let from = snapshot
            .watermark(&entry.topic_id, at.bucket)
            .unwrap_or_default();
        Ok(Self {
            memtable: Memtable::new(at.bucket, from),
            decoder: shape.decoder()?,
            shape,
            buckets: entry.buckets,
            origins: Origins::of(snapshot, &entry.topic_id, at.bucket),
            misrouted: Vec::new(),
            at,
            dead: Vec::new(),
            dead_topic,
            aside_bytes: 0,
            next: from,
            first_taken: None,
            oldest_ms: None,
            has_gaps: false,
            asked: false,
            muted: false,
            in_flight_oldest_ms: None,
            committed: from,
        })
    }

    /// Takes messages in. Those before the position were taken before and are skipped.
    pub fn take(&mut self, run: &Run<'_>, now: Moment) -> Result<Taken, CodecError> {
        let mut taken = Taken::default();
        if self.muted {
            return Ok(taken);
        }
        for message in run.iter() {
            let offset = message.offset();
            if self.next.covers(offset) {
                continue;
            }
            let timestamp_ms = message.timestamp_ms();
            let headed = message.has_headers();
            let letter = (headed && self.shape.of_dead_letters)
                .then(|| Letter::read(|name| message.header(name)));
            let wire = WireMessage {
                key: (self.shape.has_keys() || self.shape.of_dead_letters)
                    .then(|| message.key())
                    .flatten(),
                offset: offset.0,
                timestamp_ms,
                value: message.value(),
                encoding: headed.then(|| message.header(ENCODING)).flatten(),
                op: headed.then(|| message.header(OP)).flatten(),
                letter: letter.as_ref(),
            };
            taken.messages += 1;
            let skipped = u64::try_from(offset.0 - self.next.0).unwrap_or(0);
            taken.skipped += skipped;
            self.has_gaps |= skipped > 0;
            taken.bytes += wire.value.map_or(0, <[u8]>::len) as u64;
            let decoded = match self.decode(&wire, &message, headed) {
                Ok(Decoded::Misrouted(bucket)) => self.send_on(&message, bucket),
                other => other,
            };
            match decoded {
                Ok(Decoded::Rows(rows)) => taken.rows += rows as u64,
                Ok(Decoded::Marker) => self.asked = true,
                Ok(Decoded::Repeated) => taken.repeated += 1,
                Ok(Decoded::Misrouted(_)) => taken.misrouted += 1,
                Err(why) => {
                    tracing::warn!(bucket = %self.at, %offset, reason = %why, "dead letter");
                    taken.rejected += 1;
                    self.bury(&Original::of(run.topic, &message), &why);
                }
            }
            self.next = Watermark::after(offset);
            self.first_taken.get_or_insert(now);
            self.oldest_ms = Some(self.oldest_ms.unwrap_or(i64::MAX).min(timestamp_ms));
        }
        if self.decoder.bytes() > CHUNK_BYTES {
            self.drain_decoder()?;
        }
        Ok(taken)
    }

    fn decode(
        &mut self,
        wire: &WireMessage<'_>,
        message: &Received<'_>,
        headed: bool,
    ) -> Result<Decoded, Rejection> {
        let origin = (headed && self.shape.has_keys())
            .then(|| message.header(ORIGIN))
            .flatten();
        let origin = match origin {
            None => None,
            Some(text) => {
                let what = "this tl-origin (expected bucket/offset of another bucket)";
                let malformed = || Rejection::of_row(0, Reason::Unsupported { what });
                Some(Origin::parse(text, self.at.bucket, self.buckets).ok_or_else(malformed)?)
            }
        };
        if let Some(origin) = origin
            && !self.origins.is_new(origin)
        {
            return Ok(Decoded::Repeated);
        }
        let decoded = match self.decoder.push(wire)? {
            Pushed::Rows(rows) => Decoded::Rows(rows),
            Pushed::Marker => Decoded::Marker,
            // Re-published once: whoever set this origin counted buckets differently.
            Pushed::Elsewhere(_) if origin.is_some() => {
                let what = "a re-published record of another bucket's key";
                return Err(Rejection::of_row(0, Reason::Unsupported { what }));
            }
            Pushed::Elsewhere(bucket) => Decoded::Misrouted(bucket),
        };
        if let Some(origin) = origin {
            self.origins.take(origin);
        }
        Ok(decoded)
    }

    /// Keeps a record of another bucket's key for the next flush, which sends it there first.
    fn send_on(&mut self, message: &Received<'_>, to: Bucket) -> Result<Decoded, Rejection> {
        let topic = Arc::clone(&self.at.topic);
        let again = misrouted::republished(&topic, message, to)?;
        self.aside_bytes += dead_letters::bytes_of(&again);
        self.misrouted.push(Misrouted {
            offset: message.offset(),
            message: again,
        });
        Ok(Decoded::Misrouted(to))
    }

    /// Keeps the dead letter of a bad record for the next flush.
    fn bury(&mut self, original: &Original<'_>, why: &Rejection) {
        // The decoder of dead letters takes everything.
        debug_assert!(self.dead_topic.is_some());
        if let Some(topic) = &self.dead_topic {
            let message = dead_letters::dead_letter(topic, original, why);
            self.aside_bytes += dead_letters::bytes_of(&message);
            self.dead.push(message);
        }
    }

    fn drain_decoder(&mut self) -> Result<(), CodecError> {
        let decoded = self.decoder.finish()?;
        for removed in decoded.deletes {
            let positions = Positions {
                offsets: removed.offsets,
                rows: removed.rows,
                timestamps_ms: removed.timestamps_ms,
            };
            self.memtable.delete(Deletes::new(removed.keys, positions));
        }
        for rows in decoded.rows {
            let positions = Positions {
                offsets: rows.offsets,
                rows: rows.rows,
                timestamps_ms: rows.timestamps_ms,
            };
            self.memtable.push(Chunk::new(rows.batch, positions));
        }
        Ok(())
    }

    /// Hands over everything taken in so far; `None` where a commit would not move the watermark.
    pub fn seal(&mut self) -> Result<Option<SealedBucket>, CodecError> {
        self.drain_decoder()?;
        self.memtable.advance(self.next);
        if self.memtable.is_empty() {
            return Ok(None);
        }
        let sealed = self.memtable.seal();
        self.in_flight_oldest_ms = self.oldest_ms.take();
        self.first_taken = None;
        self.asked = false;
        self.aside_bytes = 0;
        Ok(Some(SealedBucket {
            sealed,
            misrouted: std::mem::take(&mut self.misrouted),
            has_gaps: std::mem::take(&mut self.has_gaps),
            origins: self.origins.seal(),
            dead_letters: std::mem::take(&mut self.dead),
        }))
    }

    /// A commit covers everything before `to`.
    pub fn committed(&mut self, to: Watermark) {
        self.committed = to;
        self.in_flight_oldest_ms = None;
    }

    /// What the bucket holds that no flush has taken. What a decoder keeps room for while it holds no
    /// rows is told apart: no flush frees it.
    pub fn held(&self) -> Held {
        let bytes = self.memtable.bytes() + self.decoder.bytes() + self.aside_bytes;
        let (rows, room) = match self.first_taken {
            Some(_) => (bytes, 0),
            None => (0, bytes),
        };
        Held {
            rows,
            room,
            since: self.first_taken,
            asked: self.asked,
        }
    }

    /// Gives back the room that the decoder keeps, where it holds no rows.
    pub fn shrink(&mut self) -> Result<(), SchemaError> {
        if self.first_taken.is_none() {
            self.decoder = self.shape.decoder()?;
        }
        Ok(())
    }

    /// Timestamp of the oldest message that no commit covers.
    pub fn oldest_uncommitted_ms(&self) -> Option<i64> {
        match (self.in_flight_oldest_ms, self.oldest_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub fn next_offset(&self) -> Offset {
        Offset(self.next.0)
    }
}
