//! Looks into one batch for the first record of a time. Only offset queries by time come here;
//! producing and fetching never look at records.

use std::io::Read;

use crate::batch::{BatchHeader, HEADER_BYTES};

/// A batch that unpacks to more is answered by its start, which is never too late an offset.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;
const LOG_APPEND_TIME: i16 = 0x08;
/// The frame that Java's snappy library puts around its blocks.
const XERIAL_MAGIC: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];

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
    let found = unpack(header.attributes & 0x07, packed)
        .and_then(|records| find(&records, &header, timestamp));
    Some(found.unwrap_or((header.base_timestamp, header.base_offset)))
}

fn find(mut records: &[u8], header: &BatchHeader, timestamp: i64) -> Option<(i64, i64)> {
    for _ in 0..header.records {
        let len = usize::try_from(varint(&mut records)?).ok()?;
        let (mut record, rest) = records.split_at_checked(len)?;
        records = rest;
        let (_attributes, fields) = record.split_first()?;
        record = fields;
        let at = header.base_timestamp.checked_add(varint(&mut record)?)?;
        let offset = header.base_offset.checked_add(varint(&mut record)?)?;
        if at >= timestamp {
            return Some((at, offset));
        }
    }
    None
}

/// A zigzag varint.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn unpack(codec: i16, packed: &[u8]) -> Option<Vec<u8>> {
    let read = |reader: &mut dyn Read| {
        let mut unpacked = Vec::new();
        let bytes = reader
            .take(UNPACKED_BYTES_MAX)
            .read_to_end(&mut unpacked)
            .ok()?;
        ((bytes as u64) < UNPACKED_BYTES_MAX).then_some(unpacked)
    };
    match codec {
        0 => Some(packed.to_vec()),
        1 => read(&mut flate2::read::MultiGzDecoder::new(packed)),
        2 => unpack_snappy(packed),
        3 => read(&mut lz4_flex::frame::FrameDecoder::new(packed)),
        4 => read(&mut zstd::stream::read::Decoder::new(packed).ok()?),
        _ => None,
    }
}

fn unpack_snappy(packed: &[u8]) -> Option<Vec<u8>> {
    let block = |block: &[u8]| {
        let len = snap::raw::decompress_len(block).ok()?;
        let fits = (len as u64) < UNPACKED_BYTES_MAX;
        if fits {
            snap::raw::Decoder::new().decompress_vec(block).ok()
        } else {
            None
        }
    };
    let Some(framed) = packed.strip_prefix(XERIAL_MAGIC) else {
        return block(packed);
    };
    // Two version numbers, then blocks with their lengths.
    let mut rest = framed.get(8..)?;
    let mut unpacked = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (packed, after) = after.split_at_checked(len)?;
        unpacked.extend(block(packed)?);
        if unpacked.len() as u64 > UNPACKED_BYTES_MAX {
            return None;
        }
        rest = after;
    }
    Some(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crate::batch::testing::seal;

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
}
