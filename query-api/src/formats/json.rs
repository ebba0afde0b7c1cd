//! Any Arrow column as JSON.
//!
//! | Arrow | JSON |
//! | --- | --- |
//! | integers | number (64 bits too) |
//! | floats | number; NaN and infinities null, or text where that was asked for |
//! | decimals | string |
//! | dates, times, timestamps | string, RFC 3339; instants end in `Z` |
//! | intervals, durations | string, ISO 8601 |
//! | binaries | string, base64 |
//! | lists | array |
//! | structs | object |
//! | maps | object; an array of `{"key","value"}` where keys are no strings |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{Datelike, NaiveDateTime, Timelike};
use datafusion::arrow::array::{
    Array, ArrayAccessor, AsArray, GenericListArray, MapArray, OffsetSizeTrait, PrimitiveArray,
    StructArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, ArrowTemporalType, DataType, Date32Type, Date64Type,
    Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};

use super::{Encoder, End, OddFloats, intervals};
use crate::error::QueryError;

/// Writes the value of one row, `null` included.
pub(crate) type Writer<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// Rows as one JSON array of arrays, without the outer brackets.
pub(crate) fn write_arrays(
    batch: &RecordBatch,
    odd: OddFloats,
    out: &mut Vec<u8>,
) -> Result<(), QueryError> {
    let columns = batch.columns().iter();
    let writers = columns.map(|column| writer(column.as_ref(), odd));
    let writers = writers.collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        if row > 0 {
            out.push(b',');
        }
        out.push(b'[');
        for (place, write) in writers.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write(row, out);
        }
        out.push(b']');
    }
    Ok(())
}

/// One JSON object a line.
#[derive(Debug)]
pub(super) struct Ndjson {
    /// `{"a":`, `,"b":`, …
    pub(super) keys: Vec<Vec<u8>>,
    odd: OddFloats,
}

impl Ndjson {
    pub(super) fn new(schema: &SchemaRef, odd: OddFloats) -> Self {
        let keys = schema.fields().iter().enumerate().map(|(place, field)| {
            let mut key = vec![if place == 0 { b'{' } else { b',' }];
            write_text(field.name(), &mut key);
            key.push(b':');
            key
        });
        Self {
            keys: keys.collect(),
            odd,
        }
    }
}

impl Encoder for Ndjson {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, QueryError> {
        let columns = batch.columns().iter();
        let writers = columns.map(|column| writer(column.as_ref(), self.odd));
        let writers = writers.collect::<Result<Vec<_>, _>>()?;
        let mut out = Vec::with_capacity(batch.num_rows() * self.keys.len() * 16);
        for row in 0..batch.num_rows() {
            if writers.is_empty() {
                out.push(b'{');
            }
            for (key, write) in self.keys.iter().zip(&writers) {
                out.extend_from_slice(key);
                write(row, &mut out);
            }
            out.extend_from_slice(b"}\n");
        }
        Ok(out.into())
    }

    fn finish(&mut self, end: End) -> Result<Bytes, QueryError> {
        if !(end.truncated && end.late) {
            return Ok(Bytes::new());
        }
        let line = serde_json::json!({"truncated": {"rows": end.rows}});
        Ok(format!("{line}\n").into())
    }

    fn failed(&self, error: &QueryError) -> Option<Bytes> {
        let problem = tidelake_service::Problem::from(error);
        let line = serde_json::json!({
            "error": { "code": problem.code, "title": problem.title, "detail": problem.detail }
        });
        Some(format!("{line}\n").into())
    }
}

