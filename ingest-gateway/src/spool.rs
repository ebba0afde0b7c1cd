//! Messages of one body, kept until the whole body has been checked: first in memory, then in a
//! temporary file that has no name any more.
//!
//! Parts of what could be one message are merged when they are taken out.
//!
//! Invariants: memory of all spools together stays within [`SpoolBudget`]; the file is gone when
//! the spool is, whatever ends the process.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidelake_core::Bucket;

use crate::packer::{COLUMN_BYTES_MAX, Encoder, PackError, Packed, ROWS_MAX};

/// What all spools of the process share.
#[derive(Debug)]
pub(crate) struct SpoolBudget {
    memory: Account,
    disk: Account,
    /// Memory of one spool.
    each_memory_max: u64,
    folder: PathBuf,
}

/// Why a message could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("bodies under way fill the {0} bytes that temporary files may have")]
    DiskBudget(u64),
    #[error("a temporary file of {folder} could not be used")]
    File { folder: PathBuf, source: io::Error },
    #[error("messages of one bucket could not be merged")]
    Merge(#[from] PackError),
}

impl SpoolBudget {
    pub(crate) fn new(
        each_memory_max: usize,
        memory_max: usize,
        disk_max: u64,
        folder: Option<PathBuf>,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory: Account::new(memory_max as u64),
            disk: Account::new(disk_max),
            each_memory_max: each_memory_max as u64,
            folder: folder.unwrap_or_else(std::env::temp_dir),
        })
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.held.load(Ordering::Relaxed)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk.held.load(Ordering::Relaxed)
    }

    fn failed(&self, source: io::Error) -> SpoolError {
        SpoolError::File {
            folder: self.folder.clone(),
            source,
        }
    }
}

#[derive(Debug)]
struct Account {
    held: AtomicU64,
    max: u64,
}

impl Account {
    fn new(max: u64) -> Self {
        Self {
            held: AtomicU64::new(0),
            max,
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= self.max);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Messages; those of one bucket come out in the order they were pushed.
#[derive(Debug)]
pub(crate) struct Spool {
    budget: Arc<SpoolBudget>,
    pushed: Vec<Kept>,
    /// What is taken out, in this order.
    groups: VecDeque<Vec<Kept>>,
    encoder: Encoder,
    memory_bytes: u64,
    file: Option<File>,
    disk_bytes: u64,
    rows: u64,
}

/// A message that waits.
#[derive(Debug)]
struct Kept {
    rows: u32,
    bucket: Option<Bucket>,
    column_bytes: usize,
    part: bool,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Memory(Bytes),
    File { start: u64, bytes: usize },
}

impl Spool {
    pub(crate) fn new(budget: Arc<SpoolBudget>) -> Self {
        Self {
            budget,
            pushed: Vec::new(),
            groups: VecDeque::new(),
            encoder: Encoder::Rows,
            memory_bytes: 0,
            file: None,
            disk_bytes: 0,
            rows: 0,
        }
    }

    /// Rows of all messages pushed.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Messages that are taken out.
    pub(crate) fn messages(&self) -> usize {
        self.groups.len()
    }

    /// True where [`Spool::pop`] may block on the file, or takes its time to merge.
    pub(crate) fn may_block(&self) -> bool {
        self.groups
            .front()
            .is_some_and(|group| group.len() > 1 || matches!(group[0].value, Value::File { .. }))
    }

    /// Keeps a message. May block on the file.
    pub(crate) fn push(&mut self, message: Packed) -> Result<(), SpoolError> {
        let Packed {
            rows,
            value,
            bucket,
            column_bytes,
            part,
        } = message;
        self.rows += u64::from(rows);
        let bytes = value.len() as u64;
        // The first message is kept in any case, so that a small body never touches a disk.
        let in_memory = self.file.is_none()
            && (self.memory_bytes == 0 || self.memory_bytes + bytes <= self.budget.each_memory_max)
            && self.budget.memory.take(bytes);
        let value = if in_memory {
            self.memory_bytes += bytes;
            Value::Memory(value)
        } else {
            self.write(&value)?
        };
        self.pushed.push(Kept {
            rows,
            bucket,
            column_bytes,
            part,
            value,
        });
        Ok(())
    }

    fn write(&mut self, value: &Bytes) -> Result<Value, SpoolError> {
        let bytes = value.len() as u64;
        if !self.budget.disk.take(bytes) {
            return Err(SpoolError::DiskBudget(self.budget.disk.max));
        }
        let start = self.disk_bytes;
        self.disk_bytes += bytes;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                tempfile::tempfile_in(&self.budget.folder)
                    .map_err(|error| self.budget.failed(error))?,
            ),
        };
        file.write_all(value)
            .map_err(|error| self.budget.failed(error))?;
        let bytes = value.len();
        Ok(Value::File { start, bytes })
    }

