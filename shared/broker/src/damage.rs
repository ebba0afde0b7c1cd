//! Damaged partitions: which there are, and how they can be served again.
//!
//! Works on a folder that no broker runs on. Finding them reads every batch of every segment.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tidelake_core::clock::Clock;

use crate::error::BrokerError;
use crate::folder;
use crate::segment::{self, RecoverError};
use crate::topics::{partition_dir, partition_dirs};

/// A partition that refuses every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflinePartition {
    pub topic: String,
    pub partition: i32,
    /// The file, the byte and what is wrong there.
    pub reason: String,
}

/// Records that a repair could not save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecords {
    /// The segment they were in; its damaged form is kept beside it, as `.log.damaged`.
    pub segment: PathBuf,
    /// Where in the damaged file they were.
    pub position: u64,
    pub bytes: u64,
    /// Their offsets. They stay empty: no other record is ever given one of them.
    pub offsets: Range<i64>,
}

/// Every damaged partition below a broker's folder. Changes nothing.
///
/// # Errors
/// When a broker runs on the folder, or it cannot be read.
pub fn check(dir: &Path) -> Result<Vec<OfflinePartition>, BrokerError> {
    let _lock = folder::lock(dir)?;
    let mut damaged = Vec::new();
    for (topic, partition, path) in partition_dirs(dir).map_err(BrokerError::io(dir))? {
        if let Err(error) = segment::inspect(&path) {
            let reason = reason(&error);
            damaged.push(OfflinePartition {
                topic,
                partition,
                reason,
            });
        }
    }
    Ok(damaged)
}

/// Makes a damaged partition one that can be served: every valid batch keeps its offset, on both
/// sides of the damage; what is lost is named, and its offsets are never given out again. The damaged
/// files are kept under another name. Does nothing where nothing is damaged.
///
/// # Errors
/// When a broker runs on the folder, there is no such partition, or the disk fails.
pub fn repair(
    dir: &Path,
    topic: &str,
    partition: i32,
    clock: &dyn Clock,
) -> Result<Vec<LostRecords>, BrokerError> {
    let _lock = folder::lock(dir)?;
    let path = partition_dir(dir, topic, partition).filter(|path| path.is_dir());
    let Some(path) = path else {
        let absent = io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no partition {partition} of topic {topic:?}"),
        );
        return Err(BrokerError::io(dir)(absent));
    };
    // The next start checks what was made here.
    folder::take_clean_mark(dir)?;
    let lost = segment::repair(&path, clock.now_ms()).map_err(|error| match error {
        RecoverError::Io { path, source } => BrokerError::Io { path, source },
        corrupt @ RecoverError::Corrupt { .. } => BrokerError::Corrupt {
            reason: corrupt.to_string(),
            path,
        },
    })?;
    Ok(lost
        .into_iter()
        .map(|lost| LostRecords {
            segment: lost.path,
            position: lost.position,
            bytes: lost.bytes,
            offsets: lost.offsets,
        })
        .collect())
}

/// The whole chain of an error, in one line.
pub(crate) fn reason(error: &RecoverError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
