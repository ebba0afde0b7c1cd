//! One bucket that this flusher owns: its position, its rows in memory, their age.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelake_codec::CodecError;
use tidelake_codec::message::{MessageDecoder, Pushed, WireMessage};
use tidelake_core::{Offset, Watermark};
use tidelake_log::headers::{ENCODING, OP};
use tidelake_log::{Message, Run, TopicBucket};
use tidelake_schema::{SchemaError, TableSchema};
use tidelake_table::{Chunk, Memtable, Positions, Sealed};

use crate::dead_letters;

/// Decoded rows go into the memtable in pieces of this size, so that growing columns are not copied
/// again and again.
const CHUNK_BYTES: usize = 8 << 20;

/// What a bucket hands to a flush.
#[derive(Debug)]
pub struct SealedBucket {
    pub sealed: Sealed,
    pub dead_letters: Vec<Message>,
    pub bytes: usize,
}

/// What a run of messages brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub messages: u64,
    pub rows: u64,
    pub bytes: u64,
    pub rejected: u64,
    /// Offsets that hold no message for us: markers of producers' transactions, normally none.
    pub skipped: u64,
}

/// A bucket's state between two commits.
#[derive(Debug)]
pub struct BucketState {
    pub at: TopicBucket,
    memtable: Memtable,
    decoder: MessageDecoder,
    dead: Vec<Message>,
    dead_topic: Arc<str>,
    dead_bytes: usize,
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
        from: Watermark,
        schema: &TableSchema,
        dead_topic: Arc<str>,
    ) -> Result<Self, SchemaError> {
        Ok(Self {
            memtable: Memtable::new(at.bucket, from),
            decoder: MessageDecoder::new(schema)?,
            at,
            dead: Vec::new(),
            dead_topic,
            dead_bytes: 0,
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
            let wire = WireMessage {
                offset: offset.0,
                timestamp_ms,
                value: message.value(),
                encoding: headed.then(|| message.header(ENCODING)).flatten(),
                op: headed.then(|| message.header(OP)).flatten(),
            };
            taken.messages += 1;
            taken.skipped += u64::try_from(offset.0 - self.next.0).unwrap_or(0);
            taken.bytes += wire.value.map_or(0, <[u8]>::len) as u64;
            match self.decoder.push(&wire) {
                Ok(Pushed::Rows(rows)) => taken.rows += rows as u64,
                Ok(Pushed::Marker) => self.asked = true,
                Err(why) => {
                    tracing::warn!(bucket = %self.at, %offset, reason = %why, "dead letter");
                    let letter =
                        dead_letters::dead_letter(&self.dead_topic, run.topic, &message, &why);
                    self.dead_bytes += dead_letters::bytes_of(&letter);
                    self.dead.push(letter);
                    taken.rejected += 1;
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

    fn drain_decoder(&mut self) -> Result<(), CodecError> {
        for rows in self.decoder.finish()? {
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
        self.dead_bytes = 0;
        Ok(Some(SealedBucket {
            sealed,
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
        self.memtable.bytes() + self.decoder.bytes() + self.dead_bytes
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
