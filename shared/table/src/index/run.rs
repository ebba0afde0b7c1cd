//! A run: entries in key order, immutable, in memory or in a local file.

use std::cmp::Ordering;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicBool};

use bytes::Bytes;

use super::bits::SLACK_BYTES;
use super::block::Raw;
use super::decode::Block;
use super::error::{Damage, IndexError};
use super::fences::Fences;
use super::files::Files;
use super::home::{IndexHome, RunFile, failure};
use super::keys::{KeyKind, KeyRef, Keys};
use super::layout;
use super::sort::common_prefix;

/// Keys of some files in order, each with its file and row. Immutable; its file is removed when it
/// is dropped.
#[derive(Debug)]
pub struct Run {
    kind: KeyKind,
    entries: u64,
    fences: Fences,
    /// What all keys begin with; empty for integers.
    prefix: Vec<u8>,
    files: Files,
    body: Body,
    len: u64,
    /// What was read of it was not what was written.
    is_damaged: AtomicBool,
}

#[derive(Debug)]
pub(super) enum Body {
    /// Checked as a whole when it came in.
    Memory(Bytes),
    /// Checked block by block when read.
    File(RunFile),
}

impl Run {
    pub(super) fn new(
        kind: KeyKind,
        entries: u64,
        fences: Fences,
        prefix: Vec<u8>,
        files: Files,
        body: Body,
        len: u64,
    ) -> Self {
        Self {
            kind,
            entries,
            fences,
            prefix,
            files,
            body,
            len,
            is_damaged: AtomicBool::new(false),
        }
    }

    /// The run of a file's sidecar. Every byte is checked.
    pub(super) fn of_sidecar(
        home: &IndexHome,
        file: Arc<str>,
        bytes: Bytes,
    ) -> Result<Self, IndexError> {
        let damaged = |problem| IndexError::Corrupt {
            name: file.to_string(),
            problem,
        };
        let meta = layout::read(&bytes).map_err(damaged)?;
        let [(_, extent)] = meta.files[..] else {
            return Err(damaged("it is not of one file"));
        };
        if extent > 1 << 32 {
            return Err(damaged("a file is too long"));
        }
        let mut run = Self {
            kind: meta.kind,
            entries: meta.entries,
            fences: meta.fences,
            prefix: Vec::new(),
            files: Files::lay_out([(Arc::clone(&file), extent)]),
            len: bytes.len() as u64,
            body: Body::Memory(bytes.clone()),
            is_damaged: AtomicBool::new(false),
        };
        run.prefix = run.verify().map_err(damaged)?;
        if home.spills(bytes.len()) {
            let file = home.new_file()?;
            (&file.file)
                .write_all(&bytes)
                .map_err(|source| failure("write", &file.path, source))?;
            run.body = Body::File(file);
        }
        Ok(run)
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Encoded bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Memory that the run holds.
    pub fn memory_bytes(&self) -> usize {
        let body = match &self.body {
            Body::Memory(bytes) => bytes.len(),
            Body::File(_) => 0,
        };
        body + self.fences.bytes() + self.files.bytes()
    }

    /// True where the run is a local file.
    pub fn is_file(&self) -> bool {
        matches!(self.body, Body::File(_))
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    pub(super) fn fences(&self) -> &Fences {
        &self.fences
    }

    /// What all keys begin with; empty for integers.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(super) fn into_body(self) -> Body {
        self.body
    }

    /// True where a read of it has failed: nobody should begin with it again.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(atomic::Ordering::Relaxed)
    }

    pub(super) fn damaged(&self, problem: Damage) -> IndexError {
        self.is_damaged.store(true, atomic::Ordering::Relaxed);
        let name = match &self.body {
            Body::File(file) => file.path.display().to_string(),
            Body::Memory(_) => match self.files.spans() {
                [span] => span.path.to_string(),
                _ => "a merged run".to_owned(),
            },
        };
        IndexError::Corrupt { name, problem }
    }

