//! The flusher's memory: who may go on reading, and who gives memory back.
//!
//! Everything that the flusher holds is counted here: rows, the room that decoders keep, messages
//! to send, what their flush needs beside them, key indexes; and set aside, what the log client
//! reads ahead and what writers of files hold. Room that no flush can free is given back first
//! ([`Verdict::shrink`]), so that reading is never paused for it. Indexes stay for as long as their
//! buckets: they take from what is left for rows, but never more than three quarters of it, so that
//! rows get through whatever there is.
//!
//! Lines, of what is left for rows: at half of it the largest tables are flushed; at three quarters
//! tables above their share pause; at all of it every table does. A table whose commits fail may
//! hold its share only, until one succeeds, and gives unsent rows back where others need the
//! memory: they are in the log. So one table's trouble never holds more than half.
//!
//! Invariants: what is paused can be freed by a flush, or by giving back; all troubled tables
//! together have shares of half the memory at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A troubled table may always hold this much, as long as there are few of them.
const TROUBLED_SHARE_MIN: usize = 8 << 20;

/// What a table holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    pub tenant: Arc<str>,
    /// Rows and messages that the next flush takes.
    pub rows: usize,
    /// Rows of the flush under way.
    pub flying: usize,
    /// What a flush holds beside rows, keys in order and encoded files: the one under way, or the
    /// next one, for which it is kept free.
    pub beside: usize,
    /// Key indexes.
    pub index: usize,
    /// Kept by decoders that hold no rows.
    pub room: usize,
    /// Its commits fail.
    pub troubled: bool,
}

impl Holding {
    fn held(&self) -> usize {
        self.rows + self.room + self.flying + self.beside
    }
}

/// What follows for the tables, by their place in the list that was asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Read no further; all others do.
    pub paused: BTreeSet<usize>,
    /// Drop rows, and the flush under way: others need the memory.
    pub give_way: BTreeSet<usize>,
    /// Buckets without rows give their decoders' room back.
    pub shrink: bool,
}

/// Decides about reading, with room between pausing and resuming so that it does not flap.
#[derive(Debug)]
pub(crate) struct Budget {
    rows_max: usize,
    full: bool,
    tight: bool,
}

impl Budget {
    /// Of `bytes_max`, so much is set aside for what is bounded by itself.
    pub(crate) fn new(bytes_max: usize, aside: usize) -> Self {
        let rows_max = bytes_max.saturating_sub(aside);
        Self {
            rows_max: rows_max.max(bytes_max / 2),
            full: false,
            tight: false,
        }
    }

    /// From here on the largest table is flushed first.
    pub(crate) fn pressure_bytes(&self, tables: &[Holding]) -> usize {
        self.left_for_rows(tables) / 2
    }

    /// All that is held, key indexes aside.
    pub(crate) fn held(tables: &[Holding]) -> usize {
        tables.iter().map(Holding::held).sum()
    }

    pub(crate) fn indexes(tables: &[Holding]) -> usize {
        tables.iter().map(|table| table.index).sum()
    }

    fn left_for_rows(&self, tables: &[Holding]) -> usize {
        let left = self.rows_max.saturating_sub(Self::indexes(tables));
        left.max(self.rows_max / 4)
    }

    pub(crate) fn decide(&mut self, tables: &[Holding]) -> Verdict {
        let rows_max = self.left_for_rows(tables);
        let held = Self::held(tables);
        // Room can always be given back at once, so it is no reason to pause.
        let room: usize = tables.iter().map(|table| table.room).sum();
        let stays = held - room;
        let tight_line = rows_max / 4 * 3;
        self.full = stays >= rows_max || (self.full && stays > tight_line);
        self.tight = stays >= tight_line || (self.tight && stays > rows_max / 2);
        let mut verdict = Verdict {
            shrink: held >= rows_max / 2 && room > 0,
            ..Verdict::default()
        };
        let shares = shares(tables, stays, rows_max);
        let others = tables.iter().any(|table| !table.troubled);
        for (index, table) in tables.iter().enumerate() {
            let holds = table.held() - table.room;
            let (share, troubled) = (shares[index], table.troubled);
            if holds > 0 && (self.full || (holds >= share && (self.tight || troubled))) {
                verdict.paused.insert(index);
            }
            if troubled && others && self.tight && holds > share {
                verdict.give_way.insert(index);
            }
        }
        if self.full {
            verdict.paused.extend(0..tables.len());
        }
        verdict
    }
}

