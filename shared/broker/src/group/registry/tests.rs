//! What one client takes of the registry leaves room for others.

use kafka_protocol::error::ResponseError as E;

use super::super::member::Protocol;
use super::*;

fn join(client: &str, requires_member_id: bool, metadata: usize) -> Join {
    Join {
        member_id: String::new(),
        instance_id: None,
        new_member_id: format!("{client}-1"),
        client_id: client.to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![Protocol {
            name: "range".to_owned(),
            metadata: vec![0; metadata].into(),
        }],
        requires_member_id,
        can_skip_assignment: true,
    }
}

fn registry(groups_max: usize, kept_bytes_max: usize) -> Registry {
    let limits = Limits {
        groups_max,
        kept_bytes_max,
    };
    Registry::new(Duration::ZERO, limits)
}

fn enter(registry: &Registry, group: &str, join: Join) -> Result<(), E> {
    let (waiter, _answer) = oneshot::channel();
    registry.enter(group, join, waiter)
}

/// Brings groups up until no more are taken.
fn fill(registry: &Registry, client: &str, metadata: usize) -> (usize, E) {
    for n in 0.. {
        let group = format!("{client}'s {n}");
        if let Err(error) = enter(registry, &group, join(client, false, metadata)) {
            return (n, error);
        }
    }
    unreachable!()
}

#[test]
fn one_client_that_brings_up_groups_without_end_keeps_nobody_out() {
    let registry = registry(100, 1 << 30);
    assert_eq!(fill(&registry, "greedy", 10), (51, E::GroupMaxSizeReached));
    enter(&registry, "another's", join("another", false, 10)).unwrap();
    enter(&registry, "greedy's 0", join("greedy", false, 10)).unwrap();
    assert_eq!(registry.in_use()[0].used, 52);
}

#[test]
fn what_one_client_subscribes_to_keeps_nobody_out() {
    let registry = registry(100_000, 100_000);
    let (taken, error) = fill(&registry, "greedy", 995);
    assert_eq!((taken, error), (51, E::GroupMaxSizeReached));
    enter(&registry, "another's", join("another", false, 995)).unwrap();
    assert_eq!(registry.in_use()[1].used, 52_000);
}

#[test]
fn groups_that_nobody_joined_make_room_for_those_that_somebody_joins() {
    let registry = registry(100, 1 << 30);
    for n in 0..1_000 {
        let group = format!("asked {n}");
        enter(&registry, &group, join("greedy", true, 10)).unwrap();
        let client = format!("client {}", n % 10);
        if n % 100 == 0 {
            enter(&registry, &format!("joined {n}"), join(&client, false, 10)).unwrap();
        }
    }
    let names = registry.names();
    assert!(names.len() <= 100, "{}", names.len());
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("joined"))
            .count(),
        10
    );
    assert_eq!(registry.in_use()[0].used, names.len());
    assert!(registry.deadlines.lock().len() <= names.len());
    assert!(registry.groups.lock().unjoined.len() <= 201);
}

#[test]
fn one_client_does_not_fill_a_group_for_others() {
    let registry = registry(100, 1 << 30);
    let member = |client: &str, n: usize| Join {
        new_member_id: format!("{client}-{n}"),
        ..join(client, false, 1)
    };
    let (waiters, refused): (Vec<_>, Vec<_>) = (0..1_500)
        .map(|n| {
            let (waiter, answer) = oneshot::channel();
            registry.enter("g", member("greedy", n), waiter).unwrap();
            answer
        })
        .map(|mut answer| (answer.try_recv(), answer))
        .partition(|(answer, _)| {
            !matches!(
                answer,
                Ok(Answer::JoinRefused {
                    error: E::GroupMaxSizeReached,
                    ..
                })
            )
        });
    assert_eq!((waiters.len(), refused.len()), (1_001, 499));
    let (waiter, mut answer) = oneshot::channel();
    registry.enter("g", member("another", 0), waiter).unwrap();
    assert!(answer.try_recv().is_err(), "it waits for the others");
}
