//! What to flush, and when: by what each table holds. Costs what has changed, however many tables
//! there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::policy::Moment;

/// How long a flush that was asked for waits for the markers of the table's other buckets, from
/// the first one on: they are written together, and come in by several polls. One commit then holds
/// what would be two, of which the second holds watermarks only.
pub const MARKERS_WAIT: Duration = Duration::from_millis(25);

/// Why a table is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Shutdown,
    Revoke,
    Request,
    Size,
    Pressure,
    Age,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Revoke => "revoke",
            Self::Request => "request",
            Self::Size => "size",
            Self::Pressure => "pressure",
            Self::Age => "age",
        }
    }

    pub const ALL: [Self; 6] = [
        Self::Shutdown,
        Self::Revoke,
        Self::Request,
        Self::Size,
        Self::Pressure,
        Self::Age,
    ];
}

/// What one table holds that no commit covers, and that is not being flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub bytes: usize,
    /// With what its flush will need beside them.
    pub weight: usize,
    /// When the oldest message came in; `None` where nothing is held.
    pub since: Option<Moment>,
    /// When the first flush marker came through.
    pub asked: Option<Moment>,
    /// No marker has come through some bucket that is read here.
    pub awaits_markers: bool,
    /// Flushes by age, one after another, that found next to nothing.
    pub calm: u32,
    /// Buckets of it are being given up.
    pub leaving: bool,
    /// A flush of this table is under way: the next one waits for it.
    pub busy: bool,
}

impl Load {
    /// A flush that was asked for waits for markers of other buckets.
    pub fn is_held_up(&self) -> bool {
        self.asked.is_some() && self.awaits_markers && !self.busy
    }
}

/// When to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub flush_bytes: usize,
    pub flush_age: Duration,
    /// How far the age grows for a table of which little comes.
    pub flush_age_max: Duration,
    pub draining: bool,
}

/// A flush by age that finds less is one too many: its files have to be merged again.
pub const CALM_BYTES: usize = 1 << 20;

impl Limits {
    /// How old the oldest message of a table may become: twice as old after each flush that found
    /// next to nothing. A table of one record a second would otherwise cost a commit and four files
    /// every few seconds for ever, and queries see its rows before they are committed.
    pub fn age(&self, calm: u32) -> Duration {
        let grown = self.flush_age.saturating_mul(1 << calm.min(16));
        grown.min(self.flush_age_max).max(self.flush_age)
    }

    /// What to count as calm after a flush of this load, whose oldest message had come so long
    /// after the flush before it. After a pause a table begins anew: somebody may be waiting for
    /// the first row of many.
    pub fn calm_after(&self, load: &Load, reason: Reason, pause: Option<Duration>) -> u32 {
        let is_calm = reason == Reason::Age && load.bytes < CALM_BYTES;
        match (is_calm, pause) {
            (true, Some(pause)) if pause <= self.age(load.calm) => load.calm.saturating_add(1),
            (true, _) => 1,
            (false, _) => 0,
        }
    }

    /// From when on a table of this load is to be flushed, and why; `None` where there is nothing
    /// to flush, or a flush is under way.
    pub fn due(&self, load: &Load) -> Option<(Moment, Reason)> {
        let since = load.since.filter(|_| !load.busy)?;
        let at_once = |reason| Some((Moment::ZERO, reason));
        if self.draining {
            return at_once(Reason::Shutdown);
        }
        if load.leaving {
            return at_once(Reason::Revoke);
        }
        let asked = load.asked.map(|asked| match load.awaits_markers {
            true => (asked + MARKERS_WAIT, Reason::Request),
            false => (Moment::ZERO, Reason::Request),
        });
        let size = (load.bytes >= self.flush_bytes).then_some((Moment::ZERO, Reason::Size));
        let age = (since + self.age(load.calm), Reason::Age);
        asked.into_iter().chain(size).chain([age]).min()
    }
}

/// The tables that have something to flush, by when and by how much.
#[derive(Debug, PartialEq, Eq)]
pub struct Agenda<K> {
    loads: BTreeMap<K, (Moment, Reason, usize)>,
    by_time: BTreeSet<(Moment, K)>,
    by_weight: BTreeSet<(usize, K)>,
    /// Of all of them.
    weight: usize,
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self {
            loads: BTreeMap::new(),
            by_time: BTreeSet::new(),
            by_weight: BTreeSet::new(),
            weight: 0,
        }
    }
}

