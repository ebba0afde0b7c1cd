//! Statistics of a data file, as they stand in `add.stats`.
//!
//! Bounds are true bounds always: what can't be said exactly is rounded outwards (long texts,
//! timestamps finer than a millisecond) or left out (NaN, infinities, decimals beyond 15 digits,
//! types that Delta keeps no bounds of). Columns are named as in the Parquet file.
//!
//! A bound that was written once is never printed again: where a file's statistics change because
//! rows of it were deleted, its bounds are carried over as text ([`widened`]). Other engines
//! compare with the digits that stand there, and write numbers that we could only round.

mod text;

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StructArray};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use text::{Told, tell, widened};

/// Characters of a text that a bound keeps.
pub const TEXT_CHARS_MAX: usize = 32;
/// Decimal digits that a JSON number carries through every reader unharmed.
const DECIMAL_DIGITS_MAX: u8 = 15;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// Delta's per-file statistics. Bounds and null counts stand by physical column name, nested in
/// structs.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Physical rows: those that a deletion vector takes away are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_records: Option<u64>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub min_values: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub max_values: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub null_count: Map<String, Value>,
    /// False where rows that made the bounds may be deleted. Absent counts as true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tight_bounds: Option<bool>,
}

impl Stats {
    /// Reads the text of `add.stats`. Statistics are optional, each for itself: what is null or of
    /// another form than expected counts as absent.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        text::parse(text)
    }

    /// The text for `add.stats`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("statistics have text keys and finite numbers")
    }
}

/// Gathers the statistics of one file, batch by batch.
#[derive(Debug)]
pub struct StatsCollector {
    rows: u64,
    columns_max: usize,
    columns: BTreeMap<String, Column>,
}

/// One column: a leaf with bounds, a leaf with a null count only, or a struct.
#[derive(Debug)]
enum Column {
    Leaf {
        nulls: u64,
        bounds: Option<Bounds>,
        bounded: bool,
    },
    Struct(BTreeMap<String, Column>),
}

/// Bounds in the column's own order.
#[derive(Debug, Clone, PartialEq)]
enum Bounds {
    Integer(i64, i64),
    Float(f64, f64),
    Decimal(i128, i128, i8),
    Text(String, String),
    Day(i64, i64),
    /// Microseconds since the epoch; true: UTC.
    Time(i64, i64, bool),
}

impl StatsCollector {
    /// Gathers bounds and null counts of the first `columns_max` leaf columns. Columns whose names
    /// start with `__` are hidden and left out.
    pub fn new(columns_max: usize) -> Self {
        Self {
            rows: 0,
            columns_max,
            columns: BTreeMap::new(),
        }
    }

    /// Adds rows. Every batch must have the same columns.
    pub fn update(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        let mut left = self.columns_max;
        let schema = batch.schema();
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            if !field.name().starts_with("__") {
                visit(&mut self.columns, field.name(), array, None, &mut left);
            }
        }
    }

    /// The statistics of all rows.
    pub fn finish(&self) -> Stats {
        let mut stats = Stats {
            num_records: Some(self.rows),
            tight_bounds: Some(true),
            ..Stats::default()
        };
        let Stats {
            min_values,
            max_values,
            null_count,
            ..
        } = &mut stats;
        write(&self.columns, min_values, max_values, null_count);
        stats
    }
}

fn visit(
    columns: &mut BTreeMap<String, Column>,
    name: &str,
    array: &ArrayRef,
    parent: Option<&StructArray>,
    left: &mut usize,
) {
    if let Some(inner) = array.as_struct_opt() {
        let column = columns
            .entry(name.to_owned())
            .or_insert_with(|| Column::Struct(BTreeMap::new()));
        let Column::Struct(children) = column else {
            return;
        };
        // A child is null wherever one of its parents is.
        let merged = match parent {
            None => inner.clone(),
            Some(parent) => with_nulls_of(inner, parent),
        };
        for (field, child) in inner.fields().iter().zip(inner.columns()) {
            visit(children, field.name(), child, Some(&merged), left);
        }
        return;
    }
    if *left == 0 {
        return;
    }
    *left -= 1;
    let array = match parent {
        None => array.clone(),
        Some(parent) => mask(array, parent),
    };
    let column = columns
        .entry(name.to_owned())
        .or_insert_with(|| Column::Leaf {
            nulls: 0,
            bounds: None,
            bounded: true,
        });
    let Column::Leaf {
        nulls,
        bounds,
        bounded,
    } = column
    else {
        return;
    };
    *nulls += array.logical_null_count() as u64;
    if array.logical_null_count() == array.len() || !*bounded {
        return;
    }
    match bounds_of(&array) {
        // One batch without bounds leaves the file without.
        None => (*bounds, *bounded) = (None, false),
        Some(new) => *bounds = Some(bounds.take().map_or(new.clone(), |old| old.union(new))),
    }
}

