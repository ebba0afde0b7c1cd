use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn admission(streams_max: usize, waiting_max: usize, waiting_timeout_ms: u64) -> Admission {
    Admission::new(&IngestSettings {
        streams_max,
        waiting_max,
        waiting_timeout_ms,
        ..IngestSettings::default()
    })
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn waiting(admission: &Admission) -> usize {
    admission.streams.state.lock().waiting.len()
}

async fn until_waiting(admission: &Admission, wanted: usize) {
    while waiting(admission) != wanted {
        tokio::task::yield_now().await;
    }
}

fn ask(
    admission: &Arc<Admission>,
    of: &str,
    places: usize,
) -> tokio::task::JoinHandle<Result<(Place, usize), Overloaded>> {
    let (admission, of) = (Arc::clone(admission), tenant(of));
    tokio::spawn(async move { admission.stream(&of, places).await })
}

#[tokio::test]
async fn a_request_waits_for_its_place_and_gets_it() {
    let admission = Arc::new(admission(1, 1, 60_000));
    let a = tenant("a");
    let first = admission.stream(&a, 1).await.unwrap();
    let second = ask(&admission, "a", 1);
    until_waiting(&admission, 1).await;
    assert_eq!(
        admission.stream(&a, 1).await.map(drop),
        Err(Overloaded),
        "one may wait"
    );
    assert!(
        admission.small(&a).await.is_ok(),
        "small bodies have places of their own"
    );
    drop(first);
    assert!(second.await.unwrap().is_ok());
    assert_eq!(waiting(&admission), 0);
}

#[tokio::test]
async fn waiting_is_bounded_in_time() {
    let admission = admission(1, 10, 1);
    let a = tenant("a");
    let _first = admission.stream(&a, 1).await.unwrap();
    assert_eq!(admission.stream(&a, 1).await.map(drop), Err(Overloaded));
    assert_eq!(waiting(&admission), 0);
}

#[tokio::test]
async fn one_tenant_can_neither_hold_all_places_nor_all_of_the_queue() {
    let admission = Arc::new(admission(16, 8, 60_000));
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(admission.stream(&tenant("greedy"), 1).await.unwrap());
    }
    let queued: Vec<_> = (0..6).map(|_| ask(&admission, "greedy", 1)).collect();
    until_waiting(&admission, 6).await;
    assert_eq!(
        admission.stream(&tenant("greedy"), 1).await.map(drop),
        Err(Overloaded)
    );
    // Others get what is left, and come before those of the tenant that has most.
    for _ in 0..4 {
        held.push(admission.stream(&tenant("other"), 1).await.unwrap());
    }
    let waits = ask(&admission, "third", 1);
    until_waiting(&admission, 7).await;
    held.remove(0);
    let _third = waits.await.unwrap().unwrap();
    assert_eq!(waiting(&admission), 6);
    queued.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn one_that_wants_several_places_is_not_passed_over() {
    let admission = Arc::new(admission(4, 8, 60_000));
    let mut held = Vec::new();
    for name in ["a", "b", "c", "d"] {
        held.push(admission.stream(&tenant(name), 1).await.unwrap());
    }
    let large = ask(&admission, "e", 3);
    until_waiting(&admission, 1).await;
    let small = ask(&admission, "f", 1);
    until_waiting(&admission, 2).await;
    held.pop();
    assert_eq!(waiting(&admission), 2, "kept for the one that came first");
    held.pop();
    held.pop();
    let large = large.await.unwrap().unwrap();
    assert_eq!(large.1, 3);
    drop(large);
    assert!(small.await.unwrap().is_ok());
}

proptest! {
    /// Random orders of asking, giving back and giving up.
    #[test]
    fn places_are_never_lost_nor_given_twice(
        steps in prop::collection::vec((0..4_usize, 0..3_usize, 1..4_usize), 1..200),
    ) {
        let places = Arc::new(Places::new(6, 5, 50));
        let names = ["a", "b", "c"].map(tenant);
        let mut held = VecDeque::new();
        let mut queue = VecDeque::new();
        for (step, who, wanted) in steps {
            match step {
                0 | 1 => match places.ask(&names[who], wanted.min(places.tenant_max)) {
                    Ok(Asked::Granted(place)) => held.push_back(place),
                    Ok(Asked::Queued(granted)) => queue.push_back(granted),
                    Err(Overloaded) => {}
                },
                2 => drop(held.pop_front()),
                _ => {
                    if let Some(given_up) = queue.pop_front() {
                        places.leave(given_up.number);
                    }
                }
            }
            for _ in 0..queue.len() {
                let Some(mut granted) = queue.pop_front() else { break };
                match granted.place.try_recv() {
                    Ok(place) => held.push_back(place),
                    Err(_) => queue.push_back(granted),
                }
            }
            let state = places.state.lock();
            let in_use: usize = held.iter().map(|place| place.held).sum();
            prop_assert_eq!(state.free + in_use, 6);
            prop_assert_eq!(state.held.values().sum::<usize>(), in_use);
            prop_assert!(state.held.values().all(|held| *held <= 3));
            prop_assert_eq!(state.waiting.len(), queue.len());
            // Nobody waits for what is there.
            let next = state.next(places.tenant_max);
            prop_assert!(next.is_none_or(|next| state.waiting[next].wanted > state.free));
        }
        drop((held, queue));
        prop_assert_eq!(places.state.lock().free, 6);
    }
}
