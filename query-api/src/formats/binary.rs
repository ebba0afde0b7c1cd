//! Arrow streams and Parquet files, written as rows come.

use std::fmt;
use std::io::Write;
use std::mem::take;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::{Encoder, End};
use crate::error::QueryError;

/// Encoded bytes of a row group at which it is written out: what one Parquet answer keeps in memory.
const ROW_GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Entry of the footer where an answer was cut at the wished number of rows.
const TRUNCATED: &str = "tidelake.truncated";
const ROW_GROUP_ROWS_MAX: usize = 256 * 1024;

/// One Arrow IPC stream, not compressed: every Arrow reader takes it.
pub(super) struct ArrowStream(StreamWriter<Vec<u8>>);

impl ArrowStream {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, QueryError> {
        Ok(Self(StreamWriter::try_new(Vec::new(), schema)?))
    }
}

impl Encoder for ArrowStream {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, QueryError> {
        self.0.write(batch)?;
        Ok(take(self.0.get_mut()).into())
    }

    fn finish(&mut self, _: End) -> Result<Bytes, QueryError> {
        self.0.finish()?;
        Ok(take(self.0.get_mut()).into())
    }
}

/// One Parquet file. Its bytes leave with each row group.
pub(super) struct Parquet(Option<ArrowWriter<Pending>>);

/// What was written and not yet sent.
#[derive(Debug, Default)]
struct Pending(Vec<u8>);

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Parquet {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, QueryError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_created_by(concat!("Tidelake/", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = ArrowWriter::try_new(Pending::default(), Arc::clone(schema), Some(properties))
            .map_err(|error| QueryError::Unsupported(error.to_string()))?;
        Ok(Self(Some(writer)))
    }
}

impl Encoder for Parquet {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, QueryError> {
        let Some(writer) = &mut self.0 else {
            return Ok(Bytes::new());
        };
        writer.write(batch).map_err(engine)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
            writer.flush().map_err(engine)?;
        }
        Ok(take(&mut writer.inner_mut().0).into())
    }

    fn finish(&mut self, end: End) -> Result<Bytes, QueryError> {
        let Some(mut writer) = self.0.take() else {
            return Ok(Bytes::new());
        };
        if end.truncated {
            let entry = KeyValue::new(TRUNCATED.to_owned(), "true".to_owned());
            writer.append_key_value_metadata(entry);
        }
        Ok(writer.into_inner().map_err(engine)?.0.into())
    }
}

impl fmt::Debug for Parquet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parquet").finish_non_exhaustive()
    }
}

fn engine(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::Engine(error.to_string())
}
