//! The ends of a topic's buckets: one request for all queries that wait at the same time.

use std::sync::Arc;

use parking_lot::Mutex;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Offset};
use tokio::sync::oneshot;

use super::TailLog;
use super::topic::TopicSeen;
use crate::error::QueryError;

/// Of each bucket the next offset.
pub(crate) type BucketEnds = Arc<[(Bucket, Offset)]>;

/// Invariant: an answer is given only to callers who asked before its request began, so that it
/// covers whatever was acknowledged before they asked.
///
/// Requests are made by a task of their own: all who wait are woken at once, and the next request
/// does not wait for what they do with the answer.
#[derive(Debug, Default)]
pub(super) struct Ends {
    topic: TopicSeen,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// For them no request was begun yet.
    waiting: Vec<oneshot::Sender<Result<BucketEnds, QueryError>>>,
    is_running: bool,
}

impl Ends {
    pub(super) async fn get(
        self: &Arc<Self>,
        source: &Arc<TailLog>,
        entry: &Arc<TableEntry>,
    ) -> Result<BucketEnds, QueryError> {
        let (tell, told) = oneshot::channel();
        let is_running = {
            let mut asked = self.asked.lock();
            asked.waiting.push(tell);
            std::mem::replace(&mut asked.is_running, true)
        };
        if !is_running {
            let mut rounds = Rounds {
                ends: Arc::clone(self),
                are_over: false,
            };
            let (source, entry) = (Arc::clone(source), Arc::clone(entry));
            tokio::spawn(async move { rounds.run(source.as_ref(), &entry).await });
        }
        told.await.unwrap_or(Err(QueryError::Closed))
    }
}

/// One request after the other, while somebody waits.
struct Rounds {
    ends: Arc<Ends>,
    are_over: bool,
}

impl Rounds {
    async fn run(&mut self, source: &TailLog, entry: &TableEntry) {
        loop {
            let waiting = {
                let mut asked = self.ends.asked.lock();
                if asked.waiting.is_empty() {
                    asked.is_running = false;
                    self.are_over = true;
                    return;
                }
                std::mem::take(&mut asked.waiting)
            };
            let ends = self.ends.topic.ends(source, entry).await;
            let ends = ends.map(BucketEnds::from);
            for caller in waiting {
                // Who does not wait any more does not mind.
                _ = caller.send(ends.clone());
            }
        }
    }
}

impl Drop for Rounds {
    /// Where the task ended half-way, the next caller begins anew.
    fn drop(&mut self) {
        if !self.are_over {
            let mut asked = self.ends.asked.lock();
            asked.is_running = false;
            asked.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tidelake_log::{LogAdmin, LogError, TopicCreated, TopicInfo, TopicSpec};

    use super::*;
    use crate::testing::entry;

    /// What is acknowledged counts once a request has begun, and never after.
    #[derive(Debug, Default)]
    struct Log {
        acknowledged: AtomicI64,
        requests: AtomicUsize,
        at_a_time: AtomicUsize,
        fails: AtomicBool,
        panics: AtomicBool,
    }

    #[async_trait]
    impl LogAdmin for Log {
        async fn end_offsets(
            &self,
            _: &str,
            _: &[Bucket],
        ) -> Result<Vec<(Bucket, Offset)>, LogError> {
            let end = self.acknowledged.load(Ordering::SeqCst);
            self.requests.fetch_add(1, Ordering::SeqCst);
            assert_eq!(self.at_a_time.fetch_add(1, Ordering::SeqCst), 0);
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            self.at_a_time.fetch_sub(1, Ordering::SeqCst);
            assert!(!self.panics.load(Ordering::SeqCst), "told to");
            match self.fails.load(Ordering::SeqCst) {
                true => Err(LogError::Closed),
                false => Ok(vec![(Bucket(0), Offset(end))]),
            }
        }

        async fn describe(&self, _: &str) -> Result<Option<TopicInfo>, LogError> {
            let id = entry("t", 1).topic_id;
            Ok(Some(TopicInfo { id, buckets: 1 }))
        }

        async fn create_topic(&self, _: &TopicSpec) -> Result<TopicCreated, LogError> {
            Err(LogError::Closed)
        }

        async fn delete_topic(&self, _: &str) -> Result<(), LogError> {
            Err(LogError::Closed)
        }

        async fn list_topics(&self) -> Result<Vec<String>, LogError> {
            Err(LogError::Closed)
        }

        async fn start_offsets(
            &self,
            _: &str,
            _: &[Bucket],
        ) -> Result<Vec<(Bucket, Offset)>, LogError> {
            Err(LogError::Closed)
        }

        async fn alive(&self) -> Result<(), LogError> {
            Err(LogError::Closed)
        }

        async fn cluster_id(&self) -> Result<String, LogError> {
            Err(LogError::Closed)
        }
    }

    fn log() -> (Arc<Log>, Arc<TailLog>, Arc<Ends>, Arc<TableEntry>) {
        let log = Arc::new(Log::default());
        let source = Arc::new(TailLog::of_admin(log.clone()));
        (log, source, Arc::default(), Arc::new(entry("t", 1)))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn an_answer_covers_what_was_acknowledged_before_it_was_asked_for() {
        let (log, source, ends, table) = log();
        let callers = (0..40).map(|_| {
            let (log, source) = (log.clone(), source.clone());
            let (ends, table) = (ends.clone(), table.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    let own = log.acknowledged.fetch_add(1, Ordering::SeqCst) + 1;
                    let found = ends.get(&source, &table).await.unwrap();
                    assert!(found[0].1.0 >= own, "{found:?} without {own}");
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        let requests = log.requests.load(Ordering::SeqCst);
        assert!(requests < 3000, "{requests} requests for 4000 calls");
        assert!(!ends.asked.lock().is_running);
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_who_wait_and_forgotten() {
        let (log, source, ends, table) = log();
        log.fails.store(true, Ordering::SeqCst);
        let calls = (0..3).map(|_| ends.get(&source, &table));
        for answer in futures::future::join_all(calls).await {
            assert!(matches!(answer, Err(QueryError::Log(LogError::Closed))));
        }
        assert_eq!(log.requests.load(Ordering::SeqCst), 1);
        log.fails.store(false, Ordering::SeqCst);
        ends.get(&source, &table).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_request_that_died() {
        let (log, source, ends, table) = log();
        log.panics.store(true, Ordering::SeqCst);
        assert!(ends.get(&source, &table).await.is_err());
        log.panics.store(false, Ordering::SeqCst);
        ends.get(&source, &table).await.unwrap();
    }
}
