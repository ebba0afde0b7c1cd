//! Messages to lines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use tidelake_codec::json::encode::{JsonStyle, write_rows};
use tidelake_core::{Bucket, Offset};
use tidelake_intake::{BucketIntake, Drained, IntakeError, Seen, Taken};
use tidelake_log::MessageBatch;
use tidelake_table::Positions;

use super::described::Described;
use super::key::{KeyFilter, unusable};
use super::predicate::Predicate;
use crate::failure::Failure;
use crate::output::{note, safe_json};

/// Prints the rows of messages.
pub(super) struct Printer {
    /// By bucket.
    intakes: Vec<BucketIntake>,
    filter: Option<KeyFilter>,
    condition: Option<Predicate>,
    left: u64,
}

impl Printer {
    /// `key` is the only one to be shown, where it is given, and rows for which the condition does
    /// not hold are not.
    pub(super) fn new(
        table: &Described,
        key: Option<&str>,
        condition: Option<&str>,
        rows_max: Option<u64>,
    ) -> Result<Self, Failure> {
        let predicate = |text| Predicate::new(text, &table.schema);
        Ok(Self {
            intakes: intakes(table)?,
            filter: key.map(|key| KeyFilter::new(key, table)).transpose()?,
            condition: condition.map(predicate).transpose()?,
            left: rows_max.unwrap_or(u64::MAX),
        })
    }

    /// Goes on with what the table has become. Nothing waits in the intakes between two portions.
    pub(super) fn adopt(&mut self, table: &Described) -> Result<(), Failure> {
        if let Some(filter) = &mut self.filter {
            filter.adopt(&table.schema)?;
        }
        if let Some(condition) = &mut self.condition {
            condition.adopt(&table.schema)?;
        }
        self.intakes = intakes(table)?;
        Ok(())
    }

