//! One process for a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::failure::{Exit, Failure};

const FILE: &str = "tidelake.lock";

/// Held as long as the process uses the folder. The system lets go of it whatever way the process
/// ends.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "open, and so locked")] File);

impl FolderLock {
    /// True for a folder that was used like this before.
    pub(crate) fn is_ours(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    pub(crate) fn take(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let unusable = |error: std::io::Error| {
            Failure::failed(format!("folder {} can't be used: {error}", dir.display()))
        };
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = opened.map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(dir, file)),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let written = file.set_len(0).and_then(|()| file.rewind());
        written
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(unusable)?;
        Ok(Self(file))
    }
}

fn in_use(dir: &Path, mut file: File) -> Failure {
    let mut owner = String::new();
    let _unreadable = file.read_to_string(&mut owner);
    let owner = match owner.trim() {
        "" => "another process".to_owned(),
        id => format!("process {id}"),
    };
    let message = format!("folder {} is in use by {owner}", dir.display());
    Failure::new(Exit::Conflict, message).hint("stop it, or choose another folder with --dir")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_two_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderLock::take(dir.path()).unwrap();
        let failure = FolderLock::take(dir.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Conflict);
        assert!(
            failure
                .message
                .ends_with(&format!("in use by process {}", std::process::id()))
        );
        drop(first);
        FolderLock::take(dir.path()).unwrap();
    }
}
