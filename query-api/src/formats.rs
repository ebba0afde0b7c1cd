//! Results as bytes: which format a client takes, and one encoder for each.
//!
//! Owns the negotiation ([`Format::of_accept`]), the shape of results that clients see
//! ([`output_schema`]) and the encoders. Does not own where the bytes go: see `answer`.

mod binary;
mod csv;
mod intervals;
pub(crate) mod json;
pub(crate) mod objects;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::QueryError;

use crate::table::shape::DECLARED_TYPE;

/// What becomes of floats that JSON has no number for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OddFloats {
    #[default]
    Null,
    /// `"NaN"`, `"Infinity"`, `"-Infinity"`.
    Text,
}

impl OddFloats {
    /// Of an `Accept` header that need not name JSON: `application/json; floats=text`.
    pub(crate) fn of_accept(accept: Option<&str>) -> Self {
        match Format::of_accept(accept) {
            Ok(Format::Json(odd)) => odd,
            _ => Self::Null,
        }
    }
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json(OddFloats),
    Ndjson(OddFloats),
    Csv,
    Arrow,
    Parquet,
}

impl Format {
    /// True where an answer that ends early can be told from a whole one by its text alone.
    pub(crate) fn tells_its_end(self) -> bool {
        match self {
            // Built whole before it is sent; a last line; a footer.
            Self::Json(_) | Self::Ndjson(_) | Self::Parquet => true,
            Self::Csv | Self::Arrow => false,
        }
    }

    const ALL: [(Self, &'static str); 6] = [
        (Self::Json(OddFloats::Null), "application/json"),
        (Self::Ndjson(OddFloats::Null), "application/x-ndjson"),
        (Self::Ndjson(OddFloats::Null), "application/jsonl"),
        (Self::Csv, "text/csv"),
        (Self::Arrow, "application/vnd.apache.arrow.stream"),
        (Self::Parquet, "application/vnd.apache.parquet"),
    ];

    /// The format that an `Accept` header likes best; of equals, the first one named.
    pub(crate) fn of_accept(accept: Option<&str>) -> Result<Self, QueryError> {
        let Some(accept) = accept.map(str::trim).filter(|accept| !accept.is_empty()) else {
            return Ok(Self::Json(OddFloats::Null));
        };
        let mut best: Option<(Self, f32)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut odd) = (1.0f32, OddFloats::Null);
            for part in parts {
                if let Some(given) = part.strip_prefix("q=") {
                    quality = given.parse().unwrap_or(quality);
                } else if part == "floats=text" {
                    odd = OddFloats::Text;
                }
            }
            let named = Self::ALL.iter().find(|(_, name)| matches(&media, name));
            if let Some((format, _)) = named
                && quality > 0.0
                && best.is_none_or(|(_, held)| quality > held)
            {
                best = Some((format.with(odd), quality));
            }
        }
        best.map(|(format, _)| format)
            .ok_or_else(|| QueryError::NotAcceptable(accept.to_owned()))
    }

    fn with(self, odd: OddFloats) -> Self {
        match self {
            Self::Json(_) => Self::Json(odd),
            Self::Ndjson(_) => Self::Ndjson(odd),
            other => other,
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Ndjson(_) => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

fn matches(range: &str, name: &str) -> bool {
    range == name
        || range == "*/*"
        || range.strip_suffix("/*").is_some_and(|kind| {
            name.strip_prefix(kind)
                .is_some_and(|rest| rest.starts_with('/'))
        })
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// There are more rows than the reader wanted.
    pub truncated: bool,
    pub rows: u64,
    /// The status line left before that was known.
    pub late: bool,
}

/// Turns batches into bytes. Batches must have the schema the encoder was made for.
pub(crate) trait Encoder: Send {
    /// Bytes that are ready now; may be empty.
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, QueryError>;

    /// What comes after the last batch.
    fn finish(&mut self, end: End) -> Result<Bytes, QueryError>;

    /// What tells a client, after the first bytes, that the rest is missing. Formats that can't say
    /// it are cut off.
    fn failed(&self, _error: &QueryError) -> Option<Bytes> {
        None
    }
}

/// The encoder of a streamed format; JSON is built by `answer`, which knows what surrounds the rows.
pub(crate) fn encoder(format: Format, schema: &SchemaRef) -> Result<Box<dyn Encoder>, QueryError> {
    Ok(match format {
        Format::Json(odd) | Format::Ndjson(odd) => Box::new(json::Ndjson::new(schema, odd)),
        Format::Csv => Box::new(csv::Csv::new(schema)),
        Format::Arrow => Box::new(binary::ArrowStream::new(schema)?),
        Format::Parquet => Box::new(binary::Parquet::new(schema)?),
    })
}

/// The schema of a result as clients get it: plain types instead of the engine's views, no metadata
/// but the declared type, and no name twice.
pub(crate) fn output_schema(schema: &Schema) -> SchemaRef {
    let mut taken = HashSet::new();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut copy = 2;
        while !taken.insert(name.clone()) {
            name = format!("{}_{copy}", field.name());
            copy += 1;
        }
        plain_field(field).as_ref().clone().with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A batch in the schema of [`output_schema`]. Batches that have it already pass for free.
pub(crate) fn output_batch(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, QueryError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let declared = field.metadata().get(DECLARED_TYPE);
    let metadata = declared.map(|ty| (DECLARED_TYPE.to_owned(), ty.clone()));
    let plain = Field::new(field.name(), plain(field.data_type()), field.is_nullable());
    Arc::new(plain.with_metadata(metadata.into_iter().collect()))
}

fn plain_fields(fields: &Fields) -> Fields {
    fields.iter().map(plain_field).collect()
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::List(element) => DataType::List(plain_field(element)),
        DataType::LargeList(element) => DataType::LargeList(plain_field(element)),
        DataType::ListView(element) => DataType::List(plain_field(element)),
        DataType::LargeListView(element) => DataType::LargeList(plain_field(element)),
        DataType::FixedSizeList(element, size) => {
            DataType::FixedSizeList(plain_field(element), *size)
        }
        DataType::Struct(fields) => DataType::Struct(plain_fields(fields)),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}
