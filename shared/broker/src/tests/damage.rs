//! Whatever byte of a broker's folder is damaged: it starts and serves what was stored, or says by
//! name what it can't. Seeded: the same damages every time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::batch::BatchHeader;
use crate::group::offsets::{Change, Committed};
use crate::partition::{Partition, Plan, ReadError};

use super::*;

const ROUNDS: u64 = 240;
const PARTITIONS: i32 = 2;
const APPENDS: i64 = 40;

/// A generator of numbers that are the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// What a partition gives: records by offset. `None` where it says that it can't.
type Seen = Option<BTreeMap<i64, Vec<u8>>>;

fn seen(broker: &Broker, partition: i32) -> Seen {
    let topic = broker.state.topics.by_name("t").unwrap();
    let partition = topic.partition(partition).unwrap();
    let named = |partition: &Partition| {
        let why = partition.offline().expect("refused, and nobody knows why");
        assert!(why.contains("segment"), "{why}");
        None
    };
    let Some(extent) = partition.extent() else {
        return named(&partition);
    };
    let (mut found, mut offset) = (BTreeMap::new(), extent.log_start);
    while offset < extent.high_watermark {
        let bytes = match partition.plan(offset, 1, true) {
            Ok(Plan::Memory(chunks)) => chunks.concat().into(),
            Ok(Plan::Disk(read)) => match read.run() {
                Ok(bytes) => bytes,
                Err(_) => return named(&partition),
            },
            Err(ReadError::Storage) => return named(&partition),
            other => panic!("{other:?} at {offset} of {extent:?}"),
        };
        let header = BatchHeader::parse_whole(&bytes).unwrap();
        assert_eq!(
            header.base_offset,
            offset,
            "{} {extent:?}",
            partition.name()
        );
        found.insert(offset, bytes[..header.bytes].to_vec());
        offset = header.next_offset();
    }
    Some(found)
}

fn settings(dir: &Path) -> BrokerSettings {
    let mut settings = BrokerSettings::new(dir, ([127, 0, 0, 1], 0).into());
    settings.segment_bytes_max = 1_500;
    settings.fsync = false;
    settings.tail_bytes_max = 0;
    settings
}

fn position(offset: i64) -> Change {
    let committed = Committed {
        offset,
        leader_epoch: 0,
        metadata: "note".into(),
        committed_ms: i64::MAX,
    };
    Change::Commit {
        group: "g".into(),
        topic: "t".into(),
        partition: 0,
        committed,
    }
}

/// Records in several segments of two partitions, a producer's sequences, a group's positions.
async fn write(broker: &Broker) {
    let mut client = Client::connect(broker).await;
    create(&mut client, PARTITIONS).await;
    let request = InitProducerIdRequest::default().with_transactional_id(None);
    client.send(ApiKey::InitProducerId, 4, request).await;
    let id = client.receive::<InitProducerIdResponse>(4).await;
    for n in 0..APPENDS {
        let sequence = (n / i64::from(PARTITIONS)) as i32 * 2;
        let batch = Batch {
            records: 2,
            payload_bytes: 40 + n as usize % 16,
            timestamp: 1_000 + n,
            producer: Some((id.producer_id.0, 0, sequence)),
        };
        let mut request = produce(-1, batch.encode());
        let data = &mut request.topic_data[0].partition_data[0];
        data.index = (n % i64::from(PARTITIONS)) as i32;
        client.send(ApiKey::Produce, 9, request).await;
        assert_eq!(produced(&mut client, 9).await.0, 0);
        let offsets = broker.state.coordinator.offsets();
        assert!(offsets.apply(vec![position(n)]).await);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let path = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&file, path).unwrap();
    }
}

