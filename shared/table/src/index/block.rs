//! A block: up to 128 entries in key order, with the position of each.
//!
//! ```text
//! entries - 1 | flags | key width | position width      one byte each
//! least key difference | least position                 varints
//! positions   packed: less the least one (and less their place, where that is narrower)
//! keys        integers: differences packed, the first key stands in the run's block index
//!             strings: (shared with the one before, length of the rest, rest) each
//! crc32c      of all before, 4 bytes
//! ```
//! Packing is frame-of-reference in both columns, so a run of consecutive keys in consecutive rows
//! costs no bits at all. Differences wider than 64 bits keep their low words whole.

use super::bits::{
    SLACK_BYTES, Taker, pack, packed_at, packed_bytes, put_varint, unpack, width_of,
};
use super::error::Damage;
use super::sort::common_prefix;

pub(super) const BLOCK_ENTRIES_MAX: usize = 128;
/// A block of strings is closed early at so many bytes of keys.
pub(super) const BLOCK_KEY_BYTES_MAX: usize = 32 << 10;
pub(super) const CRC_BYTES: usize = 4;

/// Positions are packed less their place in the block.
const FLAG_SLOPE: u8 = 1;
/// Keys span more than 64 bits.
const FLAG_WIDE: u8 = 2;

/// Appends a block of integer keys.
pub(super) fn encode_integers(keys: &[u128], positions: &[u64], out: &mut Vec<u8>) {
    let start = out.len();
    let first = keys[0];
    if let Ok(span) = u64::try_from(keys[keys.len() - 1] - first) {
        let narrow = |key: u128| (key - first) as u64;
        let differences = || {
            keys.windows(2)
                .map(|pair| narrow(pair[1]) - narrow(pair[0]))
        };
        let (least, most) = bounds(differences());
        let least = least.min(span);
        let width = width_of(most - least.min(most));
        encode_positions(0, width, u128::from(least), positions, out);
        pack(
            out,
            width,
            differences().map(|difference| difference - least),
        );
    } else {
        let differences = || keys.windows(2).map(|pair| pair[1] - pair[0]);
        let least = differences().min().unwrap_or(0);
        let most = differences().max().unwrap_or(0);
        let width = 128 - (most - least).leading_zeros();
        encode_positions(FLAG_WIDE, width, least, positions, out);
        let low = differences().map(|difference| (difference - least) as u64);
        let narrow = width.min(64);
        pack(out, narrow, low);
        let high = differences().map(|difference| ((difference - least) >> 64) as u64);
        pack(out, width - narrow, high);
    }
    seal(start, out);
}

/// Appends a block of string keys; key `i` ends at `ends[i]`.
pub(super) fn encode_strings(heap: &[u8], ends: &[usize], positions: &[u64], out: &mut Vec<u8>) {
    let start = out.len();
    encode_positions(0, 0, 0, positions, out);
    let (mut before, mut from) = (&heap[..0], 0);
    for &end in ends {
        let key = &heap[from..end];
        let shared = common_prefix(before, key);
        put_varint(out, shared as u128);
        put_varint(out, (key.len() - shared) as u128);
        out.extend_from_slice(&key[shared..]);
        (before, from) = (key, end);
    }
    seal(start, out);
}

fn encode_positions(flags: u8, key_width: u32, least: u128, positions: &[u64], out: &mut Vec<u8>) {
    let last = positions.len() as u64 - 1;
    let sloped = |(i, position): (usize, &u64)| position + (last - i as u64);
    let (flat_min, flat_max) = bounds(positions.iter().copied());
    let (sloped_min, sloped_max) = bounds(positions.iter().enumerate().map(sloped));
    let width = width_of(flat_max - flat_min);
    let sloped_width = width_of(sloped_max - sloped_min);
    let slope = sloped_width < width;
    let (flags, min, width) = if slope {
        (flags | FLAG_SLOPE, sloped_min, sloped_width)
    } else {
        (flags, flat_min, width)
    };
    out.extend_from_slice(&[last as u8, flags, key_width as u8, width as u8]);
    put_varint(out, least);
    put_varint(out, u128::from(min));
    if slope {
        let values = positions.iter().enumerate().map(sloped);
        pack(out, width, values.map(|value| value - min));
    } else {
        pack(out, width, positions.iter().map(|position| position - min));
    }
}

