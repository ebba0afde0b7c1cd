//! A file's sidecar where it lies, for few keys: its end and the blocks that can hold them.
//!
//! ```text
//!  last bytes ─ open ─► Sidecar ─ plan(keys) ─► SidecarProbe
//!                          │        blocks() ─► fetched by the caller
//!                          └────────────────── probe ◄─┘ ─► rows
//! ```
//! Owns which bytes of a sidecar hold a key. Fetching and keeping bytes is the caller's. Invariants:
//! what is read lies under a checksum, so damaged bytes are an error and never a wrong hit; nothing
//! that is not asked for is read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::bits::SLACK_BYTES;
use super::block::Raw;
use super::decode::Block;
use super::error::{Damage, IndexError};
use super::fences::Fences;
use super::keys::{KeyKind, Keys};
use super::layout;
use super::probe::{self, Visit};

/// The block index of a sidecar is no larger: some five million blocks.
const END_BYTES_MAX: u64 = 64 << 20;

/// What a sidecar's last bytes tell.
#[derive(Debug)]
pub enum Ended {
    Whole(Sidecar),
    /// So many of them are needed.
    Longer(u64),
}

/// A sidecar of which only the block index is in memory.
#[derive(Debug)]
pub struct Sidecar {
    name: Arc<str>,
    kind: KeyKind,
    fences: Fences,
    /// Rows of the file.
    extent: u64,
}

/// Which blocks of a sidecar can hold which keys.
#[derive(Debug)]
pub struct SidecarProbe {
    visits: Vec<Visit>,
    blocks: Vec<usize>,
}

impl SidecarProbe {
    /// The blocks that are needed; rising.
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }
}

impl Sidecar {
    /// Fewer last bytes than these tell nothing.
    pub const END_BYTES_MIN: u64 = layout::FOOTER_BYTES as u64;

    /// Reads the block index of the sidecar of that name, which has `len` bytes and ends in `end`.
    /// Keys of another kind are damage.
    pub fn open(name: &Arc<str>, kind: KeyKind, len: u64, end: &[u8]) -> Result<Ended, IndexError> {
        Self::ended(name, kind, len, end).map_err(|problem| damaged(name, problem))
    }

    fn ended(name: &Arc<str>, kind: KeyKind, len: u64, end: &[u8]) -> Result<Ended, Damage> {
        let bytes = layout::end_bytes(len, end)?;
        if bytes > END_BYTES_MAX {
            return Err("its block index is too large to be read by itself");
        }
        if bytes > end.len() as u64 {
            return Ok(Ended::Longer(bytes));
        }
        let meta = layout::read_end(kind, len, end)?;
        let [(_, extent)] = meta.files[..] else {
            return Err("it is not of one file");
        };
        if extent > 1 << 32 {
            return Err("a file is too long");
        }
        Ok(Ended::Whole(Self {
            name: Arc::clone(name),
            kind,
            fences: meta.fences,
            extent,
        }))
    }

    /// Memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.fences.bytes()
    }

    /// Which blocks can hold the keys.
    ///
    /// # Panics
    /// Where the keys do not ascend or are of another kind: a broken caller.
    pub fn plan(&self, keys: &Keys) -> SidecarProbe {
        assert_eq!(keys.kind(), self.kind, "keys of the sidecar's kind");
        assert!(keys.is_strictly_ascending(), "keys strictly ascending");
        let visits = probe::plan(&self.fences, keys);
        let mut blocks: Vec<usize> = visits.iter().map(|visit| visit.block).collect();
        blocks.dedup();
        SidecarProbe { visits, blocks }
    }

    /// The bytes that a block is read from: itself, and a few behind it.
    pub fn range(&self, block: usize) -> Range<u64> {
        let end = self.fences.offset(block + 1) + SLACK_BYTES as u64;
        self.fences.offset(block)..end
    }

    /// Every row of the keys that the probe was planned for: key's place and row. `blocks` are the
    /// ranges of the probe's blocks.
    pub fn probe(
        &self,
        probe: &SidecarProbe,
        keys: &Keys,
        blocks: &[Bytes],
        hit: &mut dyn FnMut(usize, u32),
    ) -> Result<(), IndexError> {
        self.search(probe, keys, blocks, hit)
            .map_err(|problem| damaged(&self.name, problem))
    }

    fn search(
        &self,
        probe: &SidecarProbe,
        keys: &Keys,
        blocks: &[Bytes],
        hit: &mut dyn FnMut(usize, u32),
    ) -> Result<(), Damage> {
        let mut decoded = Block::default();
        let mut at = 0;
        let mut beyond = false;
        for visit in &probe.visits {
            if probe.blocks[at] != visit.block {
                at += 1;
            }
            let range = self.range(visit.block);
            let bytes = blocks.get(at).filter(|bytes| {
                let len = range.end - range.start;
                bytes.len() as u64 == len
            });
            let raw = Raw {
                bytes: bytes.ok_or("a block was not read")?,
                len: (range.end - range.start) as usize - SLACK_BYTES,
            };
            raw.check()?;
            let hit = &mut |place, position| match position < self.extent {
                true => hit(place, position as u32),
                false => beyond = true,
            };
            let of = (self.kind, &self.fences);
            probe::search(of, &mut decoded, raw, keys, visit, hit)?;
        }
        match beyond {
            true => Err("a row lies beyond its file"),
            false => Ok(()),
        }
    }
}

fn damaged(name: &Arc<str>, problem: Damage) -> IndexError {
    IndexError::Corrupt {
        name: name.to_string(),
        problem,
    }
}
