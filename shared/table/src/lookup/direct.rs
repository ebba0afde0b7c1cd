//! A few rows of flat columns, without parquet's array readers: those decode a dictionary whole,
//! and make all that a scan needs, for a single value.
//!
//! Here a value is found where it stands: the levels tell its place among the values that are not
//! null, the encoding where that place is. Invariant: whatever is not understood, or contradicts
//! itself, gives `None`, and the read goes through parquet's readers, who say what is wrong with it.

mod arrays;
mod deltas;
mod values;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Encoding, LogicalType, TimeUnit as StoredUnit, Type as Physical};
use parquet::column::page::Page;
use parquet::file::metadata::ParquetMetaData;

use super::FileRows;
use super::header;
use super::pages::{GroupPages, Pages, Step};
use values::{Bytewise, Stored};

/// More rows are cheaper to decode page by page.
pub(super) const ROWS_MAX: usize = 8;

/// How the columns of a file are read.
#[derive(Debug)]
pub(super) struct Flat {
    schema: SchemaRef,
    columns: Box<[Column]>,
}

/// One column.
#[derive(Debug, Clone, Copy)]
struct Column {
    stored: Stored,
    /// There are levels, which say what is null.
    optional: bool,
}

impl Flat {
    /// `None` where a column is nested, or of a type that is not read here.
    pub(super) fn of(
        metadata: &ParquetMetaData,
        leaves: &[usize],
        fields: impl Iterator<Item = FieldRef>,
    ) -> Option<Self> {
        let descriptor = metadata.file_metadata().schema_descr();
        let fields: Vec<FieldRef> = fields.collect();
        if leaves.is_empty() || fields.len() != leaves.len() {
            return None;
        }
        let mut columns = Vec::with_capacity(leaves.len());
        for (leaf, field) in leaves.iter().zip(&fields) {
            let column = descriptor.column(*leaf);
            let is_flat = column.path().parts().len() == 1
                && column.max_rep_level() == 0
                && column.max_def_level() <= 1;
            if !is_flat {
                return None;
            }
            let width = usize::try_from(column.type_length()).unwrap_or(0);
            let stored = stored(column.physical_type(), width)?;
            if !is_same(stored, column.logical_type_ref(), field.data_type()) {
                return None;
            }
            columns.push(Column {
                stored,
                optional: column.max_def_level() == 1,
            });
        }
        Some(Self {
            schema: Arc::new(Schema::new(fields)),
            columns: columns.into(),
        })
    }

    /// The rows at these places of what the steps go through; rising.
    pub(super) fn rows(
        &self,
        file: &FileRows,
        leaves: &[Vec<GroupPages>],
        pages: &Pages,
        places: &[usize],
    ) -> Option<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        let are_known = self.columns.iter().zip(leaves).all(|(column, groups)| {
            let mut steps = groups.iter().flat_map(|group| &group.steps);
            steps.all(|step| match step {
                Step::Data { page, .. } => reads(column.stored, pages.encoding(*page)),
                Step::Gap { .. } | Step::Dictionary { .. } => true,
            })
        });
        if !are_known {
            return None;
        }
        let described = self.columns.iter().zip(self.schema.fields());
        for (leaf, (column, field)) in described.enumerate() {
            let mut found = Vec::with_capacity(places.len());
            let (mut at, mut left) = (0, places);
            for group in &leaves[leaf] {
                let chunk = file
                    .metadata
                    .row_group(group.group)
                    .column(file.leaves[leaf]);
                let mut dictionary = None;
                for step in &group.steps {
                    let (rows, page) = match *step {
                        Step::Gap { rows } => {
                            at += rows;
                            continue;
                        }
                        Step::Dictionary { page } => {
                            dictionary = Some(page);
                            continue;
                        }
                        Step::Data { rows, page } => (rows, page),
                    };
                    let data = pages.page(page, chunk).ok()?;
                    let dictionary = match header::is_by_dictionary(data.encoding()) {
                        true => Some(pages.page(dictionary?, chunk).ok()?),
                        false => None,
                    };
                    while let Some(&place) = left.first().filter(|place| **place < at + rows) {
                        let row = place.checked_sub(at)?;
                        found.push(column.value(&data, dictionary.as_ref(), (row, rows))?);
                        left = &left[1..];
                    }
                    at += rows;
                }
            }
            arrays.push(match (field.data_type(), column.stored) {
                (of @ DataType::Decimal128(..), stored) => {
                    arrays::decimals(&found, of, matches!(stored, Stored::Whole { .. }))?
                }
                (of, _) => arrays::array(&found, of)?,
            });
        }
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).ok()
    }
}

/// The bytes of a value; none where it is null.
type Value = Option<Bytewise>;