    /// No more messages: from now on they are taken out. `encoder` is what made them.
    pub(crate) fn rewind(&mut self, encoder: Encoder) {
        self.encoder = encoder;
        // The last group of each bucket, while it may grow.
        let mut open = HashMap::<Bucket, (usize, Size)>::new();
        for kept in std::mem::take(&mut self.pushed) {
            if let Some(bucket) = kept.bucket.filter(|_| kept.part) {
                if let Some((group, size)) = open.get_mut(&bucket)
                    && size.take(&kept)
                {
                    self.groups[*group].push(kept);
                    continue;
                }
                let mut size = Size::default();
                size.take(&kept);
                open.insert(bucket, (self.groups.len(), size));
            }
            self.groups.push_back(vec![kept]);
        }
    }

    /// Takes the next message out. May block on the file.
    pub(crate) fn pop(&mut self) -> Result<Option<Packed>, SpoolError> {
        let Some(mut group) = self.groups.pop_front() else {
            return Ok(None);
        };
        if group.len() == 1 {
            return group.pop().map(|kept| self.read(kept)).transpose();
        }
        let parts: Vec<_> = group
            .into_iter()
            .map(|kept| self.read(kept))
            .collect::<Result<_, _>>()?;
        let values: Vec<_> = parts.iter().map(|part| part.value.clone()).collect();
        Ok(Some(Packed {
            rows: parts.iter().map(|part| part.rows).sum(),
            value: self.encoder.merge(&values)?,
            bucket: parts[0].bucket,
            column_bytes: parts.iter().map(|part| part.column_bytes).sum(),
            part: false,
        }))
    }

    fn read(&mut self, kept: Kept) -> Result<Packed, SpoolError> {
        let value = match kept.value {
            Value::Memory(value) => {
                let bytes = value.len() as u64;
                self.budget.memory.give_back(bytes);
                self.memory_bytes -= bytes;
                value
            }
            Value::File { start, bytes } => {
                let Some(file) = &mut self.file else {
                    let gone = io::Error::from(io::ErrorKind::NotFound);
                    return Err(self.budget.failed(gone));
                };
                let mut value = vec![0; bytes];
                file.seek(SeekFrom::Start(start))
                    .and_then(|_| file.read_exact(&mut value))
                    .map_err(|error| self.budget.failed(error))?;
                Bytes::from(value)
            }
        };
        Ok(Packed {
            rows: kept.rows,
            value,
            bucket: kept.bucket,
            column_bytes: kept.column_bytes,
            part: kept.part,
        })
    }
}

/// What a group holds.
#[derive(Debug, Default, Clone, Copy)]
struct Size {
    rows: usize,
    column_bytes: usize,
}

impl Size {
    /// Counts one more; false, and nothing is counted, where it does not fit the message.
    fn take(&mut self, kept: &Kept) -> bool {
        let rows = self.rows + kept.rows as usize;
        let column_bytes = self.column_bytes + kept.column_bytes;
        let fits = rows <= ROWS_MAX && column_bytes <= COLUMN_BYTES_MAX;
        if fits || self.rows == 0 {
            (self.rows, self.column_bytes) = (rows, column_bytes);
        }
        fits
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.budget.memory.give_back(self.memory_bytes);
        self.budget.disk.give_back(self.disk_bytes);
    }
}

#[cfg(test)]
mod tests;