impl<K: Ord + Clone> Agenda<K> {
    /// Notes what a table holds now.
    pub fn set(&mut self, table: &K, load: &Load, limits: &Limits) {
        let Some((at, reason)) = limits.due(load) else {
            self.remove(table);
            return;
        };
        let now_is = (at, reason, load.weight);
        if self.loads.get(table) == Some(&now_is) {
            return;
        }
        self.remove(table);
        self.by_time.insert((at, table.clone()));
        self.by_weight.insert((load.weight, table.clone()));
        self.weight += load.weight;
        self.loads.insert(table.clone(), now_is);
    }

    /// Forgets a table; why it would have been flushed.
    pub fn remove(&mut self, table: &K) -> Option<Reason> {
        let (at, reason, weight) = self.loads.remove(table)?;
        self.by_time.remove(&(at, table.clone()));
        self.by_weight.remove(&(weight, table.clone()));
        self.weight -= weight;
        Some(reason)
    }

    /// Takes out the tables to flush now, with the reason. From `pressure` bytes on, of all that
    /// the process holds, the largest tables go first: what is taken or under way will be freed,
    /// so the largest of the rest go until what stays is below half of that line.
    pub fn take(&mut self, now: Moment, held: usize, pressure: usize) -> Vec<(K, Reason)> {
        let mut taken = Vec::new();
        while let Some((at, table)) = self.by_time.first()
            && *at <= now
        {
            let table = table.clone();
            let reason = self.remove(&table).unwrap_or(Reason::Age);
            taken.push((table, reason));
        }
        while held >= pressure
            && self.weight >= pressure / 2
            && let Some((_, table)) = self.by_weight.last()
        {
            let table = table.clone();
            self.remove(&table);
            taken.push((table, Reason::Pressure));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_secs(100);

    const QUIET: Load = Load {
        bytes: 10,
        weight: 10,
        since: Some(NOW),
        asked: None,
        awaits_markers: false,
        calm: 0,
        leaving: false,
        busy: false,
    };

    fn limits() -> Limits {
        Limits {
            flush_bytes: 100,
            flush_age: Duration::from_secs(5),
            flush_age_max: Duration::from_secs(60),
            draining: false,
        }
    }

    const PRESSURE: usize = 200;

    fn ago(age: Duration) -> Option<Moment> {
        Some(NOW - age)
    }

    /// What is flushed now, by the place of its load.
    fn due(loads: &[Load], limits: &Limits, held: usize) -> Vec<(usize, Reason)> {
        let mut agenda = Agenda::default();
        for (index, load) in loads.iter().enumerate() {
            agenda.set(&index, load, limits);
        }
        agenda.take(NOW, held, PRESSURE)
    }

    #[test]
    fn each_reason_shows() {
        let loads = [
            QUIET,
            Load {
                bytes: 100,
                ..QUIET
            },
            Load {
                since: ago(Duration::from_secs(5)),
                ..QUIET
            },
            Load {
                asked: ago(Duration::ZERO),
                ..QUIET
            },
            Load {
                leaving: true,
                ..QUIET
            },
            Load {
                bytes: 500,
                busy: true,
                ..QUIET
            },
            Load {
                since: None,
                bytes: 0,
                ..QUIET
            },
        ];
        let expected = vec![
            (1, Reason::Size),
            (2, Reason::Age),
            (3, Reason::Request),
            (4, Reason::Revoke),
        ];
        let mut chosen = due(&loads, &limits(), 150);
        chosen.sort_unstable();
        assert_eq!(chosen, expected);
        let draining = Limits {
            draining: true,
            ..limits()
        };
        let all: Vec<_> = (0..5).map(|index| (index, Reason::Shutdown)).collect();
        assert_eq!(due(&loads, &draining, 150), all);
    }

    #[test]
    fn a_flush_that_was_asked_for_waits_a_moment_for_the_other_markers() {
        let asked = |since, awaits_markers| Load {
            asked: ago(since),
            awaits_markers,
            ..QUIET
        };
        let almost = MARKERS_WAIT - Duration::from_millis(1);
        let loads = [
            asked(Duration::ZERO, true),
            asked(almost, true),
            asked(MARKERS_WAIT, true),
            asked(Duration::ZERO, false),
        ];
        let expected = vec![(3, Reason::Request), (2, Reason::Request)];
        assert_eq!(due(&loads, &limits(), 0), expected);
        // What is due anyhow does not wait.
        let loads = [Load {
            bytes: 100,
            ..asked(Duration::ZERO, true)
        }];
        assert_eq!(due(&loads, &limits(), 0), vec![(0, Reason::Size)]);
    }

    #[test]
    fn a_table_of_which_little_comes_is_flushed_less_and_less_often() {
        let limits = limits();
        let ages = [0, 1, 2, 3, 4, 5, 40].map(|calm| limits.age(calm).as_secs());
        assert_eq!(ages, [5, 10, 20, 40, 60, 60, 60]);
        let lower = Limits {
            flush_age_max: Duration::from_secs(1),
            ..limits
        };
        assert_eq!(lower.age(3), lower.flush_age, "never below it");
        let load = |calm| Load {
            calm,
            since: ago(Duration::from_secs(30)),
            ..QUIET
        };
        assert_eq!(due(&[load(2), load(3)], &limits, 0), vec![(0, Reason::Age)]);
    }

    #[test]
    fn what_is_calm_is_forgotten_once_much_comes_or_nothing_came_for_long() {
        let load = Load { calm: 2, ..QUIET };
        let after = |load: &Load, reason, pause: u64| {
            let pause = Some(Duration::from_secs(pause));
            limits().calm_after(load, reason, pause)
        };
        assert_eq!(after(&load, Reason::Age, 1), 3);
        assert_eq!(after(&load, Reason::Age, 20), 3);
        assert_eq!(after(&load, Reason::Age, 21), 1, "a pause");
        assert_eq!(
            limits().calm_after(&load, Reason::Age, None),
            1,
            "the first"
        );
        for reason in [Reason::Request, Reason::Size, Reason::Pressure] {
            assert_eq!(after(&load, reason, 1), 0);
        }
        let much = Load {
            bytes: CALM_BYTES,
            ..load
        };
        assert_eq!(after(&much, Reason::Age, 1), 0);
    }

    #[test]
    fn pressure_takes_the_largest_first_and_no_more_than_needed() {
        let loads: Vec<Load> = [60, 90, 80, 30]
            .map(|weight| Load { weight, ..QUIET })
            .into_iter()
            .collect();
        let chosen = due(&loads, &limits(), 260);
        assert_eq!(chosen, vec![(1, Reason::Pressure), (2, Reason::Pressure)]);
    }

    proptest! {
        /// However loads changed: what is due is what their last values say.
        #[test]
        fn what_changed_leaves_nothing_behind(
            changes in prop::collection::vec((0usize..6, 0usize..150, 0u64..9, any::<bool>()), 0..60),
        ) {
            let (mut agenda, mut last) = (Agenda::default(), BTreeMap::new());
            for (table, weight, age, busy) in changes {
                let since = (weight > 0).then(|| NOW - Duration::from_secs(age));
                let load = Load { bytes: weight, weight, since, busy, ..Load::default() };
                agenda.set(&table, &load, &limits());
                last.insert(table, load);
            }
            let mut anew = Agenda::default();
            for (table, load) in &last {
                anew.set(table, load, &limits());
            }
            let held: usize = last.values().map(|load| load.weight).sum();
            prop_assert_eq!(agenda.take(NOW, held, PRESSURE), anew.take(NOW, held, PRESSURE));
            prop_assert_eq!(agenda.weight, agenda.by_weight.iter().map(|(weight, _)| *weight).sum::<usize>());
        }

        #[test]
        fn under_pressure_what_stays_is_below_the_line(
            bytes in prop::collection::vec(0usize..99, 0..40),
        ) {
            let loads: Vec<Load> =
                bytes.iter().map(|&weight| Load { weight, ..QUIET }).collect();
            let held = bytes.iter().sum();
            let chosen = due(&loads, &limits(), held);
            let freed: usize = chosen.iter().map(|(index, _)| bytes[*index]).sum();
            if held >= 200 {
                prop_assert!(held - freed < 100);
            } else {
                prop_assert!(chosen.is_empty());
            }
        }
    }
}
