//! A query's execution: a task on threads of its own, and whoever watches over it.
//!
//! ```text
//!   query's threads                        main runtime
//!   drive: plan ─► stream ─► batch ══ bounded channel ══► Rows ─► a door (HTTP, …)
//!                     ▲                                     │ dropped: the reader went
//!   supervise: done · cancelled · out of time · not read · reader gone ─► verdict
//! ```
//! Owns the deadline, the turn and the end of an execution. The watch does not depend on the plan:
//! a reader hears of the end within moments, whatever an operator is doing. What can't be stopped at
//! once is abandoned: it keeps its threads and its turn, and is counted, until it stops.
//!
//! Invariants:
//! - the deadline counts what is executed or waited for, but not the time that a reader takes; that
//!   is bounded apart;
//! - a turn is held while the plan executes, and given back while its output is not taken;
//! - a query ends once: the first of answer, error, cancellation, time-out and departure counts.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::interrupt::Interrupt;
use super::threads::Lease;
use crate::admission::{Ending, Running, Turn};
use crate::error::QueryError;
use crate::formats::{output_batch, output_schema};
use crate::metrics::QueryMetrics;
use crate::moment;

/// Bytes that are handed over at a time, should one row not have more.
const SLICE_BYTES: usize = 1 << 20;
/// Batches that are ready before they are taken.
const BATCHES_AHEAD: usize = 2;
/// A query that is over and works on for so long is counted as abandoned.
const ABANDONED_AFTER: Duration = Duration::from_millis(100);
/// How often it is looked at once whether a query left anything behind, and for how long then.
const LOOKS_AT_ONCE: usize = 64;
const SETTLES_WITHIN: Duration = Duration::from_millis(20);
/// How often a query that goes on makes room for others, if there are many.
const SINKS_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked whether an abandoned query's threads are free.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// What the execution, its watch and its reader share.
#[derive(Debug)]
struct Progress {
    clock: Mutex<ExecutionClock>,
    /// A stall began or ended: what is looked at next is another moment.
    stalls: Notify,
    /// Given back while nothing executes.
    turn: Mutex<Option<Turn>>,
    /// The reader is gone.
    gone: CancellationToken,
    /// There is a verdict.
    over: CancellationToken,
    verdict: Mutex<Option<Result<(), QueryError>>>,
    ending: Arc<Ending>,
}

/// How long a query executed, without the time that its reader took.
#[derive(Debug)]
struct ExecutionClock {
    /// When it would have begun without any stall.
    begun: Instant,
    stalled_since: Option<Instant>,
}

impl Progress {
    fn stalled(&self) {
        self.clock.lock().stalled_since = Some(moment::now());
        self.turn.lock().take();
        self.stalls.notify_one();
    }

    fn goes_on(&self) {
        let mut clock = self.clock.lock();
        if let Some(since) = clock.stalled_since.take() {
            clock.begun += moment::age(since);
        }
        drop(clock);
        // The deadline counts again, and may be nearer than the stall's end.
        self.stalls.notify_one();
    }

    /// It was ended because the process stops.
    fn is_closed(&self) -> bool {
        self.over.is_cancelled() && matches!(&*self.verdict.lock(), Some(Err(QueryError::Closed)))
    }

    /// The first verdict counts.
    fn decide(&self, verdict: Result<(), QueryError>) {
        let mut held = self.verdict.lock();
        if held.is_none() {
            if let Err(error) = &verdict {
                self.ending.tell(error.outcome());
            }
            *held = Some(verdict);
        }
        drop(held);
        self.over.cancel();
    }
}

/// Bounds of one execution.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    timeout: Duration,
    stall: Duration,
}

impl Bounds {
    /// When to look again, and the error that is due then.
    fn next(self, clock: &ExecutionClock) -> (Instant, QueryError) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let deadline = clock.begun + self.timeout;
        match clock.stalled_since {
            // Whoever was too late already does not get more time by stalling.
            Some(since) if since < deadline => {
                (since + self.stall, QueryError::Stalled(millis(self.stall)))
            }
            _ => (deadline, QueryError::Timeout(millis(self.timeout))),
        }
    }
}

/// What an execution needs beside its plan.
pub(super) struct Context {
    pub running: Running,
    pub turn: Turn,
    pub turns: Arc<Semaphore>,
    pub lease: Lease,
    pub interrupt: Interrupt,
    pub stall_max: Duration,
    pub metrics: QueryMetrics,
}

