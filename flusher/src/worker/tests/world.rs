//! Logs, groups and catalogs that are not what a flusher would like them to be.

use tidelake_core::TopicId;
use tidelake_log::TopicCreated;

use super::*;
use crate::opener::OpenError;

/// What the log says when it is asked for a topic.
#[derive(Debug, Clone, Copy)]
enum Says {
    WhatIsTrue,
    Nothing,
    Another(TopicId),
}

type Answer<'a, T> = Boxed<'a, Result<T, LogError>>;

/// A log whose answers about topics are chosen.
#[derive(Debug)]
struct Doubtful {
    log: Arc<dyn LogAdmin>,
    says: std::sync::Mutex<Says>,
}

impl Doubtful {
    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

impl LogAdmin for Doubtful {
    fn create_topic<'a, 'b, 'c>(&'a self, spec: &'b TopicSpec) -> Answer<'c, TopicCreated>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.log.create_topic(spec)
    }

    fn delete_topic<'a, 'b, 'c>(&'a self, name: &'b str) -> Answer<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.log.delete_topic(name)
    }

    fn describe<'a, 'b, 'c>(&'a self, name: &'b str) -> Answer<'c, Option<TopicInfo>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let known = self.log.describe(name).await?;
            let says = *self.says.lock().unwrap();
            match says {
                Says::WhatIsTrue => Ok(known),
                Says::Nothing => Err(LogError::Unavailable {
                    what: format!("describe topic {name}"),
                    reason: "it is silent".into(),
                }),
                Says::Another(id) => Ok(known.map(|known| TopicInfo { id, ..known })),
            }
        })
    }

    fn list_topics<'a, 'c>(&'a self) -> Answer<'c, Vec<String>>
    where
        'a: 'c,
        Self: 'c,
    {
        self.log.list_topics()
    }

    fn end_offsets<'a, 'b, 'd, 'c>(
        &'a self,
        topic: &'b str,
        buckets: &'d [Bucket],
    ) -> Answer<'c, Vec<(Bucket, Offset)>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.log.end_offsets(topic, buckets)
    }

    fn start_offsets<'a, 'b, 'd, 'c>(
        &'a self,
        topic: &'b str,
        buckets: &'d [Bucket],
    ) -> Answer<'c, Vec<(Bucket, Offset)>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.log.start_offsets(topic, buckets)
    }

    fn alive<'a, 'c>(&'a self) -> Answer<'c, ()>
    where
        'a: 'c,
        Self: 'c,
    {
        self.log.alive()
    }

    fn cluster_id<'a, 'c>(&'a self) -> Answer<'c, String>
    where
        'a: 'c,
        Self: 'c,
    {
        self.log.cluster_id()
    }
}

fn eager() -> Settings {
    Settings {
        flush_age_ms: 100,
        ..Settings::default()
    }
}

fn stopped(reason: &str) -> String {
    format!("tidelake_table_stopped{{reason=\"{reason}\",table=\"t\",tenant=\"default\"}} 1")
}

async fn write(writer: &Arc<dyn TopicWriter>, entry: &TableEntry, bucket: u32, ids: &[u32]) {
    let topic: Arc<str> = entry.topic.as_str().into();
    for id in ids {
        let value = format!("{{\"id\":{id}}}");
        let message = Message::new(topic.clone(), Bucket(bucket), value);
        writer.send(message).await.unwrap();
    }
}

/// Where the log can't say which topic the rows came from, they may be another one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_committed_only_once_the_log_has_said_that_they_are_the_table_s() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    let mut bench = workbench(&log, &runtime).await;
    let (entry, delta) = table(&bench, "t", 1).await;
    let doubtful = Arc::new(Doubtful {
        log: bench.opener.admin.clone(),
        says: std::sync::Mutex::new(Says::WhatIsTrue),
    });
    bench.opener.admin = doubtful.clone();
    let writer = bench.writer.clone();
    let worker = Worker::start(eager(), runtime.clone(), bench, &log).unwrap();
    write(&writer, &entry, 0, &[1]).await;
    covered((&entry, &delta), 0, 1).await;
    let rows = async || delta.snapshot().await.unwrap().total_rows();
    doubtful.says(Says::Nothing);
    write(&writer, &entry, 0, &[2, 3]).await;
    shown(&runtime, &stopped("flush_failing")).await;
    assert_eq!(
        rows().await,
        1,
        "nothing is known of where the others came from"
    );
    doubtful.says(Says::Another(TopicId([9; 16])));
    shown(&runtime, &stopped("topic_replaced")).await;
    assert_eq!(rows().await, 1);
    doubtful.says(Says::WhatIsTrue);
    let snapshot = covered((&entry, &delta), 0, 3).await;
    assert_eq!(snapshot.total_rows(), 3);
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
}

