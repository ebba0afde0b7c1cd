//! The order of keys: radix over the leading bits that differ, exact comparison for what is left.
//!
//! Each key becomes one `u64`: its leading bits (less the smallest key, or behind the prefix that all
//! keys share) above its place. Places make equal leading bits keep their order, so nothing here
//! needs a stable sort; keys whose leading bits are equal are then put in order by their rest.

use super::keys::{Keys, Store};

/// Below this many keys comparing is as fast.
const RADIX_KEYS_MIN: usize = 256;
/// Bits of one radix pass: its counters stay in the first-level cache.
const DIGIT_BITS_MAX: u32 = 11;
/// Groups of strings below this are compared in full.
const STRINGS_RADIX_MIN: usize = 32;
/// A group of strings looks behind its shared prefix so many times before it is compared in full.
const STRINGS_DEPTH_MAX: u32 = 12;

/// The places of the keys in ascending order; equal keys keep their order.
///
/// # Panics
/// For more than `u32::MAX` keys.
pub fn sorted_order(keys: &Keys) -> Vec<u32> {
    let count = u32::try_from(keys.len()).expect("fewer than 2^32 keys");
    if keys.is_ascending() {
        return (0..count).collect();
    }
    match keys.store() {
        Store::Fixed(keys) => integers(keys),
        Store::Bytes { heap, ends } => {
            let strings = Strings { heap, ends };
            let mut order: Vec<u32> = (0..count).collect();
            strings.sort(&mut order, 0, 0);
            order
        }
    }
}

fn integers(keys: &[u128]) -> Vec<u32> {
    let (min, max) = keys.iter().fold((u128::MAX, 0), |(min, max), &key| {
        (key.min(min), key.max(max))
    });
    let surplus = (128 - (max - min).leading_zeros()).saturating_sub(64);
    let heads = keys.iter().map(|&key| ((key - min) >> surplus) as u64);
    let mut sorted = Packed::sort(heads.collect(), surplus == 0);
    sorted.each_tie(|places| places.sort_unstable_by_key(|&p| (keys[p as usize], p)));
    sorted.into_order()
}

/// Heads above places, sorted.
struct Packed {
    values: Vec<u64>,
    place_bits: u32,
    /// True where the packed heads say everything about the order.
    exact: bool,
}

impl Packed {
    /// `exact`: the heads are the whole keys.
    fn sort(mut heads: Vec<u64>, exact: bool) -> Self {
        let last = heads.len().saturating_sub(1) as u64;
        let place_bits = 64 - last.leading_zeros();
        let min = heads.iter().copied().min().unwrap_or(0);
        let max = heads.iter().copied().max().unwrap_or(0);
        let bits = 64 - (max - min).leading_zeros();
        let dropped = (bits + place_bits).saturating_sub(64);
        for (place, head) in heads.iter_mut().enumerate() {
            *head = ((*head - min) >> dropped) << (place_bits % 64) | place as u64;
        }
        let bits = bits - dropped;
        sort_packed(&mut heads, place_bits, bits);
        Self {
            values: heads,
            place_bits,
            exact: exact && dropped == 0,
        }
    }

    /// Gives every group of equal heads, as places, to be put in order.
    fn each_tie(&mut self, mut order: impl FnMut(&mut [u32])) {
        if self.exact {
            return;
        }
        let shift = self.place_bits;
        let mask = (1_u64 << shift) - 1;
        let mut places = Vec::new();
        for group in self.values.chunk_by_mut(|a, b| a >> shift == b >> shift) {
            if group.len() > 1 {
                places.clear();
                places.extend(group.iter().map(|value| (value & mask) as u32));
                order(&mut places);
                for (value, place) in group.iter_mut().zip(&places) {
                    *value = *value & !mask | u64::from(*place);
                }
            }
        }
    }

    fn into_order(self) -> Vec<u32> {
        let mask = (1_u64 << self.place_bits) - 1;
        self.values.iter().map(|v| (v & mask) as u32).collect()
    }
}

