//! What a batch may hold unpacked is bounded, of every codec, and what is just within the bound
//! goes through.

use std::io::Write;

use tidelake_core::{Bucket, ErrorKind, Offset};
use tidelake_log::{Follower, LogError};
use tidelake_testkit::WAIT_MAX;

use crate::batches::{batch, batch_at, records, sealed};
use crate::damage::{World, by_group, world_of};

/// What a client takes: far more than any answer of these tests, packed.
const BOUND: usize = 8_000_000;
/// The batch that is exchanged.
const AT: i64 = 2;
const BATCHES: i64 = 4;

struct Codec {
    name: &'static str,
    number: u8,
    pack: fn(&[u8]) -> Vec<u8>,
    /// How many times smaller zeros become.
    ratio: usize,
}

const CODECS: [Codec; 8] = [
    Codec {
        name: "gzip",
        number: 1,
        pack: gzip,
        ratio: 900,
    },
    Codec {
        name: "gzip of several members",
        number: 1,
        pack: |plain| {
            plain
                .chunks(plain.len().div_ceil(3))
                .flat_map(gzip)
                .collect()
        },
        ratio: 900,
    },
    Codec {
        name: "snappy",
        number: 2,
        pack: snappy,
        ratio: 20,
    },
    Codec {
        name: "snappy in Java's frame",
        number: 2,
        pack: xerial,
        ratio: 20,
    },
    Codec {
        name: "lz4",
        number: 3,
        pack: |plain| lz4(plain, None),
        ratio: 200,
    },
    Codec {
        name: "lz4 that says its size",
        number: 3,
        pack: |plain| lz4(plain, Some(plain.len() as u64)),
        ratio: 200,
    },
    Codec {
        name: "zstd",
        number: 4,
        pack: |plain| zstd::bulk::compress(plain, 1).unwrap(),
        ratio: 1_000,
    },
    Codec {
        name: "zstd that does not say its size",
        number: 4,
        pack: |plain| zstd::encode_all(plain, 1).unwrap(),
        ratio: 1_000,
    },
];

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

fn snappy(plain: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(plain).unwrap()
}

fn xerial(plain: &[u8]) -> Vec<u8> {
    let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in plain.chunks(32 << 10).map(snappy) {
        framed.extend((block.len() as u32).to_be_bytes());
        framed.extend(block);
    }
    framed
}

fn lz4(plain: &[u8], size: Option<u64>) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new().content_size(size);
    let mut packer = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

/// One record that makes a batch of just so many bytes.
fn record_of(bytes: usize) -> Vec<u8> {
    let around = records([&vec![0; bytes][..]]).len() - bytes;
    let record = records([&vec![0; bytes - around][..]]);
    assert_eq!(record.len(), bytes);
    record
}

async fn world() -> World {
    let mut world = world_of(BATCHES).await;
    let limits = [
        ("receive.message.max.bytes", BOUND),
        ("fetch.max.bytes", BOUND / 2),
        ("message.max.bytes", BOUND / 2),
        ("max.partition.fetch.bytes", BOUND / 2),
    ];
    let limits = limits.map(|(name, bytes)| (name.to_owned(), bytes.to_string()));
    world.kafka.properties.extend(limits);
    world
}

