//! What an Arrow message claims, held against what it has: before anything is allocated for it.
//!
//! Arrow's own reader trusts lengths and panics on shapes that no writer makes. Everything that
//! decides about memory is checked here; what else may be wrong is left to Arrow's validation.

use arrow::datatypes::DataType;
use arrow::ipc::{CompressionType, RecordBatch};

use super::frames::StreamLimits;

const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// No LZ4 sequence stands for more than this many times its own bytes.
const LZ4_RATIO_MAX: usize = 255;

/// Checks a record batch's (or dictionary's) nodes and buffers against its body.
pub(super) fn check_batch(
    batch: &RecordBatch<'_>,
    body: &[u8],
    limits: &StreamLimits,
) -> Result<(), &'static str> {
    let rows_max = i64::try_from(limits.batch_rows_max).unwrap_or(i64::MAX);
    if !(0..=rows_max).contains(&batch.length()) {
        return Err("more rows in one batch than are allowed");
    }
    // A list's items may be many more than its rows, but each takes a bit of the body at least,
    // unless they are of type Null, which has no items to speak of.
    let items_max = i64::try_from(limits.decompressed_bytes_max.saturating_mul(8));
    let items_max = items_max.unwrap_or(i64::MAX).min(i64::from(i32::MAX));
    for node in batch.nodes().into_iter().flatten() {
        let length = node.length();
        if !(0..=items_max).contains(&length) || !(0..=length).contains(&node.null_count()) {
            return Err("a column's length is out of bounds");
        }
    }
    let compression = batch.compression().map(|compression| compression.codec());
    let mut total = 0_usize;
    let mut count = 0_usize;
    for buffer in batch.buffers().into_iter().flatten() {
        let bytes = usize::try_from(buffer.offset()).ok().and_then(|start| {
            let end = start.checked_add(usize::try_from(buffer.length()).ok()?)?;
            body.get(start..end)
        });
        let Some(bytes) = bytes else {
            return Err("a buffer lies outside of its message");
        };
        let size = match compression {
            Some(codec) => decompressed_bytes(bytes, codec)?,
            None => bytes.len(),
        };
        total = total.saturating_add(size);
        count += 1;
    }
    if total > limits.decompressed_bytes_max {
        return Err("more bytes in one batch than are allowed");
    }
    let variadic = batch.variadicBufferCounts().into_iter().flatten();
    let mut views = 0_usize;
    for buffers in variadic {
        let Ok(buffers) = usize::try_from(buffers) else {
            return Err("a negative buffer count");
        };
        views = views.saturating_add(buffers);
    }
    if views > count {
        Err("more view buffers than buffers")
    } else {
        Ok(())
    }
}

/// An upper bound of what a compressed buffer becomes.
fn decompressed_bytes(bytes: &[u8], codec: CompressionType) -> Result<usize, &'static str> {
    let Some((prefix, data)) = bytes.split_first_chunk::<8>() else {
        return if bytes.is_empty() {
            Ok(0)
        } else {
            Err("a compressed buffer is cut off")
        };
    };
    let claimed = match i64::from_le_bytes(*prefix) {
        -1 => return Ok(data.len()),
        claimed => usize::try_from(claimed).map_err(|_| "a negative buffer length")?,
    };
    if codec == CompressionType::LZ4_FRAME {
        // The decoder goes on to the frame's end, whatever length was claimed.
        Ok(claimed.max(lz4_bound(data)?.min(data.len().saturating_mul(LZ4_RATIO_MAX))))
    } else {
        Ok(claimed)
    }
}

/// What the blocks of an LZ4 frame can hold at most, by the size that its header gives them.
fn lz4_bound(data: &[u8]) -> Result<usize, &'static str> {
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
        total += if stored {
            length
        } else {
            block_max.min(length.saturating_mul(LZ4_RATIO_MAX))
        };
    }
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
