//! A file as a sequence of bodies that the gateway takes.
//!
//! | file | bodies |
//! | --- | --- |
//! | NDJSON | whole lines, NDJSON |
//! | JSON array, or one object | JSON arrays |
//! | Parquet, Arrow file, Arrow stream, CSV | Arrow streams |
//!
//! Text may be compressed with gzip or zstd; it is told from the bytes, not from the name.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::error::ArrowError;
use arrow::json::reader::infer_json_schema;
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::Value;

use super::csv::csv;
use super::cut::{array, lines, streams};
use super::infer;
use super::open::{
    Content, Counted, Text, arrow, decompressed, format_of, is_there, json, parquet,
};
use crate::failure::Failure;

/// Records that are looked at to find a schema.
pub(super) const INFER_RECORDS: usize = 1000;
/// Bytes of a text file kept from looking at its records.
pub(super) const INFER_BYTES_MAX: u64 = 8 << 20;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// One JSON object a line
    Ndjson,
    /// One array of objects, or one object
    Json,
    Parquet,
    /// Arrow IPC, file or stream
    Arrow,
    /// With a header line
    Csv,
}

/// One body for the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub bytes: Bytes,
    pub media_type: &'static str,
    /// The number of its first record within the file, from 0.
    pub first_record: u64,
    /// How far the file was read for it.
    pub file_bytes: u64,
}

/// A file that was opened and looked at.
pub(crate) struct Source {
    shown: String,
    content: Content,
    bytes_total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.shown)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Opens a file; `-` is standard input. `text_columns` of a CSV file are text, whatever they hold.
    pub(crate) fn open(
        path: &Path,
        format: Option<FileFormat>,
        text_columns: &[String],
    ) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let failed = |why: String| Failure::failed(format!("{shown}: {why}"));
        if shown != "-" {
            is_there(path)?;
        }
        let format = match format.or_else(|| format_of(path)) {
            Some(format) => format,
            None => {
                let failure = Failure::usage(format!("{shown}: can't tell what it holds"));
                return Err(failure.hint("say --format ndjson|json|parquet|arrow|csv"));
            }
        };
        if format != FileFormat::Csv && !text_columns.is_empty() {
            let message = format!("{shown} says itself what its columns are");
            return Err(Failure::usage(message).hint("--text is for CSV files"));
        }
        let bytes_read = Arc::new(AtomicU64::new(0));
        let (file, bytes_total): (Option<File>, Option<u64>) = if shown == "-" {
            (None, None)
        } else {
            let file = File::open(path).map_err(|error| failed(error.to_string()))?;
            let size = file.metadata().map(|metadata| metadata.len()).ok();
            (Some(file), size)
        };
        let content = match (format, file) {
            (FileFormat::Parquet, Some(file)) => Content::Batches(parquet(file, &bytes_read)?),
            (FileFormat::Parquet, None) => {
                return Err(Failure::usage("Parquet can't be read from standard input"));
            }
            (format, file) => {
                let raw: Box<dyn Read + Send> = match file {
                    Some(file) => Box::new(file),
                    None => Box::new(std::io::stdin()),
                };
                let counted = Counted {
                    inner: raw,
                    read: Arc::clone(&bytes_read),
                };
                let text = decompressed(counted).map_err(|error| failed(error.to_string()))?;
                match format {
                    FileFormat::Ndjson => Content::Ndjson(text),
                    FileFormat::Json => json(text).map_err(|error| failed(error.to_string()))?,
                    FileFormat::Csv => Content::Batches(csv(text, text_columns)?),
                    FileFormat::Arrow | FileFormat::Parquet => Content::Batches(arrow(text, path)?),
                }
            }
        };
        Ok(Self {
            shown,
            content,
            bytes_total,
            bytes_read,
        })
    }

    pub(crate) fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// A schema that fits the file's beginning, as Iceberg schema JSON; and the file, none of it
    /// consumed.
    pub(crate) fn infer(self) -> Result<(Value, Self), Failure> {
        let Self {
            shown,
            content,
            bytes_total,
            bytes_read,
        } = self;
        let failed = |why: String| Failure::failed(format!("{shown}: {why}"));
        let (schema, content) = match content {
            Content::Batches(batches) => (
                infer::table_schema(&batches.schema())?,
                Content::Batches(batches),
            ),
            Content::Ndjson(mut text) => {
                let mut head = Vec::new();
                let read = text.by_ref().take(INFER_BYTES_MAX).read_to_end(&mut head);
                read.map_err(|error| failed(error.to_string()))?;
                let whole = head.iter().rposition(|byte| *byte == b'\n');
                // The last line of what was looked at may be torn.
                let whole = match whole {
                    Some(end) if head.len() as u64 == INFER_BYTES_MAX => &head[..=end],
                    _ => &head[..],
                };
                let schema = infer_json_schema(whole, Some(INFER_RECORDS))
                    .map_err(|error| failed(error.to_string()))?;
                let text: Text = Box::new(std::io::Cursor::new(head).chain(text));
                (infer::table_schema(&schema.0)?, Content::Ndjson(text))
            }
            Content::Json(mut text) => {
                let mut whole = Vec::new();
                text.read_to_end(&mut whole)
                    .map_err(|error| failed(error.to_string()))?;
                let value: Value =
                    serde_json::from_slice(&whole).map_err(|error| failed(error.to_string()))?;
                let records = match value {
                    Value::Array(records) => records,
                    single => vec![single],
                };
                let records = records
                    .into_iter()
                    .take(INFER_RECORDS)
                    .map(Ok::<_, ArrowError>);
                let schema = arrow::json::reader::infer_json_schema_from_iterator(records)
                    .map_err(|error| failed(error.to_string()))?;
                (
                    infer::table_schema(&schema)?,
                    Content::Json(Box::new(std::io::Cursor::new(whole))),
                )
            }
        };
        Ok((
            schema,
            Self {
                shown,
                content,
                bytes_total,
                bytes_read,
            },
        ))
    }

    /// Cuts the file, without `skip` records at its beginning, into bodies of about `body_bytes` and
    /// hands each to `sink`, which says whether to go on.
    pub(crate) fn bodies(
        self,
        body_bytes: usize,
        skip: u64,
        mut sink: impl FnMut(Body) -> bool,
    ) -> Result<(), Failure> {
        let shown = self.shown;
        let bytes_read = self.bytes_read;
        let mut first_record = skip;
        let mut hand_over = |bytes: Vec<u8>, media_type, records: u64| {
            let file_bytes = bytes_read.load(Ordering::Relaxed);
            let body = Body {
                bytes: bytes.into(),
                media_type,
                first_record,
                file_bytes,
            };
            first_record += records;
            sink(body)
        };
        match self.content {
            Content::Ndjson(text) => lines(text, body_bytes, skip, |bytes, records| {
                hand_over(bytes, "application/x-ndjson", records)
            }),
            Content::Json(text) => array(text, body_bytes, skip, |bytes, records| {
                hand_over(bytes, "application/json", records)
            }),
            Content::Batches(batches) => streams(batches, body_bytes, skip, |bytes, records| {
                hand_over(bytes, "application/vnd.apache.arrow.stream", records)
            }),
        }
        .map_err(|why| Failure::failed(format!("{shown}: {why}")))
    }
}
