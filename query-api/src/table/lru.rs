//! Values bounded by what they take in memory: what was used longest ago goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What is kept, by key.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    bytes_max: usize,
    by_key: HashMap<K, Kept<V>>,
    /// Keys by when they were used last.
    by_use: BTreeMap<u64, K>,
    bytes: usize,
    tick: u64,
}

#[derive(Debug)]
struct Kept<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            by_key: HashMap::new(),
            by_use: BTreeMap::new(),
            bytes: 0,
            tick: 0,
        }
    }

    /// About what all of it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        self.tick += 1;
        let kept = self.by_key.get_mut(key)?;
        if let Some(key) = self.by_use.remove(&kept.used) {
            self.by_use.insert(self.tick, key);
        }
        kept.used = self.tick;
        Some(&kept.value)
    }

    /// Keeps a value of so many bytes, if there may be room for it at all.
    pub(super) fn put(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.bytes_max {
            return;
        }
        self.tick += 1;
        let used = self.tick;
        self.by_use.insert(used, key.clone());
        if let Some(old) = self.by_key.insert(key, Kept { value, bytes, used }) {
            self.by_use.remove(&old.used);
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
        self.shrink();
    }

    /// Counts what was added to a value, if it is still the one that `is_it` knows.
    pub(super) fn grew(&mut self, key: &K, is_it: impl FnOnce(&V) -> bool, bytes: usize) {
        let kept = self.by_key.get_mut(key);
        if let Some(kept) = kept.filter(|kept| is_it(&kept.value)) {
            kept.bytes += bytes;
            self.bytes += bytes;
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            if let Some(dropped) = self.by_key.remove(&oldest) {
                self.bytes -= dropped.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(lru: &mut Lru<char, u8>) -> String {
        let keys = ['a', 'b', 'c', 'd'].into_iter();
        keys.filter(|key| lru.get(key).is_some()).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut lru = Lru::new(10);
        lru.put('a', 1, 4);
        lru.put('b', 2, 4);
        assert_eq!(lru.get(&'a'), Some(&1));
        lru.put('c', 3, 4);
        assert_eq!((held(&mut lru).as_str(), lru.bytes()), ("ac", 8));
        lru.put('a', 5, 1);
        lru.grew(&'a', |value| *value == 1, 100);
        assert_eq!((held(&mut lru).as_str(), lru.bytes()), ("ac", 5));
        assert_eq!(lru.get(&'a'), Some(&5));
        lru.grew(&'a', |value| *value == 5, 6);
        assert_eq!((held(&mut lru).as_str(), lru.bytes()), ("a", 7));
        lru.put('d', 4, 11);
        assert_eq!((held(&mut lru).as_str(), lru.bytes()), ("a", 7));
    }
}
