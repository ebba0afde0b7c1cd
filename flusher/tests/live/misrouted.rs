//! Records of other buckets' keys.

use bytes::Bytes;
use tidelake_core::Bucket;
use tidelake_log::Message;
use tidelake_testkit::{WAIT_MAX, wait_until};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misrouted_record_too_large_for_the_log_becomes_a_dead_letter() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Upsert, 2, 2).await;
    room.start(|_| {}).await;
    // As large as the log takes: with an origin it is larger.
    let value = format!("{{\"id\":7,\"s\":\"{}\"}}", "a".repeat(3 << 20));
    for bucket in [0, 1] {
        let mut message = Message::new(&*table.entry.topic, Bucket(bucket), value.clone());
        message.key = Some(Bytes::from_static(b"7"));
        for trim in 0..200 {
            let large = Bytes::from(vec![b'b'; (5 << 20) - trim]);
            message.headers = vec![("x-large".into(), large)];
            if let Ok(delivery) = room.producer.enqueue(message.clone()) {
                delivery.await.unwrap();
                break;
            }
        }
    }
    room.covered(&table, 0, 1).await;
    room.covered(&table, 1, 1).await;
    let dead = room.dead_letters(&table);
    let outcome = wait_until("a dead letter", WAIT_MAX, async || {
        (dead.snapshot().await.ok()?.total_rows() == 1).then_some(())
    });
    outcome.await.unwrap();
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misrouted_records_reach_the_bucket_of_their_keys_once() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Upsert, 2, 2).await;
    room.start(|_| {}).await;
    // Every key through both buckets, one of which is wrong.
    room.write(&table, 0, 0..200, 10).await;
    room.write(&table, 1, 0..200, 10).await;
    let what = "200 keys, each once";
    let outcome = wait_until(what, WAIT_MAX, async || {
        let snapshot = table.delta.snapshot().await.ok()?;
        (snapshot.total_rows() == 200).then_some(())
    });
    outcome.await.unwrap();
    room.stop().await;
}
