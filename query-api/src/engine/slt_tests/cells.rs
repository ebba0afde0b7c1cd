//! Values as DataFusion's files write them.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// Digits of a fraction that are told.
const DIGITS: usize = 12;

/// The rows of an answer.
pub(super) fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let rows = 0..batch.num_rows();
    rows.map(|row| {
        batch
            .columns()
            .iter()
            .map(|column| cell(column, row))
            .collect()
    })
    .collect()
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    match column.data_type() {
        DataType::Float16 => cell(&cast(column, &DataType::Float32).unwrap(), row),
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            float(value.into(), value.to_string())
        }
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            float(value, value.to_string())
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let text = cast(column, &DataType::Utf8).unwrap();
            match text.as_string::<i32>().value(row) {
                "" => "(empty)".to_owned(),
                text => text.trim_end_matches('\n').replace('\0', "\\0"),
            }
        }
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => shortened(&shown(column, row)),
        _ => shown(column, row),
    }
}

fn float(value: f64, shortest: String) -> String {
    if !value.is_finite() {
        return match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN",
            (_, true) => "Infinity",
            (_, false) => "-Infinity",
        }
        .to_owned();
    }
    let long = shortest
        .split_once('.')
        .is_some_and(|(_, digits)| digits.len() > DIGITS);
    match shortened(&if long {
        format!("{value:.DIGITS$}")
    } else {
        shortest
    }) {
        zero if zero == "-0" => "0".to_owned(),
        text => text,
    }
}

/// Zeros at the end of a fraction tell nothing.
fn shortened(number: &str) -> String {
    match number.contains('.') {
        true => number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => number.to_owned(),
    }
}

fn shown(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let format = ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
    format.value(row).to_string()
}
