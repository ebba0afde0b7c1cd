//! Group membership: FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup, and what shows and
//! deletes groups.

use std::collections::HashSet;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    BrokerId, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest,
    DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::group::describe::{GroupDescription, MemberDescription};
use crate::group::member::Protocol;
use crate::group::session::Sync;
use crate::group::state::{Answer, Caller, Join};
use crate::state::NODE_ID;

use super::{Context, Outcome, text};

/// The kind of coordinator that is served; others are of transactions and share groups.
const GROUP_COORDINATOR: i8 = 0;
/// What a failed commit or an absent value is written as.
const NO_GENERATION: i32 = -1;

fn code(result: Result<(), ResponseError>) -> i16 {
    result.err().map_or(0, |error| error.code())
}

pub(super) async fn find_coordinator(context: Context, request: FindCoordinatorRequest) -> Outcome {
    let broker = &context.broker;
    let served = request.key_type == GROUP_COORDINATOR;
    // Fatal for a transactional producer: it must not try for ever.
    let error = if served {
        0
    } else {
        ResponseError::TransactionalIdAuthorizationFailed.code()
    };
    let message = (!served).then(|| text("transactions are not served by this broker"));
    let (node_id, host, port) = match served {
        true => (NODE_ID, broker.host(), broker.port()),
        false => (BrokerId(-1), StrBytes::new(), -1),
    };
    let response = FindCoordinatorResponse::default();
    if context.version < 4 {
        let message = if context.version >= 1 { message } else { None };
        return context.reply(
            &response
                .with_error_code(error)
                .with_error_message(message)
                .with_node_id(node_id)
                .with_host(host)
                .with_port(port),
        );
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        Coordinator::default()
            .with_key(key)
            .with_error_code(error)
            .with_error_message(message.clone())
            .with_node_id(node_id)
            .with_host(host.clone())
            .with_port(port)
    });
    context.reply(&response.with_coordinators(coordinators.collect()))
}

