//! The block index of a run: where each block stands and which keys it can hold, in memory.
//!
//! A fence is at most its block's first key and greater than the last key of the block before,
//! except where both are the same key: then it is that key. Some 12 bytes a block for keys of up to
//! 64 bits, 20 for wider ones; for strings the shortest prefix that tells two blocks apart, front
//! coded in groups.

use std::cmp::Ordering;

use super::bits::{Taker, put_varint};
use super::compact::{Offsets, STRING_GROUP as GROUP, Strings, gallop};
use super::error::Damage;
use super::keys::{KeyKind, KeyRef};

#[derive(Debug)]
pub(super) struct Fences {
    keys: FenceKeys,
    offsets: Offsets,
}

#[derive(Debug)]
enum FenceKeys {
    Narrow(Vec<u64>),
    Wide(Vec<u128>),
    Strings(Strings),
}

impl Fences {
    pub(super) fn new(kind: KeyKind, start: u64) -> Self {
        let keys = match kind {
            KeyKind::Fixed { bytes } if bytes <= 8 => FenceKeys::Narrow(Vec::new()),
            KeyKind::Fixed { .. } => FenceKeys::Wide(Vec::new()),
            KeyKind::Bytes => FenceKeys::Strings(Strings::default()),
        };
        Self {
            keys,
            offsets: Offsets::new(start),
        }
    }

    /// Adds a block of so many bytes.
    pub(super) fn push(&mut self, fence: KeyRef<'_>, bytes: usize) -> Result<(), Damage> {
        match (&mut self.keys, fence) {
            (FenceKeys::Narrow(keys), KeyRef::Fixed(key)) => {
                keys.push(u64::try_from(key).map_err(|_| "a key is too wide")?);
            }
            (FenceKeys::Wide(keys), KeyRef::Fixed(key)) => keys.push(key),
            (FenceKeys::Strings(keys), KeyRef::Bytes(key)) => keys.push(key),
            _ => return Err("a key of the other kind"),
        }
        self.offsets.push(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Where block `i` begins; for `i` = number of blocks where the last one ends.
    pub(super) fn offset(&self, i: usize) -> u64 {
        self.offsets.get(i)
    }

    /// The first key of an integer block; None for strings.
    #[inline]
    pub(super) fn first(&self, i: usize) -> Option<u128> {
        match &self.keys {
            FenceKeys::Narrow(keys) => Some(u128::from(keys[i])),
            FenceKeys::Wide(keys) => Some(keys[i]),
            FenceKeys::Strings(_) => None,
        }
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        let keys = match &self.keys {
            FenceKeys::Narrow(keys) => keys.capacity() * 8,
            FenceKeys::Wide(keys) => keys.capacity() * 16,
            FenceKeys::Strings(keys) => keys.bytes(),
        };
        keys + self.offsets.bytes()
    }

    pub(super) fn shrink(&mut self) {
        match &mut self.keys {
            FenceKeys::Narrow(keys) => keys.shrink_to_fit(),
            FenceKeys::Wide(keys) => keys.shrink_to_fit(),
            FenceKeys::Strings(keys) => keys.shrink(),
        }
        self.offsets.shrink();
    }

    /// Walks the fences upwards.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk {
            fences: self,
            block: 0,
            group: usize::MAX,
            heap: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Appends the fence and length of block `i`; blocks in order.
    pub(super) fn encode(&self, i: usize, out: &mut Vec<u8>) {
        let length = self.offset(i + 1) - self.offset(i);
        put_varint(out, u128::from(length));
        match &self.keys {
            FenceKeys::Narrow(_) | FenceKeys::Wide(_) => {
                let first = |i| self.first(i).unwrap_or(0);
                let before = if i == 0 { 0 } else { first(i - 1) };
                put_varint(out, first(i) - before);
            }
            FenceKeys::Strings(keys) => keys.encode(i, out),
        }
    }

    /// Reads what [`Fences::encode`] wrote for `blocks` blocks.
    pub(super) fn decode(
        kind: KeyKind,
        start: u64,
        blocks: usize,
        taker: &mut Taker<'_>,
    ) -> Result<Self, Damage> {
        const ORDER: Damage = "the block index is out of order";
        let mut fences = Self::new(kind, start);
        let (mut number, mut text) = (0_u128, Vec::new());
        for i in 0..blocks {
            let length = taker.length()?;
            match kind {
                KeyKind::Fixed { bytes } => {
                    number = number.checked_add(taker.varint128()?).ok_or(ORDER)?;
                    if bytes < 16 && number >> (8 * bytes) != 0 {
                        return Err("a key is too wide");
                    }
                    fences.push(KeyRef::Fixed(number), length)?;
                }
                KeyKind::Bytes => {
                    let shared = taker.length()?;
                    let rest = taker.length()?;
                    let rest = taker.bytes(rest)?;
                    let old = text.get(shared..).ok_or(ORDER)?;
                    if i > 0 && rest < old {
                        return Err(ORDER);
                    }
                    text.truncate(shared);
                    text.extend_from_slice(rest);
                    fences.push(KeyRef::Bytes(&text), length)?;
                }
            }
        }
        fences.shrink();
        Ok(fences)
    }
}

/// A place that only moves upwards.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    fences: &'a Fences,
    block: usize,
    /// The group of strings that `heap` and `ends` hold.
    group: usize,
    heap: Vec<u8>,
    ends: Vec<usize>,
}

impl Walk<'_> {
    /// The last block whose fence is less than `key`, or the first block; never below the last
    /// answer. It is where the key stands if it stands anywhere, together with the blocks after
    /// whose fence equals the key.
    pub(super) fn seek(&mut self, key: KeyRef<'_>) -> usize {
        let below = self.block + 1;
        let next = match (&self.fences.keys, key) {
            (FenceKeys::Narrow(keys), KeyRef::Fixed(key)) => match u64::try_from(key) {
                Ok(key) => gallop(below, keys.len(), |i| keys[i] < key),
                Err(_) => keys.len(),
            },
            (FenceKeys::Wide(keys), KeyRef::Fixed(key)) => {
                gallop(below, keys.len(), |i| keys[i] < key)
            }
            (FenceKeys::Strings(keys), KeyRef::Bytes(key)) => self.seek_string(keys, below, key),
            _ => below,
        };
        self.block = next.max(below) - 1;
        self.block
    }

