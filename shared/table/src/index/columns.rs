//! One key column as order-preserving values; the table of types stands in `spec.rs`.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray,
    LargeStringArray, StringArray, StringViewArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use tidelake_schema::Primitive;

const UUID_TEXT_BYTES: usize = 36;

/// Bytes that each value of the type takes; None where they differ.
pub(super) fn fixed_width(ty: Primitive) -> Option<usize> {
    Some(match ty {
        Primitive::Boolean | Primitive::Byte => 1,
        Primitive::Short => 2,
        Primitive::Int | Primitive::Date => 4,
        Primitive::Decimal {
            precision: 0..=9, ..
        } => 4,
        Primitive::Decimal {
            precision: 10..=18, ..
        } => 8,
        Primitive::Decimal { .. } | Primitive::Uuid => 16,
        Primitive::Fixed(bytes) => bytes as usize,
        Primitive::String | Primitive::Binary => return None,
        // Floating-point columns are refused as keys by the schema; their width is never asked for.
        Primitive::Float | Primitive::Double => return None,
        Primitive::Long
        | Primitive::Time
        | Primitive::Timestamp
        | Primitive::TimestampTz
        | Primitive::TimestampNs
        | Primitive::TimestampTzNs => 8,
    })
}

/// A key column as order-preserving values.
pub(super) enum Values<'a> {
    /// Integers that fit in so many bytes.
    Integers {
        bytes: usize,
        values: Vec<u128>,
    },
    /// Strings of exactly so many bytes.
    Fixed(Texts<'a>),
    Texts(Texts<'a>),
}

impl Values<'_> {
    /// The values as integers; they must be of 16 bytes at most.
    pub(super) fn into_integers(self, rows: usize) -> Vec<u128> {
        match self {
            Self::Integers { values, .. } => values,
            texts => {
                let mut keys = vec![0; rows];
                texts.shift_into(&mut keys);
                keys
            }
        }
    }

    /// Appends each value to its key, as the lower bytes.
    pub(super) fn shift_into(&self, keys: &mut [u128]) {
        match self {
            Self::Integers { bytes, values } => {
                for (key, value) in keys.iter_mut().zip(values) {
                    *key = (*key << (8 * bytes)) | value;
                }
            }
            Self::Fixed(values) | Self::Texts(values) => {
                for (row, key) in keys.iter_mut().enumerate() {
                    for byte in values.value(row) {
                        *key = (*key << 8) | u128::from(*byte);
                    }
                }
            }
        }
    }

    /// Appends a value's bytes where other columns follow.
    pub(super) fn write(&self, row: usize, heap: &mut Vec<u8>) {
        match self {
            Self::Texts(values) => {
                for part in values.value(row).split_inclusive(|byte| *byte == 0) {
                    heap.extend_from_slice(part);
                    if part.last() == Some(&0) {
                        heap.push(0xFF);
                    }
                }
                heap.extend_from_slice(&[0, 0]);
            }
            _ => self.write_last(row, heap),
        }
    }

    /// Appends a value's bytes where no column follows.
    pub(super) fn write_last(&self, row: usize, heap: &mut Vec<u8>) {
        match self {
            Self::Integers { bytes, values } => {
                heap.extend_from_slice(&values[row].to_be_bytes()[16 - bytes..]);
            }
            Self::Fixed(values) | Self::Texts(values) => {
                heap.extend_from_slice(values.value(row));
            }
        }
    }
}

/// A column of byte strings in any of Arrow's layouts.
pub(super) enum Texts<'a> {
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
    FixedSize(&'a FixedSizeBinaryArray),
}

impl<'a> Texts<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Utf8 => Self::Utf8(array.as_string()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_string()),
            DataType::Utf8View => Self::Utf8View(array.as_string_view()),
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::LargeBinary => Self::LargeBinary(array.as_binary()),
            DataType::BinaryView => Self::BinaryView(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => Self::FixedSize(array.as_fixed_size_binary()),
            _ => return None,
        })
    }

    #[inline]
    fn value(&self, row: usize) -> &[u8] {
        match self {
            Self::Utf8(array) => array.value(row).as_bytes(),
            Self::LargeUtf8(array) => array.value(row).as_bytes(),
            Self::Utf8View(array) => array.value(row).as_bytes(),
            Self::Binary(array) => array.value(row),
            Self::LargeBinary(array) => array.value(row),
            Self::BinaryView(array) => array.value(row),
            Self::FixedSize(array) => array.value(row),
        }
    }
}

