//! Makes a damaged folder one that can be served: keeps every valid batch, on both sides of what is
//! damaged, and names what is lost.
//!
//! The offsets of lost records are taken by batches without records, so that they are never given
//! out again and every other record keeps its own. A segment is written anew beside the damaged one,
//! which stays under another name (`<segment>.log.damaged`, not looked at any more), and takes its
//! place at once. A repair that is interrupted is repeated.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::batch::{assign_offset, filler};
use crate::files::sync_dir;
use crate::producers::ProducerTable;

use super::recover::{RecoverError, base_offsets, extent, io_error, sidecar_of};
use super::scan::{Behind, Times, Window};
use super::segment_path;

/// Records that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The segment they were in.
    pub path: PathBuf,
    /// Where in it, before the repair.
    pub position: u64,
    pub bytes: u64,
    /// Their offsets, from the first up to the one after the last; none where only bytes are gone
    /// that were no records.
    pub offsets: std::ops::Range<i64>,
}

/// What a segment is put together from.
enum Piece {
    /// A batch as it lies there, to stand at this offset.
    Batch {
        position: u64,
        bytes: usize,
        offset: i64,
    },
    Lost(Lost),
}

/// A segment of the folder, and where the next one starts.
struct Part<'a> {
    path: &'a Path,
    base_offset: i64,
    limit: Option<i64>,
    /// How many bytes, and up to which offset, were durable at a clean stop.
    durable: Option<(u64, i64)>,
}

/// Repairs a partition's folder; gives what was lost, oldest first. Nothing is changed where nothing
/// is damaged.
pub(crate) fn repair(dir: &Path, now_ms: i64) -> Result<Vec<Lost>, RecoverError> {
    let bases = base_offsets(dir).map_err(io_error(dir))?;
    let mut all = Vec::new();
    for (at, &base_offset) in bases.iter().enumerate() {
        let path = segment_path(dir, base_offset);
        let failed = io_error(&path);
        let file = File::open(&path).map_err(&failed)?;
        let (len, times) = extent(&file, now_ms).map_err(&failed)?;
        let sidecar = sidecar_of(&path, base_offset);
        let part = Part {
            path: &path,
            base_offset,
            limit: bases.get(at + 1).copied(),
            durable: sidecar.map(|s| (s.contents.bytes, s.contents.next_offset)),
        };
        let mut window = Window::new(&file, len);
        let pieces = part.pieces(&mut window, len, times).map_err(&failed)?;
        let Some(pieces) = pieces else { continue };
        rewrite(&path, &file, &mut window, &pieces).map_err(&failed)?;
        all.extend(pieces.into_iter().filter_map(|piece| match piece {
            Piece::Lost(lost) => Some(lost),
            Piece::Batch { .. } => None,
        }));
    }
    Ok(all)
}

