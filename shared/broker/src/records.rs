//! Looks into the records of one batch: whether they are what its head says, before it is stored,
//! and where a time begins, for offset queries.
//!
//! A batch is looked through piece by piece; it is never unpacked as a whole, and never further than
//! allowed: a small batch can unpack to anything.

use std::io::{self, BufRead};

use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::unpack::{UnpackError, unpack};

/// A batch that unpacks to more is answered by its start, which is never too late an offset.
const LOOKED_THROUGH_MAX: u64 = 256 << 20;
/// Every batch may unpack to so much.
const UNPACKED_BYTES_FREE: u64 = 16 << 20;
/// Beyond it, to so many times its size: gzip cannot do better than 1032.
const UNPACKED_RATIO_MAX: u64 = 1_000;
const LOG_APPEND_TIME: i16 = 0x08;
const CODEC: i16 = 0x07;

/// The codec's number in a batch's head; 0 for records as they are.
pub(crate) fn codec(header: &BatchHeader) -> i16 {
    header.attributes & CODEC
}

/// Why records are not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("records do not fit their batch's head of {expected} records: {reason}")]
    Shape { expected: i32, reason: String },
}

/// Checks that `batch` (whole, its head checked) holds as many records as its head says, one offset
/// after the other, and unpacks to no more than `unpacked_bytes_max`, in proportion to its size.
pub(crate) fn check(
    header: &BatchHeader,
    batch: &[u8],
    unpacked_bytes_max: u64,
) -> Result<(), RecordsError> {
    let packed = &batch[HEADER_BYTES..header.bytes];
    let in_proportion = (packed.len() as u64).saturating_mul(UNPACKED_RATIO_MAX);
    let max = unpacked_bytes_max.min(in_proportion.max(UNPACKED_BYTES_FREE));
    let checked = unpack(codec(header), packed, max, Count(header.records))?;
    checked.map_err(|reason| RecordsError::Shape {
        expected: header.records,
        reason,
    })
}

/// What is done with records while they are unpacked. Errors of the reader are errors of unpacking.
pub(crate) trait Visit {
    type Found;

    /// True where records were found to be whole, so that nothing may follow them.
    fn is_whole(found: &Self::Found) -> bool;

    fn visit(self, records: impl BufRead) -> io::Result<Self::Found>;
}

/// Counts records; finds what is wrong with them.
struct Count(i32);

impl Visit for Count {
    type Found = Result<(), String>;

    fn is_whole(found: &Self::Found) -> bool {
        found.is_ok()
    }

    fn visit(self, records: impl BufRead) -> io::Result<Self::Found> {
        let mut records = Records(records);
        for index in 0..self.0 {
            match records.next_whole()? {
                Err(reason) => return Ok(Err(format!("record {index}: {reason}"))),
                Ok(record) if record.offset_delta != i64::from(index) => {
                    let found = record.offset_delta;
                    return Ok(Err(format!("record {index} has offset delta {found}")));
                }
                Ok(_) => {}
            }
        }
        let rest = records.0.fill_buf()?.len();
        Ok(match rest {
            0 => Ok(()),
            _ => Err("there are more".to_owned()),
        })
    }
}

/// The first record of `batch` (whole) with a timestamp of at least `timestamp`: its timestamp and
/// offset. Where the records cannot be unpacked, the batch's first offset.
pub(crate) fn first_at_time(batch: &[u8], timestamp: i64) -> Option<(i64, i64)> {
    let header = BatchHeader::parse(batch).ok()?;
    if header.max_timestamp < timestamp {
        return None;
    }
    if header.attributes & LOG_APPEND_TIME != 0 {
        return Some((header.max_timestamp, header.base_offset));
    }
    if header.base_timestamp >= timestamp {
        return Some((header.base_timestamp, header.base_offset));
    }
    let packed = batch.get(HEADER_BYTES..header.bytes)?;
    let find = Find { header, timestamp };
    let found = unpack(codec(&header), packed, LOOKED_THROUGH_MAX, find);
    let found = found.ok().flatten();
    Some(found.unwrap_or((header.base_timestamp, header.base_offset)))
}

/// Finds the first record of a time.
struct Find {
    header: BatchHeader,
    timestamp: i64,
}

impl Visit for Find {
    type Found = Option<(i64, i64)>;

    fn is_whole(_: &Self::Found) -> bool {
        false
    }

    fn visit(self, records: impl BufRead) -> io::Result<Self::Found> {
        let mut records = Records(records);
        for _ in 0..self.header.records {
            let Ok(record) = records.next()? else {
                break;
            };
            let at = self
                .header
                .base_timestamp
                .saturating_add(record.timestamp_delta);
            if at >= self.timestamp {
                let offset = self.header.base_offset.saturating_add(record.offset_delta);
                return Ok(Some((at, offset)));
            }
        }
        Ok(None)
    }
}

