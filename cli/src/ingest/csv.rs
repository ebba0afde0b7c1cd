//! CSV files as Arrow batches, without losing what digits say.
//!
//! A value such as `007` or `+49…` is no number to whoever wrote it: a column whose beginning has one
//! is text. Numbers are read as text first, so that one further behind is an error and not a 7.

use std::io::{BufRead, Cursor, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, RecordBatchReader};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{BufReader as CsvReader, Format};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::open::{BATCH_ROWS, Batches, Text};
use super::source::{INFER_BYTES_MAX, INFER_RECORDS};
use crate::failure::{Failure, chain};

/// Opens a file with a header line. The columns of `text` are text, whatever they hold.
pub(super) fn csv(mut content: Text, text: &[String]) -> Result<Batches, Failure> {
    let failed = |error: ArrowError| Failure::failed(chain(&error));
    let mut head = Vec::new();
    content
        .by_ref()
        .take(INFER_BYTES_MAX)
        .read_to_end(&mut head)?;
    let format = Format::default().with_header(true);
    let (seen, _) = format
        .infer_schema(&head[..], Some(INFER_RECORDS))
        .map_err(failed)?;
    if let Some(unknown) = text.iter().find(|name| seen.index_of(name).is_err()) {
        let message = format!("the file has no column {unknown:?} to read as text");
        return Err(Failure::usage(message));
    }
    let schema = Arc::new(meant(&head, &seen, text).map_err(failed)?);
    let raw = ReaderBuilder::new(Arc::new(raw(&schema)))
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .build_buffered(Cursor::new(head).chain(content))
        .map_err(failed)?;
    Ok(Box::new(Numbers {
        raw,
        schema,
        records: 0,
    }))
}

/// The columns as they are meant: numbers that are not all written as numbers are text.
fn meant(head: &[u8], seen: &Schema, text: &[String]) -> Result<Schema, ArrowError> {
    let all_text = seen.fields().iter();
    let all_text = all_text.map(|field| Field::new(field.name(), DataType::Utf8, true));
    let first = ReaderBuilder::new(Arc::new(Schema::new(all_text.collect::<Vec<_>>())))
        .with_header(true)
        .with_batch_size(INFER_RECORDS)
        .build(head)?
        .next()
        .transpose()?;
    let fields = seen.fields().iter().enumerate().map(|(at, field)| {
        let keeps = |value: &str| number(value, field.data_type()).is_ok();
        let column = first
            .as_ref()
            .map(|batch| batch.column(at).as_string::<i32>());
        let is_text = text.contains(field.name())
            || is_number(field) && column.is_some_and(|column| !column.iter().flatten().all(keeps));
        match is_text {
            true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
            false => Arc::clone(field),
        }
    });
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

fn is_number(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Int64 | DataType::Float64)
}

