//! A block in memory: its keys as values.

use super::bits::{Taker, packed_at, packed_bytes, unpack};
use super::block::{BLOCK_KEY_BYTES_MAX, Header, Raw};
use super::error::Damage;
use super::keys::KeyRef;

const LENGTH: Damage = "a block has another length than its keys need";

/// The keys of one block. Used again from block to block.
#[derive(Debug, Default)]
pub(super) struct Block {
    len: usize,
    form: Form,
    first: u128,
    /// Keys less the first one.
    narrow: Vec<u64>,
    wide: Vec<u128>,
    heap: Vec<u8>,
    ends: Vec<usize>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Form {
    #[default]
    Narrow,
    Wide,
    Strings,
}

impl Block {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Reads the keys of a block. `first`: its first key from the block index, None for strings.
    pub(super) fn read(
        &mut self,
        raw: Raw<'_>,
        header: &Header,
        first: Option<u128>,
    ) -> Result<(), Damage> {
        self.len = 0;
        match first {
            Some(first) => self.read_integers(raw, header, first)?,
            None => self.read_strings(&mut raw.keys(header), header.entries)?,
        }
        self.len = header.entries;
        Ok(())
    }

    /// Key `i`.
    #[inline]
    pub(super) fn key(&self, i: usize) -> KeyRef<'_> {
        match self.form {
            Form::Narrow => KeyRef::Fixed(self.first.wrapping_add(u128::from(self.narrow[i]))),
            Form::Wide => KeyRef::Fixed(self.first.wrapping_add(self.wide[i])),
            Form::Strings => {
                let start = if i == 0 { 0 } else { self.ends[i - 1] };
                KeyRef::Bytes(&self.heap[start..self.ends[i]])
            }
        }
    }

    /// The first place from `from` on whose key is not less than `key`.
    #[inline]
    pub(super) fn lower_bound(&self, from: usize, key: KeyRef<'_>) -> usize {
        match (self.form, key) {
            (Form::Narrow, KeyRef::Fixed(key)) => {
                let Ok(key) = u64::try_from(key.saturating_sub(self.first)) else {
                    return self.len;
                };
                from + self.narrow[from..].partition_point(|&k| k < key)
            }
            (Form::Wide, KeyRef::Fixed(key)) => {
                let key = key.saturating_sub(self.first);
                from + self.wide[from..].partition_point(|&k| k < key)
            }
            _ => {
                let (mut low, mut high) = (from, self.len);
                while low < high {
                    let middle = low.midpoint(high);
                    if self.key(middle) < key {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                low
            }
        }
    }

    fn read_integers(&mut self, raw: Raw<'_>, header: &Header, first: u128) -> Result<(), Damage> {
        let (width, count) = (header.key_width, header.entries - 1);
        let (low_width, high_width) = (width.min(64), width.saturating_sub(64));
        let low_bytes = packed_bytes(low_width, count);
        if header.end - header.keys != low_bytes + packed_bytes(high_width, count) {
            return Err(LENGTH);
        }
        let packed = &raw.bytes[header.keys..];
        self.first = first;
        self.narrow.clear();
        self.narrow.resize(header.entries, 0);
        unpack(packed, low_width, &mut self.narrow[1..]);
        if header.wide {
            self.form = Form::Wide;
            return self.read_wide(&packed[low_bytes..], high_width, header.least_difference);
        }
        self.form = Form::Narrow;
        let least = u64::try_from(header.least_difference);
        let least = least.map_err(|_| "a key difference is too large")?;
        if high_width > 0 {
            return Err("a width is too large");
        }
        let mut sum = 0_u64;
        for difference in &mut self.narrow[1..] {
            sum = sum.wrapping_add(*difference).wrapping_add(least);
            *difference = sum;
        }
        Ok(())
    }

    /// Adds the high words; the low ones stand in `narrow`.
    fn read_wide(&mut self, high: &[u8], width: u32, least: u128) -> Result<(), Damage> {
        self.wide.clear();
        self.wide.push(0);
        let mut sum = 0_u128;
        for (i, &low) in self.narrow[1..].iter().enumerate() {
            let high = if width == 0 {
                0
            } else {
                packed_at(high, width, i)
            };
            let difference = u128::from(high) << 64 | u128::from(low);
            sum = sum.wrapping_add(difference).wrapping_add(least);
            self.wide.push(sum);
        }
        Ok(())
    }

    fn read_strings(&mut self, taker: &mut Taker<'_>, entries: usize) -> Result<(), Damage> {
        self.form = Form::Strings;
        self.heap.clear();
        self.ends.clear();
        let mut before = 0..0;
        for _ in 0..entries {
            // The writer would have closed the block; this bounds what few bytes can unfold to.
            if self.heap.len() >= BLOCK_KEY_BYTES_MAX {
                return Err("a block has too many bytes of keys");
            }
            let (shared, rest) = front_coded(taker)?;
            if shared > before.len() {
                return Err(SHARED);
            }
            let start = self.heap.len();
            self.heap
                .extend_from_within(before.start..before.start + shared);
            self.heap.extend_from_slice(rest);
            before = start..self.heap.len();
            self.ends.push(self.heap.len());
        }
        if taker.left() == 0 {
            Ok(())
        } else {
            Err(LENGTH)
        }
    }
}

pub(super) const SHARED: Damage = "a key shares more than there is";

/// One string: how much it shares with the one before, and its rest.
#[inline]
pub(super) fn front_coded<'a>(taker: &mut Taker<'a>) -> Result<(usize, &'a [u8]), Damage> {
    let shared = taker.length()?;
    let rest = taker.length()?;
    Ok((shared, taker.bytes(rest)?))
}
