//! One bucket that this flusher owns: its position, its rows in memory, their age.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::{CodecError, Reason, Rejection};
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_intake::decode::{DeadLetter, MessageDecoder, Placement, Pushed, WireMessage};
use tidelake_log::headers::{ENCODING, OP, ORIGIN};
use tidelake_log::{Message, Received, Run, TopicBucket};
use tidelake_manifest::Snapshot;
use tidelake_schema::SchemaError;
use tidelake_table::origins::{Origin, Origins};
use tidelake_table::{Chunk, Deletes, Memtable, Positions, Sealed};

use crate::dead_letters::{self, Original};
use crate::strays;

/// Decoded rows go into the memtable in pieces of this size, so that growing columns are not copied
/// again and again.
const CHUNK_BYTES: usize = 8 << 20;

/// What a bucket hands to a flush.
#[derive(Debug)]
pub struct SealedBucket {
    pub sealed: Sealed,
    pub dead_letters: Vec<Message>,
    /// Records of other buckets' keys.
    pub strays: Vec<Message>,
    /// The last origin of each source that the rows include.
    pub origins: BTreeMap<Bucket, Offset>,
    pub bytes: usize,
}

/// What one message was.
enum Decoded {
    Rows(usize),
    Marker,
    /// A re-publication that was taken before.
    Repeated,
    /// Its key belongs to this other bucket.
    Stray(Bucket),
}

/// What a run of messages brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub messages: u64,
    pub rows: u64,
    pub bytes: u64,
    pub rejected: u64,
    /// Records of other buckets' keys.
    pub strays: u64,
    /// Re-publications that were taken before.
    pub repeated: u64,
    /// Offsets that hold no message for us: markers of producers' transactions, normally none.
    pub skipped: u64,
}

/// A bucket's state between two commits.
#[derive(Debug)]
pub struct BucketState {
    pub at: TopicBucket,
    memtable: Memtable,
    decoder: MessageDecoder,
    /// Keys and origins count.
    keyed: bool,
    buckets: u32,
    letters: bool,
    origins: Origins,
    /// Records of other buckets' keys, to be re-published before a commit passes them.
    strays: Vec<Message>,
    dead: Vec<Message>,
    /// Of every table that is not a dead-letter table itself.
    dead_topic: Option<Arc<str>>,
    /// Memory of strays and dead letters.
    aside_bytes: usize,
    /// Everything before it has been taken in or skipped as taken before.
    next: Watermark,
    first_taken: Option<Instant>,
    oldest_ms: Option<i64>,
    /// A flush marker came through.
    pub asked: bool,
    /// Messages are ignored: they come from before a restart, or the bucket is being given up.
    pub muted: bool,
    /// Bytes that a flush under way holds.
    pub in_flight: usize,
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
        let schema = snapshot.schema();
        let letters = entry.is_dead_letters();
        let keyed = entry.mode == TableMode::Upsert && !letters;
        let decoder = if letters {
            MessageDecoder::dead_letters()?
        } else if keyed {
            let placement = Placement {
                bucket: at.bucket,
                buckets: entry.buckets,
            };
            MessageDecoder::upsert(schema, Some(placement))?
        } else {
            MessageDecoder::append(schema)?
        };
        let from = snapshot
            .watermark(&entry.topic_id, at.bucket)
            .unwrap_or_default();
        Ok(Self {
            memtable: Memtable::new(at.bucket, from),
            decoder,
            keyed,
            buckets: entry.buckets,
            letters,
            origins: Origins::of(snapshot, &entry.topic_id, at.bucket),
            strays: Vec::new(),
            at,
            dead: Vec::new(),
            dead_topic,
            aside_bytes: 0,
            next: from,
            first_taken: None,
            oldest_ms: None,
            asked: false,
            muted: false,
            in_flight: 0,
            in_flight_oldest_ms: None,
            committed: from,
        })
    }

    /// Takes messages in. Those before the position were taken before and are skipped.
    pub fn take(&mut self, run: &Run<'_>, now: Instant) -> Result<Taken, CodecError> {
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
            let letter =
                (headed && self.letters).then(|| DeadLetter::read(|name| message.header(name)));
            let wire = WireMessage {
                key: (self.keyed || self.letters)
                    .then(|| message.key())
                    .flatten(),
                offset: offset.0,
                timestamp_ms,
                value: message.value(),
                encoding: headed.then(|| message.header(ENCODING)).flatten(),
                op: headed.then(|| message.header(OP)).flatten(),
                dead_letter: letter.as_ref(),
            };
            taken.messages += 1;
            taken.skipped += u64::try_from(offset.0 - self.next.0).unwrap_or(0);
            taken.bytes += wire.value.map_or(0, <[u8]>::len) as u64;
            match self.decode(&wire, &message, headed) {
                Ok(Decoded::Rows(rows)) => taken.rows += rows as u64,
                Ok(Decoded::Marker) => self.asked = true,
                Ok(Decoded::Repeated) => taken.repeated += 1,
                Ok(Decoded::Stray(bucket)) => {
                    let topic = Arc::clone(&self.at.topic);
                    self.aside(strays::republished(&topic, &message, bucket), true);
                    taken.strays += 1;
                }
                Err(why) => {
                    tracing::warn!(bucket = %self.at, %offset, reason = %why, "dead letter");
                    taken.rejected += 1;
                    // The decoder of dead letters takes everything.
                    debug_assert!(self.dead_topic.is_some());
                    if let Some(topic) = &self.dead_topic {
                        let original = Original::of(run.topic, &message);
                        let letter = dead_letters::dead_letter(topic, &original, &why);
                        self.aside(letter, false);
                    }
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
        let origin = (headed && self.keyed)
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
            Pushed::Elsewhere(bucket) => Decoded::Stray(bucket),
        };
        if let Some(origin) = origin {
            self.origins.take(origin);
        }
        Ok(decoded)
    }

    fn aside(&mut self, message: Message, stray: bool) {
        self.aside_bytes += dead_letters::bytes_of(&message);
        if stray {
            self.strays.push(message);
        } else {
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
        let bytes = self.bytes();
        let sealed = self.memtable.seal();
        self.in_flight = bytes;
        self.in_flight_oldest_ms = self.oldest_ms.take();
        self.first_taken = None;
        self.asked = false;
        self.aside_bytes = 0;
        Ok(Some(SealedBucket {
            sealed,
            strays: std::mem::take(&mut self.strays),
            origins: self.origins.seal(),
            dead_letters: std::mem::take(&mut self.dead),
            bytes,
        }))
    }

    /// A commit covers everything before `to`.
    pub fn committed(&mut self, to: Watermark) {
        self.committed = to;
        self.in_flight = 0;
        self.in_flight_oldest_ms = None;
    }

    /// Memory held for rows that no flush has taken yet.
    pub fn bytes(&self) -> usize {
        self.memtable.bytes() + self.decoder.bytes() + self.aside_bytes
    }

    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.first_taken
            .map(|first| now.saturating_duration_since(first))
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
