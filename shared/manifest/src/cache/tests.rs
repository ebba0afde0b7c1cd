//! What is asked of the store, what is held, and what goes.

use std::sync::atomic::{AtomicUsize, Ordering};

use tidelake_storage::Operation;
use tidelake_storage::faults::{Fault, Gate, Rule};

use super::*;
use crate::testing::*;

const ROOMY: u64 = 1 << 30;
const LIFE: TopicId = TopicId([7; 16]);

fn cached(cache: &SnapshotCache, fixture: &Fixture) -> CachedTable {
    cache.table("t", LIFE, || fixture.table.clone())
}

async fn latest(table: &CachedTable) -> Seen {
    table.get(Freshness::Latest).await.unwrap()
}

#[tokio::test]
async fn what_one_service_has_learned_serves_the_others() {
    let (fixture, created) = Fixture::created(true).await;
    let cache = SnapshotCache::new(ROOMY);
    let (gateway, query) = (cached(&cache, &fixture), cached(&cache, &fixture));
    let seen = latest(&gateway).await;
    same_table(&seen.snapshot, &created);
    assert!(Arc::ptr_eq(&query.known().unwrap(), &seen.snapshot));

    let before = fixture.table.store().requests();
    let hour = Freshness::NoOlderThan(Duration::from_secs(3600));
    let again = query.get(hour).await.unwrap();
    assert!(Arc::ptr_eq(&again.snapshot, &seen.snapshot));
    let known = query
        .get(Freshness::AtLeast(TableVersion(0)))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&known.snapshot, &seen.snapshot));
    assert_eq!(fixture.table.store().requests().since(&before).total(), 0);

    let next = committed(fixture.table.commit(&created, flush("a", 3, vec![])).await);
    let before = fixture.table.store().requests();
    let fresh = latest(&query).await;
    same_table(&fresh.snapshot, &next);
    let since = fixture.table.store().requests().since(&before);
    assert_eq!(since.of(Operation::List), 0, "the new commit alone is read");
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.refreshes, stats.hits), (1, 1, 2));
    assert_eq!((stats.tables, stats.bytes), (1, next.held_bytes()));
}

#[tokio::test]
async fn a_version_that_is_waited_for_is_looked_for_and_not_invented() {
    let (fixture, created) = Fixture::created(true).await;
    let table = cached(&SnapshotCache::new(ROOMY), &fixture);
    latest(&table).await;
    let wanted = Freshness::AtLeast(TableVersion(1));
    let error = table.get(wanted).await.unwrap_err();
    assert!(
        matches!(error, ManifestError::VersionAhead { .. }),
        "{error}"
    );
    committed(fixture.table.commit(&created, flush("a", 3, vec![])).await);
    let seen = table.get(wanted).await.unwrap();
    assert_eq!(seen.snapshot.version(), TableVersion(1));
}

