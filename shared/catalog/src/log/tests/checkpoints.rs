//! Catalogs that are opened by a checkpoint.

use tidelake_storage::Operation;
use tidelake_storage::faults::{Fault, Rule};

use super::*;

const FOLDER: &str = "_tidelake/catalog_checkpoints";

/// Makes so many tables, one event each.
async fn make(catalog: &Catalog, tables: std::ops::Range<u32>) {
    for table in tables {
        let name = format!("t{table:05}");
        let added = catalog.add_table(entry(&name, 4)).await.unwrap();
        assert!(matches!(added, AddTable::Added(_)), "{added:?}");
    }
}

async fn names(store: &Store) -> Vec<String> {
    let found = store.list(FOLDER).await.unwrap();
    let mut names: Vec<_> = found
        .iter()
        .filter_map(|meta| store.relative(&meta.location))
        .collect();
    names.sort_unstable();
    names
}

/// Those that there are once the one that is being written is there.
async fn settled(store: &Store, last: &str) -> Vec<String> {
    for _ in 0..10_000 {
        let names = names(store).await;
        if names.last().is_some_and(|name| name.contains(last)) {
            return names;
        }
        tokio::task::yield_now().await;
    }
    panic!("no checkpoint {last}: {:?}", names(store).await);
}

/// A store with so many events and the checkpoint of the hundredth.
async fn with_checkpoint(events: u32) -> (Store, Catalog) {
    let store = memory();
    let catalog = open(&store).await;
    make(&catalog, 0..100).await;
    settled(&store, "0100.json.zst").await;
    make(&catalog, 100..events).await;
    (store, catalog)
}

#[tokio::test]
async fn opening_reads_what_came_after_the_last_checkpoint() {
    let (store, catalog) = with_checkpoint(120).await;
    drop_and_purge(&catalog, "t00003").await;
    let before = store.requests();
    let opened = open(&store).await;
    let requests = store.requests().since(&before);
    assert_eq!(*opened.state(), *catalog.state());
    // 20 tables, and a drop with its end; and the event that the checkpoint names.
    assert!(requests.of(Operation::Get) < 35, "{requests:?}");
    make(&opened, 120..125).await;
    catalog.refresh().await.unwrap();
    assert_eq!(*opened.state(), *catalog.state());
}

#[tokio::test]
async fn two_checkpoints_are_kept_and_an_old_installation_gets_its_first_when_it_is_opened() {
    let (store, catalog) = with_checkpoint(200).await;
    settled(&store, "0200.json.zst").await;
    make(&catalog, 200..300).await;
    let names = settled(&store, "0300.json.zst").await;
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        store.delete(name).await.unwrap();
    }
    let opened = open(&store).await;
    assert_eq!(*opened.state(), *catalog.state());
    settled(&store, "0300.json.zst").await;
}

#[tokio::test]
async fn a_checkpoint_that_can_not_be_used_is_passed_over() {
    let (store, catalog) = with_checkpoint(110).await;
    let name = names(&store).await.pop().unwrap();
    let whole = store.get(&name).await.unwrap();
    let cut = whole.slice(..whole.len() / 2);
    let newer = zstd::encode_all(&br#"{"format":2,"next":100}"#[..], 1).unwrap();
    let mut flipped = whole.to_vec();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [cut, newer.into(), flipped.into(), Bytes::new()] {
        store.put(&name, bytes).await.unwrap();
        assert_eq!(*open(&store).await.state(), *catalog.state());
    }
    // A checkpoint that is older, and whole, serves.
    store.put(&name, whole).await.unwrap();
    let damaged = name.replace("0100", "0110");
    store.put(&damaged, Bytes::from_static(b"x")).await.unwrap();
    let before = store.requests();
    assert_eq!(*open(&store).await.state(), *catalog.state());
    assert!(store.requests().since(&before).of(Operation::Get) < 20);
}

#[tokio::test]
async fn a_checkpoint_of_another_catalogs_log_is_passed_over() {
    let (store, _) = with_checkpoint(100).await;
    let name = names(&store).await.pop().unwrap();
    let other = memory();
    let restored = open_with(&other, tidelake_core::ids::random()).await;
    make(&restored, 500..600).await;
    settled(&other, "0100.json.zst").await;
    other
        .put(&name, store.get(&name).await.unwrap())
        .await
        .unwrap();
    assert_eq!(*open(&other).await.state(), *restored.state());
}

#[tokio::test]
async fn a_store_that_refuses_checkpoints_refuses_no_table() {
    let faults = FaultStore::new(memory().object_store());
    let store = Store::with_policy(
        Arc::new(faults.clone()),
        "memory:///",
        tidelake_storage::RetryPolicy::QUICK,
    );
    faults.inject(
        Rule::new(Fault::FailBefore)
            .on(Operation::Put)
            .at("catalog_checkpoints"),
    );
    let catalog = open(&store).await;
    make(&catalog, 0..130).await;
    assert_eq!(catalog.list_all().len(), 260);
    assert_eq!(*open(&store).await.state(), *catalog.state());
}
