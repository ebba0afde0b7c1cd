mod checkpoints;

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidelake_core::clock::ManualClock;
use tidelake_core::ids::CountingIds;
use tidelake_core::{TableName, TopicId};
use tidelake_schema::TableSchema;
use tidelake_storage::faults::{FaultStore, Odds};

use super::*;
use crate::TableMode;
use crate::entry::{LastVersions, Topics};

fn memory() -> Store {
    Store::open("memory:///", &tidelake_storage::StoreOptions::default()).unwrap()
}

async fn open(store: &Store) -> Catalog {
    open_with(store, Arc::new(CountingIds::default())).await
}

async fn open_with(store: &Store, ids: SharedIds) -> Catalog {
    Catalog::open(store, Arc::new(ManualClock::at(7)), ids)
        .await
        .unwrap()
}

fn id(name: &str) -> TableId {
    TableId::new(TenantId::default(), TableName::new(name).unwrap())
}

fn entry(name: &str, topic: u8) -> TableEntry {
    let schema = r#"{"type":"struct","fields":[
        {"id":1,"name":"a","required":true,"type":"long"}]}"#;
    TableEntry {
        id: id(name),
        mode: TableMode::Append,
        schema: TableSchema::from_iceberg_json(schema).unwrap(),
        buckets: 4,
        topic: format!("tidelake.default.{name}"),
        topic_id: TopicId([topic; 16]),
        properties: BTreeMap::from([("retention_ms".to_owned(), "1000".to_owned())]),
        created_ms: 7,
        // Some tables are from before there were dead-letter tables.
        dead_letters_topic_id: topic
            .is_multiple_of(2)
            .then_some(TopicId([topic.wrapping_add(1); 16])),
        restores: 0,
    }
}

