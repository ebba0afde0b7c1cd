//! The state machine of one group, without I/O.
//!
//! ```text
//!            join                 all joined, or time is up          leader's sync
//!  Empty ──────────► Preparing ────────────────────────────► Completing ─────────► Stable
//!    ▲                 ▲  ▲                                      │                   │
//!    │ last one left   │  └──────── join, leave, time-out ───────┘                   │
//!    └─────────────────┴──────────────────── join, leave, time-out ──────────────────┘
//! ```
//! Joins and syncs are answered later: the caller hands in a waiter `W` and gets it back with its
//! answer among the [`Outputs`]. Times are milliseconds of any clock that never runs backwards.
//! Invariants: outside Preparing nobody waits for a join, outside Completing nobody waits for a sync.

use std::collections::{BTreeMap, HashMap, HashSet};

use kafka_protocol::error::ResponseError;

use super::member::{Member, Protocol};
pub(crate) use super::messages::{Answer, Caller, Join, Joined, Outputs, Phase};

/// One group. `W` is whatever stands for one who waits.
#[derive(Debug)]
pub(crate) struct Group<W> {
    pub(super) phase: Phase,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    /// In the order they came, which makes the first one the leader.
    pub(super) members: Vec<Member<W>>,
    pub(super) static_ids: BTreeMap<String, String>,
    /// How many members offer each protocol: who joins is judged without a look at all of them.
    pub(super) offers: HashMap<String, usize>,
    /// Ids given out whose owners have not joined with them yet, and until when they may.
    pub(super) pending: BTreeMap<String, u64>,
    /// When Preparing or Completing ends whoever is missing.
    pub(super) deadline: Option<u64>,
    pub(super) initial_delay_ms: u64,
    /// Preparing waits until then even if all known members have joined.
    pub(super) not_before: u64,
}

/// Members of one group. A client may be no more of them than there is room for others.
const MEMBERS_MAX: usize = 2_000;

impl<W> Group<W> {
    pub(crate) fn new(initial_delay_ms: u64) -> Self {
        Self {
            phase: Phase::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Vec::new(),
            static_ids: BTreeMap::new(),
            offers: HashMap::new(),
            pending: BTreeMap::new(),
            deadline: None,
            initial_delay_ms,
            not_before: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    #[cfg(test)]
    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    pub(crate) fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or_default()
    }

    pub(crate) fn members(&self) -> &[Member<W>] {
        &self.members
    }

    /// Bytes that are kept for its members.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.members.iter().map(Member::kept_bytes).sum()
    }