fn with_nulls_of(inner: &StructArray, parent: &StructArray) -> StructArray {
    let nulls = arrow::buffer::NullBuffer::union(inner.nulls(), parent.nulls());
    StructArray::new(inner.fields().clone(), inner.columns().to_vec(), nulls)
}

/// The child's values with the parent's nulls.
fn mask(child: &ArrayRef, parent: &StructArray) -> ArrayRef {
    let nulls = arrow::buffer::NullBuffer::union(child.nulls(), parent.nulls());
    let data = child.to_data().into_builder().nulls(nulls).build();
    data.map_or_else(|_| child.clone(), arrow::array::make_array)
}

fn write(
    columns: &BTreeMap<String, Column>,
    mins: &mut Map<String, Value>,
    maxes: &mut Map<String, Value>,
    null_counts: &mut Map<String, Value>,
) {
    for (name, column) in columns {
        match column {
            Column::Leaf { nulls, bounds, .. } => {
                null_counts.insert(name.clone(), json!(nulls));
                let Some(bounds) = bounds else { continue };
                let (low, high) = bounds.to_json();
                mins.extend(low.map(|low| (name.clone(), low)));
                maxes.extend(high.map(|high| (name.clone(), high)));
            }
            Column::Struct(children) => {
                let (mut low, mut high, mut nulls) = (Map::new(), Map::new(), Map::new());
                write(children, &mut low, &mut high, &mut nulls);
                for (into, inner) in [
                    (&mut *mins, low),
                    (&mut *maxes, high),
                    (&mut *null_counts, nulls),
                ] {
                    if !inner.is_empty() {
                        into.insert(name.clone(), Value::Object(inner));
                    }
                }
            }
        }
    }
}

