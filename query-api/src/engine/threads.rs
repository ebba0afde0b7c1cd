//! Threads that plans run on, apart from those that serve requests, records and commits.
//!
//! ```text
//!  main runtime   HTTP, gateway, broker, flusher, followers, requests to the object store
//!  query's own    planning, operators: blocked for as long as one operator does not come up for air
//! ```
//! Operators do not yield while they compute, so every query gets a runtime for itself: the system's
//! scheduler shares the processors between them, and a query that can't be stopped at once holds up
//! nobody else. These threads run below the priority of all others of the process, and the lower the
//! more of them there are: what all queries together may take from the others stays about the same.
//!
//! | queries that execute | nice | weight of each, of all (others: 1024 each) |
//! | --- | --- | --- |
//! | 1, 2 | 5 | 335, 670 |
//! | 4 | 8 | 172, 690 |
//! | 16 | 14 | 45, 720 |
//!
//! Invariants:
//! - a runtime belongs to one query at a time, and goes to the next one only when nothing of the
//!   last runs on it any more;
//! - what must outlive a query (followers, connections to the object store) is never spawned here;
//! - priorities only sink, as raising one again takes a privilege: threads that have sunk go with
//!   their query.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use tidelake_core::threads::{self, ThreadId};
use tokio::runtime::{Builder, Handle, Runtime};

/// Planning recurses over expressions: a bounded statement needs some MiB.
const STACK_BYTES: usize = 32 * 1024 * 1024;
/// Threads of one query for what blocks, such as spilled files.
const BLOCKING_THREADS_MAX: usize = 8;
/// The threads' priority, as by `nice`: below that of the process's others, which have 0.
const NICE: i32 = 5;
/// The lowest there is.
const NICE_MAX: i32 = 19;
/// Queries that together keep [`NICE`].
const QUERIES_AT_NICE: usize = 2;
/// Steps that halve a thread's weight: each is a factor of 1.25 (sched(7)).
const STEPS_OF_A_HALF: i32 = 3;

/// Runtimes of queries; those of queries that ended wait for the next one.
#[derive(Debug)]
pub(super) struct Threads {
    workers: usize,
    idle: Mutex<Vec<Crew>>,
}

/// A runtime, and what its threads are. None of its own where everything is done in place.
#[derive(Debug)]
struct Crew {
    runtime: Option<Runtime>,
    handle: Handle,
    level: Arc<Level>,
}

/// The priority of a runtime's threads.
#[derive(Debug)]
struct Level {
    nice: AtomicI32,
    /// As the system calls those that run.
    threads: Mutex<Vec<ThreadId>>,
}

impl Level {
    /// The calling thread is one of them.
    fn joined(&self) {
        let thread = ThreadId::own();
        let mut threads = self.threads.lock();
        threads.push(thread);
        sink(thread, self.nice.load(Ordering::Relaxed));
    }

    /// The calling thread ends: its id may be another's soon.
    fn left(&self) {
        let thread = ThreadId::own();
        self.threads.lock().retain(|held| *held != thread);
    }

    fn sink_to(&self, nice: i32) {
        let threads = self.threads.lock();
        if self.nice.fetch_max(nice, Ordering::Relaxed) < nice {
            for thread in threads.iter() {
                sink(*thread, nice);
            }
        }
    }
}

impl Crew {
    /// Tasks of a runtime that others have as well can't be told apart: there, dropping them ends
    /// them.
    fn is_idle(&self) -> bool {
        self.runtime.is_none() || self.handle.metrics().num_alive_tasks() == 0
    }

    fn disband(self) {
        if let Some(runtime) = self.runtime {
            runtime.shutdown_background();
        }
    }
}

impl Threads {
    /// `workers`: threads that one query may keep busy.
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: workers.max(1),
            idle: Mutex::default(),
        })
    }

    /// Threads for one query.
    pub(super) fn lease(self: &Arc<Self>) -> io::Result<Lease> {
        let idle = self.idle.lock().pop();
        let crew = match idle {
            Some(crew) => crew,
            None => self.begin()?,
        };
        Ok(Lease {
            crew: Some(crew),
            home: Arc::clone(self),
        })
    }

    fn begin(&self) -> io::Result<Crew> {
        let level = Arc::new(Level {
            nice: AtomicI32::new(NICE),
            threads: Mutex::default(),
        });
        if threads::works_in_place() {
            return Ok(Crew {
                runtime: None,
                handle: Handle::current(),
                level,
            });
        }
        let (joined, left) = (Arc::clone(&level), Arc::clone(&level));
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.workers)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("tidelake-query")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || joined.joined())
            .on_thread_stop(move || left.left())
            .enable_all()
            .build()?;
        Ok(Crew {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            level,
        })
    }
}