/// Sorts values whose lowest `low` bits are in order already where the `bits` above are equal.
fn sort_packed(values: &mut Vec<u64>, low: u32, bits: u32) {
    if values.len() < RADIX_KEYS_MIN {
        values.sort_unstable();
        return;
    }
    // As many leading bits as make groups of about one key; the groups are sorted after.
    let leading = bits.min(low + 1);
    let passes = leading.div_ceil(DIGIT_BITS_MAX);
    let digit_bits = leading.div_ceil(passes.max(1));
    let mut other = vec![0; values.len()];
    for pass in 0..passes {
        let shift = low + bits - leading + pass * digit_bits;
        radix_pass(values, &mut other, shift, digit_bits);
        std::mem::swap(values, &mut other);
    }
    if leading < bits {
        let shift = low + bits - leading;
        for group in values.chunk_by_mut(|a, b| a >> shift == b >> shift) {
            group.sort_unstable();
        }
    }
}

fn radix_pass(from: &[u64], to: &mut [u64], shift: u32, bits: u32) {
    let mask = (1_usize << bits) - 1;
    let mut starts = vec![0_u32; mask + 1];
    for value in from {
        starts[(value >> shift) as usize & mask] += 1;
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += std::mem::replace(start, sum);
    }
    for &value in from {
        let start = &mut starts[(value >> shift) as usize & mask];
        to[*start as usize] = value;
        *start += 1;
    }
}

struct Strings<'a> {
    heap: &'a [u8],
    ends: &'a [usize],
}

impl Strings<'_> {
    #[inline]
    fn get(&self, place: u32) -> &[u8] {
        let place = place as usize;
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.heap[start..self.ends[place]]
    }

    /// Sorts places (given in ascending order) of keys that share their first `shared` bytes.
    fn sort(&self, order: &mut [u32], shared: usize, depth: u32) {
        if order.len() < STRINGS_RADIX_MIN || depth > STRINGS_DEPTH_MAX {
            order.sort_unstable_by(|&a, &b| {
                let rest = |place| &self.get(place)[shared..];
                rest(a).cmp(rest(b)).then(a.cmp(&b))
            });
            return;
        }
        let shared = shared + self.more_shared(order, shared);
        let heads = order.iter().map(|&p| head(&self.get(p)[shared..]));
        let before = order.to_vec();
        let mut sorted = Packed::sort(heads.collect(), false);
        sorted.each_tie(|places| {
            // Places within `before` rise as the places of keys do.
            let mut group: Vec<u32> = places.iter().map(|&p| before[p as usize]).collect();
            // No progress behind padding: keys like "a" and "a\0", or keys that are all equal.
            let depth = if group.len() == before.len() {
                STRINGS_DEPTH_MAX
            } else {
                depth
            };
            self.sort(&mut group, shared, depth + 1);
            for (place, sorted) in places.iter_mut().zip(group) {
                let found = before.binary_search(&sorted);
                *place = found.expect("the group's own place") as u32;
            }
        });
        for (to, from) in order.iter_mut().zip(sorted.into_order()) {
            *to = before[from as usize];
        }
    }

    fn more_shared(&self, order: &[u32], shared: usize) -> usize {
        let first = &self.get(order[0])[shared..];
        order.iter().fold(first.len(), |most, &place| {
            common_prefix(&first[..most], &self.get(place)[shared..])
        })
    }
}

#[inline]
fn head(rest: &[u8]) -> u64 {
    if let Some(first) = rest.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut bytes = [0; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

/// How many first bytes are the same.
#[inline]
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let whole = a.chunks_exact(8).zip(b.chunks_exact(8));
    let equal = 8 * whole.take_while(|(a, b)| a == b).count();
    let rest = a[equal..].iter().zip(&b[equal..]);
    equal + rest.take_while(|(a, b)| a == b).count()
}
