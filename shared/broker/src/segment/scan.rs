//! What a segment file holds, batch by batch, valid or not.
//!
//! Reads and never changes. A batch is valid where its checksum is right; it is in place where its
//! offset follows that of the batch before it. What ends a row of such batches is a torn tail if
//! nothing valid comes behind it, and damage otherwise: [`Window::resume`] tells which.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::batch::{BatchHeader, HEADER_BYTES, LEADER_EPOCH};
use crate::producers::ProducerTable;

use super::{BatchPlace, Contents};

/// Read at once while scanning.
const SCAN_BYTES: usize = 4 << 20;
/// Bytes that a search may put through the checksum, beside a few times the file: records that look
/// like heads of batches must not cost more.
const SEARCHED_BYTES_MIN: u64 = 64 << 20;
/// Less than this in memory is not worth a look of its own.
const SEEN_BYTES_MIN: usize = 64 * 1024;
/// An offset further ahead than this is damage itself.
const LEAP_MAX: i64 = 1 << 40;

/// What a scan takes for the time of its batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For retention: when the file was written to.
    pub modified_ms: i64,
    /// For producers: they may be about to retry.
    pub now_ms: i64,
}

/// The valid batches in place from the start of a file on.
pub(super) struct Scan {
    pub contents: Contents,
    /// Why the scan ended before the file did.
    pub stopped: Option<String>,
}

/// What comes behind bytes that are no batch in place.
#[derive(Debug)]
pub(super) enum Behind {
    /// A valid batch.
    Batch(BatchPlace),
    /// Nothing: the end of the file was written half.
    Nothing,
    /// Too much that looks like batches to be sure.
    Unknown,
}

