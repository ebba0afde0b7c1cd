//! What was written, how it was answered, and whether a reading agrees.
//!
//! A writer gives each record an id of its own and notes the answer. Afterwards, a reading of the ids
//! in the table is checked:
//!
//! | answer | in the table |
//! | --- | --- |
//! | acknowledged | exactly once |
//! | refused | not at all |
//! | none (crash, time-out) | at most once |
//! | never sent | not at all |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Ids shown of each fault.
const SHOWN_MAX: usize = 10;

/// Records by the answer they got.
#[derive(Debug, Clone, Default)]
pub struct History {
    acknowledged: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
}

/// What a reading says about a history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Acknowledged, but not in the table.
    pub lost: Vec<u64>,
    /// In the table more than once.
    pub doubled: Vec<u64>,
    /// In the table, though refused or never sent.
    pub phantom: Vec<u64>,
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    /// About to be sent: until an answer comes, nobody knows.
    pub fn sent(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            assert!(!self.acknowledged.contains(&id), "id {id} is used twice");
            self.unknown.insert(id);
        }
    }

    pub fn acknowledged(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            assert!(
                self.unknown.remove(&id),
                "id {id} is acknowledged but was not sent"
            );
            self.acknowledged.insert(id);
        }
    }

    /// The answer was that nothing was written.
    pub fn refused(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            assert!(
                self.unknown.remove(&id),
                "id {id} is refused but was not sent"
            );
        }
    }

    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn unknown_count(&self) -> usize {
        self.unknown.len()
    }

    /// Compares with the ids that a reader found, in any order.
    pub fn check(&self, found: impl IntoIterator<Item = u64>) -> Verdict {
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        for id in found {
            *times.entry(id).or_default() += 1;
        }
        let sent = |id: &u64| self.acknowledged.contains(id) || self.unknown.contains(id);
        Verdict {
            lost: self
                .acknowledged
                .iter()
                .filter(|id| !times.contains_key(id))
                .copied()
                .collect(),
            doubled: times
                .iter()
                .filter(|(_, n)| **n > 1)
                .map(|(id, _)| *id)
                .collect(),
            phantom: times.keys().filter(|id| !sent(id)).copied().collect(),
        }
    }
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// # Panics
    /// When anything was lost, doubled or made up; says what.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (fault, ids) in [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("phantom", &self.phantom),
        ] {
            if ids.is_empty() {
                continue;
            }
            let shown: Vec<String> = ids.iter().take(SHOWN_MAX).map(u64::to_string).collect();
            let more = if ids.len() > SHOWN_MAX { ", …" } else { "" };
            let comma = if first { "" } else { "; " };
            write!(
                f,
                "{comma}{} {fault} ({}{more})",
                ids.len(),
                shown.join(", ")
            )?;
            first = false;
        }
        if first { f.write_str("clean") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::new();
        history.sent(0..6);
        history.acknowledged(0..3);
        history.refused([3]);
        history
    }

    #[test]
    fn unknown_records_may_be_there_once_or_not() {
        assert!(history().check([2, 0, 1]).is_clean());
        assert!(history().check([0, 1, 2, 4, 5]).is_clean());
    }

    #[test]
    fn every_fault_is_found_and_shown() {
        let verdict = history().check([0, 0, 2, 3, 4, 4, 99]);
        assert_eq!(verdict.lost, [1]);
        assert_eq!(verdict.doubled, [0, 4]);
        assert_eq!(verdict.phantom, [3, 99]);
        let text = "1 lost (1); 2 doubled (0, 4); 2 phantom (3, 99)";
        assert_eq!(verdict.to_string(), text);
        assert_eq!(Verdict::default().to_string(), "clean");
    }

    #[test]
    #[should_panic(expected = "used twice")]
    fn an_id_names_one_record() {
        let mut history = history();
        history.sent([1]);
    }
}
