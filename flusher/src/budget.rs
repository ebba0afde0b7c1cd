//! The flusher's memory: who may go on reading, and who gives memory back.
//!
//! Everything that the flusher holds is counted here: rows, the room that decoders keep, messages
//! to send, what their flush needs beside them, key indexes; and set aside, what the log client
//! reads ahead and what writers of files hold. Room that no flush can free is given back first
//! ([`Judgement::shrink`]), so that reading is never paused for it. Indexes stay for as long as their
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

use std::collections::BTreeMap;
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

    /// It has what others may be short of, or waits for memory.
    fn is_active(&self) -> bool {
        self.held() > self.room || self.troubled
    }
}

/// What all tables hold together. Kept as they change: there may be thousands of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Total {
    tables: usize,
    /// Rows that no commit covers, those under way included.
    pub rows: usize,
    /// All that is held, key indexes aside.
    pub held: usize,
    room: usize,
    pub index: usize,
    /// Tables whose commits fail.
    troubled: usize,
    /// Tables with rows, or whose commits fail, by tenant.
    active: BTreeMap<Arc<str>, usize>,
}

impl Total {
    pub(crate) fn add(&mut self, table: &Holding) {
        self.tables += 1;
        self.rows += table.rows + table.flying;
        self.held += table.held();
        self.room += table.room;
        self.index += table.index;
        self.troubled += usize::from(table.troubled);
        if table.is_active() {
            *self.active.entry(table.tenant.clone()).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, table: &Holding) {
        self.tables -= 1;
        self.rows -= table.rows + table.flying;
        self.held -= table.held();
        self.room -= table.room;
        self.index -= table.index;
        self.troubled -= usize::from(table.troubled);
        if table.is_active()
            && let Some(count) = self.active.get_mut(&table.tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.active.remove(&table.tenant);
            }
        }
    }
}

/// What follows for one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Read no further.
    pub paused: bool,
    /// Drop rows, and the flush under way: others need the memory.
    pub give_way: bool,
}

/// Decides about reading, with room between pausing and resuming so that it does not flap.
#[derive(Debug)]
pub(crate) struct Budget {
    rows_max: usize,
    full: bool,
    tight: bool,
}

/// What follows for all tables: [`Judgement::of`] says what for each.
#[derive(Debug)]
pub(crate) struct Judgement<'a> {
    all: &'a Total,
    rows_max: usize,
    full: bool,
    tight: bool,
    /// Buckets without rows give their decoders' room back.
    pub shrink: bool,
    /// What a table may hold whose commits fail.
    troubled_share: usize,
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
    pub(crate) fn pressure_bytes(&self, all: &Total) -> usize {
        self.left_for_rows(all) / 2
    }

    fn left_for_rows(&self, all: &Total) -> usize {
        let left = self.rows_max.saturating_sub(all.index);
        left.max(self.rows_max / 4)
    }

    pub(crate) fn judge<'a>(&mut self, all: &'a Total) -> Judgement<'a> {
        let rows_max = self.left_for_rows(all);
        // Room can always be given back at once, so it is no reason to pause.
        let stays = all.held - all.room;
        let tight_line = rows_max / 4 * 3;
        self.full = stays >= rows_max || (self.full && stays > tight_line);
        self.tight = stays >= tight_line || (self.tight && stays > rows_max / 2);
        // Half of what is free, for each table with rows.
        let count = all.active.values().sum::<usize>().max(1);
        let share = rows_max.saturating_sub(stays) / 2 / count;
        // All of them together stay below half.
        let most = rows_max / 2 / all.troubled.max(1);
        Judgement {
            all,
            rows_max,
            full: self.full,
            tight: self.tight,
            shrink: all.held >= rows_max / 2 && all.room > 0,
            troubled_share: share.max(TROUBLED_SHARE_MIN).min(most),
        }
    }
}

