//! How many connections are open, of all peers and of each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    places_max: u32,
    /// Of peers that have any.
    peers: Mutex<HashMap<IpAddr, usize>>,
    peer_max: usize,
}

/// A place that nobody has yet.
pub(super) struct FreePlace<'a> {
    connections: &'a Arc<Connections>,
    permit: OwnedSemaphorePermit,
}

/// One open connection; closed for the counts when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    connections: Arc<Connections>,
    peer: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(places_max: usize, peer_max: usize) -> Arc<Self> {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let places_max = places_max.clamp(1, most);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places_max)),
            places_max: places_max as u32,
            peers: Mutex::default(),
            peer_max: peer_max.max(1),
        })
    }

    /// Waits while as many are open as may be.
    pub(super) async fn free_place(self: &Arc<Self>) -> FreePlace<'_> {
        let permit = Arc::clone(&self.places).acquire_owned().await;
        FreePlace {
            connections: self,
            permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// A place for a peer's connection, where one is free and the peer may have it.
    pub(super) fn place_now(self: &Arc<Self>, peer: IpAddr) -> Option<Connection> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let free = FreePlace {
            connections: self,
            permit,
        };
        free.of_peer(peer)
    }

    /// Waits until none is open.
    pub(super) async fn all_closed(&self) {
        let all = self.places.acquire_many(self.places_max).await;
        drop(all);
    }
}

impl FreePlace<'_> {
    /// The place taken; none where the peer has as many as one may have.
    pub(super) fn of_peer(self, peer: IpAddr) -> Option<Connection> {
        let mut peers = self.connections.peers.lock();
        let open = peers.entry(peer).or_insert(0);
        if *open >= self.connections.peer_max {
            tracing::debug!(%peer, "a peer has too many connections");
            return None;
        }
        *open += 1;
        Some(Connection {
            connections: Arc::clone(self.connections),
            peer,
            _permit: self.permit,
        })
    }
}

impl Connection {
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut peers = self.connections.peers.lock();
        if let Some(open) = peers.get_mut(&self.peer) {
            *open -= 1;
            if *open == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}