/// Progress is in the tables, never in the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_another_name_goes_on_where_the_table_is() {
    let log = MemoryLog::new(Runtime::new().clock.clone());
    let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
    let mut made = None;
    for (round, group) in ["tidelake-flusher", "", "third"].into_iter().enumerate() {
        let runtime = Runtime::new();
        let settings = Settings {
            group: group.into(),
            ..eager()
        };
        let bench = workbench_over(store.clone(), &log, &runtime, &settings).await;
        if made.is_none() {
            made = Some(table(&bench, "t", 2).await);
        }
        let (entry, delta) = made.as_ref().unwrap();
        let writer = bench.writer.clone();
        let worker = Worker::start(settings, runtime.clone(), bench, &log).unwrap();
        let ids = [round as u32 * 2, round as u32 * 2 + 1];
        write(&writer, entry, 0, &ids).await;
        let offset = 2 * (round as i64 + 1);
        let snapshot = covered((entry, delta), 0, offset).await;
        assert_eq!(snapshot.total_rows(), offset as u64);
        shown(
            &runtime,
            "tidelake_flusher_records_total{table=\"t\",tenant=\"default\"} 2",
        )
        .await;
        runtime.shutdown.trigger();
        worker.wait().await.unwrap();
    }
}

/// Neither names anything: they have topics of one prefix, and each would take the other's buckets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_installations_on_one_log_flush_all_buckets_of_their_tables() {
    let log = MemoryLog::new(Runtime::new().clock.clone());
    let mut installations = Vec::new();
    for name in ["one", "two"] {
        let runtime = Runtime::new();
        let bench = workbench(&log, &runtime).await;
        let made = table(&bench, name, 4).await;
        let writer = bench.writer.clone();
        let worker = Worker::start(eager(), runtime.clone(), bench, &log).unwrap();
        installations.push((runtime, worker, writer, made));
    }
    for (_, _, writer, (entry, _)) in &installations {
        for bucket in 0..4 {
            write(writer, entry, bucket, &[bucket]).await;
        }
    }
    for (_, _, _, (entry, delta)) in &installations {
        for bucket in 0..4 {
            covered((entry, delta), bucket, 1).await;
        }
    }
    for (runtime, worker, ..) in installations {
        let report = runtime.health.report();
        assert_eq!(report.components["flusher"].reason, None);
        shown(&runtime, "tidelake_flusher_buckets_without_table 4").await;
        runtime.shutdown.trigger();
        worker.wait().await.unwrap();
    }
}

/// In a group of their own, other installations' topics are nothing to tell of; in one that was
/// named by hand, nobody else may read them. What was dropped is known, and no stranger's.
#[tokio::test]
async fn a_topic_of_no_table_is_told_where_the_group_may_be_shared() {
    let runtime = Runtime::new();
    let log = MemoryLog::new(runtime.clock.clone());
    for (group, told) in [("", false), ("shared", true)] {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let settings = Settings {
            group: group.into(),
            ..Settings::default()
        };
        let bench = workbench_over(store, &log, &runtime, &settings).await;
        let (dropped, _) = table(&bench, "t", 1).await;
        let catalog = &bench.opener.catalog;
        catalog.drop_table(&dropped.id).await.unwrap();
        let open = async |topic: &str| {
            let opened = bench.opener.open(&Arc::from(topic), &[Bucket(0)]).await;
            opened.unwrap_err()
        };
        for topic in ["tidelake.default.t", "tidelake.default.t.dlq", "tidelake.x"] {
            let error = open(topic).await;
            assert!(matches!(error, OpenError::NoTable(_)), "{topic}: {error}");
        }
        let error = open("tidelake.default.theirs").await;
        let trouble = error.trouble();
        assert!(trouble.cause.is_no_table());
        assert_eq!(trouble.cause == Cause::UnknownTable, told);
        if told {
            for said in ["tidelake.default.theirs", "group shared"] {
                assert!(trouble.text.contains(said), "{}", trouble.text);
            }
        }
        log.admin().delete_topic(&dropped.topic).await.unwrap();
    }
}
