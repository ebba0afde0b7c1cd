use bytes::Bytes;
use kafka_protocol::error::ResponseError as E;
use proptest::prelude::*;

use super::member::Protocol;
use super::session::Sync;
use super::state::{Answer, Caller, Group, Join, Joined, Outputs, Phase};

/// Waiters are numbers here.
type TestGroup = Group<u32>;

fn join(member_id: &str, new_member_id: &str) -> Join {
    let protocol = |name: &str| Protocol {
        name: name.to_owned(),
        metadata: Bytes::from(name.to_owned()),
    };
    Join {
        member_id: member_id.to_owned(),
        instance_id: None,
        new_member_id: new_member_id.to_owned(),
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: 1_000,
        rebalance_timeout_ms: 5_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![protocol("range"), protocol("sticky")],
        requires_member_id: false,
        can_skip_assignment: false,
    }
}

fn static_join(instance_id: &str, member_id: &str, new_member_id: &str) -> Join {
    Join {
        instance_id: Some(instance_id.to_owned()),
        ..join(member_id, new_member_id)
    }
}

fn caller(member_id: &str) -> Caller<'_> {
    Caller {
        member_id,
        instance_id: None,
    }
}

fn sync<'a>(member_id: &'a str, generation: i32, assignments: &[(&str, &'static str)]) -> Sync<'a> {
    Sync {
        caller: caller(member_id),
        generation,
        protocol_type: None,
        protocol: None,
        assignments: assignments
            .iter()
            .map(|(id, part)| ((*id).to_owned(), Bytes::from_static(part.as_bytes())))
            .collect(),
    }
}

fn joined(outputs: &Outputs<u32>, waiter: u32) -> &Joined {
    match outputs.iter().find(|(w, _)| *w == waiter) {
        Some((_, Answer::Joined(joined))) => joined,
        other => panic!("waiter {waiter} got {other:?}"),
    }
}

fn refusal(outputs: &Outputs<u32>, waiter: u32) -> E {
    match outputs.iter().find(|(w, _)| *w == waiter) {
        Some((_, Answer::JoinRefused { error, .. } | Answer::SyncRefused(error))) => *error,
        other => panic!("waiter {waiter} got {other:?}"),
    }
}

/// A stable group of "a" (the leader) and "b", at time 0.
fn pair() -> TestGroup {
    let mut group = TestGroup::new(0);
    assert_eq!(joined(&group.join(join("", "a"), 1, 0), 1).generation, 1);
    assert!(
        group.join(join("", "b"), 2, 0).is_empty(),
        "a must join again first"
    );
    assert_eq!(
        group.heartbeat(caller("a"), 1, 0),
        Err(E::RebalanceInProgress)
    );
    let outputs = group.join(join("a", ""), 3, 0);
    assert_eq!(joined(&outputs, 3).members.len(), 2);
    assert!(joined(&outputs, 2).members.is_empty());
    assert_eq!(joined(&outputs, 2).leader, "a");
    assert!(group.sync(sync("b", 2, &[]), 4, 0).is_empty());
    let outputs = group.sync(sync("a", 2, &[("a", "1"), ("b", "2")]), 5, 0);
    assert_eq!(outputs.len(), 2);
    let of_b = outputs.iter().find(|(w, _)| *w == 4).unwrap();
    assert!(matches!(&of_b.1, Answer::Synced { assignment, .. } if assignment == "2"));
    assert_eq!(group.phase(), Phase::Stable);
    group
}

#[test]
fn two_members_reach_one_generation() {
    let mut group = pair();
    assert_eq!(group.heartbeat(caller("a"), 2, 10), Ok(()));
    assert_eq!(
        group.heartbeat(caller("a"), 1, 10),
        Err(E::IllegalGeneration)
    );
    assert_eq!(group.heartbeat(caller("x"), 2, 10), Err(E::UnknownMemberId));
    assert_eq!(group.check_commit(caller("b"), 2, 10), Ok(()));
    assert_eq!(
        group.check_commit(caller("b"), 1, 10),
        Err(E::IllegalGeneration)
    );
    assert_eq!(
        group.check_commit(caller(""), -1, 10),
        Err(E::UnknownMemberId)
    );
    // A sync repeated after a lost answer gets the same assignment.
    let again = group.sync(sync("b", 2, &[]), 9, 10);
    assert!(matches!(&again[0].1, Answer::Synced { assignment, .. } if assignment == "2"));
}

#[test]
fn a_new_client_is_given_its_id_first() {
    let mut group = TestGroup::new(0);
    let ask = Join {
        requires_member_id: true,
        ..join("", "a")
    };
    let outputs = group.join(ask, 1, 0);
    assert_eq!(refusal(&outputs, 1), E::MemberIdRequired);
    assert!(matches!(&outputs[0].1, Answer::JoinRefused { member_id, .. } if member_id == "a"));
    assert!(!group.is_idle());
    let outputs = group.join(
        Join {
            requires_member_id: true,
            ..join("a", "")
        },
        2,
        500,
    );
    assert_eq!(joined(&outputs, 2).member_id, "a");
    // An id that nobody came back with is forgotten.
    let mut group = TestGroup::new(0);
    group.join(
        Join {
            requires_member_id: true,
            ..join("", "b")
        },
        1,
        0,
    );
    assert_eq!(group.next_tick(), Some(1_000));
    group.tick(1_000);
    assert!(group.is_idle());
    assert_eq!(
        refusal(&group.join(join("b", ""), 2, 1_001), 2),
        E::UnknownMemberId
    );
}

#[test]
fn a_silent_member_is_replaced_after_its_session() {
    let mut group = pair();
    group.heartbeat(caller("a"), 2, 900).unwrap();
    assert_eq!(group.next_tick(), Some(1_000));
    assert!(group.tick(999).is_empty());
    assert_eq!(group.members().len(), 2);
    group.tick(1_000);
    assert_eq!(group.phase(), Phase::Preparing);
    assert_eq!(
        group.heartbeat(caller("a"), 2, 1_001),
        Err(E::RebalanceInProgress)
    );
    let outputs = group.join(join("a", ""), 7, 1_002);
    assert_eq!(joined(&outputs, 7).generation, 3);
    assert_eq!(joined(&outputs, 7).members.len(), 1);
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let mut group = pair();
    // "c" comes; "a" joins again, "b" only sends heartbeats.
    group.join(join("", "c"), 7, 0);
    group.join(join("a", ""), 8, 0);
    let mut outputs = Vec::new();
    for now in (500..=5_000).step_by(500) {
        _ = group.heartbeat(caller("b"), 2, now);
        outputs.extend(group.tick(now));
    }
    assert_eq!(joined(&outputs, 8).members.len(), 2);
    assert_eq!(joined(&outputs, 7).leader, "a");
    assert_eq!(
        group.heartbeat(caller("b"), 2, 5_001),
        Err(E::UnknownMemberId)
    );
}

#[test]
fn who_does_not_sync_in_time_is_out() {
    let mut group = pair();
    group.join(join("a", ""), 7, 0);
    let outputs = group.join(join("b", ""), 8, 0);
    assert_eq!(joined(&outputs, 8).generation, 3);
    assert!(group.sync(sync("b", 3, &[]), 9, 10).is_empty());
    let mut outputs = Vec::new();
    for now in (500..=5_000).step_by(500) {
        _ = group.heartbeat(caller("a"), 3, now);
        outputs.extend(group.tick(now));
    }
    assert_eq!(refusal(&outputs, 9), E::RebalanceInProgress);
    assert_eq!(group.members().len(), 1);
    let outputs = group.join(join("b", ""), 10, 5_001);
    assert_eq!(joined(&outputs, 10).leader, "b");
}

#[test]
fn leaving_hands_over_at_once_and_empties_the_group() {
    let mut group = pair();
    group.leave(caller("b"), 1).unwrap();
    assert_eq!(
        group.heartbeat(caller("a"), 2, 1),
        Err(E::RebalanceInProgress)
    );
    assert_eq!(joined(&group.join(join("a", ""), 7, 2), 7).generation, 3);
    assert_eq!(group.leave(caller("b"), 3), Err(E::UnknownMemberId));
    group.leave(caller("a"), 3).unwrap();
    assert!(group.is_idle());
    assert_eq!(group.check_commit(caller(""), -1, 4), Ok(()));
    assert_eq!(group.next_tick(), None);
}

#[test]
fn a_static_member_that_owns_something_else_than_before_is_assigned_anew() {
    let mut group = TestGroup::new(0);
    let mut first = static_join("one", "", "one-1");
    first.protocols[1].metadata = Bytes::from_static(b"owns a and b");
    group.join(first, 1, 0);
    group.sync(sync("one-1", 1, &[("one-1", "a")]), 2, 0);
    assert_eq!(group.phase(), Phase::Stable);
    // It was giving b up when it died: with its old assignment nobody would own b.
    let outputs = group.join(static_join("one", "", "one-2"), 3, 500);
    assert_eq!(joined(&outputs, 3).generation, 2);
    assert_eq!(group.phase(), Phase::Completing);
}

#[test]
fn a_static_member_returns_without_a_rebalance_and_fences_its_old_self() {
    for can_skip_assignment in [false, true] {
        let mut group = TestGroup::new(0);
        group.join(static_join("one", "", "one-1"), 1, 0);
        group.sync(sync("one-1", 1, &[("one-1", "all")]), 2, 0);
        assert_eq!(group.phase(), Phase::Stable);

        let back = Join {
            can_skip_assignment,
            ..static_join("one", "", "one-2")
        };
        let outputs = group.join(back, 3, 500);
        let joined = joined(&outputs, 3);
        assert_eq!((joined.generation, joined.member_id.as_str()), (1, "one-2"));
        // A leader must not assign again: it is told to skip, or that another one leads.
        assert_eq!(joined.skip_assignment, can_skip_assignment);
        assert_eq!(joined.leader == "one-2", can_skip_assignment);
        assert_eq!(group.phase(), Phase::Stable);

        let old = Caller {
            member_id: "one-1",
            instance_id: Some("one"),
        };
        assert_eq!(group.heartbeat(old, 1, 501), Err(E::FencedInstanceId));
        assert_eq!(group.check_commit(old, 1, 501), Err(E::FencedInstanceId));
        assert_eq!(group.leave(old, 501).unwrap_err(), E::FencedInstanceId);
        let new = Caller {
            member_id: "one-2",
            instance_id: Some("one"),
        };
        assert_eq!(group.heartbeat(new, 1, 501), Ok(()));
        let outputs = group.sync(
            Sync {
                caller: new,
                ..sync("", 1, &[])
            },
            4,
            502,
        );
        assert!(matches!(&outputs[0].1, Answer::Synced { assignment, .. } if assignment == "all"));
        // An administrator may remove it by its instance id alone.
        group
            .leave(
                Caller {
                    member_id: "",
                    instance_id: Some("one"),
                },
                503,
            )
            .unwrap();
        assert!(group.is_idle());
    }
}

#[test]
fn a_fenced_join_and_sync_are_answered() {
    let mut group = TestGroup::new(10_000);
    assert!(group.join(static_join("one", "", "one-1"), 1, 0).is_empty());
    let outputs = group.join(static_join("one", "", "one-2"), 2, 1);
    assert_eq!(refusal(&outputs, 1), E::FencedInstanceId);
    let outputs = group.tick(10_000);
    assert_eq!(joined(&outputs, 2).member_id, "one-2");
}

#[test]
fn protocols_must_be_shared() {
    let mut group = pair();
    let only = |name: &str| Protocol {
        name: name.to_owned(),
        metadata: Bytes::new(),
    };
    let stranger = Join {
        protocols: vec![only("other")],
        ..join("", "c")
    };
    assert_eq!(
        refusal(&group.join(stranger, 7, 0), 7),
        E::InconsistentGroupProtocol
    );
    let connect = Join {
        protocol_type: "connect".to_owned(),
        ..join("", "c")
    };
    assert_eq!(
        refusal(&group.join(connect, 7, 0), 7),
        E::InconsistentGroupProtocol
    );
    // One member that prefers and knows only "sticky" decides for all.
    group.join(
        Join {
            protocols: vec![only("sticky")],
            ..join("", "c")
        },
        7,
        0,
    );
    group.join(join("a", ""), 8, 0);
    let outputs = group.join(join("b", ""), 9, 0);
    assert_eq!(joined(&outputs, 9).protocol, "sticky");
}

#[test]
fn an_empty_group_waits_for_company_if_told_to() {
    let mut group = TestGroup::new(300);
    assert!(group.join(join("", "a"), 1, 0).is_empty());
    assert!(group.join(join("", "b"), 2, 100).is_empty());
    assert_eq!(group.next_tick(), Some(300));
    let outputs = group.tick(300);
    assert_eq!(joined(&outputs, 1).members.len(), 2);
    assert_eq!(joined(&outputs, 2).generation, 1);
}

#[derive(Debug, Clone)]
enum Step {
    JoinNew {
        is_static: Option<u8>,
        asks_first: bool,
    },
    JoinAgain(prop::sample::Index),
    Sync(prop::sample::Index),
    Heartbeat(prop::sample::Index),
    Leave(prop::sample::Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let any_member = any::<prop::sample::Index>;
    prop_oneof![
        2 => (prop::option::of(0..3_u8), any::<bool>())
            .prop_map(|(is_static, asks_first)| Step::JoinNew { is_static, asks_first }),
        4 => any_member().prop_map(Step::JoinAgain),
        4 => any_member().prop_map(Step::Sync),
        2 => any_member().prop_map(Step::Heartbeat),
        1 => any_member().prop_map(Step::Leave),
        2 => (1..3_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whatever_members_do_everybody_is_answered_once_and_generations_agree(
        steps in prop::collection::vec(step(), 1..120),
        initial_delay in prop_oneof![Just(0_u64), Just(500)],
    ) {
        let mut group = TestGroup::new(initial_delay);
        let mut ids: Vec<(String, Option<String>)> = vec![("nobody".to_owned(), None)];
        let (mut now, mut waiter) = (0_u64, 0_u32);
        let mut open = std::collections::BTreeSet::new();
        let mut leaders: std::collections::BTreeMap<i32, String> = Default::default();
        let mut last_generation = 0;
        for step in steps {
            waiter += 1;
            let outputs = match step {
                Step::JoinNew { is_static, asks_first } => {
                    let id = format!("m{waiter}");
                    let instance_id = is_static.map(|n| format!("s{n}"));
                    open.insert(waiter);
                    ids.push((id.clone(), instance_id.clone()));
                    let requires_member_id = asks_first;
                    let new = Join { instance_id, requires_member_id, ..join("", &id) };
                    group.join(new, waiter, now)
                }
                Step::JoinAgain(at) => {
                    let (id, instance_id) = at.get(&ids).clone();
                    open.insert(waiter);
                    group.join(Join { instance_id, ..join(&id, "") }, waiter, now)
                }
                Step::Sync(at) => {
                    let (id, instance_id) = at.get(&ids).clone();
                    open.insert(waiter);
                    let instance_id = instance_id.as_deref();
                    let caller = Caller { member_id: &id, instance_id };
                    let generation = group.generation();
                    group.sync(Sync { caller, ..sync("", generation, &[]) }, waiter, now)
                }
                Step::Heartbeat(at) => {
                    let (id, instance_id) = at.get(&ids);
                    let instance_id = instance_id.as_deref();
                    _ = group.heartbeat(Caller { member_id: id, instance_id }, group.generation(), now);
                    Vec::new()
                }
                Step::Leave(at) => {
                    let (id, instance_id) = at.get(&ids);
                    let instance_id = instance_id.as_deref();
                    group.leave(Caller { member_id: id, instance_id }, now).unwrap_or_default()
                }
                Step::Wait(ms) => {
                    now += ms;
                    let outputs = group.tick(now);
                    prop_assert!(group.next_tick().is_none_or(|at| at > now), "time must get on");
                    outputs
                }
            };
            for (waiter, answer) in outputs {
                prop_assert!(open.remove(&waiter), "{} answered twice: {:?}", waiter, answer);
                if let Answer::Joined(joined) = answer {
                    let known = leaders.entry(joined.generation).or_insert(joined.leader.clone());
                    if known.starts_with('m') && !joined.members.is_empty() {
                        prop_assert_eq!(&joined.leader, &joined.member_id);
                    }
                }
            }
            let generation = group.generation();
            prop_assert!(generation >= last_generation);
            last_generation = generation;
            let members = group.members();
            prop_assert_eq!(group.phase() == Phase::Empty, members.is_empty());
            let waiting: usize = members
                .iter()
                .map(|m| usize::from(m.joining.is_some()) + usize::from(m.syncing.is_some()))
                .sum();
            prop_assert_eq!(waiting, open.len(), "somebody waits unknown to the group");
            match group.phase() {
                Phase::Preparing => prop_assert!(members.iter().all(|m| m.syncing.is_none())),
                Phase::Completing => prop_assert!(members.iter().all(|m| m.joining.is_none())),
                _ => prop_assert_eq!(waiting, 0),
            }
        }
        // Left alone, the group ends by itself.
        for _ in 0..400 {
            let Some(at) = group.next_tick() else { break };
            for (waiter, _) in group.tick(at) {
                prop_assert!(open.remove(&waiter));
            }
        }
        prop_assert!(group.is_idle(), "{:?}", group);
        prop_assert!(open.is_empty());
    }
}