/// Half of what is free for each table with rows, where its commits fail; else an equal part of
/// its tenant's equal part.
fn shares(tables: &[Holding], stays: usize, rows_max: usize) -> Vec<usize> {
    let active = |table: &&Holding| table.held() > table.room || table.troubled;
    let mut by_tenant: BTreeMap<&str, usize> = BTreeMap::new();
    for table in tables.iter().filter(active) {
        *by_tenant.entry(&table.tenant).or_default() += 1;
    }
    let count = by_tenant.values().sum::<usize>().max(1);
    let troubled = tables.iter().filter(|table| table.troubled).count().max(1);
    let free = rows_max.saturating_sub(stays);
    // All of them together stay below half.
    let most = rows_max / 2 / troubled;
    let troubled_share = (free / 2 / count).max(TROUBLED_SHARE_MIN).min(most);
    let share = |table: &Holding| {
        if table.troubled {
            return troubled_share;
        }
        let siblings = by_tenant.get(&*table.tenant).copied().unwrap_or(1);
        rows_max / by_tenant.len().max(1) / siblings
    };
    tables.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn table(tenant: &str, rows_mib: usize) -> Holding {
        Holding {
            tenant: Arc::from(tenant),
            rows: rows_mib * MIB,
            ..Holding::default()
        }
    }

    fn troubled(tenant: &str, rows_mib: usize) -> Holding {
        Holding {
            troubled: true,
            ..table(tenant, rows_mib)
        }
    }

    fn paused(budget: &mut Budget, tables: &[Holding]) -> Vec<usize> {
        budget.decide(tables).paused.into_iter().collect()
    }

    #[test]
    fn reading_pauses_at_the_full_budget_and_resumes_well_below() {
        let mut budget = Budget::new(100 * MIB, 0);
        assert!(paused(&mut budget, &[table("a", 99)]).is_empty());
        assert_eq!(paused(&mut budget, &[table("a", 100)]), [0]);
        assert_eq!(paused(&mut budget, &[table("a", 90)]), [0]);
        assert!(paused(&mut budget, &[table("a", 75)]).is_empty());
        assert!(paused(&mut budget, &[table("a", 90)]).is_empty());
    }

    #[test]
    fn what_is_set_aside_is_part_of_the_budget() {
        let pressure = |all, aside| Budget::new(all * MIB, aside * MIB).pressure_bytes(&[]);
        assert_eq!(pressure(100, 20), 40 * MIB);
        assert_eq!(pressure(16, 64), 4 * MIB);
    }

    #[test]
    fn what_a_flush_holds_beside_its_rows_is_part_of_the_budget() {
        let mut budget = Budget::new(100 * MIB, 0);
        let flushed = |beside_mib: usize| Holding {
            flying: 30 * MIB,
            beside: beside_mib * MIB,
            ..table("a", 10)
        };
        assert_eq!(paused(&mut budget, &[flushed(60)]), [0]);
        assert!(paused(&mut budget, &[flushed(30)]).is_empty());
    }

    #[test]
    fn key_indexes_take_from_what_is_left_for_rows_but_never_all_of_it() {
        let with = |index_mib: usize, rows_mib| Holding {
            index: index_mib * MIB,
            ..table("a", rows_mib)
        };
        let budget = || Budget::new(100 * MIB, 0);
        assert_eq!(budget().pressure_bytes(&[with(40, 0)]), 30 * MIB);
        assert_eq!(paused(&mut budget(), &[with(40, 60)]), [0]);
        assert!(paused(&mut budget(), &[with(40, 59)]).is_empty());
        assert_eq!(budget().pressure_bytes(&[with(900, 0)]), 25 * MIB / 2);
        assert!(paused(&mut budget(), &[with(900, 24)]).is_empty());
    }

    #[test]
    fn room_that_no_flush_frees_is_given_back_and_pauses_nobody() {
        let mut budget = Budget::new(64 * MIB, 0);
        let idle = Holding {
            room: 100 * MIB,
            ..table("a", 0)
        };
        let verdict = budget.decide(&[idle, table("a", 1)]);
        assert!(verdict.paused.is_empty() && verdict.shrink, "{verdict:?}");
    }

    #[test]
    fn a_troubled_table_holds_its_share_and_the_others_go_on() {
        let mut budget = Budget::new(256 * MIB, 0);
        let tables = [troubled("a", 130), table("b", 20), table("b", 0)];
        assert_eq!(paused(&mut budget, &tables), [0]);
        // It filled the memory before anybody knew: what it holds goes back to the log.
        let tables = [troubled("a", 250), table("b", 5), table("b", 0)];
        let verdict = budget.decide(&tables);
        assert_eq!(verdict.give_way, BTreeSet::from([0]));
        let tables = [troubled("a", 8), table("b", 5), table("b", 0)];
        assert_eq!(paused(&mut budget, &tables), [] as [usize; 0]);
    }

    #[test]
    fn the_tenant_that_holds_most_pauses_before_the_memory_is_full() {
        let mut budget = Budget::new(100 * MIB, 0);
        assert_eq!(paused(&mut budget, &[table("a", 72), table("b", 5)]), [0]);
        assert_eq!(paused(&mut budget, &[table("a", 55), table("b", 5)]), [0]);
        assert!(paused(&mut budget, &[table("a", 40), table("b", 5)]).is_empty());
    }

    fn tables() -> impl Strategy<Value = Vec<Holding>> {
        let size = 0usize..40 * MIB;
        let sizes = prop::array::uniform5(size);
        let one = (0u8..3, sizes, any::<bool>());
        let one = one.prop_map(
            |(tenant, [rows, flying, beside, index, room], troubled)| Holding {
                tenant: Arc::from(tenant.to_string()),
                rows,
                flying,
                beside,
                index,
                room,
                troubled,
            },
        );
        prop::collection::vec(one, 1..20)
    }

    proptest! {
        #[test]
        fn nobody_waits_for_memory_that_nothing_can_free(
            rounds in prop::collection::vec(tables(), 1..8),
        ) {
            let mut budget = Budget::new(64 * MIB, 0);
            for tables in rounds {
                budget.decide(&tables);
            }
            let idle = Holding { room: 999 * MIB, index: 999 * MIB, ..table("a", 0) };
            let idle = [idle, table("b", 0)];
            prop_assert!(budget.decide(&idle).paused.is_empty());
        }

        #[test]
        fn a_full_memory_pauses_everybody(tables in tables()) {
            let mut budget = Budget::new(64 * MIB, 0);
            let verdict = budget.decide(&tables);
            let stays: usize = tables.iter().map(|t| t.rows + t.flying + t.beside).sum();
            if stays >= 64 * MIB {
                prop_assert_eq!(verdict.paused.len(), tables.len());
            }
        }

        #[test]
        fn troubled_tables_at_their_shares_leave_half_to_the_others(
            count in 1usize..60, healthy in 1usize..5,
        ) {
            let mut budget = Budget::new(256 * MIB, 0);
            let mut tables = vec![troubled("a", 0); count];
            tables.extend(vec![table("b", 0); healthy]);
            // Each reads as long as it may.
            for _ in 0..100 {
                let verdict = budget.decide(&tables);
                for (index, table) in tables.iter_mut().enumerate().take(count) {
                    if !verdict.paused.contains(&index) {
                        table.rows += 1 << 20;
                    }
                }
            }
            let verdict = budget.decide(&tables);
            let held = Budget::held(&tables);
            prop_assert!(held <= (128 + count) * MIB, "{held}");
            prop_assert!((count..count + healthy).all(|index| !verdict.paused.contains(&index)));
        }
    }
}
