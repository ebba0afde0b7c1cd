//! Tables that stand still without a record, or a member of the group, that would show it.

use tidelake_manifest::vector::{Place, locate};

use super::*;

/// Of a stopped table: the second begins after two seconds.
const TRIES: Duration = Duration::from_secs(5);

/// Looks around ten times a second, and at logs every six seconds.
fn watchful() -> Settings {
    Settings {
        discovery_ms: 10,
        flush_age_ms: 100,
        ..Settings::default()
    }
}

fn stopped(reason: &str) -> String {
    format!("tidelake_table_stopped{{reason=\"{reason}\",table=\"t\",tenant=\"default\"}} 1")
}

async fn no_longer_shown(runtime: &Runtime, line: &str) {
    let gone = tidelake_testkit::wait_until("the line goes", WAIT, async || {
        (!runtime.metrics.render().contains(line)).then_some(())
    });
    gone.await.unwrap();
}

/// Nobody is assigned a bucket of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_topic_is_gone_is_named_and_grows_old() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let (entry, _) = table(&bench, "t", 1).await;
    let (catalog, admin) = (bench.opener.catalog.clone(), bench.opener.admin.clone());
    admin.delete_topic(&entry.topic).await.unwrap();
    let worker = Worker::start(watchful(), runtime.clone(), bench, &log).unwrap();
    let line = stopped("topic_missing");
    shown(&runtime, &line).await;
    let report = runtime.health.report();
    let reason = report.components["flusher"].reason.clone().unwrap();
    for said in [
        &*entry.topic,
        "topic_missing",
        "is not there",
        "adopt-topic t",
    ] {
        assert!(reason.contains(said), "{reason}");
    }
    let age = "tidelake_table_freshness_seconds{table=\"t\",tenant=\"default\"} ";
    let grows = tidelake_testkit::wait_until("its age grows", WAIT, async || {
        let page = runtime.metrics.render();
        let of_table = page.lines().find_map(|line| line.strip_prefix(age))?;
        (of_table.parse::<f64>().ok()? > 0.5).then_some(())
    });
    grows.await.unwrap();
    // A table that is dropped stands still no more.
    catalog.drop_table(&entry.id).await.unwrap();
    no_longer_shown(&runtime, &line).await;
    no_longer_shown(&runtime, age).await;
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}

/// No record comes that a commit would fail for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_table_whose_log_can_t_be_read_is_named_until_it_is_mended() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let (entry, delta) = table(&bench, "t", 1).await;
    let (writer, store) = (bench.writer.clone(), bench.opener.store.clone());
    let worker = Worker::start(watchful(), runtime.clone(), bench, &log).unwrap();
    let topic: Arc<str> = entry.topic.as_str().into();
    let message = Message::new(topic, Bucket(0), "{\"id\":1}");
    writer.send(message).await.unwrap();
    let last = covered((&entry, &delta), 0, 1).await.version();
    let next = format!("_delta_log/{:020}.json", last.0 + 1);
    let folder = store.scoped(&entry.location());
    let damage = bytes::Bytes::from_static(b"{\"add\":");
    folder.put(&next, damage).await.unwrap();
    let line = stopped("corrupt");
    shown(&runtime, &line).await;
    let report = runtime.health.report();
    let reason = report.components["flusher"].reason.clone().unwrap();
    assert!(reason.contains(&entry.topic), "{reason}");
    folder.delete(&next).await.unwrap();
    no_longer_shown(&runtime, &line).await;
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}

