//! A table whose topic was made again stops, and goes on with it once it is adopted.

use tidelake_catalog::Topics;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_topic_is_read_from_its_beginning() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let (entry, delta) = table(&bench, "t", 1).await;
    let (writer, catalog) = (bench.writer.clone(), bench.opener.catalog.clone());
    let admin = bench.opener.admin.clone();
    let settings = Settings {
        flush_age_ms: 100,
        ..Settings::default()
    };
    let worker = Worker::start(settings, runtime.clone(), bench, &log).unwrap();
    let send = async |id: u32| {
        let topic: Arc<str> = entry.topic.as_str().into();
        let message = Message::new(topic, Bucket(0), format!("{{\"id\":{id}}}"));
        writer.send(message).await.unwrap();
    };
    let covers = async |topic_id, offset| {
        let look = async || {
            let snapshot = delta.snapshot().await.ok()?;
            let mark = snapshot.watermark(&topic_id, Bucket(0));
            (mark == Some(Watermark(offset))).then_some(snapshot)
        };
        let wait = Duration::from_secs(40);
        tidelake_testkit::wait_until("the watermark", wait, look).await
    };
    for id in 0..3 {
        send(id).await;
    }
    covers(entry.topic_id, 3).await.unwrap();
    log.remake_topic(&entry.topic);
    // Fewer than were in the old one, and more: either would be passed over in part.
    for id in 10..15 {
        send(id).await;
    }
    let stopped = async || {
        let stopped = runtime.metrics.render().contains("topic_replaced");
        stopped.then_some(())
    };
    let wait = Duration::from_secs(40);
    tidelake_testkit::wait_until("the stop", wait, stopped)
        .await
        .unwrap();
    let found = admin.describe(&entry.topic).await.unwrap().unwrap();
    let to = Topics {
        table: found.id,
        dead_letters: None,
    };
    catalog.adopt_topic(&entry, to).await.unwrap().unwrap();
    let snapshot = covers(found.id, 5).await.unwrap();
    assert_eq!(snapshot.total_rows(), 8);
    assert_eq!(
        snapshot.watermark(&entry.topic_id, Bucket(0)),
        Some(Watermark(3))
    );
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}