/// The start of a record: what there is to know without its key and value.
struct RecordHead {
    timestamp_delta: i64,
    offset_delta: i64,
}

/// Records, one after the other: `length │ attributes i8 │ timestamp delta │ offset delta │ …`, all
/// but the attributes as zigzag varints.
struct Records<R>(R);

impl<R: BufRead> Records<R> {
    /// The next record, or what is wrong with its head or its length.
    fn next(&mut self) -> io::Result<Result<RecordHead, &'static str>> {
        let (head, rest) = match self.head()? {
            Ok(begun) => begun,
            Err(reason) => return Ok(Err(reason)),
        };
        if self.skip(rest)? != rest {
            return Ok(Err("it ends early"));
        }
        Ok(Ok(head))
    }

    /// The next record, or what is wrong with any of it: a record that consumers can't read would
    /// stop each of them for ever.
    fn next_whole(&mut self) -> io::Result<Result<RecordHead, &'static str>> {
        let (head, mut left) = match self.head()? {
            Ok(begun) => begun,
            Err(reason) => return Ok(Err(reason)),
        };
        if !self.field(&mut left, true)? {
            return Ok(Err("its key does not fit it"));
        }
        if !self.field(&mut left, true)? {
            return Ok(Err("its value does not fit it"));
        }
        let Some(headers) = self.number(&mut left)? else {
            return Ok(Err("its number of headers is missing"));
        };
        if headers < 0 {
            return Ok(Err("its number of headers is negative"));
        }
        for _ in 0..headers {
            if !(self.field(&mut left, false)? && self.field(&mut left, true)?) {
                return Ok(Err("its headers do not fit it"));
            }
        }
        Ok(match left {
            0 => Ok(head),
            _ => Err("it is longer than what it holds"),
        })
    }

    /// A record's head, and how many bytes follow it.
    fn head(&mut self) -> io::Result<Result<(RecordHead, usize), &'static str>> {
        let Some((len, _)) = self.varint()? else {
            return Ok(Err("its length is missing"));
        };
        let Ok(len) = usize::try_from(len) else {
            return Ok(Err("its length is negative"));
        };
        if self.skip(1)? != 1 {
            return Ok(Err("it is missing"));
        }
        let (Some((timestamp_delta, first)), Some((offset_delta, second))) =
            (self.varint()?, self.varint()?)
        else {
            return Ok(Err("it ends within its head"));
        };
        let Some(rest) = len.checked_sub(1 + first + second) else {
            return Ok(Err("it is shorter than its head"));
        };
        let head = RecordHead {
            timestamp_delta,
            offset_delta,
        };
        Ok(Ok((head, rest)))
    }

    /// A varint of the `left` bytes of a record; `None` where it does not fit.
    fn number(&mut self, left: &mut usize) -> io::Result<Option<i64>> {
        let Some((number, bytes)) = self.varint()? else {
            return Ok(None);
        };
        Ok(left.checked_sub(bytes).map(|less| {
            *left = less;
            number
        }))
    }

    /// Passes over a length and so many bytes, of the `left` ones of a record; -1 stands for null
    /// where there may be none. False where they do not fit.
    fn field(&mut self, left: &mut usize, may_be_null: bool) -> io::Result<bool> {
        let Some(len) = self.number(left)? else {
            return Ok(false);
        };
        if len == -1 && may_be_null {
            return Ok(true);
        }
        let len = usize::try_from(len).ok().filter(|len| len <= left);
        let Some(len) = len else { return Ok(false) };
        *left -= len;
        Ok(self.skip(len)? == len)
    }

    /// Passes over `len` bytes; gives how many there were.
    fn skip(&mut self, len: usize) -> io::Result<usize> {
        let mut left = len;
        while left > 0 {
            let here = self.0.fill_buf()?.len();
            if here == 0 {
                break;
            }
            let now = here.min(left);
            self.0.consume(now);
            left -= now;
        }
        Ok(len - left)
    }

    /// A zigzag varint and its length; `None` where there is none.
    fn varint(&mut self) -> io::Result<Option<(i64, usize)>> {
        const BYTES_MAX: usize = 10;
        let (mut value, mut bytes) = (0_u64, 0);
        'more: loop {
            let here = self.0.fill_buf()?;
            if here.is_empty() {
                return Ok(None);
            }
            let mut used = 0;
            for byte in here {
                if bytes == BYTES_MAX {
                    return Ok(None);
                }
                value |= u64::from(byte & 0x7f) << (7 * bytes);
                bytes += 1;
                used += 1;
                if byte & 0x80 == 0 {
                    self.0.consume(used);
                    break 'more;
                }
            }
            self.0.consume(used);
        }
        let value = (value >> 1) as i64 ^ -((value & 1) as i64);
        Ok(Some((value, bytes)))
    }
}

#[cfg(test)]
mod tests;
