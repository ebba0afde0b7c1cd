use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use tidelake_core::clock::ManualClock;

use crate::batch::check_record_set;
use crate::batch::testing::Batch;
use crate::segment::{FaultyDisk, segment_path};
use crate::topic_config::{ConfigDefaults, TopicConfig};

use super::*;

mod damage;

const NOW_MS: i64 = 4_000_000_000_000;

struct Bench {
    dir: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
    clock: Arc<ManualClock>,
    config: LiveConfig,
    tail_bytes: usize,
    check: Check,
}

impl Bench {
    fn new(segment_bytes_max: u64, tail_bytes: usize) -> Self {
        let defaults = ConfigDefaults {
            retention_ms: None,
            segment_bytes_max,
            message_bytes_max: 1 << 20,
        };
        let config = TopicConfig::new(&BTreeMap::new(), defaults).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            disk: Arc::new(FaultyDisk::default()),
            clock: Arc::new(ManualClock::at(NOW_MS)),
            config: Arc::new(RwLock::new(config)),
            tail_bytes,
            check: Check::Nothing,
        }
    }

    fn context(&self) -> PartitionContext {
        PartitionContext {
            disk: Arc::clone(&self.disk) as Arc<dyn Disk>,
            clock: Arc::clone(&self.clock) as SharedClock,
            runtime: Handle::current(),
            files: OpenFiles::new(2),
            check: self.check,
            fsync: true,
            flush_linger: Duration::ZERO,
            tail_bytes_max: self.tail_bytes,
            partition_tail_bytes_max: self.tail_bytes,
            tail_bytes: AtomicUsize::new(0),
        }
    }

    fn open(&self) -> Arc<Partition> {
        let context = self.context();
        let dir = self.dir.path().to_owned();
        Partition::open(
            "t-0".to_owned(),
            dir,
            Arc::new(context),
            Arc::clone(&self.config),
        )
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn send(
    partition: &Arc<Partition>,
    set: Vec<u8>,
) -> oneshot::Receiver<Result<Appended, AppendError>> {
    let headers = check_record_set(&set, 1 << 20).unwrap();
    partition.append(set.into(), headers)
}

async fn append(partition: &Arc<Partition>, batch: Batch) -> Result<i64, AppendError> {
    send(partition, batch.encode())
        .await
        .unwrap()
        .map(|appended| appended.base_offset)
}

fn extent(partition: &Partition) -> (i64, i64) {
    let extent = partition.extent().unwrap();
    (extent.log_start, extent.high_watermark)
}

/// Reads what a fetch would give.
fn read(partition: &Arc<Partition>, offset: i64, bytes_max: usize, one: bool) -> Vec<u8> {
    match partition.plan(offset, bytes_max, one).unwrap() {
        Plan::Nothing => Vec::new(),
        Plan::Memory(chunks) => chunks.concat(),
        Plan::Disk(read) => read.run().unwrap().to_vec(),
    }
}

/// The heads of whole batches; panics on anything else.
fn heads(bytes: &[u8]) -> Vec<BatchHeader> {
    if bytes.is_empty() {
        Vec::new()
    } else {
        check_record_set(bytes, 1 << 20).unwrap()
    }
}

/// Everything from `offset` on, by as many reads as it takes.
fn read_all(partition: &Arc<Partition>, mut offset: i64) -> Vec<(i64, i32, i64)> {
    let mut found = Vec::new();
    while offset < extent(partition).1 {
        let batches = heads(&read(partition, offset, 1000, true));
        assert!(batches[0].base_offset <= offset && !batches.is_empty());
        for batch in batches {
            found.push((batch.base_offset, batch.records, batch.max_timestamp));
            offset = batch.next_offset();
        }
    }
    found
}

#[tokio::test]
async fn appends_that_wait_together_share_a_sync() {
    let bench = Bench::new(1 << 20, 1 << 20);
    let partition = bench.open();
    let writer = partition.log.as_ref().unwrap().writer.lock();
    let mut waiting = vec![send(&partition, Batch::default().encode())];
    // The first round is stuck at the writer; the rest gathers behind it.
    waiting.extend((0..50).map(|_| send(&partition, Batch::default().encode())));
    drop(writer);
    for (offset, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().unwrap().base_offset, offset as i64);
    }
    assert!(bench.disk.syncs.load(SeqCst) <= 3, "{:?}", bench.disk.syncs);
    assert_eq!(extent(&partition), (0, 51));
}

