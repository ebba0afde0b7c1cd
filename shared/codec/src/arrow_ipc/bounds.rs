//! What an Arrow message claims, held against what it has: before anything is allocated for it.
//!
//! Arrow's own reader trusts lengths and panics on shapes that no writer makes. Everything that
//! decides about memory is checked here; what else may be wrong is left to Arrow's validation.

use arrow::datatypes::DataType;
use arrow::ipc::{CompressionType, RecordBatch};

use super::frames::{StreamLimits, corrupt};
use crate::allowance::Allowance;
use crate::reject::Reason;

const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// No LZ4 sequence stands for more than this many times its own bytes.
const LZ4_RATIO_MAX: usize = 255;

/// Checks the lengths that a record batch (or dictionary) claims.
pub(super) fn check_shape(batch: &RecordBatch<'_>, limits: &StreamLimits) -> Result<(), Reason> {
    let (found, max) = (batch.length(), limits.batch_rows_max);
    match usize::try_from(found) {
        Ok(rows) if rows <= max => {}
        Ok(_) => {
            return Err(Reason::BatchTooLarge {
                what: "rows",
                found,
                max,
            });
        }
        Err(_) => return Err(corrupt("a negative number of rows")),
    }
    // A list's items may be many more than its rows, but each takes a bit of the body at least,
    // unless they are of type Null, which has no items to speak of.
    let items_max = i64::try_from(limits.decoded_bytes_max.saturating_mul(8));
    let items_max = items_max.unwrap_or(i64::MAX).min(i64::from(i32::MAX));
    for node in batch.nodes().into_iter().flatten() {
        let length = node.length();
        if !(0..=items_max).contains(&length) || !(0..=length).contains(&node.null_count()) {
            return Err(corrupt("a column's length is out of bounds"));
        }
    }
    let count = batch.buffers().map_or(0, |buffers| buffers.len());
    let variadic = batch.variadicBufferCounts().into_iter().flatten();
    let mut views = 0_usize;
    for buffers in variadic {
        let Ok(buffers) = usize::try_from(buffers) else {
            return Err(corrupt("a negative buffer count"));
        };
        views = views.saturating_add(buffers);
    }
    if views > count {
        Err(corrupt("more view buffers than buffers"))
    } else {
        Ok(())
    }
}

/// Takes from `allowance` what a batch's buffers become. The body itself was taken before; what
/// several buffers share of it counts for each of them.
pub(super) fn take_buffers(
    batch: &RecordBatch<'_>,
    body: &[u8],
    allowance: &mut Allowance,
) -> Result<(), Reason> {
    let compression = batch.compression().map(|compression| compression.codec());
    let buffers = || {
        batch.buffers().into_iter().flatten().map(|buffer| {
            let bytes = usize::try_from(buffer.offset()).ok().and_then(|start| {
                let end = start.checked_add(usize::try_from(buffer.length()).ok()?)?;
                body.get(start..end)
            });
            bytes.ok_or("a buffer lies outside of its message")
        })
    };
    let Some(codec) = compression else {
        let mut total = 0_usize;
        for bytes in buffers() {
            total = total.saturating_add(bytes.map_err(corrupt)?.len());
        }
        allowance.take(total.saturating_sub(body.len()))?;
        return Ok(());
    };
    let (mut claimed, mut bound) = (0_usize, 0_usize);
    for bytes in buffers() {
        let size = Decompressed::of(bytes.map_err(corrupt)?, codec, Measure::Bound);
        let size = size.map_err(corrupt)?;
        claimed = claimed.saturating_add(size.claimed);
        bound = bound.saturating_add(size.claimed.max(size.held));
    }
    // Arrow refuses a buffer that is not what it claims to be, but only when all of it is there.
    // So what it is must fit too; it is measured only where the cheap bound does not.
    if bound > allowance.left() {
        let mut exact = 0_usize;
        for bytes in buffers() {
            let size = Decompressed::of(bytes.map_err(corrupt)?, codec, Measure::Exact);
            let size = size.map_err(corrupt)?;
            exact = exact.saturating_add(size.claimed.max(size.held));
        }
        if exact > allowance.left() {
            return Err(allowance.exceeded().into());
        }
    }
    allowance.take(claimed)?;
    Ok(())
}

/// What a compressed buffer becomes.
struct Decompressed {
    /// By its own word: what Arrow allocates first, and what it must be in the end.
    claimed: usize,
    /// What its frame holds: the decoder goes on to its end, whatever length was claimed.
    held: usize,
}

#[derive(Clone, Copy)]
enum Measure {
    /// No less than it is; cheap.
    Bound,
    Exact,
}

