//! One budget for everything, and a share of it for each table.

use super::*;

/// What idle buckets' decoders keep must not hold reading back: here each of 16 keeps 2 MiB and
/// more, of a budget of 16 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_idle_buckets_keep_never_holds_reading_back() {
    let mut room = Room::new().await;
    let table = room.table("t", Mode::Append, 16, 16).await;
    room.start(|settings| settings.memory_bytes_max = 16 << 20)
        .await;
    for bucket in 0..16 {
        room.write(&table, bucket, 0..30, 100_000).await;
        room.covered(&table, bucket, 30).await;
    }
    // All of them have held rows, and go on.
    for bucket in 0..16 {
        room.write(&table, bucket, 30..60, 100_000).await;
    }
    for bucket in 0..16 {
        room.covered(&table, bucket, 60).await;
    }
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_store_refuses_does_not_hold_the_others_back() {
    let mut room = Room::new().await;
    let bad = room.table("bad", Mode::Append, 1, 1).await;
    let good = room.table("good", Mode::Append, 1, 1).await;
    // Its data files can't be written: their folder's place is taken.
    let folder = room.broker.dir().join("store/default/bad");
    room.start(|settings| settings.memory_bytes_max = 32 << 20)
        .await;
    room.write(&bad, 0, 0..10, 10).await;
    room.covered(&bad, 0, 10).await;
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, b"in the way").unwrap();
    room.write(&bad, 0, 10..1_000, 100_000).await;
    room.shows("tidelake_table_stopped{").await;
    for round in 0..20 {
        room.write(&good, 0, round * 10..round * 10 + 10, 10_000)
            .await;
    }
    room.covered(&good, 0, 200).await;
    let freshness = "tidelake_table_freshness_seconds{table=\"bad\",tenant=\"default\"}";
    assert!(room.metric(freshness).unwrap() > 0.0, "{}", room.shown());
    // Mended, it catches up by itself.
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    let snapshot = room.covered(&bad, 0, 1_000).await;
    assert_eq!(snapshot.total_rows(), 1_000);
    room.stop().await;
}
