//! Reading a partition: a plan first, which never touches the disk, then perhaps a read that does.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::segment::Segment;

use super::Partition;

/// Why nothing can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadError {
    OutOfRange,
    Deleted,
    Storage,
}

/// How a read will be answered.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The offset is the next one to be written, or nothing fits.
    Nothing,
    Memory(Vec<Bytes>),
    Disk(DiskRead),
}

/// A read that may block.
#[derive(Debug)]
pub(crate) struct DiskRead {
    partition: Arc<Partition>,
    segment: Arc<Segment>,
    offset: i64,
    bytes_max: usize,
    one_at_least: bool,
}

impl Plan {
    /// Bytes that the plan will give, estimated from above for the disk.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Memory(chunks) => chunks.iter().map(Bytes::len).sum(),
            Self::Disk(read) => {
                let there = read.segment.bytes_from(read.offset);
                usize::try_from(there)
                    .unwrap_or(usize::MAX)
                    .min(read.bytes_max)
            }
        }
    }
}

impl DiskRead {
    /// Blocks. [`io::ErrorKind::NotFound`] means that retention removed the segment meanwhile.
    pub(crate) fn run(&self) -> io::Result<Bytes> {
        let read = || {
            self.segment
                .read(self.offset, self.bytes_max, self.one_at_least)
        };
        self.partition.read_checked(read)
    }
}

impl Partition {
    /// Reads from the disk; damage takes the partition offline. It is read once more before, so that
    /// only what is damaged on the disk itself counts.
    fn read_checked<T>(&self, read: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let damaged = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            )
        };
        match read() {
            Err(error) if damaged(&error) => read().inspect_err(|error| {
                if damaged(error) {
                    self.take_offline(error.to_string());
                }
            }),
            done => done,
        }
    }

    /// Plans to read whole batches from the one that holds `offset` on, up to `bytes_max`; the first
    /// batch even beyond it if `one_at_least`.
    pub(crate) fn plan(
        self: &Arc<Self>,
        offset: i64,
        bytes_max: usize,
        one_at_least: bool,
    ) -> Result<Plan, ReadError> {
        let view = self.log().ok_or(ReadError::Storage)?.view.read();
        if view.deleted {
            return Err(ReadError::Deleted);
        }
        if offset < view.extent.log_start || offset > view.extent.high_watermark {
            return Err(ReadError::OutOfRange);
        }
        if offset == view.extent.high_watermark {
            return Ok(Plan::Nothing);
        }
        if let Some(chunks) = view.tail.read(offset, bytes_max, one_at_least) {
            return Ok(if chunks.is_empty() {
                Plan::Nothing
            } else {
                Plan::Memory(chunks)
            });
        }
        let after = view
            .segments
            .partition_point(|segment| segment.base_offset() <= offset);
        let Some(segment) = after.checked_sub(1).map(|at| &view.segments[at]) else {
            return Err(ReadError::OutOfRange);
        };
        let segment = Arc::clone(segment);
        Ok(Plan::Disk(DiskRead {
            partition: Arc::clone(self),
            segment,
            offset,
            bytes_max,
            one_at_least,
        }))
    }

    /// The first batch with a timestamp of at least `timestamp`, whole. Blocks on the disk.
    pub(crate) fn batch_at_time(&self, timestamp: i64) -> io::Result<Option<Bytes>> {
        let Some(log) = self.log() else {
            return Ok(None);
        };
        let segments = log.view.read().segments.clone();
        for segment in segments {
            match self.read_checked(|| segment.read_at_time(timestamp)) {
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return found,
            }
        }
        Ok(None)
    }

    /// The newest timestamp of all records. `None` if there is no record.
    pub(crate) fn newest_timestamp(&self) -> Option<i64> {
        let view = self.log()?.view.read();
        let newest = view
            .segments
            .iter()
            .filter_map(|segment| segment.contents().newest);
        newest.map(|newest| newest.timestamp).max()
    }
}
