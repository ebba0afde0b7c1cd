//! What each key of an upsert table may be, and whether a reading agrees.
//!
//! A key belongs to one writer, who waits for each answer before the next record of that key.
//!
//! | answer | afterwards the key is |
//! | --- | --- |
//! | acknowledged | what was written |
//! | refused | what it was |
//! | none (crash, time-out) | what it was, or what was written |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Keys shown of each fault.
const SHOWN_MAX: usize = 10;

/// A key's value; none where it is not there.
pub type State = Option<u64>;

/// The states that every key may be in. Keys that are not named are absent.
#[derive(Debug, Clone, Default)]
pub struct UpsertHistory {
    possible: BTreeMap<u64, BTreeSet<State>>,
    acknowledged: usize,
}

/// What a reading says about a history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpsertVerdict {
    /// Keys that are there more than once.
    pub doubled: Vec<u64>,
    /// Keys that are what they can't be: key, found, what would be right.
    pub wrong: Vec<(u64, State, Vec<State>)>,
}

impl UpsertHistory {
    pub fn new() -> Self {
        Self::default()
    }

    /// About to be sent: until an answer comes, nobody knows.
    pub fn sent(&mut self, key: u64, state: State) {
        let possible = self
            .possible
            .entry(key)
            .or_insert_with(|| BTreeSet::from([None]));
        possible.insert(state);
    }

    pub fn acknowledged(&mut self, key: u64, state: State) {
        self.possible.insert(key, BTreeSet::from([state]));
        self.acknowledged += 1;
    }

    /// The answer was that nothing was written; `before` is the clone of the states before it was
    /// sent.
    pub fn refused(&mut self, key: u64, before: BTreeSet<State>) {
        self.possible.insert(key, before);
    }

    /// The states that a key may be in now.
    pub fn possible(&self, key: u64) -> BTreeSet<State> {
        let absent = || BTreeSet::from([None]);
        self.possible.get(&key).cloned().unwrap_or_else(absent)
    }

    /// Records that were acknowledged so far.
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged
    }

    /// Compares with the keys and values that a reader found, in any order.
    pub fn check(&self, found: impl IntoIterator<Item = (u64, u64)>) -> UpsertVerdict {
        let mut verdict = UpsertVerdict::default();
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        for (key, value) in found {
            if seen.insert(key, value).is_some() {
                verdict.doubled.push(key);
            }
        }
        let keys: BTreeSet<u64> = self.possible.keys().chain(seen.keys()).copied().collect();
        for key in keys {
            let (state, possible) = (seen.get(&key).copied(), self.possible(key));
            if !possible.contains(&state) {
                verdict
                    .wrong
                    .push((key, state, possible.into_iter().collect()));
            }
        }
        verdict
    }
}

impl UpsertVerdict {
    pub fn is_clean(&self) -> bool {
        self.doubled.is_empty() && self.wrong.is_empty()
    }

    /// # Panics
    /// Where the reading is not what it may be.
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for UpsertVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doubled = &self.doubled[..self.doubled.len().min(SHOWN_MAX)];
        let wrong = &self.wrong[..self.wrong.len().min(SHOWN_MAX)];
        write!(
            f,
            "{} keys doubled {doubled:?}, {} wrong (key, found, possible) {wrong:?}",
            self.doubled.len(),
            self.wrong.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_its_last_answer_says() {
        let mut history = UpsertHistory::new();
        history.sent(1, Some(10));
        assert!(history.check([]).is_clean() && history.check([(1, 10)]).is_clean());
        history.acknowledged(1, Some(10));
        assert_eq!(history.check([]).wrong, [(1, None, vec![Some(10)])]);
        let before = history.possible(1);
        history.sent(1, None);
        assert!(history.check([]).is_clean() && history.check([(1, 10)]).is_clean());
        history.refused(1, before);
        assert!(!history.check([]).is_clean() && history.check([(1, 10)]).is_clean());
        assert_eq!(history.check([(1, 10), (1, 10)]).doubled, [1]);
        assert!(
            !history.check([(1, 10), (2, 1)]).is_clean(),
            "a key nobody wrote"
        );
    }
}