impl Decompressed {
    fn of(bytes: &[u8], codec: CompressionType, measure: Measure) -> Result<Self, &'static str> {
        let Some((prefix, data)) = bytes.split_first_chunk::<8>() else {
            return if bytes.is_empty() {
                Ok(Self::plain(0))
            } else {
                Err("a compressed buffer is cut off")
            };
        };
        let claimed = match i64::from_le_bytes(*prefix) {
            -1 => return Ok(Self::plain(data.len())),
            claimed => usize::try_from(claimed).map_err(|_| "a negative buffer length")?,
        };
        if codec != CompressionType::LZ4_FRAME {
            // Zstandard is given the room that was claimed, and no more.
            return Ok(Self::plain(claimed));
        }
        let held = lz4_bytes(data, measure)?;
        Ok(Self { claimed, held })
    }

    fn plain(claimed: usize) -> Self {
        Self { claimed, held: 0 }
    }
}

/// What the blocks of an LZ4 frame hold, or can hold at most by the size that its header gives them.
fn lz4_bytes(data: &[u8], measure: Measure) -> Result<usize, &'static str> {
    const CUT: &str = "an LZ4 frame is cut off";
    let Some(rest) = data.strip_prefix(&LZ4_MAGIC) else {
        return if data.is_empty() {
            Ok(0)
        } else {
            Err("not an LZ4 frame")
        };
    };
    let (&[flags, descriptor], rest) = rest.split_first_chunk::<2>().ok_or(CUT)?;
    let block_max = match descriptor >> 4 & 7 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return Err("an LZ4 frame of unknown block size"),
    };
    let optional = 1 + if flags & 8 == 0 { 0 } else { 8 } + if flags & 1 == 0 { 0 } else { 4 };
    let checksum = if flags & 16 == 0 { 0 } else { 4 };
    let mut rest = rest.get(optional..).ok_or(CUT)?;
    let mut total = 0_usize;
    loop {
        let (size, data) = rest.split_first_chunk::<4>().ok_or(CUT)?;
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            return Ok(total);
        }
        let length = (size & 0x7fff_ffff) as usize;
        let stored = size & 0x8000_0000 != 0;
        rest = data.get(length + checksum..).ok_or(CUT)?;
        let most = block_max.min(length.saturating_mul(LZ4_RATIO_MAX));
        total += match measure {
            _ if stored => length,
            Measure::Bound => most,
            // A block that is damaged, or too large, is decoded up to its bound.
            Measure::Exact => block_bytes(&data[..length]).map_or(most, |bytes| bytes.min(most)),
        };
    }
}

/// Bytes that the sequences of an LZ4 block stand for; none where it ends in the middle of one.
///
/// ```text
/// sequence = token (literals u4 · match u4) · more literals* · literals · offset u16 · more match*
/// ```
fn block_bytes(mut block: &[u8]) -> Option<usize> {
    let mut total = 0_usize;
    loop {
        let (token, rest) = block.split_first()?;
        let (literals, rest) = lz4_length(usize::from(token >> 4), rest)?;
        total = total.saturating_add(literals);
        block = rest.get(literals..)?;
        if block.is_empty() {
            return Some(total);
        }
        let (matched, rest) = lz4_length(usize::from(token & 15), block.get(2..)?)?;
        // No match is shorter than four bytes.
        total = total.saturating_add(matched + 4);
        block = rest;
    }
}

/// A length of which a token holds `short`, and what follows it.
fn lz4_length(short: usize, mut rest: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = short;
    if short == 15 {
        loop {
            let (more, behind) = rest.split_first()?;
            rest = behind;
            length = length.saturating_add(usize::from(*more));
            if *more < u8::MAX {
                break;
            }
        }
    }
    Some((length, rest))
}

/// Checks a schema's types: those that [`conform`](super::conform) can take at all, with sane sizes.
pub(super) fn check_type(ty: &DataType) -> Result<(), &'static str> {
    use DataType as D;
    match ty {
        D::List(field) | D::LargeList(field) => check_type(field.data_type()),
        D::FixedSizeList(field, length) => {
            if *length < 0 {
                return Err("a negative list size");
            }
            check_type(field.data_type())
        }
        D::Struct(fields) => fields
            .iter()
            .try_for_each(|field| check_type(field.data_type())),
        D::Map(entries, _) => match entries.data_type() {
            D::Struct(pair) if pair.len() == 2 => check_type(entries.data_type()),
            _ => Err("a map without keys and values"),
        },
        D::Dictionary(key, value) => {
            if !key.is_dictionary_key_type() {
                return Err("a dictionary whose keys are not integers");
            }
            check_type(value)
        }
        D::FixedSizeBinary(length) if *length < 0 => Err("a negative binary size"),
        D::Union(..)
        | D::RunEndEncoded(..)
        | D::ListView(_)
        | D::LargeListView(_)
        | D::Interval(_)
        | D::Duration(_) => Err("a column of a type that no table has"),
        _ => Ok(()),
    }
}
