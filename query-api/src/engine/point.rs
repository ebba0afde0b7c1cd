//! Statements that name whole keys take the lookup's way: no plan, no threads of their own.
//!
//! ```text
//!  Point ─► columns, keys of the table's types ─► KeyIndex ─► rows of files and tail ─► one batch
//! ```
//! Owns what a literal means beside a key column. Invariant: the way is taken only where a plan
//! would certainly find the same rows, under the same names and types: a literal whose conversion
//! the planner decides (a text beside a timestamp, a float beside a whole number) leaves the
//! statement to it, as does whatever would be an error.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{Datelike, NaiveDate};
use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Ident;

use super::Engine;
use crate::error::QueryError;
use crate::formats::output_schema;
use crate::lookup::{fetch, gathered};
use crate::provider::points;
use crate::sql::{Literal, Point, Wanted, column_named};
use crate::table::keys::TableKeys;
use crate::tail::{Found, KeyIndex};

/// Keys beyond are for threads of their own to read.
const KEYS_MAX: usize = 1_000;
/// Rows by key are read with all their columns: a plan reads fewer of a wide table.
const COLUMNS_MAX: usize = 32;
/// Digits that a float keeps, whatever they are.
const FLOAT_DIGITS: usize = 15;

/// What is asked for, in the types of one version of the table.
#[derive(Debug)]
pub(super) struct Keyed {
    index: KeyIndex,
    keys: RecordBatch,
    /// Places of the columns in the table.
    columns: Vec<usize>,
    /// Of the answer.
    schema: SchemaRef,
    limit: Option<usize>,
    is_explained: bool,
}

/// What a literal is beside a column.
#[derive(Debug, PartialEq)]
enum Meaning {
    Value(ScalarValue),
    /// No row has it.
    Nothing,
    /// The planner knows.
    Open,
}

impl Keyed {
    /// The statement in the table's types; none where it is the planner's.
    pub(super) fn of(point: &Point, index: &KeyIndex) -> Option<Self> {
        let shape = &index.pinned().shape;
        let fields = shape.schema.fields();
        let mut columns = Vec::with_capacity(fields.len());
        let mut shown = Vec::with_capacity(fields.len());
        for wanted in &point.columns {
            match wanted {
                Wanted::All => {
                    columns.extend(0..fields.len());
                    shown.extend(fields.iter().map(|field| field.as_ref().clone()));
                }
                Wanted::Column { name, shown: other } => {
                    let place = column_named(name, fields)?;
                    let field: Field = fields[place].as_ref().clone();
                    columns.push(place);
                    shown.push(match other {
                        Some(other) => field.with_name(other),
                        None => field,
                    });
                }
            }
        }
        if fields.len() > COLUMNS_MAX && columns.len() < fields.len() {
            return None;
        }
        let mut names = HashSet::with_capacity(shown.len());
        // A name that comes twice is refused by the planner.
        if !shown.iter().all(|field| names.insert(field.name())) {
            return None;
        }
        let schema = output_schema(&Schema::new(shown));
        let bound = bound(index.keys(), point, &|name| {
            Some(fields[column_named(name, fields)?].name().clone())
        })?;
        let keys = points::combined(index.keys().schema(), &bound).ok()??;
        (keys.num_rows() <= KEYS_MAX).then(|| Self {
            index: index.clone(),
            keys,
            columns,
            schema,
            limit: point.limit,
            is_explained: point.is_explained,
        })
    }
}

/// The values of each key column; none where they are not all named, each once, or nothing else is.
fn bound(
    keys: &TableKeys,
    point: &Point,
    column: &dyn Fn(&Ident) -> Option<String>,
) -> Option<Vec<Vec<ScalarValue>>> {
    let schema = keys.schema();
    let mut bound: Vec<Option<Vec<ScalarValue>>> = vec![None; schema.fields().len()];
    for (name, literals) in &point.conditions {
        let place = schema.index_of(&column(name)?).ok()?;
        let data_type = schema.field(place).data_type();
        let mut values = Vec::with_capacity(literals.len());
        // A key that is named twice has its row once.
        let mut named = HashSet::with_capacity(literals.len());
        for literal in literals {
            match meaning(literal, data_type) {
                Meaning::Value(value) => {
                    let new = keys.possible(place, value);
                    values.extend(new.filter(|value| named.insert(value.clone())));
                }
                Meaning::Nothing => {}
                Meaning::Open => return None,
            }
        }
        if bound[place].replace(values).is_some() {
            return None;
        }
    }
    bound.into_iter().collect()
}

fn meaning(literal: &Literal, data_type: &DataType) -> Meaning {
    let value = match (data_type, literal) {
        (DataType::Boolean, Literal::Boolean(value)) => ScalarValue::Boolean(Some(*value)),
        (DataType::Int32, Literal::Integer(value)) => match i32::try_from(*value) {
            Ok(value) => ScalarValue::Int32(Some(value)),
            Err(_) => return Meaning::Nothing,
        },
        (DataType::Int64, Literal::Integer(value)) => ScalarValue::Int64(Some(*value)),
        (DataType::Utf8, Literal::Text(text)) => ScalarValue::Utf8(Some(text.clone())),
        (DataType::Date32, Literal::Text(text)) => match date(text) {
            Some(date) => ScalarValue::Date32(Some(Date32Type::from_naive_date(date))),
            None => return Meaning::Open,
        },
        (DataType::Decimal128(precision, scale), Literal::Integer(value)) => {
            return decimal(&value.to_string(), *precision, *scale);
        }
        (DataType::Decimal128(precision, scale), Literal::Number(digits)) => {
            return decimal(digits, *precision, *scale);
        }
        // Of the column's own type there is nothing to convert.
        (_, Literal::Typed(value)) if value.data_type() == *data_type => value.clone(),
        _ => return Meaning::Open,
    };
    Meaning::Value(value)
}

