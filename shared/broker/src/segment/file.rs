//! One segment file: whole record batches, one after the other, from its base offset on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::batch::{BatchHeader, HEADER_BYTES};

use super::{BatchPlace, Contents};

/// Read at once when looking for a batch by its head.
const SEEK_BYTES: usize = 64 * 1024;

/// `<dir>/<base offset, 20 digits>.log`.
pub(crate) fn segment_path(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
}

/// One segment and its durable contents.
///
/// Only what [`Segment::contents`] covers is ever read, so a reader never sees bytes that a crash
/// could take back.
#[derive(Debug)]
pub(crate) struct Segment {
    base_offset: i64,
    path: PathBuf,
    contents: RwLock<Contents>,
    /// Kept open while the segment is written; closed segments are opened for each read.
    file: Mutex<Option<Arc<File>>>,
}

impl Segment {
    /// A segment that is already there.
    pub(crate) fn existing(dir: &Path, base_offset: i64, contents: Contents) -> Self {
        Self {
            base_offset,
            path: segment_path(dir, base_offset),
            contents: RwLock::new(contents),
            file: Mutex::new(None),
        }
    }

    /// Creates the file of an empty segment, durably.
    pub(crate) fn create(dir: &Path, base_offset: i64, now_ms: i64) -> io::Result<Self> {
        let segment = Self::existing(dir, base_offset, Contents::empty(base_offset, now_ms));
        segment.open_for_append()?;
        crate::files::sync_dir(dir)?;
        Ok(segment)
    }

    /// Opens the file for writing and keeps it open.
    pub(crate) fn open_for_append(&self) -> io::Result<Arc<File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        let file = Arc::new(file);
        *self.file.lock() = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Lets go of the open file: nothing will be written any more.
    pub(crate) fn close(&self) {
        *self.file.lock() = None;
    }

    pub(crate) fn base_offset(&self) -> i64 {
        self.base_offset
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// A look at the durable contents.
    pub(crate) fn contents(&self) -> parking_lot::RwLockReadGuard<'_, Contents> {
        self.contents.read()
    }

    /// Makes batches visible that are durable now.
    pub(crate) fn publish(&self, places: &[BatchPlace], now_ms: i64) {
        let mut contents = self.contents.write();
        for place in places {
            contents.push(*place);
        }
        contents.last_append_ms = now_ms;
    }

    /// Removes log and sidecar. Readers that hold the file open finish undisturbed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.close();
        fs::remove_file(&self.path)?;
        match fs::remove_file(self.index_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn reader(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.file.lock().as_ref() {
            return Ok(Arc::clone(file));
        }
        Ok(Arc::new(File::open(&self.path)?))
    }

    /// Bytes from the batch that holds `offset` on, at most; an estimate from above.
    pub(crate) fn bytes_from(&self, offset: i64) -> u64 {
        let contents = self.contents.read();
        contents.bytes - contents.floor(offset)
    }

    /// Whole batches from the one that holds `offset`, up to `bytes_max`; the first one even beyond
    /// it if `one_at_least`. Blocks on the disk.
    pub(crate) fn read(
        &self,
        offset: i64,
        bytes_max: usize,
        one_at_least: bool,
    ) -> io::Result<Bytes> {
        let (from, end) = {
            let contents = self.contents.read();
            if offset >= contents.next_offset {
                return Ok(Bytes::new());
            }
            (contents.floor(offset), contents.bytes)
        };
        let file = self.reader()?;
        let first = seek(&file, from, end, |header| header.last_offset() >= offset)?
            .ok_or_else(|| damaged(&self.path, "offset lies in no batch"))?;
        let bytes_max = match bytes_max {
            max if max >= first.header.bytes => max,
            _ if one_at_least => first.header.bytes,
            _ => return Ok(Bytes::new()),
        };
        let len = bytes_max.min(usize::try_from(end - first.position).unwrap_or(usize::MAX));
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, first.position)?;
        bytes.truncate(whole_batches(&bytes));
        Ok(bytes.into())
    }

    /// The first batch with a timestamp of at least `timestamp`, whole. Blocks on the disk.
    pub(crate) fn read_at_time(&self, timestamp: i64) -> io::Result<Option<Bytes>> {
        let (from, end) = {
            let contents = self.contents.read();
            if contents
                .newest
                .is_none_or(|newest| newest.timestamp < timestamp)
            {
                return Ok(None);
            }
            (contents.floor_of_time(timestamp), contents.bytes)
        };
        let file = self.reader()?;
        let place = seek(&file, from, end, |header| header.max_timestamp >= timestamp)?;
        place.map(|place| read_batch(&file, &place)).transpose()
    }
}

fn read_batch(file: &File, place: &BatchPlace) -> io::Result<Bytes> {
    let mut bytes = vec![0; place.header.bytes];
    file.read_exact_at(&mut bytes, place.position)?;
    Ok(bytes.into())
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("segment {path:?}: {what}"),
    )
}

/// Walks batch heads from `position` to the first one that `wanted` takes.
fn seek(
    file: &File,
    mut position: u64,
    end: u64,
    wanted: impl Fn(&BatchHeader) -> bool,
) -> io::Result<Option<BatchPlace>> {
    let mut buffer = vec![0; SEEK_BYTES];
    while position < end {
        let len = SEEK_BYTES.min(usize::try_from(end - position).unwrap_or(SEEK_BYTES));
        file.read_exact_at(&mut buffer[..len], position)?;
        let mut at = 0;
        while at + HEADER_BYTES <= len {
            let header = BatchHeader::parse(&buffer[at..len])
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if wanted(&header) {
                return Ok(Some(BatchPlace {
                    header,
                    position: position + at as u64,
                }));
            }
            at += header.bytes;
        }
        if at == 0 {
            break;
        }
        position += at as u64;
    }
    Ok(None)
}

/// How many of `bytes` are whole batches.
pub(crate) fn whole_batches(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(header) = BatchHeader::parse(&bytes[at..]) {
        if at + header.bytes > bytes.len() {
            break;
        }
        at += header.bytes;
    }
    at
}