fn bounds(values: impl Iterator<Item = u64>) -> (u64, u64) {
    values.fold((u64::MAX, 0), |(min, max), value| {
        (min.min(value), max.max(value))
    })
}

fn seal(start: usize, out: &mut Vec<u8>) {
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The bytes of one block as they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// The block, and at least [`SLACK_BYTES`] of whatever follows it.
    pub bytes: &'a [u8],
    /// Bytes of the block, its checksum included.
    pub len: usize,
}

impl<'a> Raw<'a> {
    pub(super) fn check(&self) -> Result<(), Damage> {
        let (body, crc) = self.bytes[..self.len]
            .split_last_chunk::<CRC_BYTES>()
            .ok_or("a block is too short")?;
        if crc32c::crc32c(body) == u32::from_le_bytes(*crc) {
            Ok(())
        } else {
            Err("the checksum of a block is wrong")
        }
    }

    pub(super) fn header(&self) -> Result<Header, Damage> {
        debug_assert!(self.bytes.len() >= self.len + SLACK_BYTES);
        let body = self
            .len
            .checked_sub(CRC_BYTES)
            .ok_or("a block is too short")?;
        let mut taker = Taker::new(&self.bytes[..body]);
        let [last, flags, key_width, width] =
            [taker.byte()?, taker.byte()?, taker.byte()?, taker.byte()?];
        let entries = usize::from(last) + 1;
        let (key_width, width) = (u32::from(key_width), u32::from(width));
        if key_width > 128 || width > 64 {
            return Err("a width is too large");
        }
        let least_difference = taker.varint128()?;
        let min = taker.varint()?;
        let positions = Packing {
            at: body - taker.left(),
            width,
            min,
            back: if flags & FLAG_SLOPE == 0 {
                0
            } else {
                u64::from(last)
            },
            slope: flags & FLAG_SLOPE != 0,
        };
        taker.bytes(packed_bytes(width, entries))?;
        Ok(Header {
            entries,
            wide: flags & FLAG_WIDE != 0,
            key_width,
            least_difference,
            positions,
            keys: body - taker.left(),
            end: body,
        })
    }

    /// Takes the keys' bytes, and nothing behind them.
    pub(super) fn keys(&self, header: &Header) -> Taker<'a> {
        Taker::new(&self.bytes[header.keys..header.end])
    }
}

/// What stands where in a block.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Header {
    pub entries: usize,
    pub wide: bool,
    pub key_width: u32,
    pub least_difference: u128,
    pub positions: Packing,
    /// The keys are `keys..end`.
    pub keys: usize,
    pub end: usize,
}

/// How the positions of a block are packed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Packing {
    at: usize,
    width: u32,
    min: u64,
    slope: bool,
    /// Added to the first position when it was packed; one less for each after.
    back: u64,
}

impl Packing {
    /// Position `i` of the block.
    #[inline]
    pub(super) fn get(&self, raw: Raw<'_>, i: usize) -> u64 {
        let packed = if self.width == 0 {
            0
        } else {
            packed_at(&raw.bytes[self.at..], self.width, i)
        };
        let added = if self.slope {
            self.back.wrapping_sub(i as u64)
        } else {
            0
        };
        self.min.wrapping_add(packed).wrapping_sub(added)
    }

    /// All positions of the block.
    pub(super) fn all(&self, raw: Raw<'_>, out: &mut [u64]) {
        unpack(&raw.bytes[self.at..], self.width, out);
        let first = self.min.wrapping_sub(self.back);
        let step = u64::from(self.slope);
        for (i, position) in out.iter_mut().enumerate() {
            *position = position.wrapping_add(first).wrapping_add(i as u64 * step);
        }
    }
}