/// It waits in the log for longer than this process is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_was_never_opened_is_as_old_as_its_oldest_record() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let bench = workbench(&log, &runtime).await;
    let (entry, _) = table_of(&bench, "t", 1, TableMode::Upsert).await;
    // An upsert table has no bucket for what comes into another partition.
    log.add_buckets(&entry.topic, 1);
    let topic: Arc<str> = entry.topic.as_str().into();
    let mut message = Message::new(topic, Bucket(1), "{\"id\":1}");
    message.timestamp_ms = Some(runtime.clock.now_ms() - 3_600_000);
    bench.writer.send(message).await.unwrap();
    let worker = Worker::start(watchful(), runtime.clone(), bench, &log).unwrap();
    let age = "tidelake_table_freshness_seconds{table=\"t\",tenant=\"default\"} ";
    let grown = tidelake_testkit::wait_until("the age of an hour", WAIT, async || {
        let page = runtime.metrics.render();
        let of_table = page.lines().find_map(|line| line.strip_prefix(age))?;
        (of_table.parse::<f64>().ok()? >= 3_600.0).then_some(())
    });
    if let Err(error) = grown.await {
        panic!("{error}\n{}", runtime.metrics.render());
    }
    shown(&runtime, &stopped("partitions_added")).await;
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}

/// The topic is there, and nobody reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_topic_is_outside_of_the_prefix_is_named() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let mut bench = workbench(&log, &runtime).await;
    let (entry, _) = table(&bench, "t", 1).await;
    let mut settings = watchful();
    settings.kafka.topic_prefix = "acme".into();
    bench.opener.topic_prefix = "acme".into();
    let worker = Worker::start(settings, runtime.clone(), bench, &log).unwrap();
    shown(&runtime, &stopped("topic_elsewhere")).await;
    let report = runtime.health.report();
    let reason = report.components["flusher"].reason.clone().unwrap();
    for said in [&*entry.topic, "acme", "kafka.topic_prefix"] {
        assert!(reason.contains(said), "{reason}");
    }
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}

/// Opening the table does not read it, so that opening shows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_vector_is_named_until_it_is_put_back() {
    let first = Runtime::new();
    let log = MemoryLog::new(first.clock.clone());
    let bench = workbench(&log, &first).await;
    let store = bench.opener.store.clone();
    let (entry, delta) = table_of(&bench, "t", 1, TableMode::Upsert).await;
    let topic: Arc<str> = entry.topic.as_str().into();
    let record = |id: i64| {
        let mut message = Message::new(topic.clone(), Bucket(0), format!("{{\"id\":{id}}}"));
        message.key = Some(id.to_string().into());
        message
    };
    let writer = bench.writer.clone();
    let worker = Worker::start(watchful(), first.clone(), bench, &log).unwrap();
    for id in [1, 2] {
        writer.send(record(id)).await.unwrap();
    }
    covered((&entry, &delta), 0, 2).await;
    writer.send(record(1)).await.unwrap();
    let snapshot = covered((&entry, &delta), 0, 3).await;
    first.shutdown.trigger();
    worker.wait().await.unwrap();

    let vector = snapshot
        .files()
        .find_map(|file| file.dv().cloned())
        .unwrap();
    let Place::File { name, .. } = locate(&vector).unwrap() else {
        panic!("{vector:?}");
    };
    let folder = store.scoped(&entry.location());
    let bytes = folder.get(&name).await.unwrap();
    folder.delete(&name).await.unwrap();
    let second = Runtime::new();
    let bench = workbench_over(store, &log, &second, &Settings::default()).await;
    // Long enough that a stop which ends at each opening would be seen to.
    let patient = Settings {
        flush_age_ms: 2_000,
        ..watchful()
    };
    let worker = Worker::start(patient, second.clone(), bench, &log).unwrap();
    writer.send(record(2)).await.unwrap();
    let line = stopped("corrupt");
    shown(&second, &line).await;
    let report = second.health.report();
    let reason = report.components["flusher"].reason.clone().unwrap();
    assert!(reason.contains(&name), "{reason}");
    // Over some tries: each opens the table, and reads the record again.
    let vanishes = tidelake_testkit::wait_until("it vanishes", TRIES, async || {
        (!second.metrics.render().contains(&line)).then_some(())
    });
    assert!(vanishes.await.is_err(), "{}", second.metrics.render());
    folder.put(&name, bytes).await.unwrap();
    covered((&entry, &delta), 0, 4).await;
    no_longer_shown(&second, &line).await;
    second.shutdown.trigger();
    worker.wait().await.unwrap();
}
