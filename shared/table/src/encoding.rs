//! Chooses how a column is encoded, from a sample of its data.
//!
//! | what the sample shows | encoding |
//! | --- | --- |
//! | few distinct values | dictionary |
//! | integers, dates, times: neighbours close together | DELTA_BINARY_PACKED |
//! | floats with many values | BYTE_STREAM_SPLIT |
//! | strings, bytes with many values | DELTA_LENGTH_BYTE_ARRAY |
//! | anything else | PLAIN |
//!
//! A dictionary that does not pay costs twice: hashing every value, then writing them plain. So the
//! choice falls before the first value is written. zstd runs over all of it.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use parquet::basic::Encoding;

/// Values looked at: enough to tell 100 distinct values from 10,000.
const SAMPLE_VALUES: usize = 4096;
/// A dictionary pays where at most one in so many values is new.
const DISTINCT_SHARE: usize = 4;
/// Bits of a delta up to which packing deltas beats plain values under zstd.
const DELTA_BITS_MAX: u32 = 40;

/// The choice for one leaf column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Dictionary,
    Plain(Encoding),
}

/// Chooses from the first values of a leaf column.
pub(crate) fn choose(column: &ArrayRef) -> Choice {
    let sample = column.slice(0, column.len().min(SAMPLE_VALUES));
    match sample.data_type() {
        DataType::Boolean => Choice::Plain(Encoding::PLAIN),
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(..) => integers(&sample),
        DataType::Float32 | DataType::Float64 => by_distinct(&sample, Encoding::BYTE_STREAM_SPLIT),
        DataType::Utf8 | DataType::Binary => {
            by_distinct(&sample, Encoding::DELTA_LENGTH_BYTE_ARRAY)
        }
        _ => Choice::Dictionary,
    }
}

fn integers(sample: &ArrayRef) -> Choice {
    let Ok(values) = cast(sample, &DataType::Int64) else {
        return Choice::Plain(Encoding::PLAIN);
    };
    let values = values.as_primitive::<Int64Type>();
    let values: Vec<i64> = values.iter().flatten().collect();
    let distinct = values.iter().collect::<HashSet<_>>().len();
    // Wrapping, as the encoding itself does.
    let deltas: Vec<i64> = values
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    let spread = match (deltas.iter().min(), deltas.iter().max()) {
        (Some(&min), Some(&max)) => max.wrapping_sub(min) as u64,
        _ => 0,
    };
    let delta_bits = u64::BITS - spread.leading_zeros();
    let distinct_bits = usize::BITS - distinct.leading_zeros();
    let few = distinct.saturating_mul(DISTINCT_SHARE) <= values.len();
    if few && distinct_bits < delta_bits {
        Choice::Dictionary
    } else if delta_bits <= DELTA_BITS_MAX {
        Choice::Plain(Encoding::DELTA_BINARY_PACKED)
    } else if few {
        Choice::Dictionary
    } else {
        Choice::Plain(Encoding::PLAIN)
    }
}

fn by_distinct(sample: &ArrayRef, otherwise: Encoding) -> Choice {
    let distinct = match sample.data_type() {
        DataType::Utf8 => sample
            .as_string::<i32>()
            .iter()
            .flatten()
            .collect::<HashSet<_>>()
            .len(),
        DataType::Binary => sample
            .as_binary::<i32>()
            .iter()
            .flatten()
            .collect::<HashSet<_>>()
            .len(),
        _ => match cast(sample, &DataType::Float64) {
            Ok(floats) => floats
                .as_primitive::<arrow::datatypes::Float64Type>()
                .iter()
                .flatten()
                .map(f64::to_bits)
                .collect::<HashSet<_>>()
                .len(),
            Err(_) => sample.len(),
        },
    };
    if distinct.saturating_mul(DISTINCT_SHARE) <= sample.len() - sample.null_count() {
        Choice::Dictionary
    } else {
        Choice::Plain(otherwise)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn chosen(column: impl Array + 'static) -> Choice {
        choose(&(Arc::new(column) as ArrayRef))
    }

    #[test]
    fn the_data_decides() {
        let rising = Int64Array::from_iter_values((0..10_000).map(|i| 1_700_000_000_000 + i * 7));
        assert_eq!(chosen(rising), Choice::Plain(Encoding::DELTA_BINARY_PACKED));
        let same = Int64Array::from_iter_values((0..10_000).map(|_| 5));
        assert_eq!(chosen(same), Choice::Plain(Encoding::DELTA_BINARY_PACKED));
        let codes = Int64Array::from_iter_values((0..10_000).map(|i| (i * 7919 % 13) << 40));
        assert_eq!(chosen(codes), Choice::Dictionary);
        // Not a plain multiple: its wrapped deltas would all be the same, and pack to nothing.
        let mix = |i: i64| (i ^ (i << 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64);
        let random = (0..10_000).map(|i| mix(mix(i) >> 11));
        assert_eq!(
            chosen(Int64Array::from_iter_values(random)),
            Choice::Plain(Encoding::PLAIN)
        );
        let names = StringArray::from_iter_values((0..9000).map(|i| format!("n{}", i % 10)));
        assert_eq!(chosen(names), Choice::Dictionary);
        let unique = StringArray::from_iter_values((0..9000).map(|i| format!("n{i}")));
        assert_eq!(
            chosen(unique),
            Choice::Plain(Encoding::DELTA_LENGTH_BYTE_ARRAY)
        );
        let floats = Float64Array::from_iter_values((0..9000).map(|i| f64::from(i).sqrt()));
        assert_eq!(chosen(floats), Choice::Plain(Encoding::BYTE_STREAM_SPLIT));
    }

    #[test]
    fn empty_and_all_null_columns_are_fine() {
        choose(&(Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef));
        choose(&(Arc::new(StringArray::from(vec![None::<&str>; 10])) as ArrayRef));
    }
}
