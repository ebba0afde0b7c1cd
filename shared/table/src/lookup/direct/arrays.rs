//! Values as a column.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, PrimitiveArray,
    StringArray, StringViewArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType,
};

use super::Value;

/// The column of these values; `None` where one is none of the type.
pub(super) fn array(values: &[Value], data_type: &DataType) -> Option<ArrayRef> {
    Some(match data_type {
        DataType::Boolean => {
            let truths = values.iter().map(|value| {
                let byte = value.as_ref().map(|value| value.bytes().first().copied());
                byte.map(|byte| byte == Some(1))
            });
            Arc::new(truths.collect::<BooleanArray>())
        }
        DataType::Int32 => numbers::<Int32Type, 4>(values, data_type, i32::from_le_bytes)?,
        DataType::Date32 => numbers::<Date32Type, 4>(values, data_type, i32::from_le_bytes)?,
        DataType::Float32 => numbers::<Float32Type, 4>(values, data_type, f32::from_le_bytes)?,
        DataType::Float64 => numbers::<Float64Type, 8>(values, data_type, f64::from_le_bytes)?,
        DataType::Int64 => whole::<Int64Type>(values, data_type)?,
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            whole::<TimestampMillisecondType>(values, data_type)?
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            whole::<TimestampMicrosecondType>(values, data_type)?
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            whole::<TimestampNanosecondType>(values, data_type)?
        }
        DataType::Utf8 => Arc::new(StringArray::from_iter(texts(values)?)),
        DataType::Utf8View => Arc::new(StringViewArray::from_iter(texts(values)?)),
        DataType::Binary => Arc::new(BinaryArray::from_iter(bytes(values))),
        DataType::BinaryView => Arc::new(BinaryViewArray::from_iter(bytes(values))),
        DataType::FixedSizeBinary(width) => {
            let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes(values), *width);
            Arc::new(fixed.ok()?)
        }
        _ => return None,
    })
}

/// Decimals, which are stored in whole numbers or, the greatest byte first, in bytes.
pub(super) fn decimals(values: &[Value], data_type: &DataType, is_whole: bool) -> Option<ArrayRef> {
    let decimal = |bytes: &[u8]| {
        let mut wide = [0; 16];
        let width = bytes.len();
        if width == 0 {
            return None;
        }
        for (at, byte) in bytes.iter().enumerate() {
            let place = if is_whole { at } else { width - 1 - at };
            *wide.get_mut(place)? = *byte;
        }
        let unused = 128 - 8 * width as u32;
        Some((i128::from_le_bytes(wide) << unused) >> unused)
    };
    let values = values.iter().map(|value| match value {
        None => Some(None),
        Some(value) => decimal(value.bytes()).map(Some),
    });
    let values: Vec<Option<i128>> = values.collect::<Option<_>>()?;
    let array = PrimitiveArray::<Decimal128Type>::from_iter(values);
    Some(Arc::new(array.with_data_type(data_type.clone())))
}

fn whole<T: ArrowPrimitiveType<Native = i64>>(
    values: &[Value],
    data_type: &DataType,
) -> Option<ArrayRef> {
    numbers::<T, 8>(values, data_type, i64::from_le_bytes)
}

fn numbers<T: ArrowPrimitiveType, const WIDTH: usize>(
    values: &[Value],
    data_type: &DataType,
    number: fn([u8; WIDTH]) -> T::Native,
) -> Option<ArrayRef> {
    let values = values.iter().map(|value| match value {
        None => Some(None),
        Some(value) => Some(Some(number(value.bytes().try_into().ok()?))),
    });
    let values: Vec<Option<T::Native>> = values.collect::<Option<_>>()?;
    let array = PrimitiveArray::<T>::from_iter(values);
    Some(Arc::new(array.with_data_type(data_type.clone())))
}

fn bytes(values: &[Value]) -> impl Iterator<Item = Option<&[u8]>> {
    values
        .iter()
        .map(|value| value.as_ref().map(|value| value.bytes()))
}

fn texts(values: &[Value]) -> Option<Vec<Option<&str>>> {
    let texts = bytes(values).map(|bytes| match bytes {
        None => Some(None),
        Some(bytes) => std::str::from_utf8(bytes).ok().map(Some),
    });
    texts.collect()
}
