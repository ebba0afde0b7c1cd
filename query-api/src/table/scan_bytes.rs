//! Bytes of data files that scans hold, counted beside what queries' operators take.
//!
//! A scan fetches the column chunks of a row group at once, and a foreign writer's row group may have
//! any size. Operators that can spill make room for what scans hold; so a scan takes its bytes
//! whatever operators have, and is refused, after a short wait, only where scans alone would take
//! more than all queries may, or those of one tenant more than their share.
//!
//! Invariants: what is held is at most the bound, and of a tenant its share; it is given back when its
//! reader goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use parking_lot::Mutex;
use tidelake_core::TenantId;
use tokio::sync::Notify;

use crate::error::QueryError;
use crate::moment;

/// What is decoded of a row group at a time at least: about a batch, or less where the file has less.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long a scan waits for others. Not longer: two scans of one query may wait for each other.
const WAITS_MAX: Duration = Duration::from_secs(2);

/// Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct ScanBytes {
    pool: Arc<dyn MemoryPool>,
    counts: Arc<Mutex<Counts>>,
    freed: Arc<Notify>,
    bytes_max: usize,
    /// Whose scans these are.
    tenant: Option<TenantId>,
}

#[derive(Debug, Default)]
struct Counts {
    held: usize,
    of_tenants: HashMap<TenantId, usize>,
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
            counts: Arc::default(),
            freed: Arc::default(),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            tenant: None,
        }
    }

    /// The same, for scans of a tenant: together they hold three quarters at most, so that others
    /// can read while clients of this one take their answers slowly.
    pub(super) fn of_tenant(&self, tenant: &TenantId) -> Self {
        Self {
            tenant: Some(tenant.clone()),
            ..self.clone()
        }
    }

    pub(super) fn nothing(&self) -> Held {
        Held {
            of: self.clone(),
            reservation: MemoryConsumer::new("files").register(&self.pool),
        }
    }

    fn tenant_bytes_max(&self) -> usize {
        match self.tenant {
            Some(_) => self.bytes_max - self.bytes_max / 4,
            None => self.bytes_max,
        }
    }

    /// Counts the change from `before` to `bytes`, if it fits.
    fn count(&self, before: usize, bytes: usize) -> bool {
        let mut counts = self.counts.lock();
        let of_tenant = self
            .tenant
            .as_ref()
            .and_then(|id| counts.of_tenants.get(id));
        let of_tenant = of_tenant.copied().unwrap_or(0);
        if bytes > before {
            let more = bytes - before;
            let fits =
                |held: usize, most: usize| held.checked_add(more).is_some_and(|held| held <= most);
            if !fits(counts.held, self.bytes_max) || !fits(of_tenant, self.tenant_bytes_max()) {
                return false;
            }
        }
        // What was held before is part of both sums.
        counts.held = counts.held - before + bytes;
        if let Some(tenant) = &self.tenant {
            let left = of_tenant - before + bytes;
            if left == 0 {
                counts.of_tenants.remove(tenant);
            } else {
                counts.of_tenants.insert(tenant.clone(), left);
            }
        }
        drop(counts);
        if bytes < before {
            self.freed.notify_waiters();
        }
        true
    }
}

impl Held {
    /// From now on `fetched` bytes are held and `decoded` bytes of them at a time, instead of what was
    /// before. Waits a little where other scans hold too much: they go on to their next row group, or
    /// end.
    ///
    /// # Errors
    /// [`QueryError::Memory`] where scans would hold more than they may; what was held stays.
    pub(super) async fn become_bytes(
        &self,
        fetched: usize,
        decoded: usize,
    ) -> Result<(), QueryError> {
        let bytes = fetched.saturating_add(decoded.max(fetched.min(BATCH_BYTES_MAX)));
        let most = self.of.tenant_bytes_max();
        if bytes > most {
            return Err(QueryError::Memory(format!(
                "a row group's columns take {bytes} bytes while they are read, and the scans of a \
                 tenant may take {most} together (three quarters of memory_bytes_max): ask for \
                 fewer columns, or have the file written again with smaller row groups and pages"
            )));
        }
        let until = moment::now() + WAITS_MAX;
        loop {
            let mut freed = std::pin::pin!(self.of.freed.notified());
            freed.as_mut().enable();
            if self.of.count(self.reservation.size(), bytes) {
                self.reservation.resize(bytes);
                return Ok(());
            }
            if moment::by(until, freed).await.is_err() {
                return Err(QueryError::Memory(format!(
                    "a row group's columns take {bytes} bytes, and other scans hold what is left of \
                     {most} for the scans of a tenant (three quarters of memory_bytes_max): ask \
                     again"
                )));
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.reservation.free();
        self.of.count(bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    fn bytes(most: u64) -> (Arc<dyn MemoryPool>, ScanBytes) {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1000));
        (Arc::clone(&pool), ScanBytes::new(pool, most))
    }

    #[tokio::test]
    async fn readers_together_hold_no_more_than_the_bound_and_give_it_back() {
        let (pool, bytes) = bytes(1000);
        let (one, other) = (bytes.nothing(), bytes.nothing());
        one.become_bytes(300, 0).await.unwrap();
        assert_eq!(pool.reserved(), 600, "with what is decoded of it");
        assert!(matches!(
            other.become_bytes(201, 0).await,
            Err(QueryError::Memory(_))
        ));
        other.become_bytes(200, 0).await.unwrap();
        // A smaller row group follows.
        one.become_bytes(100, 0).await.unwrap();
        assert_eq!(pool.reserved(), 600);
        other.become_bytes(100, 700).await.unwrap();
        drop(other);
        assert_eq!(pool.reserved(), 200);
        drop(one);
        assert_eq!((pool.reserved(), bytes.counts.lock().held), (0, 0));
    }

    #[tokio::test]
    async fn what_pages_become_counts() {
        let (pool, bytes) = bytes(1000);
        let held = bytes.nothing();
        let refused = held.become_bytes(10, 991).await;
        assert!(refused.unwrap_err().to_string().contains("1001 bytes"));
        held.become_bytes(10, 990).await.unwrap();
        assert_eq!(pool.reserved(), 1000);
    }

    #[tokio::test]
    async fn a_tenant_leaves_a_quarter_to_others() {
        let (pool, bytes) = bytes(1000);
        let [a, b] = ["a", "b"].map(|name| TenantId::new(name).unwrap());
        let (one, two) = (bytes.of_tenant(&a).nothing(), bytes.of_tenant(&a).nothing());
        assert!(one.become_bytes(10, 741).await.is_err());
        one.become_bytes(10, 490).await.unwrap();
        assert!(two.become_bytes(10, 241).await.is_err());
        two.become_bytes(10, 240).await.unwrap();
        let other = bytes.of_tenant(&b).nothing();
        other.become_bytes(10, 240).await.unwrap();
        drop((one, two, other));
        assert_eq!(pool.reserved(), 0);
        assert!(bytes.counts.lock().of_tenants.is_empty());
    }
}
