//! The broker's folder as a whole: who uses it, and how it was left.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::error::BrokerError;
use crate::files::sync_dir;

/// Handles where the system does not tell its limit.
const HANDLES_ASSUMED: usize = 1_024;
const CLEAN: &str = "clean";

/// Keeps every other process out of the folder until the file is unlocked or closed.
pub(crate) fn lock(dir: &Path) -> Result<File, BrokerError> {
    let path = dir.join("lock");
    let lock = File::create(&path).map_err(BrokerError::io(&path))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => BrokerError::InUse {
            dir: dir.to_owned(),
        },
        TryLockError::Error(source) => BrokerError::io(&path)(source),
    })?;
    Ok(lock)
}

/// Notes that everything is on the disk and closed.
pub(crate) fn mark_clean(dir: &Path) -> io::Result<()> {
    File::create(dir.join(CLEAN))?;
    sync_dir(dir)
}

/// True where the last stop was a clean one. The mark is gone afterwards, durably: whatever happens
/// from now on, the next start will know.
pub(crate) fn take_clean_mark(dir: &Path) -> Result<bool, BrokerError> {
    let path = dir.join(CLEAN);
    match fs::remove_file(&path).and_then(|()| sync_dir(dir)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BrokerError::io(path)(error)),
    }
}

/// How many handles this process may have open.
pub(crate) fn handles_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(HANDLES_ASSUMED)
}
