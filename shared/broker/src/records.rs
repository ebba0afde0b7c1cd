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
    fn visit(self, records: impl BufRead) -> io::Result<Self::Found>;
}

/// Counts records; finds what is wrong with them.
struct Count(i32);

impl Visit for Count {
    type Found = Result<(), String>;

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
mod tests {
    use std::io::{Read, Write};

    use crate::batch::testing::seal;
    use crate::unpack::XERIAL_MAGIC;

    use super::*;

    fn put_varint(out: &mut Vec<u8>, value: i64) {
        let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
        while zigzag >= 0x80 {
            out.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        out.push(zigzag as u8);
    }

    /// A batch at offset 100 whose records have the given timestamps, 500 the first.
    fn batch(codec: u8, timestamps: &[i64]) -> Vec<u8> {
        let mut records = Vec::new();
        for (delta, timestamp) in timestamps.iter().enumerate() {
            let mut record = vec![0];
            put_varint(&mut record, timestamp - timestamps[0]);
            put_varint(&mut record, delta as i64);
            record.extend([1, 1, 0]);
            put_varint(&mut records, record.len() as i64);
            records.extend(record);
        }
        let packed = match codec {
            1 => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(&records).unwrap();
                encoder.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(&records).unwrap(),
            3 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(&records).unwrap();
                encoder.finish().unwrap()
            }
            4 => zstd::encode_all(records.as_slice(), 1).unwrap(),
            5 => {
                let block = snap::raw::Encoder::new().compress_vec(&records).unwrap();
                let mut framed = XERIAL_MAGIC.to_vec();
                framed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
                framed.extend((block.len() as u32).to_be_bytes());
                framed.extend(block);
                framed
            }
            _ => records,
        };
        wrapped(codec, timestamps, &packed)
    }

    fn wrapped(codec: u8, timestamps: &[i64], packed: &[u8]) -> Vec<u8> {
        let mut bytes = crate::batch::testing::Batch {
            records: timestamps.len() as i32,
            payload_bytes: 0,
            timestamp: timestamps[0],
            producer: None,
        }
        .encode();
        bytes[0..8].copy_from_slice(&100_i64.to_be_bytes());
        bytes[8..12].copy_from_slice(&((49 + packed.len()) as i32).to_be_bytes());
        bytes[22] = if codec == 5 { 2 } else { codec };
        let newest = timestamps.iter().max().unwrap();
        bytes[35..43].copy_from_slice(&newest.to_be_bytes());
        bytes.extend(packed);
        seal(&mut bytes);
        bytes
    }

    #[test]
    fn the_exact_record_is_found_in_every_codec() {
        for codec in 0..=5 {
            let batch = batch(codec, &[500, 510, 505, 530]);
            let at = |timestamp| first_at_time(&batch, timestamp);
            assert_eq!(at(0), Some((500, 100)), "codec {codec}");
            assert_eq!(at(501), Some((510, 101)), "codec {codec}");
            assert_eq!(at(511), Some((530, 103)), "codec {codec}");
            assert_eq!(at(531), None, "codec {codec}");
        }
    }

    #[test]
    fn records_that_cannot_be_unpacked_are_answered_by_the_batch() {
        let mut damaged = batch(4, &[500, 510]);
        damaged.truncate(HEADER_BYTES);
        damaged.extend([1, 2, 3]);
        damaged[8..12].copy_from_slice(&52_i32.to_be_bytes());
        assert_eq!(first_at_time(&damaged, 505), Some((500, 100)));
    }

    fn checked(batch: &[u8]) -> Result<(), RecordsError> {
        let header = BatchHeader::parse_whole(batch).unwrap();
        check(&header, batch, 128 << 20)
    }

    #[test]
    fn records_that_fit_their_head_are_let_pass_in_every_codec() {
        let timestamps: Vec<i64> = (0..300).map(|n| 500 + n * n).collect();
        for codec in 0..=5 {
            checked(&batch(codec, &timestamps)).unwrap();
        }
    }

