//! Which rows of a data file no longer count, as a plain bitset: one bit for each row up to the
//! last deleted one. A million rows take 128 KiB at most, a test is one load.

use roaring::{RoaringBitmap, RoaringTreemap};
use tidelake_manifest::vector::DeletedRows;

/// Words of 2^16 rows: a container of a roaring bitmap.
const CONTAINER_WORDS: usize = 1024;
/// Values that a container holds as an array.
const ARRAY_VALUES_MAX: u32 = 4096;

/// Rows of one file, numbered from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowSet {
    words: Vec<u64>,
    len: u32,
}

impl RowSet {
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory that the set holds.
    pub fn bytes(&self) -> usize {
        self.words.capacity() * 8
    }

    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        let word = self.words.get(row as usize / 64);
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// True where the row was not in the set before.
    #[inline]
    pub fn insert(&mut self, row: u32) -> bool {
        let place = row as usize / 64;
        if place >= self.words.len() {
            self.words.resize(place + 1, 0);
        }
        let bit = 1 << (row % 64);
        let new = self.words[place] & bit == 0;
        self.words[place] |= bit;
        self.len += u32::from(new);
        new
    }

    /// Adds the rows of another set.
    pub fn union(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (own, theirs) in self.words.iter_mut().zip(&other.words) {
            *own |= theirs;
        }
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// True where every row of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        let own = self.words.iter().copied().chain(std::iter::repeat(0));
        let mut pairs = other.words.iter().zip(own);
        pairs.all(|(theirs, own)| theirs & !own == 0)
    }

    /// The largest row.
    pub fn last(&self) -> Option<u32> {
        let place = self.words.iter().rposition(|word| *word != 0)?;
        Some(place as u32 * 64 + self.words[place].ilog2())
    }

    /// In rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(place, &word)| {
            std::iter::successors((word != 0).then_some(word), |word| {
                let rest = word & (word - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |word| place as u32 * 64 + word.trailing_zeros())
        })
    }

    /// The bits, 64 rows a word, lowest row in the lowest bit. May end before the file does.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The form that deletion vectors have.
    pub fn to_deleted_rows(&self) -> DeletedRows {
        let bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let mut bitmap = RoaringBitmap::from_lsb0_bytes(0, &bytes);
        self.settle_full_arrays(&mut bitmap);
        bitmap.optimize();
        if bitmap.is_empty() {
            return RoaringTreemap::new();
        }
        RoaringTreemap::from_bitmaps([(0, bitmap)])
    }

    /// A container of 4,096 values is an array by the format, but `from_lsb0_bytes` (roaring
    /// 0.11.5, `Store::from_lsb0_bytes`) leaves it a bitset and writes it as one, which no reader
    /// can read. A removal makes it an array, and the array has room for the value again.
    fn settle_full_arrays(&self, bitmap: &mut RoaringBitmap) {
        for (place, words) in self.words.chunks(CONTAINER_WORDS).enumerate() {
            let count: u32 = words.iter().map(|word| word.count_ones()).sum();
            let first = words.iter().position(|word| *word != 0);
            if let (ARRAY_VALUES_MAX, Some(first)) = (count, first) {
                let word = place * CONTAINER_WORDS + first;
                let row = word as u32 * 64 + words[first].trailing_zeros();
                bitmap.remove(row);
                bitmap.insert(row);
            }
        }
    }

    /// `None` where a row lies beyond what a file can hold.
    pub fn from_deleted_rows(rows: &DeletedRows) -> Option<Self> {
        let Some(last) = rows.max() else {
            return Some(Self::default());
        };
        let last = u32::try_from(last).ok()?;
        let mut words = vec![0u64; last as usize / 64 + 1];
        for (_, bitmap) in rows.bitmaps() {
            for row in bitmap {
                words[row as usize / 64] |= 1 << (row % 64);
            }
        }
        let len = u32::try_from(rows.len()).ok()?;
        Some(Self { words, len })
    }
}

/// How many rows of a set come before a given one.
#[derive(Debug)]
pub(crate) struct Ranks<S> {
    set: S,
    before_word: Vec<u32>,
}

impl<S: AsRef<RowSet>> Ranks<S> {
    pub(crate) fn of(set: S) -> Self {
        let mut sum = 0;
        let before_word = set.as_ref().words().iter().map(|word| {
            let before = sum;
            sum += word.count_ones();
            before
        });
        let before_word = before_word.collect();
        Self { set, before_word }
    }

    pub(crate) fn set(&self) -> &RowSet {
        self.set.as_ref()
    }

    pub(crate) fn before(&self, row: u32) -> u32 {
        let (set, place) = (self.set(), row as usize / 64);
        let Some(word) = set.words().get(place) else {
            return set.len();
        };
        let below = word & ((1u64 << (row % 64)) - 1);
        self.before_word[place] + below.count_ones()
    }
}

impl AsRef<RowSet> for RowSet {
    fn as_ref(&self) -> &RowSet {
        self
    }
}

impl FromIterator<u32> for RowSet {
    fn from_iter<I: IntoIterator<Item = u32>>(rows: I) -> Self {
        let mut set = Self::default();
        for row in rows {
            set.insert(row);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use tidelake_manifest::vector;

    use super::*;

    /// Dense and sparse containers, many of them close to where one form gives way to another.
    fn containers() -> impl Strategy<Value = RowSet> {
        let count = prop_oneof![4090..4102_u32, Just(4096), 0..9000_u32, Just(65_536)];
        let container = (count, 1..15_u32, any::<bool>());
        prop::collection::vec(container, 1..4).prop_map(|containers| {
            let rows = (0..)
                .zip(containers)
                .flat_map(|(place, (count, step, shifted))| {
                    let step = if count > 4400 { 1 } else { step };
                    let shift = u32::from(shifted && count < 60_000);
                    (0..count).map(move |n| place * 65_536 + n * step + shift)
                });
            rows.collect()
        })
    }

    fn rows() -> impl Strategy<Value = BTreeSet<u32>> {
        prop::collection::btree_set(prop_oneof![0..300u32, 0..200_000u32], 0..200)
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(a in rows(), b in rows()) {
            let (set_a, set_b): (RowSet, RowSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(set_a.len() as usize, a.len());
            prop_assert_eq!(set_a.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(set_a.last(), a.last().copied());
            let mut both = set_a.clone();
            both.union(&set_b);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), a.union(&b).copied().collect());
            prop_assert_eq!(both.len() as usize, a.union(&b).count());
            prop_assert!(both.covers(&set_a) && both.covers(&set_b));
            prop_assert_eq!(set_a.covers(&set_b), b.is_subset(&a));
            for row in b {
                prop_assert_eq!(set_a.contains(row), a.contains(&row));
            }
        }

        #[test]
        fn vectors_can_be_read_whatever_their_containers_hold(set in containers()) {
            let stored = vector::encode(&set.to_deleted_rows());
            let read = vector::decode(&stored).unwrap();
            let back = RowSet::from_deleted_rows(&read).unwrap();
            prop_assert_eq!(back.len(), set.len());
            prop_assert!(back.covers(&set));
        }

        #[test]
        fn vectors_keep_every_row(a in rows()) {
            let set: RowSet = a.iter().copied().collect();
            let vector = set.to_deleted_rows();
            prop_assert_eq!(vector.iter().collect::<Vec<_>>(), a.iter().map(|row| u64::from(*row)).collect::<Vec<_>>());
            let back = RowSet::from_deleted_rows(&vector).unwrap();
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), a.into_iter().collect::<Vec<_>>());
        }
    }
}
