//! Arrow data from outside: streams of bytes, and batches whose columns only nearly fit.
//!
//! Owns the way of a foreign batch to the table's own columns ([`conform`]) and the bounded reading
//! of Arrow IPC streams ([`StreamReader`]). Columns are matched by name; a missing nullable column
//! becomes nulls; an unknown one is refused. Types:
//!
//! | table | Arrow types taken |
//! | --- | --- |
//! | boolean | Boolean |
//! | int, long, float, double, decimal | integers, floats, decimals; every value must come out unchanged |
//! | date | Date32, Date64 |
//! | time | Time32, Time64, within a day |
//! | timestamp, timestamp_ns | Timestamp of any unit without zone, nothing cut off |
//! | timestamptz, timestamptz_ns | Timestamp of any unit with a zone |
//! | string | Utf8, LargeUtf8, Utf8View |
//! | uuid | the same, as hyphenated text; FixedSizeBinary(16) |
//! | fixed\[n\], binary | Binary, LargeBinary, BinaryView, FixedSizeBinary; of length n for fixed |
//! | struct | Struct, fields by name |
//! | list | List, LargeList, FixedSizeList |
//! | map | Map |
//! | any | Null; Dictionary of what is taken |
//!
//! What lies beneath a null is not looked at.
//!
//! Tables with a primary key also take a column of operations ([`OPERATION_COLUMN`]).

mod bounds;
mod cast;
mod frames;
mod nested;
mod operations;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::NullBuffer;
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;

use crate::allowance::{Allowance, Exceeded};
use crate::reject::{Fault, Reason, Rejection};

pub(crate) use frames::Frames;
pub use frames::{StreamLimits, StreamReader};
pub(crate) use operations::deletes;
pub use operations::{
    OPERATION_COLUMN, conform_keys, conform_operations, has_operations, operations_schema,
};

/// Why a column was refused: the row within it, if it was one value.
#[derive(Debug)]
pub(crate) struct Misfit {
    row: Option<usize>,
    fault: Box<Fault>,
}

impl Misfit {
    fn column(reason: Reason) -> Self {
        Self {
            row: None,
            fault: Fault::new(reason),
        }
    }

    fn row(row: usize, reason: Reason) -> Self {
        Self {
            row: Some(row),
            fault: Fault::new(reason),
        }
    }

    /// Of the column `name` of a batch whose rows count from `first_row`.
    fn into_rejection(self, name: &str, first_row: usize) -> Rejection {
        let row = first_row + self.row.unwrap_or(0);
        self.fault.inside(name).into_rejection(row)
    }

    fn inside(self, name: &str) -> Self {
        Self {
            fault: self.fault.inside(name),
            ..self
        }
    }
}

impl From<Exceeded> for Misfit {
    fn from(exceeded: Exceeded) -> Self {
        Self::column(exceeded.into())
    }
}

/// The rows of `batch` as columns of [`to_arrow`], within `allowance`. Rows are counted from
/// `first_row` in the rejection, which names that row if a column is wrong as a whole.
pub fn conform(
    batch: &RecordBatch,
    schema: &TableSchema,
    first_row: usize,
    allowance: &mut Allowance,
) -> Result<RecordBatch, Rejection> {
    let reject = |name: &str, misfit: Misfit| misfit.into_rejection(name, first_row);
    let rows = batch.num_rows();
    check_names(batch, schema, false).map_err(|(name, misfit)| reject(name, misfit))?;
    let target = to_arrow(schema);
    let mut columns = Vec::with_capacity(schema.fields.len());
    for (field, wanted) in schema.fields.iter().zip(target.fields()) {
        let column = batch.column_by_name(&field.name);
        let fitted = fit_field(column, field, wanted.data_type(), rows, None, allowance);
        columns.push(fitted.map_err(|misfit| reject(&field.name, misfit))?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(target, columns, &options)
        .map_err(|error| Rejection::of_row(first_row, corrupt(&error)))
}

/// Refuses a batch with a column that the table has not, or one given twice; `operations` says
/// whether one of operations may stand beside them.
fn check_names<'a>(
    batch: &'a RecordBatch,
    schema: &TableSchema,
    operations: bool,
) -> Result<(), (&'a str, Misfit)> {
    let given = batch.schema_ref().fields();
    let mut names = HashSet::with_capacity(given.len());
    for field in given {
        let name = field.name().as_str();
        let is_operation = name == OPERATION_COLUMN;
        let known = schema.field(name).is_some() || (is_operation && operations);
        let reason = match (known, names.insert(name)) {
            (false, _) if is_operation => Reason::NoPrimaryKey,
            (false, _) => Reason::UnknownField,
            (true, false) => Reason::DuplicateField,
            (true, true) => continue,
        };
        return Err((name, Misfit::column(reason)));
    }
    Ok(())
}

/// One field's column, or nulls where there is none; without its name in the misfit's path.
fn fit_field(
    column: Option<&ArrayRef>,
    field: &tidelake_schema::Field,
    target: &arrow::datatypes::DataType,
    rows: usize,
    live: Option<&NullBuffer>,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    match column {
        Some(column) => nested::fit(column, &field.ty, target, field.required, live, allowance),
        None if field.required && rows > 0 => Err(Misfit::column(Reason::MissingField)),
        None => nested::nulls(target, rows, allowance),
    }
}

fn corrupt(error: &arrow::error::ArrowError) -> Reason {
    Reason::CorruptArrow {
        detail: error.to_string(),
    }
}
