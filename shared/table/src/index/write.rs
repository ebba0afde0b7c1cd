//! Writing a run, entry after entry, in memory that does not grow with it (its block index aside).

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{BLOCK_ENTRIES_MAX, BLOCK_KEY_BYTES_MAX, encode_integers, encode_strings};
use super::error::IndexError;
use super::fences::Fences;
use super::files::Files;
use super::home::{IndexHome, RunFile, failure};
use super::keys::{Entries, KeyKind, KeyRef};
use super::layout::{HEADER_BYTES, MetaWriter, header};
use super::run::{Body, Run};
use super::sort::common_prefix;

/// Bytes that are written to a file at once.
const WRITE_BYTES: usize = 256 << 10;

/// Takes entries in key order.
pub(super) struct RunWriter {
    kind: KeyKind,
    sink: Sink,
    fences: Fences,
    entries: u64,
    keys: Pending,
    positions: Vec<u64>,
}

/// The keys of the block that is being filled.
enum Pending {
    Integers(Vec<u128>),
    Strings {
        heap: Vec<u8>,
        ends: Vec<usize>,
        /// The first key of all.
        first: Vec<u8>,
        /// The last key of the block before.
        before: Vec<u8>,
    },
}

impl RunWriter {
    pub(super) fn new(kind: KeyKind, home: &IndexHome) -> Self {
        let keys = match kind {
            KeyKind::Fixed { .. } => Pending::Integers(Vec::with_capacity(BLOCK_ENTRIES_MAX)),
            KeyKind::Bytes => Pending::Strings {
                heap: Vec::new(),
                ends: Vec::with_capacity(BLOCK_ENTRIES_MAX),
                first: Vec::new(),
                before: Vec::new(),
            },
        };
        let sink = Sink {
            home: home.clone(),
            buffer: header(kind).to_vec(),
            file: None,
            written: 0,
        };
        Self {
            kind,
            sink,
            fences: Fences::new(kind, HEADER_BYTES as u64),
            entries: 0,
            keys,
            positions: Vec::with_capacity(BLOCK_ENTRIES_MAX),
        }
    }