impl Judgement<'_> {
    /// False where nobody but a table whose commits fail is told anything.
    pub(crate) fn concerns_all(&self) -> bool {
        self.full || self.tight
    }

    pub(crate) fn of(&self, table: &Holding) -> Verdict {
        let holds = table.held() - table.room;
        let over = holds >= self.share(table) && (self.tight || table.troubled);
        let others = self.all.troubled < self.all.tables;
        Verdict {
            paused: self.full || (holds > 0 && over),
            give_way: table.troubled && others && self.tight && holds > self.share(table),
        }
    }

    /// An equal part of its tenant's equal part, where commits do not fail.
    fn share(&self, table: &Holding) -> usize {
        if table.troubled {
            return self.troubled_share;
        }
        let tenants = self.all.active.len().max(1);
        let siblings = self.all.active.get(&table.tenant);
        self.rows_max / tenants / siblings.copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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

    /// What follows for all, by their places.
    #[derive(Debug, PartialEq, Eq)]
    struct Decision {
        paused: BTreeSet<usize>,
        give_way: BTreeSet<usize>,
        shrink: bool,
    }

    fn total<'a>(tables: impl IntoIterator<Item = &'a Holding>) -> Total {
        let mut total = Total::default();
        tables.into_iter().for_each(|table| total.add(table));
        total
    }

    fn decide(budget: &mut Budget, tables: &[Holding]) -> Decision {
        let all = total(tables);
        let judgement = budget.judge(&all);
        let where_is = |is: fn(&Verdict) -> bool| {
            let places = tables.iter().enumerate();
            let found = places.filter(|(_, table)| is(&judgement.of(table)));
            found.map(|(index, _)| index).collect()
        };
        Decision {
            paused: where_is(|verdict| verdict.paused),
            give_way: where_is(|verdict| verdict.give_way),
            shrink: judgement.shrink,
        }
    }

    fn paused(budget: &mut Budget, tables: &[Holding]) -> Vec<usize> {
        decide(budget, tables).paused.into_iter().collect()
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
        let pressure =
            |all, aside| Budget::new(all * MIB, aside * MIB).pressure_bytes(&Total::default());
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
        assert_eq!(budget().pressure_bytes(&total([&with(40, 0)])), 30 * MIB);
        assert_eq!(paused(&mut budget(), &[with(40, 60)]), [0]);
        assert!(paused(&mut budget(), &[with(40, 59)]).is_empty());
        assert_eq!(
            budget().pressure_bytes(&total([&with(900, 0)])),
            25 * MIB / 2
        );
        assert!(paused(&mut budget(), &[with(900, 24)]).is_empty());
    }

    #[test]
    fn room_that_no_flush_frees_is_given_back_and_pauses_nobody() {
        let mut budget = Budget::new(64 * MIB, 0);
        let idle = Holding {
            room: 100 * MIB,
            ..table("a", 0)
        };
        let verdict = decide(&mut budget, &[idle, table("a", 1)]);
        assert!(verdict.paused.is_empty() && verdict.shrink, "{verdict:?}");
    }

    #[test]
    fn a_troubled_table_holds_its_share_and_the_others_go_on() {
        let mut budget = Budget::new(256 * MIB, 0);
        let tables = [troubled("a", 130), table("b", 20), table("b", 0)];
        assert_eq!(paused(&mut budget, &tables), [0]);
        // It filled the memory before anybody knew: what it holds goes back to the log.
        let tables = [troubled("a", 250), table("b", 5), table("b", 0)];
        let verdict = decide(&mut budget, &tables);
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
                decide(&mut budget, &tables);
            }
            let idle = Holding { room: 999 * MIB, index: 999 * MIB, ..table("a", 0) };
            let idle = [idle, table("b", 0)];
            prop_assert!(decide(&mut budget, &idle).paused.is_empty());
        }

        #[test]
        fn tables_whose_commits_go_on_are_told_nothing_while_memory_is_not_short(
            rounds in prop::collection::vec((tables(), 0usize..20), 1..8),
        ) {
            let mut budget = Budget::new(512 * MIB, 0);
            for (mut tables, count) in rounds {
                tables.truncate(count);
                let all = total(&tables);
                let judgement = budget.judge(&all);
                let healthy = tables.iter().filter(|table| !table.troubled);
                let told = healthy.filter(|table| judgement.of(table) != Verdict::default()).count();
                prop_assert!(told == 0 || judgement.concerns_all());
            }
        }

        #[test]
        fn what_went_leaves_nothing_behind(tables in tables(), more in tables()) {
            let mut all = total(tables.iter().chain(&more));
            more.iter().for_each(|table| all.remove(table));
            prop_assert_eq!(all, total(&tables));
        }

        #[test]
        fn a_full_memory_pauses_everybody(tables in tables()) {
            let mut budget = Budget::new(64 * MIB, 0);
            let verdict = decide(&mut budget, &tables);
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
                let verdict = decide(&mut budget, &tables);
                for (index, table) in tables.iter_mut().enumerate().take(count) {
                    if !verdict.paused.contains(&index) {
                        table.rows += 1 << 20;
                    }
                }
            }
            let verdict = decide(&mut budget, &tables);
            let held = total(&tables).held;
            prop_assert!(held <= (128 + count) * MIB, "{held}");
            prop_assert!((count..count + healthy).all(|index| !verdict.paused.contains(&index)));
        }
    }
}