/// A date as ISO 8601 has it, and no other text that may be one.
fn date(text: &str) -> Option<NaiveDate> {
    let form = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    let is_iso = text.len() == 10 && text.bytes().enumerate().all(form);
    let date = is_iso.then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())??;
    (date.year() > 0).then_some(date)
}

/// Digits as a decimal. A number with a point is a float to the planner, which is the decimal that is
/// written while it has few digits; what does not fit the column may fail there.
fn decimal(text: &str, precision: u8, scale: i8) -> Meaning {
    let (digits_max, Ok(scale)) = (usize::from(precision), usize::try_from(scale)) else {
        return Meaning::Open;
    };
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    if whole.len() + fraction.len() > FLOAT_DIGITS || whole.len() + scale > digits_max {
        return Meaning::Open;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > scale {
        return Meaning::Nothing;
    }
    let padded = format!("{whole}{fraction:0<scale$}");
    let unscaled = match padded.is_empty() {
        true => Ok(0),
        false => padded.parse::<i128>(),
    };
    match (unscaled, i8::try_from(scale)) {
        (Ok(value), Ok(scale)) => Meaning::Value(ScalarValue::Decimal128(
            Some(sign * value),
            precision,
            scale,
        )),
        _ => Meaning::Open,
    }
}

impl Engine {
    /// The rows; none where they are more than fits at once, or only a scan finds them, which is the
    /// planner's.
    pub(super) async fn by_key(&self, keyed: &Keyed) -> Result<Option<RecordBatch>, QueryError> {
        let found = keyed.index.find(self.readers(), keyed.keys.clone());
        let Some(places) = found.await? else {
            return Ok(None);
        };
        if keyed.is_explained {
            return Ok(Some(keyed.explained(&places)?));
        }
        let bytes_max = self.settings().json_bytes_max;
        let rows = fetch(self.readers(), keyed.index.pinned(), &places, bytes_max).await?;
        if rows.len() < places.len() {
            return Ok(None);
        }
        let batch = gathered(&rows, &keyed.columns, &keyed.schema)?;
        Ok(Some(match keyed.limit {
            Some(limit) => batch.slice(0, limit.min(batch.num_rows())),
            None => batch,
        }))
    }
}

impl Keyed {
    /// As `EXPLAIN` shows plans.
    fn explained(&self, places: &[Option<Found>]) -> Result<RecordBatch, QueryError> {
        let mut files = HashSet::new();
        let mut of_tail = 0;
        for place in places.iter().flatten() {
            match place {
                Found::File { path, .. } => _ = files.insert(path.as_ref()),
                Found::Tail { .. } => of_tail += 1,
            }
        }
        let mut files: Vec<&str> = files.into_iter().collect();
        files.sort_unstable();
        let pinned = self.index.pinned();
        let names = self
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        let text = format!(
            "KeyLookup: table={}, version={}, keys={}, files=[{}], rows_of_tail={of_tail}, \
             columns=[{}]{}",
            pinned.entry.id.table,
            pinned.snapshot.version(),
            self.keys.num_rows(),
            files.join(", "),
            names.collect::<Vec<_>>().join(", "),
            self.limit
                .map_or_else(String::new, |limit| format!(", limit={limit}")),
        );
        let schema = Schema::new(vec![
            Field::new("plan_type", DataType::Utf8, false),
            Field::new("plan", DataType::Utf8, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["physical_plan"])),
            Arc::new(StringArray::from(vec![text])),
        ];
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_has_a_meaning_where_the_planner_has_no_choice() {
        let integer = |value| Literal::Integer(value);
        let text = |text: &str| Literal::Text(text.to_owned());
        let number = |digits: &str| Literal::Number(digits.to_owned());
        let of = |literal: Literal, data_type| meaning(&literal, &data_type);
        assert_eq!(of(integer(1 << 40), DataType::Int32), Meaning::Nothing);
        assert_eq!(
            of(integer(-3), DataType::Int32),
            Meaning::Value(ScalarValue::Int32(Some(-3)))
        );
        for (literal, data_type) in [
            (text("1"), DataType::Int64),
            (number("1.0"), DataType::Int64),
            (integer(1), DataType::Utf8),
            (integer(1), DataType::Boolean),
            (text("2026-1-1"), DataType::Date32),
            (text("2026-02-30"), DataType::Date32),
            (text("0000-01-01"), DataType::Date32),
            (text("2026-01-01T00:00:00"), DataType::Date32),
            (text("1"), DataType::Decimal128(9, 2)),
            (number("1234567.0000000001"), DataType::Decimal128(38, 2)),
            (integer(12_345_678), DataType::Decimal128(9, 2)),
        ] {
            assert_eq!(of(literal.clone(), data_type), Meaning::Open, "{literal:?}");
        }
        let decimal = |literal: Literal| of(literal, DataType::Decimal128(9, 2));
        let value = |unscaled| Meaning::Value(ScalarValue::Decimal128(Some(unscaled), 9, 2));
        assert_eq!(decimal(number("8.61")), value(861));
        assert_eq!(decimal(number("-0.5")), value(-50));
        assert_eq!(decimal(number("8.6100")), value(861));
        assert_eq!(decimal(number("8.611")), Meaning::Nothing);
        assert_eq!(decimal(number(".0")), value(0));
        assert_eq!(decimal(integer(-7)), value(-700));
    }
}
