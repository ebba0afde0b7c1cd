use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::ipc::reader::StreamReader;

use super::*;

const ONE: usize = 1000;

fn budget(each: usize, total: usize, disk: u64) -> Arc<SpoolBudget> {
    SpoolBudget::new(each, total, disk, None)
}

fn message(index: usize) -> Packed {
    Packed {
        rows: 2,
        value: Bytes::from(vec![index as u8; ONE + index % 7]),
        bucket: None,
        column_bytes: ONE,
        part: false,
    }
}

#[test]
fn messages_come_back_in_order_from_memory_and_from_the_file() {
    for messages in [0, 1, 3, 4, 100] {
        let budget = budget(3 * ONE + 100, 1 << 20, 1 << 20);
        let mut spool = Spool::new(Arc::clone(&budget));
        for index in 0..messages {
            spool.push(message(index)).unwrap();
        }
        assert_eq!(spool.rows(), 2 * messages as u64);
        assert_eq!(budget.disk_bytes() > 0, messages > 3);
        spool.rewind(Encoder::Rows);
        assert_eq!(spool.messages(), messages);
        let mut back = Vec::new();
        while let Some(message) = spool.pop().unwrap() {
            back.push(message);
        }
        assert_eq!(back, (0..messages).map(message).collect::<Vec<_>>());
        drop(spool);
        assert_eq!((budget.memory_bytes(), budget.disk_bytes()), (0, 0));
    }
}

fn held(spool: &Spool) -> usize {
    let bytes = |kept: &Kept| match &kept.value {
        Value::Memory(value) => value.len(),
        Value::File { .. } => 0,
    };
    spool.pushed.iter().map(bytes).sum()
}

#[test]
fn memory_of_all_spools_together_stays_within_the_budget() {
    let total = 10 * ONE;
    let budget = budget(4 * ONE, total, 1 << 30);
    let mut spools: Vec<_> = (0..20).map(|_| Spool::new(Arc::clone(&budget))).collect();
    let mut pushed = vec![0usize; spools.len()];
    for round in 0..50 {
        for (spool, pushed) in spools.iter_mut().zip(&mut pushed) {
            spool.push(message(round)).unwrap();
            *pushed += 1;
            assert!(held(spool) <= 4 * ONE + 7);
        }
        assert!(budget.memory_bytes() <= total as u64);
    }
    let held: usize = spools.iter().map(held).sum();
    assert_eq!(held as u64, budget.memory_bytes());
    for (spool, pushed) in spools.iter_mut().zip(pushed) {
        spool.rewind(Encoder::Rows);
        let back = std::iter::from_fn(|| spool.pop().unwrap()).count();
        assert_eq!(back, pushed);
    }
}

#[test]
fn a_full_disk_budget_refuses_and_gives_back() {
    let budget = budget(0, ONE + 10, 2 * ONE as u64);
    let mut spool = Spool::new(Arc::clone(&budget));
    spool.push(message(0)).unwrap();
    spool.push(message(0)).unwrap();
    spool.push(message(0)).unwrap();
    let error = spool.push(message(0)).unwrap_err();
    assert!(matches!(error, SpoolError::DiskBudget(2000)), "{error}");
    drop(spool);
    assert_eq!((budget.memory_bytes(), budget.disk_bytes()), (0, 0));
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = PathBuf::from("/nowhere/at/all");
    let budget = SpoolBudget::new(0, 0, 1 << 20, Some(folder.clone()));
    let error = Spool::new(budget).push(message(0)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

/// `rows` rows of one column, beginning with `first`.
fn rows(first: i64, rows: usize) -> Bytes {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + rows as i64));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    tidelake_codec::packed::encode(&batch).unwrap()
}

fn numbers(message: &Packed) -> Vec<i64> {
    let reader = StreamReader::try_new(message.value.as_ref(), None).unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    let columns = batches.iter().map(|batch| batch.column(0));
    let numbers = columns.flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec());
    numbers.collect()
}

#[test]
fn parts_of_a_bucket_become_full_messages_in_their_order() {
    for each_memory_max in [0, 1 << 20] {
        let budget = budget(each_memory_max, 1 << 20, 1 << 20);
        let mut spool = Spool::new(Arc::clone(&budget));
        let mut first = 0;
        let mut push = |bucket, count: usize, column_bytes, part| {
            let message = Packed {
                rows: count as u32,
                value: rows(first, count),
                bucket: Some(Bucket(bucket)),
                column_bytes,
                part,
            };
            first += count as i64;
            spool.push(message).unwrap();
        };
        let half = COLUMN_BYTES_MAX / 2;
        push(0, 10, half, true); // 0
        push(1, 10, 9, false); // 10
        push(0, 10, half, true); // 20
        push(1, 10, 9, false); // 30: no part, so what it holds was a message's worth
        push(0, 10, half, true); // 40: a third half
        push(2, 10, 9, true); // 50
        push(0, 1, half, true); // 60
        push(2, ROWS_MAX, 9, true); // 61: too many rows
        push(2, 1, 9, true);
        spool.rewind(Encoder::Rows);
        assert_eq!(spool.messages(), 7);
        let mut found = Vec::new();
        while let Some(message) = spool.pop().unwrap() {
            let numbers = numbers(&message);
            assert_eq!(numbers.len(), message.rows as usize);
            assert!(numbers.len() >= 10 || message.bucket != Some(Bucket(0)));
            let ends = (numbers[0], numbers[numbers.len() - 1]);
            found.push((message.bucket.unwrap().0, ends, numbers.len()));
        }
        let last = 61 + ROWS_MAX as i64;
        assert_eq!(
            found,
            [
                (0, (0, 29), 20),
                (1, (10, 19), 10),
                (1, (30, 39), 10),
                (0, (40, 60), 11),
                (2, (50, 59), 10),
                (2, (61, last - 1), ROWS_MAX),
                (2, (last, last), 1),
            ]
        );
        assert_eq!(budget.memory_bytes(), 0);
    }
}
