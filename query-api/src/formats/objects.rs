//! Single rows as JSON objects.

use datafusion::arrow::record_batch::RecordBatch;

use super::OddFloats;
use super::json::{Ndjson, Writer, writer};
use crate::error::QueryError;

/// The rows of one batch as objects.
pub(crate) struct Objects<'a> {
    keys: Vec<Vec<u8>>,
    writers: Vec<Writer<'a>>,
}

impl<'a> Objects<'a> {
    pub(crate) fn new(batch: &'a RecordBatch, odd: OddFloats) -> Result<Self, QueryError> {
        let keys = Ndjson::new(&batch.schema(), odd).keys;
        let columns = batch.columns().iter();
        let writers = columns.map(|column| writer(column.as_ref(), odd));
        let writers = writers.collect::<Result<_, _>>()?;
        Ok(Self { keys, writers })
    }

    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.writers.is_empty() {
            out.push(b'{');
        }
        for (key, write) in self.keys.iter().zip(&self.writers) {
            out.extend_from_slice(key);
            write(row, out);
        }
        out.push(b'}');
    }
}
