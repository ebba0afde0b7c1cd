//! Groups as the tools show them.

use std::collections::BTreeMap;

use super::coordinator::Coordinator;
use super::state::Phase;

/// A member as the tools show it.
#[derive(Debug, Clone)]
pub(crate) struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub subscription: bytes::Bytes,
    pub assignment: bytes::Bytes,
}

/// A group as the tools show it.
#[derive(Debug, Clone)]
pub(crate) struct GroupDescription {
    pub id: String,
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

/// A group as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct GroupListing {
    pub id: String,
    pub state: &'static str,
    pub protocol_type: String,
}

impl Coordinator {
    /// What is known of a group; `None` if nothing is.
    pub(crate) fn describe(&self, group_id: &str) -> Option<GroupDescription> {
        let Some(shared) = self.registry.find(group_id) else {
            return self.offsets().knows(group_id).then(|| empty(group_id));
        };
        let held = shared.lock();
        let group = &held.group;
        let settled = matches!(group.phase(), Phase::Stable | Phase::Completing);
        let members = group.members().iter().map(|member| MemberDescription {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            subscription: member
                .subscription(group.protocol())
                .filter(|_| settled)
                .unwrap_or_default(),
            assignment: member.assignment.clone(),
        });
        Some(GroupDescription {
            id: group_id.to_owned(),
            state: group.phase().name(),
            protocol_type: group.protocol_type().to_owned(),
            protocol: if settled {
                group.protocol().to_owned()
            } else {
                String::new()
            },
            members: members.collect(),
        })
    }

    /// All groups, with members or only with positions.
    pub(crate) fn list(&self) -> Vec<GroupListing> {
        let groups = self.registry.all();
        let mut listed: BTreeMap<String, GroupListing> = BTreeMap::new();
        for id in self.offsets().groups() {
            let GroupDescription {
                id,
                state,
                protocol_type,
                ..
            } = empty(&id);
            let listing = GroupListing {
                id: id.clone(),
                state,
                protocol_type,
            };
            listed.insert(id, listing);
        }
        for (id, shared) in groups {
            let held = shared.lock();
            let listing = GroupListing {
                id: id.clone(),
                state: held.group.phase().name(),
                protocol_type: held.group.protocol_type().to_owned(),
            };
            listed.insert(id, listing);
        }
        listed.into_values().collect()
    }
}

fn empty(group_id: &str) -> GroupDescription {
    GroupDescription {
        id: group_id.to_owned(),
        state: Phase::Empty.name(),
        protocol_type: "consumer".to_owned(),
        protocol: String::new(),
        members: Vec::new(),
    }
}
