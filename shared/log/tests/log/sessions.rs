//! Members that hear of their group late, or nothing for longer than their session lasts.

use std::time::Duration;

use tidelake_core::Offset;
use tidelake_log::{ConsumerSettings, Event, GroupConsumer, TopicBucket};
use tidelake_testkit::WAIT_MAX;

use crate::damage::world_of;
use crate::member;
use crate::proxy::Proxy;

/// The broker hears the first heartbeat that is not answered, and knows the member for so much
/// longer than the member itself does.
const HEARTBEAT: &str = "2000";
const SESSION: &str = "6000";
/// Between two commits of offsets.
const PAUSE: Duration = Duration::from_millis(100);
/// Some may be those of the visitor of the group.
const HEARTBEATS: usize = 3;
/// For some heartbeats.
const COMMITS: usize = 50;

/// Nobody else has its instance id: the coordinator must not take it for another member, whether it
/// tells how far it came, or takes its time to give up what it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_back_after_its_session() {
    let world = world_of(1).await;
    let mut kafka = world.kafka.clone();
    for (name, value) in [
        ("session.timeout.ms", SESSION),
        ("heartbeat.interval.ms", HEARTBEAT),
    ] {
        kafka.properties.insert(name.into(), value.into());
    }
    let settings = ConsumerSettings {
        instance_id: Some("one".into()),
        leaves: false,
        visited_topic: "nobody-wants".into(),
        ..member()
    };
    let mut member = GroupConsumer::start(&kafka, &settings).unwrap();
    let had = until_assigned(&mut member).await;
    for _ in 0..HEARTBEATS {
        until_heartbeat(&mut member, &world.proxy).await;
    }
    world.proxy.hold_heartbeats(true);
    let revoked = loop {
        match next(&mut member).await {
            Event::Revoked(buckets) if !buckets.is_empty() => break buckets,
            other => lives(&other),
        }
    };
    assert_eq!(revoked, had);
    world.proxy.hold_heartbeats(false);
    for _ in 0..COMMITS {
        let reached = revoked.iter().map(|at| (at.clone(), Offset(1)));
        member.commit(reached.collect());
        if let Ok(event) = tokio::time::timeout(PAUSE, member.next()).await {
            lives(&event.expect("it has ended"));
        }
    }
    member.release(revoked);
    assert_eq!(until_assigned(&mut member).await, had);
    member.close().await;
}

/// What is heard of topics between two steps of joining is no reason to join again: as slow as
/// this, a coordinator would never see the second step.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_joined_however_slow_its_coordinator_is() {
    let world = world_of(1).await;
    let settings = member();
    world.proxy.delay(settings.discovery * 3 / 4);
    let mut member = GroupConsumer::start(&world.kafka, &settings).unwrap();
    until_assigned(&mut member).await;
    member.close().await;
}

async fn next(member: &mut GroupConsumer) -> Event {
    let event = tokio::time::timeout(WAIT_MAX, member.next()).await;
    event.expect("nothing comes").expect("it has ended")
}

/// Takes what the group gives, without reading it.
async fn until_assigned(member: &mut GroupConsumer) -> Vec<TopicBucket> {
    loop {
        match next(member).await {
            Event::Assigned(buckets) => {
                member.begin(Vec::new(), buckets.clone());
                if !buckets.is_empty() {
                    return buckets;
                }
            }
            Event::Revoked(buckets) => member.release(buckets),
            other => lives(&other),
        }
    }
}

async fn until_heartbeat(member: &mut GroupConsumer, proxy: &Proxy) {
    let mut heartbeat = std::pin::pin!(proxy.heartbeat());
    loop {
        tokio::select! {
            () = &mut heartbeat => return,
            event = next(member) => match event {
                Event::Assigned(buckets) => member.begin(Vec::new(), buckets),
                other => lives(&other),
            },
        }
    }
}

fn lives(event: &Event) {
    assert!(!matches!(event, Event::Ended(_)), "{event:?}");
}