/// The writer of a column's values.
pub(crate) fn writer(array: &dyn Array, odd: OddFloats) -> Result<Writer<'_>, QueryError> {
    use DataType as T;
    use TimeUnit as U;
    Ok(match array.data_type() {
        T::Null => Box::new(|_, out| out.extend_from_slice(b"null")),
        T::Boolean => {
            let array = array.as_boolean();
            nullable(array, move |row, out| {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
            })
        }
        T::Int8 => integer::<Int8Type>(array),
        T::Int16 => integer::<Int16Type>(array),
        T::Int32 => integer::<Int32Type>(array),
        T::Int64 => integer::<Int64Type>(array),
        T::UInt8 => integer::<UInt8Type>(array),
        T::UInt16 => integer::<UInt16Type>(array),
        T::UInt32 => integer::<UInt32Type>(array),
        T::UInt64 => integer::<UInt64Type>(array),
        T::Float16 => primitive::<Float16Type>(array, move |value, out| {
            write_float(f32::from(value), f64::from(value), odd, out);
        }),
        T::Float32 => primitive::<Float32Type>(array, move |value, out| {
            write_float(value, f64::from(value), odd, out);
        }),
        T::Float64 => primitive::<Float64Type>(array, move |value, out| {
            write_float(value, value, odd, out);
        }),
        T::Decimal32(_, _) => decimal::<Decimal32Type>(array),
        T::Decimal64(_, _) => decimal::<Decimal64Type>(array),
        T::Decimal128(_, _) => decimal::<Decimal128Type>(array),
        T::Decimal256(_, _) => decimal::<Decimal256Type>(array),
        T::Date32 => date::<Date32Type>(array),
        T::Date64 => date::<Date64Type>(array),
        T::Time32(U::Second) => time::<Time32SecondType>(array),
        T::Time32(_) => time::<Time32MillisecondType>(array),
        T::Time64(U::Microsecond) => time::<Time64MicrosecondType>(array),
        T::Time64(_) => time::<Time64NanosecondType>(array),
        T::Timestamp(U::Second, zone) => timestamp::<TimestampSecondType>(array, zone.is_some()),
        T::Timestamp(U::Millisecond, zone) => {
            timestamp::<TimestampMillisecondType>(array, zone.is_some())
        }
        T::Timestamp(U::Microsecond, zone) => {
            timestamp::<TimestampMicrosecondType>(array, zone.is_some())
        }
        T::Timestamp(U::Nanosecond, zone) => {
            timestamp::<TimestampNanosecondType>(array, zone.is_some())
        }
        T::Utf8 => text(array.as_string::<i32>()),
        T::LargeUtf8 => text(array.as_string::<i64>()),
        T::Utf8View => text(array.as_string_view()),
        T::Binary => base64(array.as_binary::<i32>()),
        T::LargeBinary => base64(array.as_binary::<i64>()),
        T::BinaryView => base64(array.as_binary_view()),
        T::FixedSizeBinary(_) => base64(array.as_fixed_size_binary()),
        T::List(_) => list(array.as_list::<i32>(), odd)?,
        T::LargeList(_) => list(array.as_list::<i64>(), odd)?,
        T::FixedSizeList(_, size) => {
            let (list, size) = (
                array.as_fixed_size_list(),
                usize::try_from(*size).unwrap_or(0),
            );
            let values = writer(list.values().as_ref(), odd)?;
            nullable(list, move |row, out| {
                elements(row * size, (row + 1) * size, &values, out);
            })
        }
        T::Struct(_) => object(array.as_struct(), odd)?,
        T::Map(_, _) => map(array.as_map(), odd)?,
        T::Dictionary(_, values) => {
            let plain = cast(array, values)?;
            owned(plain, odd)
        }
        T::RunEndEncoded(_, values) => {
            let plain = cast(array, values.data_type())?;
            owned(plain, odd)
        }
        T::Interval(_) => nullable(array, move |row, out| match intervals::text(array, row) {
            Some(text) => write_text(&text, out),
            None => null(out),
        }),
        _ => displayed(array)?,
    })
}

/// For the rare types whose values must be converted first.
fn owned<'a>(array: datafusion::arrow::array::ArrayRef, odd: OddFloats) -> Writer<'a> {
    Box::new(move |row, out| match writer(array.as_ref(), odd) {
        Ok(write) => write(row, out),
        Err(_) => null(out),
    })
}

