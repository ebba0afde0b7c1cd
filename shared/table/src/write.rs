//! Rows to a Parquet file.
//!
//! ```text
//!  the table's columns (stored types, physical names, field ids) | __bucket int32 | __offset int64 | __row int32 | __timestamp timestamp(ms, UTC)
//! ```
//! The last four are the sequence of each row and when its message was written. They are physical
//! only: the table's schema does not name them, so other readers don't see them. Rows stand in
//! arrival order, bucket after bucket. The format of every byte is told in `docs/formats.md`.

pub(crate) mod floats;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use tidelake_core::Bucket;
use tidelake_manifest::{Stats, StatsCollector};

use crate::encoding::{Choice, choose};
use crate::layout::FileLayout;
use crate::{Changes, Chunk, Positions, Sealed, TableError};

pub use floats::float_bounds_cover_nan;

/// Names of the hidden columns, in the order they are written.
pub const HIDDEN_COLUMNS: [&str; 4] = ["__bucket", "__offset", "__row", "__timestamp"];

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSettings {
    /// zstd level; higher is smaller and slower.
    pub zstd_level: i32,
    /// Rows of a row group at most: what a reader must hold to decode one.
    pub row_group_rows_max: usize,
    /// Rows of a page at most: what a row selection can skip, and what reading one row costs.
    pub page_rows_max: usize,
}

impl FileSettings {
    /// Files that rows are looked up in by key: small pages and dictionaries, so that one row
    /// costs little.
    #[must_use]
    pub fn for_lookups(self) -> Self {
        Self {
            page_rows_max: LOOKUP_PAGE_ROWS_MAX.min(self.page_rows_max),
            ..self
        }
    }
}

impl Default for FileSettings {
    fn default() -> Self {
        Self {
            zstd_level: 1,
            row_group_rows_max: 1 << 20,
            page_rows_max: PAGE_ROWS_MAX,
        }
    }
}

/// A data file, ready to be stored.
#[derive(Debug)]
pub struct EncodedFile {
    pub bytes: Bytes,
    pub rows: u64,
    /// For the commit that names the file.
    pub stats: Stats,
    pub metadata: ParquetMetaData,
}

const PAGE_ROWS_MAX: usize = 20_000;
const LOOKUP_PAGE_ROWS_MAX: usize = 1024;
/// A reader of one row decodes the whole dictionary of its column.
const LOOKUP_DICTIONARY_BYTES_MAX: usize = 32 * 1024;
/// Leaf columns that a commit keeps bounds of: more would make the log heavy.
const STATISTICS_COLUMNS_MAX: usize = 64;
/// Statistics of long strings are cut to so many bytes (as bounds that stay true).
const STATISTICS_BYTES_MAX: usize = 64;

/// Encodes the rows of one or more buckets as one file; `None` where there is no row.
pub fn encode(
    layout: &FileLayout,
    buckets: &[Sealed],
    settings: FileSettings,
) -> Result<Option<EncodedFile>, TableError> {
    let chunks = buckets.iter().flat_map(|sealed| {
        let chunks = sealed.chunks.iter();
        chunks.map(|chunk| Ok((sealed.bucket, Cow::Borrowed(chunk))))
    });
    encode_chunks(
        layout,
        chunks,
        settings,
        &floats::with_nan(layout, buckets)?,
    )
}

/// Encodes the rows of a bucket that are the newest of their key; `None` where there is none.
pub fn encode_newest(
    layout: &FileLayout,
    sealed: &Sealed,
    changes: &Changes,
    settings: FileSettings,
) -> Result<Option<EncodedFile>, TableError> {
    // One after the other: no more than one chunk is in memory a second time.
    let chunks = sealed.chunks.iter().enumerate().map(|(place, chunk)| {
        let kept = match changes.kept_of(place) {
            None => Cow::Borrowed(chunk),
            Some(rows) => Cow::Owned(chunk.filtered(rows)?),
        };
        Ok((sealed.bucket, kept))
    });
    let with_nan = floats::with_nan(layout, std::slice::from_ref(sealed))?;
    encode_chunks(layout, chunks, settings, &with_nan)
}

fn encode_chunks<'a>(
    layout: &FileLayout,
    chunks: impl Iterator<Item = Result<(Bucket, Cow<'a, Chunk>), TableError>>,
    settings: FileSettings,
    unbounded: &[ColumnPath],
) -> Result<Option<EncodedFile>, TableError> {
    let mut writer = FileWriter::new(layout, settings, unbounded.to_vec());
    for chunk in chunks {
        let (bucket, chunk) = chunk?;
        if chunk.rows() > 0 {
            writer.write(&stored_batch(layout, bucket, &chunk)?)?;
        }
    }
    writer.finish()
}