#[tokio::test]
async fn offsets_outside_the_log_are_told_exactly() {
    let bench = Bench::new(1 << 20, 0);
    let partition = bench.open();
    assert!(matches!(partition.plan(0, 100, true), Ok(Plan::Nothing)));
    assert!(matches!(
        partition.plan(1, 100, true),
        Err(ReadError::OutOfRange)
    ));
    append(
        &partition,
        Batch {
            records: 5,
            ..Batch::default()
        },
    )
    .await
    .unwrap();
    assert!(matches!(
        partition.plan(-1, 100, true),
        Err(ReadError::OutOfRange)
    ));
    assert!(matches!(partition.plan(5, 100, true), Ok(Plan::Nothing)));
    assert!(matches!(
        partition.plan(6, 100, true),
        Err(ReadError::OutOfRange)
    ));
    // An offset within a batch gives the whole batch.
    assert_eq!(heads(&read(&partition, 3, 1, true))[0].base_offset, 0);
    assert!(read(&partition, 3, 1, false).is_empty());
}

#[tokio::test]
async fn a_full_disk_refuses_appends_keeps_reads_and_recovers() {
    for tail_bytes in [0, 1 << 20] {
        let bench = Bench::new(1 << 20, tail_bytes);
        let partition = bench.open();
        let sequenced = |sequence| Batch {
            producer: Some((9, 0, sequence)),
            ..Batch::default()
        };
        append(&partition, sequenced(0)).await.unwrap();
        bench.disk.full.store(true, SeqCst);
        bench.disk.truncate_fails.store(true, SeqCst);
        assert_eq!(
            append(&partition, sequenced(1)).await,
            Err(AppendError::Storage)
        );
        assert_eq!(
            append(&partition, sequenced(1)).await,
            Err(AppendError::Storage)
        );
        assert_eq!(read_all(&partition, 0).len(), 1);
        bench.disk.full.store(false, SeqCst);
        bench.disk.truncate_fails.store(false, SeqCst);
        // The refused batch left no trace among the sequences either.
        assert_eq!(append(&partition, sequenced(1)).await, Ok(1));
        assert_eq!(append(&partition, sequenced(1)).await, Ok(1));
        bench.disk.sync_fails.store(true, SeqCst);
        assert_eq!(
            append(&partition, sequenced(2)).await,
            Err(AppendError::Storage)
        );
        assert_eq!(extent(&partition), (0, 2));
        bench.disk.sync_fails.store(false, SeqCst);
        assert_eq!(append(&partition, sequenced(2)).await, Ok(2));
        drop(partition);
        assert_eq!(extent(&bench.open()), (0, 3));
    }
}