/// Starts `plan` on its threads; the rows come with their schema once it is planned.
///
/// # Errors
/// Whatever keeps the plan from its first row, or from being made at all.
pub(super) async fn start<P>(context: Context, plan: P) -> Result<(SchemaRef, Rows), QueryError>
where
    P: Future<Output = Result<SendableRecordBatchStream, QueryError>> + Send + 'static,
{
    let Context {
        running,
        turn,
        turns,
        lease,
        interrupt,
        stall_max,
        metrics,
    } = context;
    let progress = Arc::new(Progress {
        clock: Mutex::new(ExecutionClock {
            begun: running.begun,
            stalled_since: None,
        }),
        stalls: Notify::new(),
        turn: Mutex::new(Some(turn)),
        gone: CancellationToken::new(),
        over: CancellationToken::new(),
        verdict: Mutex::new(None),
        ending: Arc::clone(&running.ending),
    });
    let (begin, begun) = oneshot::channel();
    let (send, batches) = mpsc::channel(BATCHES_AHEAD);
    let rows = Rows {
        batches,
        progress: Arc::clone(&progress),
        begun: running.begun,
    };
    let out = Output {
        batches: send,
        turns,
        progress: Arc::clone(&progress),
    };
    let driven = lease.handle().spawn(drive(plan, begin, out));
    let bounds = Bounds {
        timeout: running.timeout,
        stall: stall_max.min(running.timeout),
    };
    let watch = Watch {
        driven,
        lease,
        running,
        interrupt,
        progress: Arc::clone(&progress),
        bounds,
        metrics,
    };
    tokio::spawn(watch.supervise());
    let schema = tokio::select! {
        biased;
        schema = begun => schema.ok(),
        () = progress.over.cancelled() => None,
    };
    match schema {
        Some(schema) => Ok((schema, rows)),
        None => Err(rows.verdict().await.err().unwrap_or(QueryError::Closed)),
    }
}

/// Where batches go.
struct Output {
    batches: mpsc::Sender<RecordBatch>,
    turns: Arc<Semaphore>,
    progress: Arc<Progress>,
}

impl Output {
    /// False where nobody takes them any more.
    async fn push(&self, batch: RecordBatch) -> bool {
        let Err(full) = self.batches.try_send(batch) else {
            return true;
        };
        let mpsc::error::TrySendError::Full(batch) = full else {
            return false;
        };
        self.progress.stalled();
        let taken = self.batches.send(batch).await;
        self.progress.goes_on();
        if taken.is_err() {
            return false;
        }
        match Arc::clone(&self.turns).acquire_owned().await {
            Ok(turn) => *self.progress.turn.lock() = Some(turn),
            Err(_) => return false,
        }
        true
    }
}

