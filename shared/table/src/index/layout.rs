//! The bytes of a run around its blocks. A sidecar is a run of one file.
//!
//! ```text
//! header   "TLKI" | version | kind (0 integers, 1 strings) | key width | 0
//! blocks   see block.rs
//! meta     entries | blocks | files | (path length, path, positions) of each file
//!          | (block length, fence) of each block; all numbers are varints
//! footer   length of meta, 8 | crc32c of header, meta and the length, 4 | "TLKI"
//! ```
//! Fixed-width numbers are little-endian. Every byte lies under a checksum or is compared.

use std::sync::Arc;

use super::bits::{Taker, put_varint};
use super::error::Damage;
use super::fences::Fences;
use super::files::Files;
use super::keys::KeyKind;

const MAGIC: [u8; 4] = *b"TLKI";
const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = 8;
/// No fewer than a packed integer may read beyond its block.
pub(super) const FOOTER_BYTES: usize = 16;

pub(super) fn header(kind: KeyKind) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = MAGIC;
    match kind {
        KeyKind::Fixed { bytes } => [a, b, c, d, VERSION, 0, bytes as u8, 0],
        KeyKind::Bytes => [a, b, c, d, VERSION, 1, 0, 0],
    }
}

/// Writes meta and footer in pieces.
pub(super) struct MetaWriter {
    pending: Vec<u8>,
    crc: u32,
    drained: u64,
}

impl MetaWriter {
    pub(super) fn new(kind: KeyKind, entries: u64, fences: &Fences, files: &Files) -> Self {
        let mut pending = Vec::new();
        put_varint(&mut pending, u128::from(entries));
        put_varint(&mut pending, fences.len() as u128);
        put_varint(&mut pending, files.spans().len() as u128);
        for span in files.spans() {
            put_varint(&mut pending, span.path.len() as u128);
            pending.extend_from_slice(span.path.as_bytes());
            put_varint(&mut pending, u128::from(span.extent));
        }
        Self {
            pending,
            crc: crc32c::crc32c(&header(kind)),
            drained: 0,
        }
    }

    pub(super) fn block(&mut self, fences: &Fences, block: usize) {
        fences.encode(block, &mut self.pending);
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn drain(&mut self, out: &mut Vec<u8>) {
        self.crc = crc32c::crc32c_append(self.crc, &self.pending);
        self.drained += self.pending.len() as u64;
        out.append(&mut self.pending);
    }

    pub(super) fn finish(mut self, out: &mut Vec<u8>) {
        self.drain(out);
        let length = self.drained.to_le_bytes();
        let crc = crc32c::crc32c_append(self.crc, &length);
        out.extend_from_slice(&length);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&MAGIC);
    }
}

/// What stands around the blocks.
#[derive(Debug)]
pub(super) struct Meta {
    pub kind: KeyKind,
    pub entries: u64,
    pub files: Vec<(Arc<str>, u64)>,
    pub fences: Fences,
}

/// Reads and checks everything but the blocks.
pub(super) fn read(bytes: &[u8]) -> Result<Meta, Damage> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(SHORT)?;
    let kind = read_header(*header)?;
    read_end(kind, bytes.len() as u64, rest)
}

const SHORT: Damage = "it is too short";

/// How many of the last bytes of a run hold its meta and its footer; `end` are so many of them as
/// the footer has, or more.
pub(super) fn end_bytes(len: u64, end: &[u8]) -> Result<u64, Damage> {
    let (_, footer) = end.split_last_chunk::<FOOTER_BYTES>().ok_or(SHORT)?;
    let (length, crc) = footer.split_at(8);
    if crc[4..] != MAGIC {
        return Err("its end is not that of an index");
    }
    let length: [u8; 8] = length.try_into().map_err(|_| SHORT)?;
    let bytes = u64::from_le_bytes(length).checked_add(FOOTER_BYTES as u64);
    let whole = bytes.and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64));
    match (bytes, whole) {
        (Some(bytes), Some(whole)) if whole <= len => Ok(bytes),
        _ => Err(SHORT),
    }
}

/// As [`read`], of a run of `len` bytes whose header is that of `kind`; `end` are its last bytes, as
/// many as [`end_bytes`] says or more.
pub(super) fn read_end(kind: KeyKind, len: u64, end: &[u8]) -> Result<Meta, Damage> {
    let bytes = end_bytes(len, end)?;
    let start = usize::try_from(bytes).ok();
    let start = start.and_then(|bytes| end.len().checked_sub(bytes));
    let (meta, footer) = end[start.ok_or(SHORT)?..]
        .split_last_chunk::<FOOTER_BYTES>()
        .ok_or(SHORT)?;
    let (length, crc) = footer.split_at(8);
    let found = [&header(kind)[..], meta, length]
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    if crc[..4] != found.to_le_bytes() {
        return Err("the checksum of its block index is wrong");
    }
    let mut taker = Taker::new(meta);
    let entries = taker.varint()?;
    let blocks = taker.length()?;
    let count = taker.length()?;
    if blocks > taker.left() || count > taker.left() {
        return Err("a count is too large");
    }
    let mut files = Vec::with_capacity(count);
    let mut end = 0_u64;
    for _ in 0..count {
        let path = taker.length()?;
        let path = std::str::from_utf8(taker.bytes(path)?).map_err(|_| "a path is not UTF-8")?;
        let extent = taker.varint()?;
        // Below 2^63, so that arithmetic on positions has room.
        end = end
            .checked_add(extent)
            .filter(|end| end >> 63 == 0)
            .ok_or("a file is too long")?;
        files.push((Arc::from(path), extent));
    }
    let fences = Fences::decode(kind, HEADER_BYTES as u64, blocks, &mut taker)?;
    if taker.left() != 0 || fences.offset(blocks) != len - bytes {
        return Err("its block index has another length than its blocks");
    }
    Ok(Meta {
        kind,
        entries,
        files,
        fences,
    })
}

fn read_header(header: [u8; HEADER_BYTES]) -> Result<KeyKind, Damage> {
    let [a, b, c, d, version, kind, width, zero] = header;
    if [a, b, c, d] != MAGIC {
        return Err("it does not begin as an index");
    }
    if version != VERSION {
        return Err("its version is unknown");
    }
    match (kind, width, zero) {
        (0, 1..=16, 0) => Ok(KeyKind::Fixed {
            bytes: usize::from(width),
        }),
        (1, 0, 0) => Ok(KeyKind::Bytes),
        _ => Err("its kind of keys is unknown"),
    }
}
