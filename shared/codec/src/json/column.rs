//! Growing columns of one table's types, and their way back.
//!
//! A column can be cut back to any earlier length, which is how a refused record leaves nothing
//! behind: the length before it is all there is to remember. A column's length is that of its null
//! buffer, which is appended to last.

use std::collections::HashMap;

use arrow::array::{BooleanBufferBuilder, NullBufferBuilder};
use tidelake_schema::{Field, Primitive, Type};

use crate::key::Cell;
use crate::temporal::StampKind;

#[derive(Debug)]
pub(super) struct Column {
    pub(super) required: bool,
    /// Bytes of a value, without those that only some values have.
    pub(super) value_bytes: usize,
    pub(super) nulls: NullBufferBuilder,
    pub(super) values: Values,
}

#[derive(Debug)]
pub(super) enum Values {
    Boolean(BooleanBufferBuilder),
    Byte(Vec<i8>),
    Short(Vec<i16>),
    Int(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp {
        values: Vec<i64>,
        kind: StampKind,
    },
    String(Bytes),
    Uuid(Bytes),
    Fixed {
        values: Bytes,
        length: usize,
    },
    Binary(Bytes),
    Struct(Record),
    List {
        offsets: Vec<i32>,
        element: Box<Column>,
    },
    Map {
        offsets: Vec<i32>,
        key: Box<Column>,
        value: Box<Column>,
        text_keys: bool,
    },
    /// Any JSON is read over, and nothing is kept.
    Skipped,
}

/// Values of any length: all their bytes, and where each begins.
#[derive(Debug)]
pub(super) struct Bytes {
    pub(super) data: Vec<u8>,
    pub(super) offsets: Vec<i32>,
}

/// The fields of a struct, or of the table itself.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) slots: Vec<Slot>,
    pub(super) by_name: HashMap<Box<[u8]>, usize>,
    /// The slot that records began with of late.
    pub(super) first: usize,
    /// Bytes of a row, without those that only some rows have.
    pub(super) row_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Box<str>,
    /// The name as JSON usually spells it, quotes included.
    pub(super) token: Box<[u8]>,
    /// The slot that followed this one of late.
    pub(super) next: usize,
    pub(super) column: Column,
}

impl Column {
    pub(super) fn new(required: bool, ty: &Type) -> Self {
        let values = match ty {
            Type::Primitive(primitive) => Values::new(*primitive),
            Type::Struct(fields) => Values::Struct(Record::new(fields)),
            Type::List(list) => Values::List {
                offsets: vec![0],
                element: Box::new(Self::new(list.element_required, &list.element)),
            },
            Type::Map(map) => Values::Map {
                offsets: vec![0],
                key: Box::new(Self::new(true, &map.key)),
                value: Box::new(Self::new(map.value_required, &map.value)),
                text_keys: matches!(
                    map.key,
                    Type::Primitive(Primitive::String | Primitive::Uuid)
                ),
            },
        };
        Self {
            required,
            value_bytes: values.value_bytes(),
            nulls: NullBufferBuilder::new(0),
            values,
        }
    }

    /// A column whose values are read over.
    pub(super) fn skipped() -> Self {
        Self {
            required: false,
            value_bytes: 0,
            nulls: NullBufferBuilder::new(0),
            values: Values::Skipped,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Appends a null, also to a required column: below a null struct there is nothing else.
    pub(super) fn append_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append(false),
            Values::Byte(values) => values.push(0),
            Values::Short(values) => values.push(0),
            Values::Int(values) | Values::Date(values) => values.push(0),
            Values::Long(values) | Values::Time(values) | Values::Timestamp { values, .. } => {
                values.push(0);
            }
            Values::Float(values) => values.push(0.0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal { values, .. } => values.push(0),
            Values::String(values)
            | Values::Uuid(values)
            | Values::Fixed { values, .. }
            | Values::Binary(values) => values.repeat_offset(),
            Values::Struct(record) => {
                record
                    .slots
                    .iter_mut()
                    .for_each(|slot| slot.column.append_null());
            }
            Values::List { offsets, .. } | Values::Map { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or_default());
            }
            // Only its length counts, which costs no memory while nothing is null.
            Values::Skipped => return self.nulls.append_non_null(),
        }
        self.nulls.append_null();
    }

