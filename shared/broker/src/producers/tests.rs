use proptest::prelude::*;

use super::*;

fn batch(producer_id: i64, epoch: i16, first: i32, records: i32) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        bytes: 100,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id,
        producer_epoch: epoch,
        base_sequence: first,
        records,
    }
}

fn store(table: &mut ProducerTable, header: BatchHeader, offset: i64) {
    assert_eq!(table.check(&header), Ok(Verdict::Append));
    table.record(&header, offset, 0);
}

#[test]
fn a_repeated_batch_is_answered_with_its_first_offset() {
    let mut table = ProducerTable::default();
    for n in 0..5 {
        store(&mut table, batch(7, 0, n * 10, 10), i64::from(n) * 10 + 100);
    }
    for n in 0..5 {
        let base_offset = i64::from(n) * 10 + 100;
        let verdict = table.check(&batch(7, 0, n * 10, 10));
        assert_eq!(verdict, Ok(Verdict::Duplicate { base_offset }));
    }
    store(&mut table, batch(7, 0, 50, 1), 150);
    // Older than the five that are remembered.
    assert_eq!(
        table.check(&batch(7, 0, 0, 10)),
        Err(SequenceError::OutOfOrder)
    );
    // Overlaps, but is not the same batch.
    assert_eq!(
        table.check(&batch(7, 0, 40, 11)),
        Err(SequenceError::OutOfOrder)
    );
}

#[test]
fn gaps_and_old_epochs_are_refused() {
    let mut table = ProducerTable::default();
    store(&mut table, batch(1, 3, 5, 2), 0);
    assert_eq!(
        table.check(&batch(1, 3, 8, 1)),
        Err(SequenceError::OutOfOrder)
    );
    assert_eq!(
        table.check(&batch(1, 2, 7, 1)),
        Err(SequenceError::OldEpoch)
    );
    assert_eq!(
        table.check(&batch(1, 4, 7, 1)),
        Err(SequenceError::OutOfOrder)
    );
    store(&mut table, batch(1, 4, 0, 1), 2);
    assert_eq!(
        table.check(&batch(1, 3, 7, 1)),
        Err(SequenceError::OldEpoch)
    );
}

#[test]
fn sequences_wrap_to_zero() {
    let mut table = ProducerTable::default();
    store(&mut table, batch(1, 0, i32::MAX - 1, 4), 0);
    assert_eq!(
        table.check(&batch(1, 0, 3, 1)),
        Err(SequenceError::OutOfOrder)
    );
    store(&mut table, batch(1, 0, 2, 1), 4);
}

#[test]
fn what_was_not_stored_can_be_taken_back() {
    let mut table = ProducerTable::default();
    store(&mut table, batch(1, 0, 0, 1), 0);
    let (known, unknown) = (table.remember(1), table.remember(2));
    store(&mut table, batch(1, 0, 1, 1), 1);
    store(&mut table, batch(2, 0, 0, 1), 2);
    table.restore(1, known);
    table.restore(2, unknown);
    assert_eq!(table.check(&batch(1, 0, 1, 1)), Ok(Verdict::Append));
    assert_eq!(table.remember(2), None);
}

#[test]
fn idle_producers_are_forgotten() {
    let mut table = ProducerTable::default();
    table.record(&batch(1, 0, 0, 1), 0, 1_000);
    table.record(&batch(2, 0, 0, 1), 1, 2_000);
    table.expire(1_000 + IDLE_MS_MAX);
    assert!(table.remember(1).is_none() && table.remember(2).is_some());
    for id in 0..PRODUCERS_MAX as i64 + 50 {
        table.record(&batch(100 + id, 0, 0, 1), 2, 3_000 + id);
    }
    table.expire(10_000);
    assert_eq!(table.producers.len(), PRODUCERS_MAX);
    assert!(table.remember(100 + 49).is_none() && table.remember(100 + 50).is_some());
}

/// A producer that sends numbered batches, some again, some with a gap.
#[derive(Debug, Clone, Copy)]
enum Step {
    Next(i32),
    Again(usize),
    Skip(i32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..20).prop_map(Step::Next),
        (0..8_usize).prop_map(Step::Again),
        (1..5).prop_map(Step::Skip),
    ]
}

proptest! {
    #[test]
    fn the_log_holds_every_batch_once_and_in_order(
        steps in prop::collection::vec((0..3_i64, step()), 1..80),
        snapshot_at in 0..80_usize,
    ) {
        let mut table = ProducerTable::default();
        let mut next_sequence = [0_i32; 3];
        let mut sent: [Vec<(BatchHeader, i64)>; 3] = Default::default();
        let mut next_offset = 0;
        for (at, (producer, step)) in steps.into_iter().enumerate() {
            if at == snapshot_at {
                let mut bytes = Vec::new();
                table.encode(&mut bytes);
                let decoded = ProducerTable::decode(&mut bytes.as_slice());
                prop_assert_eq!(decoded.as_ref(), Some(&table));
                for len in 0..bytes.len() {
                    prop_assert!(ProducerTable::decode(&mut &bytes[..len]).is_none());
                }
                table = decoded.unwrap();
            }
            let index = producer as usize;
            match step {
                Step::Next(records) => {
                    let header = batch(producer, 0, next_sequence[index], records);
                    prop_assert_eq!(table.check(&header), Ok(Verdict::Append));
                    table.record(&header, next_offset, 0);
                    sent[index].push((header, next_offset));
                    next_sequence[index] += records;
                    next_offset += i64::from(records);
                }
                Step::Again(back) => {
                    let Some(at) = sent[index].len().checked_sub(back + 1) else { continue };
                    let (header, base_offset) = sent[index][at];
                    let expected = match back {
                        0..BATCHES_MAX => Ok(Verdict::Duplicate { base_offset }),
                        _ => Err(SequenceError::OutOfOrder),
                    };
                    prop_assert_eq!(table.check(&header), expected);
                }
                Step::Skip(gap) => {
                    if sent[index].is_empty() {
                        continue;
                    }
                    let header = batch(producer, 0, next_sequence[index] + gap, 1);
                    prop_assert_eq!(table.check(&header), Err(SequenceError::OutOfOrder));
                }
            }
        }
    }
}