#[tokio::test]
async fn those_who_wait_for_one_look_share_it_and_later_ones_look_again() {
    let (fixture, created) = Fixture::created(true).await;
    let cache = SnapshotCache::new(ROOMY);
    let table = cached(&cache, &fixture);
    let gate = Gate::new();
    fixture
        .faults
        .inject(Rule::new(Fault::HoldBefore(gate.clone())).on(Operation::List));
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let table = table.clone();
            tokio::spawn(async move { latest(&table).await })
        })
        .collect();
    gate.reached().await;
    fixture.faults.heal();
    gate.open();
    for waits in waiting {
        same_table(&waits.await.unwrap().snapshot, &created);
    }
    // Those who came after the first look had begun may need one more, and share that.
    let stats = cache.stats();
    assert_eq!(stats.loads, 1);
    assert!(stats.refreshes <= 1, "{stats:?}");
    latest(&table).await;
    assert_eq!(cache.stats().refreshes, stats.refreshes + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_latest_covers_what_was_committed_before_it_was_asked_for() {
    let (fixture, created) = Fixture::created(true).await;
    let table = cached(&SnapshotCache::new(ROOMY), &fixture);
    let done = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (table, done) = (table.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while done.load(Ordering::SeqCst) < 100 {
                    let before = done.load(Ordering::SeqCst) as u64;
                    let seen = latest(&table).await;
                    assert!(seen.snapshot.version().0 >= before);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut base = created;
    for i in 0..100 {
        base = committed(
            fixture
                .table
                .commit(&base, flush(&format!("{i}"), 1, vec![]))
                .await,
        );
        if i % 3 == 0 {
            table.offer(&base);
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
    for reader in readers {
        reader.await.unwrap();
    }
    same_table(&latest(&table).await.snapshot, &base);
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_once_for_all_who_wait() {
    let (fixture, _) = Fixture::created(true).await;
    let cache = SnapshotCache::new(ROOMY);
    let table = cached(&cache, &fixture);
    latest(&table).await;
    let gate = Gate::new();
    fixture
        .faults
        .inject(Rule::new(Fault::HoldBefore(gate.clone())).times(1));
    let turn = tokio::spawn({
        let table = table.clone();
        async move { latest(&table).await }
    });
    gate.reached().await;
    // They begin to wait while the first look is under way, so they share the second.
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let table = table.clone();
            tokio::spawn(async move { table.get(Freshness::Latest).await })
        })
        .collect();
    tokio::task::yield_now().await;
    fixture.faults.inject(Rule::new(Fault::FailBefore));
    let before = cache.stats().refreshes;
    gate.open();
    turn.await.unwrap();
    for waits in waiting {
        let error = waits.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    assert_eq!(cache.stats().refreshes - before, 1);
    fixture.faults.heal();
    latest(&table).await;
}

#[tokio::test]
async fn what_was_committed_here_is_known_but_still_looked_after() {
    let (fixture, created) = Fixture::created(true).await;
    let table = cached(&SnapshotCache::new(ROOMY), &fixture);
    table.offer(&created);
    assert!(Arc::ptr_eq(&table.known().unwrap(), &created));
    let next = committed(fixture.table.commit(&created, flush("a", 3, vec![])).await);
    table.offer(&next);
    table.offer(&created);
    assert!(Arc::ptr_eq(&table.known().unwrap(), &next), "never back");
    // Nobody has said when it was the latest.
    let theirs = committed(fixture.table.commit(&next, flush("b", 3, vec![])).await);
    let hour = Freshness::NoOlderThan(Duration::from_secs(3600));
    same_table(&table.get(hour).await.unwrap().snapshot, &theirs);
}

#[tokio::test]
async fn incarnations_of_a_name_share_nothing() {
    let (fixture, created) = Fixture::created(true).await;
    let cache = SnapshotCache::new(ROOMY);
    let first = cached(&cache, &fixture);
    first.offer(&created);
    let second = cache.table("t", TopicId([8; 16]), || fixture.table.clone());
    assert!(second.known().is_none());
    first.forget();
    assert!(first.known().is_none());
    assert_eq!(cache.stats().bytes, 0);
}

#[tokio::test]
async fn an_hour_of_silence_costs_two_requests_and_not_the_whole_state() {
    let (fixture, versions) = checkpointed().await;
    let table = cached(&SnapshotCache::new(ROOMY), &fixture);
    latest(&table).await;
    for _ in 0..3 {
        fixture.clock.advance(Duration::from_secs(2 * 3600));
        let before = fixture.table.store().requests();
        let seen = latest(&table).await;
        same_table(&seen.snapshot, versions.last().unwrap());
        let since = fixture.table.store().requests().since(&before);
        assert!(since.total() <= 2, "{:?}", since.by_name());
        let before = fixture.table.store().requests();
        latest(&table).await;
        assert_eq!(fixture.table.store().requests().since(&before).total(), 1);
    }
}

/// New tables, read once.
async fn tables(cache: &SnapshotCache, names: std::ops::Range<u32>) -> Vec<CachedTable> {
    let mut all = Vec::new();
    for name in names {
        let (fixture, _) = Fixture::created(true).await;
        let table = cache.table(&format!("{name}"), LIFE, || fixture.table.clone());
        latest(&table).await;
        all.push(table);
    }
    all
}

#[tokio::test]
async fn what_nobody_uses_goes_by_last_use_and_what_somebody_uses_stays() {
    let (fixture, created) = Fixture::created(true).await;
    drop(fixture);
    let one = created.held_bytes();
    drop(created);
    let cache = SnapshotCache::new(one * 8 + one / 2);
    let all = tables(&cache, 0..8).await;
    assert_eq!(cache.stats().tables, 8);
    let used = all[0].known().unwrap();
    // Used just now, and held by nobody.
    latest(&all[1]).await;
    let more = tables(&cache, 8..11).await;
    let stats = cache.stats();
    assert!(stats.bytes <= one * 8 + one / 2, "{stats:?}");
    assert!(stats.evictions > 0);
    assert!(Arc::ptr_eq(&all[0].known().unwrap(), &used));
    assert!(all[1].known().is_some());
    assert!(all[2].known().is_none(), "longest unused");
    assert!(more.iter().all(|table| table.known().is_some()));
    // What had to go is loaded anew, and is the same.
    assert_eq!(latest(&all[2]).await.snapshot.version(), TableVersion(0));
}

#[tokio::test]
async fn what_is_in_use_counts_even_above_the_bound() {
    let cache = SnapshotCache::new(1);
    let all = tables(&cache, 20..23).await;
    assert_eq!(
        cache.stats().tables,
        1,
        "the last one was in use while it came"
    );
    let mut pinned = Vec::new();
    for table in &all {
        pinned.push(latest(table).await.snapshot);
    }
    let stats = cache.stats();
    assert_eq!((stats.tables, stats.bytes), (3, 3 * pinned[0].held_bytes()));
    drop(pinned);
    latest(&all[0]).await;
    assert_eq!(cache.stats().tables, 1, "nobody uses the others any more");
}

#[tokio::test]
async fn the_sum_of_bytes_is_that_of_a_snapshot_read_anew() {
    let (fixture, versions) = checkpointed().await;
    let newest = versions.last().unwrap();
    let loaded = fixture.table.snapshot().await.unwrap();
    assert_eq!(loaded.held_bytes(), newest.held_bytes());
    let texts: usize = newest.files().map(|file| file.path().len()).sum();
    assert!(newest.held_bytes() > texts as u64);
}

#[tokio::test]
async fn past_versions_are_held_a_few_and_once() {
    let (fixture, versions) = checkpointed().await;
    let cache = SnapshotCache::new(ROOMY);
    let table = cached(&cache, &fixture);
    let newest = latest(&table).await.snapshot;
    let same = table.at(newest.version()).await.unwrap();
    assert!(Arc::ptr_eq(&same, &newest), "the newest is one of them");
    for version in 0..8 {
        let read = table.at(TableVersion(version)).await.unwrap();
        same_table(&read, &versions[version as usize]);
    }
    let loads = cache.stats().loads;
    table.at(TableVersion(7)).await.unwrap();
    assert_eq!(cache.stats().loads, loads);
    table.at(TableVersion(0)).await.unwrap();
    assert_eq!(cache.stats().loads, loads + 1, "the oldest had to go");
    let gone = table.at(TableVersion(99)).await.unwrap_err();
    assert!(gone.is_no_such_version(), "{gone}");
}

struct Counted {
    snapshot: Arc<Snapshot>,
    built_on: Option<TableVersion>,
}

impl Derived for Counted {
    fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    fn held_bytes(&self) -> u64 {
        1000
    }
}

async fn derived(table: &CachedTable, from: &Arc<Snapshot>, made: &AtomicUsize) -> Arc<Counted> {
    let make = |before: Option<&Counted>| {
        made.fetch_add(1, Ordering::SeqCst);
        Ok::<_, ManifestError>(Counted {
            snapshot: Arc::clone(from),
            built_on: before.map(|before| before.snapshot.version()),
        })
    };
    table.derive(from, make).await.unwrap()
}

#[tokio::test]
async fn what_is_worked_out_from_a_version_lives_and_goes_with_it() {
    let (fixture, created) = Fixture::created(true).await;
    let one = created.held_bytes();
    let cache = SnapshotCache::new(2 * one + 3000);
    let table = cached(&cache, &fixture);
    let made = AtomicUsize::new(0);
    let first = latest(&table).await.snapshot;
    let (a, b) = tokio::join!(
        derived(&table, &first, &made),
        derived(&table, &first, &made)
    );
    assert!(Arc::ptr_eq(&a, &b), "made once");
    assert_eq!(made.load(Ordering::SeqCst), 1);
    assert_eq!(cache.stats().bytes, one + 1000);

    committed(fixture.table.commit(&created, flush("a", 3, vec![])).await);
    let second = latest(&table).await.snapshot;
    let next = derived(&table, &second, &made).await;
    assert_eq!(
        next.built_on,
        Some(TableVersion(0)),
        "nothing is worked out twice"
    );
    // The first version is not held any more: what is made of it is the caller's alone.
    assert_eq!(derived(&table, &first, &made).await.built_on, None);
    assert_eq!(cache.stats().bytes, second.held_bytes() + 1000);

    drop((a, b, next, first, second, created));
    let weak = Arc::downgrade(&table.known().unwrap());
    tables(&cache, 20..23).await;
    assert!(table.known().is_none(), "nobody uses it");
    assert!(weak.upgrade().is_none(), "memory is given back");
}

#[tokio::test]
async fn a_thousand_tables_that_nobody_knows_leave_nothing_behind() {
    let cache = SnapshotCache::new(ROOMY);
    let (fixture, _) = Fixture::created(true).await;
    for i in 0..5000 {
        cache.table(&format!("{i}"), LIFE, || fixture.table.clone());
    }
    assert!(cache.0.slot_count() <= 2048, "{}", cache.0.slot_count());
}

#[tokio::test]
async fn a_version_in_use_outlives_its_log_and_a_past_one_that_is_gone_is_said_to_be() {
    let (fixture, versions) = checkpointed().await;
    let table = cached(&SnapshotCache::new(ROOMY), &fixture);
    let newest = versions.last().unwrap();
    let held = table.at(TableVersion(5)).await.unwrap();
    latest(&table).await;
    // Another engine keeps the log for less than a day.
    fixture.clock.advance(DAY);
    fixture.delete_log_below(10).await;
    same_table(&held, &versions[5]);
    same_table(&table.at(TableVersion(5)).await.unwrap(), &versions[5]);
    let gone = table.at(TableVersion(6)).await.unwrap_err();
    assert!(gone.is_no_such_version(), "{gone}");
    same_table(&latest(&table).await.snapshot, newest);
}

#[tokio::test]
async fn a_log_that_was_put_back_is_followed_back() {
    let (fixture, created) = Fixture::created(true).await;
    let table = cached(&SnapshotCache::new(ROOMY), &fixture);
    let next = committed(fixture.table.commit(&created, flush("a", 3, vec![])).await);
    table.offer(&next);
    latest(&table).await;
    // A backup without the last commit is restored below our feet, long after.
    let name = format!("_delta_log/{:020}.json", 1);
    fixture.table.store().delete(&name).await.unwrap();
    fixture.clock.advance(DAY);
    assert_eq!(latest(&table).await.snapshot.version(), TableVersion(0));
}
