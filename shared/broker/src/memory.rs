//! Memory for requests: taken as bytes arrive, never as they are announced.
//!
//! A connection has a small share of its own, enough for everything but records, so that nobody's
//! heartbeat waits for somebody's upload. What is larger draws on the total, piece by piece. Where
//! the total is used up, one request at a time may go on beyond it, so that requests which arrived
//! half never wait for each other for ever; it must then arrive fast. So the bound for all requests
//! is the total, one request more, and the connections' own shares.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for.
pub(crate) const UNIT_BYTES: usize = 1024;
/// A connection's own share.
pub(crate) const OWN_BYTES: usize = 64 * 1024;

/// The permits for `bytes`, never more than for `bytes_max`, and one at least.
pub(crate) fn units(bytes: usize, bytes_max: usize) -> u32 {
    let units = bytes.div_ceil(UNIT_BYTES).min(bytes_max / UNIT_BYTES);
    u32::try_from(units.max(1)).unwrap_or(u32::MAX)
}

/// A semaphore over `bytes`.
pub(crate) fn budget(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / UNIT_BYTES).max(1)))
}

/// The memory of all requests under way.
#[derive(Debug)]
pub(crate) struct RequestMemory {
    bytes_max: usize,
    total: Arc<Semaphore>,
    /// The turn to go beyond the total.
    turn: Arc<Semaphore>,
}

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            total: budget(bytes_max),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.bytes_max - self.total.available_permits() * UNIT_BYTES
    }
}

/// What one connection may have under way.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    bytes_max: usize,
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl ConnectionMemory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            all: budget(bytes_max),
            own: budget(OWN_BYTES),
        }
    }

    /// Admits a request of `bytes`, once earlier ones of the connection leave room for it. Takes
    /// nothing of the total yet; of the connection's own share, as much as there is.
    pub(crate) async fn admit(&self, bytes: usize) -> Option<Lease> {
        let connection = Arc::clone(&self.all)
            .acquire_many_owned(units(bytes, self.bytes_max))
            .await
            .ok()?;
        let own_units = units(bytes, OWN_BYTES);
        let own = Arc::clone(&self.own).try_acquire_many_owned(own_units).ok();
        let covered_bytes = own.as_ref().map_or(0, |_| own_units as usize * UNIT_BYTES);
        Some(Lease {
            _connection: connection,
            _own: own,
            total: None,
            turn: None,
            covered_bytes,
        })
    }

    /// True while nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.all.available_permits() == (self.bytes_max / UNIT_BYTES).max(1)
    }
}

/// The memory of one request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    _connection: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
    total: Option<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
    covered_bytes: usize,
}

impl Lease {
    /// Makes sure that `bytes` in all are covered; waits where memory is short.
    pub(crate) async fn cover(&mut self, memory: &RequestMemory, bytes: usize) {
        let more = bytes.saturating_sub(self.covered_bytes);
        if more == 0 {
            return;
        }
        self.covered_bytes = bytes;
        if self.turn.is_some() {
            return;
        }
        let units = units(more, memory.bytes_max);
        let total = || Arc::clone(&memory.total);
        let permit = match total().try_acquire_many_owned(units) {
            Ok(permit) => Some(permit),
            Err(_) => tokio::select! {
                permit = total().acquire_many_owned(units) => permit.ok(),
                turn = Arc::clone(&memory.turn).acquire_owned() => {
                    self.turn = turn.ok();
                    None
                }
            },
        };
        match (&mut self.total, permit) {
            (Some(held), Some(permit)) => held.merge(permit),
            (held @ None, permit) => *held = permit,
            (Some(_), None) => {}
        }
    }

    /// True where it goes beyond the total: others wait for it.
    pub(crate) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn small_requests_never_wait_for_large_ones() {
        let memory = RequestMemory::new(1 << 20);
        let large = ConnectionMemory::new(8 << 20);
        let mut first = large.admit(4 << 20).await.unwrap();
        first.cover(&memory, 1 << 20).await;
        first.cover(&memory, 4 << 20).await;
        assert!(first.has_turn());
        let small = ConnectionMemory::new(8 << 20);
        let covered = async {
            let mut lease = small.admit(500).await.unwrap();
            lease.cover(&memory, 500).await;
        };
        timeout(PATIENCE, covered).await.unwrap();
        drop(first);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[tokio::test]
    async fn requests_that_arrived_half_finish_one_after_the_other() {
        let memory = Arc::new(RequestMemory::new(1 << 20));
        let halves = (0..8).map(|_| {
            let memory = Arc::clone(&memory);
            async move {
                let connection = ConnectionMemory::new(8 << 20);
                let mut lease = connection.admit(4 << 20).await.unwrap();
                for bytes in 1..=16 {
                    lease.cover(&memory, bytes << 18).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        let all = futures::future::join_all(halves);
        timeout(PATIENCE, all).await.unwrap();
        assert_eq!(memory.used_bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_announced_takes_nothing_of_the_total() {
        let memory = RequestMemory::new(1 << 20);
        let connection = ConnectionMemory::new(64 << 20);
        let mut lease = connection.admit(64 << 20).await.unwrap();
        lease.cover(&memory, OWN_BYTES).await;
        assert_eq!(memory.used_bytes(), 0);
        assert!(!connection.is_idle());
        // The next one of this connection waits, whatever others do.
        let next = connection.admit(1 << 20);
        assert!(timeout(Duration::from_millis(50), next).await.is_err());
        drop(lease);
        assert!(connection.is_idle());
    }
}
