//! The seam to the disk for appends: everything that can fail when space or the device is gone.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How segment files are changed. Reads do not pass here.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Writes all of `bytes` at `position`.
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Returns once everything written is on stable storage.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, file: &File, bytes: u64) -> io::Result<()>;
}

/// The operating system.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        file.write_all_at(bytes, position)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }
}

/// A disk that fails when told to.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    pub full: std::sync::atomic::AtomicBool,
    pub sync_fails: std::sync::atomic::AtomicBool,
    pub truncate_fails: std::sync::atomic::AtomicBool,
    pub syncs: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl Disk for FaultyDisk {
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.full.load(SeqCst) {
            // A full disk takes a part of the bytes before it says so.
            file.write_all_at(&bytes[..bytes.len() / 2], position)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all_at(bytes, position)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        self.syncs.fetch_add(1, SeqCst);
        if self.sync_fails.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        file.sync_data()
    }

    fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        if self
            .truncate_fails
            .load(std::sync::atomic::Ordering::SeqCst)
        {
            return Err(io::Error::from_raw_os_error(5));
        }
        file.set_len(bytes)
    }
}
