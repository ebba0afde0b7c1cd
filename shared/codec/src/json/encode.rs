//! Rows as JSON text.
//!
//! | Arrow | JSON |
//! | --- | --- |
//! | Boolean, integers | `true`, number (64-bit ones too) |
//! | floats | the shortest number that reads back; NaN and infinite: `null` |
//! | decimals | string with all digits of the scale |
//! | Date, Time, Timestamp | string, RFC 3339; with a zone: `Z` |
//! | strings | string |
//! | binary | string: base64, standard alphabet, padded |
//! | Struct, lists | object, array |
//! | Map | object if the key is a string, else array of `{"key":…,"value":…}` |
//! | Dictionary | as its values |
//! | others (Interval, Duration, Union, …) | string, as Arrow prints them |
//!
//! What the decoder of the same table takes comes back as the same values.

use std::io::Write;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, GenericStringArray, OffsetSizeTrait, RecordBatch,
    StringViewArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Schema, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::CodecError;
use crate::{decimal, temporal};

/// The shape of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonStyle {
    /// `{"a":1,"b":null}` and a newline each: NDJSON.
    Objects,
    /// `[1,null]`, with commas between rows, none around: `[` and `]` make it a JSON array.
    Arrays,
}

/// Appends every row of `batch` to `out`; `schema` names the columns, by position.
pub fn write_rows(
    batch: &RecordBatch,
    schema: &Schema,
    out: &mut Vec<u8>,
    style: JsonStyle,
) -> Result<(), CodecError> {
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        columns.push((name_token(field.name()), Encoder::new(column)?));
    }
    for row in 0..batch.num_rows() {
        match style {
            JsonStyle::Objects => {
                write_object(&columns, row, out)?;
                out.push(b'\n');
            }
            JsonStyle::Arrays => {
                if row > 0 {
                    out.push(b',');
                }
                out.push(b'[');
                for (index, (_, encoder)) in columns.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    encoder.write(row, out)?;
                }
                out.push(b']');
            }
        }
    }
    Ok(())
}

/// `"name":`, escaped.
fn name_token(name: &str) -> Vec<u8> {
    let mut token = Vec::with_capacity(name.len() + 3);
    write_string(name.as_bytes(), &mut token);
    token.push(b':');
    token
}

fn write_object(
    fields: &[(Vec<u8>, Encoder)],
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    out.push(b'{');
    for (index, (name, encoder)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        encoder.write(row, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// How one column's values are written; types are looked at once, not for each row.
struct Encoder {
    nulls: Option<NullBuffer>,
    write: Writer,
}

type Writer = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), ArrowError>>;

impl Encoder {
    fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(Self {
            nulls: array.logical_nulls(),
            write: writer(array)?,
        })
    }

    #[inline]
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        (self.write)(row, out)
    }
}

