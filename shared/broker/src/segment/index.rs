//! Where a segment's offsets and times are, and the sidecar file that spares a closed segment's scan.
//!
//! The index is sparse: one entry for about every 64 KiB of log. It is derived from the log, checked
//! by length and checksum when read back, and rebuilt from the log where it does not fit.
//!
//! ```text
//! sidecar <base offset>.index:
//!   "TLSI" │ version u32 │ base i64 │ log bytes u64 │ next offset i64 │ last append ms i64
//!   │ newest: timestamp i64, base offset i64, position u64
//!   │ entries u32, each: base offset i64, position u64, newest before i64
//!   │ producers (see producers.rs) │ crc32c u32 of all before
//! ```

use crate::batch::BatchHeader;
use crate::producers::{ProducerTable, field};

/// Log bytes between two entries.
const INTERVAL_BYTES: u64 = 64 * 1024;
const MAGIC: &[u8; 4] = b"TLSI";
const VERSION: u32 = 1;

/// Where one batch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchPlace {
    pub header: BatchHeader,
    pub position: u64,
}

/// Where a walk through a segment can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub base_offset: i64,
    pub position: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    base_offset: i64,
    position: u64,
    /// The newest timestamp of all batches before this one in the segment.
    newest_before: i64,
}

/// The batch with the newest timestamp of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newest {
    pub timestamp: i64,
    pub base_offset: i64,
    pub position: u64,
}

/// What a segment holds: its durable extent and the way into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pub bytes: u64,
    pub next_offset: i64,
    /// When the broker last appended, by its own clock: the age that retention goes by.
    pub last_append_ms: i64,
    pub newest: Option<Newest>,
    entries: Vec<Entry>,
}

impl Contents {
    /// Of a segment without a record.
    pub(crate) fn empty(base_offset: i64, now_ms: i64) -> Self {
        Self {
            bytes: 0,
            next_offset: base_offset,
            last_append_ms: now_ms,
            newest: None,
            entries: Vec::new(),
        }
    }

    /// Notes one more batch at the end.
    pub(crate) fn push(&mut self, place: BatchPlace) {
        let BatchPlace { header, position } = place;
        debug_assert_eq!(position, self.bytes);
        let due = self
            .entries
            .last()
            .is_none_or(|last| position - last.position >= INTERVAL_BYTES);
        if due {
            self.entries.push(Entry {
                base_offset: header.base_offset,
                position,
                newest_before: self.newest.map_or(i64::MIN, |newest| newest.timestamp),
            });
        }
        if self
            .newest
            .is_none_or(|newest| header.max_timestamp > newest.timestamp)
        {
            self.newest = Some(Newest {
                timestamp: header.max_timestamp,
                base_offset: header.base_offset,
                position,
            });
        }
        self.bytes += header.bytes as u64;
        self.next_offset = header.next_offset();
    }

    /// A batch start at or before the batch that holds `offset`.
    pub(super) fn floor(&self, offset: i64) -> Floor {
        self.entry_before(
            self.entries
                .partition_point(|entry| entry.base_offset <= offset),
        )
    }

    /// A batch start at or before the first batch with a timestamp of at least `timestamp`.
    pub(super) fn floor_of_time(&self, timestamp: i64) -> Floor {
        self.entry_before(
            self.entries
                .partition_point(|entry| entry.newest_before < timestamp),
        )
    }

    /// The entry before the one at an index, or the first: a segment with a batch has one.
    fn entry_before(&self, after: usize) -> Floor {
        let entry = self.entries.get(after.saturating_sub(1));
        let (base_offset, position) = entry.map_or((self.next_offset, self.bytes), |entry| {
            (entry.base_offset, entry.position)
        });
        Floor {
            base_offset,
            position,
        }
    }
}

/// What is kept beside a closed segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub base_offset: i64,
    pub contents: Contents,
    /// The producers as they were after the segment's last batch.
    pub producers: ProducerTable,
}

impl Sidecar {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let contents = &self.contents;
        let mut out = Vec::with_capacity(96 + contents.entries.len() * 24);
        out.extend(MAGIC);
        out.extend(VERSION.to_be_bytes());
        out.extend(self.base_offset.to_be_bytes());
        out.extend(contents.bytes.to_be_bytes());
        out.extend(contents.next_offset.to_be_bytes());
        out.extend(contents.last_append_ms.to_be_bytes());
        let newest = contents.newest.unwrap_or(Newest {
            timestamp: i64::MIN,
            base_offset: -1,
            position: 0,
        });
        out.extend(newest.timestamp.to_be_bytes());
        out.extend(newest.base_offset.to_be_bytes());
        out.extend(newest.position.to_be_bytes());
        out.extend((contents.entries.len() as u32).to_be_bytes());
        for entry in &contents.entries {
            out.extend(entry.base_offset.to_be_bytes());
            out.extend(entry.position.to_be_bytes());
            out.extend(entry.newest_before.to_be_bytes());
        }
        self.producers.encode(&mut out);
        out.extend(crc32c::crc32c(&out).to_be_bytes());
        out
    }

    /// `None` for anything but a whole, undamaged sidecar.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let body = &mut body;
        if &field::<4>(body)? != MAGIC || u32::from_be_bytes(field(body)?) != VERSION {
            return None;
        }
        let base_offset = i64::from_be_bytes(field(body)?);
        let bytes = u64::from_be_bytes(field(body)?);
        let next_offset = i64::from_be_bytes(field(body)?);
        let last_append_ms = i64::from_be_bytes(field(body)?);
        let newest = Newest {
            timestamp: i64::from_be_bytes(field(body)?),
            base_offset: i64::from_be_bytes(field(body)?),
            position: u64::from_be_bytes(field(body)?),
        };
        let newest = (newest.base_offset >= 0).then_some(newest);
        let count = u32::from_be_bytes(field(body)?);
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry {
                base_offset: i64::from_be_bytes(field(body)?),
                position: u64::from_be_bytes(field(body)?),
                newest_before: i64::from_be_bytes(field(body)?),
            });
        }
        let producers = ProducerTable::decode(body)?;
        let contents = Contents {
            bytes,
            next_offset,
            last_append_ms,
            newest,
            entries,
        };
        body.is_empty().then_some(Self {
            base_offset,
            contents,
            producers,
        })
    }
}