    /// Cuts back to `rows`, whatever half-appended value stands behind them.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.nulls.truncate(rows);
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Byte(values) => values.truncate(rows),
            Values::Short(values) => values.truncate(rows),
            Values::Int(values) | Values::Date(values) => values.truncate(rows),
            Values::Long(values) | Values::Time(values) | Values::Timestamp { values, .. } => {
                values.truncate(rows);
            }
            Values::Float(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::String(values)
            | Values::Uuid(values)
            | Values::Fixed { values, .. }
            | Values::Binary(values) => values.truncate(rows),
            Values::Struct(record) => record.truncate(rows),
            Values::List { offsets, element } => element.truncate(cut(offsets, rows)),
            Values::Map {
                offsets,
                key,
                value,
                ..
            } => {
                let entries = cut(offsets, rows);
                key.truncate(entries);
                value.truncate(entries);
            }
            Values::Skipped => {}
        }
    }

    /// Bytes allocated.
    pub(super) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Boolean(values) => values.capacity() / 8,
            Values::Byte(values) => values.capacity(),
            Values::Short(values) => 2 * values.capacity(),
            Values::Int(values) | Values::Date(values) => 4 * values.capacity(),
            Values::Long(values) | Values::Time(values) | Values::Timestamp { values, .. } => {
                8 * values.capacity()
            }
            Values::Float(values) => 4 * values.capacity(),
            Values::Double(values) => 8 * values.capacity(),
            Values::Decimal { values, .. } => 16 * values.capacity(),
            Values::String(values)
            | Values::Uuid(values)
            | Values::Fixed { values, .. }
            | Values::Binary(values) => values.data.capacity() + 4 * values.offsets.capacity(),
            Values::Struct(record) => record.bytes(),
            Values::List { offsets, element } => 4 * offsets.capacity() + element.bytes(),
            Values::Map {
                offsets,
                key,
                value,
                ..
            } => 4 * offsets.capacity() + key.bytes() + value.bytes(),
            Values::Skipped => 0,
        };
        values + self.nulls.allocated_size()
    }

    /// Appends bytes that two values share exactly if they are equal.
    pub(super) fn identity(&self, row: usize, out: &mut Vec<u8>) {
        let valid = self.nulls.is_valid(row);
        out.push(u8::from(valid));
        if !valid {
            return;
        }
        match &self.values {
            Values::Boolean(values) => out.push(u8::from(values.get_bit(row))),
            Values::Byte(values) => out.extend(values[row].to_le_bytes()),
            Values::Short(values) => out.extend(values[row].to_le_bytes()),
            Values::Int(values) | Values::Date(values) => out.extend(values[row].to_le_bytes()),
            Values::Long(values) | Values::Time(values) | Values::Timestamp { values, .. } => {
                out.extend(values[row].to_le_bytes());
            }
            // Adding zero makes -0 and 0 one.
            Values::Float(values) => out.extend((values[row] + 0.0).to_le_bytes()),
            Values::Double(values) => out.extend((values[row] + 0.0).to_le_bytes()),
            Values::Decimal { values, .. } => out.extend(values[row].to_le_bytes()),
            Values::String(values)
            | Values::Uuid(values)
            | Values::Fixed { values, .. }
            | Values::Binary(values) => {
                let value = values.get(row);
                out.extend(value.len().to_le_bytes());
                out.extend(value);
            }
            Values::Struct(record) => {
                record
                    .slots
                    .iter()
                    .for_each(|slot| slot.column.identity(row, out));
            }
            Values::List { offsets, element } => {
                let range = between(offsets, row);
                out.extend(range.len().to_le_bytes());
                range.for_each(|row| element.identity(row, out));
            }
            Values::Map {
                offsets,
                key,
                value,
                ..
            } => {
                let range = between(offsets, row);
                out.extend(range.len().to_le_bytes());
                range.for_each(|row| {
                    key.identity(row, out);
                    value.identity(row, out);
                });
            }
            Values::Skipped => {}
        }
    }

    /// A value of a primary key's column.
    pub(super) fn cell(&self, row: usize) -> Option<Cell<'_>> {
        Some(match &self.values {
            Values::Boolean(values) => Cell::Boolean(values.get_bit(row)),
            Values::Byte(values) => Cell::Integer(values[row].into()),
            Values::Short(values) => Cell::Integer(values[row].into()),
            Values::Int(values) => Cell::Integer(values[row].into()),
            Values::Long(values) => Cell::Integer(values[row]),
            Values::Decimal { values, scale, .. } => Cell::Decimal(values[row], *scale),
            Values::Date(values) => Cell::Date(values[row]),
            Values::Time(values) => Cell::Time(values[row]),
            Values::Timestamp { values, kind } => Cell::Timestamp(values[row], *kind),
            Values::String(values) | Values::Uuid(values) => Cell::Text(values.get(row)),
            Values::Fixed { values, .. } | Values::Binary(values) => Cell::Bytes(values.get(row)),
            Values::Float(_)
            | Values::Double(_)
            | Values::Struct(_)
            | Values::List { .. }
            | Values::Map { .. }
            | Values::Skipped => return None,
        })
    }
}

