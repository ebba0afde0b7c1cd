//! Variable-length integers and integers packed in as few bits as their largest needs.

use super::error::Damage;

/// Bytes that must be readable behind packed integers, so that each is one wide load.
pub(super) const SLACK_BYTES: usize = 16;

const SHORT: Damage = "it ends early";

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes from the front of bytes; never beyond their end.
#[derive(Debug)]
pub(super) struct Taker<'a> {
    rest: &'a [u8],
}

impl<'a> Taker<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Damage> {
        let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn varint128(&mut self) -> Result<u128, Damage> {
        let mut value = 0_u128;
        for shift in (0..=126).step_by(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7F);
            if shift == 126 && part > 3 {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    pub(super) fn varint(&mut self) -> Result<u64, Damage> {
        u64::try_from(self.varint128()?).map_err(|_| "a number is too large")
    }

    /// A count or length; what it counts must still be checked against what is there.
    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, Damage> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(usize::from(byte));
        }
        usize::try_from(self.varint()?).map_err(|_| "a length is too large")
    }
}

/// Bits that `value` needs.
#[inline]
pub(super) fn width_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

pub(super) fn packed_bytes(width: u32, count: usize) -> usize {
    (width as usize * count).div_ceil(8)
}

/// Appends values of at most `width` bits, lowest bits first.
pub(super) fn pack(out: &mut Vec<u8>, width: u32, values: impl Iterator<Item = u64>) {
    if width == 0 {
        return;
    }
    let (mut held, mut bits) = (0_u64, 0_u32);
    for value in values {
        held |= value << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&held.to_le_bytes());
            bits -= 64;
            // The bits of this value that found no room.
            let rest = width - bits;
            held = if rest < 64 { value >> rest } else { 0 };
        }
    }
    out.extend_from_slice(&held.to_le_bytes()[..bits.div_ceil(8) as usize]);
}

/// Value `i` of packed ones. `bytes` goes on for [`SLACK_BYTES`] behind the last value.
#[inline]
pub(super) fn packed_at(bytes: &[u8], width: u32, i: usize) -> u64 {
    let bit = i * width as usize;
    let at = bit / 8;
    if width <= 56 {
        let word = bytes[at..].first_chunk().expect("slack behind the values");
        (u64::from_le_bytes(*word) >> (bit % 8)) & ((1 << width) - 1)
    } else {
        let word = bytes[at..].first_chunk().expect("slack behind the values");
        let value = (u128::from_le_bytes(*word) >> (bit % 8)) as u64;
        value & (u64::MAX >> (64 - width))
    }
}

/// All values of packed ones, see [`packed_at`].
pub(super) fn unpack(bytes: &[u8], width: u32, out: &mut [u64]) {
    // Constant widths let the compiler unroll and drop the checks.
    macro_rules! constant {
        ($($width:literal)*) => {
            match width {
                0 => out.fill(0),
                64 => unpack_words(bytes, out),
                $($width => unpack_narrow::<$width>(bytes, out),)*
                _ => {
                    for (i, value) in out.iter_mut().enumerate() {
                        *value = packed_at(bytes, width, i);
                    }
                }
            }
        };
    }
    constant!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
        33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56);
}

/// Eight values of `WIDTH` bits are `WIDTH` bytes.
fn unpack_narrow<const WIDTH: usize>(bytes: &[u8], out: &mut [u64]) {
    let mask = (1_u64 << WIDTH) - 1;
    let mut groups = out.chunks_exact_mut(8);
    let mut at = 0;
    for group in &mut groups {
        let bytes = &bytes[at..at + WIDTH + 8];
        for (i, value) in group.iter_mut().enumerate() {
            let bit = i * WIDTH;
            let word = bytes[bit / 8..bit / 8 + 8]
                .first_chunk()
                .expect("eight bytes");
            *value = (u64::from_le_bytes(*word) >> (bit % 8)) & mask;
        }
        at += WIDTH;
    }
    for (i, value) in groups.into_remainder().iter_mut().enumerate() {
        *value = packed_at(&bytes[at..], WIDTH as u32, i);
    }
}

fn unpack_words(bytes: &[u8], out: &mut [u64]) {
    let (words, _) = bytes.as_chunks();
    for (value, word) in out.iter_mut().zip(words) {
        *value = u64::from_le_bytes(*word);
    }
}
