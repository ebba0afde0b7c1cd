//! Which columns of floats hold a NaN: those get no bounds.
//!
//! Parquet's writers leave NaN out of least and greatest values, and NaN lies above all numbers; so
//! whoever skips a chunk by its bounds loses the rows of `x > 10` or `x <> 3` where `x` is NaN. A
//! column without bounds is skipped by nobody. Files that keep to this say so in their footer
//! ([`COVERS_NAN`]): of others, readers can't tell.
//!
//! Invariant: a NaN that is written is found, whatever structs, lists and maps it lies in. Values
//! under a null that a parent has, or that an upsert supersedes, may be found beside.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, FieldRef, Float32Type, Float64Type, Schema, SchemaRef,
};
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData};
use parquet::schema::types::ColumnPath;

use crate::layout::FileLayout;
use crate::{Sealed, TableError};

/// Entry of a footer: bounds of floats in this file rule NaN out.
const COVERS_NAN: (&str, &str) = ("tidelake.float-bounds", "cover-nan");

/// True where the bounds of floats that a file has hold for NaN, too: a column that has bounds has
/// no NaN. Other writers leave NaN out of the bounds that they write.
pub fn float_bounds_cover_nan(file: &FileMetaData) -> bool {
    let entries = file.key_value_metadata().into_iter().flatten();
    let (key, value) = COVERS_NAN;
    entries
        .filter(|entry| entry.key == key)
        .any(|entry| entry.value.as_deref() == Some(value))
}

/// The entry of a footer that [`float_bounds_cover_nan`] looks for.
pub(super) fn entry() -> KeyValue {
    let (key, value) = COVERS_NAN;
    KeyValue::new(key.to_owned(), value.to_owned())
}

/// Leaf columns of the file to write that hold a NaN.
pub(super) fn with_nan(
    layout: &FileLayout,
    buckets: &[Sealed],
) -> Result<Vec<ColumnPath>, TableError> {
    let roots = floats(layout.file_schema());
    if roots.fields().is_empty() {
        return Ok(Vec::new());
    }
    let leaves = ArrowSchemaConverter::new().convert(&roots)?;
    let mut found = vec![false; leaves.num_columns()];
    for chunk in buckets.iter().flat_map(|sealed| sealed.chunks.iter()) {
        let batch = &chunk.batch;
        let places = (0..batch.num_columns())
            .filter(|at| has_float(batch.schema_ref().field(*at).data_type()));
        let own = batch.project(&places.collect::<Vec<_>>())?;
        let stored = layout.stored_as(&own, &roots)?;
        let mut leaf = 0;
        for column in stored.columns() {
            visit(column, &mut leaf, &mut found);
        }
    }
    let found = found.into_iter().enumerate().filter(|(_, found)| *found);
    Ok(found
        .map(|(at, _)| leaves.column(at).path().clone())
        .collect())
}

/// Leaf columns of a stored file that may hold a NaN: of ours those without bounds, of other writers
/// all.
pub(crate) fn without_bounds(file: &ParquetMetaData) -> Vec<ColumnPath> {
    let covers = float_bounds_cover_nan(file.file_metadata());
    let leaves = file.file_metadata().schema_descr().columns().iter();
    let floats = leaves.enumerate().filter(|(_, leaf)| {
        matches!(
            leaf.physical_type(),
            PhysicalType::FLOAT | PhysicalType::DOUBLE
        )
    });
    let bounded = |leaf: usize| {
        let groups = file.row_groups().iter();
        let mut chunks = groups.map(|group| group.column(leaf).statistics());
        covers && chunks.all(|found| found.is_some())
    };
    floats
        .filter(|(leaf, _)| !bounded(*leaf))
        .map(|(_, leaf)| leaf.path().clone())
        .collect()
}

/// The columns of a file that have floats in them.
fn floats(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Vec<FieldRef> = fields
        .filter(|field| has_float(field.data_type()))
        .cloned()
        .collect();
    Arc::new(Schema::new(fields))
}

fn has_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_float(field.data_type())),
        DataType::List(inside) | DataType::Map(inside, _) => has_float(inside.data_type()),
        _ => false,
    }
}

/// Goes through the leaves in the order of the file's.
fn visit(array: &ArrayRef, leaf: &mut usize, found: &mut [bool]) {
    match array.data_type() {
        DataType::Struct(_) => {
            for child in array.as_struct().columns() {
                visit(child, leaf, found);
            }
        }
        DataType::List(_) => visit(array.as_list::<i32>().values(), leaf, found),
        DataType::Map(..) => {
            for part in array.as_map().entries().columns() {
                visit(part, leaf, found);
            }
        }
        other => {
            found[*leaf] |= match other {
                DataType::Float32 => is_in::<Float32Type>(array, f32::is_nan),
                DataType::Float64 => is_in::<Float64Type>(array, f64::is_nan),
                _ => false,
            };
            *leaf += 1;
        }
    }
}

/// True where a value that is not null is NaN. Some writers put NaN under their nulls.
fn is_in<T: ArrowPrimitiveType>(array: &ArrayRef, is_nan: fn(T::Native) -> bool) -> bool {
    let array: &PrimitiveArray<T> = array.as_primitive();
    let any = array.values().iter().any(|value| is_nan(*value));
    any && (array.null_count() == 0 || array.iter().flatten().any(is_nan))
}

#[cfg(test)]
mod tests;
