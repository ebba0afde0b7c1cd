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
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatchReader;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::ipc::writer::StreamWriter;
use arrow::json::reader::infer_json_schema;
use bytes::Bytes;
use clap::ValueEnum;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tidelake_codec::Rejection;
use tidelake_codec::json::stream::ArraySplitter;
use tidelake_core::limits::RECORD_BYTES_MAX;

use super::infer;
use crate::failure::{Failure, chain};

const READ_BYTES: usize = 1 << 20;
/// Records that are looked at to find a schema.
const INFER_RECORDS: usize = 1000;
/// Bytes of a text file kept from looking at its records.
const INFER_BYTES_MAX: u64 = 8 << 20;
const BATCH_ROWS: usize = 16_384;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ARROW_FILE_MAGIC: &[u8] = b"ARROW1";

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
#[derive(Debug)]
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

enum Content {
    Ndjson(Text),
    Json(Text),
    Batches(Batches),
}

type Text = Box<dyn BufRead + Send>;
type Batches = Box<dyn RecordBatchReader + Send>;

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.shown)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Opens a file; `-` is standard input.
    pub(crate) fn open(path: &Path, format: Option<FileFormat>) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let failed = |why: String| Failure::failed(format!("{shown}: {why}"));
        let format = match format.or_else(|| format_of(path)) {
            Some(format) => format,
            None => {
                let failure = Failure::usage(format!("{shown}: can't tell what it holds"));
                return Err(failure.hint("say --format ndjson|json|parquet|arrow|csv"));
            }
        };
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
                    FileFormat::Csv => Content::Batches(csv(text)?),
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

    /// Cuts the file into bodies of about `body_bytes` and hands each to `sink`, which says whether
    /// to go on.
    pub(crate) fn bodies(
        self,
        body_bytes: usize,
        mut sink: impl FnMut(Body) -> bool,
    ) -> Result<(), Failure> {
        let shown = self.shown;
        let bytes_read = self.bytes_read;
        let mut first_record = 0;
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
            Content::Ndjson(text) => lines(text, body_bytes, |bytes, records| {
                hand_over(bytes, "application/x-ndjson", records)
            }),
            Content::Json(text) => array(text, body_bytes, |bytes, records| {
                hand_over(bytes, "application/json", records)
            }),
            Content::Batches(batches) => streams(batches, body_bytes, |bytes, records| {
                hand_over(bytes, "application/vnd.apache.arrow.stream", records)
            }),
        }
        .map_err(|why| Failure::failed(format!("{shown}: {why}")))
    }
}

fn format_of(path: &Path) -> Option<FileFormat> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let name = name
        .strip_suffix(".gz")
        .or_else(|| name.strip_suffix(".zst"))
        .unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "ndjson" | "jsonl" => Some(FileFormat::Ndjson),
        "json" => Some(FileFormat::Json),
        "parquet" => Some(FileFormat::Parquet),
        "arrow" | "arrows" | "feather" | "ipc" => Some(FileFormat::Arrow),
        "csv" => Some(FileFormat::Csv),
        _ => None,
    }
}

/// Lines, whole ones, blank ones left out of the count.
fn lines(
    mut text: Text,
    body_bytes: usize,
    mut sink: impl FnMut(Vec<u8>, u64) -> bool,
) -> Result<(), String> {
    loop {
        let mut body = Vec::with_capacity(body_bytes.min(64 << 20) + READ_BYTES);
        let limit = body_bytes as u64;
        text.by_ref()
            .take(limit)
            .read_to_end(&mut body)
            .map_err(|error| error.to_string())?;
        if body.is_empty() {
            return Ok(());
        }
        if body.last() != Some(&b'\n') {
            text.read_until(b'\n', &mut body)
                .map_err(|error| error.to_string())?;
        }
        let records = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .count();
        if records > 0 && !sink(body, records as u64) {
            return Ok(());
        }
    }
}

/// The records of an array in arrays of their own.
fn array(
    mut text: Text,
    body_bytes: usize,
    mut sink: impl FnMut(Vec<u8>, u64) -> bool,
) -> Result<(), String> {
    let mut splitter = ArraySplitter::new(RECORD_BYTES_MAX);
    let (mut body, mut records, mut go_on) = (Vec::new(), 0, true);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let length = text.read(&mut chunk).map_err(|error| error.to_string())?;
        if length == 0 || !go_on {
            break;
        }
        let fed = splitter.feed(&chunk[..length], |record| {
            body.push(if records == 0 { b'[' } else { b',' });
            body.extend_from_slice(record);
            records += 1;
            if body.len() >= body_bytes && go_on {
                body.push(b']');
                go_on = sink(std::mem::take(&mut body), records);
                records = 0;
            }
            Ok::<(), Rejection>(())
        });
        fed.map_err(|rejection| rejection.to_string())?;
    }
    if !go_on {
        return Ok(());
    }
    splitter
        .finish()
        .map_err(|rejection| rejection.to_string())?;
    if records > 0 {
        body.push(b']');
        sink(body, records);
    }
    Ok(())
}