pub(super) async fn join_group(context: Context, request: JoinGroupRequest) -> Outcome {
    let broker = &context.broker;
    let version = context.version;
    let millis = |ms: i32| u64::try_from(ms).unwrap_or(0);
    let session_timeout_ms = millis(request.session_timeout_ms);
    let client_id = context.client_id.as_ref().map_or("", |id| id.as_str());
    let instance_id = request.group_instance_id.as_ref().map(ToString::to_string);
    let name = instance_id.as_deref().unwrap_or(client_id);
    let join = Join {
        member_id: request.member_id.to_string(),
        new_member_id: format!("{name}-{}", broker.settings.ids.next_uuid()),
        instance_id,
        client_id: client_id.to_owned(),
        client_host: format!("/{}", context.peer.ip()),
        session_timeout_ms,
        rebalance_timeout_ms: match version {
            0 => session_timeout_ms,
            _ => millis(request.rebalance_timeout_ms),
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .into_iter()
            .map(|p| Protocol {
                name: p.name.to_string(),
                // A copy: it is kept, and must not keep the whole request with it.
                metadata: Bytes::copy_from_slice(&p.metadata),
            })
            .collect(),
        requires_member_id: version >= 4,
        can_skip_assignment: version >= 9,
    };
    let answer = broker.coordinator.join(&request.group_id.0, join).await;
    context.reply(&join_response(version, answer))
}

fn join_response(version: i16, answer: Answer) -> JoinGroupResponse {
    let response = JoinGroupResponse::default();
    // Before version 7 the name could not be null.
    let no_name = (version < 7).then(StrBytes::new);
    match answer {
        Answer::Joined(joined) => {
            let members = joined
                .members
                .into_iter()
                .map(|(id, instance_id, metadata)| {
                    JoinGroupResponseMember::default()
                        .with_member_id(text(id))
                        .with_group_instance_id(instance_id.map(text))
                        .with_metadata(metadata)
                });
            response
                .with_generation_id(joined.generation)
                .with_protocol_type(Some(text(joined.protocol_type)))
                .with_protocol_name(Some(text(joined.protocol)))
                .with_leader(text(joined.leader))
                .with_skip_assignment(joined.skip_assignment)
                .with_member_id(text(joined.member_id))
                .with_members(members.collect())
        }
        Answer::JoinRefused { error, member_id } => response
            .with_error_code(error.code())
            .with_generation_id(NO_GENERATION)
            .with_protocol_type(None)
            .with_protocol_name(no_name)
            .with_member_id(text(member_id)),
        Answer::Synced { .. } | Answer::SyncRefused(_) => response
            .with_error_code(ResponseError::UnknownServerError.code())
            .with_generation_id(NO_GENERATION)
            .with_protocol_name(no_name),
    }
}

pub(super) async fn sync_group(context: Context, request: SyncGroupRequest) -> Outcome {
    let sync = Sync {
        caller: Caller {
            member_id: &request.member_id,
            instance_id: request.group_instance_id.as_deref(),
        },
        generation: request.generation_id,
        protocol_type: request.protocol_type.as_deref(),
        protocol: request.protocol_name.as_deref(),
        assignments: request
            .assignments
            .into_iter()
            .map(|assigned| {
                let assignment = Bytes::copy_from_slice(&assigned.assignment);
                (assigned.member_id.to_string(), assignment)
            })
            .collect(),
    };
    let response = SyncGroupResponse::default();
    let response = match context
        .broker
        .coordinator
        .sync(&request.group_id.0, sync)
        .await
    {
        Answer::Synced {
            protocol_type,
            protocol,
            assignment,
        } => response
            .with_protocol_type(Some(text(protocol_type)))
            .with_protocol_name(Some(text(protocol)))
            .with_assignment(assignment),
        Answer::SyncRefused(error) => response.with_error_code(error.code()),
        Answer::Joined(_) | Answer::JoinRefused { .. } => {
            response.with_error_code(ResponseError::UnknownServerError.code())
        }
    };
    context.reply(&response)
}

pub(super) async fn heartbeat(context: Context, request: HeartbeatRequest) -> Outcome {
    let caller = Caller {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
    };
    let heard =
        context
            .broker
            .coordinator
            .heartbeat(&request.group_id.0, caller, request.generation_id);
    context.reply(&HeartbeatResponse::default().with_error_code(code(heard)))
}

pub(super) async fn leave_group(context: Context, request: LeaveGroupRequest) -> Outcome {
    let coordinator = &context.broker.coordinator;
    let group_id = request.group_id.0.as_str();
    let leave = |member: &MemberIdentity| {
        let instance_id = member.group_instance_id.as_deref();
        coordinator.leave(
            group_id,
            Caller {
                member_id: &member.member_id,
                instance_id,
            },
        )
    };
    let response = LeaveGroupResponse::default();
    if context.version < 3 {
        let member = MemberIdentity::default().with_member_id(request.member_id);
        return context.reply(&response.with_error_code(code(leave(&member))));
    }
    let members = request.members.into_iter().map(|member| {
        MemberResponse::default()
            .with_error_code(code(leave(&member)))
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
    });
    let members = members.collect();
    context.reply(&response.with_members(members))
}

/// The names in order, each once: what is repeated would be answered over and over.
fn once_each(names: Vec<GroupId>) -> impl Iterator<Item = GroupId> {
    let mut seen = HashSet::new();
    names
        .into_iter()
        .filter(move |name| seen.insert(name.clone()))
}

pub(super) async fn describe_groups(context: Context, request: DescribeGroupsRequest) -> Outcome {
    let groups = once_each(request.groups).map(|id| {
        let Some(group) = context.broker.coordinator.describe(&id.0) else {
            let unknown = DescribedGroup::default()
                .with_group_id(id)
                .with_group_state(text("Dead"));
            return if context.version >= 6 {
                unknown
                    .with_error_code(ResponseError::GroupIdNotFound.code())
                    .with_error_message(Some(text("no such group")))
            } else {
                unknown
            };
        };
        let GroupDescription {
            id,
            state,
            protocol_type,
            protocol,
            members,
        } = group;
        DescribedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_group_state(text(state))
            .with_protocol_type(text(protocol_type))
            .with_protocol_data(text(protocol))
            .with_members(members.into_iter().map(described_member).collect())
    });
    let groups = groups.collect();
    context.reply(&DescribeGroupsResponse::default().with_groups(groups))
}

fn described_member(member: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(member.id))
        .with_group_instance_id(member.instance_id.map(text))
        .with_client_id(text(member.client_id))
        .with_client_host(text(member.client_host))
        .with_member_metadata(member.subscription)
        .with_member_assignment(member.assignment)
}

pub(super) async fn list_groups(context: Context, request: ListGroupsRequest) -> Outcome {
    let wanted = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value))
    };
    let groups = context
        .broker
        .coordinator
        .list()
        .into_iter()
        .filter(|group| {
            wanted(&request.states_filter, group.state) && wanted(&request.types_filter, "classic")
        });
    let listed = groups.map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(text(group.id)))
            .with_protocol_type(text(group.protocol_type))
            .with_group_state(text(group.state))
            .with_group_type(text("classic"))
    });
    let listed = listed.collect();
    context.reply(&ListGroupsResponse::default().with_groups(listed))
}

pub(super) async fn delete_groups(context: Context, request: DeleteGroupsRequest) -> Outcome {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let deleted = context.broker.coordinator.delete(&group_id.0).await;
        results.push(
            DeletableGroupResult::default()
                .with_group_id(group_id)
                .with_error_code(code(deleted)),
        );
    }
    context.reply(&DeleteGroupsResponse::default().with_results(results))
}