    /// The bucket of the key, where only one is shown.
    pub(super) fn bucket(&self) -> Option<Bucket> {
        self.filter.as_ref().map(|filter| filter.bucket)
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    pub(super) fn print(
        &mut self,
        batches: &[MessageBatch],
        bucket: Bucket,
        from: Offset,
        to: Offset,
    ) -> Result<(), Failure> {
        for message in batches.iter().flat_map(MessageBatch::iter) {
            let offset = message.offset();
            if message.bucket() == bucket && offset >= from && offset < to {
                let seen = Seen {
                    offset,
                    timestamp_ms: message.timestamp_ms(),
                    key: message.key(),
                    value: message.value(),
                    headers: &message,
                };
                if let Some(told) = self.take(bucket, &seen) {
                    note(&told);
                }
            }
        }
        let mut text = Vec::new();
        self.lines(bucket, &mut text)?;
        let mut out = std::io::stdout().lock();
        // What JSON leaves as it is may still steer a terminal.
        match std::str::from_utf8(&text) {
            Ok(text) => out.write_all(safe_json(text).as_bytes())?,
            Err(error) => return Err(Failure::failed(format!("a row is no text: {error}"))),
        }
        Ok(out.flush()?)
    }

    /// Takes a message in; tells what is no row.
    fn take(&mut self, bucket: Bucket, seen: &Seen<'_>) -> Option<String> {
        let offset = seen.offset;
        let intake = self.intakes.get_mut(bucket.0 as usize)?;
        match intake.take(seen) {
            Taken::Rows(_) | Taken::Marker | Taken::Repeated => None,
            // Whoever looks for some rows does not look for what is none.
            Taken::Refused(_) | Taken::Misrouted(_)
                if self.filter.is_some() || self.condition.is_some() =>
            {
                None
            }
            Taken::Refused(why) => Some(format!("bucket {bucket} offset {offset}: {why}")),
            Taken::Misrouted(owner) => Some(format!(
                "bucket {bucket} offset {offset}: its key belongs to bucket {owner}, where it \
                 comes again"
            )),
        }
    }

    /// What was taken, in the order of the log, as far as it is wanted.
    fn lines(&mut self, bucket: Bucket, out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(intake) = self.intakes.get_mut(bucket.0 as usize) else {
            return Ok(());
        };
        let drained = intake.drain();
        let drained = drained.map_err(|error| Failure::failed(error.to_string()))?;
        for (rows, range) in in_order(&runs(drained)) {
            if self.left == 0 {
                break;
            }
            let batch = rows.batch.slice(range.start, range.len());
            let batch = match &self.filter {
                Some(filter) => filtered(&batch, &filter.decide(&batch, rows.deletes)?)?,
                None => batch,
            };
            let batch = match &self.condition {
                Some(condition) => filtered(&batch, &condition.decide(&batch)?)?,
                None => batch,
            };
            let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
            let shown = batch.num_rows().min(wanted);
            self.left -= shown as u64;
            let batch = batch.slice(0, shown);
            match rows.deletes {
                true => rows_of(&marked(&batch)?, out)?,
                false => rows_of(&batch, out)?,
            }
        }
        Ok(())
    }
}

fn intakes(table: &Described) -> Result<Vec<BucketIntake>, Failure> {
    let names = Arc::new(table.names.clone());
    let intakes = (0..table.buckets).map(|bucket| {
        let (kind, schema) = (table.kind, &table.schema);
        let intake = BucketIntake::without_origins(kind, schema, Bucket(bucket), table.buckets)?;
        Ok(intake.named(Arc::clone(&names)))
    });
    let intakes = intakes.collect::<Result<_, IntakeError>>();
    intakes.map_err(|error| unusable(&error))
}

/// Rows or deletes with their positions, which rise.
struct Run {
    batch: RecordBatch,
    positions: Positions,
    deletes: bool,
}

impl Run {
    fn at(&self, row: usize) -> (i64, u32) {
        (self.positions.offsets[row], self.positions.rows[row])
    }
}

fn runs(drained: Drained) -> Vec<Run> {
    let rows = drained.chunks.into_iter().map(|chunk| Run {
        batch: chunk.batch,
        positions: chunk.positions,
        deletes: false,
    });
    let deletes = drained.deletes.into_iter().map(|deletes| Run {
        batch: deletes.keys,
        positions: deletes.positions,
        deletes: true,
    });
    rows.chain(deletes).collect()
}

/// Pieces of the runs so that positions rise from one to the next.
fn in_order(runs: &[Run]) -> Vec<(&Run, Range<usize>)> {
    let heads = runs
        .iter()
        .enumerate()
        .filter(|(_, run)| !run.positions.is_empty());
    let mut heads: BinaryHeap<_> = heads
        .map(|(index, run)| Reverse((run.at(0), index, 0)))
        .collect();
    let mut pieces = Vec::new();
    while let Some(Reverse((_, index, start))) = heads.pop() {
        let run = &runs[index];
        let end = match heads.peek() {
            None => run.positions.len(),
            Some(Reverse((other, ..))) => {
                let mut rest = start + 1..run.positions.len();
                let after = rest.find(|row| run.at(*row) > *other);
                after.unwrap_or(run.positions.len())
            }
        };
        pieces.push((run, start..end));
        if end < run.positions.len() {
            heads.push(Reverse((run.at(end), index, end)));
        }
    }
    pieces
}

fn filtered(batch: &RecordBatch, wanted: &BooleanArray) -> Result<RecordBatch, Failure> {
    arrow::compute::filter_record_batch(batch, wanted)
        .map_err(|error| Failure::failed(error.to_string()))
}

fn rows_of(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Failure> {
    write_rows(batch, &batch.schema(), out, JsonStyle::Objects)
        .map_err(|error| Failure::failed(error.to_string()))
}

/// Deleted keys, and a column that says so.
fn marked(keys: &RecordBatch) -> Result<RecordBatch, Failure> {
    let mut fields: Vec<_> = keys.schema().fields().iter().cloned().collect();
    fields.insert(0, Arc::new(Field::new("__op", DataType::Utf8, false)));
    let mut columns = keys.columns().to_vec();
    let words = StringArray::from(vec!["delete"; keys.num_rows()]);
    columns.insert(0, Arc::new(words));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Failure::failed(error.to_string()))
}

#[cfg(test)]
mod tests;
