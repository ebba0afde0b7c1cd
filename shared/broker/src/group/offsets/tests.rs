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
async fn groups_nobody_commits_to_are_forgotten_unless_alive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(
        store
            .apply(vec![commit("old", 0, 1), commit("alive", 0, 1)])
            .await
    );
    assert_eq!(store.forget_stale(7, |_| false), []);
    let stale = store.forget_stale(8, |group| group == "alive");
    assert_eq!(
        stale,
        [Change::ForgetGroup {
            group: "old".to_owned()
        }]
    );
}