fn writer(array: &ArrayRef) -> Result<Writer, ArrowError> {
    use DataType as D;
    use TimeUnit as U;
    Ok(match array.data_type() {
        D::Null => boxed(|_, out| out.extend_from_slice(b"null")),
        D::Boolean => {
            let array: BooleanArray = array.as_boolean().clone();
            boxed(move |row, out| {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
            })
        }
        D::Int8 => integer::<Int8Type>(array),
        D::Int16 => integer::<Int16Type>(array),
        D::Int32 => integer::<Int32Type>(array),
        D::Int64 => integer::<Int64Type>(array),
        D::UInt8 => integer::<UInt8Type>(array),
        D::UInt16 => integer::<UInt16Type>(array),
        D::UInt32 => integer::<UInt32Type>(array),
        D::UInt64 => integer::<UInt64Type>(array),
        D::Float16 => native::<Float16Type>(array, |value, out| {
            write_float(value.to_f32(), value.is_finite(), out);
        }),
        D::Float32 => native::<Float32Type>(array, |v, out| write_float(v, v.is_finite(), out)),
        D::Float64 => native::<Float64Type>(array, |v, out| write_float(v, v.is_finite(), out)),
        D::Decimal32(_, scale) => decimal_writer::<Decimal32Type>(array, *scale),
        D::Decimal64(_, scale) => decimal_writer::<Decimal64Type>(array, *scale),
        D::Decimal128(_, scale) => decimal_writer::<Decimal128Type>(array, *scale),
        D::Decimal256(..) => {
            let array = array.as_primitive::<Decimal256Type>().clone();
            boxed(move |row, out| write_string(array.value_as_string(row).as_bytes(), out))
        }
        D::Date32 => native::<Date32Type>(array, |days, out| {
            quoted(out, |out| temporal::print_date(days.into(), out));
        }),
        D::Date64 => native::<Date64Type>(array, |millis, out| {
            quoted(out, |out| {
                temporal::print_date(millis.div_euclid(86_400_000), out)
            });
        }),
        D::Time32(U::Second) => time::<Time32SecondType>(array, 1),
        D::Time32(_) => time::<Time32MillisecondType>(array, 1000),
        D::Time64(U::Microsecond) => time::<Time64MicrosecondType>(array, 1_000_000),
        D::Time64(_) => time::<Time64NanosecondType>(array, 1_000_000_000),
        D::Timestamp(unit, zone) => {
            let zoned = zone.is_some();
            match unit {
                U::Second => timestamp::<TimestampSecondType>(array, 1, zoned),
                U::Millisecond => timestamp::<TimestampMillisecondType>(array, 1000, zoned),
                U::Microsecond => timestamp::<TimestampMicrosecondType>(array, 1_000_000, zoned),
                U::Nanosecond => timestamp::<TimestampNanosecondType>(array, 1_000_000_000, zoned),
            }
        }
        D::Utf8 => text::<i32>(array),
        D::LargeUtf8 => text::<i64>(array),
        D::Utf8View => {
            let array: StringViewArray = array.as_string_view().clone();
            boxed(move |row, out| write_string(array.value(row).as_bytes(), out))
        }
        D::Binary => {
            let array = array.as_binary::<i32>().clone();
            boxed(move |row, out| write_base64(array.value(row), out))
        }
        D::LargeBinary => {
            let array = array.as_binary::<i64>().clone();
            boxed(move |row, out| write_base64(array.value(row), out))
        }
        D::BinaryView => {
            let array = array.as_binary_view().clone();
            boxed(move |row, out| write_base64(array.value(row), out))
        }
        D::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary().clone();
            boxed(move |row, out| write_base64(array.value(row), out))
        }
        _ => return nested_writer(array),
    })
}

fn nested_writer(array: &ArrayRef) -> Result<Writer, ArrowError> {
    Ok(match array.data_type() {
        DataType::Struct(fields) => {
            let mut children = Vec::with_capacity(fields.len());
            for (field, child) in fields.iter().zip(array.as_struct().columns()) {
                children.push((name_token(field.name()), Encoder::new(child)?));
            }
            Box::new(move |row, out| write_object(&children, row, out))
        }
        DataType::List(_) => list::<i32>(array)?,
        DataType::LargeList(_) => list::<i64>(array)?,
        DataType::FixedSizeList(_, length) => {
            let element = Encoder::new(array.as_fixed_size_list().values())?;
            let array = array.as_fixed_size_list().clone();
            let length = usize::try_from(*length).unwrap_or_default();
            Box::new(move |row, out| {
                let start = usize::try_from(array.value_offset(row)).unwrap_or_default();
                write_elements(&element, start..start + length, out)
            })
        }
        DataType::Map(..) => map(array)?,
        DataType::Dictionary(..) => {
            let values = Encoder::new(array.as_any_dictionary().values())?;
            let keys = array.as_any_dictionary().normalized_keys();
            Box::new(move |row, out| values.write(keys[row], out))
        }
        _ => {
            let array = ArrayRef::clone(array);
            // Checks once that Arrow can print the type at all.
            ArrayFormatter::try_new(&array, &FormatOptions::default())?;
            Box::new(move |row, out| {
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(&array, &options)?;
                write_string(formatter.value(row).try_to_string()?.as_bytes(), out);
                Ok(())
            })
        }
    })
}

fn boxed(write: impl Fn(usize, &mut Vec<u8>) + 'static) -> Writer {
    Box::new(move |row, out| {
        write(row, out);
        Ok(())
    })
}

