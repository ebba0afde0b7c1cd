use object_store::memory::InMemory;

use super::*;
use crate::{PutOnce, RetryPolicy, StorageError, Store};

fn faulty() -> (FaultStore, Store) {
    let faults = FaultStore::new(Arc::new(InMemory::new()));
    let store = Store::with_policy(Arc::new(faults.clone()), "memory://", RetryPolicy::QUICK);
    (faults, store)
}

async fn put_once(store: &Store, body: &'static str) -> Result<PutOnce, StorageError> {
    store
        .put_once("0.json", body.into(), |found| found == body.as_bytes())
        .await
}

#[tokio::test]
async fn a_lost_answer_is_recognised_as_our_own_win() {
    let (faults, store) = faulty();
    faults.inject(Rule::new(Fault::LoseAnswer).on(Operation::Create).times(1));
    assert_eq!(put_once(&store, "a").await.unwrap(), PutOnce::Created);
    assert_eq!(
        put_once(&store, "b").await.unwrap(),
        PutOnce::Exists("a".into())
    );
}

#[tokio::test]
async fn a_request_that_never_arrived_is_repeated() {
    let (faults, store) = faulty();
    faults.inject(Rule::new(Fault::FailBefore).on(Operation::Create).times(2));
    assert_eq!(put_once(&store, "a").await.unwrap(), PutOnce::Created);
    assert_eq!(store.get("0.json").await.unwrap(), "a");
}

#[tokio::test]
async fn a_silent_store_leaves_the_outcome_open_until_it_answers() {
    let (faults, store) = faulty();
    faults.inject(Rule::new(Fault::LoseAnswer).on(Operation::Create));
    faults.inject(Rule::new(Fault::FailBefore).on(Operation::Get));
    let error = put_once(&store, "a").await.unwrap_err();
    assert!(
        matches!(error, StorageError::OutcomeUnknown { .. }),
        "{error:?}"
    );
    faults.heal();
    assert_eq!(put_once(&store, "a").await.unwrap(), PutOnce::Created);
}

#[tokio::test]
async fn a_full_or_read_only_disk_is_told_at_once_and_nothing_is_written() {
    let (faults, store) = faulty();
    faults.inject(Rule::new(Fault::Full).times(1));
    assert!(matches!(
        put_once(&store, "a").await,
        Err(StorageError::Full { .. })
    ));
    faults.inject(Rule::new(Fault::ReadOnly).times(1));
    let put = store.put("x", "y".into()).await;
    assert!(matches!(put, Err(StorageError::ReadOnly { .. })));
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn reads_get_through_passing_trouble_and_every_attempt_counts() {
    let (faults, store) = faulty();
    store.put("x", "y".into()).await.unwrap();
    faults.inject(Rule::new(Fault::FailBefore).at("x").times(3));
    assert_eq!(store.get("x").await.unwrap(), "y");
    assert_eq!(store.requests().of(Operation::Get), 4);
    faults.inject(Rule::new(Fault::FailBefore).on(Operation::List).times(1));
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_gate_forces_who_comes_first() {
    let (faults, store) = faulty();
    let gate = Gate::new();
    let hold = Fault::HoldBefore(gate.clone());
    faults.inject(Rule::new(hold).on(Operation::Create).times(1));
    let slow = tokio::spawn({
        let store = store.clone();
        async move { put_once(&store, "slow").await }
    });
    gate.reached().await;
    assert_eq!(put_once(&store, "fast").await.unwrap(), PutOnce::Created);
    gate.open();
    assert_eq!(slow.await.unwrap().unwrap(), PutOnce::Exists("fast".into()));
}

#[tokio::test]
async fn random_faults_repeat_with_their_seed() {
    let run = |seed| async move {
        let (faults, store) = faulty();
        faults.random(
            seed,
            Odds {
                fail_before: 300,
                lose_answer: 200,
            },
        );
        for i in 0..50 {
            store.put(&format!("{i}"), "x".into()).await.ok();
        }
        store.requests()
    };
    assert_eq!(run(1).await, run(1).await);
    assert!(run(1).await.total() > 50);
}
