//! The newest records of a partition in memory, so that consumers that follow closely cost no read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::batch::BatchHeader;
use crate::segment::{BatchPlace, whole_batches};

/// A chunk ends after the batch that fills it to this: short enough to be searched head by head.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Chunk {
    first: i64,
    next: i64,
    bytes: Bytes,
}

/// How much memory tails may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct TailLimits<'a> {
    pub partition_bytes_max: usize,
    pub all_bytes_max: usize,
    /// Bytes of the tails of all partitions.
    pub all_bytes: &'a AtomicUsize,
}

/// Contiguous chunks of whole batches that end at the high watermark, or nothing.
#[derive(Debug, Default)]
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Appended to since the last [`Tail::age`].
    warm: bool,
}

impl Tail {
    /// Adds batches that follow those that are there, and makes room for them.
    pub(super) fn push(&mut self, bytes: &Bytes, places: &[BatchPlace], limits: TailLimits<'_>) {
        self.warm = true;
        let (mut start, mut end, mut first) = (0, 0, None);
        for (at, place) in places.iter().enumerate() {
            let first_offset = *first.get_or_insert(place.header.base_offset);
            end += place.header.bytes;
            if end - start >= CHUNK_BYTES || at + 1 == places.len() {
                self.chunks.push_back(Chunk {
                    first: first_offset,
                    next: place.header.next_offset(),
                    bytes: bytes.slice(start..end),
                });
                start = end;
                first = None;
            }
        }
        self.bytes += bytes.len();
        let mut all = limits.all_bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        while self.bytes > limits.partition_bytes_max || all > limits.all_bytes_max {
            let Some(gone) = self.chunks.pop_front() else {
                break;
            };
            let gone_bytes = gone.bytes.len();
            self.bytes -= gone_bytes;
            all = limits.all_bytes.fetch_sub(gone_bytes, Ordering::Relaxed) - gone_bytes;
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self, all_bytes: &AtomicUsize) {
        all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        *self = Self::default();
    }

    /// Lets go of everything if nothing was appended since the last call.
    pub(super) fn age(&mut self, all_bytes: &AtomicUsize) {
        if !std::mem::take(&mut self.warm) {
            self.clear(all_bytes);
        }
    }

    /// Whole batches from the one that holds `offset`, up to `bytes_max`, the first one even beyond
    /// it if `one_at_least`. `None` where the tail does not reach back to `offset`.
    pub(super) fn read(
        &self,
        offset: i64,
        bytes_max: usize,
        one_at_least: bool,
    ) -> Option<Vec<Bytes>> {
        if self.chunks.front().is_none_or(|chunk| offset < chunk.first) {
            return None;
        }
        let at = self.chunks.partition_point(|chunk| chunk.next <= offset);
        let mut chunks = self.chunks.range(at..);
        let chunk = chunks.next()?;
        let (start, first_bytes) = find(&chunk.bytes, offset)?;
        let mut left = match bytes_max {
            max if max >= first_bytes => max,
            _ if one_at_least => first_bytes,
            _ => return Some(Vec::new()),
        };
        let mut found = Vec::new();
        let mut next = Some(chunk.bytes.slice(start..));
        while let Some(bytes) = next {
            if bytes.len() > left {
                let fit = whole_batches(&bytes[..left]);
                if fit > 0 {
                    found.push(bytes.slice(..fit));
                }
                break;
            }
            left -= bytes.len();
            found.push(bytes);
            next = chunks.next().map(|chunk| chunk.bytes.clone());
        }
        Some(found)
    }
}

/// Where in `bytes` the batch that holds `offset` starts, and how long it is.
fn find(bytes: &[u8], offset: i64) -> Option<(usize, usize)> {
    let mut at = 0;
    while let Ok(header) = BatchHeader::parse(&bytes[at..]) {
        if header.last_offset() >= offset {
            return Some((at, header.bytes));
        }
        at += header.bytes;
    }
    None
}
