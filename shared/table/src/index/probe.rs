//! Looking many keys up in one run.
//!
//! Keys and blocks both rise, so a probe is a walk: the block index says which blocks can hold which
//! keys, neighbouring blocks are read at once, and a block is decoded only if keys fall into it.

use std::cmp::Ordering;

use super::bits::Taker;
use super::block::{Header, Raw};
use super::decode::{Block, SHARED, front_coded};
use super::error::{Damage, IndexError};
use super::fences::Fences;
use super::keys::{KeyKind, KeyRef, Keys};
use super::run::{Reader, Run};
use super::sort::common_prefix;

/// A probe reads at most so much at once.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Bytes that a probe rather reads for nothing than makes another read.
const GAP_BYTES_MAX: u64 = 8 << 10;

/// The keys `from..to` may stand in `block`.
#[derive(Debug)]
pub(super) struct Visit {
    pub block: usize,
    from: u32,
    to: u32,
}

/// The hits of strictly ascending keys: key's place and position.
pub(super) fn probe(
    run: &Run,
    keys: &Keys,
    hit: &mut dyn FnMut(usize, u64),
) -> Result<(), IndexError> {
    let plan = plan(run.fences(), keys);
    let mut reader = Reader::new(run);
    let mut block = Block::default();
    let mut fetched = 0;
    for (i, visit) in plan.iter().enumerate() {
        if i >= fetched {
            fetched = i + readable_at_once(run, &plan[i..]);
            reader.fetch(visit.block, plan[fetched - 1].block + 1)?;
        }
        let raw = reader.raw(visit.block)?;
        search(
            (run.kind(), run.fences()),
            &mut block,
            raw,
            keys,
            visit,
            hit,
        )
        .map_err(|problem| run.damaged(problem))?;
    }
    Ok(())
}

/// The hits of a visit's keys in its block: key's place and position.
pub(super) fn search(
    (kind, fences): (KeyKind, &Fences),
    block: &mut Block,
    raw: Raw<'_>,
    keys: &Keys,
    visit: &Visit,
    hit: &mut dyn FnMut(usize, u64),
) -> Result<(), Damage> {
    let header = raw.header()?;
    let hit = &mut |place, i| hit(place, header.positions.get(raw, i));
    match kind {
        KeyKind::Fixed { .. } => {
            let first = fences.first(visit.block);
            search_integers(block, raw, &header, first, keys, visit, hit)
        }
        KeyKind::Bytes => search_strings(raw, &header, keys, visit, hit),
    }
}

/// Which blocks to read for which keys, both rising.
pub(super) fn plan(fences: &Fences, keys: &Keys) -> Vec<Visit> {
    let mut plan: Vec<Visit> = Vec::new();
    if fences.len() == 0 {
        return plan;
    }
    let mut walk = fences.walk();
    for (place, key) in keys.iter().enumerate() {
        let mut block = walk.seek(key);
        let (from, to) = (place as u32, place as u32 + 1);
        match plan.last_mut() {
            Some(visit) if visit.block == block => visit.to = to,
            _ => plan.push(Visit { block, from, to }),
        }
        // Equal keys may go on in the blocks behind.
        while walk.compare(block + 1, key) == Some(Ordering::Equal) {
            block += 1;
            plan.push(Visit { block, from, to });
        }
    }
    plan
}

/// How many of the next visits one read serves.
fn readable_at_once(run: &Run, visits: &[Visit]) -> usize {
    let fences = run.fences();
    let start = fences.offset(visits[0].block);
    let near = visits.windows(2).take_while(|pair| {
        let after = fences.offset(pair[0].block + 1);
        let gap = fences.offset(pair[1].block).saturating_sub(after);
        let end = fences.offset(pair[1].block + 1);
        gap <= GAP_BYTES_MAX && end - start <= READ_BYTES_MAX
    });
    1 + near.count()
}

fn search_integers(
    block: &mut Block,
    raw: Raw<'_>,
    header: &Header,
    first: Option<u128>,
    keys: &Keys,
    visit: &Visit,
    hit: &mut dyn FnMut(usize, usize),
) -> Result<(), Damage> {
    block.read(raw, header, first)?;
    let mut at = 0;
    for place in visit.from as usize..visit.to as usize {
        let key = keys.get(place);
        at = block.lower_bound(at, key);
        while at < block.len() && block.key(at) == key {
            hit(place, at);
            at += 1;
        }
    }
    Ok(())
}

/// Searches front-coded strings without putting one of them together: how much the key shares with
/// the string before, and that one with the next, mostly says which is greater.
fn search_strings(
    raw: Raw<'_>,
    header: &Header,
    keys: &Keys,
    visit: &Visit,
    hit: &mut dyn FnMut(usize, usize),
) -> Result<(), Damage> {
    let mut taker = raw.keys(header);
    let mut next = Next::take(&mut taker, 0, header.entries)?;
    let mut before: &[u8] = &[];
    for place in visit.from as usize..visit.to as usize {
        let KeyRef::Bytes(key) = keys.get(place) else {
            return Err("a key of the other kind");
        };
        // The next string begins with `next.shared` bytes of the key before this one.
        let mut equal = common_prefix(before, key).min(next.map_or(0, |next| next.shared));
        before = key;
        while let Some(Next { i, shared, rest }) = next {
            match shared.cmp(&equal) {
                // As the string before, and that is less.
                Ordering::Greater => {}
                Ordering::Less => break,
                Ordering::Equal => {
                    let of_key = &key[equal..];
                    let more = common_prefix(of_key, rest);
                    match of_key[more..].first().cmp(&rest[more..].first()) {
                        Ordering::Less => break,
                        Ordering::Equal => hit(place, i),
                        Ordering::Greater => {}
                    }
                    equal += more;
                }
            }
            next = Next::take(&mut taker, i + 1, header.entries)?;
        }
    }
    Ok(())
}

/// A string that is not less than the keys so far.
#[derive(Clone, Copy)]
struct Next<'a> {
    i: usize,
    shared: usize,
    rest: &'a [u8],
}

impl<'a> Next<'a> {
    #[inline]
    fn take(taker: &mut Taker<'a>, i: usize, entries: usize) -> Result<Option<Self>, Damage> {
        if i == entries {
            return Ok(None);
        }
        let (shared, rest) = front_coded(taker)?;
        if i == 0 && shared > 0 {
            return Err(SHARED);
        }
        Ok(Some(Self { i, shared, rest }))
    }
}