fn nullable<'a>(array: &'a dyn Array, write: impl Fn(usize, &mut Vec<u8>) + 'a) -> Writer<'a> {
    if array.null_count() == 0 {
        return Box::new(write);
    }
    Box::new(move |row, out| {
        if array.is_null(row) {
            null(out)
        } else {
            write(row, out)
        }
    })
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

fn primitive<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    write: impl Fn(T::Native, &mut Vec<u8>) + 'a,
) -> Writer<'a> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    nullable(array, move |row, out| write(array.value(row), out))
}

fn integer<'a, T: ArrowPrimitiveType>(array: &'a dyn Array) -> Writer<'a>
where
    T::Native: itoa::Integer,
{
    primitive::<T>(array, |value, out| {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    })
}

/// `value` is `wide`, and prints as its own type does.
fn write_float(value: impl serde::Serialize, wide: f64, odd: OddFloats, out: &mut Vec<u8>) {
    let text: &[u8] = match (odd, wide) {
        (_, wide) if wide.is_finite() => return write_number(&value, out),
        (OddFloats::Null, _) => b"null",
        (OddFloats::Text, f64::INFINITY) => b"\"Infinity\"",
        (OddFloats::Text, f64::NEG_INFINITY) => b"\"-Infinity\"",
        (OddFloats::Text, _) => b"\"NaN\"",
    };
    out.extend_from_slice(text);
}

fn write_number(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("numbers are JSON and memory takes them");
}

fn decimal<'a, T: DecimalType>(array: &'a dyn Array) -> Writer<'a> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    let (precision, scale) = match array.data_type() {
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => (*p, *s),
        _ => (0, 0),
    };
    nullable(array, move |row, out| {
        out.push(b'"');
        out.extend_from_slice(T::format_decimal(array.value(row), precision, scale).as_bytes());
        out.push(b'"');
    })
}

fn date<'a, T: ArrowTemporalType>(array: &'a dyn Array) -> Writer<'a>
where
    i64: From<T::Native>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    nullable(array, move |row, out| match array.value_as_date(row) {
        Some(date) => {
            out.push(b'"');
            write_date(&date, out);
            out.push(b'"');
        }
        None => null(out),
    })
}

fn time<'a, T: ArrowTemporalType>(array: &'a dyn Array) -> Writer<'a>
where
    i64: From<T::Native>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    nullable(array, move |row, out| match array.value_as_time(row) {
        Some(time) => {
            out.push(b'"');
            write_time(&time, out);
            out.push(b'"');
        }
        None => null(out),
    })
}

fn timestamp<'a, T: ArrowTemporalType>(array: &'a dyn Array, zoned: bool) -> Writer<'a>
where
    i64: From<T::Native>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    nullable(array, move |row, out| match array.value_as_datetime(row) {
        Some(moment) => {
            out.push(b'"');
            write_moment(&moment, out);
            out.extend_from_slice(if zoned { b"Z\"" } else { b"\"" });
        }
        None => null(out),
    })
}

fn write_moment(moment: &NaiveDateTime, out: &mut Vec<u8>) {
    write_date(&moment.date(), out);
    out.push(b'T');
    write_time(&moment.time(), out);
}

fn write_date(date: &impl Datelike, out: &mut Vec<u8>) {
    let year = date.year();
    if (0..10_000).contains(&year) {
        digits(year.unsigned_abs(), 4, out);
    } else {
        // RFC 3339 ends here; ISO 8601 goes on with a sign.
        out.push(if year < 0 { b'-' } else { b'+' });
        digits(year.unsigned_abs(), 4, out);
    }
    out.push(b'-');
    digits(date.month(), 2, out);
    out.push(b'-');
    digits(date.day(), 2, out);
}

/// No fraction, or 3, 6 or 9 digits, whichever is the shortest that is exact.
fn write_time(time: &impl Timelike, out: &mut Vec<u8>) {
    digits(time.hour(), 2, out);
    out.push(b':');
    digits(time.minute(), 2, out);
    out.push(b':');
    digits(time.second(), 2, out);
    let nanos = time.nanosecond() % 1_000_000_000;
    if nanos == 0 {
        return;
    }
    out.push(b'.');
    if nanos.is_multiple_of(1_000_000) {
        digits(nanos / 1_000_000, 3, out);
    } else if nanos.is_multiple_of(1_000) {
        digits(nanos / 1_000, 6, out);
    } else {
        digits(nanos, 9, out);
    }
}

