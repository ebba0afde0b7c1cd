//! Where flushes compute: threads below the priority of those that somebody waits for.
//!
//! What was accepted is in the log already, so a flush may come a little later; an acknowledgement,
//! or a reader who follows the log, may not. With as many threads as processors busy with encoding
//! and merging, whoever woke up beside them would wait for the scheduler's next turn.

use std::sync::{Arc, OnceLock};

use tidelake_core::threads::{self, ThreadId};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::TableError;

/// As by `nice`: a third of the weight of the threads at 0, which is what flushes keep where the
/// processors are too few for all.
const NICE: i32 = 5;
/// Of each processor: some write files while others compute.
const THREADS_OF_A_CORE: usize = 2;

/// Runs work of a flush on such a thread.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    if threads::works_in_place() {
        return work();
    }
    let failed = |error: &dyn std::fmt::Display| TableError::Worker(error.to_string());
    let threads = handle().map_err(|error| failed(&error))?;
    let done = threads.spawn_blocking(work).await;
    done.map_err(|error| failed(&error))?
}

/// The process's, started when the first is needed.
fn handle() -> Result<Handle, Arc<std::io::Error>> {
    static THREADS: OnceLock<Result<Runtime, Arc<std::io::Error>>> = OnceLock::new();
    let started = THREADS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Only its blocking threads are used: nothing drives the runtime itself.
        Builder::new_current_thread()
            .max_blocking_threads(cores * THREADS_OF_A_CORE)
            .thread_name("tidelake-flush")
            .on_thread_start(|| {
                if let Err(error) = ThreadId::own().sink_to(NICE) {
                    tracing::debug!(%error, "a flush's thread keeps its priority");
                }
            })
            .build()
            .map_err(Arc::new)
    });
    let runtime = started.as_ref().map_err(Arc::clone)?;
    Ok(runtime.handle().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn flushes_compute_below_the_others() {
        let name = || Ok(std::thread::current().name().map(str::to_owned));
        let own = std::thread::current().name().map(str::to_owned);
        let of_flush = aside(name).await.unwrap();
        assert_eq!(of_flush.as_deref(), Some("tidelake-flush"));
        assert_ne!(own, of_flush);
        let stat = || std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let nice = |stat: &str| {
            let fields = stat.rsplit_once(')').unwrap().1;
            fields
                .split_whitespace()
                .nth(16)
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        let before = nice(&stat());
        let sunk = aside(move || Ok(nice(&stat()))).await.unwrap();
        assert_eq!(sunk, NICE.max(before));
    }
}
