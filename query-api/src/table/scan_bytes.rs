//! Bytes of data files that scans hold, counted beside what queries' operators take.
//!
//! A scan fetches the column chunks of a row group at once, and a foreign writer's row group may have
//! any size. Operators that can spill make room for what scans hold; so a scan takes its bytes
//! whatever operators have, and is refused, after a short wait, only where scans alone would take
//! more than all queries may.
//!
//! Invariant: what is held is at most the bound, and given back when its reader goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use tokio::sync::Notify;

use crate::error::QueryError;
use crate::moment;

/// What is decoded of a row group at a time: about a batch, or less where the file has less.
const DECODED_BYTES_MAX: usize = 4 << 20;
/// How long a scan waits for others. Not longer: two scans of one query may wait for each other.
const WAITS_MAX: Duration = Duration::from_secs(2);

/// Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct ScanBytes {
    pool: Arc<dyn MemoryPool>,
    held: Arc<AtomicUsize>,
    freed: Arc<Notify>,
    bytes_max: usize,
}

/// What one reader holds.
#[derive(Debug)]
pub(super) struct Held {
    of: ScanBytes,
    reservation: MemoryReservation,
}

impl ScanBytes {
    /// `pool` is that of the queries' operators, which has `bytes_max` bytes.
    pub(crate) fn new(pool: Arc<dyn MemoryPool>, bytes_max: u64) -> Self {
        Self {
            pool,
            held: Arc::default(),
            freed: Arc::default(),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn nothing(&self) -> Held {
        Held {
            of: self.clone(),
            reservation: MemoryConsumer::new("files").register(&self.pool),
        }
    }
}

impl Held {
    /// From now on `fetched` bytes are held, instead of what was before. Waits a little where other
    /// scans hold too much: they go on to their next row group, or end.
    ///
    /// # Errors
    /// [`QueryError::Memory`] where scans would hold more than all queries may; what was held stays.
    pub(super) async fn become_bytes(&self, fetched: usize) -> Result<(), QueryError> {
        let bytes = fetched.saturating_add(fetched.min(DECODED_BYTES_MAX));
        let bytes_max = self.of.bytes_max;
        if bytes > bytes_max {
            return Err(QueryError::Memory(format!(
                "a row group's columns take {bytes} bytes while they are read, and all queries may \
                 take {bytes_max} together (memory_bytes_max): ask for fewer columns"
            )));
        }
        let until = moment::now() + WAITS_MAX;
        loop {
            let mut freed = std::pin::pin!(self.of.freed.notified());
            freed.as_mut().enable();
            if self.fits(bytes) {
                return Ok(());
            }
            if moment::by(until, freed).await.is_err() {
                let held = self.of.held.load(Ordering::Relaxed);
                return Err(QueryError::Memory(format!(
                    "a row group's columns take {bytes} bytes, and the scans of all queries hold \
                     {held} of {bytes_max} (memory_bytes_max): ask again"
                )));
            }
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        let before = self.reservation.size();
        let (held, order) = (&self.of.held, Ordering::Relaxed);
        if bytes > before {
            let more = bytes - before;
            let sum = |held: usize| {
                held.checked_add(more)
                    .filter(|sum| *sum <= self.of.bytes_max)
            };
            if held.fetch_update(order, order, sum).is_err() {
                return false;
            }
        } else {
            held.fetch_sub(before - bytes, order);
            self.of.freed.notify_waiters();
        }
        self.reservation.resize(bytes);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.reservation.free();
        self.of.held.fetch_sub(bytes, Ordering::Relaxed);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[tokio::test]
    async fn readers_together_hold_no_more_than_the_bound_and_give_it_back() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1000));
        let bytes = ScanBytes::new(Arc::clone(&pool), 1000);
        let (one, other) = (bytes.nothing(), bytes.nothing());
        one.become_bytes(300).await.unwrap();
        assert_eq!(pool.reserved(), 600, "with what is decoded of it");
        assert!(matches!(
            other.become_bytes(201).await,
            Err(QueryError::Memory(_))
        ));
        other.become_bytes(200).await.unwrap();
        // A smaller row group follows.
        one.become_bytes(100).await.unwrap();
        assert_eq!(pool.reserved(), 600);
        other.become_bytes(400).await.unwrap();
        drop(other);
        assert_eq!(pool.reserved(), 200);
        drop(one);
        assert_eq!(
            (pool.reserved(), bytes.held.load(Ordering::Relaxed)),
            (0, 0)
        );
    }
}
