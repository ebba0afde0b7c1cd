//! Rows of an upsert table to the messages of their buckets.
//!
//! Every version of a key lives in one bucket, so a body's rows are taken apart by the bucket of
//! their keys, and each bucket's are packed by themselves, in the body's order. Column by column:
//! buckets of all rows, then one `take` for each bucket.
//!
//! Memory: some [`GATHERED_ROWS`] rows, then at most [`HELD_BYTES_MAX`] of rows that wait for others
//! of their bucket. Beyond that the bucket that holds most is cut; parts are merged into full messages
//! when they are sent ([`crate::spool`]). So the rows of a body and a bucket that fit one message are
//! one, and readers see them whole or not at all (P5).

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use tidelake_codec::key::{KeyError, KeyText};
use tidelake_codec::packed::Wire;
use tidelake_core::Bucket;

use crate::decode::BodyError;
use crate::packer::{COLUMN_BYTES_MAX, Encoder, PackError, Packed, Packer, ROWS_MAX, column_bytes};

/// Rows that are taken apart at a time, so that small batches cost no `take` each.
const GATHERED_ROWS: usize = 16 * 1024;
/// Memory of the rows that wait.
const HELD_BYTES_MAX: usize = 16 << 20;

/// Takes a body's rows apart.
#[derive(Debug)]
pub(crate) struct Router {
    key: KeyText,
    encoder: Encoder,
    packers: Vec<Packer>,
    gathered: Vec<RecordBatch>,
    gathered_rows: usize,
    gathered_bytes: usize,
    /// The body's row that the first gathered one is.
    first_row: u64,
    /// One batch's: the bucket of each row, and the rows by bucket.
    owners: Vec<u32>,
    gathered_rows_max: usize,
    held_bytes_max: usize,
}

impl Router {
    pub(crate) fn new(key: KeyText, buckets: u32, encoder: Encoder, wire: &Arc<Wire>) -> Self {
        let packer = |bucket| Packer::of_bucket(encoder.clone(), Arc::clone(wire), Bucket(bucket));
        Self {
            packers: (0..buckets).map(packer).collect(),
            key,
            encoder,
            gathered: Vec::new(),
            gathered_rows: 0,
            gathered_bytes: 0,
            first_row: 0,
            owners: Vec::new(),
            gathered_rows_max: GATHERED_ROWS,
            held_bytes_max: HELD_BYTES_MAX,
        }
    }

    #[cfg(test)]
    pub(crate) fn holding(self, gathered_rows_max: usize, held_bytes_max: usize) -> Self {
        Self {
            gathered_rows_max,
            held_bytes_max,
            ..self
        }
    }

    /// Takes more rows of the body; full messages go to `sink`.
    pub(crate) fn push(
        &mut self,
        batch: RecordBatch,
        sink: &mut impl FnMut(Packed) -> Result<(), BodyError>,
    ) -> Result<(), BodyError> {
        let (rows, bytes) = (batch.num_rows(), column_bytes(&batch));
        // In pieces of a message's size, since what is taken apart is copied.
        let pieces = bytes
            .div_ceil(COLUMN_BYTES_MAX)
            .max(rows.div_ceil(ROWS_MAX));
        let piece_rows = rows.div_ceil(pieces.max(1)).max(1);
        let mut start = 0;
        while start < rows {
            let piece = batch.slice(start, piece_rows.min(rows - start));
            start += piece.num_rows();
            self.gathered_rows += piece.num_rows();
            self.gathered_bytes += bytes / pieces.max(1);
            self.gathered.push(piece);
            if self.gathered_rows >= self.gathered_rows_max
                || self.gathered_bytes >= COLUMN_BYTES_MAX / 2
            {
                self.route(sink)?;
                self.shed(sink)?;
            }
        }
        Ok(())
    }

    /// The last messages.
    pub(crate) fn finish(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), BodyError>,
    ) -> Result<(), BodyError> {
        self.route(sink)?;
        self.packers
            .iter_mut()
            .try_for_each(|packer| packer.finish(sink))
    }

    fn route(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), BodyError>,
    ) -> Result<(), BodyError> {
        let gathered = std::mem::take(&mut self.gathered);
        let Some(first) = gathered.first() else {
            return Ok(());
        };
        let batch = concat_batches(&first.schema(), &gathered).map_err(broken)?;
        drop(gathered);
        let first_row = self.first_row;
        self.first_row += batch.num_rows() as u64;
        self.gathered_rows = 0;
        self.gathered_bytes = 0;
        let buckets = self.packers.len() as u32;
        self.owners.clear();
        let found = match self.encoder {
            Encoder::Deletes => self.key.key_buckets(&batch, buckets, &mut self.owners),
            Encoder::Rows | Encoder::Operations { .. } => {
                self.key.row_buckets(&batch, buckets, &mut self.owners)
            }
        };
        found.map_err(|error| match error {
            KeyError::Rejected(rejection) => rejection.shifted(first_row as usize).into(),
            KeyError::Codec(error) => BodyError::Worker(error.to_string()),
        })?;
        let (order, ends) = by_bucket(&self.owners, buckets);
        let mut start = 0;
        for (packer, end) in self.packers.iter_mut().zip(ends) {
            let rows = end - start;
            if rows == 0 {
                continue;
            }
            let places = order.slice(start, rows);
            start = end;
            let numbers = places.values().iter();
            let numbers = numbers.map(|row| first_row + u64::from(*row));
            let whole = rows == batch.num_rows();
            // A copy of its own, since a slice would hold the other buckets' rows in memory.
            let own = match whole {
                true => batch.clone(),
                false => take_record_batch(&batch, &places).map_err(broken)?,
            };
            packer.push_numbered(own, numbers, sink)?;
        }
        Ok(())
    }

    /// Hands rows on until what waits is within its bound.
    fn shed(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), BodyError>,
    ) -> Result<(), BodyError> {
        let mut all: usize = self.packers.iter().map(Packer::held_bytes).sum();
        while all > self.held_bytes_max {
            let Some(fullest) = self
                .packers
                .iter_mut()
                .max_by_key(|packer| packer.held_bytes())
            else {
                break;
            };
            all -= fullest.held_bytes();
            fullest.cut(sink)?;
        }
        Ok(())
    }
}

/// The rows in the order of their buckets and, within one, their own; where each bucket ends.
fn by_bucket(owners: &[u32], buckets: u32) -> (UInt32Array, Vec<usize>) {
    let mut ends = vec![0_usize; buckets as usize];
    for owner in owners {
        ends[*owner as usize] += 1;
    }
    let mut sum = 0;
    let mut next: Vec<usize> = ends
        .iter_mut()
        .map(|end| {
            let start = sum;
            sum += *end;
            *end = sum;
            start
        })
        .collect();
    let mut order = vec![0_u32; owners.len()];
    for (row, owner) in owners.iter().enumerate() {
        let place = &mut next[*owner as usize];
        order[*place] = row as u32;
        *place += 1;
    }
    (UInt32Array::from(order), ends)
}

fn broken(error: ArrowError) -> BodyError {
    BodyError::Pack(PackError::Encode(error.to_string()))
}

#[cfg(test)]
mod tests;
