//! The committed positions in memory, and who takes how much room with them.

use std::collections::BTreeMap;

use super::{Change, Committed};
use crate::group::shares::{CoordinatorUse, Refused, Shares};

/// What the positions of all groups may take in memory, and about as much on disk.
pub(super) const BYTES_MAX: usize = 256 << 20;
/// What an entry costs beside its text.
const ENTRY_BYTES: usize = 128;

/// Positions of one group by topic and partition.
pub(crate) type GroupOffsets = BTreeMap<(String, i32), Committed>;

/// What is kept of one group.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub positions: GroupOffsets,
    /// When it is known to have had members last.
    pub seen_ms: i64,
    /// The client that committed first since the start, which holds all of the group; empty for a
    /// group that was there before and that nobody committed to since.
    client: String,
    bytes: usize,
}

impl Kept {
    /// The last sign of life: of a group's members, or of a consumer that only commits.
    pub(super) fn last_sign_ms(&self) -> i64 {
        let commits = self.positions.values().map(|c| c.committed_ms);
        commits.max().unwrap_or(i64::MIN).max(self.seen_ms)
    }
}

/// What is kept of every group.
#[derive(Debug)]
pub(super) struct All {
    groups: BTreeMap<String, Kept>,
    shares: Shares,
}

impl All {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            groups: BTreeMap::new(),
            shares: Shares::new("offset_bytes", bytes_max),
        }
    }

    pub(super) fn get(&self, group: &str) -> Option<&Kept> {
        self.groups.get(group)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Kept)> {
        self.groups.iter()
    }

    pub(super) fn in_use(&self) -> CoordinatorUse {
        self.shares.in_use()
    }

    /// True where there is room for what these positions add: those that are there already, as a
    /// consumer that gets on has them, add nothing.
    pub(super) fn admits(
        &self,
        client: &str,
        group: &str,
        positions: &[(String, i32, Committed)],
    ) -> Result<(), Refused> {
        let kept = self.groups.get(group);
        let new_group = kept.map_or(ENTRY_BYTES + group.len(), |_| 0);
        let added = positions.iter().map(|(topic, partition, committed)| {
            let place = (topic.clone(), *partition);
            let before = kept.and_then(|kept| kept.positions.get(&place));
            let before = before.map_or(0, |before| bytes(topic, before));
            bytes(topic, committed).saturating_sub(before)
        });
        let added = added.sum::<usize>();
        // A group from before the start comes to whoever commits to it: together such groups may
        // be more than any client's share, and none of them could grow.
        let holder = kept.map(|kept| kept.client.as_str());
        let client = holder.filter(|holder| !holder.is_empty()).unwrap_or(client);
        self.shares
            .check(client, added + if added == 0 { 0 } else { new_group })
    }

    pub(super) fn apply(&mut self, client: &str, change: Change) {
        match change {
            Change::Commit {
                group,
                topic,
                partition,
                committed,
            } => self.commit(client, group, topic, partition, committed),
            Change::ForgetGroup { group } => self.forget_group(&group),
            Change::Forget {
                group,
                topic,
                partition,
            } => self.forget(&group, topic, partition),
            Change::Seen { group, seen_ms } => {
                if let Some(kept) = self.groups.get_mut(&group) {
                    kept.seen_ms = kept.seen_ms.max(seen_ms);
                }
            }
            Change::ForgetStale { group, before_ms } => {
                let stale = |kept: &Kept| kept.last_sign_ms() < before_ms;
                if self.groups.get(&group).is_some_and(stale) {
                    self.forget_group(&group);
                }
            }
        }
    }

    fn commit(
        &mut self,
        client: &str,
        group: String,
        topic: String,
        partition: i32,
        committed: Committed,
    ) {
        let group_bytes = ENTRY_BYTES + group.len();
        let kept = self.groups.entry(group).or_insert_with(|| Kept {
            client: client.to_owned(),
            ..Kept::default()
        });
        if kept.client.is_empty() {
            self.shares.change("", kept.bytes, 0);
            client.clone_into(&mut kept.client);
            self.shares.change(client, 0, kept.bytes);
        }
        let before = kept.bytes;
        if kept.positions.is_empty() {
            kept.bytes = group_bytes;
        }
        kept.bytes += bytes(&topic, &committed);
        let place = (topic, partition);
        if let Some(old) = kept.positions.get(&place) {
            kept.bytes -= bytes(&place.0, old);
        }
        kept.positions.insert(place, committed);
        self.shares.change(&kept.client, before, kept.bytes);
    }

    fn forget(&mut self, group: &str, topic: String, partition: i32) {
        let Some(kept) = self.groups.get_mut(group) else {
            return;
        };
        let place = (topic, partition);
        if let Some(old) = kept.positions.remove(&place) {
            let before = kept.bytes;
            kept.bytes -= bytes(&place.0, &old);
            self.shares.change(&kept.client, before, kept.bytes);
        }
        if kept.positions.is_empty() {
            self.forget_group(group);
        }
    }

    fn forget_group(&mut self, group: &str) {
        if let Some(kept) = self.groups.remove(group) {
            self.shares.change(&kept.client, kept.bytes, 0);
        }
    }
}