/// Damages one file; says how.
fn damage(dir: &Path, numbers: &mut Numbers) -> (PathBuf, String) {
    let all: Vec<_> = files(dir)
        .into_iter()
        .filter(|file| fs::metadata(file).unwrap().len() > 0)
        .collect();
    let file = all[numbers.below(all.len())].clone();
    let mut bytes = fs::read(&file).unwrap();
    let at = numbers.below(bytes.len());
    let how = match numbers.below(10) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            let end = bytes.len().min(at + 1 + numbers.below(100));
            bytes[at..end].fill(0);
            format!("zeros from {at} to {end}")
        }
        _ => {
            let bit = numbers.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
    };
    fs::write(&file, bytes).unwrap();
    (file, how)
}

/// What is left of an undamaged partition: all; or, where an append was cut off before it was
/// acknowledged for all that can be known, all but the end.
fn is_kept(seen: &Seen, stored: &Seen, may_be_torn: bool) -> bool {
    let (Some(seen), Some(stored)) = (seen, stored) else {
        return seen.is_none();
    };
    let all_right = seen
        .iter()
        .all(|(offset, batch)| stored.get(offset) == Some(batch));
    let from_start = seen
        .keys()
        .zip(stored.keys())
        .all(|(seen, stored)| seen == stored);
    all_right && from_start && (may_be_torn || seen.len() == stored.len())
}

#[tokio::test]
async fn whatever_is_damaged_is_intact_or_named() {
    let home = tempfile::tempdir().unwrap();
    let (first, clean, killed) = ("first", "clean", "killed");
    let dir = |name: &str| home.path().join(name);
    let broker = Broker::start(settings(&dir(first))).await.unwrap();
    write(&broker).await;
    let stored: Vec<_> = (0..PARTITIONS).map(|n| seen(&broker, n)).collect();
    copy(&dir(first), &dir(killed));
    broker.shutdown().await.unwrap();
    copy(&dir(first), &dir(clean));
    let mut numbers = Numbers(0x7469_6465_6c61_6b65);
    let mut outcomes = BTreeMap::<&str, u64>::new();
    for round in 0..ROUNDS {
        let source = [clean, killed][(round % 2) as usize];
        let work = dir("work");
        copy(&dir(source), &work);
        let (file, how) = damage(&work, &mut numbers);
        let case = format!("round {round}, {source}, {file:?}: {how}");
        println!("{case}");
        match Broker::start(settings(&work)).await {
            Err(error) => {
                let named = matches!(&error, BrokerError::Corrupt { path, .. } | BrokerError::Io { path, .. }
                    if file.starts_with(path));
                assert!(named, "{case}: {error}");
                *outcomes.entry("refused").or_default() += 1;
            }
            Ok(broker) => {
                for (n, stored) in (0..).zip(&stored) {
                    let seen = seen(&broker, n);
                    let may_be_torn = source == killed && is_last_segment(&file);
                    assert!(is_kept(&seen, stored, may_be_torn), "{case}: {n}: {seen:?}");
                    let touched = file.parent().unwrap().ends_with(n.to_string());
                    assert!(touched || seen.is_some(), "{case}: {n} is offline, too");
                    let outcome = if seen.is_some() { "intact" } else { "offline" };
                    *outcomes.entry(outcome).or_default() += 1;
                }
                let kept = broker.state.coordinator.offsets().group("g");
                let of_file = file.ends_with("offsets.log");
                assert!(of_file || kept.is_some(), "{case}");
                let offset = kept.iter().flatten().map(|(_, kept)| kept.offset).next();
                let right = offset.is_none_or(|o| {
                    if of_file {
                        o < APPENDS
                    } else {
                        o == APPENDS - 1
                    }
                });
                assert!(right, "{case}: {offset:?}");
                broker.shutdown().await.unwrap();
            }
        }
        fs::remove_dir_all(work).unwrap();
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

fn is_last_segment(file: &Path) -> bool {
    let all = files(file.parent().unwrap());
    let last = all
        .iter()
        .rfind(|file| file.extension().is_some_and(|end| end == "log"));
    last.is_some_and(|last| last == file)
}