#[tokio::test]
async fn duplicates_are_known_after_a_restart() {
    for clean in [false, true] {
        // Small enough that sequences span several segments.
        let bench = Bench::new(250, 0);
        let sequenced = |sequence| Batch {
            producer: Some((9, 0, sequence)),
            ..Batch::default()
        };
        let partition = bench.open();
        for sequence in 0..12 {
            assert_eq!(
                append(&partition, sequenced(sequence)).await,
                Ok(i64::from(sequence))
            );
        }
        if clean {
            partition.close().await;
            partition.seal().unwrap();
            assert_eq!(
                append(&partition, sequenced(12)).await,
                Err(AppendError::Closed)
            );
        }
        drop(partition);
        let partition = bench.open();
        assert_eq!(append(&partition, sequenced(11)).await, Ok(11));
        let gap = append(&partition, sequenced(13)).await;
        assert_eq!(gap, Err(AppendError::OutOfOrderSequence));
        assert_eq!(append(&partition, sequenced(12)).await, Ok(12));
    }
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_batch() {
    let bench = Bench::new(1 << 20, 0);
    let partition = bench.open();
    let sizes = [5_usize, 300, 40];
    let mut ends = vec![0];
    for payload_bytes in sizes {
        let batch = Batch {
            records: 2,
            payload_bytes,
            ..Batch::default()
        };
        ends.push(ends.last().unwrap() + batch.encode().len());
        append(&partition, batch).await.unwrap();
    }
    drop(partition);
    let path = segment_path(bench.path(), 0);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), *ends.last().unwrap());
    for len in 0..=whole.len() {
        // What a crash leaves behind the last whole write: nothing, zeros, or other bytes.
        for junk in [&[][..], &[0; 100], &[0xab; 100]] {
            let left = [&whole[..len], junk].concat();
            fs::write(&path, &left).unwrap();
            // Zeros may happen to be what is missing.
            let is_whole = |end: &usize| left.get(..*end) == Some(&whole[..*end]);
            let kept = ends.iter().rposition(is_whole).unwrap();
            let partition = bench.open();
            assert_eq!(extent(&partition), (0, kept as i64 * 2), "{len} bytes");
            assert_eq!(fs::metadata(&path).unwrap().len() as usize, ends[kept]);
            assert_eq!(
                append(&partition, Batch::default()).await,
                Ok(kept as i64 * 2)
            );
        }
    }
}

#[tokio::test]
async fn damage_below_what_was_durable_takes_the_partition_offline() {
    let bench = Bench::new(200, 0);
    let partition = bench.open();
    for _ in 0..5 {
        append(
            &partition,
            Batch {
                payload_bytes: 100,
                ..Batch::default()
            },
        )
        .await
        .unwrap();
    }
    partition.close().await;
    partition.seal().unwrap();
    drop(partition);
    let active = segment_path(bench.path(), 4);
    let closed = segment_path(bench.path(), 2);
    for path in [&active, &closed] {
        let whole = fs::read(path).unwrap();
        let mut bad = whole.clone();
        bad[80] ^= 1;
        fs::write(path, &bad).unwrap();
        // Closed segments are trusted by their sidecar; without one they are read.
        if path == &closed {
            fs::remove_file(path.with_extension("index")).unwrap();
        }
        let partition = bench.open();
        assert_eq!(partition.extent(), None);
        assert_eq!(
            append(&partition, Batch::default()).await,
            Err(AppendError::Storage)
        );
        assert!(matches!(
            partition.plan(0, 1, true),
            Err(ReadError::Storage)
        ));
        assert_eq!(fs::read(path).unwrap(), bad, "damage is left for repair");
        fs::write(path, &whole).unwrap();
        assert_eq!(extent(&bench.open()), (0, 5));
    }
    // A segment that is missing in the middle is damage too.
    fs::remove_file(closed).unwrap();
    assert_eq!(bench.open().extent(), None);
}

#[tokio::test]
async fn retention_deletes_the_oldest_segments_by_time_and_by_bytes() {
    let bench = Bench::new(200, 0);
    let partition = bench.open();
    let batch = Batch {
        payload_bytes: 100,
        ..Batch::default()
    };
    for _ in 0..6 {
        append(&partition, batch).await.unwrap();
        bench.clock.advance(Duration::from_millis(10));
    }
    bench.config.write().retention_bytes = Some(3 * batch.encode().len() as u64);
    partition.enforce_retention();
    assert_eq!(extent(&partition), (3, 6));
    assert!(matches!(
        partition.plan(2, 100, true),
        Err(ReadError::OutOfRange)
    ));
    assert!(!segment_path(bench.path(), 0).exists());

    // Appended at 30, 40 and 50 ms.
    bench.config.write().retention_ms = Some(25);
    partition.enforce_retention();
    assert_eq!(extent(&partition), (4, 6));
    bench.clock.advance(Duration::from_millis(1_000));
    partition.enforce_retention();
    assert_eq!(
        extent(&partition),
        (6, 6),
        "the segment that was written to is closed first"
    );
    assert_eq!(append(&partition, batch).await, Ok(6));
    drop(partition);
    assert_eq!(extent(&bench.open()), (6, 7));
}

