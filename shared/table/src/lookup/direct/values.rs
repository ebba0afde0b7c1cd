//! One value of a page, by its place among those that are there.

use parquet::basic::Encoding;

use super::deltas::{Deltas, bits, varint};

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Bits,
    /// Integers of so many bytes.
    Whole {
        width: usize,
    },
    /// Anything else of so many bytes.
    Fixed {
        width: usize,
    },
    Bytes,
}

/// A value's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bytewise {
    /// Of so many bytes, in the order in which they are stored.
    Small([u8; 16], usize),
    Large(Vec<u8>),
}

impl Bytewise {
    fn small(bytes: &[u8]) -> Option<Self> {
        let mut small = [0; 16];
        small.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self::Small(small, bytes.len()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes, length) => &bytes[..*length],
            Self::Large(bytes) => bytes,
        }
    }
}

/// Whether a row has a value, and how many rows before it have: by levels of one bit.
pub(super) fn defined(mut levels: &[u8], row: usize) -> Option<(bool, usize)> {
    let (mut at, mut before) = (0, 0);
    loop {
        let head = varint(&mut levels)?;
        let run = usize::try_from(head >> 1).ok()?;
        if head & 1 == 0 {
            let (value, rest) = levels.split_first()?;
            levels = rest;
            let is_defined = *value == 1;
            if row - at < run {
                return Some((is_defined, before + if is_defined { row - at } else { 0 }));
            }
            at += run;
            before += if is_defined { run } else { 0 };
            continue;
        }
        // Groups of eight bits, one byte each.
        let (packed, rest) = levels.split_at_checked(run.min(levels.len()))?;
        let within = row - at;
        if within / 8 < run {
            let (whole, last) = (packed.get(..within / 8)?, packed.get(within / 8)?);
            let ones: u32 = whole.iter().map(|byte| byte.count_ones()).sum();
            let below = last & ((1_u8 << (within % 8)) - 1);
            let before = before + (ones + below.count_ones()) as usize;
            return Some((last >> (within % 8) & 1 == 1, before));
        }
        at = at.checked_add(run.checked_mul(8)?)?;
        before += packed
            .iter()
            .map(|byte| byte.count_ones() as usize)
            .sum::<usize>();
        levels = rest;
    }
}

/// The number at a place of runs, which repeat a number or pack several, of `width` bits each.
pub(super) fn packed(mut runs: &[u8], width: usize, place: usize) -> Option<u64> {
    if width > 32 {
        return None;
    }
    let mut at = 0_usize;
    loop {
        let head = varint(&mut runs)?;
        let run = usize::try_from(head >> 1).ok()?;
        if head & 1 == 0 {
            let (value, rest) = runs.split_at_checked(width.div_ceil(8))?;
            if place - at < run {
                return bits(value, 0, width);
            }
            (runs, at) = (rest, at.checked_add(run)?);
            continue;
        }
        let values = run.checked_mul(8)?;
        if place - at < values {
            return bits(runs, (place - at).checked_mul(width)?, width);
        }
        runs = runs.get(run.checked_mul(width)?..)?;
        at = at.checked_add(values)?;
    }
}

/// The value at a place among a page's values.
pub(super) fn value(
    stored: Stored,
    encoding: Encoding,
    bytes: &[u8],
    place: usize,
) -> Option<Bytewise> {
    match (encoding, stored) {
        (Encoding::PLAIN, Stored::Bits) => {
            let byte = bytes.get(place / 8)?;
            Bytewise::small(&[byte >> (place % 8) & 1])
        }
        (Encoding::PLAIN, Stored::Whole { width } | Stored::Fixed { width }) => {
            let from = place.checked_mul(width)?;
            Bytewise::small(bytes.get(from..from.checked_add(width)?)?)
        }
        (Encoding::PLAIN, Stored::Bytes) => {
            let mut left = bytes;
            let mut place = place;
            loop {
                let (length, rest) = left.split_first_chunk::<4>()?;
                let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                let (value, rest) = rest.split_at_checked(length)?;
                if place == 0 {
                    return Some(Bytewise::Large(value.to_vec()));
                }
                (left, place) = (rest, place - 1);
            }
        }
        (Encoding::BYTE_STREAM_SPLIT, Stored::Whole { width } | Stored::Fixed { width }) => {
            let values = bytes.len() / width;
            if place >= values || values * width != bytes.len() {
                return None;
            }
            let mut value = [0; 16];
            for (at, byte) in value.iter_mut().take(width).enumerate() {
                *byte = bytes[at * values + place];
            }
            Bytewise::small(&value[..width])
        }
        (Encoding::DELTA_BINARY_PACKED, Stored::Whole { width }) => {
            let mut deltas = Deltas::new(bytes)?;
            deltas.skip(place)?;
            let value = deltas.advance()?;
            Bytewise::small(&value.to_le_bytes()[..width])
        }
        (Encoding::DELTA_LENGTH_BYTE_ARRAY, Stored::Bytes) => {
            let mut lengths = Deltas::new(bytes)?;
            let (mut from, mut found) = (0_usize, None);
            let mut at = 0;
            while let Some(length) = lengths.advance() {
                let length = usize::try_from(length as i32).ok()?;
                if at < place {
                    from = from.checked_add(length)?;
                } else if at == place {
                    found = Some(length);
                }
                at += 1;
            }
            let texts = bytes.get(lengths.end()?..)?;
            let text = texts.get(from..from.checked_add(found?)?)?;
            Some(Bytewise::Large(text.to_vec()))
        }
        _ => None,
    }
}