/// Batches as Arrow streams, each complete in itself.
fn streams(
    batches: Batches,
    body_bytes: usize,
    mut sink: impl FnMut(Vec<u8>, u64) -> bool,
) -> Result<(), String> {
    let schema = batches.schema();
    let mut open: Option<(StreamWriter<Vec<u8>>, u64)> = None;
    for batch in batches {
        let batch = batch.map_err(|error| chain(&error))?;
        if batch.num_rows() == 0 {
            continue;
        }
        let (mut writer, records) = match open.take() {
            Some(writing) => writing,
            None => (
                StreamWriter::try_new(Vec::new(), &schema).map_err(|e| chain(&e))?,
                0,
            ),
        };
        writer.write(&batch).map_err(|error| chain(&error))?;
        let records = records + batch.num_rows() as u64;
        if writer.get_ref().len() < body_bytes {
            open = Some((writer, records));
        } else if !sink(writer.into_inner().map_err(|error| chain(&error))?, records) {
            return Ok(());
        }
    }
    if let Some((writer, records)) = open {
        sink(writer.into_inner().map_err(|error| chain(&error))?, records);
    }
    Ok(())
}

fn parquet(file: File, bytes_read: &Arc<AtomicU64>) -> Result<Batches, Failure> {
    let failed = |error: parquet::errors::ParquetError| Failure::failed(chain(&error));
    let size = file.metadata()?.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
    let rows = builder.metadata().file_metadata().num_rows().max(1) as u64;
    let reader = builder
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(failed)?;
    // Parquet is read here and there: rows tell how far it is.
    let (schema, bytes_read) = (reader.schema(), Arc::clone(bytes_read));
    let mut seen = 0;
    let counted = reader.inspect(move |batch| {
        seen += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        bytes_read.store(size * seen / rows, Ordering::Relaxed);
    });
    Ok(Box::new(WithSchema {
        inner: counted,
        schema,
    }))
}

fn arrow(mut text: Text, path: &Path) -> Result<Batches, Failure> {
    let failed =
        |error: ArrowError| Failure::failed(format!("{}: {}", path.display(), chain(&error)));
    if !text.fill_buf()?.starts_with(ARROW_FILE_MAGIC) {
        return Ok(Box::new(StreamReader::try_new(text, None).map_err(failed)?));
    }
    // The file format is read from its end.
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(_) => {
            return Err(Failure::usage(
                "an Arrow file can't be read from standard input",
            ));
        }
    };
    file.rewind()?;
    Ok(Box::new(
        FileReader::try_new(BufReader::new(file), None).map_err(failed)?,
    ))
}

fn csv(mut text: Text) -> Result<Batches, Failure> {
    let failed = |error: ArrowError| Failure::failed(chain(&error));
    let mut head = Vec::new();
    text.by_ref().take(INFER_BYTES_MAX).read_to_end(&mut head)?;
    let format = CsvFormat::default().with_header(true);
    let (schema, _) = format
        .infer_schema(&head[..], Some(INFER_RECORDS))
        .map_err(failed)?;
    let reader = arrow::csv::ReaderBuilder::new(Arc::new(schema))
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .build_buffered(std::io::Cursor::new(head).chain(text))
        .map_err(failed)?;
    Ok(Box::new(reader))
}

/// A `.json` file that begins with an object and has more than one line of them is NDJSON.
fn json(mut text: Text) -> std::io::Result<Content> {
    let head = text.fill_buf()?;
    let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_record = serde_json::from_slice::<serde::de::IgnoredAny>(first_line).is_ok();
    let begins = head.iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(if begins == Some(&b'{') && is_record {
        Content::Ndjson(text)
    } else {
        Content::Json(text)
    })
}

fn decompressed(counted: Counted) -> std::io::Result<Text> {
    let mut raw = BufReader::with_capacity(READ_BYTES, counted);
    let head = raw.fill_buf()?;
    if head.starts_with(&ZSTD_MAGIC) {
        let plain = zstd::Decoder::with_buffer(raw)?;
        return Ok(Box::new(BufReader::with_capacity(READ_BYTES, plain)));
    }
    if head.starts_with(&GZIP_MAGIC) {
        let plain = flate2::bufread::MultiGzDecoder::new(raw);
        return Ok(Box::new(BufReader::with_capacity(READ_BYTES, plain)));
    }
    Ok(Box::new(raw))
}

/// Counts what is read of the file itself, for the progress bar.
struct Counted {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

struct WithSchema<I> {
    inner: I,
    schema: SchemaRef,
}

impl<I: Iterator> Iterator for WithSchema<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.inner.next()
    }
}

impl<I> RecordBatchReader for WithSchema<I>
where
    I: Iterator<Item = Result<arrow::array::RecordBatch, ArrowError>>,
{
    fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }
}
