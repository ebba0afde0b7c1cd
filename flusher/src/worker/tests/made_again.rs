//! A table that is dropped and made again while its rows are read and flushed.

use tidelake_catalog::{Catalog, DropTable, LastVersions};

use super::*;

const BUCKETS: u32 = 3;
const ROUNDS: u32 = 8;

/// What a gateway does: no flush of the table can follow, then everything of it goes.
async fn drop_table(bench: &Workbench, entry: &TableEntry, delta: &DeltaTable) {
    let catalog: &Catalog = &bench.opener.catalog;
    let DropTable::Dropped(held) = catalog.drop_table(&entry.id).await.unwrap() else {
        panic!("it is there");
    };
    let fence = delta.drop_fence().await.unwrap();
    let last = LastVersions {
        table: Some(fence),
        dead_letters: None,
    };
    let held = catalog.end_logs(&held, last).await.unwrap().unwrap();
    let admin = &bench.opener.admin;
    admin.delete_topic(&entry.topic).await.unwrap();
    let store = delta.store();
    let fence = format!("_delta_log/{:020}.json", fence.0);
    loop {
        let found = store.list("").await.unwrap();
        let names = found
            .iter()
            .filter_map(|file| store.relative(&file.location));
        let mut names: Vec<_> = names.collect();
        if names.is_empty() {
            break;
        }
        names.sort_by_key(|name| *name == fence);
        for name in names {
            store.delete(&name).await.unwrap();
        }
    }
    assert!(catalog.purged(&held).await.unwrap());
}

/// Each time something else is under way when it is dropped: a lookup, a flush, nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_dropped_table_are_in_no_later_one_and_the_last_one_has_all_of_its_own() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let settings = Settings {
        flush_age_ms: 1,
        ..Settings::default()
    };
    let (mut entry, mut delta) = table(&bench, "t", BUCKETS).await;
    let worker = Worker::start(settings, runtime.clone(), bench.clone(), &log).unwrap();
    for round in 0..ROUNDS {
        let topic: Arc<str> = entry.topic.as_str().into();
        // More of them each time, so that counts tell the tables apart.
        let rows = 10 * (round + 1);
        for id in 0..rows {
            for bucket in 0..BUCKETS {
                let message =
                    Message::new(topic.clone(), Bucket(bucket), format!("{{\"id\":{id}}}"));
                bench.writer.send(message).await.unwrap();
            }
        }
        if round + 1 == ROUNDS {
            for bucket in 0..BUCKETS {
                covered((&entry, &delta), bucket, i64::from(rows)).await;
            }
            let snapshot = delta.snapshot().await.unwrap();
            assert_eq!(snapshot.total_rows(), u64::from(rows * BUCKETS));
            continue;
        }
        // Until some of it is committed, all of it, or before anything is.
        if round % 3 > 0 {
            let wanted = i64::from(if round % 3 == 1 { 1 } else { rows });
            let reached = tidelake_testkit::wait_until("commits", WAIT, async || {
                let snapshot = delta.snapshot().await.ok()?;
                let mark = snapshot.watermark(&entry.topic_id, Bucket(0))?;
                (mark.0 >= wanted).then_some(())
            });
            reached.await.unwrap();
        }
        let snapshot = delta.snapshot().await.unwrap();
        assert!(snapshot.total_rows() <= u64::from(rows * BUCKETS));
        drop_table(&bench, &entry, &delta).await;
        (entry, delta) = table(&bench, "t", BUCKETS).await;
    }
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}
