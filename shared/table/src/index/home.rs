//! Where runs live: small ones in memory, larger ones in files of a folder that only this process
//! uses.
//!
//! ```text
//! <folder>/lock            held while a home is made or leftovers are removed
//! <folder>/runs-<n>/lock   held as long as the home lives, by whichever process made it
//! <folder>/runs-<n>/<n>.run
//! ```
//! Runs are a cache of one process: whatever a process that died has left is removed by the next
//! that opens the folder. Nothing else in the folder is touched.
//!
//! Invariant: what is read to build runs of a home holds [`LOAD_BYTES_MAX`] of memory at most at
//! any moment, whatever the number of tables and buckets that are loaded at once; what is encoded
//! to be flushed beside it [`FLUSH_BYTES_MAX`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::IndexError;
use crate::load::KeptStates;

const LOCK: &str = "lock";
const HOME_PREFIX: &str = "runs-";
const RUN_SUFFIX: &str = ".run";
/// Memory of all sidecars and key columns that are read at once on their way into runs.
pub const LOAD_BYTES_MAX: u64 = 256 << 20;
/// Memory of all buckets that are encoded and stored at once, beside their rows.
pub const FLUSH_BYTES_MAX: u64 = 512 << 20;
/// The unit in which memory is handed out: a semaphore counts 32 bits.
const PERMIT_UNIT: u64 = 4 << 10;

/// Where runs live. A clone is the same home.
#[derive(Debug, Clone)]
pub struct IndexHome {
    folder: Option<Arc<Folder>>,
    memory_bytes_max: usize,
    loads: Arc<Semaphore>,
    flushes: Arc<Semaphore>,
    /// What was loaded of buckets, for those who load them later.
    kept: Option<Arc<KeptStates>>,
}

/// Memory that may be used until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryPermit(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);

impl IndexHome {
    /// Runs stay in memory whatever their size.
    pub fn memory() -> Self {
        Self {
            folder: None,
            memory_bytes_max: usize::MAX,
            loads: memory(LOAD_BYTES_MAX),
            flushes: memory(FLUSH_BYTES_MAX),
            kept: None,
        }
    }

    /// The home, where states of buckets outlive those who loaded them: services that share it share
    /// these too, and a bucket that nobody asked for in a while need not be read again. They take a
    /// bounded part of memory and disk.
    #[must_use]
    pub fn keeping(self) -> Self {
        Self {
            kept: Some(Arc::default()),
            ..self
        }
    }

    pub(crate) fn kept(&self) -> Option<&KeptStates> {
        self.kept.as_deref()
    }

    /// Runs of more than `memory_bytes_max` bytes become files below `folder`, which is made if
    /// absent. Blocking.
    pub fn open(folder: &Path, memory_bytes_max: usize) -> Result<Self, IndexError> {
        let failed = |source| failure("open the index folder", folder, source);
        let folder = Folder::open(folder).map_err(failed)?;
        Ok(Self {
            folder: Some(Arc::new(folder)),
            memory_bytes_max,
            loads: memory(LOAD_BYTES_MAX),
            flushes: memory(FLUSH_BYTES_MAX),
            kept: None,
        })
    }

    /// Waits until `bytes` more may be read. A load that alone is larger than everything waits
    /// until it is alone.
    pub(crate) async fn load_permit(&self, bytes: u64) -> MemoryPermit {
        permit(&self.loads, bytes, LOAD_BYTES_MAX).await
    }

    /// Waits until `bytes` more may be encoded, by the same rule.
    pub(crate) async fn flush_permit(&self, bytes: u64) -> MemoryPermit {
        permit(&self.flushes, bytes, FLUSH_BYTES_MAX).await
    }

