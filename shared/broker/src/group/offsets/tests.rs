use super::*;

fn commit(group: &str, partition: i32, offset: i64) -> Change {
    let committed = Committed {
        offset,
        leader_epoch: 0,
        metadata: "m".to_owned(),
        committed_ms: 7,
    };
    Change::Commit {
        group: group.to_owned(),
        topic: "t".to_owned(),
        partition,
        committed,
    }
}

fn open(dir: &Path) -> OffsetStore {
    OffsetStore::open(dir, Handle::current(), true).unwrap()
}

#[tokio::test]
async fn committed_offsets_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(
        store
            .apply(vec![
                commit("a", 0, 5),
                commit("a", 1, 6),
                commit("b", 0, 7)
            ])
            .await
    );
    assert!(store.apply(vec![commit("a", 0, 8)]).await);
    assert!(
        store
            .apply(vec![Change::ForgetGroup {
                group: "b".to_owned()
            }])
            .await
    );
    assert!(store.apply(store.forget_topic("other")).await);
    store.settle().await;
    let again = open(dir.path());
    assert_eq!(again.groups(), ["a"]);
    let offsets = again.group("a").unwrap();
    assert_eq!(
        offsets.values().map(|c| c.offset).collect::<Vec<_>>(),
        [8, 6]
    );
    assert!(again.apply(again.forget_topic("t")).await);
    assert_eq!(open(dir.path()).groups(), [""; 0]);
}

#[tokio::test]
async fn a_log_cut_anywhere_keeps_every_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for offset in 0..4 {
        assert!(store.apply(vec![commit("g", 0, offset)]).await);
    }
    let path = dir.path().join("groups/offsets.log");
    let whole = fs::read(&path).unwrap();
    let entry = whole.len() / 4;
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let kept = open(dir.path())
            .group("g")
            .map(|offsets| offsets[&("t".into(), 0)].offset);
        assert_eq!(
            kept,
            (len / entry).checked_sub(1).map(|n| n as i64),
            "{len} bytes"
        );
    }
}

#[tokio::test]
async fn overtaken_entries_are_dropped_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let many = (0..GARBAGE_MAX as i64 + 10)
        .map(|offset| commit("g", 0, offset))
        .collect();
    assert!(store.apply(many).await);
    store.settle().await;
    let path = dir.path().join("groups/offsets.log");
    assert!(fs::metadata(&path).unwrap().len() < 200);
    assert!(store.apply(vec![commit("g", 1, 1)]).await);
    assert_eq!(open(dir.path()).group("g").unwrap().len(), 2);
}

#[tokio::test]
async fn positions_are_forgotten_by_how_long_nobody_was_in_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let both = vec![commit("old", 0, 1), commit("alive", 0, 1)];
    assert!(store.apply(both).await);
    let alive = |group: &str| group == "alive";
    assert_eq!(store.keep_house(9, 7, |_| false), []);
    // Long after its last commit, a group whose members only wait is marked, not forgotten.
    let late = 10 * SEEN_EVERY_MS;
    let changes = store.keep_house(late, late - 5, alive);
    let seen = |seen_ms| Change::Seen {
        group: "alive".to_owned(),
        seen_ms,
    };
    let stale = |group: &str, before_ms| Change::ForgetStale {
        group: group.to_owned(),
        before_ms,
    };
    assert_eq!(changes, [seen(late), stale("old", late - 5)]);
    assert!(store.apply(changes).await);
    assert_eq!(store.groups(), ["alive"]);
    assert_eq!(store.keep_house(late + 1, late - 4, alive), []);
    // Its members left: from then on time counts, over a restart too.
    store.settle().await;
    let store = open(dir.path());
    assert_eq!(store.keep_house(late + 9, late, |_| false), []);
    let changes = store.keep_house(late + 9, late + 1, |_| false);
    assert_eq!(changes, [stale("alive", late + 1)]);
}

#[tokio::test]
async fn who_commits_while_it_is_being_forgotten_keeps_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.apply(vec![commit("g", 0, 1)]).await);
    let forget = store.keep_house(100, 50, |_| false);
    let Change::Commit {
        group,
        topic,
        partition,
        mut committed,
    } = commit("g", 0, 2)
    else {
        unreachable!()
    };
    committed.committed_ms = 99;
    let fresh = Change::Commit {
        group,
        topic,
        partition,
        committed,
    };
    assert!(store.apply(vec![fresh]).await);
    assert!(store.apply(forget).await);
    for store in [&store, &open(dir.path())] {
        assert_eq!(store.group("g").unwrap()[&("t".to_owned(), 0)].offset, 2);
    }
}

#[tokio::test]
async fn an_entry_of_any_length_keeps_what_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long = "g".repeat(2 << 20);
    assert!(store.apply(vec![commit("a", 0, 1)]).await);
    assert!(store.apply(vec![commit(&long, 0, 2)]).await);
    assert!(store.apply(vec![commit("b", 0, 3)]).await);
    let again = open(dir.path());
    assert!(again.groups() == ["a", "b", long.as_str()]);
}

#[tokio::test]
async fn damage_costs_the_entry_it_hits_and_none_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for partition in 0..4 {
        assert!(store.apply(vec![commit("g", partition, 5)]).await);
    }
    let path = dir.path().join("groups/offsets.log");
    let whole = fs::read(&path).unwrap();
    let entry = whole.len() / 4;
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x81;
        fs::write(&path, &bad).unwrap();
        for _ in 0..2 {
            let found = open(dir.path()).group("g").unwrap();
            let kept: Vec<_> = found.keys().map(|(_, partition)| *partition).collect();
            let expected: Vec<_> = (0..4).filter(|p| *p as usize != at / entry).collect();
            assert_eq!(kept, expected, "byte {at}");
        }
        if at < 3 * entry {
            assert_eq!(fs::read(path.with_extension("log.damaged")).unwrap(), bad);
        }
    }
}
