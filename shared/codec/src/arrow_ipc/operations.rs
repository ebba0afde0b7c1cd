//! Batches of which some rows delete, and batches of keys.
//!
//! | `__op` | the row |
//! | --- | --- |
//! | 0 | is written: as any row, all its columns are checked |
//! | 1 | deletes its key: only the key's columns are read, others may be missing or anything |

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int8Array, RecordBatch, RecordBatchOptions,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{CastOptions, cast_with_options, nullif};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;

use super::cast::type_name;
use super::nested::arrow_misfit;
use super::{Misfit, check_names, corrupt, fit_field, nested};
use crate::allowance::Allowance;
use crate::key::KeyText;
use crate::reject::{Reason, Rejection, excerpt};

/// The column that says what each row does.
pub const OPERATION_COLUMN: &str = "__op";
pub(crate) const UPSERT: i8 = 0;
pub(crate) const DELETE: i8 = 1;

/// The table's columns in order, of which only the key's are never null, and the operations.
pub fn operations_schema(schema: &TableSchema, key: &KeyText) -> SchemaRef {
    let all = to_arrow(schema);
    let fields = all.fields().iter().enumerate().map(|(place, field)| {
        let nullable = !key.columns().contains(&place);
        Arc::new(field.as_ref().clone().with_nullable(nullable))
    });
    let operation = Arc::new(Field::new(OPERATION_COLUMN, DataType::Int8, false));
    Arc::new(Schema::new(
        fields.chain([operation]).collect::<Vec<Arc<Field>>>(),
    ))
}

/// True where a batch says what its rows do.
pub fn has_operations(batch: &RecordBatch) -> bool {
    batch.column_by_name(OPERATION_COLUMN).is_some()
}

/// The rows of a batch [with operations](has_operations) as columns of [`operations_schema`]; in
/// rows that delete, what is no key is null. Rows are counted as in [`super::conform`].
pub fn conform_operations(
    batch: &RecordBatch,
    schema: &TableSchema,
    key: &KeyText,
    first_row: usize,
    allowance: &mut Allowance,
) -> Result<RecordBatch, Rejection> {
    let reject = |name: &str, misfit: Misfit| misfit.into_rejection(name, first_row);
    check_names(batch, schema, true).map_err(|(name, misfit)| reject(name, misfit))?;
    let rows = batch.num_rows();
    let operations = match batch.column_by_name(OPERATION_COLUMN) {
        Some(column) => {
            operations(column, allowance).map_err(|misfit| reject(OPERATION_COLUMN, misfit))?
        }
        None => Int8Array::from(vec![UPSERT; rows]),
    };
    let deletes = deletes(&operations);
    let upserts = NullBuffer::new(!&deletes);
    let target = operations_schema(schema, key);
    let mut columns = Vec::with_capacity(target.fields().len());
    for (place, field) in schema.fields.iter().enumerate() {
        let column = batch.column_by_name(&field.name);
        let wanted = target.field(place).data_type();
        let fitted = if key.columns().contains(&place) {
            fit_field(column, field, wanted, rows, None, allowance)
        } else {
            fit_live(column, field, wanted, &upserts, &deletes, allowance)
        };
        columns.push(fitted.map_err(|misfit| reject(&field.name, misfit))?);
    }
    columns.push(Arc::new(operations));
    finish(target, columns, rows, first_row)
}

/// The keys of a batch's rows as columns of [`super::super::key::key_schema`]; other columns of the
/// table are not read.
pub fn conform_keys(
    batch: &RecordBatch,
    schema: &TableSchema,
    key: &KeyText,
    first_row: usize,
    allowance: &mut Allowance,
) -> Result<RecordBatch, Rejection> {
    let reject = |name: &str, misfit: Misfit| misfit.into_rejection(name, first_row);
    if has_operations(batch) {
        let twice = Misfit::column(Reason::OperationTwice);
        return Err(reject(OPERATION_COLUMN, twice));
    }
    check_names(batch, schema, false).map_err(|(name, misfit)| reject(name, misfit))?;
    let rows = batch.num_rows();
    let target = SchemaRef::clone(key.schema());
    let mut columns = Vec::with_capacity(target.fields().len());
    for (place, wanted) in key.columns().iter().zip(target.fields()) {
        let field = &schema.fields[*place];
        let column = batch.column_by_name(&field.name);
        let fitted = fit_field(column, field, wanted.data_type(), rows, None, allowance);
        columns.push(fitted.map_err(|misfit| reject(&field.name, misfit))?);
    }
    finish(target, columns, rows, first_row)
}

/// Which rows delete, by a column of operations that was checked.
pub(crate) fn deletes(operations: &Int8Array) -> BooleanBuffer {
    let values = operations.values();
    BooleanBuffer::collect_bool(values.len(), |row| values[row] == DELETE)
}

fn finish(
    target: SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
    first_row: usize,
) -> Result<RecordBatch, Rejection> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(target, columns, &options)
        .map_err(|error| Rejection::of_row(first_row, corrupt(&error)))
}

/// A column that only rows which are written need to have.
fn fit_live(
    column: Option<&ArrayRef>,
    field: &tidelake_schema::Field,
    target: &DataType,
    upserts: &NullBuffer,
    deletes: &BooleanBuffer,
    allowance: &mut Allowance,
) -> Result<ArrayRef, Misfit> {
    let Some(column) = column else {
        if let Some(row) = upserts.inner().set_indices().next()
            && field.required
        {
            return Err(Misfit::row(row, Reason::MissingField));
        }
        return nested::nulls(target, upserts.len(), allowance);
    };
    if upserts.null_count() == 0 {
        return nested::fit(column, &field.ty, target, field.required, None, allowance);
    }
    let fitted = nested::fit(
        column,
        &field.ty,
        target,
        field.required,
        Some(upserts),
        allowance,
    )?;
    let deletes = BooleanArray::new(deletes.clone(), None);
    nullif(&fitted, &deletes).map_err(arrow_misfit)
}

/// The operations as they are kept; any integer will do.
fn operations(column: &ArrayRef, allowance: &mut Allowance) -> Result<Int8Array, Misfit> {
    let given = column.data_type();
    if !given.is_integer() {
        let (expected, found) = ("0 (upsert) or 1 (delete)".to_owned(), type_name(given));
        return Err(Misfit::column(Reason::WrongType { expected, found }));
    }
    allowance.take(column.len())?;
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    let cast = cast_with_options(column, &DataType::Int8, &options).map_err(arrow_misfit)?;
    let operations = cast.as_primitive::<Int8Type>();
    let known = |row: &usize| {
        operations.is_valid(*row) && matches!(operations.value(*row), UPSERT | DELETE)
    };
    if let Some(row) = (0..operations.len()).find(|row| !known(row)) {
        let found = match column.is_null(row) {
            true => "null".to_owned(),
            false => array_value_to_string(column, row)
                .map_or_else(|_| "a value".to_owned(), |text| excerpt(text.as_bytes())),
        };
        return Err(Misfit::row(row, Reason::UnknownOperation { found }));
    }
    Ok(Int8Array::new(operations.values().clone(), None))
}
