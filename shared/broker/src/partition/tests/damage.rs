//! Damage is found, named, kept from clients, and repaired without an offset given out twice.

use std::ops::Range;

use crate::segment::{inspect, repair};

use super::*;

/// A log of batches with so many records each, killed: no sidecar beside its last segment.
async fn written(bench: &Bench, records: &[i32]) {
    let partition = bench.open();
    for records in records {
        let batch = Batch {
            records: *records,
            payload_bytes: 60,
            ..Batch::default()
        };
        append(&partition, batch).await.unwrap();
    }
    partition.close().await;
}

/// Base offsets and record counts of what can be read, fillers left out.
fn records(partition: &Arc<Partition>) -> Vec<(i64, i32)> {
    let (mut found, mut offset) = (Vec::new(), extent(partition).0);
    while offset < extent(partition).1 {
        let bytes = read(partition, offset, 1, true);
        let batch = BatchHeader::parse_whole(&bytes).unwrap();
        assert_eq!(batch.base_offset, offset);
        if !batch.is_filler() {
            found.push((batch.base_offset, batch.records));
        }
        offset = batch.next_offset();
    }
    found
}

fn flip(path: &Path, at: usize) -> Vec<u8> {
    let whole = fs::read(path).unwrap();
    let mut bad = whole.clone();
    bad[at] ^= 0x40;
    fs::write(path, bad).unwrap();
    whole
}

