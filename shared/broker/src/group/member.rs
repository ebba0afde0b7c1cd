//! One member of a group, as the coordinator knows it.

use bytes::Bytes;

use super::state::Join;

/// A protocol (assignment strategy) that a member offers, with its subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub name: String,
    pub metadata: Bytes,
}

/// A member, and who waits on its behalf.
#[derive(Debug)]
pub(crate) struct Member<W> {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// When it is taken for dead, unless it waits here.
    pub expires: u64,
    pub joining: Option<W>,
    pub syncing: Option<W>,
}

impl<W> Member<W> {
    pub(crate) fn new(id: String, join: Join, waiter: W, now: u64) -> Self {
        Self {
            id,
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            expires: now + join.session_timeout_ms,
            joining: Some(waiter),
            syncing: None,
        }
    }

    /// Takes over what a repeated join says; gives back a waiter that it replaces.
    pub(crate) fn update(&mut self, join: Join, waiter: W) -> Option<W> {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
        self.joining.replace(waiter)
    }

    /// It gave a sign of life.
    pub(crate) fn heard(&mut self, now: u64) {
        self.expires = now + self.session_timeout_ms;
    }

    /// The time it is taken for dead, if it may be at all now.
    pub(crate) fn expiry(&self) -> Option<u64> {
        (self.joining.is_none() && self.syncing.is_none()).then_some(self.expires)
    }

    /// Bytes that are kept on its behalf.
    pub(crate) fn kept_bytes(&self) -> usize {
        let offered = self.protocols.iter();
        let offered: usize = offered.map(|p| p.name.len() + p.metadata.len()).sum();
        offered + self.assignment.len()
    }

    /// True where it can do with this protocol.
    pub(crate) fn offers(&self, protocol: &str) -> bool {
        self.protocols
            .iter()
            .any(|offered| offered.name == protocol)
    }

    pub(crate) fn subscription(&self, protocol: &str) -> Option<Bytes> {
        let offered = self
            .protocols
            .iter()
            .find(|offered| offered.name == protocol);
        offered.map(|offered| offered.metadata.clone())
    }
}