/// A key column's values; what is wrong with them otherwise.
pub(super) fn values<'a>(ty: Primitive, array: &'a ArrayRef) -> Result<Values<'a>, String> {
    if array.null_count() > 0 {
        return Err("null in a key".to_owned());
    }
    let wrong = || format!("found Arrow type {}, expected {ty}", array.data_type());
    match ty {
        Primitive::Boolean => {
            let array = array.as_boolean_opt().ok_or_else(wrong)?;
            let values = array.values().iter().map(u128::from).collect();
            Ok(Values::Integers { bytes: 1, values })
        }
        Primitive::Byte => {
            let array = array.as_primitive_opt::<Int8Type>().ok_or_else(wrong)?;
            let values = array.values().iter();
            let values = values.map(|&v| u128::from(v as u8 ^ (1 << 7))).collect();
            Ok(Values::Integers { bytes: 1, values })
        }
        Primitive::Short => {
            let array = array.as_primitive_opt::<Int16Type>().ok_or_else(wrong)?;
            let values = array.values().iter();
            let values = values.map(|&v| u128::from(v as u16 ^ (1 << 15))).collect();
            Ok(Values::Integers { bytes: 2, values })
        }
        Primitive::Int | Primitive::Date => {
            let values = match array.data_type() {
                DataType::Int32 => array.as_primitive::<Int32Type>().values(),
                DataType::Date32 => array.as_primitive::<Date32Type>().values(),
                _ => return Err(wrong()),
            };
            let values = values.iter().map(|&v| flip32(v)).collect();
            Ok(Values::Integers { bytes: 4, values })
        }
        Primitive::Decimal { precision, .. } => {
            let array = array
                .as_primitive_opt::<Decimal128Type>()
                .ok_or_else(wrong)?;
            decimals(precision, array.values())
        }
        Primitive::Uuid => {
            let texts = Texts::of(array).ok_or_else(wrong)?;
            let values = (0..array.len()).map(|row| uuid(texts.value(row)));
            let values = values.collect::<Result<_, _>>()?;
            Ok(Values::Integers { bytes: 16, values })
        }
        Primitive::Fixed(bytes) => {
            let (values, bytes) = (Texts::of(array).ok_or_else(wrong)?, bytes as usize);
            match (0..array.len()).find(|&row| values.value(row).len() != bytes) {
                None => Ok(Values::Fixed(values)),
                Some(row) => {
                    let found = values.value(row).len();
                    Err(format!("{found} bytes, expected {ty}"))
                }
            }
        }
        Primitive::String | Primitive::Binary => {
            Ok(Values::Texts(Texts::of(array).ok_or_else(wrong)?))
        }
        Primitive::Float | Primitive::Double => Err(format!("{ty} cannot be a key")),
        _ => {
            let values = longs(ty, array).ok_or_else(wrong)?;
            let values = values.iter().map(|&v| flip64(v)).collect();
            Ok(Values::Integers { bytes: 8, values })
        }
    }
}

/// The values of a column of 64-bit integers, in the logical or the storage type.
fn longs(ty: Primitive, array: &ArrayRef) -> Option<&[i64]> {
    Some(match (ty, array.data_type()) {
        (
            Primitive::Long | Primitive::Time | Primitive::TimestampNs | Primitive::TimestampTzNs,
            DataType::Int64,
        ) => array.as_primitive::<Int64Type>().values(),
        (Primitive::Time, DataType::Time64(TimeUnit::Microsecond)) => {
            array.as_primitive::<Time64MicrosecondType>().values()
        }
        (
            Primitive::Timestamp | Primitive::TimestampTz,
            DataType::Timestamp(TimeUnit::Microsecond, _),
        ) => array.as_primitive::<TimestampMicrosecondType>().values(),
        (
            Primitive::TimestampNs | Primitive::TimestampTzNs,
            DataType::Timestamp(TimeUnit::Nanosecond, _),
        ) => array.as_primitive::<TimestampNanosecondType>().values(),
        _ => return None,
    })
}

fn decimals<'a>(precision: u8, unscaled: &[i128]) -> Result<Values<'a>, String> {
    let wide = |_| format!("a value of more than {precision} digits");
    let (bytes, values) = match precision {
        0..=9 => {
            let narrow = unscaled.iter().map(|&v| i32::try_from(v).map(flip32));
            (4, narrow.collect::<Result<_, _>>().map_err(wide)?)
        }
        10..=18 => {
            let narrow = unscaled.iter().map(|&v| i64::try_from(v).map(flip64));
            (8, narrow.collect::<Result<_, _>>().map_err(wide)?)
        }
        _ => {
            let flip = |&v: &i128| v as u128 ^ (1 << 127);
            (16, unscaled.iter().map(flip).collect())
        }
    };
    Ok(Values::Integers { bytes, values })
}

fn flip32(value: i32) -> u128 {
    u128::from(value as u32 ^ (1 << 31))
}

fn flip64(value: i64) -> u128 {
    u128::from(value as u64 ^ (1 << 63))
}

fn uuid(text: &[u8]) -> Result<u128, String> {
    if text.len() == UUID_TEXT_BYTES
        && let Ok(uuid) = uuid::Uuid::try_parse_ascii(text)
    {
        return Ok(uuid.as_u128());
    }
    Err("not a uuid".to_owned())
}