#[tokio::test]
async fn any_damaged_byte_costs_its_own_batch_and_no_acknowledged_one() {
    let bench = Bench::new(1 << 20, 0);
    let counts = [3, 1, 4, 2];
    written(&bench, &counts).await;
    let path = segment_path(bench.path(), 0);
    let len = fs::metadata(&path).unwrap().len() as usize;
    let batch = len / counts.len();
    let all = [(0, 3), (3, 1), (4, 4), (8, 2)];
    // Every byte of the heads, and some of the records.
    for at in (0..len).filter(|at| at % batch < 62 || at % 13 == 0) {
        let whole = flip(&path, at);
        let hit = at / batch;
        let partition = bench.open();
        if (batch * hit + 12..batch * hit + 16).contains(&at) {
            // The leader epoch: no checksum covers it, and nothing depends on it.
            assert_eq!(extent(&partition), (0, 10), "byte {at}");
            fs::write(&path, whole).unwrap();
            continue;
        }
        let last = hit + 1 == counts.len() && (at % batch) >= 8;
        if last {
            // Nothing valid behind: what a crash leaves of an append that was not acknowledged.
            assert_eq!(extent(&partition), (0, 8), "byte {at}");
            fs::write(&path, whole).unwrap();
            continue;
        }
        let reason = partition.offline().expect("damage is noticed").to_owned();
        assert!(reason.contains("damaged at byte"), "{reason}");
        assert!(inspect(bench.path()).is_err());
        drop(partition);
        let lost = repair(bench.path(), NOW_MS).unwrap();
        assert_eq!(repair(bench.path(), NOW_MS).unwrap(), [], "once is enough");
        inspect(bench.path()).unwrap();
        let partition = bench.open();
        let mut kept = all.to_vec();
        // A wrong offset alone is put right.
        if at % batch >= 8 {
            let (base, count) = kept.remove(hit);
            let named = lost.iter().any(|lost| {
                lost.offsets.start == base && lost.offsets.end >= base + i64::from(count)
            });
            assert!(named, "byte {at}: {lost:?}");
        }
        assert_eq!(records(&partition), kept, "byte {at}");
        let next = append(&partition, Batch::default()).await.unwrap();
        assert!(next >= 10, "byte {at}: offset {next} was given out before");
        drop(partition);
        for entry in fs::read_dir(bench.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::write(&path, whole).unwrap();
    }
}

#[tokio::test]
async fn a_hole_of_zeros_with_valid_batches_behind_is_no_torn_tail() {
    let bench = Bench::new(1 << 20, 0);
    written(&bench, &[1; 200]).await;
    let path = segment_path(bench.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let batch = bytes.len() / 200;
    bytes[50 * batch - 7..52 * batch + 9].fill(0);
    fs::write(&path, &bytes).unwrap();
    let partition = bench.open();
    assert_eq!(partition.extent(), None);
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing is cut");
    drop(partition);
    let lost = repair(bench.path(), NOW_MS).unwrap();
    let offsets: Vec<_> = lost.iter().map(|lost| lost.offsets.clone()).collect();
    assert_eq!(offsets, vec![Range { start: 49, end: 53 }]);
    assert_eq!(fs::read(path.with_extension("log.damaged")).unwrap(), bytes);
    let partition = bench.open();
    assert_eq!(records(&partition).len(), 196);
    assert_eq!(append(&partition, Batch::default()).await, Ok(200));
}

#[tokio::test]
async fn closed_segments_are_checked_after_an_unclean_stop_and_when_they_are_read() {
    let mut bench = Bench::new(300, 0);
    written(&bench, &[1; 20]).await;
    let whole = flip(&segment_path(bench.path(), 0), 70);
    // Left well, a segment is trusted until it is read.
    let partition = bench.open();
    assert_eq!(extent(&partition), (0, 20));
    let Ok(Plan::Disk(damaged)) = partition.plan(0, 1, true) else {
        panic!("nothing is in memory")
    };
    assert!(damaged.run().is_err());
    assert!(
        partition
            .offline()
            .is_some_and(|reason| reason.contains("checksum"))
    );
    assert_eq!(
        append(&partition, Batch::default()).await,
        Err(AppendError::Storage)
    );
    drop(partition);
    // Left badly, it is read at the start, as far as time allows.
    bench.check = Check::Until(crate::time::now());
    assert_eq!(extent(&bench.open()), (0, 20));
    bench.check = Check::Until(crate::time::now() + Duration::from_secs(600));
    let partition = bench.open();
    assert!(
        partition
            .offline()
            .is_some_and(|reason| reason.contains("checksum"))
    );
    drop(partition);
    let lost = repair(bench.path(), NOW_MS).unwrap();
    assert_eq!(lost[0].offsets, 0..1);
    assert_eq!(records(&bench.open()).len(), 19);
    fs::write(segment_path(bench.path(), 0), whole).unwrap();
}

#[tokio::test]
async fn a_missing_segment_and_a_lost_end_keep_their_offsets() {
    let bench = Bench::new(300, 0);
    written(&bench, &[2; 20]).await;
    let partition = bench.open();
    partition.close().await;
    partition.seal().unwrap();
    let next = extent(&partition).1;
    drop(partition);
    let bases: Vec<i64> = (0..next)
        .filter(|base| segment_path(bench.path(), *base).exists())
        .collect();
    fs::remove_file(segment_path(bench.path(), bases[3])).unwrap();
    let active = segment_path(bench.path(), *bases.last().unwrap());
    let len = fs::metadata(&active).unwrap().len();
    fs::OpenOptions::new()
        .write(true)
        .open(&active)
        .unwrap()
        .set_len(len - 1)
        .unwrap();
    assert!(bench.open().offline().is_some());
    let lost = repair(bench.path(), NOW_MS).unwrap();
    assert_eq!(lost[0].offsets, bases[3]..bases[4]);
    assert_eq!(lost[1].offsets.end, next);
    let partition = bench.open();
    assert_eq!(append(&partition, Batch::default()).await, Ok(next));
}

#[tokio::test]
async fn what_a_failed_append_left_is_not_closed_in() {
    let bench = Bench::new(400, 0);
    let partition = bench.open();
    let batch = Batch {
        payload_bytes: 200,
        ..Batch::default()
    };
    append(&partition, batch).await.unwrap();
    bench.disk.full.store(true, SeqCst);
    bench.disk.truncate_fails.store(true, SeqCst);
    let small = append(&partition, Batch::default()).await;
    assert_eq!(small, Err(AppendError::Storage));
    bench.disk.full.store(false, SeqCst);
    assert_eq!(append(&partition, batch).await, Err(AppendError::Storage));
    bench.disk.truncate_fails.store(false, SeqCst);
    // The next one needs a segment of its own.
    assert_eq!(append(&partition, batch).await, Ok(1));
    partition.close().await;
    drop(partition);
    let partition = bench.open();
    assert_eq!(partition.offline(), None);
    assert_eq!(records(&partition), [(0, 1), (1, 1)]);
}

#[tokio::test]
async fn many_partitions_share_few_handles() {
    let files = OpenFiles::new(3);
    let bench = Bench::new(300, 0);
    let dirs: Vec<_> = (0..40).map(|n| bench.path().join(n.to_string())).collect();
    let open = |dir: &Path| {
        fs::create_dir_all(dir).unwrap();
        let context = PartitionContext {
            files: Arc::clone(&files),
            ..bench.context()
        };
        let config = Arc::clone(&bench.config);
        Partition::open("t".to_owned(), dir.to_owned(), Arc::new(context), config)
    };
    for restart in 0..2 {
        let partitions: Vec<_> = dirs.iter().map(|dir| open(dir)).collect();
        for _ in 0..5 {
            for partition in &partitions {
                append(partition, Batch::default()).await.unwrap();
                assert!(files.open_now() <= 3);
            }
        }
        for partition in &partitions {
            assert_eq!(read_all(partition, 0).len(), 5 * (restart + 1));
            assert!(files.open_now() <= 3);
        }
    }
}

/// No checksum covers the offset that a batch says: the batches before it tell.
#[tokio::test]
async fn a_wrong_offset_is_found_wherever_reading_begins() {
    let bench = Bench::new(2_000, 0);
    written(&bench, &[1; 60]).await;
    let partition = bench.open();
    let bases: Vec<i64> = (1..60)
        .filter(|base| segment_path(bench.path(), *base).exists())
        .collect();
    drop(partition);
    let path = segment_path(bench.path(), 0);
    let batch = fs::metadata(&path).unwrap().len() as usize / bases[0] as usize;
    // The fifth says a later offset of its segment, or one that was before.
    for wrong in [9, 2] {
        for offset in 4..bases[0] {
            let whole = fs::read(&path).unwrap();
            let mut bad = whole.clone();
            bad[5 * batch + 7] = wrong;
            fs::write(&path, bad).unwrap();
            let partition = bench.open();
            let Ok(Plan::Disk(read)) = partition.plan(offset, 1, true) else {
                panic!("nothing is in memory")
            };
            match read.run() {
                Ok(bytes) => {
                    let head = BatchHeader::parse_whole(&bytes).unwrap();
                    assert_eq!((head.base_offset, offset), (4, 4), "{wrong}");
                }
                Err(_) => assert!(
                    partition
                        .offline()
                        .is_some_and(|why| why.contains("is due"))
                ),
            }
            drop(partition);
            fs::write(&path, whole).unwrap();
        }
    }
}

#[tokio::test]
async fn a_wrong_leader_epoch_is_put_right_before_a_client_sees_it() {
    let bench = Bench::new(300, 0);
    written(&bench, &[1; 4]).await;
    flip(&segment_path(bench.path(), 0), 12);
    let partition = bench.open();
    let bytes = read(&partition, 0, 1, true);
    assert_eq!(bytes[12..16], [0; 4]);
}
