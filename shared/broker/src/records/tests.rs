//! Records in every codec: whole, damaged, too large.

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

/// Plain records of one batch that unpacks to just so many bytes: one value, all zeros.
fn zeros(bytes: usize) -> Vec<u8> {
    for less in 7..30 {
        let mut record = vec![0, 0, 0, 1];
        put_varint(&mut record, (bytes - less) as i64);
        record.resize(record.len() + bytes - less, 0);
        record.push(0);
        let mut records = Vec::new();
        put_varint(&mut records, record.len() as i64);
        records.extend(record);
        if records.len() == bytes {
            return records;
        }
    }
    unreachable!()
}

fn xerial(plain: &[u8], block_bytes: usize) -> Vec<u8> {
    let mut framed = XERIAL_MAGIC.to_vec();
    framed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    for block in plain.chunks(block_bytes) {
        let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
        framed.extend((block.len() as u32).to_be_bytes());
        framed.extend(block);
    }
    framed
}

fn pack(codec: u8, plain: &[u8]) -> Vec<u8> {
    match codec {
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        4 => zstd::encode_all(plain, 1).unwrap(),
        5 => xerial(plain, 32 << 10),
        6 => xerial(plain, plain.len()),
        _ => plain.to_vec(),
    }
}

fn checked_up_to(max: u64, codec: u8, packed: &[u8]) -> Result<(), RecordsError> {
    let batch = wrapped(if codec > 5 { 5 } else { codec }, &[500], packed);
    check(&BatchHeader::parse_whole(&batch).unwrap(), &batch, max)
}

#[test]
fn what_is_just_within_the_bound_is_taken_and_what_is_beyond_is_refused_in_every_codec() {
    let max = 8 << 20;
    for codec in 1..=6 {
        for bytes in [100, max - 1, max] {
            checked_up_to(max as u64, codec, &pack(codec, &zeros(bytes)))
                .unwrap_or_else(|error| panic!("codec {codec}, {bytes}: {error}"));
        }
        for bytes in [max + 1, 3 * max] {
            let error = checked_up_to(max as u64, codec, &pack(codec, &zeros(bytes)));
            let large = matches!(
                error,
                Err(RecordsError::Unpack(UnpackError::TooLarge { .. }))
            );
            assert!(large, "codec {codec}, {bytes}: {error:?}");
        }
    }
}

#[test]
fn what_follows_packed_records_is_refused_in_every_codec() {
    let plain = zeros(100_000);
    for codec in 1..=6 {
        let packed = pack(codec, &plain);
        checked_up_to(1 << 20, codec, &packed).unwrap();
        let more = [&packed[..], &[7; 30]].concat();
        assert!(
            checked_up_to(1 << 20, codec, &more).is_err(),
            "codec {codec}"
        );
        let half = &packed[..packed.len() / 2];
        assert!(
            checked_up_to(1 << 20, codec, half).is_err(),
            "codec {codec}"
        );
    }
    // Frames of which not every client reads all, and one that few can read at all.
    let two = [pack(3, &plain[..50_000]), pack(3, &plain[50_000..])].concat();
    assert!(checked_up_to(1 << 20, 3, &two).is_err());
    let behind = [pack(3, &plain), pack(3, b"more")].concat();
    assert!(checked_up_to(1 << 20, 3, &behind).is_err());
    let block = lz4_flex::block::compress(&plain);
    let mut legacy = vec![0x02, 0x21, 0x4C, 0x18];
    legacy.extend((block.len() as u32).to_le_bytes());
    legacy.extend(block);
    assert!(checked_up_to(1 << 20, 3, &legacy).is_err());
}
