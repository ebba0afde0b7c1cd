//! What a partition's folder holds after a stop, clean or not.
//!
//! Closed segments are taken from their sidecars, or scanned where a sidecar is missing, damaged or
//! of another length; after an unclean stop they are checked as well, the newest first, as far as
//! time allows ([`Check`]). The last segment is always scanned, with checksums. It is cut after its
//! last whole batch if nothing valid follows: that was never acknowledged. Anything else that does
//! not fit is damage, and said aloud: a batch that was durable once is never dropped in silence, and
//! no offset is given out twice. A power cut in the middle of a large append can look the same,
//! because its end may reach the disk before its middle; that costs a repair, never a record.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::producers::ProducerTable;
use crate::time::{self, Instant};

use super::scan::{Behind, Scan, Times, Window};
use super::{Contents, OpenFiles, Segment, Sidecar, segment_path};

/// Why a partition cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("cannot read {path:?}")]
    Io { path: PathBuf, source: io::Error },
    #[error("segment {path:?} is damaged at byte {position}: {reason}")]
    Corrupt {
        path: PathBuf,
        position: u64,
        reason: String,
    },
}

/// A partition's segments, oldest first, never empty; the last one is the one to append to.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub segments: Vec<Segment>,
    pub producers: ProducerTable,
}

/// How far closed segments are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Check {
    /// They were left well, and are checked when they are read.
    Nothing,
    /// As many as can be read until then; the rest when they are read.
    Until(Instant),
}

/// Reads a partition's folder and leaves it ready to append to.
pub(crate) fn recover(
    dir: &Path,
    now_ms: i64,
    files: &Arc<OpenFiles>,
    check: Check,
) -> Result<Recovered, RecoverError> {
    let bases = base_offsets(dir).map_err(io_error(dir))?;
    let Some((&active_base, closed)) = bases.split_last() else {
        let segment = Segment::create(dir, 0, now_ms, files).map_err(io_error(dir))?;
        let producers = ProducerTable::default();
        return Ok(Recovered {
            segments: vec![segment],
            producers,
        });
    };
    let mut producers = ProducerTable::default();
    let mut segments = Vec::with_capacity(bases.len());
    let mut unchecked = Vec::new();
    let mut expected = bases[0];
    for &base_offset in closed {
        check_contiguous(dir, base_offset, expected)?;
        let (contents, scanned) = closed_segment(dir, base_offset, now_ms, &mut producers)?;
        expected = contents.next_offset;
        if !scanned {
            unchecked.push((base_offset, expected));
        }
        segments.push(Segment::existing(dir, base_offset, contents, files));
    }
    check_contiguous(dir, active_base, expected)?;
    let contents = active_segment(dir, active_base, now_ms, &mut producers)?;
    if let Check::Until(deadline) = check {
        check_closed(dir, unchecked, now_ms, deadline)?;
    }
    let active = Segment::existing(dir, active_base, contents, files);
    active.activate();
    segments.push(active);
    Ok(Recovered {
        segments,
        producers,
    })
}

/// Reads closed segments whose sidecars were trusted, the newest first: what was written last is
/// what a crash can have hit.
fn check_closed(
    dir: &Path,
    mut unchecked: Vec<(i64, i64)>,
    now_ms: i64,
    deadline: Instant,
) -> Result<(), RecoverError> {
    while let Some((base_offset, next_offset)) = unchecked.pop() {
        if time::now() >= deadline {
            let segments = unchecked.len() + 1;
            tracing::warn!(
                ?dir,
                segments,
                "closed segments not checked for want of time: they are when they are read"
            );
            return Ok(());
        }
        let mut nobody = ProducerTable::default();
        let (contents, path) = closed_scan(dir, base_offset, now_ms, &mut nobody)?;
        if contents.next_offset != next_offset {
            return Err(RecoverError::Corrupt {
                path,
                position: contents.bytes,
                reason: format!("the index says it ends at offset {next_offset}"),
            });
        }
    }
    Ok(())
}

/// Reads a closed segment from its start to its end.
fn closed_scan(
    dir: &Path,
    base_offset: i64,
    now_ms: i64,
    producers: &mut ProducerTable,
) -> Result<(Contents, PathBuf), RecoverError> {
    let path = segment_path(dir, base_offset);
    let file = File::open(&path).map_err(io_error(&path))?;
    let (len, times) = extent(&file, now_ms).map_err(io_error(&path))?;
    let scan = Window::new(&file, len)
        .scan(base_offset, times, producers)
        .map_err(io_error(&path))?;
    match scan.stopped {
        None => Ok((scan.contents, path)),
        Some(reason) => Err(RecoverError::Corrupt {
            path,
            position: scan.contents.bytes,
            reason,
        }),
    }
}

pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> RecoverError {
    move |source| RecoverError::Io {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn base_offsets(dir: &Path) -> io::Result<Vec<i64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let base = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log")?.parse::<i64>().ok());
        bases.extend(base);
    }
    bases.sort_unstable();
    Ok(bases)
}

