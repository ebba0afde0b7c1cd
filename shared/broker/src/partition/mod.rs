//! One partition: who may append, what is durable, what a consumer may see.
//!
//! Appends queue up here; one round at a time takes what waits, writes it with one call, syncs once,
//! and only then moves the high watermark, wakes consumers and answers producers ([`writer`]).
//! Consumers read what lies below the high watermark, from memory or from segments ([`read`]).
//!
//! Damage takes a partition offline: by name, with its reason, for every request, until it is
//! repaired. It never keeps the others from being served.
//!
//! Invariants: nothing at or past the high watermark is ever handed out; the high watermark never
//! passes what is on stable storage; rounds of one partition never overlap.

mod read;
mod tail;
mod writer;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use tidelake_core::clock::SharedClock;
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use crate::batch::BatchHeader;
use crate::segment::{Check, Disk, OpenFiles, RecoverError, Recovered, Segment, recover};
use crate::time;
use crate::topic_config::LiveConfig;

pub(crate) use read::{Plan, ReadError};
use tail::Tail;
use writer::Writer;

/// A round takes no more than this, unless a single append is larger.
const ROUND_BYTES_MAX: usize = 8 << 20;

/// What all partitions of a broker share.
#[derive(Debug)]
pub(crate) struct PartitionContext {
    pub disk: Arc<dyn Disk>,
    pub clock: SharedClock,
    pub runtime: Handle,
    pub files: Arc<OpenFiles>,
    /// How far closed segments are checked when a partition is opened.
    pub check: Check,
    pub fsync: bool,
    pub flush_linger: Duration,
    pub tail_bytes_max: usize,
    pub partition_tail_bytes_max: usize,
    /// Tail bytes of all partitions.
    pub tail_bytes: AtomicUsize,
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub base_offset: i64,
    pub log_start: i64,
}

/// Why an append was refused: the batch it speaks of, and those after it in the set, are not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendError {
    OutOfOrderSequence,
    OldProducerEpoch,
    /// The disk is full or failing, or the partition is damaged.
    Storage,
    /// The topic was deleted.
    Deleted,
    /// The broker shuts down.
    Closed,
}

/// The offsets a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub log_start: i64,
    pub high_watermark: i64,
}

type AppendAnswer = oneshot::Sender<Result<Appended, AppendError>>;

#[derive(Debug)]
struct Append {
    records: Bytes,
    headers: Vec<BatchHeader>,
    answer: AppendAnswer,
}

#[derive(Debug, Default)]
struct Queue {
    appends: VecDeque<Append>,
    bytes: usize,
    draining: bool,
    closed: bool,
}

/// What readers see.
#[derive(Debug)]
struct View {
    /// Oldest first, never empty; appends go to the last.
    segments: Vec<Arc<Segment>>,
    extent: Extent,
    tail: Tail,
    deleted: bool,
}

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    name: String,
    dir: PathBuf,
    context: Arc<PartitionContext>,
    config: LiveConfig,
    /// `None` where recovery found damage.
    log: Option<Log>,
    /// Why every request is refused. Once set it stays: a repair needs the broker to stop.
    offline: OnceLock<String>,
}

#[derive(Debug)]
struct Log {
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    /// Held for a round, a roll or retention.
    writer: Mutex<Writer>,
    view: RwLock<View>,
    advanced: Notify,
    idle: Notify,
}

impl Partition {
    /// Recovers a partition from its folder. Damage takes the partition offline, loudly; it never
    /// keeps the others from being served. Blocks on the disk.
    pub(crate) fn open(
        name: String,
        dir: PathBuf,
        context: Arc<PartitionContext>,
        config: LiveConfig,
    ) -> Arc<Self> {
        let opened = Self::open_log(&dir, &context);
        let partition = |log| {
            Arc::new(Self {
                name,
                dir,
                context,
                config,
                log,
                offline: OnceLock::new(),
            })
        };
        match opened {
            Ok(log) => partition(Some(log)),
            Err(error) => {
                let partition = partition(None);
                partition.take_offline(crate::damage::reason(&error));
                partition
            }
        }
    }

    /// Refuses every request from now on, and says why.
    pub(crate) fn take_offline(&self, reason: String) {
        if let Err(reason) = self.offline.set(reason) {
            tracing::debug!(partition = %self.name, reason, "partition is offline already");
            return;
        }
        tracing::error!(
            partition = %self.name,
            reason = self.offline.get(),
            "partition is offline: stop the broker and repair the partition, or delete its topic"
        );
        if let Some(log) = &self.log {
            log.advanced.notify_waiters();
        }
    }

    /// Why the partition refuses every request, if it does.
    pub(crate) fn offline(&self) -> Option<&str> {
        self.offline.get().map(String::as_str)
    }

