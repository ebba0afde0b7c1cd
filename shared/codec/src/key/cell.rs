//! One value of a key's column, and the one way that it becomes text.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, PrimitiveArray, StringArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use tidelake_core::limits::KEY_TEXT_BYTES_MAX;
use tidelake_schema::Primitive;

use super::TextColumn;
use crate::json::encode::{append_base64, quoted, write_string};
use crate::temporal::StampKind;
use crate::{decimal, temporal};

/// A value that may be part of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell<'a> {
    Boolean(bool),
    Integer(i64),
    /// Unscaled, and its scale.
    Decimal(i128, i8),
    Date(i32),
    Time(i64),
    Timestamp(i64, StampKind),
    /// UTF-8.
    Text(&'a [u8]),
    /// Its text, which other engines may have written in capitals; a key is in lower case.
    Uuid(&'a [u8]),
    Bytes(&'a [u8]),
}

impl Cell<'_> {
    /// The text of a key's only column.
    #[inline]
    fn append_plain(self, out: &mut Vec<u8>) {
        match self {
            Self::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Self::Integer(value) => {
                out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            }
            Self::Decimal(value, scale) => decimal::print(value, scale, out),
            Self::Date(days) => temporal::print_date(days.into(), out),
            Self::Time(micros) => temporal::print_time(micros, 1_000_000, out),
            Self::Timestamp(value, kind) => {
                let per_second = if kind.nanos { 1_000_000_000 } else { 1_000_000 };
                temporal::print_timestamp(value, per_second, kind.zoned, out);
            }
            Self::Text(text) => out.extend_from_slice(text),
            Self::Uuid(text) => lowered(out, |out| out.extend_from_slice(text)),
            Self::Bytes(bytes) => append_base64(bytes, out),
        }
    }

    /// The same as an element of an array.
    #[inline]
    fn append_json(self, out: &mut Vec<u8>) {
        match self {
            Self::Boolean(_) | Self::Integer(_) => self.append_plain(out),
            Self::Text(text) => write_string(text, out),
            Self::Uuid(text) => lowered(out, |out| write_string(text, out)),
            // Neither quotes nor what must be escaped is in them.
            _ => quoted(out, |out| self.append_plain(out)),
        }
    }
}

/// What is appended, in lower case.
#[inline]
fn lowered(out: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) {
    let from = out.len();
    append(out);
    out[from..].make_ascii_lowercase();
}

/// Appends the text of a key of `columns` cells.
#[inline]
pub(crate) fn append_key<'a>(
    mut cells: impl Iterator<Item = Cell<'a>>,
    columns: usize,
    out: &mut Vec<u8>,
) {
    if columns == 1 {
        if let Some(cell) = cells.next() {
            cell.append_plain(out);
        }
        return;
    }
    let mut separator = b'[';
    for cell in cells {
        out.push(separator);
        cell.append_json(out);
        separator = b',';
    }
    out.push(b']');
}

