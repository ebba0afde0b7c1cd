//! Follows buckets of one topic as they grow, outside of any group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidelake_core::{Bucket, Offset};
use tokio::sync::mpsc;

use super::native::Client;
use super::request::PATIENCE;
use super::tail::{Outcome, Reading};
use crate::{END, KafkaSettings, LogError, News, TopicBucket};

/// Messages of one poll at most.
const BATCH_MESSAGES_MAX: usize = 10_000;
/// How long the thread waits for the first message; a follower that was dropped ends within it.
const POLL_MS: i32 = 500;
/// Batches that wait for the owner; the thread waits when they are full.
const BATCHES_MAX: usize = 2;

/// A consumer on a thread of its own. Costs one waiting fetch while nothing comes; dropped, it
/// costs nothing.
#[derive(Debug)]
pub struct Follower {
    news: mpsc::Receiver<Result<News, LogError>>,
    stopped: Arc<AtomicBool>,
}

impl Follower {
    /// Stands for the end of a bucket, wherever that is.
    pub const END: Offset = END;

    /// Follows these buckets, each from an offset on; [`Follower::END`] means: what comes from now
    /// on.
    pub fn start(
        kafka: &KafkaSettings,
        topic: &str,
        from: &[(Bucket, Offset)],
    ) -> Result<Self, LogError> {
        let client = Client::consumer(&kafka.properties_of_readers())?;
        let topic: Arc<str> = Arc::from(topic);
        let from: Vec<_> = from
            .iter()
            .map(|&(bucket, offset)| {
                let topic = topic.clone();
                (TopicBucket { topic, bucket }, offset)
            })
            .collect();
        client.assign_by_hand(&from)?;
        let (sender, news) = mpsc::channel(BATCHES_MAX);
        let stopped = Arc::new(AtomicBool::new(false));
        let poller = Poller {
            reading: Reading::new(client.clone(), &from),
            client,
            sender,
            stopped: stopped.clone(),
        };
        std::thread::Builder::new()
            .name("log-follow".into())
            .spawn(move || poller.run())
            .map_err(|error| LogError::Client(format!("start a following thread: {error}")))?;
        Ok(Self { news, stopped })
    }

    /// Waits for what comes next. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] where the log does not reach back to where a bucket was to
    /// begin, [`LogError::Damaged`] where it can't be read on; after any error the follower has
    /// ended.
    pub async fn next(&mut self) -> Result<News, LogError> {
        self.news.recv().await.unwrap_or(Err(LogError::Closed))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

struct Poller {
    client: Arc<Client>,
    reading: Reading,
    sender: mpsc::Sender<Result<News, LogError>>,
    stopped: Arc<AtomicBool>,
}

impl Poller {
    fn run(mut self) {
        while !self.stopped.load(Ordering::Relaxed) && !self.sender.is_closed() {
            let news = self.poll();
            let ended = news.is_err();
            let empty = news
                .as_ref()
                .is_ok_and(|news| news.messages.is_empty() && news.ends.is_empty());
            if !empty && self.sender.blocking_send(news).is_err() || ended {
                return;
            }
        }
    }

    /// The first message is waited for; what came with it is taken along.
    fn poll(&mut self) -> Result<News, LogError> {
        let mut raw = Vec::new();
        self.client.consume(&mut raw, 1, POLL_MS);
        if !raw.is_empty() {
            self.client.consume(&mut raw, BATCH_MESSAGES_MAX, 0);
        }
        let Outcome {
            messages,
            ends,
            failed,
        } = self.reading.take(raw, PATIENCE);
        // What came before the failure is sound, but whoever follows begins anew after it anyway.
        match failed {
            Some(error) => Err(error),
            None => Ok(News { messages, ends }),
        }
    }
}