fn bounds_of(array: &ArrayRef) -> Option<Bounds> {
    fn ends<T: ArrowPrimitiveType>(array: &ArrayRef) -> Option<(T::Native, T::Native)> {
        let array: &PrimitiveArray<T> = array.as_primitive_opt()?;
        Some((min(array)?, max(array)?))
    }
    fn float(low: f64, high: f64) -> Option<Bounds> {
        // Zeros of both signs are equal to every reader, whatever the order of their bits.
        let low = if low == 0.0 { -0.0 } else { low };
        let high = if high == 0.0 { 0.0 } else { high };
        (low.is_finite() && high.is_finite()).then_some(Bounds::Float(low, high))
    }
    match array.data_type() {
        DataType::Int8 => {
            ends::<Int8Type>(array).map(|(low, high)| Bounds::Integer(low.into(), high.into()))
        }
        DataType::Int16 => {
            ends::<Int16Type>(array).map(|(low, high)| Bounds::Integer(low.into(), high.into()))
        }
        DataType::Int32 => {
            ends::<Int32Type>(array).map(|(low, high)| Bounds::Integer(low.into(), high.into()))
        }
        DataType::Int64 => ends::<Int64Type>(array).map(|(low, high)| Bounds::Integer(low, high)),
        // Arrow orders NaN above everything (below, with the sign bit set): an end that is not
        // finite shows it.
        DataType::Float32 => {
            ends::<Float32Type>(array).and_then(|(low, high)| float(low.into(), high.into()))
        }
        DataType::Float64 => ends::<Float64Type>(array).and_then(|(low, high)| float(low, high)),
        DataType::Decimal128(precision, scale) if *precision <= DECIMAL_DIGITS_MAX => {
            ends::<Decimal128Type>(array).map(|(low, high)| Bounds::Decimal(low, high, *scale))
        }
        DataType::Date32 => {
            ends::<Date32Type>(array).map(|(low, high)| Bounds::Day(low.into(), high.into()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => ends::<TimestampMicrosecondType>(array)
            .map(|(low, high)| Bounds::Time(low, high, zone.is_some())),
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            let (low, high) = (min_string(array)?, max_string(array)?);
            // Kept whole texts can be large: cut before they are kept.
            let high = text_above(high).unwrap_or_else(|| high.to_owned());
            Some(Bounds::Text(text_below(low).to_owned(), high))
        }
        _ => None,
    }
}

impl Bounds {
    fn union(self, other: Self) -> Self {
        use Bounds as B;
        match (self, other) {
            (B::Integer(a, b), B::Integer(c, d)) => B::Integer(a.min(c), b.max(d)),
            (B::Float(a, b), B::Float(c, d)) => B::Float(a.min(c), b.max(d)),
            (B::Decimal(a, b, scale), B::Decimal(c, d, _)) => B::Decimal(a.min(c), b.max(d), scale),
            (B::Text(a, b), B::Text(c, d)) => B::Text(a.min(c), b.max(d)),
            (B::Day(a, b), B::Day(c, d)) => B::Day(a.min(c), b.max(d)),
            (B::Time(a, b, utc), B::Time(c, d, _)) => B::Time(a.min(c), b.max(d), utc),
            (kept, _) => kept,
        }
    }

    fn to_json(&self) -> (Option<Value>, Option<Value>) {
        match self {
            Self::Integer(low, high) => (Some(json!(low)), Some(json!(high))),
            Self::Float(low, high) => (Some(json!(low)), Some(json!(high))),
            Self::Decimal(low, high, scale) => (decimal(*low, *scale), decimal(*high, *scale)),
            Self::Text(low, high) => {
                let cut = high.chars().nth(TEXT_CHARS_MAX).is_some();
                (Some(json!(low)), (!cut).then(|| json!(high)))
            }
            Self::Day(low, high) => (date(*low).map(Value::from), date(*high).map(Value::from)),
            Self::Time(low, high, utc) => {
                let down = low.div_euclid(1000);
                let up = high.div_euclid(1000) + i64::from(high.rem_euclid(1000) > 0);
                (
                    time(down, *utc).map(Value::from),
                    time(up, *utc).map(Value::from),
                )
            }
        }
    }
}

/// A decimal of at most 15 digits: its nearest double prints as the same digits.
fn decimal(unscaled: i128, scale: i8) -> Option<Value> {
    let scale = u32::try_from(scale).ok()?;
    let power = 10u64.pow(scale.min(19));
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = u64::try_from(unscaled.unsigned_abs()).ok()?;
    let width = scale as usize;
    let text = format!("{sign}{}.{:0width$}", digits / power, digits % power);
    let text = if scale == 0 {
        text.split('.').next()?
    } else {
        &text
    };
    serde_json::from_str(text).ok()
}

/// `2026-11-21`; none outside of the years 0 to 9999.
fn date(days: i64) -> Option<String> {
    // Days to civil, after Howard Hinnant's "chrono-compatible low-level date algorithms".
    let z = days.checked_add(719_468)?;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// `2026-11-21T12:34:56.789`, with `Z` for UTC.
fn time(millis: i64, utc: bool) -> Option<String> {
    let day = date(millis.div_euclid(MILLIS_PER_DAY))?;
    let rest = millis.rem_euclid(MILLIS_PER_DAY);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    let zone = if utc { "Z" } else { "" };
    Some(format!(
        "{day}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}{zone}"
    ))
}

/// A short text that is not above `text`.
pub fn text_below(text: &str) -> &str {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => text,
        Some((cut, _)) => &text[..cut],
    }
}

/// A short text that is not below `text`, in the order of code points (which is that of UTF-8
/// bytes); none where there is no such text.
pub fn text_above(text: &str) -> Option<String> {
    let Some((cut, _)) = text.char_indices().nth(TEXT_CHARS_MAX) else {
        return Some(text.to_owned());
    };
    let mut above = text[..cut].to_owned();
    while let Some(last) = above.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            above.push(next);
            return Some(above);
        }
    }
    None
}

#[cfg(test)]
mod tests;
