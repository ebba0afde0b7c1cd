use super::*;

const ONE: usize = 1000;

fn budget(each: usize, total: usize, disk: u64) -> Arc<SpoolBudget> {
    SpoolBudget::new(each, total, disk, None)
}

fn message(index: usize) -> Packed {
    Packed {
        rows: 2,
        value: Bytes::from(vec![index as u8; ONE + index % 7]),
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
        spool.rewind().unwrap();
        let mut back = Vec::new();
        while let Some(message) = spool.pop().unwrap() {
            back.push(message);
        }
        assert_eq!(back, (0..messages).map(message).collect::<Vec<_>>());
        drop(spool);
        assert_eq!((budget.memory_bytes(), budget.disk_bytes()), (0, 0));
    }
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
            let held: usize = spool.memory.iter().map(|message| message.value.len()).sum();
            assert!(held <= 4 * ONE + 7);
        }
        assert!(budget.memory_bytes() <= total as u64);
    }
    let held: usize = spools
        .iter()
        .flat_map(|spool| &spool.memory)
        .map(|message| message.value.len())
        .sum();
    assert_eq!(held as u64, budget.memory_bytes());
    for (spool, pushed) in spools.iter_mut().zip(pushed) {
        spool.rewind().unwrap();
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