    #[test]
    fn a_head_that_counts_otherwise_is_refused_in_every_codec() {
        for codec in 0..=5 {
            for claimed in [1_i32, 2, 4, 70_000] {
                let mut wrong = batch(codec, &[500, 510, 505]);
                wrong[23..27].copy_from_slice(&(claimed - 1).to_be_bytes());
                wrong[57..61].copy_from_slice(&claimed.to_be_bytes());
                seal(&mut wrong);
                let error = checked(&wrong).unwrap_err();
                assert!(matches!(error, RecordsError::Shape { .. }), "{error}");
            }
        }
    }

    #[test]
    fn unknown_codecs_and_damaged_records_are_refused() {
        for codec in 5..=7 {
            let mut unknown = batch(0, &[500]);
            unknown[22] = codec;
            seal(&mut unknown);
            let error = checked(&unknown).unwrap_err();
            let unknown = RecordsError::Unpack(UnpackError::Codec(i16::from(codec)));
            assert_eq!(error.to_string(), unknown.to_string());
        }
        for codec in 1..=5 {
            let mut damaged = batch(codec, &[500, 510, 505, 530]);
            let len = damaged.len() - 12;
            damaged.truncate(len);
            damaged[8..12].copy_from_slice(&((len - 12) as i32).to_be_bytes());
            seal(&mut damaged);
            assert!(checked(&damaged).is_err(), "codec {codec}");
        }
    }

    #[test]
    fn a_record_that_no_consumer_could_read_is_refused() {
        let numbers = |numbers: &[i64]| {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|n| put_varint(&mut bytes, *n));
            bytes
        };
        // Key, value and headers of a record: lengths, and no bytes but theirs.
        let with = |inside: &[u8]| {
            let mut record = vec![0, 0, 0];
            record.extend(inside);
            let mut records = numbers(&[record.len() as i64]);
            records.extend(record);
            checked(&wrapped(0, &[500], &records))
        };
        for good in [&[-1, -1, 0][..], &[0, 0, 0], &[-1, -1, 1, 0, -1]] {
            with(&numbers(good)).unwrap();
        }
        let bad: [&[i64]; 10] = [
            &[],
            &[-1],
            &[-1, -1],
            &[1_000, -1, 0],
            &[-7, -1, 0],
            &[-1, 1_000, 0],
            &[-1, -1, -5],
            &[-1, -1, 1 << 40],
            &[-1, -1, 1, -1, -1],
            &[-1, -1, 0, 0],
        ];
        for bad in bad {
            let error = with(&numbers(bad)).unwrap_err();
            assert!(
                matches!(error, RecordsError::Shape { .. }),
                "{bad:?}: {error}"
            );
        }
        // The last record reaches into nothing, whatever its length says.
        assert!(with(&[numbers(&[-1, 9]), b"short".to_vec()].concat()).is_err());
    }

    #[test]
    fn a_small_batch_that_unpacks_to_much_is_refused_unpacked_or_not() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        // A record, no key, and a value that is all zeros.
        let mut len = Vec::new();
        put_varint(&mut len, 1 << 30);
        len.extend([0, 0, 0, 1]);
        put_varint(&mut len, 1 << 29);
        gzip.write_all(&len).unwrap();
        io::copy(&mut io::repeat(0).take(140 << 20), &mut gzip).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all([&len[..], &vec![0; 20 << 20]].concat().as_slice(), 1).unwrap();
        // A snappy block of a few bytes that says it is large.
        let snappy = [0x80, 0x80, 0x80, 0x04, 0];
        for (codec, packed) in [(1, gzip), (4, zstd)] {
            assert!(packed.len() < 2 << 20);
            let error = checked(&wrapped(codec, &[500], &packed)).unwrap_err();
            let large = matches!(error, RecordsError::Unpack(UnpackError::TooLarge { .. }));
            assert!(large, "{error}");
        }
        let error = checked(&wrapped(2, &[500], &snappy)).unwrap_err();
        assert!(
            matches!(error, RecordsError::Unpack(UnpackError::Damaged(_))),
            "{error}"
        );
    }
}