fn bytes(topic: &str, committed: &Committed) -> usize {
    ENTRY_BYTES + topic.len() + committed.metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(topic: &str, partition: i32, note: usize) -> (String, i32, Committed) {
        let committed = Committed {
            offset: 1,
            leader_epoch: 0,
            metadata: "n".repeat(note),
            committed_ms: 0,
        };
        (topic.to_owned(), partition, committed)
    }

    /// Commits what there is room for.
    fn commit(all: &mut All, client: &str, group: &str, partition: i32, note: usize) -> bool {
        let positions = [position("t", partition, note)];
        if all.admits(client, group, &positions).is_err() {
            return false;
        }
        let [(topic, partition, committed)] = positions;
        let group = group.to_owned();
        let change = Change::Commit {
            group,
            topic,
            partition,
            committed,
        };
        all.apply(client, change);
        true
    }

    #[test]
    fn after_a_restart_who_commits_to_a_group_holds_it() {
        let mut all = All::new(100_000);
        let recovered = |all: &mut All, group: usize| {
            let (topic, partition, committed) = position("t", 0, 0);
            let group = format!("g{group}");
            let change = Change::Commit {
                group,
                topic,
                partition,
                committed,
            };
            all.apply("", change);
        };
        let mut groups = 0;
        while all.in_use().used < 60_000 {
            recovered(&mut all, groups);
            groups += 1;
        }
        let used = all.in_use().used;
        assert!(commit(&mut all, "one", "g0", 0, 0), "its position moves");
        assert_eq!(all.in_use().used, used, "it is counted once");
        assert!(commit(&mut all, "one", "g0", 1, 0), "and it gets another");
        assert!(
            commit(&mut all, "two", "g1", 1, 0),
            "in a group not seen yet, too"
        );
        let mut more = 2;
        while commit(&mut all, "one", "g0", more, 0) {
            more += 1;
        }
        assert!((50..200).contains(&more), "{more}: a share, as ever");
        assert!(commit(&mut all, "two", "g1", 2, 0));
        for group in 0..groups {
            let group = format!("g{group}");
            all.apply("", Change::ForgetGroup { group });
        }
        assert_eq!(all.in_use().used, 0);
    }

    #[test]
    fn one_client_that_commits_without_end_leaves_room_for_others_and_for_itself_to_get_on() {
        let mut all = All::new(100_000);
        let mut groups = 0;
        while commit(&mut all, "greedy", &format!("g{groups}"), 0, 0) {
            groups += 1;
        }
        assert!((150..250).contains(&groups), "{groups}");
        assert!(
            commit(&mut all, "greedy", "g0", 0, 0),
            "its own positions move"
        );
        assert!(commit(&mut all, "another", "h", 0, 0));
        assert!(!commit(&mut all, "greedy", "g0", 1, 0));
        // A note that grows is more, too.
        assert!(!commit(&mut all, "greedy", "g0", 0, 1_000));
        for group in 0..groups {
            let group = format!("g{group}");
            all.apply("", Change::ForgetGroup { group });
        }
        all.apply(
            "",
            Change::Forget {
                group: "h".into(),
                topic: "t".into(),
                partition: 0,
            },
        );
        assert_eq!(all.in_use().used, 0);
        assert!(all.iter().next().is_none());
    }
}