    /// True where nothing would be lost by forgetting the group's membership.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Empty && self.pending.is_empty()
    }

    /// True where nobody is a member, and somebody may come with an id that was given out.
    pub(crate) fn is_unjoined(&self) -> bool {
        self.members.is_empty()
    }

    /// True where a client may not be one more of the members.
    fn is_full_for(&self, join: &Join) -> bool {
        let free = MEMBERS_MAX.saturating_sub(self.members.len());
        let is_same = |member: &&Member<W>| {
            member.client_id == join.client_id && member.client_host == join.client_host
        };
        free == 0 || self.members.len() > free && self.members.iter().filter(is_same).count() > free
    }

    /// Gives out an id, to come back with. The oldest that nobody came back with makes room.
    fn give_out(&mut self, id: &str, until: u64) {
        if self.members.len() + self.pending.len() >= MEMBERS_MAX {
            let oldest = self.pending.iter().min_by_key(|(_, until)| **until);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.pending.remove(&oldest);
            }
        }
        self.pending.insert(id.to_owned(), until);
    }

    pub(super) fn position(&self, member_id: &str) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.id == member_id)
    }

    /// Finds the member that speaks; a static one must be the current holder of its instance id.
    pub(super) fn identify(&self, caller: Caller<'_>) -> Result<usize, ResponseError> {
        if let Some(instance_id) = caller.instance_id {
            return match self.static_ids.get(instance_id) {
                None => Err(ResponseError::UnknownMemberId),
                Some(id) if id != caller.member_id => Err(ResponseError::FencedInstanceId),
                Some(id) => self.position(id).ok_or(ResponseError::UnknownMemberId),
            };
        }
        self.position(caller.member_id)
            .ok_or(ResponseError::UnknownMemberId)
    }

    /// Somebody joins, for the first time or again.
    pub(crate) fn join(&mut self, mut join: Join, waiter: W, now: u64) -> Outputs<W> {
        let mut out = Vec::new();
        // What is offered twice counts once: the count of offers relies on it.
        let mut seen = HashSet::new();
        join.protocols
            .retain(|protocol| seen.insert(protocol.name.clone()));
        if let Err((waiter, error, member_id)) = self.try_join(join, waiter, now, &mut out) {
            out.push((waiter, Answer::JoinRefused { error, member_id }));
        }
        out
    }

    fn try_join(
        &mut self,
        join: Join,
        waiter: W,
        now: u64,
        out: &mut Outputs<W>,
    ) -> Result<(), (W, ResponseError, String)> {
        let refuse = |waiter, error, id: &str| Err((waiter, error, id.to_owned()));
        if !self.accepts_protocols(&join) {
            return refuse(
                waiter,
                ResponseError::InconsistentGroupProtocol,
                &join.member_id,
            );
        }
        if join.member_id.is_empty() {
            let full = self.is_full_for(&join);
            if let Some(instance_id) = &join.instance_id {
                if let Some(old) = self.static_ids.get(instance_id).cloned() {
                    self.replace_static(&old, join, waiter, now, out);
                    return Ok(());
                }
            } else if join.requires_member_id && !full {
                let id = join.new_member_id;
                self.give_out(&id, now + join.session_timeout_ms);
                return refuse(waiter, ResponseError::MemberIdRequired, &id);
            }
            if full {
                return refuse(waiter, ResponseError::GroupMaxSizeReached, "");
            }
            let id = join.new_member_id.clone();
            self.add_member(id, join, waiter, now, out);
            return Ok(());
        }
        if join.instance_id.is_none() && self.pending.remove(&join.member_id).is_some() {
            if self.is_full_for(&join) {
                return refuse(waiter, ResponseError::GroupMaxSizeReached, "");
            }
            let id = join.member_id.clone();
            self.add_member(id, join, waiter, now, out);
            return Ok(());
        }
        let caller = Caller {
            member_id: &join.member_id,
            instance_id: join.instance_id.as_deref(),
        };
        let at = match self.identify(caller) {
            Ok(at) => at,
            Err(error) => return refuse(waiter, error, &join.member_id),
        };
        self.rejoin(at, join, waiter, now, out);
        Ok(())
    }

    fn accepts_protocols(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let known = self.position(&join.member_id).map(|at| &self.members[at]);
        let others = self.members.len() - usize::from(known.is_some());
        self.protocol_type.as_deref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|protocol| {
                let own = known.is_some_and(|member| member.offers(&protocol.name));
                let offered = self.offers.get(&protocol.name).copied().unwrap_or(0);
                offered - usize::from(own) == others
            })
    }

    /// Counts what a member offers that came, or will offer from now on.
    fn count_offers(&mut self, at: usize) {
        for protocol in &self.members[at].protocols {
            *self.offers.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    /// Takes back what [`Group::count_offers`] counted for a member.
    pub(super) fn discount_offers(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            if let Some(count) = self.offers.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.offers.remove(&protocol.name);
                }
            }
        }
    }

    /// Takes over what a member says that joins again; gives back a waiter that is replaced.
    fn update_member(&mut self, at: usize, join: Join, waiter: W) -> Option<W> {
        let before = std::mem::take(&mut self.members[at].protocols);
        self.discount_offers(&before);
        let earlier = self.members[at].update(join, waiter);
        self.count_offers(at);
        earlier
    }

    fn add_member(&mut self, id: String, join: Join, waiter: W, now: u64, out: &mut Outputs<W>) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        if let Some(instance_id) = &join.instance_id {
            self.static_ids.insert(instance_id.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.push(Member::new(id, join, waiter, now));
        self.count_offers(self.members.len() - 1);
        self.prepare(now, out);
        self.try_complete(now, out);
    }

    /// A known member joins again.
    fn rejoin(&mut self, at: usize, join: Join, waiter: W, now: u64, out: &mut Outputs<W>) {
        let unchanged = self.members[at].protocols == join.protocols;
        let is_leader = self.leader.as_deref() == Some(&self.members[at].id);
        let answer_now = match self.phase {
            Phase::Completing => unchanged,
            Phase::Stable => unchanged && !is_leader,
            Phase::Empty | Phase::Preparing => false,
        };
        self.members[at].heard(now);
        if answer_now {
            let joined = self.joined(at, false);
            out.push((waiter, Answer::Joined(joined)));
            return;
        }
        let member_id = self.members[at].id.clone();
        if let Some(earlier) = self.update_member(at, join, waiter) {
            // The same client asked twice; only its last request is still being waited for.
            let error = ResponseError::RebalanceInProgress;
            out.push((earlier, Answer::JoinRefused { error, member_id }));
        }
        self.prepare(now, out);
        self.try_complete(now, out);
    }

    /// A static member came back under a new member id: the holder of the old one is fenced.
    fn replace_static(
        &mut self,
        old_id: &str,
        join: Join,
        waiter: W,
        now: u64,
        out: &mut Outputs<W>,
    ) {
        let Some(at) = self.position(old_id) else {
            return;
        };
        let new_id = join.new_member_id.clone();
        let can_skip = join.can_skip_assignment;
        let fenced = ResponseError::FencedInstanceId;
        let member = &mut self.members[at];
        // A cooperative member says what it owns. One that died in the middle of handing a partition
        // over comes back owning nothing: with its old assignment that partition would be nobody's.
        let unchanged = member.protocols == join.protocols;
        if let Some(waiter) = member.joining.take() {
            let member_id = old_id.to_owned();
            out.push((
                waiter,
                Answer::JoinRefused {
                    error: fenced,
                    member_id,
                },
            ));
        }
        if let Some(waiter) = member.syncing.take() {
            out.push((waiter, Answer::SyncRefused(fenced)));
        }
        member.id.clone_from(&new_id);
        member.heard(now);
        if let Some(instance_id) = &join.instance_id {
            self.static_ids.insert(instance_id.clone(), new_id.clone());
        }
        let was_leader = self.leader.as_deref() == Some(old_id);
        if was_leader {
            self.leader = Some(new_id);
        }
        let earlier = self.update_member(at, join, waiter);
        debug_assert!(earlier.is_none(), "the fenced waiter was answered before");
        if self.phase == Phase::Stable && unchanged && self.choose_protocol() == self.protocol {
            // The assignment stays as it is; the leader must not make a new one.
            let mut joined = self.joined(at, can_skip);
            if was_leader && !can_skip {
                joined.leader = old_id.to_owned();
                joined.members.clear();
            }
            if let Some(waiter) = self.members[at].joining.take() {
                out.push((waiter, Answer::Joined(joined)));
            }
            return;
        }
        self.prepare(now, out);
        self.try_complete(now, out);
    }
}
