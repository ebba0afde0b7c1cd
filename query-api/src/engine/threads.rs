//! Threads that plans run on, apart from those that serve requests, records and commits.
//!
//! ```text
//!  main runtime   HTTP, gateway, broker, flusher, followers, requests to the object store
//!  query's own    planning, operators: blocked for as long as one operator does not come up for air
//! ```
//! Operators do not yield while they compute, so every query gets a runtime for itself: the system's
//! scheduler shares the processors between them, and a query that can't be stopped at once holds up
//! nobody else. These threads run below the priority of all others of the process.
//!
//! Invariants:
//! - a runtime belongs to one query at a time, and goes to the next one only when nothing of the
//!   last runs on it any more;
//! - what must outlive a query (followers, connections to the object store) is never spawned here.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

/// Planning recurses over expressions: a bounded statement needs some MiB.
const STACK_BYTES: usize = 32 * 1024 * 1024;
/// Threads of one query for what blocks, such as spilled files.
const BLOCKING_THREADS_MAX: usize = 8;
/// The threads' priority, as by `nice`: below that of the process's others, which have 0.
const NICE: i32 = 5;

/// Runtimes of queries; those of queries that ended wait for the next one.
#[derive(Debug)]
pub(super) struct Threads {
    workers: usize,
    idle: Mutex<Vec<Runtime>>,
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
        let runtime = match idle {
            Some(runtime) => runtime,
            None => self.begin()?,
        };
        Ok(Lease {
            runtime: Some(runtime),
            home: Arc::clone(self),
        })
    }

    fn begin(&self) -> io::Result<Runtime> {
        Builder::new_multi_thread()
            .worker_threads(self.workers)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("tidelake-query")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(lower_priority)
            .enable_all()
            .build()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for runtime in self.idle.get_mut().drain(..) {
            runtime.shutdown_background();
        }
    }
}

/// The threads of one query.
#[derive(Debug)]
pub(super) struct Lease {
    runtime: Option<Runtime>,
    home: Arc<Threads>,
}

impl Lease {
    pub(super) fn handle(&self) -> &Handle {
        let runtime = self.runtime.as_ref();
        runtime
            .expect("a lease holds its runtime to the end")
            .handle()
    }

    /// True where nothing of the query runs any more.
    pub(super) fn is_idle(&self) -> bool {
        self.handle().metrics().num_alive_tasks() == 0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        match runtime.metrics().num_alive_tasks() {
            0 => self.home.idle.lock().push(runtime),
            // Its threads end when their tasks do.
            _ => runtime.shutdown_background(),
        }
    }
}

/// A thread that can't be told runs like all others.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        // On Linux the priority is the calling thread's, where no id is given (setpriority(2)).
        #[expect(unsafe_code, reason = "a system call that takes numbers only")]
        let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0;
        if failed {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "a query's thread keeps its priority");
        }
    }
}