/// What becomes of the batch when it holds this: the sizes of all values that come, or why not.
async fn seen(world: &World, codec: u8, packed: &[u8]) -> Result<Vec<usize>, LogError> {
    let exchanged = batch(AT, 1, codec, packed);
    world.proxy.edit(batch_at(AT, move |_| exchanged.clone()));
    let from = [(Bucket(0), Offset(0))];
    let mut follower = Follower::start(&world.kafka, "t", &from).unwrap();
    let mut sizes = Vec::new();
    while sizes.len() < BATCHES as usize {
        let news = tokio::time::timeout(WAIT_MAX, follower.next()).await;
        let news = news.expect("neither the batch nor why not")?;
        let values = news.messages.iter().map(|m| m.value().map(<[u8]>::len));
        sizes.extend(values.map(Option::unwrap_or_default));
    }
    Ok(sizes)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_just_within_the_bound_goes_through_and_what_is_beyond_is_named() {
    let world = world().await;
    for codec in &CODECS {
        for bytes in [100, BOUND / 2, BOUND] {
            let record = record_of(bytes);
            let sizes = seen(&world, codec.number, &(codec.pack)(&record)).await;
            let sizes = sizes.unwrap_or_else(|error| panic!("{}, {bytes}: {error}", codec.name));
            assert!((bytes - 20..bytes).contains(&sizes[2]), "{}", codec.name);
        }
        let record = record_of(BOUND + 1);
        refused(
            codec,
            seen(&world, codec.number, &(codec.pack)(&record)).await,
        );
    }
}

fn refused(codec: &Codec, seen: Result<Vec<usize>, LogError>) {
    let error = seen.expect_err(codec.name);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}: {error}", codec.name);
    let there = matches!(error, LogError::Damaged { offset: AT, .. });
    assert!(there, "{}: {error}", codec.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_codec_unpacks_without_limit() {
    let world = world().await;
    for codec in &CODECS {
        // As much as fits into an answer.
        let bytes = (BOUND / 4 * codec.ratio).min(256 << 20);
        let packed = (codec.pack)(&vec![0; bytes]);
        let before = memory_now();
        refused(codec, seen(&world, codec.number, &packed).await);
        let grown = memory_now().saturating_sub(before);
        assert!(grown < 64 << 20, "{}: {grown} bytes more", codec.name);
    }
    // Frames that claim what they do not hold.
    let mut claim = vec![0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
    claim.extend([0; 100]);
    refused(&CODECS[2], seen(&world, 2, &claim).await);
    let framed = [
        b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01",
        &(claim.len() as u32).to_be_bytes()[..],
        &claim,
    ];
    refused(&CODECS[3], seen(&world, 2, &framed.concat()).await);
}

/// The most that this process ever held in memory.
fn memory_now() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_in_the_middle_or_goes_on_behind_its_end_is_named() {
    let world = world().await;
    let record = record_of(100_000);
    for codec in &CODECS {
        let packed = (codec.pack)(&record);
        let half = &packed[..packed.len() / 2];
        refused(codec, seen(&world, codec.number, half).await);
        let more = [&packed[..], &[7; 30]].concat();
        refused(codec, seen(&world, codec.number, &more).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_fewer_records_than_it_says_stops_its_bucket() {
    let last = BATCHES - 1;
    for codec in [0, 1] {
        let world = world().await;
        let record = records([&b"x"[..]]);
        let packed = if codec == 0 { record } else { gzip(&record) };
        let fewer = batch(last, 3, codec, &packed);
        world.proxy.edit(batch_at(last, move |_| fewer.clone()));
        let (seen, error) = by_group(&world.kafka).await;
        let named = matches!(error, LogError::Damaged { offset, .. } if offset == last);
        assert!(named && seen.len() as i64 <= BATCHES, "{seen:?}: {error}");
    }
}

/// Where the next batch begins is not asked of a length that may be wrong: here it leads back to
/// the batch itself, counted from the start of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_batch_is_looked_at_once_however_long_it_is() {
    let world = world().await;
    world.proxy.edit(|answer| {
        let first = batch(0, 1, 0, &records([&b"message 0"[..]]));
        let mut second = batch(1, 1, 0, &records([&[b'x'; 30][..]]));
        assert_eq!(second.len(), first.len() + 21);
        *second.last_mut().unwrap() ^= 1;
        match answer.is_empty() {
            true => Vec::new(),
            false => [first, second].concat(),
        }
    });
    let (seen, error) = by_group(&world.kafka).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(seen.len() <= 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_an_unknown_format_that_begins_before_the_offset_stops_its_bucket() {
    let world = world().await;
    world.proxy.edit(|answer| {
        let values = ["a", "b", "c", "d"].map(str::as_bytes);
        let mut all = sealed(batch(0, 4, 0, &records(values)));
        all[16] = 6;
        match answer.is_empty() {
            true => Vec::new(),
            false => all,
        }
    });
    let from = [(Bucket(0), Offset(2))];
    let mut follower = Follower::start(&world.kafka, "t", &from).unwrap();
    let error = loop {
        let next = tokio::time::timeout(WAIT_MAX, follower.next()).await;
        match next.expect("nothing is said of it") {
            Ok(news) => assert!(news.messages.is_empty()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, LogError::Damaged { offset: 2, .. }),
        "{error}"
    );
}