    /// Adds an entry whose key is not less than the one before.
    #[inline]
    pub(super) fn push(&mut self, key: KeyRef<'_>, position: u64) -> Result<(), IndexError> {
        let key_bytes = match (&mut self.keys, key) {
            (Pending::Integers(keys), KeyRef::Fixed(key)) => {
                debug_assert!(keys.last().is_none_or(|last| *last <= key));
                keys.push(key);
                0
            }
            (Pending::Strings { heap, ends, .. }, KeyRef::Bytes(key)) => {
                heap.extend_from_slice(key);
                ends.push(heap.len());
                heap.len()
            }
            _ => panic!("a key of the other kind"),
        };
        self.positions.push(position);
        if self.positions.len() == BLOCK_ENTRIES_MAX || key_bytes >= BLOCK_KEY_BYTES_MAX {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), IndexError> {
        if self.positions.is_empty() {
            return Ok(());
        }
        let out = &mut self.sink.buffer;
        let start = out.len();
        let pushed = match &mut self.keys {
            Pending::Integers(keys) => {
                encode_integers(keys, &self.positions, out);
                let bytes = out.len() - start;
                let pushed = self.fences.push(KeyRef::Fixed(keys[0]), bytes);
                keys.clear();
                pushed
            }
            Pending::Strings {
                heap,
                ends,
                first: first_of_all,
                before,
            } => {
                encode_strings(heap, ends, &self.positions, out);
                let bytes = out.len() - start;
                let first = &heap[..ends[0]];
                // The shortest prefix that is greater than the key before; of equal keys all.
                let fence = if self.entries == 0 {
                    first_of_all.extend_from_slice(first);
                    0
                } else {
                    first.len().min(common_prefix(before, first) + 1)
                };
                let pushed = self.fences.push(KeyRef::Bytes(&first[..fence]), bytes);
                let last = ends.len().checked_sub(2).map_or(0, |i| ends[i]);
                before.clear();
                before.extend_from_slice(&heap[last..]);
                heap.clear();
                ends.clear();
                pushed
            }
        };
        pushed.map_err(|problem| self.sink.damaged(problem))?;
        self.entries += self.positions.len() as u64;
        self.positions.clear();
        self.sink.relieve()
    }

    /// The run of all entries; their positions lie in `files`.
    pub(super) fn finish(mut self, files: Files) -> Result<Run, IndexError> {
        self.close_block()?;
        self.fences.shrink();
        let mut meta = MetaWriter::new(self.kind, self.entries, &self.fences, &files);
        for block in 0..self.fences.len() {
            meta.block(&self.fences, block);
            if meta.pending() >= WRITE_BYTES {
                meta.drain(&mut self.sink.buffer);
                self.sink.relieve()?;
            }
        }
        meta.finish(&mut self.sink.buffer);
        let prefix = match self.keys {
            Pending::Integers(_) => Vec::new(),
            Pending::Strings { first, before, .. } => {
                first[..common_prefix(&first, &before)].to_vec()
            }
        };
        let (body, len) = self.sink.finish()?;
        Ok(Run::new(
            self.kind,
            self.entries,
            self.fences,
            prefix,
            files,
            body,
            len,
        ))
    }
}

/// Memory up to what the home allows, a file from then on.
struct Sink {
    home: IndexHome,
    buffer: Vec<u8>,
    file: Option<RunFile>,
    written: u64,
}

impl Sink {
    fn relieve(&mut self) -> Result<(), IndexError> {
        let due = match &self.file {
            Some(_) => self.buffer.len() >= WRITE_BYTES,
            None => self.home.spills(self.buffer.len()),
        };
        if due { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(self.home.new_file()?),
        };
        (&file.file)
            .write_all(&self.buffer)
            .map_err(|source| failure("write", &file.path, source))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES);
        Ok(())
    }

    fn finish(mut self) -> Result<(Body, u64), IndexError> {
        if self.file.is_some() || self.home.spills(self.buffer.len()) {
            self.flush()?;
        }
        Ok(match self.file {
            Some(file) => (Body::File(file), self.written),
            None => {
                self.buffer.shrink_to_fit();
                let len = self.buffer.len() as u64;
                (Body::Memory(Bytes::from(self.buffer)), len)
            }
        })
    }

    fn damaged(&self, problem: &'static str) -> IndexError {
        let name = match &self.file {
            Some(file) => file.path.display().to_string(),
            None => "a run in memory".to_owned(),
        };
        IndexError::Corrupt { name, problem }
    }
}

/// A run of one file.
///
/// # Panics
/// Where keys are out of order or not as many as rows: a broken caller.
pub(super) fn run_of(
    home: &IndexHome,
    file: Arc<str>,
    entries: &Entries,
) -> Result<Run, IndexError> {
    assert_eq!(entries.keys.len(), entries.rows.len(), "a row for each key");
    assert!(entries.keys.is_ascending(), "keys in order");
    let mut writer = RunWriter::new(entries.keys.kind(), home);
    for (key, row) in entries.keys.iter().zip(&entries.rows) {
        writer.push(key, u64::from(*row))?;
    }
    let extent = entries
        .rows
        .iter()
        .max()
        .map_or(0, |row| u64::from(*row) + 1);
    writer.finish(Files::lay_out([(file, extent)]))
}

/// The sidecar of one file: a run of it, as bytes. Deterministic.
///
/// # Panics
/// Where keys are out of order or not as many as rows: a broken caller.
pub fn encode_sidecar(entries: &Entries) -> Bytes {
    let run = run_of(&IndexHome::memory(), Arc::from(""), entries);
    let run = run.expect("writing to memory does not fail");
    match run.into_body() {
        Body::Memory(bytes) => bytes,
        Body::File(_) => unreachable!("a home in memory makes no files"),
    }
}
