//! Topics that are not what the table was filled from.

use super::*;

const FRESHNESS: &str = "tidelake_table_freshness_seconds{table=\"t\",tenant=\"default\"}";
const LAG: &str = "tidelake_table_lag_records{table=\"t\",tenant=\"default\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_again_stops_its_table_by_name_and_nothing_is_passed_over() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Append, 1, 1).await;
    room.start(|_| {}).await;
    room.write(&table, 0, 0..100, 10).await;
    room.covered(&table, 0, 100).await;
    room.admin.delete_topic(&table.entry.topic).await.unwrap();
    room.topic(&table.entry.topic, 1).await;
    room.write(&table, 0, 1_000..1_250, 10).await;
    room.shows(&is_stopped("t", "topic_replaced")).await;
    let reason = room.reason();
    for said in [
        "default.t",
        "`tidelake table drop t`",
        "`tidelake table create t",
        "delete topic tidelake.default.t with a Kafka tool",
    ] {
        assert!(reason.contains(said), "{said} is missing in: {reason}");
    }
    // Nothing of the new topic was counted by the old one's watermark.
    let snapshot = room.covered(&table, 0, 100).await;
    assert_eq!(snapshot.total_rows(), 100);
    // It grows old for everybody to see.
    room.shows(&format!("{LAG} 250")).await;
    let before = room.metric(FRESHNESS).unwrap();
    tokio::time::timeout(tidelake_testkit::WAIT_MAX, async {
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        while room.metric(FRESHNESS).unwrap() < before + 1.0 {
            looks.tick().await;
        }
    })
    .await
    .expect("freshness grows while the table stands");
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_again_while_no_flusher_ran_is_noticed_at_the_start() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Append, 1, 1).await;
    room.admin.delete_topic(&table.entry.topic).await.unwrap();
    room.topic(&table.entry.topic, 1).await;
    room.write(&table, 0, 0..10, 10).await;
    room.start(|_| {}).await;
    room.shows(&is_stopped("t", "topic_replaced")).await;
    let snapshot = table.delta.snapshot().await.unwrap();
    assert_eq!(snapshot.total_rows(), 0);
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_table_follows_partitions_that_its_topic_was_given() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Append, 2, 4).await;
    room.start(|_| {}).await;
    room.write(&table, 0, 0..10, 10).await;
    room.write(&table, 3, 10..50, 10).await;
    room.covered(&table, 0, 10).await;
    let snapshot = room.covered(&table, 3, 40).await;
    assert_eq!(snapshot.total_rows(), 50);
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_added_to_an_upsert_table_s_topic_stop_loudly_and_lose_nothing() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Upsert, 1, 2).await;
    room.start(|_| {}).await;
    room.write(&table, 1, 0..40, 10).await;
    room.write(&table, 0, 40..50, 10).await;
    // The buckets that the table has go on.
    room.covered(&table, 0, 10).await;
    room.shows(&is_stopped("t", "partitions_added")).await;
    room.shows(&format!("{LAG} 40")).await;
    let dead = room.dead_letters(&table).snapshot().await.unwrap();
    assert_eq!(
        dead.total_rows(),
        0,
        "no acknowledged record became a dead letter"
    );
    room.stop().await;
}