fn native<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    write: impl Fn(T::Native, &mut Vec<u8>) + 'static,
) -> Writer {
    let array = array.as_primitive::<T>().clone();
    boxed(move |row, out| write(array.value(row), out))
}

fn integer<T: ArrowPrimitiveType>(array: &ArrayRef) -> Writer
where
    T::Native: itoa::Integer,
{
    native::<T>(array, |value, out| {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    })
}

fn decimal_writer<T: ArrowPrimitiveType>(array: &ArrayRef, scale: i8) -> Writer
where
    T::Native: Into<i128>,
{
    native::<T>(array, move |value, out| {
        quoted(out, |out| decimal::print(value.into(), scale, out));
    })
}

fn time<T: ArrowPrimitiveType>(array: &ArrayRef, per_second: i64) -> Writer
where
    T::Native: Into<i64>,
{
    native::<T>(array, move |value, out| {
        quoted(out, |out| {
            temporal::print_time(value.into(), per_second, out)
        });
    })
}

fn timestamp<T: ArrowPrimitiveType>(array: &ArrayRef, per_second: i64, zoned: bool) -> Writer
where
    T::Native: Into<i64>,
{
    native::<T>(array, move |value, out| {
        quoted(out, |out| {
            temporal::print_timestamp(value.into(), per_second, zoned, out)
        });
    })
}

fn text<O: OffsetSizeTrait>(array: &ArrayRef) -> Writer {
    let array: GenericStringArray<O> = array.as_string::<O>().clone();
    boxed(move |row, out| write_string(array.value(row).as_bytes(), out))
}

fn list<O: OffsetSizeTrait>(array: &ArrayRef) -> Result<Writer, ArrowError> {
    let array = array.as_list::<O>().clone();
    let element = Encoder::new(array.values())?;
    Ok(Box::new(move |row, out| {
        let offsets = array.value_offsets();
        write_elements(
            &element,
            offsets[row].as_usize()..offsets[row + 1].as_usize(),
            out,
        )
    }))
}

fn write_elements(
    element: &Encoder,
    range: std::ops::Range<usize>,
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    out.push(b'[');
    let start = range.start;
    for row in range {
        if row > start {
            out.push(b',');
        }
        element.write(row, out)?;
    }
    out.push(b']');
    Ok(())
}

fn map(array: &ArrayRef) -> Result<Writer, ArrowError> {
    let array = array.as_map().clone();
    let (keys, values) = (Encoder::new(array.keys())?, Encoder::new(array.values())?);
    let as_object = matches!(
        array.key_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    Ok(Box::new(move |row, out| {
        let offsets = array.value_offsets();
        let range = offsets[row] as usize..offsets[row + 1] as usize;
        let start = range.start;
        out.push(if as_object { b'{' } else { b'[' });
        for row in range {
            if row > start {
                out.push(b',');
            }
            if as_object {
                keys.write(row, out)?;
                out.push(b':');
                values.write(row, out)?;
            } else {
                out.extend_from_slice(b"{\"key\":");
                keys.write(row, out)?;
                out.extend_from_slice(b",\"value\":");
                values.write(row, out)?;
                out.push(b'}');
            }
        }
        out.push(if as_object { b'}' } else { b']' });
        Ok(())
    }))
}

/// Debug formatting is the shortest that reads back, with an exponent where that is shorter.
fn write_float(value: impl std::fmt::Debug, finite: bool, out: &mut Vec<u8>) {
    if finite {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{value:?}");
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    quoted(out, |out| append_base64(bytes, out));
}

/// Appends the text that stands for `bytes`, quotes aside.
pub(crate) fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).expect("a length that memory holds");
    out.resize(start + length, 0);
    STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("room for exactly that text");
}

pub(crate) fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Writes UTF-8 text as a string.
pub(crate) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
    {
        out.extend_from_slice(&rest[..at]);
        let escape = match rest[at] {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            other => {
                let hex = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(hex[usize::from(other >> 4)]);
                out.push(hex[usize::from(other & 15)]);
                rest = &rest[at + 1..];
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escape]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