    /// Every block against its checksum, its order and its fences. What all keys begin with.
    fn verify(&self) -> Result<Vec<u8>, Damage> {
        let Body::Memory(bytes) = &self.body else {
            return Err("only runs in memory are verified as a whole");
        };
        let mut prefix = Vec::new();
        let (mut block, mut positions) = (Block::default(), Vec::new());
        let mut last = Keys::new(self.kind);
        let mut walk = self.fences.walk();
        let (mut entries, end) = (0, self.files.end());
        for i in 0..self.fences.len() {
            let raw = self.raw_in(bytes, 0, i).ok_or("a block is too short")?;
            raw.check()?;
            let header = raw.header()?;
            block.read(raw, &header, self.fences.first(i))?;
            positions.resize(header.entries, 0);
            header.positions.all(raw, &mut positions);
            if positions.iter().any(|position| *position >= end) {
                return Err("a row lies beyond its file");
            }
            let ascends = (1..block.len()).all(|i| block.key(i - 1) <= block.key(i));
            let first = block.key(0);
            let begins = walk.compare(i, first) != Some(Ordering::Greater);
            let parts = match (last.is_empty(), i) {
                (true, _) => true,
                (false, i) => {
                    let before = last.get(0);
                    match walk.compare(i, before) {
                        Some(Ordering::Greater) => true,
                        Some(Ordering::Equal) => before == first,
                        _ => false,
                    }
                }
            };
            if !(ascends && begins && parts) {
                return Err("keys are out of order");
            }
            if i == 0
                && let KeyRef::Bytes(first) = first
            {
                prefix = first.to_vec();
            }
            last.clear();
            last.push(block.key(block.len() - 1));
            entries += block.len() as u64;
        }
        match (self.kind, last.iter().next()) {
            (KeyKind::Fixed { bytes }, Some(KeyRef::Fixed(last)))
                if last > u128::MAX >> (128 - 8 * bytes) =>
            {
                return Err("a key is too wide");
            }
            (_, Some(KeyRef::Bytes(last))) => prefix.truncate(common_prefix(&prefix, last)),
            _ => {}
        }
        if entries == self.entries {
            Ok(prefix)
        } else {
            Err("it has another number of entries than it says")
        }
    }

    /// Block `i` within `bytes`, which begin at offset `start` of the run.
    fn raw_in<'a>(&self, bytes: &'a [u8], start: u64, i: usize) -> Option<Raw<'a>> {
        let (from, to) = (self.fences.offset(i), self.fences.offset(i + 1));
        let bytes = bytes.get(usize::try_from(from.checked_sub(start)?).ok()?..)?;
        let len = usize::try_from(to - from).ok()?;
        (bytes.len() >= len + SLACK_BYTES).then_some(Raw { bytes, len })
    }
}

/// Blocks of a run, read some at a time.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    run: &'a Run,
    window: Vec<u8>,
    start: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(run: &'a Run) -> Self {
        Self {
            run,
            window: Vec::new(),
            start: 0,
        }
    }

    /// Makes the blocks `from..to` readable.
    pub(super) fn fetch(&mut self, from: usize, to: usize) -> Result<(), IndexError> {
        let Body::File(file) = &self.run.body else {
            return Ok(());
        };
        let start = self.run.fences.offset(from);
        let end = self.run.fences.offset(to) + SLACK_BYTES as u64;
        let bytes = usize::try_from(end - start).map_err(|_| self.run.damaged("too long"))?;
        self.start = start;
        self.window.resize(bytes, 0);
        file.file
            .read_exact_at(&mut self.window, start)
            .map_err(|source| {
                self.run.is_damaged.store(true, atomic::Ordering::Relaxed);
                failure("read", &file.path, source)
            })
    }

    /// One of the blocks that were fetched last.
    pub(super) fn raw(&self, block: usize) -> Result<Raw<'_>, IndexError> {
        let short = || self.run.damaged("a block was not read");
        match &self.run.body {
            Body::Memory(bytes) => self.run.raw_in(bytes, 0, block).ok_or_else(short),
            Body::File(_) => {
                let raw = self.run.raw_in(&self.window, self.start, block);
                let raw = raw.ok_or_else(short)?;
                raw.check().map_err(|problem| self.run.damaged(problem))?;
                Ok(raw)
            }
        }
    }
}
