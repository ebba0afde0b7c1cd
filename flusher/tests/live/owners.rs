//! Buckets that go from one flusher to another and back.

use tidelake_testkit::{WAIT_MAX, wait_until};

use super::*;

const BUCKETS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushers_that_come_and_go_commit_every_record_once() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Append, BUCKETS, BUCKETS).await;
    room.start(|_| {}).await;
    let mut written = 0;
    for round in 0..3 {
        write(&room, &table, &mut written).await;
        let other = room.another().await;
        // Both own some, while messages go on coming.
        let what = format!("round {round}: the second flusher owns buckets");
        let owned = wait_until(&what, WAIT_MAX, async || {
            let text = other.runtime.metrics.render();
            let buckets = text
                .lines()
                .find_map(|line| line.strip_prefix("tidelake_flusher_buckets "));
            let buckets: u32 = buckets?.parse().ok()?;
            (buckets > 0).then_some(())
        });
        owned.await.unwrap();
        write(&room, &table, &mut written).await;
        other.stop().await;
        write(&room, &table, &mut written).await;
    }
    for bucket in 0..BUCKETS {
        let offsets = i64::try_from(written / u64::from(BUCKETS)).unwrap();
        room.covered(&table, bucket, offsets).await;
    }
    let snapshot = table.delta.snapshot().await.unwrap();
    assert_eq!(snapshot.total_rows(), written);
    let skipped = "tidelake_flusher_offsets_skipped_total{table=\"t\",tenant=\"default\"}";
    assert_eq!(room.metric(skipped).unwrap_or(0.0), 0.0);
    assert_eq!(room.reason(), "");
    room.stop().await;
}

async fn write(room: &Room, table: &room::Table, written: &mut u64) {
    for bucket in 0..BUCKETS {
        room.write(table, bucket, *written..*written + 50, 10).await;
        *written += 50;
    }
}