/// A file that is written batch by batch.
pub(crate) struct FileWriter {
    schema: SchemaRef,
    settings: FileSettings,
    unbounded: Vec<ColumnPath>,
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: u64,
    stats: StatsCollector,
}

impl FileWriter {
    /// `unbounded` columns get no statistics.
    pub(crate) fn new(
        layout: &FileLayout,
        settings: FileSettings,
        unbounded: Vec<ColumnPath>,
    ) -> Self {
        Self {
            schema: Arc::clone(layout.file_schema()),
            settings,
            unbounded,
            writer: None,
            rows: 0,
            stats: StatsCollector::new(STATISTICS_COLUMNS_MAX),
        }
    }

    /// Rows with all columns of the file, hidden ones included.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let properties = properties(batch, self.settings, &self.unbounded);
                let (buffer, schema) = (Vec::new(), Arc::clone(&self.schema));
                let writer = ArrowWriter::try_new(buffer, schema, Some(properties))?;
                self.writer.insert(writer)
            }
        };
        self.rows += batch.num_rows() as u64;
        self.stats.update(batch);
        writer.write(batch)?;
        Ok(())
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// What it takes by now, encoded.
    pub(crate) fn bytes(&self) -> u64 {
        let writer = self.writer.as_ref();
        writer.map_or(0, |writer| {
            (writer.bytes_written() + writer.in_progress_size()) as u64
        })
    }

    /// `None` where there was no row.
    pub(crate) fn finish(self) -> Result<Option<EncodedFile>, TableError> {
        let Some(mut writer) = self.writer else {
            return Ok(None);
        };
        let metadata = writer.finish()?;
        let bytes = Bytes::from(std::mem::take(writer.inner_mut()));
        Ok(Some(EncodedFile {
            bytes,
            rows: self.rows,
            stats: self.stats.finish(),
            metadata,
        }))
    }
}

fn stored_batch(
    layout: &FileLayout,
    bucket: Bucket,
    chunk: &Chunk,
) -> Result<RecordBatch, TableError> {
    let stored = layout.stored(&chunk.batch)?;
    let mut columns = stored.columns().to_vec();
    columns.extend(hidden_columns(bucket, &chunk.positions));
    Ok(RecordBatch::try_new(
        Arc::clone(layout.file_schema()),
        columns,
    )?)
}

fn hidden_columns(bucket: Bucket, positions: &Positions) -> [ArrayRef; 4] {
    let bucket = i32::try_from(bucket.0).unwrap_or(i32::MAX);
    let rows = positions
        .rows
        .iter()
        .map(|&row| i32::try_from(row).unwrap_or(i32::MAX));
    let timestamps =
        TimestampMillisecondArray::from_iter_values(positions.timestamps_ms.iter().copied());
    [
        Arc::new(Int32Array::from_value(bucket, positions.len())),
        Arc::new(Int64Array::from_iter_values(
            positions.offsets.iter().copied(),
        )),
        Arc::new(Int32Array::from_iter_values(rows)),
        Arc::new(timestamps.with_timezone("UTC")),
    ]
}

/// Encodings are chosen from the first rows; page statistics go where a range can be skipped by
/// them. `unbounded` columns get no statistics.
fn properties(
    first: &RecordBatch,
    settings: FileSettings,
    unbounded: &[ColumnPath],
) -> WriterProperties {
    let level = ZstdLevel::try_new(settings.zstd_level).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("tidelake ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(settings.row_group_rows_max))
        .set_data_page_row_count_limit(settings.page_rows_max)
        .set_write_batch_size(settings.page_rows_max.min(8192))
        .set_statistics_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_key_value_metadata(Some(vec![floats::entry()]))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    if settings.page_rows_max <= LOOKUP_PAGE_ROWS_MAX {
        builder = builder.set_dictionary_page_size_limit(LOOKUP_DICTIONARY_BYTES_MAX);
    }
    for (field, column) in first.schema().fields().iter().zip(first.columns()) {
        let path = ColumnPath::from(vec![field.name().clone()]);
        if is_ordered_number(field.data_type()) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        if field.data_type().is_nested() {
            continue;
        }
        builder = match choose(column) {
            Choice::Dictionary => builder.set_column_dictionary_enabled(path, true),
            Choice::Plain(encoding) => builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, encoding),
        };
    }
    for path in unbounded {
        builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
    }
    // All but constant, and rising: deltas take next to nothing.
    for name in HIDDEN_COLUMNS {
        let path = ColumnPath::from(vec![name.to_owned()]);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    builder.build()
}

fn is_ordered_number(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Timestamp(..)
            | DataType::Decimal128(..)
    )
}

#[cfg(test)]
mod tests;