    /// What is served.
    fn log(&self) -> Option<&Log> {
        self.log.as_ref().filter(|_| self.offline.get().is_none())
    }

    fn open_log(dir: &std::path::Path, context: &PartitionContext) -> Result<Log, RecoverError> {
        let now_ms = context.clock.now_ms();
        let Recovered {
            segments,
            producers,
        } = recover(dir, now_ms, &context.files, context.check)?;
        let segments: Vec<_> = segments.into_iter().map(Arc::new).collect();
        let first = segments
            .first()
            .expect("recovery leaves a segment")
            .base_offset();
        let active = Arc::clone(segments.last().expect("recovery leaves a segment"));
        let next_offset = active.contents().next_offset;
        Ok(Log {
            queue: Mutex::new(Queue::default()),
            queue_changed: Condvar::new(),
            writer: Mutex::new(Writer::new(active, producers)),
            view: RwLock::new(View {
                segments,
                extent: Extent {
                    log_start: first,
                    high_watermark: next_offset,
                },
                tail: Tail::default(),
                deleted: false,
            }),
            advanced: Notify::new(),
            idle: Notify::new(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Queues a checked record set. The answer comes once it is durable, in the order of the calls.
    /// A receiver that hears nothing may take it for [`AppendError::Storage`].
    pub(crate) fn append(
        self: &Arc<Self>,
        records: Bytes,
        headers: Vec<BatchHeader>,
    ) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, receiver) = oneshot::channel();
        let refuse = |answer: AppendAnswer, error| _ = answer.send(Err(error));
        let Some(log) = self.log() else {
            refuse(answer, AppendError::Storage);
            return receiver;
        };
        let mut queue = log.queue.lock();
        if queue.closed {
            refuse(answer, AppendError::Closed);
            return receiver;
        }
        queue.bytes += records.len();
        queue.appends.push_back(Append {
            records,
            headers,
            answer,
        });
        if queue.draining {
            log.queue_changed.notify_one();
        } else {
            queue.draining = true;
            let partition = Arc::clone(self);
            self.context
                .runtime
                .spawn_blocking(move || partition.drain());
        }
        receiver
    }

    /// Runs rounds until nothing waits.
    fn drain(&self) {
        let Some(log) = &self.log else { return };
        loop {
            let appends = {
                let mut queue = log.queue.lock();
                self.linger(log, &mut queue);
                if queue.appends.is_empty() {
                    queue.draining = false;
                    log.idle.notify_waiters();
                    return;
                }
                queue.take_round()
            };
            self.round(log, appends);
        }
    }

    fn linger(&self, log: &Log, queue: &mut parking_lot::MutexGuard<'_, Queue>) {
        if self.context.flush_linger.is_zero() || queue.appends.is_empty() {
            return;
        }
        let until = time::now() + self.context.flush_linger;
        while queue.bytes < ROUND_BYTES_MAX && !queue.closed {
            if log
                .queue_changed
                .wait_until(queue, until.into_std())
                .timed_out()
            {
                break;
            }
        }
    }

    /// The offsets a client may ask for; `None` while the partition is offline or deleted.
    pub(crate) fn extent(&self) -> Option<Extent> {
        let view = self.log()?.view.read();
        (!view.deleted).then_some(view.extent)
    }

    /// Completes when the high watermark moves, or the partition goes away, after this call.
    pub(crate) fn advanced(&self) -> Option<Notified<'_>> {
        self.log().map(|log| log.advanced.notified())
    }

    /// Refuses everything from now on and wakes those who wait. The files are the caller's. Blocks.
    pub(crate) fn delete(&self) {
        let Some(log) = &self.log else { return };
        // Not within a round or a roll, which could create a file in the folder's successor.
        let _writer = log.writer.lock();
        let mut view = log.view.write();
        view.deleted = true;
        view.segments.iter().for_each(|segment| segment.delete());
        view.tail.clear(&self.context.tail_bytes);
        drop(view);
        log.advanced.notify_waiters();
    }

    /// Takes no more appends, and waits for those that are queued.
    pub(crate) async fn close(&self) {
        let Some(log) = &self.log else { return };
        log.queue.lock().closed = true;
        log.queue_changed.notify_one();
        loop {
            let idle = log.idle.notified();
            if !log.queue.lock().draining {
                return;
            }
            idle.await;
        }
    }
}

impl Queue {
    fn take_round(&mut self) -> Vec<Append> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.appends.front() {
            if bytes > 0 && bytes + next.records.len() > ROUND_BYTES_MAX {
                break;
            }
            bytes += next.records.len();
            taken.extend(self.appends.pop_front());
        }
        self.bytes -= bytes;
        taken
    }
}

#[cfg(test)]
mod tests;