fn digits(value: u32, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value);
    out.resize(out.len() + width.saturating_sub(text.len()), b'0');
    out.extend_from_slice(text.as_bytes());
}

fn text<'a, A>(array: A) -> Writer<'a>
where
    A: ArrayAccessor<Item = &'a str> + 'a,
{
    let nulls = array.nulls().cloned();
    Box::new(move |row, out| match &nulls {
        Some(nulls) if nulls.is_null(row) => null(out),
        _ => write_text(array.value(row), out),
    })
}

/// A JSON string.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text is JSON and memory takes it");
}

fn base64<'a, A>(array: A) -> Writer<'a>
where
    A: ArrayAccessor<Item = &'a [u8]> + 'a,
{
    let nulls = array.nulls().cloned();
    Box::new(move |row, out| match &nulls {
        Some(nulls) if nulls.is_null(row) => null(out),
        _ => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(array.value(row)).as_bytes());
            out.push(b'"');
        }
    })
}

fn elements(begin: usize, end: usize, write: &Writer<'_>, out: &mut Vec<u8>) {
    out.push(b'[');
    for place in begin..end {
        if place > begin {
            out.push(b',');
        }
        write(place, out);
    }
    out.push(b']');
}

fn list<O: OffsetSizeTrait>(
    array: &GenericListArray<O>,
    odd: OddFloats,
) -> Result<Writer<'_>, QueryError> {
    let values = writer(array.values().as_ref(), odd)?;
    let offsets = array.value_offsets();
    Ok(nullable(array, move |row, out| {
        elements(
            offsets[row].as_usize(),
            offsets[row + 1].as_usize(),
            &values,
            out,
        );
    }))
}

fn object(array: &StructArray, odd: OddFloats) -> Result<Writer<'_>, QueryError> {
    let mut members = Vec::with_capacity(array.num_columns());
    for (field, column) in array.fields().iter().zip(array.columns()) {
        let mut key = Vec::new();
        write_text(field.name(), &mut key);
        key.push(b':');
        members.push((key, writer(column.as_ref(), odd)?));
    }
    Ok(nullable(array, move |row, out| {
        out.push(b'{');
        for (place, (key, write)) in members.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            write(row, out);
        }
        out.push(b'}');
    }))
}

fn map(array: &MapArray, odd: OddFloats) -> Result<Writer<'_>, QueryError> {
    let keys = writer(array.keys().as_ref(), odd)?;
    let values = writer(array.values().as_ref(), odd)?;
    let offsets = array.value_offsets();
    let by_name = matches!(
        array.keys().data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    Ok(nullable(array, move |row, out| {
        out.push(if by_name { b'{' } else { b'[' });
        let (begin, end) = (offsets[row].as_usize(), offsets[row + 1].as_usize());
        for place in begin..end {
            if place > begin {
                out.push(b',');
            }
            if by_name {
                keys(place, out);
                out.push(b':');
                values(place, out);
            } else {
                out.extend_from_slice(b"{\"key\":");
                keys(place, out);
                out.extend_from_slice(b",\"value\":");
                values(place, out);
                out.push(b'}');
            }
        }
        out.push(if by_name { b'}' } else { b']' });
    }))
}

/// Types that have no better text than Arrow's own.
fn displayed(array: &dyn Array) -> Result<Writer<'_>, QueryError> {
    const OPTIONS: FormatOptions<'static> =
        FormatOptions::new().with_duration_format(DurationFormat::ISO8601);
    let formatter = ArrayFormatter::try_new(array, &OPTIONS)?;
    Ok(nullable(array, move |row, out| {
        write_text(&formatter.value(row).to_string(), out);
    }))
}
