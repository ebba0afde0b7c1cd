//! Messages of one body, kept until the whole body has been checked: first in memory, then in a
//! temporary file that has no name any more.
//!
//! Invariants: memory of all spools together stays within [`SpoolBudget`]; the file is gone when
//! the spool is, whatever ends the process.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::packer::Packed;

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

/// Messages in the order they were pushed.
#[derive(Debug)]
pub(crate) struct Spool {
    budget: Arc<SpoolBudget>,
    memory: VecDeque<Packed>,
    memory_bytes: u64,
    file: Option<File>,
    /// Of the file's messages, in order: rows, bytes.
    in_file: VecDeque<(u32, usize)>,
    disk_bytes: u64,
    rows: u64,
    messages: usize,
}

impl Spool {
    pub(crate) fn new(budget: Arc<SpoolBudget>) -> Self {
        Self {
            budget,
            memory: VecDeque::new(),
            memory_bytes: 0,
            file: None,
            in_file: VecDeque::new(),
            disk_bytes: 0,
            rows: 0,
            messages: 0,
        }
    }

    /// Rows of all messages pushed.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Messages pushed.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// True where [`Spool::pop`] may block on the file.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.memory.is_empty() && self.file.is_some()
    }

    /// Keeps a message. May block on the file.
    pub(crate) fn push(&mut self, message: Packed) -> Result<(), SpoolError> {
        self.rows += u64::from(message.rows);
        self.messages += 1;
        let bytes = message.value.len() as u64;
        // The first message is kept in any case, so that a small body never touches a disk.
        let in_memory = self.file.is_none()
            && (self.memory.is_empty() || self.memory_bytes + bytes <= self.budget.each_memory_max)
            && self.budget.memory.take(bytes);
        if in_memory {
            self.memory_bytes += bytes;
            self.memory.push_back(message);
            return Ok(());
        }
        if !self.budget.disk.take(bytes) {
            return Err(SpoolError::DiskBudget(self.budget.disk.max));
        }
        self.disk_bytes += bytes;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                tempfile::tempfile_in(&self.budget.folder)
                    .map_err(|error| self.budget.failed(error))?,
            ),
        };
        file.write_all(&message.value)
            .map_err(|error| self.budget.failed(error))?;
        self.in_file.push_back((message.rows, message.value.len()));
        Ok(())
    }

    /// No more messages: from now on they are taken out.
    pub(crate) fn rewind(&mut self) -> Result<(), SpoolError> {
        match &mut self.file {
            Some(file) => file
                .seek(SeekFrom::Start(0))
                .map(drop)
                .map_err(|error| self.budget.failed(error)),
            None => Ok(()),
        }
    }

    /// Takes the next message out. May block on the file.
    pub(crate) fn pop(&mut self) -> Result<Option<Packed>, SpoolError> {
        if let Some(message) = self.memory.pop_front() {
            let bytes = message.value.len() as u64;
            self.budget.memory.give_back(bytes);
            self.memory_bytes -= bytes;
            return Ok(Some(message));
        }
        let (Some(file), Some((rows, bytes))) = (&mut self.file, self.in_file.pop_front()) else {
            return Ok(None);
        };
        let mut value = vec![0; bytes];
        file.read_exact(&mut value)
            .map_err(|error| self.budget.failed(error))?;
        Ok(Some(Packed {
            rows,
            value: Bytes::from(value),
        }))
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