#[tokio::test]
async fn a_dead_letter_table_comes_and_goes_with_its_table() {
    let store = memory();
    let (catalog, other) = (open(&store).await, open(&store).await);
    catalog.add_table(entry("orders", 4)).await.unwrap();
    let letters = catalog.get(&id("orders__dead_letters")).unwrap();
    assert!(letters.is_dead_letters() && !entry("orders", 4).is_dead_letters());
    assert_eq!(letters.mode, TableMode::Upsert);
    assert_eq!((letters.buckets, letters.created_ms), (1, 7));
    assert_eq!(letters.topic, "tidelake.default.orders.dlq");
    assert_eq!(letters.topic_id, TopicId([5; 16]));
    assert_eq!(letters.location(), "default/orders__dead_letters");
    assert_eq!(letters.dead_letters(), None);
    assert_eq!(
        catalog.drop_table(&letters.id).await.unwrap(),
        DropTable::NotFound
    );
    let found = other.find(&letters.id).await.unwrap();
    assert_eq!(found, Some(letters.clone()));
    assert!(drop_and_purge(&catalog, "orders").await);
    assert_eq!(catalog.list_all(), []);
    assert_eq!(other.find_fresh(&letters.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_table_is_given_other_topics_by_one_who_knows_those_it_has() {
    let store = memory();
    let (catalog, other) = (open(&store).await, open(&store).await);
    catalog.add_table(entry("orders", 4)).await.unwrap();
    let before = catalog.get(&id("orders")).unwrap();
    let topics = |topic: u8| Topics {
        table: TopicId([topic; 16]),
        dead_letters: Some(TopicId([topic + 1; 16])),
    };
    let adopted = other
        .adopt_topic(&before, topics(6))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(adopted.topics(), topics(6));
    assert!(!adopted.is_same_table(&before));
    // Asked for again it is what it is; who still speaks of the old ones changes nothing.
    let again = catalog.adopt_topic(&before, topics(6)).await.unwrap();
    assert_eq!(again.as_ref(), Some(&adopted));
    assert_eq!(catalog.adopt_topic(&before, topics(8)).await.unwrap(), None);
    let catalog = open(&store).await;
    assert_eq!(catalog.get(&id("orders")), Some(adopted));
    let dead_letters = catalog.get(&id("orders__dead_letters")).unwrap();
    assert_eq!(dead_letters.topic_id, TopicId([7; 16]));
    assert!(drop_and_purge(&catalog, "orders").await);
    assert_eq!(catalog.adopt_topic(&before, topics(8)).await.unwrap(), None);
}

#[tokio::test]
async fn an_older_table_is_given_dead_letters_once() {
    let store = memory();
    let catalog = open(&store).await;
    let old = entry("orders", 1);
    catalog.add_table(old.clone()).await.unwrap();
    let letters = id("orders__dead_letters");
    assert_eq!(catalog.get(&letters), None);
    let another = entry("orders", 3);
    let topic = TopicId([9; 16]);
    assert!(!catalog.add_dead_letters(&another, topic).await.unwrap());
    assert!(catalog.add_dead_letters(&old, topic).await.unwrap());
    let later = TopicId([10; 16]);
    assert!(catalog.add_dead_letters(&old, later).await.unwrap());
    for catalog in [catalog, open(&store).await] {
        assert_eq!(catalog.get(&letters).unwrap().topic_id, topic);
        let now = catalog.get(&old.id).unwrap();
        assert_eq!(now.dead_letters_topic_id, Some(topic));
        assert_eq!((now.topic_id, now.buckets), (old.topic_id, old.buckets));
    }
}

async fn drop_and_purge(catalog: &Catalog, name: &str) -> bool {
    match catalog.drop_table(&id(name)).await.unwrap() {
        DropTable::Dropped(held) => catalog.purged(&held).await.unwrap(),
        DropTable::NotFound => false,
    }
}

#[tokio::test]
async fn a_table_is_the_same_after_reopening() {
    let store = memory();
    let catalog = open(&store).await;
    let added = catalog.add_table(entry("orders", 1)).await.unwrap();
    assert_eq!(added, AddTable::Added(Arc::new(entry("orders", 1))));
    let again = open(&store).await;
    assert_eq!(
        again.get(&id("orders")).as_deref(),
        Some(&entry("orders", 1))
    );
    assert_eq!(again.list(&TenantId::default()).len(), 1);
    assert_eq!(again.list(&TenantId::new("other").unwrap()).len(), 0);
    assert_eq!(again.list_all().len(), 1);
}

#[tokio::test]
async fn a_second_catalog_finds_what_the_first_added() {
    let store = memory();
    let ids: SharedIds = Arc::new(CountingIds::default());
    let (one, two) = (
        open_with(&store, ids.clone()).await,
        open_with(&store, ids).await,
    );
    one.add_table(entry("orders", 1)).await.unwrap();
    assert_eq!(two.get(&id("orders")), None);
    assert!(two.find(&id("orders")).await.unwrap().is_some());
    assert!(two.find(&id("none")).await.unwrap().is_none());
    assert!(drop_and_purge(&one, "orders").await);
    assert!(two.find(&id("orders")).await.unwrap().is_some(), "cached");
    assert!(two.find_fresh(&id("orders")).await.unwrap().is_none());
}

#[tokio::test]
async fn of_two_creators_one_wins_and_the_other_sees_the_winners_table() {
    let store = memory();
    let ids: SharedIds = Arc::new(CountingIds::default());
    let (one, two) = (
        open_with(&store, ids.clone()).await,
        open_with(&store, ids).await,
    );
    let (first, second) = tokio::join!(
        one.add_table(entry("orders", 1)),
        two.add_table(entry("orders", 2))
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let winner = match (&first, &second) {
        (AddTable::Added(added), AddTable::Exists(seen))
        | (AddTable::Exists(seen), AddTable::Added(added)) => {
            assert_eq!(added, seen);
            added.clone()
        }
        other => panic!("{other:?}"),
    };
    for catalog in [one, two] {
        assert_eq!(
            catalog.find_fresh(&id("orders")).await.unwrap(),
            Some(winner.clone())
        );
    }
}

#[tokio::test]
async fn a_creator_that_was_overtaken_by_a_drop_must_look_again() {
    let store = memory();
    let ids: SharedIds = Arc::new(CountingIds::default());
    let (slow, fast) = (
        open_with(&store, ids.clone()).await,
        open_with(&store, ids).await,
    );
    let mark = slow.mark(&id("orders"));
    fast.add_table(entry("orders", 1)).await.unwrap();
    let DropTable::Dropped(held) = fast.drop_table(&id("orders")).await.unwrap() else {
        panic!("it exists")
    };
    let late = slow
        .add_table_since(entry("orders", 1), mark)
        .await
        .unwrap();
    assert_eq!(late, AddTable::Moved, "dropped, not purged");
    assert!(fast.purged(&held).await.unwrap());
    let late = slow
        .add_table_since(entry("orders", 1), mark)
        .await
        .unwrap();
    assert_eq!(
        late,
        AddTable::Moved,
        "purged, but the topic was removed with it"
    );
    let fresh = slow.add_table(entry("orders", 2)).await.unwrap();
    assert!(matches!(fresh, AddTable::Added(_)));
}

#[tokio::test]
async fn one_purger_at_a_time() {
    let store = memory();
    let catalog = open(&store).await;
    catalog.add_table(entry("orders", 1)).await.unwrap();
    let DropTable::Dropped(first) = catalog.drop_table(&id("orders")).await.unwrap() else {
        panic!("it exists")
    };
    assert_eq!(
        catalog.drop_table(&id("orders")).await.unwrap(),
        DropTable::NotFound
    );
    let second = catalog.claim_purge(&first).await.unwrap().unwrap();
    assert_eq!(catalog.claim_purge(&first).await.unwrap(), None);
    assert!(!catalog.purged(&first).await.unwrap());
    assert_eq!(catalog.dropped(&id("orders")), Some(second.clone()));
    assert_eq!(
        open(&store).await.dropped(&id("orders")),
        Some(second.clone())
    );
    assert!(catalog.purged(&second).await.unwrap());
    assert_eq!(catalog.dropped(&id("orders")), None);
}

#[tokio::test]
async fn a_kept_table_comes_back_as_it_was_until_it_is_purged() {
    let store = memory();
    let catalog = open(&store).await;
    catalog.add_table(entry("orders", 2)).await.unwrap();
    let dropped = catalog
        .drop_table_keeping(&id("orders"), Some(100))
        .await
        .unwrap();
    let DropTable::Dropped(held) = dropped else {
        panic!("it exists")
    };
    let last = LastVersions {
        table: Some(TableVersion(7)),
        dead_letters: Some(TableVersion(3)),
    };
    let held = catalog.end_logs(&held, last).await.unwrap().unwrap();
    assert_eq!(catalog.get(&id("orders")), None);
    let other = open(&store).await;
    assert_eq!(other.all_dropped(), std::slice::from_ref(&held));
    // Who only looks after it leaves it restorable.
    let held = other.claim_kept(&held).await.unwrap().unwrap();
    assert_eq!(held.kept_until_ms, Some(100));
    let restored = other.restore_table(&held).await.unwrap();
    let again = TableEntry {
        restores: 1,
        ..entry("orders", 2)
    };
    assert_eq!(restored.as_deref(), Some(&again));
    catalog.refresh().await.unwrap();
    assert!(catalog.get(&id("orders__dead_letters")).is_some());
    assert_eq!(catalog.restore_table(&held).await.unwrap(), None);

    let dropped = catalog
        .drop_table_keeping(&id("orders"), Some(200))
        .await
        .unwrap();
    let DropTable::Dropped(held) = dropped else {
        panic!("it exists")
    };
    assert_eq!(
        catalog
            .claim_kept(&held)
            .await
            .unwrap()
            .map(|held| held.last),
        Some(None)
    );
    let held = catalog.dropped(&id("orders")).unwrap();
    let held = catalog.claim_purge(&held).await.unwrap().unwrap();
    assert_eq!(held.kept_until_ms, None, "from here on it is being removed");
    assert_eq!(catalog.restore_table(&held).await.unwrap(), None);
    assert!(catalog.purged(&held).await.unwrap());
    // Of its logs that much is known for ever.
    for catalog in [catalog, open(&store).await] {
        assert_eq!(catalog.last_version(&id("orders")), Some(TableVersion(7)));
        assert_eq!(
            catalog.last_version(&id("orders__dead_letters")),
            Some(TableVersion(3))
        );
        assert_eq!(catalog.last_version(&id("customers")), None);
    }
}

#[tokio::test]
async fn a_damaged_entry_stops_the_catalog_and_names_it() {
    for (bytes, reason) in [
        (&b"{}"[..], "missing field `format`"),
        (
            &br#"{"format":9,"id":"00000000-0000-0000-0000-000000000000"}"#[..],
            "newer",
        ),
    ] {
        let store = memory();
        let catalog = open(&store).await;
        catalog.add_table(entry("orders", 1)).await.unwrap();
        let path = format!("{PREFIX}/{:020}.json", 1);
        store.put(&path, Bytes::from_static(bytes)).await.unwrap();
        let error = catalog.refresh().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.to_string();
        assert!(text.contains("entry 1") && text.contains(reason), "{text}");
        assert!(catalog.get(&id("orders")).is_some(), "what was read stays");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize, u8),
    Drop(usize),
    Refresh,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3usize, any::<u8>()).prop_map(|(table, topic)| Step::Add(table, topic)),
        (0..3usize).prop_map(Step::Drop),
        Just(Step::Refresh),
    ];
    prop::collection::vec(step, 0..12)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a step was told; `Ok` where it changed the name.
async fn run(catalog: Catalog, steps: Vec<Step>) -> Vec<(usize, Option<u8>)> {
    let mut done = Vec::new();
    for step in steps {
        match step {
            Step::Add(table, topic) => {
                let added = catalog.add_table(entry(NAMES[table], topic)).await.unwrap();
                if matches!(added, AddTable::Added(_)) {
                    done.push((table, Some(topic)));
                }
            }
            Step::Drop(table) => {
                if drop_and_purge(&catalog, NAMES[table]).await {
                    done.push((table, None));
                }
            }
            Step::Refresh => catalog.refresh().await.unwrap(),
        }
        tokio::task::yield_now().await;
    }
    done
}

/// A store that loses answers, drawn from `seed`.
fn lossy(seed: u64) -> Store {
    let store = FaultStore::new(memory().object_store());
    store.random(
        seed,
        Odds {
            lose_answer: 100,
            ..Odds::default()
        },
    );
    Store::new(Arc::new(store), "memory:///")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Two catalogs race over one store that loses answers: what each was told happened, and in
    /// the log's order everything is as in a plain map.
    #[test]
    fn two_racing_catalogs_agree_with_a_map(left in steps(), right in steps(), seed: u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = lossy(seed);
            let ids: SharedIds = Arc::new(CountingIds::default());
            let (one, two) = (open_with(&store, ids.clone()).await, open_with(&store, ids).await);
            let left = tokio::spawn(run(one.clone(), left));
            let right = tokio::spawn(run(two.clone(), right));
            let (left, right) = (left.await.unwrap(), right.await.unwrap());
            let (model, mut told) = replay(&store).await;
            let mut heard = [left, right].concat();
            heard.sort_unstable();
            told.sort_unstable();
            assert_eq!(heard, told);
            let expected: Vec<_> = model.into_values().map(Arc::new).collect();
            for catalog in [one, two, open(&store).await] {
                catalog.refresh().await.unwrap();
                assert_eq!(catalog.list_all(), expected);
                let state = catalog.state();
                assert_eq!(crate::checkpoint::round_trip(&state), *state);
            }
        });
    }
}

/// The log by a plain map, and what its writers must have been told.
async fn replay(store: &Store) -> (BTreeMap<TableId, TableEntry>, Vec<(usize, Option<u8>)>) {
    let place = |id: &TableId| {
        NAMES
            .iter()
            .position(|name| *name == id.table.as_str())
            .unwrap()
    };
    let mut model = BTreeMap::new();
    let mut told = Vec::new();
    for (_, bytes) in NumberedLog::new(store.clone(), PREFIX)
        .read_from(0)
        .await
        .unwrap()
    {
        match Record::parse(&bytes).unwrap().event {
            Event::CreateTable { table } => {
                told.push((place(&table.id), Some(table.topic_id.0[0])));
                if let Some(letters) = table.dead_letters() {
                    assert!(model.insert(letters.id.clone(), letters).is_none());
                }
                assert!(model.insert(table.id.clone(), *table).is_none());
            }
            Event::DropTable { table, .. } => {
                told.push((place(&table), None));
                model.remove(&table.dead_letters());
                assert!(model.remove(&table).is_some());
            }
            Event::AddDeadLetters { .. }
            | Event::AdoptTopic { .. }
            | Event::EndLogs { .. }
            | Event::RestoreTable { .. }
            | Event::ClaimPurge { .. }
            | Event::Purged { .. } => {}
        }
    }
    (model, told)
}
