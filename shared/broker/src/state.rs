//! What every request handler works on.

use std::net::SocketAddr;
use std::sync::Arc;

use kafka_protocol::messages::BrokerId;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::group::coordinator::Coordinator;
use crate::identity::Identity;
use crate::memory::RequestMemory;
use crate::settings::BrokerSettings;
use crate::topics::Topics;

/// The only node there is.
pub(crate) const NODE_ID: BrokerId = BrokerId(1);

/// The broker's parts, shared by all connections.
#[derive(Debug)]
pub(crate) struct BrokerState {
    pub settings: BrokerSettings,
    /// The address that clients are told.
    pub address: SocketAddr,
    pub identity: Identity,
    pub topics: Arc<Topics>,
    pub coordinator: Coordinator,
    /// Memory of requests under way.
    pub request_memory: RequestMemory,
    /// Bytes of fetch answers under way.
    pub fetch_budget: Arc<Semaphore>,
    /// Turns to unpack large batches, which takes a processor and some memory each.
    pub unpacking: Arc<Semaphore>,
    /// Cancelled when the broker stops: whoever waits answers with what there is.
    pub stopping: CancellationToken,
}

impl BrokerState {
    pub(crate) fn host(&self) -> StrBytes {
        StrBytes::from_string(self.address.ip().to_string())
    }

    pub(crate) fn port(&self) -> i32 {
        i32::from(self.address.port())
    }
}
