//! The codecs of Kafka's record batches, read as streams with a bound on what comes out.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use crate::records::Visit;

/// Unpacked at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The frame that Java's snappy library puts around its blocks.
pub(crate) const XERIAL_MAGIC: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Begins every frame of lz4 but those of its old format.
const LZ4_MAGIC: &[u8] = &[0x04, 0x22, 0x4D, 0x18];
/// Two version numbers that follow [`XERIAL_MAGIC`].
const XERIAL_VERSIONS: usize = 8;
/// Snappy makes no more than 64 bytes of 3; what claims more is no snappy.
const SNAPPY_RATIO_MAX: usize = 22;

/// Why records cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("codec {0} is not known: expected 0 (none), 1 (gzip), 2 (snappy), 3 (lz4) or 4 (zstd)")]
    Codec(i16),
    #[error("records unpack to more than {max} bytes")]
    TooLarge { max: u64 },
    #[error("records cannot be unpacked: {0}")]
    Damaged(io::Error),
}

/// Unpacks records into `visitor`, up to `max` bytes.
pub(crate) fn unpack<V: Visit>(
    codec: i16,
    packed: &[u8],
    max: u64,
    visitor: V,
) -> Result<V::Found, UnpackError> {
    let found = match codec {
        0 => visitor.visit(packed),
        1 => visitor.visit(capped(flate2::bufread::MultiGzDecoder::new(packed), max)),
        2 => match packed.strip_prefix(XERIAL_MAGIC) {
            None => visitor.visit(Cursor::new(snappy_block(packed, max)?)),
            Some(framed) => visitor.visit(capped(Xerial::new(framed, max), max)),
        },
        3 => lz4(packed, max, visitor),
        4 => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed);
            visitor.visit(capped(decoder.map_err(UnpackError::Damaged)?, max))
        }
        _ => return Err(UnpackError::Codec(codec)),
    };
    found.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => UnpackError::TooLarge { max },
        _ => UnpackError::Damaged(error),
    })
}

/// One frame, and nothing else: what follows it, or another kind of frame, is read by some clients
/// only.
fn lz4<V: Visit>(packed: &[u8], max: u64, visitor: V) -> io::Result<V::Found> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if !packed.starts_with(LZ4_MAGIC) {
        return Err(wrong("they are no lz4 frame"));
    }
    let mut rest = packed;
    let found = visitor.visit(capped(lz4_flex::frame::FrameDecoder::new(&mut rest), max))?;
    match rest.len() {
        0 => Ok(found),
        _ if !V::is_whole(&found) => Ok(found),
        left => Err(wrong(&format!("{left} bytes follow the lz4 frame"))),
    }
}

/// A reader that fails where there is more than `max` bytes.
struct Capped<R> {
    inner: R,
    left: u64,
}

fn capped(inner: impl Read, max: u64) -> impl BufRead {
    let capped = Capped { inner, left: max };
    BufReader::with_capacity(PIECE_BYTES, capped)
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = match self.left.checked_sub(read as u64) {
            Some(left) => left,
            None => return Err(io::ErrorKind::FileTooLarge.into()),
        };
        Ok(read)
    }
}

fn snappy_block(block: &[u8], max: u64) -> Result<Vec<u8>, UnpackError> {
    let damaged = |error: snap::Error| UnpackError::Damaged(io::Error::other(error));
    let len = snap::raw::decompress_len(block).map_err(damaged)?;
    if len as u64 > max {
        return Err(UnpackError::TooLarge { max });
    }
    if len / SNAPPY_RATIO_MAX > block.len() {
        let claim = format!("{} bytes claim to unpack to {len}", block.len());
        return Err(UnpackError::Damaged(io::Error::other(claim)));
    }
    snap::raw::Decoder::new()
        .decompress_vec(block)
        .map_err(damaged)
}

/// Java's framing of snappy: blocks, each with its length in front.
struct Xerial<'a> {
    rest: &'a [u8],
    block: Cursor<Vec<u8>>,
    /// Largest block, unpacked.
    block_bytes_max: u64,
}

impl<'a> Xerial<'a> {
    fn new(framed: &'a [u8], block_bytes_max: u64) -> Self {
        Self {
            rest: framed.get(XERIAL_VERSIONS..).unwrap_or_default(),
            block: Cursor::default(),
            block_bytes_max,
        }
    }

    fn next_block(&mut self) -> io::Result<Vec<u8>> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (len, rest) = self.rest.split_first_chunk::<4>().ok_or_else(short)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, rest) = rest.split_at_checked(len).ok_or_else(short)?;
        self.rest = rest;
        snappy_block(block, self.block_bytes_max).map_err(|error| match error {
            UnpackError::TooLarge { .. } => io::ErrorKind::FileTooLarge.into(),
            error => io::Error::other(error),
        })
    }
}

impl Read for Xerial<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.block.read(into)?;
            if read > 0 || into.is_empty() || self.rest.is_empty() {
                return Ok(read);
            }
            self.block = Cursor::new(self.next_block()?);
        }
    }
}
