//! What a block index is made of: many strings and rising numbers in little memory.

use super::bits::{Taker, put_varint};
use super::error::Damage;
use super::sort::common_prefix;

/// Strings that are coded one against the other.
pub(super) const STRING_GROUP: usize = 16;
/// Numbers that count from one base.
const OFFSET_GROUP: usize = 64;

/// The first place in `from..to` where `less` no longer holds; `to` where it holds everywhere.
/// Cheap where that place is near `from`.
pub(super) fn gallop(from: usize, to: usize, less: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut step) = (from, 1);
    let high = loop {
        let probe = low + step - 1;
        if probe >= to {
            break to;
        }
        if !less(probe) {
            break probe;
        }
        low = probe + 1;
        step *= 2;
    };
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low.midpoint(high);
        if less(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.max(from)
}

/// Strings as (shared with the one before, length of the rest, rest); each group's first is whole.
#[derive(Debug, Default)]
pub(super) struct Strings {
    heap: Vec<u8>,
    groups: Vec<u64>,
    len: usize,
    last: Vec<u8>,
}

impl Strings {
    pub(super) fn push(&mut self, key: &[u8]) {
        let shared = if self.len.is_multiple_of(STRING_GROUP) {
            self.groups.push(self.heap.len() as u64);
            0
        } else {
            common_prefix(&self.last, key)
        };
        put_varint(&mut self.heap, shared as u128);
        put_varint(&mut self.heap, (key.len() - shared) as u128);
        self.heap.extend_from_slice(&key[shared..]);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.heap.capacity() + self.groups.capacity() * size_of::<u64>()
    }

    /// Nothing is pushed after.
    pub(super) fn shrink(&mut self) {
        self.heap.shrink_to_fit();
        self.groups.shrink_to_fit();
        self.last = Vec::new();
    }

    /// All strings of a group, one behind the other.
    pub(super) fn group(&self, group: usize, heap: &mut Vec<u8>, ends: &mut Vec<usize>) {
        heap.clear();
        ends.clear();
        let mut taker = Taker::new(&self.heap[self.groups[group] as usize..]);
        let mut before = 0;
        for _ in group * STRING_GROUP..((group + 1) * STRING_GROUP).min(self.len) {
            let (shared, rest) = part(&mut taker);
            let start = heap.len();
            heap.extend_from_within(before..before + shared);
            heap.extend_from_slice(rest);
            before = start;
            ends.push(heap.len());
        }
    }

    /// The first string of a group.
    pub(super) fn first(&self, group: usize) -> &[u8] {
        let mut taker = Taker::new(&self.heap[self.groups[group] as usize..]);
        part(&mut taker).1
    }

    /// Each string again, in the form of the heap.
    pub(super) fn encode(&self, i: usize, out: &mut Vec<u8>) {
        let mut taker = Taker::new(&self.heap[self.groups[i / STRING_GROUP] as usize..]);
        for _ in 0..i % STRING_GROUP {
            part(&mut taker);
        }
        let (shared, rest) = part(&mut taker);
        put_varint(out, shared as u128);
        put_varint(out, rest.len() as u128);
        out.extend_from_slice(rest);
    }
}

/// One string of our own coding.
fn part<'a>(taker: &mut Taker<'a>) -> (usize, &'a [u8]) {
    let own = "coded by push";
    let shared = taker.length().expect(own);
    let rest = taker.length().expect(own);
    (shared, taker.bytes(rest).expect(own))
}

/// Rising numbers in 4 bytes each.
#[derive(Debug)]
pub(super) struct Offsets {
    bases: Vec<u64>,
    above: Vec<u32>,
    end: u64,
}

impl Offsets {
    pub(super) fn new(start: u64) -> Self {
        Self {
            bases: Vec::new(),
            above: Vec::new(),
            end: start,
        }
    }

    pub(super) fn push(&mut self, bytes: usize) -> Result<(), Damage> {
        const LONG: Damage = "a block is too long";
        if self.above.len().is_multiple_of(OFFSET_GROUP) {
            self.bases.push(self.end);
        }
        let base = self.bases.last().copied().unwrap_or(0);
        self.above
            .push(u32::try_from(self.end - base).map_err(|_| LONG)?);
        self.end = self.end.checked_add(bytes as u64).ok_or(LONG)?;
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.above.len()
    }

    #[inline]
    pub(super) fn get(&self, i: usize) -> u64 {
        match self.above.get(i) {
            Some(&above) => self.bases[i / OFFSET_GROUP] + u64::from(above),
            None => self.end,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bases.capacity() * 8 + self.above.capacity() * 4
    }

    pub(super) fn shrink(&mut self) {
        self.bases.shrink_to_fit();
        self.above.shrink_to_fit();
    }
}