/// A key's column of a batch.
#[derive(Debug)]
pub(super) enum Column<'a> {
    Boolean(&'a BooleanArray),
    Byte(&'a [i8]),
    Short(&'a [i16]),
    Int(&'a [i32]),
    Long(&'a [i64]),
    Decimal(&'a [i128], i8),
    Date(&'a [i32]),
    Time(&'a [i64]),
    Timestamp(&'a [i64], StampKind),
    Text(&'a StringArray),
    Uuid(&'a StringArray),
    Bytes(&'a BinaryArray),
}

impl<'a> Column<'a> {
    /// Refuses an array that is not the table's own column of that type, or has a null.
    pub(super) fn new(array: &'a ArrayRef, primitive: Primitive) -> Result<Self, ArrowError> {
        let unlike = || {
            let found = array.data_type();
            ArrowError::SchemaError(format!(
                "a key column of {primitive} is wanted, not {found}"
            ))
        };
        if array.null_count() > 0 {
            return Err(ArrowError::InvalidArgumentError("a null in a key".into()));
        }
        let micros = |zoned| {
            let kind = StampKind {
                nanos: false,
                zoned,
            };
            values::<TimestampMicrosecondType>(array).map(|values| Self::Timestamp(values, kind))
        };
        let nanos = |zoned| {
            let kind = StampKind { nanos: true, zoned };
            values::<TimestampNanosecondType>(array).map(|values| Self::Timestamp(values, kind))
        };
        let column = match primitive {
            Primitive::Boolean => array.as_boolean_opt().map(Self::Boolean),
            Primitive::Byte => values::<Int8Type>(array).map(Self::Byte),
            Primitive::Short => values::<Int16Type>(array).map(Self::Short),
            Primitive::Int => values::<Int32Type>(array).map(Self::Int),
            Primitive::Long => values::<Int64Type>(array).map(Self::Long),
            Primitive::Decimal { scale, .. } => {
                values::<Decimal128Type>(array).map(|values| Self::Decimal(values, scale))
            }
            Primitive::Date => values::<Date32Type>(array).map(Self::Date),
            Primitive::Time => values::<Time64MicrosecondType>(array).map(Self::Time),
            Primitive::Timestamp => micros(false),
            Primitive::TimestampTz => micros(true),
            Primitive::TimestampNs => nanos(false),
            Primitive::TimestampTzNs => nanos(true),
            Primitive::String => array.as_string_opt::<i32>().map(Self::Text),
            Primitive::Uuid => array.as_string_opt::<i32>().map(Self::Uuid),
            Primitive::Fixed(_) | Primitive::Binary => {
                array.as_binary_opt::<i32>().map(Self::Bytes)
            }
            Primitive::Float | Primitive::Double => None,
        };
        column.ok_or_else(unlike)
    }

    #[inline]
    fn cell(&self, row: usize) -> Cell<'a> {
        match self {
            Self::Boolean(array) => Cell::Boolean(array.value(row)),
            Self::Byte(values) => Cell::Integer(values[row].into()),
            Self::Short(values) => Cell::Integer(values[row].into()),
            Self::Int(values) => Cell::Integer(values[row].into()),
            Self::Long(values) => Cell::Integer(values[row]),
            Self::Decimal(values, scale) => Cell::Decimal(values[row], *scale),
            Self::Date(values) => Cell::Date(values[row]),
            Self::Time(values) => Cell::Time(values[row]),
            Self::Timestamp(values, kind) => Cell::Timestamp(values[row], *kind),
            Self::Text(array) => Cell::Text(array.value(row).as_bytes()),
            Self::Uuid(array) => Cell::Uuid(array.value(row).as_bytes()),
            Self::Bytes(array) => Cell::Bytes(array.value(row)),
        }
    }
}

fn values<T: ArrowPrimitiveType>(array: &ArrayRef) -> Option<&[T::Native]> {
    let array: &PrimitiveArray<T> = array.as_primitive_opt()?;
    Some(array.values())
}

/// The key's columns of a batch.
#[derive(Debug)]
pub(super) struct Cells<'a>(Vec<Column<'a>>);

impl<'a> Cells<'a> {
    pub(super) fn new(columns: Vec<Column<'a>>) -> Self {
        Self(columns)
    }

    /// Appends the text of each row's key. Stops behind the first that is too large, and says which
    /// row that is.
    pub(super) fn write(&self, rows: Range<usize>, out: &mut TextColumn) -> Option<usize> {
        out.ends.reserve(rows.len());
        match self.0.as_slice() {
            // The usual key: no walk over columns, no match, for each row.
            [Column::Long(values)] => {
                let mut digits = itoa::Buffer::new();
                for value in &values[rows] {
                    out.data.extend_from_slice(digits.format(*value).as_bytes());
                    out.ends.push(out.data.len());
                }
                None
            }
            columns => {
                let mut start = out.data.len();
                for row in rows {
                    let cells = columns.iter().map(|column| column.cell(row));
                    append_key(cells, columns.len(), &mut out.data);
                    let end = out.data.len();
                    out.ends.push(end);
                    if end - start > KEY_TEXT_BYTES_MAX {
                        return Some(row);
                    }
                    start = end;
                }
                None
            }
        }
    }
}
