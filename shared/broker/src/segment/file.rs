//! One segment file: whole record batches, one after the other, from its base offset on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::batch::{BatchHeader, HEADER_BYTES, assign_offset};

use super::index::Floor;
use super::{BatchPlace, Contents, OpenFiles};

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
    files: Arc<OpenFiles>,
    /// Its name among the open files.
    id: u64,
    /// Appended to: its file is opened for writing.
    active: AtomicBool,
    /// Deleted; whatever lies at its path is another's.
    gone: AtomicBool,
}

impl Segment {
    /// A segment that is already there.
    pub(crate) fn existing(
        dir: &Path,
        base_offset: i64,
        contents: Contents,
        files: &Arc<OpenFiles>,
    ) -> Self {
        Self {
            base_offset,
            path: segment_path(dir, base_offset),
            contents: RwLock::new(contents),
            id: files.next_id(),
            files: Arc::clone(files),
            active: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    /// Creates the file of an empty segment, durably, to be appended to.
    pub(crate) fn create(
        dir: &Path,
        base_offset: i64,
        now_ms: i64,
        files: &Arc<OpenFiles>,
    ) -> io::Result<Self> {
        let contents = Contents::empty(base_offset, now_ms);
        let segment = Self::existing(dir, base_offset, contents, files);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&segment.path)?;
        crate::files::sync_dir(dir)?;
        segment.activate();
        Ok(segment)
    }

    /// From now on it is appended to.
    pub(crate) fn activate(&self) {
        self.active.store(true, Ordering::Release);
        self.files.close(self.id);
    }

    /// Nothing will be written any more.
    pub(crate) fn close(&self) {
        self.active.store(false, Ordering::Release);
        self.files.close(self.id);
    }

    /// Its open file.
    pub(crate) fn file(&self) -> io::Result<Arc<File>> {
        let file = self.files.get(self.id, || {
            let active = self.active.load(Ordering::Acquire);
            OpenOptions::new().read(true).write(active).open(&self.path)
        })?;
        // Looked at after the file was opened: before it was deleted, nobody else used its path.
        if self.gone.load(Ordering::Acquire) {
            self.files.close(self.id);
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(file)
    }

    /// Its partition is deleted: nothing is read or written any more.
    pub(crate) fn delete(&self) {
        self.gone.store(true, Ordering::Release);
        self.files.close(self.id);
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
        self.delete();
        fs::remove_file(&self.path)?;
        match fs::remove_file(self.index_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes from the batch that holds `offset` on, at most; an estimate from above.
    pub(crate) fn bytes_from(&self, offset: i64) -> u64 {
        let contents = self.contents.read();
        contents.bytes - contents.floor(offset).position
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
        let file = self.file()?;
        let first = self
            .seek(&file, from, end, |header| header.last_offset() >= offset)?
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
        self.verify(&mut bytes, first.header.base_offset)?;
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
        let file = self.file()?;
        let place = self.seek(&file, from, end, |header| header.max_timestamp >= timestamp)?;
        let Some(place) = place else { return Ok(None) };
        let mut bytes = vec![0; place.header.bytes];
        file.read_exact_at(&mut bytes, place.position)?;
        self.verify(&mut bytes, place.header.base_offset)?;
        Ok(Some(bytes.into()))
    }

    /// Walks batch heads from a batch that the index knows to the first one that `wanted` takes. Each
    /// must start where the one before it ends: no checksum covers the offsets that batches say.
    fn seek(
        &self,
        file: &File,
        from: Floor,
        end: u64,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> io::Result<Option<BatchPlace>> {
        let Floor {
            base_offset: mut due,
            mut position,
        } = from;
        let mut buffer = vec![0; SEEK_BYTES];
        while position < end {
            let len = SEEK_BYTES.min(usize::try_from(end - position).unwrap_or(SEEK_BYTES));
            file.read_exact_at(&mut buffer[..len], position)?;
            let mut at = 0;
            while at + HEADER_BYTES <= len {
                let header = BatchHeader::parse(&buffer[at..len])
                    .map_err(|error| damaged(&self.path, &format!("offset {due}: {error}")))?;
                if header.base_offset != due {
                    let what = format!("offset {} where {due} is due", header.base_offset);
                    return Err(damaged(&self.path, &what));
                }
                let position = position + at as u64;
                if position + header.bytes as u64 > end {
                    let what = format!("offset {due}: the batch does not end within its log");
                    return Err(damaged(&self.path, &what));
                }
                if wanted(&header) {
                    return Ok(Some(BatchPlace { header, position }));
                }
                due = header.next_offset();
                at += header.bytes;
            }
            if at == 0 {
                break;
            }
            position += at as u64;
        }
        Ok(None)
    }

    /// Checks that whole batches are what was stored: their checksums, and one offset after the
    /// other. Nothing damaged is ever handed out as records. The leader epoch, which no checksum
    /// covers, is known, and put right: clients that believed another one would wait for it for ever.
    fn verify(&self, mut bytes: &mut [u8], mut next_offset: i64) -> io::Result<()> {
        while !bytes.is_empty() {
            let header = BatchHeader::parse_whole(bytes)
                .map_err(|error| damaged(&self.path, &format!("offset {next_offset}: {error}")))?;
            if header.base_offset != next_offset {
                let found = header.base_offset;
                let what = format!("offset {found} where {next_offset} is due");
                return Err(damaged(&self.path, &what));
            }
            assign_offset(bytes, next_offset);
            next_offset = header.next_offset();
            bytes = &mut bytes[header.bytes..];
        }
        Ok(())
    }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("segment {path:?}: {what}"),
    )
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
