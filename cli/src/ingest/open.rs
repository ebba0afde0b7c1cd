//! Files opened: what they hold, unpacked, as text or as Arrow batches.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatchReader;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::source::FileFormat;
use crate::failure::{Failure, chain};

pub(super) const READ_BYTES: usize = 1 << 20;
pub(super) const BATCH_ROWS: usize = 16_384;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ARROW_FILE_MAGIC: &[u8] = b"ARROW1";

/// Records of one of the kinds that files hold.
pub(super) enum Content {
    Ndjson(Text),
    Json(Text),
    Batches(Batches),
}

pub(super) type Text = Box<dyn BufRead + Send>;
pub(super) type Batches = Box<dyn RecordBatchReader + Send>;

pub(super) fn format_of(path: &Path) -> Option<FileFormat> {
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

/// A file, and not something else by its name.
pub(super) fn is_there(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            Err(Failure::usage(format!("{shown} is a folder: name a file")))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::failed(format!("there is no file {shown}")))
        }
        Err(error) => Err(Failure::failed(format!("{shown}: {error}"))),
    }
}

pub(super) fn parquet(file: File, bytes_read: &Arc<AtomicU64>) -> Result<Batches, Failure> {
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

pub(super) fn arrow(mut text: Text, path: &Path) -> Result<Batches, Failure> {
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

/// A `.json` file that begins with an object and has more than one line of them is NDJSON.
pub(super) fn json(mut text: Text) -> std::io::Result<Content> {
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

pub(super) fn decompressed(counted: Counted) -> std::io::Result<Text> {
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
pub(super) struct Counted {
    pub(super) inner: Box<dyn Read + Send>,
    pub(super) read: Arc<AtomicU64>,
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