impl Part<'_> {
    /// What to make the segment from; `None` where it can stay as it is.
    fn pieces(
        &self,
        window: &mut Window<'_>,
        len: u64,
        times: Times,
    ) -> io::Result<Option<Vec<Piece>>> {
        let scan = window.scan(self.base_offset, times, &mut ProducerTable::default())?;
        let next = scan.contents.next_offset;
        let durable_to = self.durable.map_or(next, |(_, offset)| offset);
        let torn = match (&scan.stopped, self.limit) {
            (None, _) => true,
            (Some(_), Some(_)) => false,
            (Some(_), None) => {
                let behind = window.resume(scan.contents.bytes, next, None)?;
                matches!(behind, Behind::Nothing)
            }
        };
        // A torn end of the last segment is for recovery to cut.
        if torn && self.limit.unwrap_or(next) == next && durable_to <= next {
            return Ok(None);
        }
        let (mut pieces, mut position, mut next) = (Vec::new(), 0, self.base_offset);
        while position < len {
            match window.batch_in_place(position, next)? {
                Ok(header) if self.limit.is_none_or(|limit| header.next_offset() <= limit) => {
                    pieces.push(Piece::Batch {
                        position,
                        bytes: header.bytes,
                        offset: next,
                    });
                    position += header.bytes as u64;
                    next = header.next_offset();
                }
                _ => (position, next) = self.step_over(window, position, next, len, &mut pieces)?,
            }
        }
        let end = self.limit.unwrap_or(next).max(durable_to);
        let end = self.limit.map_or(end, |limit| end.min(limit));
        if next < end {
            self.lose(&mut pieces, position..position, next..end);
        }
        Ok(Some(pieces))
    }

    fn lose(
        &self,
        pieces: &mut Vec<Piece>,
        bytes: std::ops::Range<u64>,
        offsets: std::ops::Range<i64>,
    ) {
        let lost = Lost {
            path: self.path.to_owned(),
            position: bytes.start,
            bytes: bytes.end - bytes.start,
            offsets,
        };
        tracing::warn!(path = ?lost.path, at = lost.position, lost_bytes = lost.bytes,
            offsets = ?lost.offsets, "records are lost");
        pieces.push(Piece::Lost(lost));
    }

    /// Goes on behind what is no batch in place at `position`: where, and at which offset.
    fn step_over(
        &self,
        window: &mut Window<'_>,
        position: u64,
        next: i64,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> io::Result<(u64, i64)> {
        // What is whole and directly behind the batch before it can only be the next one, whatever
        // offset it claims; unless what follows agrees with the claim.
        if let Ok(header) = window.batch_at(position)? {
            let behind = position + header.bytes as u64;
            let after = next.saturating_add(i64::from(header.last_offset_delta)) + 1;
            let claims_more = header.base_offset > next
                && window
                    .batch_at(behind)?
                    .is_ok_and(|follower| follower.base_offset == header.next_offset());
            if !claims_more && self.limit.is_none_or(|limit| after <= limit) {
                pieces.push(Piece::Batch {
                    position,
                    bytes: header.bytes,
                    offset: next,
                });
                return Ok((behind, after));
            }
        }
        let mut from = position;
        let mut found = window.resume(from, next, self.limit)?;
        // Where a batch is whole and its offset cannot be, the search goes on behind its head.
        while matches!(found, Behind::Unknown) && from == position {
            from += 1;
            found = window.resume(from, next, self.limit)?;
        }
        if let Behind::Batch(place) = found {
            let resumed = place.header.base_offset;
            self.lose(pieces, position..place.position, next..resumed);
            return Ok((place.position, resumed));
        }
        // Nothing follows: so many offsets are passed over that none of them was given out.
        let claimed = match window.head_at(position)? {
            Ok(head) if head.base_offset == next => head.next_offset(),
            _ => next,
        };
        let as_bytes = next.saturating_add(i64::try_from(len - position).unwrap_or(i64::MAX));
        let known = match self.durable {
            // Nothing was written since: the end is known exactly.
            Some((bytes, offset)) if len <= bytes => Some(offset.max(next)),
            _ => None,
        };
        let end = self.limit.or(known).unwrap_or(claimed.max(as_bytes));
        self.lose(pieces, position..len, next..end);
        Ok((len, end))
    }
}

/// Writes the segment anew and puts it in the place of the damaged one.
fn rewrite(
    path: &Path,
    damaged: &File,
    window: &mut Window<'_>,
    pieces: &[Piece],
) -> io::Result<()> {
    let new = path.with_extension("log.new");
    let mut out = BufWriter::new(File::create(&new)?);
    for piece in pieces {
        match piece {
            Piece::Batch {
                position,
                bytes,
                offset,
            } => {
                let mut batch = window.slice(*position, *bytes)?.to_vec();
                assign_offset(&mut batch, *offset);
                out.write_all(&batch)?;
            }
            Piece::Lost(lost) => {
                let mut next = lost.offsets.start;
                while next < lost.offsets.end {
                    out.write_all(&filler(next, lost.offsets.end))?;
                    next = next.saturating_add(1 << 31).min(lost.offsets.end);
                }
            }
        }
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    // Retention goes by when records were appended.
    file.set_modified(damaged.metadata()?.modified()?)?;
    file.sync_all()?;
    fs::hard_link(path, free_name(path)?)?;
    match fs::remove_file(path.with_extension("index")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// A name for the damaged file that no earlier repair took.
fn free_name(path: &Path) -> io::Result<PathBuf> {
    for attempt in 0..1_000 {
        let extension = match attempt {
            0 => "log.damaged".to_owned(),
            n => format!("log.damaged-{n}"),
        };
        let name = path.with_extension(extension);
        if !name.try_exists()? {
            return Ok(name);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "a thousand damaged copies of the segment are kept: remove some",
    ))
}