/// As the file is read: numbers are text still.
fn raw(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| match is_number(field) {
        true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        false => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// A number, read exactly.
#[derive(Debug, PartialEq)]
enum Number {
    Whole(i64),
    Float(f64),
}

/// Why a text is no number.
fn number(value: &str, data_type: &DataType) -> Result<Number, &'static str> {
    let digits = value.trim_start_matches('-');
    let mut digits = digits.bytes();
    if digits.next() == Some(b'0') && digits.next().is_some_and(|next| next.is_ascii_digit()) {
        return Err("has zeros in front, which a number would lose");
    }
    match data_type {
        DataType::Int64 => {
            let whole = value.parse().map(Number::Whole);
            whole.map_err(|_| "is no whole number of 64 bits, as the values before it")
        }
        _ => {
            let float = value.parse().map(Number::Float);
            float.map_err(|_| "is no number, as the values before it")
        }
    }
}

/// Batches of a file, with the numbers in them read.
struct Numbers<R> {
    raw: CsvReader<R>,
    schema: SchemaRef,
    records: usize,
}

impl<R: BufRead> Numbers<R> {
    fn read(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let fields = self.schema.fields().iter();
        let columns = fields.zip(batch.columns()).map(|(field, column)| {
            if !is_number(field) {
                return Ok(Arc::clone(column));
            }
            let texts = column.as_string::<i32>();
            let numbers = texts.iter().enumerate().map(|(row, value)| {
                let read = value.map(|value| number(value, field.data_type()));
                read.transpose().map_err(|why| {
                    let record = self.records + row;
                    let (name, value) = (field.name(), texts.value(row));
                    ArrowError::ParseError(format!(
                        "record {record}, column {name:?}: {value:?} {why}; --text {name} reads \
                         the column as text"
                    ))
                })
            });
            let numbers: Vec<Option<Number>> = numbers.collect::<Result<_, _>>()?;
            Ok::<ArrayRef, ArrowError>(match field.data_type() {
                DataType::Int64 => Arc::new(Int64Array::from_iter(numbers.iter().map(whole))),
                _ => Arc::new(Float64Array::from_iter(numbers.iter().map(float))),
            })
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

fn whole(number: &Option<Number>) -> Option<i64> {
    match number {
        Some(Number::Whole(value)) => Some(*value),
        _ => None,
    }
}

fn float(number: &Option<Number>) -> Option<f64> {
    match number {
        Some(Number::Float(value)) => Some(*value),
        _ => None,
    }
}

impl<R: BufRead> Iterator for Numbers<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.raw.next()?;
        let read = batch.and_then(|batch| {
            let rows = batch.num_rows();
            let read = self.read(&batch)?;
            self.records += rows;
            Ok(read)
        });
        Some(read)
    }
}

impl<R: BufRead> RecordBatchReader for Numbers<R> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: String, text: &[&str]) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
        let text: Vec<String> = text.iter().map(|name| (*name).to_owned()).collect();
        let batches = csv(Box::new(Cursor::new(content)), &text);
        let batches = batches.map_err(|failure| failure.message)?;
        let schema = batches.schema();
        let all: Result<Vec<_>, _> = batches.collect();
        Ok((schema, all.map_err(|error| error.to_string())?))
    }

    fn types(content: &str, text: &[&str]) -> Vec<DataType> {
        let (schema, _) = read(content.to_owned(), text).unwrap();
        let fields = schema.fields().iter();
        fields.map(|field| field.data_type().clone()).collect()
    }

    #[test]
    fn digits_that_are_no_number_stay_text() {
        let content = "zip,plain,neg,price,big,day\n\
                       00501,0,-5,0.5,99999999999999999999,2026-01-01\n\
                       10115,10,0,10.25,1,2026-01-02\n";
        let wanted = [
            DataType::Utf8,
            DataType::Int64,
            DataType::Int64,
            DataType::Float64,
            DataType::Utf8,
            DataType::Date32,
        ];
        assert_eq!(types(content, &[]), wanted);
        let (_, batches) = read(content.to_owned(), &[]).unwrap();
        assert_eq!(batches[0].column(0).as_string::<i32>().value(0), "00501");
        assert_eq!(
            types("a,b\n1,00.5\n2,1.5\n", &["a"]),
            [DataType::Utf8, DataType::Utf8]
        );
        let none = read("a\n1\n".into(), &["x"]).unwrap_err();
        assert_eq!(none, "the file has no column \"x\" to read as text");
    }

    #[test]
    fn a_number_that_would_lose_zeros_far_behind_is_told() {
        let mut content = "id,code\n".to_owned();
        for id in 0..2 * INFER_RECORDS {
            content.push_str(&format!("{id},{id}\n"));
        }
        content.push_str("9,007\n,\n");
        let error = read(content.clone(), &[]).unwrap_err();
        let place = format!("record {}, column \"code\": \"007\"", 2 * INFER_RECORDS);
        assert!(
            error.contains(&place) && error.contains("--text code"),
            "{error}"
        );
        let (_, batches) = read(content, &["code"]).unwrap();
        let last = batches.last().unwrap();
        let rows = last.num_rows();
        assert_eq!(last.column(1).as_string::<i32>().value(rows - 2), "007");
        assert!(last.column(0).is_null(rows - 1) && last.column(1).is_null(rows - 1));
    }
}