impl Bytes {
    pub(super) fn new() -> Self {
        Self {
            data: Vec::new(),
            offsets: vec![0],
        }
    }

    /// Ends the value whose bytes were appended to `data`; false where offsets cannot count so far.
    #[inline]
    #[must_use]
    pub(super) fn close(&mut self) -> bool {
        match i32::try_from(self.data.len()) {
            Ok(end) => {
                self.offsets.push(end);
                true
            }
            Err(_) => false,
        }
    }

    /// Where the value that is being appended begins.
    #[inline]
    pub(super) fn open(&self) -> usize {
        self.offsets.last().map_or(0, |end| *end as usize)
    }

    pub(super) fn get(&self, row: usize) -> &[u8] {
        &self.data[between(&self.offsets, row)]
    }

    fn repeat_offset(&mut self) {
        self.offsets
            .push(self.offsets.last().copied().unwrap_or_default());
    }

    fn truncate(&mut self, rows: usize) {
        let end = cut(&mut self.offsets, rows);
        self.data.truncate(end);
    }
}

impl Record {
    pub(super) fn new(fields: &[Field]) -> Self {
        Self::with(fields, |_, field| Column::new(field.required, &field.ty))
    }

    /// Keeps the values of the fields at `places` only.
    pub(super) fn of_places(fields: &[Field], places: &[usize]) -> Self {
        Self::with(fields, |place, field| {
            if places.contains(&place) {
                Column::new(field.required, &field.ty)
            } else {
                Column::skipped()
            }
        })
    }

    fn with(fields: &[Field], column: impl Fn(usize, &Field) -> Column) -> Self {
        let slot = |(index, field): (usize, &Field)| {
            let mut token = vec![b'"'];
            for char in field.name.chars() {
                if matches!(char, '"' | '\\') {
                    token.push(b'\\');
                }
                token.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
            token.push(b'"');
            Slot {
                name: field.name.as_str().into(),
                token: token.into(),
                next: index + 1,
                column: column(index, field),
            }
        };
        let by_name = |(index, field): (usize, &Field)| (field.name.as_bytes().into(), index);
        let slots: Vec<_> = fields.iter().enumerate().map(slot).collect();
        Self {
            row_bytes: slots.iter().map(|slot| slot.column.value_bytes).sum(),
            slots,
            by_name: fields.iter().enumerate().map(by_name).collect(),
            first: 0,
        }
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.slots
            .iter_mut()
            .for_each(|slot| slot.column.truncate(rows));
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.column.bytes()).sum()
    }
}

/// Cuts offsets back to `rows` values; where the last of them ends.
fn cut(offsets: &mut Vec<i32>, rows: usize) -> usize {
    offsets.truncate(rows + 1);
    offsets.last().map_or(0, |end| *end as usize)
}

fn between(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}