/// A part of the file in memory that moves along with the scan.
pub(super) struct Window<'a> {
    file: &'a File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, len: u64) -> Self {
        Self {
            file,
            len,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// Reads valid batches in place from the start of the file.
    pub(super) fn scan(
        &mut self,
        base_offset: i64,
        times: Times,
        producers: &mut ProducerTable,
    ) -> io::Result<Scan> {
        let mut contents = Contents::empty(base_offset, times.modified_ms);
        let mut stopped = None;
        while contents.bytes < self.len {
            let header = match self.batch_in_place(contents.bytes, contents.next_offset)? {
                Ok(header) => header,
                Err(reason) => {
                    stopped = Some(reason);
                    break;
                }
            };
            if header.is_sequenced() {
                producers.record(&header, header.base_offset, times.now_ms);
            }
            let position = contents.bytes;
            contents.push(BatchPlace { header, position });
        }
        Ok(Scan { contents, stopped })
    }

    /// The valid batch at `position` that starts at offset `due`, or why there is none.
    pub(super) fn batch_in_place(
        &mut self,
        position: u64,
        due: i64,
    ) -> io::Result<Result<BatchHeader, String>> {
        Ok(self.batch_at(position)?.and_then(|header| {
            if header.base_offset == due {
                Ok(header)
            } else {
                Err(format!("offset {} where {due} is due", header.base_offset))
            }
        }))
    }

    /// The whole batch at `position`, checked, or why there is none.
    pub(super) fn batch_at(&mut self, position: u64) -> io::Result<Result<BatchHeader, String>> {
        let left = self.len.saturating_sub(position);
        if left < HEADER_BYTES as u64 {
            return Ok(Err(format!("{left} bytes are no batch")));
        }
        let header = match self.head_at(position)? {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        if header.bytes as u64 > left {
            return Ok(Err(format!(
                "batch needs {} bytes, {left} are there",
                header.bytes
            )));
        }
        let bytes = self.slice(position, header.bytes)?;
        Ok(BatchHeader::parse_whole(bytes).map_err(|error| error.to_string()))
    }

    /// What may be a batch's head at `position`, unchecked.
    pub(super) fn head_at(&mut self, position: u64) -> io::Result<Result<BatchHeader, String>> {
        if self.len.saturating_sub(position) < HEADER_BYTES as u64 {
            return Ok(Err("the file ends within a batch's head".to_owned()));
        }
        let bytes = self.slice(position, HEADER_BYTES)?;
        Ok(BatchHeader::parse(bytes).map_err(|error| error.to_string()))
    }

    /// Looks for the first valid batch at or behind `position`, where none is in place, with an
    /// offset from `due` up to `limit`.
    pub(super) fn resume(
        &mut self,
        position: u64,
        due: i64,
        limit: Option<i64>,
    ) -> io::Result<Behind> {
        let fits = |header: &BatchHeader| {
            header.base_offset >= due
                && header.base_offset - due <= LEAP_MAX
                && limit.is_none_or(|limit| header.next_offset() <= limit)
        };
        // Where only the records are damaged, the head still says where the next batch is.
        if let Ok(head) = self.head_at(position)?
            && head.base_offset == due
        {
            let next = position + head.bytes as u64;
            if let Ok(header) = self.batch_at(next)?
                && header.base_offset == head.next_offset()
                && fits(&header)
            {
                let position = next;
                return Ok(Behind::Batch(BatchPlace { header, position }));
            }
        }
        let mut budget = self.len.saturating_mul(4) + SEARCHED_BYTES_MIN;
        let mut at = position;
        while let Some(candidate) = self.next_candidate(at)? {
            at = candidate + 1;
            let Ok(head) = self.head_at(candidate)? else {
                continue;
            };
            let end = candidate + head.bytes as u64;
            // At the very place a wrong offset is enough to know that a batch was whole here.
            let wanted = fits(&head) || (candidate == position && limit.is_none());
            if end > self.len || !wanted {
                continue;
            }
            budget = match budget.checked_sub(head.bytes as u64) {
                Some(budget) => budget,
                None => return Ok(Behind::Unknown),
            };
            if let Ok(header) = self.batch_at(candidate)? {
                if !fits(&header) {
                    return Ok(Behind::Unknown);
                }
                let position = candidate;
                return Ok(Behind::Batch(BatchPlace { header, position }));
            }
        }
        Ok(Behind::Nothing)
    }

    /// The next place at or behind `from` that could be the start of a stored batch: the broker
    /// wrote the leader epoch and the format's number into each.
    fn next_candidate(&mut self, mut from: u64) -> io::Result<Option<u64>> {
        const EPOCH_AT: usize = 12;
        let mut mark = [2; 5];
        mark[..4].copy_from_slice(&LEADER_EPOCH.to_be_bytes());
        while from + HEADER_BYTES as u64 <= self.len {
            let left = usize::try_from(self.len - from).unwrap_or(usize::MAX);
            // What is in memory is looked through before more is read.
            let here = match from.checked_sub(self.start) {
                Some(at) => self.bytes.len().saturating_sub(at as usize),
                None => 0,
            };
            let len = match here {
                SEEN_BYTES_MIN.. => here,
                _ => left.min(SCAN_BYTES),
            };
            let bytes = self.slice(from, len)?;
            let found = bytes[EPOCH_AT..]
                .windows(mark.len())
                .position(|window| window[4] == mark[4] && window == mark);
            match found {
                Some(at) if from + (at + HEADER_BYTES) as u64 <= self.len => {
                    return Ok(Some(from + at as u64));
                }
                Some(_) => return Ok(None),
                None if len == left => return Ok(None),
                None => from += (len - EPOCH_AT - mark.len() + 1) as u64,
            }
        }
        Ok(None)
    }

    /// `len` bytes at `position`, all within the file.
    pub(super) fn slice(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let end = position + len as u64;
        if position < self.start || end > self.start + self.bytes.len() as u64 {
            let left = usize::try_from(self.len - position).unwrap_or(usize::MAX);
            self.bytes.resize(len.max(SCAN_BYTES).min(left), 0);
            self.file.read_exact_at(&mut self.bytes, position)?;
            self.start = position;
        }
        let at = (position - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }
}
