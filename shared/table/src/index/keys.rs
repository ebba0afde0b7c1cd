//! Keys as values: one order-preserving string of bytes for each row, never a heap object each.

use std::fmt;

/// What the keys of a table look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// So many bytes (1 to 16), kept as a right-aligned integer.
    Fixed { bytes: usize },
    /// Any number of bytes.
    Bytes,
}

/// One key. `Ord` is the order of the primary key's values, column by column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRef<'a> {
    Fixed(u128),
    Bytes(&'a [u8]),
}

impl KeyRef<'_> {
    /// The first 16 bytes behind `shared` ones, zeros after a shorter key: among keys that share
    /// these, it never falls as keys rise, and equal heads say nothing about [`KeyRef::Bytes`].
    #[inline]
    pub(super) fn head_behind(self, shared: usize) -> u128 {
        match self {
            Self::Fixed(key) => key,
            Self::Bytes(key) => head(&key[shared..]),
        }
    }
}

#[inline]
fn head(key: &[u8]) -> u128 {
    if let Some(first) = key.first_chunk::<16>() {
        return u128::from_be_bytes(*first);
    }
    let mut bytes = [0; 16];
    bytes[..key.len()].copy_from_slice(key);
    u128::from_be_bytes(bytes)
}

/// A column of keys of one kind.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    kind: KeyKind,
    store: Store,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Store {
    Fixed(Vec<u128>),
    /// Key `i` is `heap[ends[i - 1]..ends[i]]`.
    Bytes {
        heap: Vec<u8>,
        ends: Vec<usize>,
    },
}

impl Keys {
    pub fn new(kind: KeyKind) -> Self {
        Self::with_capacity(kind, 0)
    }

    /// No keys, with room for so many.
    pub fn with_capacity(kind: KeyKind, keys: usize) -> Self {
        let store = match kind {
            KeyKind::Fixed { .. } => Store::Fixed(Vec::with_capacity(keys)),
            KeyKind::Bytes => Store::Bytes {
                heap: Vec::new(),
                ends: Vec::with_capacity(keys),
            },
        };
        Self { kind, store }
    }

    pub(super) fn of_fixed(bytes: usize, keys: Vec<u128>) -> Self {
        Self {
            kind: KeyKind::Fixed { bytes },
            store: Store::Fixed(keys),
        }
    }

    pub(super) fn of_bytes(heap: Vec<u8>, ends: Vec<usize>) -> Self {
        Self {
            kind: KeyKind::Bytes,
            store: Store::Bytes { heap, ends },
        }
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    pub fn len(&self) -> usize {
        match &self.store {
            Store::Fixed(keys) => keys.len(),
            Store::Bytes { ends, .. } => ends.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Key `i`.
    ///
    /// # Panics
    /// Where there is none.
    #[inline]
    pub fn get(&self, i: usize) -> KeyRef<'_> {
        match &self.store {
            Store::Fixed(keys) => KeyRef::Fixed(keys[i]),
            Store::Bytes { heap, ends } => {
                let start = if i == 0 { 0 } else { ends[i - 1] };
                KeyRef::Bytes(&heap[start..ends[i]])
            }
        }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = KeyRef<'_>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Adds one key.
    ///
    /// # Panics
    /// Where the key is of the other kind.
    #[inline]
    pub fn push(&mut self, key: KeyRef<'_>) {
        match (&mut self.store, key) {
            (Store::Fixed(keys), KeyRef::Fixed(key)) => keys.push(key),
            (Store::Bytes { heap, ends }, KeyRef::Bytes(key)) => {
                heap.extend_from_slice(key);
                ends.push(heap.len());
            }
            _ => panic!("a key of the other kind"),
        }
    }

    /// Adds all keys of `other`.
    ///
    /// # Panics
    /// Where they are of the other kind.
    pub fn append(&mut self, other: &Keys) {
        match (&mut self.store, &other.store) {
            (Store::Fixed(keys), Store::Fixed(more)) => keys.extend_from_slice(more),
            (Store::Bytes { heap, ends }, Store::Bytes { heap: h, ends: e }) => {
                let start = heap.len();
                heap.extend_from_slice(h);
                ends.extend(e.iter().map(|end| start + end));
            }
            _ => panic!("keys of the other kind"),
        }
    }

    /// The keys at `places`, in that order.
    pub fn take(&self, places: &[u32]) -> Keys {
        let store = match &self.store {
            Store::Fixed(keys) => {
                Store::Fixed(places.iter().map(|&place| keys[place as usize]).collect())
            }
            Store::Bytes { heap, ends } => {
                let mut taken = Vec::with_capacity(places.len());
                let average = heap.len() / ends.len().max(1);
                let mut bytes = Vec::with_capacity((average + 1) * places.len());
                for &place in places {
                    let place = place as usize;
                    let start = if place == 0 { 0 } else { ends[place - 1] };
                    bytes.extend_from_slice(&heap[start..ends[place]]);
                    taken.push(bytes.len());
                }
                Store::Bytes {
                    heap: bytes,
                    ends: taken,
                }
            }
        };
        Keys {
            kind: self.kind,
            store,
        }
    }

    pub fn clear(&mut self) {
        match &mut self.store {
            Store::Fixed(keys) => keys.clear(),
            Store::Bytes { heap, ends } => {
                heap.clear();
                ends.clear();
            }
        }
    }

    /// Memory that the keys hold.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::Fixed(keys) => keys.capacity() * size_of::<u128>(),
            Store::Bytes { heap, ends } => heap.capacity() + ends.capacity() * size_of::<usize>(),
        }
    }

    /// True where each key is greater than the one before it.
    pub fn is_strictly_ascending(&self) -> bool {
        match &self.store {
            Store::Fixed(keys) => keys.is_sorted_by(|a, b| a < b),
            Store::Bytes { .. } => (1..self.len()).all(|i| self.get(i - 1) < self.get(i)),
        }
    }

    /// True where no key is less than the one before it.
    pub(super) fn is_ascending(&self) -> bool {
        match &self.store {
            Store::Fixed(keys) => keys.is_sorted(),
            Store::Bytes { .. } => (1..self.len()).all(|i| self.get(i - 1) <= self.get(i)),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

/// Values of users do not belong in logs: only kind and number.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("kind", &self.kind)
            .field("len", &self.len())
            .finish()
    }
}

/// The keys of one file with their row numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// Ascending. Where a file holds a key twice, both stand here.
    pub keys: Keys,
    /// The row (from 0) of each key.
    pub rows: Vec<u32>,
}

impl Entries {
    /// The entries of a file whose row `i` has key `i`.
    pub fn of_rows(keys: &Keys) -> Self {
        let rows = super::sorted_order(keys);
        Self {
            keys: keys.take(&rows),
            rows,
        }
    }
}