async fn drive<P>(plan: P, begin: oneshot::Sender<SchemaRef>, out: Output) -> Result<(), QueryError>
where
    P: Future<Output = Result<SendableRecordBatchStream, QueryError>> + Send,
{
    let mut stream = plan.await?;
    let schema = output_schema(&stream.schema());
    // Who went meanwhile is noticed by the watch.
    let _gone = begin.send(Arc::clone(&schema));
    while let Some(batch) = stream.next().await {
        let batch = output_batch(&batch?, &schema)?;
        for slice in slices(&batch) {
            if !out.push(slice).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A batch in pieces that a reader takes, writes and counts in moments.
fn slices(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> + '_ {
    let columns = batch.columns().iter();
    let bytes = columns.map(|column| {
        let data = column.to_data();
        // Where it can't be told, the buffers' size is at least not less.
        data.get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size())
    });
    let (rows, bytes) = (batch.num_rows(), bytes.sum::<usize>());
    let each = match bytes > SLICE_BYTES {
        true => (rows.saturating_mul(SLICE_BYTES) / bytes).max(1),
        false => rows.max(1),
    };
    let starts = (0..rows).step_by(each);
    starts.map(move |start| batch.slice(start, each.min(rows - start)))
}

/// Watches over one execution from the main runtime.
struct Watch {
    driven: JoinHandle<Result<(), QueryError>>,
    lease: Lease,
    running: Running,
    interrupt: Interrupt,
    progress: Arc<Progress>,
    bounds: Bounds,
    metrics: QueryMetrics,
}

impl Watch {
    async fn supervise(mut self) {
        let verdict = self.verdict().await;
        // Whatever still runs has no purpose any more.
        self.interrupt.set();
        self.driven.abort();
        // Most queries leave nothing behind: who asks the next one upon this answer finds room.
        let settled = settled(&self.lease).await;
        self.running.over();
        let counted = match settled {
            true => {
                drop(self.running);
                None
            }
            false => Some(self.running),
        };
        // Where the reader went nobody is told.
        self.progress.decide(verdict.unwrap_or(Ok(())));
        freed(&self.lease, &self.metrics).await;
        drop(self.lease);
        self.progress.turn.lock().take();
        // Its tenant has room again only now that its threads have.
        drop(counted);
    }

    /// How the query ended; `None` where its reader went.
    async fn verdict(&mut self) -> Option<Result<(), QueryError>> {
        let mut sinks = moment::now() + SINKS_EVERY;
        loop {
            let (wake, due) = self.bounds.next(&self.progress.clock.lock());
            tokio::select! {
                biased;
                done = &mut self.driven => {
                    let failed = |error: tokio::task::JoinError| {
                        QueryError::Engine(format!("the query's task ended: {error}"))
                    };
                    return Some(done.unwrap_or_else(|error| Err(failed(error))));
                }
                ended = self.running.cancelled() => return Some(Err(ended)),
                () = self.progress.gone.cancelled() => return None,
                () = self.progress.stalls.notified() => {}
                () = moment::reach(sinks) => {
                    self.lease.sink(self.running.executing());
                    sinks = moment::now() + SINKS_EVERY;
                }
                () = moment::reach(wake) => {
                    // Perhaps the reader took something meanwhile, which moves the end.
                    let (wake, _) = self.bounds.next(&self.progress.clock.lock());
                    if wake <= moment::now() {
                        return Some(Err(due));
                    }
                }
            }
        }
    }
}

/// Does work on threads of its own that nobody else's plan runs on; dropping it ends the work.
pub(super) async fn aside<T: Send + 'static, H: Send + 'static>(
    (turn, lease): (H, Lease),
    metrics: QueryMetrics,
    work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
) -> Result<T, QueryError> {
    let (mut tell, told) = oneshot::channel();
    let mut task = lease.handle().spawn(work);
    tokio::spawn(async move {
        let done = tokio::select! {
            biased;
            done = &mut task => Some(done),
            () = tell.closed() => None,
        };
        if let Some(done) = done {
            let failed = |error| Err(QueryError::Engine(format!("the task ended: {error}")));
            // Who does not wait any more does not mind.
            let _gone = tell.send(done.unwrap_or_else(failed));
        }
        task.abort();
        freed(&lease, &metrics).await;
        drop((lease, turn));
    });
    told.await.unwrap_or(Err(QueryError::Closed))
}

/// True where nothing runs on the threads any more, within moments.
async fn settled(lease: &Lease) -> bool {
    for _ in 0..LOOKS_AT_ONCE {
        if lease.is_idle() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    // Its threads are the last to run on a busy machine.
    let until = moment::now() + SETTLES_WITHIN;
    while !lease.is_idle() && moment::now() < until {
        moment::reach(moment::now() + LOOK_FIRST).await;
    }
    lease.is_idle()
}

/// Waits until nothing runs on the threads any more.
async fn freed(lease: &Lease, metrics: &QueryMetrics) {
    let begun = moment::now();
    let mut pause = LOOK_FIRST;
    let mut counted = None;
    while !lease.is_idle() {
        if counted.is_none() && moment::age(begun) > ABANDONED_AFTER {
            counted = Some(Counted::begin(metrics));
            lease.abandon();
        }
        moment::reach(moment::now() + pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

struct Counted(prometheus::IntGauge);

impl Counted {
    fn begin(metrics: &QueryMetrics) -> Self {
        metrics.abandoned.inc();
        Self(metrics.abandoned.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The rows of an execution, as they are taken. Dropping them ends it.
#[derive(Debug)]
pub(crate) struct Rows {
    batches: mpsc::Receiver<RecordBatch>,
    progress: Arc<Progress>,
    pub(crate) begun: Instant,
}

impl Rows {
    /// Rows that are there already.
    pub(super) fn ready(running: &Running, batch: RecordBatch) -> Self {
        let (send, batches) = mpsc::channel(1);
        // There is room for one.
        let _sent = send.try_send(batch);
        let over = CancellationToken::new();
        over.cancel();
        Self {
            batches,
            progress: Arc::new(Progress {
                clock: Mutex::new(ExecutionClock {
                    begun: running.begun,
                    stalled_since: None,
                }),
                stalls: Notify::new(),
                turn: Mutex::default(),
                gone: CancellationToken::new(),
                over,
                verdict: Mutex::new(Some(Ok(()))),
                ending: Arc::clone(&running.ending),
            }),
            begun: running.begun,
        }
    }

    /// The next rows, none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        // Nobody has time for rows that are ready when the process stops.
        if self.progress.is_closed() {
            return Err(QueryError::Closed);
        }
        let batch = tokio::select! {
            biased;
            batch = self.batches.recv() => batch,
            () = self.progress.over.cancelled() => self.batches.try_recv().ok(),
        };
        match batch {
            Some(batch) => Ok(Some(batch)),
            None => self.verdict().await.map(|()| None),
        }
    }

    async fn verdict(&self) -> Result<(), QueryError> {
        self.progress.over.cancelled().await;
        self.progress.verdict.lock().clone().unwrap_or(Ok(()))
    }

    /// Tells how the answer ended, where its reader knows.
    pub(crate) fn ended(&self, outcome: &'static str) {
        self.progress.ending.tell(outcome);
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // Counts only where nobody said otherwise.
        self.progress.ending.tell("disconnected");
        self.progress.gone.cancel();
    }
}
