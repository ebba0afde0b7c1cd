//! Batches of one schema as batches of another.
//!
//! Invariant: a column of a batch becomes the column that it was decoded as, or the batch is
//! refused. Columns and fields of structs are told by their ids (by their names in a table whose
//! ids are not kept), never by their places: those change under rows that are in memory.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
    StructArray,
};
use arrow::datatypes::{
    ArrowTimestampType, DataType, Field as ArrowField, Fields, Int64Type, SchemaRef,
    Time64MicrosecondType, TimeUnit, TimestampNanosecondType,
};

use super::FIELD_ID_KEY;
use crate::error::SchemaError;
use crate::types::join;

/// What tells which column of a batch is which of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Field ids: names change when columns are renamed.
    Id,
    /// Names, of a table without column mapping: there ids are counted anew for each schema.
    Name,
}

/// The columns of a batch in the order, the names and the form of `target`. Refuses a batch that
/// has a column more or less, or one of another type.
pub fn conform(
    batch: &RecordBatch,
    target: &SchemaRef,
    by: Identity,
) -> Result<RecordBatch, SchemaError> {
    let own = batch.schema_ref();
    if own == target {
        return Ok(batch.clone());
    }
    let places = places(own.fields(), target.fields(), by, "")?;
    let columns = places.into_iter().zip(target.fields()).map(|(at, field)| {
        let from = own.field(at).data_type();
        convert(batch.column(at), from, field.data_type(), by, field.name())
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let target = Arc::clone(target);
    RecordBatch::try_new_with_options(target, columns, &options).map_err(arrow_error)
}

/// Where each of the fields `to` stands among `from`.
fn places(from: &Fields, to: &Fields, by: Identity, path: &str) -> Result<Vec<usize>, SchemaError> {
    if from.len() != to.len() {
        return Err(SchemaError::Batch {
            path: path.to_owned(),
            expected: format!("{} columns", to.len()),
            found: format!("{} columns", from.len()),
        });
    }
    let same = |at: usize, field: &ArrowField| match by {
        Identity::Id => id_of(field).is_some() && id_of(&from[at]) == id_of(field),
        Identity::Name => from[at].name() == field.name(),
    };
    let found = to.iter().enumerate().map(|(at, field)| {
        // Nearly always nothing has moved.
        if same(at, field) {
            return Ok(at);
        }
        let place = (0..from.len()).find(|at| same(*at, field));
        place.ok_or_else(|| SchemaError::Batch {
            path: join(path, field.name()),
            expected: match (by, id_of(field)) {
                (Identity::Id, Some(id)) => format!("a column of field id {id}"),
                (Identity::Id, None) => "a column with a field id".into(),
                (Identity::Name, _) => "a column of that name".into(),
            },
            found: "none".into(),
        })
    });
    found.collect()
}

fn id_of(field: &ArrowField) -> Option<&str> {
    field.metadata().get(FIELD_ID_KEY).map(String::as_str)
}

/// The same buffers under another type; nested columns are rebuilt around converted children.
/// `from` is the array's type as its batch's schema says it, with the ids of the fields.
fn convert(
    array: &ArrayRef,
    from: &DataType,
    to: &DataType,
    by: Identity,
    path: &str,
) -> Result<ArrayRef, SchemaError> {
    if array.data_type() == to && from == to {
        return Ok(Arc::clone(array));
    }
    let mismatch = || SchemaError::Batch {
        path: path.to_owned(),
        expected: to.to_string(),
        found: array.data_type().to_string(),
    };
    let converted: ArrayRef = match (from, to) {
        _ if from.is_nested() != array.data_type().is_nested() => return Err(mismatch()),
        _ if !to.is_nested() && array.data_type() == to => Arc::clone(array),
        (DataType::Struct(from), DataType::Struct(to)) => {
            let array = array.as_struct_opt().ok_or_else(mismatch)?;
            if array.num_columns() != from.len() {
                return Err(mismatch());
            }
            let places = places(from, to, by, path)?;
            let children = places.into_iter().zip(to).map(|(at, field)| {
                let (own, path) = (from[at].data_type(), join(path, field.name()));
                convert(array.column(at), own, field.data_type(), by, &path)
            });
            let children = children.collect::<Result<Vec<_>, _>>()?;
            let (length, nulls) = (array.len(), array.nulls().cloned());
            let built = StructArray::try_new_with_length(to.clone(), children, nulls, length);
            Arc::new(built.map_err(arrow_error)?)
        }
        (DataType::List(from), DataType::List(element)) => {
            let array = array.as_list_opt::<i32>().ok_or_else(mismatch)?;
            let (own, to) = (from.data_type(), element.data_type());
            let values = convert(array.values(), own, to, by, &join(path, "element"))?;
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            let built = ListArray::try_new(Arc::clone(element), offsets, values, nulls);
            Arc::new(built.map_err(arrow_error)?)
        }
        (DataType::Map(from, _), DataType::Map(entries, sorted)) => {
            let array = array.as_map_opt().ok_or_else(mismatch)?;
            let inner = pair(
                array.entries(),
                from.data_type(),
                entries.data_type(),
                by,
                path,
            );
            let (inner, nulls) = (inner?, array.nulls().cloned());
            let offsets = array.offsets().clone();
            let built = MapArray::try_new(Arc::clone(entries), offsets, inner, nulls, *sorted);
            Arc::new(built.map_err(arrow_error)?)
        }
        _ => reinterpreted(array, from, to).ok_or_else(mismatch)?,
    };
    Ok(converted)
}

/// A time or a number as the other; none where neither is the other's storage.
fn reinterpreted(array: &ArrayRef, from: &DataType, to: &DataType) -> Option<ArrayRef> {
    Some(match (from, to) {
        (DataType::Time64(TimeUnit::Microsecond), DataType::Int64) => Arc::new(
            array
                .as_primitive::<Time64MicrosecondType>()
                .reinterpret_cast::<Int64Type>(),
        ),
        (DataType::Int64, DataType::Time64(TimeUnit::Microsecond)) => Arc::new(
            array
                .as_primitive::<Int64Type>()
                .reinterpret_cast::<Time64MicrosecondType>(),
        ),
        (DataType::Timestamp(TimeUnit::Nanosecond, _), DataType::Int64) => Arc::new(
            array
                .as_primitive::<TimestampNanosecondType>()
                .reinterpret_cast::<Int64Type>(),
        ),
        (DataType::Int64, DataType::Timestamp(TimeUnit::Nanosecond, zone)) => {
            let values = array.as_primitive::<Int64Type>();
            Arc::new(zoned(
                values.reinterpret_cast::<TimestampNanosecondType>(),
                zone,
            ))
        }
        _ => return None,
    })
}

/// Keys and values of a map, which are told by their places: there are two, and never others.
fn pair(
    entries: &StructArray,
    from: &DataType,
    to: &DataType,
    by: Identity,
    path: &str,
) -> Result<StructArray, SchemaError> {
    let (DataType::Struct(from), DataType::Struct(to)) = (from, to) else {
        return Err(SchemaError::Arrow(format!("{path:?} is no map")));
    };
    let parts = entries.columns().iter().zip(from).zip(to);
    let parts = parts.map(|((part, from), to)| {
        let (own, path) = (from.data_type(), join(path, to.name()));
        convert(part, own, to.data_type(), by, &path)
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let (length, nulls) = (entries.len(), entries.nulls().cloned());
    StructArray::try_new_with_length(to.clone(), parts, nulls, length).map_err(arrow_error)
}

fn zoned<T: ArrowTimestampType>(
    array: PrimitiveArray<T>,
    zone: &Option<Arc<str>>,
) -> PrimitiveArray<T> {
    array.with_timezone_opt(zone.clone())
}

fn arrow_error(error: arrow::error::ArrowError) -> SchemaError {
    SchemaError::Arrow(error.to_string())
}