impl Column {
    /// The value of a row of a page.
    fn value(
        self,
        page: &Page,
        dictionary: Option<&Page>,
        (row, rows): (usize, usize),
    ) -> Option<Value> {
        if page.num_values() as usize != rows {
            return None;
        }
        let (levels, bytes) = self.parts(page)?;
        let place = match levels {
            None => row,
            Some(levels) => match values::defined(levels, row)? {
                (true, before) => before,
                (false, _) => return Some(None),
            },
        };
        let value = match dictionary {
            None => values::value(self.stored, page.encoding(), bytes, place)?,
            Some(Page::DictionaryPage {
                buf,
                encoding: Encoding::PLAIN | Encoding::PLAIN_DICTIONARY,
                ..
            }) => {
                let (width, indexes) = bytes.split_first()?;
                let entry = values::packed(indexes, usize::from(*width), place)?;
                let entry = usize::try_from(entry).ok()?;
                values::value(self.stored, Encoding::PLAIN, buf, entry)?
            }
            Some(_) => return None,
        };
        Some(Some(value))
    }

    /// Levels, where there are any, and values.
    fn parts(self, page: &Page) -> Option<(Option<&[u8]>, &[u8])> {
        match page {
            Page::DataPage { buf, .. } if !self.optional => Some((None, buf)),
            Page::DataPage {
                buf,
                def_level_encoding: Encoding::RLE,
                ..
            } => {
                let (length, rest) = buf.split_first_chunk::<4>()?;
                let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                let (levels, values) = rest.split_at_checked(length)?;
                Some((Some(levels), values))
            }
            Page::DataPageV2 {
                buf,
                def_levels_byte_len,
                rep_levels_byte_len: 0,
                ..
            } => {
                let (levels, values) = buf.split_at_checked(*def_levels_byte_len as usize)?;
                Some((self.optional.then_some(levels), values))
            }
            _ => None,
        }
    }
}

fn stored(physical: Physical, width: usize) -> Option<Stored> {
    Some(match physical {
        Physical::BOOLEAN => Stored::Bits,
        Physical::INT32 => Stored::Whole { width: 4 },
        Physical::INT64 => Stored::Whole { width: 8 },
        Physical::FLOAT => Stored::Fixed { width: 4 },
        Physical::DOUBLE => Stored::Fixed { width: 8 },
        Physical::FIXED_LEN_BYTE_ARRAY if (1..=16).contains(&width) => Stored::Fixed { width },
        Physical::BYTE_ARRAY => Stored::Bytes,
        Physical::FIXED_LEN_BYTE_ARRAY | Physical::INT96 => return None,
    })
}

/// Whether the stored bytes are those of the type: readers convert other units and widths.
fn is_same(stored: Stored, logical: Option<&LogicalType>, data_type: &DataType) -> bool {
    use DataType as D;
    let plain = logical.is_none();
    let unit = |unit: &StoredUnit| match unit {
        StoredUnit::MILLIS => TimeUnit::Millisecond,
        StoredUnit::MICROS => TimeUnit::Microsecond,
        StoredUnit::NANOS => TimeUnit::Nanosecond,
    };
    match (stored, data_type) {
        (Stored::Bits, D::Boolean)
        | (Stored::Whole { width: 4 }, D::Int32)
        | (Stored::Whole { width: 8 }, D::Int64)
        | (Stored::Fixed { width: 4 }, D::Float32)
        | (Stored::Fixed { width: 8 }, D::Float64) => plain,
        (Stored::Whole { width: 4 }, D::Date32) => matches!(logical, Some(LogicalType::Date)),
        (Stored::Whole { width: 8 }, D::Timestamp(of, _)) => {
            matches!(logical, Some(LogicalType::Timestamp(stored)) if unit(&stored.unit) == *of)
        }
        (Stored::Whole { .. } | Stored::Fixed { .. }, D::Decimal128(precision, scale)) => {
            matches!(logical, Some(LogicalType::Decimal(stored))
                if stored.scale == i32::from(*scale) && stored.precision == i32::from(*precision))
        }
        (Stored::Fixed { width }, D::FixedSizeBinary(of)) => {
            plain && usize::try_from(*of).is_ok_and(|of| of == width)
        }
        (Stored::Bytes, D::Utf8 | D::Utf8View) => matches!(logical, Some(LogicalType::String)),
        (Stored::Bytes, D::Binary | D::BinaryView) => plain,
        _ => false,
    }
}

fn reads(stored: Stored, encoding: Encoding) -> bool {
    match encoding {
        Encoding::PLAIN | Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => true,
        Encoding::DELTA_BINARY_PACKED => matches!(stored, Stored::Whole { .. }),
        Encoding::DELTA_LENGTH_BYTE_ARRAY => stored == Stored::Bytes,
        Encoding::BYTE_STREAM_SPLIT => {
            matches!(stored, Stored::Whole { .. } | Stored::Fixed { .. })
        }
        _ => false,
    }
}