    /// The folder that this home made for itself; None in memory.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(|folder| folder.path.as_path())
    }

    /// True where a run of so many bytes becomes a file.
    pub(super) fn spills(&self, bytes: usize) -> bool {
        self.folder.is_some() && bytes > self.memory_bytes_max
    }

    pub(super) fn new_file(&self) -> Result<RunFile, IndexError> {
        let folder = self
            .folder
            .as_ref()
            .expect("only a home with a folder spills");
        let number = folder.runs.fetch_add(1, Ordering::Relaxed);
        let path = folder.path.join(format!("{number}{RUN_SUFFIX}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| failure("create", &path, source))?;
        Ok(RunFile {
            file,
            path,
            _folder: Arc::clone(folder),
        })
    }
}

fn memory(bytes: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / PERMIT_UNIT) as usize))
}

/// Whoever holds a permit must not wait for another of the same memory.
async fn permit(memory: &Arc<Semaphore>, bytes: u64, bytes_max: u64) -> MemoryPermit {
    let units = bytes.min(bytes_max).div_ceil(PERMIT_UNIT);
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    MemoryPermit(Arc::clone(memory).acquire_many_owned(units).await.ok())
}

pub(super) fn failure(action: &'static str, path: &Path, source: io::Error) -> IndexError {
    IndexError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

/// The file of one run; removed when dropped.
#[derive(Debug)]
pub(super) struct RunFile {
    pub file: File,
    pub path: PathBuf,
    _folder: Arc<Folder>,
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an index run was not removed");
        }
    }
}

/// One process's folder; removed with the last run in it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    runs: AtomicU64,
    _lock: File,
}

impl Folder {
    fn open(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        // Nobody makes or removes a home beside us, so a home without a lock is a dead one.
        let parent_lock = lock_file(&parent.join(LOCK))?;
        parent_lock.lock()?;
        remove_leftovers(parent)?;
        for number in 0_u64.. {
            let path = parent.join(format!("{HOME_PREFIX}{number}"));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let lock = lock_file(&path.join(LOCK))?;
            lock.try_lock()?;
            return Ok(Self {
                path,
                runs: AtomicU64::new(0),
                _lock: lock,
            });
        }
        unreachable!("more homes than numbers")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever fails here is removed by the next process that opens the folder.
        let _ = fs::remove_file(self.path.join(LOCK));
        let _ = fs::remove_dir(&self.path);
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path)
}

/// Removes the homes of processes that are gone; files by the names that we give, nothing else.
fn remove_leftovers(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let home = entry?.path();
        if !is_numbered(&home, HOME_PREFIX, "") || !home.is_dir() {
            continue;
        }
        // The lock goes last: a home half removed is still one of ours.
        let lock = lock_file(&home.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        for entry in fs::read_dir(&home)? {
            let run = entry?.path();
            if is_numbered(&run, "", RUN_SUFFIX) {
                fs::remove_file(&run)?;
            }
        }
        fs::remove_file(home.join(LOCK))?;
        if let Err(error) = fs::remove_dir(&home) {
            // Somebody keeps other files there.
            tracing::warn!(path = %home.display(), %error, "an index folder was not removed");
        }
    }
    Ok(())
}

fn is_numbered(path: &Path, prefix: &str, suffix: &str) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn memory_is_handed_out_up_to_its_bound_in_the_order_of_asking() {
        let home = IndexHome::memory();
        let half = home.load_permit(LOAD_BYTES_MAX / 2 + 1).await;
        let small = home.load_permit(100).await;
        // Larger than everything: waits for all, and nobody overtakes it.
        let mut huge = Box::pin(home.load_permit(u64::MAX));
        assert!(huge.as_mut().now_or_never().is_none());
        let mut late = Box::pin(home.load_permit(1));
        assert!(late.as_mut().now_or_never().is_none());
        assert!(home.flush_permit(FLUSH_BYTES_MAX).now_or_never().is_some());
        drop((half, small));
        let huge = huge.now_or_never().expect("it is alone");
        assert!(late.as_mut().now_or_never().is_none());
        drop(huge);
        assert!(late.now_or_never().is_some());
    }
}
