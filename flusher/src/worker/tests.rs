//! The loop on a log that is made up.

use std::pin::Pin;

use tidelake_catalog::Catalog;
use tidelake_log::{
    BucketReader, KafkaLog, KafkaSettings, LogAdmin, ProducerSettings, Start, TopicWriter,
};
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::index::IndexHome;
use tokio::sync::Semaphore;

use super::*;
use crate::metrics::FlusherMetrics;
use crate::opener::Opener;

/// A log whose messages never stop: some event is always ready.
#[derive(Debug)]
struct Busy {
    first: std::sync::Mutex<Vec<LogEvent>>,
    commands: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

impl Busy {
    fn note(&self, command: &'static str) {
        self.commands.lock().unwrap().push(command);
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl GroupLog for Busy {
    fn next<'a, 'b>(&'a mut self) -> Boxed<'b, Option<LogEvent>>
    where
        'a: 'b,
        Self: 'b,
    {
        // Taken when it is asked for, not before: whoever waits may drop the wait.
        Box::pin(async {
            let event = self.first.get_mut().unwrap().pop();
            let more = || LogEvent::Messages(MessageBatch::owned(Vec::new()));
            Some(event.unwrap_or_else(more))
        })
    }

    fn begin(&self, _: Vec<Start>, _: Vec<TopicBucket>) {
        self.note("begin");
    }

    fn restart(&self, _: Vec<Start>) {
        self.note("restart");
    }

    fn release(&self, _: Vec<TopicBucket>) {
        self.note("release");
    }

    fn pause(&self, _: Vec<TopicBucket>) {}

    fn resume(&self, _: Vec<TopicBucket>) {}

    fn commit(&self, _: Vec<(TopicBucket, Offset)>) {}

    fn end_offset_seen(&self, _: &TopicBucket) -> Option<Offset> {
        None
    }

    fn close<'b>(self: Box<Self>) -> Boxed<'b, ()>
    where
        Self: 'b,
    {
        Box::pin(std::future::ready(()))
    }
}

/// Clients of a log that does not answer, but for its group.
#[derive(Debug)]
struct Client {
    log: KafkaLog,
    group: std::sync::Mutex<Option<Busy>>,
}

impl LogClient for Client {
    fn admin(&self) -> Arc<dyn LogAdmin> {
        self.log.admin()
    }

    fn reader(&self) -> Arc<dyn BucketReader> {
        self.log.reader()
    }

    fn writer(&self, settings: ProducerSettings) -> Result<Arc<dyn TopicWriter>, LogError> {
        self.log.writer(settings)
    }

    fn join(&self, _: &ConsumerSettings) -> Result<Box<dyn GroupLog>, LogError> {
        let group = self.group.lock().unwrap().take();
        Ok(Box::new(group.expect("one member")))
    }
}

async fn workbench(client: &Client, runtime: &Runtime) -> Workbench {
    let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
    let catalog = Catalog::open(&store, runtime.clock.clone(), runtime.ids.clone());
    let folder = std::env::temp_dir().join(format!("tidelake-loop-{}", std::process::id()));
    let settings = Settings::default();
    Workbench {
        opener: Opener {
            catalog: catalog.await.unwrap(),
            store,
            admin: client.admin(),
            topic_prefix: settings.kafka.topic_prefix.clone(),
            runtime: runtime.clone(),
            turns: Arc::new(Semaphore::new(1)),
        },
        writer: client.writer(ProducerSettings::default()).unwrap(),
        metrics: FlusherMetrics::new(&runtime.metrics),
        files: settings.files(),
        index_home: Arc::new(IndexHome::open(&folder, 1 << 10).unwrap()),
        announce: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_ticks_although_messages_never_stop() {
    let runtime = Runtime::new();
    let at = TopicBucket {
        topic: Arc::from("tidelake.default.t"),
        bucket: Bucket(0),
    };
    let commands = Arc::default();
    // Taken from the end.
    let first = vec![
        LogEvent::Revoked(vec![at.clone()]),
        LogEvent::Trouble {
            at: None,
            error: Some(LogError::Closed),
        },
        LogEvent::Assigned(vec![at]),
    ];
    let group = Busy {
        first: std::sync::Mutex::new(first),
        commands: Arc::clone(&commands),
    };
    let client = Client {
        log: KafkaLog::new(KafkaSettings::default()).unwrap(),
        group: std::sync::Mutex::new(Some(group)),
    };
    let bench = workbench(&client, &runtime).await;
    let worker = Worker::start(Settings::default(), runtime.clone(), bench, &client).unwrap();
    let reported = || {
        let report = runtime.health.report();
        let reason = report.components["flusher"].reason.clone();
        reason.is_some_and(|reason| reason.contains("log_stalled"))
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !reported() {
            looks.tick().await;
        }
    });
    outcome.await.expect("health is told");
    runtime.shutdown.trigger();
    worker.wait().await.unwrap();
    assert_eq!(*commands.lock().unwrap(), ["begin", "release"]);
}
