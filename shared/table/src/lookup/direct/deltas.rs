//! Integers that are stored as packed differences, and the bits that they are packed into.

/// Bits of an integer at most, and values of a block of deltas.
const WIDTH_MAX: usize = 64;
const BLOCK_MAX: usize = 1 << 20;
/// A packed value's bytes, wherever it begins within its first one.
const WINDOW_BYTES: usize = 16;

/// Integers as the differences of neighbours, block by block.
pub(super) struct Deltas<'a> {
    bytes: &'a [u8],
    /// Where the next block begins, or the data of the miniblock.
    at: usize,
    left: usize,
    last: i64,
    miniblocks: usize,
    values: usize,
    least: i64,
    widths: &'a [u8],
    /// Of the current block's miniblocks, the next one.
    next_mini: usize,
    width: usize,
    /// Values of the current miniblock that are read.
    read: usize,
    is_first: bool,
}

impl<'a> Deltas<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let block = usize::try_from(varint(&mut rest)?).ok()?;
        let miniblocks = usize::try_from(varint(&mut rest)?).ok()?;
        let left = usize::try_from(varint(&mut rest)?).ok()?;
        let last = zigzag(varint(&mut rest)?);
        let values = block.checked_div(miniblocks)?;
        if block > BLOCK_MAX || values == 0 || values % 8 != 0 || values * miniblocks != block {
            return None;
        }
        Some(Self {
            bytes,
            at: bytes.len() - rest.len(),
            left,
            last,
            miniblocks,
            values,
            least: 0,
            widths: &[],
            next_mini: 0,
            width: 0,
            read: values,
            is_first: true,
        })
    }

    pub(super) fn advance(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        if std::mem::take(&mut self.is_first) {
            return Some(self.last);
        }
        if self.read == self.values {
            self.miniblock()?;
        }
        let delta = bits(&self.bytes[self.at..], self.read * self.width, self.width)?;
        self.read += 1;
        if self.read == self.values {
            self.at += self.values / 8 * self.width;
        }
        self.last = self
            .last
            .wrapping_add(self.least)
            .wrapping_add(delta as i64);
        Some(self.last)
    }

    /// Passes over so many values: of each miniblock only the sum of its deltas is taken.
    pub(super) fn skip(&mut self, values: usize) -> Option<()> {
        let mut left = values;
        if left > 0 && self.is_first {
            self.advance()?;
            left -= 1;
        }
        while left > 0 {
            if self.read == self.values {
                self.miniblock()?;
            }
            let count = left.min(self.values - self.read);
            self.left = self.left.checked_sub(count)?;
            let sum = sum(&self.bytes[self.at..], self.read, count, self.width)?;
            self.read += count;
            if self.read == self.values {
                self.at += self.values / 8 * self.width;
            }
            let least = self.least.wrapping_mul(count as i64);
            self.last = self.last.wrapping_add(least).wrapping_add(sum as i64);
            left -= count;
        }
        Some(())
    }

    fn miniblock(&mut self) -> Option<()> {
        if self.next_mini == self.widths.len() {
            let mut rest = self.bytes.get(self.at..)?;
            self.least = zigzag(varint(&mut rest)?);
            let (widths, rest) = rest.split_at_checked(self.miniblocks)?;
            self.widths = widths;
            self.at = self.bytes.len() - rest.len();
            self.next_mini = 0;
        }
        self.width = usize::from(*self.widths.get(self.next_mini)?);
        self.next_mini += 1;
        self.read = 0;
        let end = self.at.checked_add(self.values / 8 * self.width)?;
        (self.width <= WIDTH_MAX && end <= self.bytes.len()).then_some(())
    }

    /// Where what follows begins, once all values are read.
    pub(super) fn end(&self) -> Option<usize> {
        let part = match self.read == self.values {
            true => 0,
            false => self.values / 8 * self.width,
        };
        (self.left == 0).then_some(self.at + part)
    }
}

/// The sum, modulo 2^64, of `count` numbers of `width` bits each, from the one at `first` on.
fn sum(bytes: &[u8], first: usize, count: usize, width: usize) -> Option<u64> {
    const WORD: usize = size_of::<u64>();
    if width == 0 {
        return Some(0);
    }
    let mut sum = 0_u64;
    let (mut at, end) = (first * width, (first + count) * width);
    // A number that begins within a byte ends within the word that begins with that byte.
    if width <= 64 - 7 {
        let mask = u64::MAX >> (64 - width);
        while at < end
            && let Some(word) = bytes
                .get(at / 8..)
                .and_then(|rest| rest.first_chunk::<WORD>())
        {
            sum = sum.wrapping_add(u64::from_le_bytes(*word) >> (at % 8) & mask);
            at += width;
        }
    }
    while at < end {
        sum = sum.wrapping_add(bits(bytes, at, width)?);
        at += width;
    }
    Some(sum)
}

/// The number of `width` bits that begins at a bit.
pub(super) fn bits(bytes: &[u8], from: usize, width: usize) -> Option<u64> {
    if width == 0 {
        return Some(0);
    }
    let bytes = bytes.get(from / 8..)?;
    let shift = from % 8;
    if bytes.len() * 8 < shift + width || width > WIDTH_MAX {
        return None;
    }
    let window = match bytes.first_chunk::<WINDOW_BYTES>() {
        Some(window) => *window,
        None => {
            let mut window = [0; WINDOW_BYTES];
            window[..bytes.len()].copy_from_slice(bytes);
            window
        }
    };
    let mask = u64::MAX >> (64 - width);
    Some((u128::from_le_bytes(window) >> shift) as u64 & mask)
}

pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Numbers of any width, packed one after the other.
        #[test]
        fn sums_are_those_of_the_single_numbers(
            width in 0_usize..=64,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            (first, count) in (0_usize..40, 0_usize..40),
        ) {
            let single = (first..first + count)
                .map(|place| bits(&bytes, place * width, width))
                .try_fold(0_u64, |sum, number| Some(sum.wrapping_add(number?)));
            prop_assert_eq!(sum(&bytes, first, count, width), single);
        }
    }
}
