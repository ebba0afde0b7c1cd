//! Primary key columns as keys.
//!
//! Each column becomes bytes whose order is the order of its values; a key is its columns' bytes
//! one after the other. Nothing is hashed and nothing shortened, so equal keys are equal values.
//!
//! | type | bytes |
//! | --- | --- |
//! | boolean | 1 |
//! | byte, short | 1, 2: big-endian, sign bit flipped |
//! | int, date; decimal up to 9 digits | 4, likewise |
//! | long, time, timestamps; decimal up to 18 digits | 8, likewise |
//! | other decimals | 16, likewise |
//! | uuid | its 16 bytes |
//! | fixed\[n\] | n |
//! | string, binary as last column | as they are |
//! | string, binary before other columns | `00` as `00 FF`, closed by `00 00` |
//!
//! Up to 16 bytes of fixed width are one integer ([`KeyKind::Fixed`]).

use arrow::array::{ArrayRef, RecordBatch};
use tidelake_schema::{Primitive, TableSchema, Type};

use super::columns::{fixed_width, values};
use super::error::IndexError;
use super::keys::{KeyKind, Keys};

/// Which columns make the key of a row, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    columns: Vec<usize>,
    parts: Vec<Part>,
    kind: KeyKind,
    /// Columns of the whole table.
    width: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    name: String,
    ty: Primitive,
}

impl KeySpec {
    /// None for a table without a primary key. The schema must be valid.
    pub fn of(schema: &TableSchema) -> Option<Self> {
        let fields = schema.identifier_fields();
        let mut columns = Vec::with_capacity(fields.len());
        let mut parts = Vec::with_capacity(fields.len());
        for field in fields {
            let Type::Primitive(ty) = field.ty else {
                return None;
            };
            columns.push(schema.fields.iter().position(|f| f.id == field.id)?);
            parts.push(Part {
                name: field.name.clone(),
                ty,
            });
        }
        if parts.is_empty() {
            return None;
        }
        let bytes = parts.iter().map(|part| fixed_width(part.ty)).sum();
        let kind = match bytes {
            Some(bytes @ 1..=16) => KeyKind::Fixed { bytes },
            _ => KeyKind::Bytes,
        };
        let width = schema.fields.len();
        Some(Self {
            columns,
            parts,
            kind,
            width,
        })
    }

    /// True where both make the same keys of the same values, wherever their columns stand and
    /// whatever they are called.
    pub fn encodes_like(&self, other: &Self) -> bool {
        let types = |spec: &Self| spec.parts.iter().map(|part| part.ty).collect::<Vec<_>>();
        types(self) == types(other)
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The places of the key's columns in the schema's fields, in key order.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The key of each row of a batch of all the table's columns (logical types).
    pub fn rows(&self, batch: &RecordBatch) -> Result<Keys, IndexError> {
        self.check_width(batch, self.width)?;
        let columns: Vec<&ArrayRef> = self.columns.iter().map(|&c| batch.column(c)).collect();
        self.encode(&columns, batch.num_rows())
    }

    /// The key of each row of a batch that has the key's columns only, in key order.
    pub fn keys(&self, batch: &RecordBatch) -> Result<Keys, IndexError> {
        self.check_width(batch, self.columns.len())?;
        let columns: Vec<&ArrayRef> = batch.columns().iter().collect();
        self.encode(&columns, batch.num_rows())
    }

    fn check_width(&self, batch: &RecordBatch, expected: usize) -> Result<(), IndexError> {
        let found = batch.num_columns();
        if found == expected {
            Ok(())
        } else {
            Err(IndexError::Columns { expected, found })
        }
    }

    fn encode(&self, columns: &[&ArrayRef], rows: usize) -> Result<Keys, IndexError> {
        let values = self
            .parts
            .iter()
            .zip(columns)
            .map(|(part, column)| {
                values(part.ty, column).map_err(|problem| IndexError::Key {
                    column: part.name.clone(),
                    problem,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        match self.kind {
            KeyKind::Fixed { bytes } => {
                let mut values = values.into_iter();
                let first = values.next().expect("a key has a column");
                let mut keys = first.into_integers(rows);
                values.for_each(|values| values.shift_into(&mut keys));
                Ok(Keys::of_fixed(bytes, keys))
            }
            KeyKind::Bytes => {
                let mut heap = Vec::new();
                let mut ends = Vec::with_capacity(rows);
                let (last, before) = values.split_last().expect("a key has a column");
                for row in 0..rows {
                    for values in before {
                        values.write(row, &mut heap);
                    }
                    last.write_last(row, &mut heap);
                    ends.push(heap.len());
                }
                Ok(Keys::of_bytes(heap, ends))
            }
        }
    }
}