fn check_contiguous(dir: &Path, base_offset: i64, expected: i64) -> Result<(), RecoverError> {
    if base_offset == expected {
        return Ok(());
    }
    Err(RecoverError::Corrupt {
        path: segment_path(dir, base_offset),
        position: 0,
        reason: format!(
            "the segment before it ends at offset {expected}: a part of the log is missing"
        ),
    })
}

pub(super) fn sidecar_of(log: &Path, base_offset: i64) -> Option<Sidecar> {
    let bytes = fs::read(log.with_extension("index")).ok()?;
    Sidecar::decode(&bytes).filter(|sidecar| sidecar.base_offset == base_offset)
}

/// What a closed segment holds; true where it was read for it.
fn closed_segment(
    dir: &Path,
    base_offset: i64,
    now_ms: i64,
    producers: &mut ProducerTable,
) -> Result<(Contents, bool), RecoverError> {
    let path = segment_path(dir, base_offset);
    let len = fs::metadata(&path).map_err(io_error(&path))?.len();
    if let Some(sidecar) = sidecar_of(&path, base_offset)
        && sidecar.contents.bytes == len
    {
        *producers = sidecar.producers;
        return Ok((sidecar.contents, false));
    }
    let (contents, path) = closed_scan(dir, base_offset, now_ms, producers)?;
    let sidecar = Sidecar {
        base_offset,
        contents,
        producers: producers.clone(),
    };
    if let Err(error) = fs::write(path.with_extension("index"), sidecar.encode()) {
        tracing::warn!(?path, %error, "index not written: the segment is scanned again next time");
    }
    Ok((sidecar.contents, true))
}

fn active_segment(
    dir: &Path,
    base_offset: i64,
    now_ms: i64,
    producers: &mut ProducerTable,
) -> Result<Contents, RecoverError> {
    let path = segment_path(dir, base_offset);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io_error(&path))?;
    let (len, times) = extent(&file, now_ms).map_err(io_error(&path))?;
    let scan = active_scan(&path, &file, len, base_offset, times, producers)?;
    let Some(reason) = scan.stopped else {
        return Ok(scan.contents);
    };
    let end = scan.contents.bytes;
    file.set_len(end)
        .and_then(|()| file.sync_all())
        .map_err(io_error(&path))?;
    tracing::warn!(
        ?path,
        at = end,
        cut_bytes = len - end,
        reason,
        "torn tail cut"
    );
    Ok(scan.contents)
}

/// What the last segment holds. Where its scan stopped, nothing valid comes behind.
fn active_scan(
    path: &Path,
    file: &File,
    len: u64,
    base_offset: i64,
    times: Times,
    producers: &mut ProducerTable,
) -> Result<Scan, RecoverError> {
    let failed = io_error(path);
    let mut window = Window::new(file, len);
    let scan = window
        .scan(base_offset, times, producers)
        .map_err(&failed)?;
    let end = scan.contents.bytes;
    let damaged = |reason| RecoverError::Corrupt {
        path: path.to_owned(),
        position: end,
        reason,
    };
    // A sidecar beside the last segment says how far the log was durable at a clean stop.
    let sidecar = sidecar_of(path, base_offset);
    if let Some(sidecar) = sidecar.filter(|sidecar| sidecar.contents.bytes > end) {
        let durable = format!("{} bytes were durable once", sidecar.contents.bytes);
        return Err(damaged(scan.stopped.unwrap_or(durable)));
    }
    let Some(reason) = &scan.stopped else {
        return Ok(scan);
    };
    let due = scan.contents.next_offset;
    match window.resume(end, due, None).map_err(&failed)? {
        Behind::Nothing => Ok(scan),
        Behind::Batch(place) => {
            let (offset, at) = (place.header.base_offset, place.position);
            let behind = format!("{reason}; a valid batch of offset {offset} follows at byte {at}");
            Err(damaged(behind))
        }
        Behind::Unknown => Err(damaged(format!("{reason}; valid batches may follow"))),
    }
}

/// Reads all of a partition's folder and changes nothing; an error for what would take it offline.
pub(crate) fn inspect(dir: &Path) -> Result<(), RecoverError> {
    let bases = base_offsets(dir).map_err(io_error(dir))?;
    let Some((&active_base, closed)) = bases.split_last() else {
        return Ok(());
    };
    let mut producers = ProducerTable::default();
    let mut expected = bases[0];
    for &base_offset in closed {
        check_contiguous(dir, base_offset, expected)?;
        expected = closed_scan(dir, base_offset, 0, &mut producers)?
            .0
            .next_offset;
    }
    check_contiguous(dir, active_base, expected)?;
    let path = segment_path(dir, active_base);
    let file = File::open(&path).map_err(io_error(&path))?;
    let (len, times) = extent(&file, 0).map_err(io_error(&path))?;
    active_scan(&path, &file, len, active_base, times, &mut producers).map(|_| ())
}

/// Length and times of a segment's file.
pub(super) fn extent(file: &File, now_ms: i64) -> io::Result<(u64, Times)> {
    let metadata = file.metadata()?;
    let modified = metadata
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let modified_ms = i64::try_from(modified.as_millis())
        .unwrap_or(now_ms)
        .min(now_ms);
    Ok((
        metadata.len(),
        Times {
            modified_ms,
            now_ms,
        },
    ))
}