    fn seek_string(&mut self, keys: &Strings, below: usize, key: &[u8]) -> usize {
        if below >= keys.len() {
            return below;
        }
        // Groups begin with a whole string. `below` may stand within one whose first is less.
        let first = below.div_ceil(GROUP);
        let group = gallop(first, keys.groups(), |g| keys.first(g) < key);
        let Some(group) = group.checked_sub(1) else {
            return below;
        };
        self.load(keys, group);
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.loaded(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        group * GROUP + low
    }

    /// How the fence of block `i` stands to `key`; None where there is no such block.
    pub(super) fn compare(&mut self, i: usize, key: KeyRef<'_>) -> Option<Ordering> {
        if i >= self.fences.len() {
            return None;
        }
        match (&self.fences.keys, key) {
            (FenceKeys::Narrow(keys), KeyRef::Fixed(key)) => Some(u128::from(keys[i]).cmp(&key)),
            (FenceKeys::Wide(keys), KeyRef::Fixed(key)) => Some(keys[i].cmp(&key)),
            (FenceKeys::Strings(keys), KeyRef::Bytes(key)) => {
                self.load(keys, i / GROUP);
                Some(self.loaded(i % GROUP).cmp(key))
            }
            _ => None,
        }
    }

    fn loaded(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.heap[start..self.ends[i]]
    }

    fn load(&mut self, keys: &Strings, group: usize) {
        if self.group == group {
            return;
        }
        self.group = group;
        keys.group(group, &mut self.heap, &mut self.ends);
    }
}