/// How far the threads of each of so many queries have to sink.
fn nice_of(queries: usize) -> i32 {
    let halves = (queries.max(1) as f64 / QUERIES_AT_NICE as f64)
        .log2()
        .ceil();
    // A few at most.
    let steps = (halves.max(0.0) as i32).saturating_mul(STEPS_OF_A_HALF);
    NICE.saturating_add(steps).min(NICE_MAX)
}

impl Drop for Threads {
    fn drop(&mut self) {
        for crew in self.idle.get_mut().drain(..) {
            crew.disband();
        }
    }
}

/// The threads of one query.
#[derive(Debug)]
pub(super) struct Lease {
    crew: Option<Crew>,
    home: Arc<Threads>,
}

impl Lease {
    fn crew(&self) -> &Crew {
        self.crew
            .as_ref()
            .expect("a lease holds its runtime to the end")
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.crew().handle
    }

    /// True where nothing of the query runs any more.
    pub(super) fn is_idle(&self) -> bool {
        self.crew().is_idle()
    }

    /// Makes room for others: `queries` execute now.
    pub(super) fn sink(&self, queries: usize) {
        self.crew().level.sink_to(nice_of(queries));
    }

    /// What runs on is of no use to anybody.
    pub(super) fn abandon(&self) {
        self.crew().level.sink_to(NICE_MAX);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(crew) = self.crew.take() else {
            return;
        };
        let has_sunk = crew.level.nice.load(Ordering::Relaxed) > NICE;
        match crew.is_idle() && !has_sunk {
            true => self.home.idle.lock().push(crew),
            // Its threads end when their tasks do.
            false => crew.disband(),
        }
    }
}

/// A thread that can't be told runs like all others.
fn sink(thread: ThreadId, nice: i32) {
    if let Err(error) = thread.sink_to(nice) {
        tracing::debug!(%error, "a query's thread keeps its priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The priorities of the threads that run.
    fn nices(lease: &Lease) -> Vec<i32> {
        let threads = lease.crew().level.threads.lock().clone();
        let nice = |thread: &ThreadId| {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", thread.number()));
            let stat = stat.expect("the thread runs");
            // The sixteenth field behind the name (proc_pid_stat(5)).
            let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
            let nice = fields.and_then(|fields| fields.split_whitespace().nth(16)?.parse().ok());
            nice.expect("a line of fields")
        };
        threads.iter().map(nice).collect()
    }

    #[test]
    fn many_queries_take_no_more_than_few() {
        let of = [1, 2, 3, 4, 8, 16, 32, 1000].map(nice_of);
        assert_eq!(of, [5, 5, 8, 8, 11, 14, 17, 19]);
        let home = Threads::new(2);
        let leases: Vec<Lease> = (0..4).map(|_| home.lease().unwrap()).collect();
        // Each thread is there once it has done something.
        for lease in &leases {
            let (send, done) = std::sync::mpsc::channel();
            lease.handle().spawn(async move { send.send(()).unwrap() });
            done.recv().unwrap();
            // It has sent a moment before it is over, and whoever is busy is not kept.
            while !lease.is_idle() {
                std::thread::yield_now();
            }
        }
        leases[0].sink(4);
        assert!(nices(&leases[0]).iter().all(|nice| *nice == 8));
        assert!(!nices(&leases[0]).is_empty());
        assert!(nices(&leases[1]).iter().all(|nice| *nice == NICE));
        drop(leases);
        // Only those that can be as quick as others are kept.
        assert_eq!(home.idle.lock().len(), 3);
        let fresh = home.lease().unwrap();
        fresh.sink(1);
        assert!(nices(&fresh).iter().all(|nice| *nice == NICE));
        fresh.abandon();
        assert!(nices(&fresh).iter().all(|nice| *nice == NICE_MAX));
    }
}
