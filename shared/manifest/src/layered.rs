//! A map whose versions share what they have in common.
//!
//! A snapshot differs from its predecessor by a few entries. So a map is a large shared base and a
//! small overlay of changes; a new version copies the overlay only. When the overlay has grown to a
//! share of the base it is folded in, so a change costs O(1) copies on average.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Changes that are never worth folding.
const OVERLAY_MIN: usize = 64;
/// The overlay may grow to one n-th of the base.
const OVERLAY_SHARE: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Layered<K, V> {
    base: Arc<BTreeMap<K, V>>,
    /// None: removed from the base.
    overlay: BTreeMap<K, Option<V>>,
    len: usize,
}

impl<K, V> Default for Layered<K, V> {
    fn default() -> Self {
        Self {
            base: Arc::default(),
            overlay: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<K: Ord + Clone, V: Clone> Layered<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        match self.overlay.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(key),
        }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.get(&key).is_none() {
            self.len += 1;
        }
        self.overlay.insert(key, Some(value));
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let found = self.get(key).cloned()?;
        self.len -= 1;
        if self.base.contains_key(key) {
            self.overlay.insert(key.clone(), None);
        } else {
            self.overlay.remove(key);
        }
        Some(found)
    }

    /// All entries: the unchanged ones in key order, then the changed ones in key order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let unchanged = self
            .base
            .iter()
            .filter(|(key, _)| !self.overlay.contains_key(*key));
        let changed = self
            .overlay
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)));
        unchanged.chain(changed)
    }

    /// Shows `each` what the values are that differ from those of another version: theirs and ours.
    /// Versions that share a base cost their changes only. `same` tells values that are equal.
    pub(crate) fn changes_since(
        &self,
        before: &Self,
        same: impl Fn(&V, &V) -> bool,
        mut each: impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut changed = |before: Option<&V>, after: Option<&V>| {
            let kept = before.zip(after).is_some_and(|(a, b)| same(a, b));
            if !kept && (before.is_some() || after.is_some()) {
                each(before, after);
            }
        };
        if !Arc::ptr_eq(&self.base, &before.base) {
            for (key, value) in self.iter() {
                changed(before.get(key), Some(value));
            }
            let gone = before.iter().filter(|(key, _)| self.get(*key).is_none());
            gone.for_each(|(_, value)| changed(Some(value), None));
            return;
        }
        let (mut theirs, mut ours) = (before.overlay.iter(), self.overlay.iter());
        let (mut old, mut new) = (theirs.next(), ours.next());
        loop {
            let order = match (old, new) {
                (None, None) => break,
                (Some((key, was)), None) => {
                    changed(was.as_ref(), self.base.get(key));
                    Ordering::Less
                }
                (None, Some((key, is))) => {
                    changed(self.base.get(key), is.as_ref());
                    Ordering::Greater
                }
                (Some((a, was)), Some((b, is))) => {
                    let order = a.cmp(b);
                    match order {
                        Ordering::Less => changed(was.as_ref(), self.base.get(a)),
                        Ordering::Greater => changed(self.base.get(b), is.as_ref()),
                        Ordering::Equal => changed(was.as_ref(), is.as_ref()),
                    }
                    order
                }
            };
            if order.is_le() {
                old = theirs.next();
            }
            if order.is_ge() {
                new = ours.next();
            }
        }
    }

    /// To be called after a round of changes.
    pub(crate) fn settle(&mut self) {
        if self.overlay.len() <= OVERLAY_MIN.max(self.base.len() / OVERLAY_SHARE) {
            return;
        }
        let base = Arc::make_mut(&mut self.base);
        for (key, value) in std::mem::take(&mut self.overlay) {
            match value {
                Some(value) => base.insert(key, value),
                None => base.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_and_older_versions_stay(
            changes in prop::collection::vec((0u16..300, prop::option::of(0u8..10)), 0..600),
        ) {
            let mut map = Layered::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (i, (key, value)) in changes.into_iter().enumerate() {
                match value {
                    Some(value) => {
                        map.insert(key, value);
                        model.insert(key, value);
                    }
                    None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                }
                if i % 7 == 0 {
                    map.settle();
                }
                if i % 50 == 0 {
                    kept.push((map.clone(), model.clone()));
                }
                prop_assert_eq!(map.len(), model.len());
            }
            kept.push((map, model));
            for ((from, before), (to, after)) in kept.iter().zip(kept.iter().skip(1)) {
                let mut moved: Vec<_> = before.iter().filter(|(key, v)| after.get(key) != Some(v))
                    .map(|(key, v)| (Some(*v), after.get(key).copied())).collect();
                moved.extend(after.iter().filter(|(key, _)| !before.contains_key(key))
                    .map(|(_, v)| (None, Some(*v))));
                let mut told = Vec::new();
                to.changes_since(from, |a, b| a == b, |a, b| told.push((a.copied(), b.copied())));
                moved.sort_unstable();
                told.sort_unstable();
                prop_assert_eq!(told, moved);
            }
            for (map, model) in kept {
                let found: BTreeMap<_, _> = map.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(&found, &model);
                prop_assert!((0..300).all(|key| map.get(&key) == model.get(&key)));
            }
        }
    }
}
