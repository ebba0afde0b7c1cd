//! Bytes of data files that scans hold, counted beside what queries' operators take.
//!
//! A scan fetches the column chunks of a row group at once, and a foreign writer's row group may have
//! any size. Operators that can spill make room for what scans hold; so a scan takes its bytes
//! without being asked to wait, and is refused only where scans alone would take more than all
//! queries may.
//!
//! Invariant: what is held is at most the bound, and given back when its reader goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

use crate::error::QueryError;

/// What is decoded of a row group at a time: about a batch, or less where the file has less.
const DECODED_BYTES_MAX: usize = 4 << 20;

/// Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct ScanBytes {
    pool: Arc<dyn MemoryPool>,
    held: Arc<AtomicUsize>,
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
    /// From now on `fetched` bytes are held, instead of what was before.
    ///
    /// # Errors
    /// [`QueryError::Memory`] where scans would hold more than all queries may; what was held stays.
    pub(super) fn become_bytes(&self, fetched: usize) -> Result<(), QueryError> {
        let bytes = fetched.saturating_add(fetched.min(DECODED_BYTES_MAX));
        let before = self.reservation.size();
        let held = &self.of.held;
        if bytes > before {
            let more = bytes - before;
            let fits = |held: usize| {
                held.checked_add(more)
                    .filter(|sum| *sum <= self.of.bytes_max)
            };
            let order = Ordering::Relaxed;
            if held.fetch_update(order, order, fits).is_err() {
                let bytes_max = self.of.bytes_max;
                return Err(QueryError::Memory(format!(
                    "a row group's columns take {bytes} bytes more while they are read, and all \
                     queries may take {bytes_max} together (memory_bytes_max): ask for fewer columns"
                )));
            }
        } else {
            held.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        self.reservation.resize(bytes);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.reservation.free();
        self.of.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn readers_together_hold_no_more_than_the_bound_and_give_it_back() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1000));
        let bytes = ScanBytes::new(Arc::clone(&pool), 1000);
        let (one, other) = (bytes.nothing(), bytes.nothing());
        one.become_bytes(300).unwrap();
        assert_eq!(pool.reserved(), 600, "with what is decoded of it");
        assert!(matches!(
            other.become_bytes(201),
            Err(QueryError::Memory(_))
        ));
        other.become_bytes(200).unwrap();
        // A smaller row group follows.
        one.become_bytes(100).unwrap();
        assert_eq!(pool.reserved(), 600);
        other.become_bytes(400).unwrap();
        drop(other);
        assert_eq!(pool.reserved(), 200);
        drop(one);
        assert_eq!(
            (pool.reserved(), bytes.held.load(Ordering::Relaxed)),
            (0, 0)
        );
    }
}
