//! Another engine gives a column another type: the table stops by name before a row is written, and
//! goes on where it stood once the type is back.

use tidelake_manifest::Metadata;
use tidelake_manifest::action::{Action, write_commit};

use super::*;

/// Another engine changes the type of the table's one column.
async fn retype(delta: &DeltaTable, from: &str, to: &str) {
    let base = delta.snapshot().await.unwrap();
    let schema = base.metadata().schema_string.replace(from, to);
    let metadata = Metadata {
        schema_string: schema,
        ..base.metadata().clone()
    };
    let name = format!("_delta_log/{:020}.json", base.version().next().0);
    let bytes = write_commit(&[Action::Metadata(metadata)]);
    delta.store().put(&name, bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retyped_column_stops_the_table_by_name_and_nothing_is_lost() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let (entry, delta) = table(&bench, "t", 1).await;
    let topic: Arc<str> = entry.topic.as_str().into();
    let settings = Settings {
        flush_age_ms: 100,
        ..Settings::default()
    };
    let writer = bench.writer.clone();
    let send = async |id: &str| {
        let record = format!("{{\"id\":{id}}}");
        let message = Message::new(topic.clone(), Bucket(0), record);
        writer.send(message).await.unwrap();
    };
    let worker = Worker::start(settings, runtime.clone(), bench, &log).unwrap();
    let rows = async |expected| {
        let look = async || {
            let snapshot = delta.snapshot().await.ok()?;
            (snapshot.total_rows() == expected).then_some(())
        };
        tidelake_testkit::wait_until("the rows", Duration::from_secs(20), look).await
    };
    send("1").await;
    rows(1).await.unwrap();
    retype(&delta, "\"long\"", "\"string\"").await;
    // Under the new type it would be refused, as a number.
    send("2").await;
    let told = async || {
        let report = runtime.health.report();
        let reason = report.components["flusher"].reason.clone();
        let named = reason.filter(|reason| reason.contains("from long to string"));
        named.map(|_| ())
    };
    let wait = Duration::from_secs(20);
    tidelake_testkit::wait_until("the reason", wait, told)
        .await
        .unwrap();
    let snapshot = delta.snapshot().await.unwrap();
    assert_eq!((snapshot.version().0, snapshot.total_rows()), (2, 1));
    retype(&delta, "\"string\"", "\"long\"").await;
    rows(2).await.unwrap();
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}
