//! What goes into the state machine of a group, and what comes out.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::member::Protocol;

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    Preparing,
    Completing,
    Stable,
}

impl Phase {
    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// Who speaks: the identity that most requests carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller<'a> {
    pub member_id: &'a str,
    pub instance_id: Option<&'a str>,
}

/// A request to join.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Empty for one who has no id yet.
    pub member_id: String,
    /// Set for static members.
    pub instance_id: Option<String>,
    /// The id to give to a new member.
    pub new_member_id: String,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    pub protocol_type: String,
    pub protocols: Vec<Protocol>,
    /// The client understands that it must join again with the id it is given.
    pub requires_member_id: bool,
    /// The client understands that a leader may have to skip the assignment.
    pub can_skip_assignment: bool,
}

impl Join {
    /// Whose share of what is bounded it draws on.
    pub(super) fn client(&self) -> String {
        client(&self.client_id, &self.client_host)
    }

    /// What is kept of it as long as its member lives.
    pub(super) fn offered_bytes(&self) -> usize {
        let offered = self.protocols.iter();
        offered.map(|p| p.name.len() + p.metadata.len()).sum()
    }
}

/// A client, by its address (as `/127.0.0.1`) and the name that it gives itself.
pub(crate) fn client(client_id: &str, client_host: &str) -> String {
    format!("{client_id}{client_host}")
}

/// The answer to a join that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    pub member_id: String,
    pub skip_assignment: bool,
    /// For the leader only: id, instance id and subscription of every member.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// An answer to a join or a sync. A refused join carries the member id to use next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Joined(Joined),
    JoinRefused {
        error: ResponseError,
        member_id: String,
    },
    Synced {
        protocol_type: String,
        protocol: String,
        assignment: Bytes,
    },
    SyncRefused(ResponseError),
}

/// Waiters and their answers.
pub(crate) type Outputs<W> = Vec<(W, Answer)>;
