//! What a partition's folder holds after a stop, clean or not.
//!
//! Closed segments are taken from their sidecars, or scanned where a sidecar is missing, damaged or
//! of another length. The last segment is always scanned, with checksums, and cut after its last
//! whole batch: what follows was never acknowledged. Anything else that does not fit is damage, and
//! said aloud: a batch that was durable once is never dropped in silence.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::producers::ProducerTable;

use super::{BatchPlace, Contents, Segment, Sidecar, segment_path};

/// Read at once while scanning.
const SCAN_BYTES: usize = 4 << 20;

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

/// Reads a partition's folder and leaves it ready to append to.
pub(crate) fn recover(dir: &Path, now_ms: i64) -> Result<Recovered, RecoverError> {
    let bases = base_offsets(dir).map_err(io_error(dir))?;
    let Some((&active_base, closed)) = bases.split_last() else {
        let segment = Segment::create(dir, 0, now_ms).map_err(io_error(dir))?;
        let producers = ProducerTable::default();
        return Ok(Recovered {
            segments: vec![segment],
            producers,
        });
    };
    let mut producers = ProducerTable::default();
    let mut segments = Vec::with_capacity(bases.len());
    let mut expected = bases[0];
    for &base_offset in closed {
        check_contiguous(dir, base_offset, expected)?;
        let contents = closed_segment(dir, base_offset, now_ms, &mut producers)?;
        expected = contents.next_offset;
        segments.push(Segment::existing(dir, base_offset, contents));
    }
    check_contiguous(dir, active_base, expected)?;
    let contents = active_segment(dir, active_base, now_ms, &mut producers)?;
    segments.push(Segment::existing(dir, active_base, contents));
    Ok(Recovered {
        segments,
        producers,
    })
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> RecoverError {
    move |source| RecoverError::Io {
        path: path.to_owned(),
        source,
    }
}

fn base_offsets(dir: &Path) -> io::Result<Vec<i64>> {
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

fn sidecar_of(log: &Path, base_offset: i64) -> Option<Sidecar> {
    let bytes = fs::read(log.with_extension("index")).ok()?;
    Sidecar::decode(&bytes).filter(|sidecar| sidecar.base_offset == base_offset)
}

fn closed_segment(
    dir: &Path,
    base_offset: i64,
    now_ms: i64,
    producers: &mut ProducerTable,
) -> Result<Contents, RecoverError> {
    let path = segment_path(dir, base_offset);
    let file = File::open(&path).map_err(io_error(&path))?;
    let (len, times) = extent(&file, now_ms).map_err(io_error(&path))?;
    if let Some(sidecar) = sidecar_of(&path, base_offset)
        && sidecar.contents.bytes == len
    {
        *producers = sidecar.producers;
        return Ok(sidecar.contents);
    }
    let scan = scan(&file, &path, base_offset, len, times, producers)?;
    if let Some(reason) = scan.stopped {
        return Err(RecoverError::Corrupt {
            path,
            position: scan.contents.bytes,
            reason,
        });
    }
    let sidecar = Sidecar {
        base_offset,
        contents: scan.contents,
        producers: producers.clone(),
    };
    if let Err(error) = fs::write(path.with_extension("index"), sidecar.encode()) {
        tracing::warn!(?path, %error, "index not written: the segment is scanned again next time");
    }
    Ok(sidecar.contents)
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
    let scan = scan(&file, &path, base_offset, len, times, producers)?;
    let end = scan.contents.bytes;
    let Some(reason) = scan.stopped else {
        if let Some(sidecar) = sidecar_of(&path, base_offset)
            && sidecar.contents.bytes > end
        {
            let reason = format!("{} bytes were durable once", sidecar.contents.bytes);
            return Err(RecoverError::Corrupt {
                path,
                position: end,
                reason,
            });
        }
        return Ok(scan.contents);
    };
    // A sidecar beside the last segment says how far the log was durable at a clean stop.
    if let Some(sidecar) = sidecar_of(&path, base_offset)
        && sidecar.contents.bytes > end
    {
        return Err(RecoverError::Corrupt {
            path,
            position: end,
            reason,
        });
    }
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

/// What a scan takes for the time of its batches.
#[derive(Clone, Copy)]
struct Times {
    /// For retention: when the file was written to.
    modified_ms: i64,
    /// For producers: they may be about to retry.
    now_ms: i64,
}

fn extent(file: &File, now_ms: i64) -> io::Result<(u64, Times)> {
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

struct Scan {
    contents: Contents,
    /// Why the scan ended before the file did.
    stopped: Option<String>,
}

/// Reads whole, valid, contiguous batches from the start of the file.
fn scan(
    file: &File,
    path: &Path,
    base_offset: i64,
    len: u64,
    times: Times,
    producers: &mut ProducerTable,
) -> Result<Scan, RecoverError> {
    let mut contents = Contents::empty(base_offset, times.modified_ms);
    let mut window = Window {
        file,
        len,
        start: 0,
        bytes: Vec::new(),
    };
    while contents.bytes < len {
        let header = match window.batch_at(contents.bytes).map_err(io_error(path))? {
            Ok(header) => header,
            Err(reason) => {
                return Ok(Scan {
                    contents,
                    stopped: Some(reason),
                });
            }
        };
        if header.base_offset != contents.next_offset {
            let reason = format!(
                "offset {} where {} is due",
                header.base_offset, contents.next_offset
            );
            return Ok(Scan {
                contents,
                stopped: Some(reason),
            });
        }
        if header.is_sequenced() {
            producers.record(&header, header.base_offset, times.now_ms);
        }
        let position = contents.bytes;
        contents.push(BatchPlace { header, position });
    }
    Ok(Scan {
        contents,
        stopped: None,
    })
}

/// A part of the file in memory that moves along with the scan.
struct Window<'a> {
    file: &'a File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The whole batch at `position`, checked, or why there is none.
    fn batch_at(&mut self, position: u64) -> io::Result<Result<BatchHeader, String>> {
        let left = self.len - position;
        if left < HEADER_BYTES as u64 {
            return Ok(Err(format!("{left} bytes are no batch")));
        }
        let header = match BatchHeader::parse(self.slice(position, HEADER_BYTES)?) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if header.bytes as u64 > left {
            return Ok(Err(format!(
                "batch needs {} bytes, {left} are there",
                header.bytes
            )));
        }
        let bytes = self.slice(position, header.bytes)?;
        Ok(BatchHeader::parse_whole(bytes).map_err(|error| error.to_string()))
    }

    fn slice(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let end = position + len as u64;
        if position < self.start || end > self.start + self.bytes.len() as u64 {
            let left = usize::try_from(self.len - position).unwrap_or(usize::MAX);
            self.bytes.resize(len.max(SCAN_BYTES).min(left), 0);
            self.file.read_exact_at(&mut self.bytes, position)?;
            self.start = position;
        }
        let at = (position - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }
}