#[tokio::test]
async fn a_deleted_partition_wakes_who_waits_and_refuses_the_rest() {
    let bench = Bench::new(1 << 20, 1 << 20);
    let partition = bench.open();
    append(&partition, Batch::default()).await.unwrap();
    let advanced = partition.advanced().unwrap();
    partition.delete();
    advanced.await;
    assert!(matches!(
        partition.plan(0, 1, true),
        Err(ReadError::Deleted)
    ));
    assert_eq!(
        append(&partition, Batch::default()).await,
        Err(AppendError::Deleted)
    );
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        records: i32,
        payload_bytes: usize,
        timestamp: i64,
    },
    Restart {
        lose_indexes: bool,
    },
    ReadFrom(prop::sample::Index, usize),
    AtTime(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..9_i32, 0..3_000_usize, 0..50_i64).prop_map(|(records, payload_bytes, timestamp)| {
            Step::Append { records, payload_bytes, timestamp }
        }),
        1 => any::<bool>().prop_map(|lose_indexes| Step::Restart { lose_indexes }),
        2 => (any::<prop::sample::Index>(), 0..5_000_usize).prop_map(|(at, max)| Step::ReadFrom(at, max)),
        2 => (0..55_i64).prop_map(Step::AtTime),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_partition_is_the_list_of_its_batches(
        steps in prop::collection::vec(step(), 1..60),
        segment_bytes_max in 500..200_000_u64,
        tail_bytes in prop_oneof![Just(0_usize), Just(5_000), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new(segment_bytes_max, tail_bytes);
            let mut partition = bench.open();
            let mut model: Vec<(i64, i32, i64)> = Vec::new();
            let mut next = 0_i64;
            for step in steps {
                match step {
                    Step::Append { records, payload_bytes, timestamp } => {
                        let batch = Batch { records, payload_bytes, timestamp, producer: None };
                        assert_eq!(append(&partition, batch).await, Ok(next));
                        model.push((next, records, timestamp));
                        next += i64::from(records);
                    }
                    Step::Restart { lose_indexes } => {
                        partition.close().await;
                        drop(partition);
                        for entry in fs::read_dir(bench.path()).unwrap() {
                            let path = entry.unwrap().path();
                            if lose_indexes && path.extension().is_some_and(|e| e == "index") {
                                fs::remove_file(path).unwrap();
                            }
                        }
                        partition = bench.open();
                    }
                    Step::ReadFrom(at, bytes_max) => {
                        if next == 0 {
                            continue;
                        }
                        let offset = at.index(next as usize) as i64;
                        let bytes = read(&partition, offset, bytes_max, true);
                        let got = heads(&bytes);
                        let first = model.partition_point(|(base, _, _)| *base <= offset) - 1;
                        for (got, expected) in got.iter().zip(&model[first..]) {
                            assert_eq!((got.base_offset, got.records), (expected.0, expected.1));
                        }
                        assert!(got.len() == 1 || bytes.len() <= bytes_max);
                        assert!(!got.is_empty());
                    }
                    Step::AtTime(timestamp) => {
                        let found = partition.batch_at_time(timestamp).unwrap();
                        let found = found.map(|bytes| heads(&bytes)[0].base_offset);
                        let expected = model.iter().find(|(_, _, at)| *at >= timestamp);
                        assert_eq!(found, expected.map(|(base, _, _)| *base));
                        let newest = model.iter().map(|(_, _, at)| *at).max();
                        assert_eq!(partition.newest_timestamp(), newest);
                    }
                }
                assert_eq!(extent(&partition), (0, next));
            }
            assert_eq!(read_all(&partition, 0), model);
        });
    }
}
