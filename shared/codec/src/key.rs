//! Primary keys as text, and back.
//!
//! Owns the text that stands for a key wherever one is written by itself: as a Kafka message's key,
//! in a URL, and as what decides about the bucket.
//!
//! | key | text |
//! | --- | --- |
//! | one column | its value as JSON has it, a string without its quotes and escapes: `42`, `eu`, `2026-11-21` |
//! | several | a JSON array in key order: `["eu",42]` |
//!
//! Invariants: a key has exactly one canonical text, what [`KeyText`] writes; values agree with
//! [`crate::json::encode`]. [`KeyBuilder`] also reads what the JSON decoder takes for the same
//! value (`12.5` for `12.50`), so of a text that came from outside only the parsed key counts.
//! A text has [`KEY_TEXT_BYTES_MAX`] bytes at most.

mod builder;
mod cell;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use tidelake_core::limits::KEY_TEXT_BYTES_MAX;
use tidelake_core::partition::bucket_of;
use tidelake_core::{Bucket, ErrorKind};
use tidelake_schema::arrow::to_arrow;
use tidelake_schema::{Primitive, SchemaError, TableSchema, Type};

use crate::json::key_too_large;
use crate::{CodecError, Rejection};

pub use builder::KeyBuilder;
use cell::Cells;
pub(crate) use cell::{Cell, append_key};

/// Rows whose texts are held at a time while buckets are computed.
const BLOCK_ROWS: usize = 1024;

/// The primary key of one table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeyText {
    places: Arc<[usize]>,
    types: Arc<[Primitive]>,
    schema: SchemaRef,
    /// No key's text can be too large.
    bounded: bool,
}

/// Why rows have no bucket.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key of a row is not fit to be one.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The batch is not of the table's columns.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl KeyError {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected(rejection) => rejection.kind(),
            Self::Codec(error) => error.kind(),
        }
    }
}

/// The columns of a table's key in key order, never null; of no column where it has no key.
pub fn key_schema(schema: &TableSchema) -> SchemaRef {
    let all = to_arrow(schema);
    let fields = places(schema).map(|place| Arc::clone(&all.fields()[place]));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn places(schema: &TableSchema) -> impl Iterator<Item = usize> + '_ {
    let place = |id: &i32| schema.fields.iter().position(|field| field.id == *id);
    schema.identifier_field_ids.iter().filter_map(place)
}

impl KeyText {
    /// None for a table without a primary key; refuses a schema that is not valid.
    pub fn new(schema: &TableSchema) -> Result<Option<Self>, SchemaError> {
        schema.validate()?;
        let places: Arc<[usize]> = places(schema).collect();
        if places.is_empty() {
            return Ok(None);
        }
        let primitive = |place: &usize| match &schema.fields[*place].ty {
            Type::Primitive(primitive) => *primitive,
            _ => unreachable!("a valid schema's key columns are primitive"),
        };
        let types: Arc<[Primitive]> = places.iter().map(primitive).collect();
        let bounded = |primitive: &Primitive| {
            !matches!(
                primitive,
                Primitive::String | Primitive::Binary | Primitive::Fixed(_)
            )
        };
        Ok(Some(Self {
            bounded: types.iter().all(bounded) && types.len() <= KEY_TEXT_BYTES_MAX / 64,
            places,
            types,
            schema: key_schema(schema),
        }))
    }

    /// See [`key_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Places of the key's columns among the table's, in key order.
    pub fn columns(&self) -> &[usize] {
        &self.places
    }

    /// Appends the canonical text of every row's key; `batch` has the table's columns. Refuses a
    /// batch with a key whose text is too large.
    pub fn write_rows(&self, batch: &RecordBatch, out: &mut TextColumn) -> Result<(), KeyError> {
        self.write(batch, &self.places, out)
    }

    /// [`Self::write_rows`] of a batch that begins with the key's columns in key order.
    pub fn write_keys(&self, keys: &RecordBatch, out: &mut TextColumn) -> Result<(), KeyError> {
        let places: Vec<_> = (0..self.places.len()).collect();
        self.write(keys, &places, out)
    }

    fn write(
        &self,
        batch: &RecordBatch,
        places: &[usize],
        out: &mut TextColumn,
    ) -> Result<(), KeyError> {
        let cells = self.cells(batch, places)?;
        match cells.write(0..batch.num_rows(), out) {
            None => Ok(()),
            Some(row) => Err(Rejection::of_row(row, key_too_large()).into()),
        }
    }

    /// Appends the bucket of every row, of `buckets`; `batch` has the table's columns. Refuses a
    /// batch with a key whose text is too large.
    pub fn row_buckets(
        &self,
        batch: &RecordBatch,
        buckets: u32,
        out: &mut Vec<u32>,
    ) -> Result<(), KeyError> {
        let each = |bucket: Bucket| out.push(bucket.0);
        self.each_bucket(batch, &self.places, buckets, each)
    }

    /// [`Self::row_buckets`] of a batch that begins with the key's columns in key order.
    pub fn key_buckets(
        &self,
        keys: &RecordBatch,
        buckets: u32,
        out: &mut Vec<u32>,
    ) -> Result<(), KeyError> {
        let places: Vec<_> = (0..self.places.len()).collect();
        self.each_bucket(keys, &places, buckets, |bucket| out.push(bucket.0))
    }

    /// True where no value of the key's types has a text that is too large.
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }

    fn each_bucket(
        &self,
        batch: &RecordBatch,
        places: &[usize],
        buckets: u32,
        mut each: impl FnMut(Bucket),
    ) -> Result<(), KeyError> {
        let cells = self.cells(batch, places)?;
        let mut texts = TextColumn::default();
        let mut row = 0;
        while row < batch.num_rows() {
            let end = (row + BLOCK_ROWS).min(batch.num_rows());
            texts.clear();
            if let Some(large) = cells.write(row..end, &mut texts) {
                return Err(Rejection::of_row(large, key_too_large()).into());
            }
            texts.iter().for_each(|text| each(bucket_of(text, buckets)));
            row = end;
        }
        Ok(())
    }

    fn cells<'a>(&self, batch: &'a RecordBatch, places: &[usize]) -> Result<Cells<'a>, CodecError> {
        let columns = places.iter().zip(self.types.iter());
        let columns = columns.map(|(place, primitive)| {
            let column = batch.columns().get(*place).ok_or_else(|| {
                ArrowError::SchemaError(format!("a key column is wanted at place {place}"))
            })?;
            cell::Column::new(column, *primitive)
        });
        Ok(Cells::new(columns.collect::<Result<_, ArrowError>>()?))
    }
}

/// Texts one behind the other: no allocation for each.
#[derive(Debug, Clone, Default)]
pub struct TextColumn {
    pub(crate) data: Vec<u8>,
    /// Where each text ends.
    pub(crate) ends: Vec<usize>,
}

impl TextColumn {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// # Panics
    /// Where there is no such text.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.data[start..self.ends[index]]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let text = &self.data[start..*end];
            start = *end;
            text
        })
    }

    /// Drops every text; the room is kept.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }
}
