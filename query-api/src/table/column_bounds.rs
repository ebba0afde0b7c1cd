//! Bounds of the columns of many files: one array for each column's least values, one for its
//! greatest, one for its nulls.
//!
//! | declared type | bounds are | because |
//! | --- | --- | --- |
//! | int, long, date, time, timestamp_ns | exact | Delta keeps them as they are |
//! | timestamp | wide | Delta cuts them to milliseconds |
//! | string, uuid | wide | long ones are cut |
//! | float, double, decimal | wide | JSON numbers round |
//! | others | unknown | |
//!
//! Exact bounds may stand for values (`SELECT max(x)`), wide ones only rule files out. Bounds of a file
//! with deleted rows are wide. Bounds of floats count in files whose writer keeps NaN in mind: it lies
//! above all numbers, and most writers leave it out of their bounds.
//!
//! Owns how statistics' text becomes arrays, and how arrays of several lists of files become one.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, UInt64Array, new_null_array,
};
use datafusion::arrow::compute::{cast, interleave};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use serde_json::Value;
use tidelake_manifest::DataFile;
use tidelake_manifest::stats::Told;
use tidelake_schema::{Primitive, Type};

use super::bounds::{Edge, bound};
use super::shape::Shape;

/// Bounds of all files.
pub(super) struct Bounds {
    /// By the table's columns.
    pub columns: Vec<ColumnBounds>,
    /// Of each file: bounds may stand for values, where the column's type lets them.
    pub tight: BooleanArray,
}

/// Bounds of a column: of each file the least value, the greatest, and how many are null (deleted
/// rows included). An array that would be all null is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct ColumnBounds {
    pub least: Option<ArrayRef>,
    pub greatest: Option<ArrayRef>,
    pub nulls: Option<ArrayRef>,
    /// Delta's JSON keeps the type's values as they are.
    pub(super) keeps_values: bool,
}

/// A column's bounds on their way into arrays; of a column that nobody tells of, nothing.
#[derive(Default)]
struct Values {
    least: Vec<Option<ScalarValue>>,
    greatest: Vec<Option<ScalarValue>>,
    nulls: Vec<Option<u64>>,
}

impl Bounds {
    pub(super) fn read(shape: &Shape, files: &[Arc<DataFile>]) -> Self {
        let declared: Vec<Option<Primitive>> = shape
            .table
            .fields
            .iter()
            .map(|field| match &field.ty {
                Type::Primitive(primitive) => Some(*primitive),
                _ => None,
            })
            .collect();
        let names = shape.scan.fields().iter().take(declared.len());
        let names: Vec<&str> = names.map(|field| field.name().as_str()).collect();
        let places = names.iter().enumerate();
        let places: HashMap<&str, usize> = places.map(|(place, name)| (*name, place)).collect();
        let mut columns: Vec<Values> = Vec::new();
        columns.resize_with(declared.len(), Values::default);
        let mut tight = Vec::with_capacity(files.len());
        for (number, file) in files.iter().enumerate() {
            let floats = file.float_bounds_cover_nan();
            let mut next = 0;
            let mut take = |told: Told, name: &str, value: Value| {
                // Columns come in the same order nearly always.
                let place = match names.get(next) {
                    Some(expected) if *expected == name => Some(next),
                    _ => places.get(name).copied(),
                };
                let Some(place) = place else {
                    return;
                };
                next = place + 1;
                let values = &mut columns[place];
                if told == Told::Nulls {
                    return put(&mut values.nulls, number, files.len(), value.as_u64());
                }
                let Some(primitive) = declared[place] else {
                    return;
                };
                if !floats && matches!(primitive, Primitive::Float | Primitive::Double) {
                    return;
                }
                let (edge, of) = match told {
                    Told::Least => (Edge::Least, &mut values.least),
                    _ => (Edge::Greatest, &mut values.greatest),
                };
                put(of, number, files.len(), bound(&value, primitive, edge));
            };
            let values = file.tell_stats(&mut take);
            tight.push(values == Some(true) && file.dv().is_none());
        }
        let columns = columns.into_iter().zip(declared).zip(shape.scan.fields());
        let columns = columns.map(|((values, primitive), field)| ColumnBounds {
            least: array(values.least, field),
            greatest: array(values.greatest, field),
            nulls: (!values.nulls.is_empty())
                .then(|| Arc::new(UInt64Array::from(values.nulls)) as ArrayRef),
            keeps_values: primitive.is_some_and(keeps_values),
        });
        Self {
            columns: columns.collect(),
            tight: BooleanArray::from(tight),
        }
    }

    pub(super) fn gathered(
        shape: &Shape,
        bounds: &[&Self],
        files: &[usize],
        places: &[(usize, usize)],
    ) -> Option<Self> {
        let join = |of: &dyn Fn(&ColumnBounds) -> Option<&ArrayRef>, column: usize| {
            let arrays = bounds.iter().map(|bounds| of(&bounds.columns[column]));
            let known: Vec<Option<&ArrayRef>> = arrays.collect();
            let Some(data_type) = known.iter().flatten().next().map(|a| a.data_type()) else {
                return Some(None);
            };
            let arrays = known.iter().zip(files).map(|(array, files)| match array {
                Some(array) => Arc::clone(array),
                None => new_null_array(data_type, *files),
            });
            let arrays: Vec<ArrayRef> = arrays.collect();
            Some(Some(joined(&arrays, places)?))
        };
        let columns = 0..shape.table.fields.len();
        let columns = columns.map(|column| {
            Some(ColumnBounds {
                least: join(&|column| column.least.as_ref(), column)?,
                greatest: join(&|column| column.greatest.as_ref(), column)?,
                nulls: join(&|column| column.nulls.as_ref(), column)?,
                keeps_values: bounds.first()?.columns[column].keeps_values,
            })
        });
        let tight = places
            .iter()
            .map(|(part, file)| bounds[*part].tight.value(*file));
        Some(Self {
            columns: columns.collect::<Option<_>>()?,
            tight: BooleanArray::from(tight.collect::<Vec<_>>()),
        })
    }
}

fn put<T: Clone>(values: &mut Vec<Option<T>>, at: usize, len: usize, value: Option<T>) {
    if value.is_some() {
        if values.is_empty() {
            values.resize(len, None);
        }
        values[at] = value;
    }
}

/// Values of one type as an array of the column's type; none where there are none.
fn array(values: Vec<Option<ScalarValue>>, field: &Field) -> Option<ArrayRef> {
    let none = ScalarValue::try_from(values.iter().flatten().next()?.data_type()).ok()?;
    let values = values
        .into_iter()
        .map(|value| value.unwrap_or_else(|| none.clone()));
    let array = ScalarValue::iter_to_array(values).ok()?;
    cast(&array, field.data_type()).ok()
}

/// Views of texts without the buffers of those that were left out.
fn joined(arrays: &[ArrayRef], places: &[(usize, usize)]) -> Option<ArrayRef> {
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    let joined = interleave(&arrays, places).ok()?;
    Some(match joined.data_type() {
        DataType::Utf8View => Arc::new(joined.as_string_view().gc()),
        _ => joined,
    })
}

/// True where Delta's JSON keeps the type's values as they are.
fn keeps_values(primitive: Primitive) -> bool {
    matches!(
        primitive,
        Primitive::Byte
            | Primitive::Short
            | Primitive::Int
            | Primitive::Long
            | Primitive::Date
            | Primitive::Time
            | Primitive::TimestampNs
            | Primitive::TimestampTzNs
    )
}
