//! Decoded rows of one table's tail, and how what is missing is read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::record_batch::RecordBatch;
use tidelake_catalog::TableEntry;
use tidelake_codec::message::{MessageDecoder, WireMessage};
use tidelake_core::{Bucket, Offset, TopicId, Watermark};
use tidelake_schema::TableSchema;

use super::{Messages, TailRange, TailRows, TailSource};
use crate::error::QueryError;
use crate::metrics::QueryMetrics;
use crate::provider::shape::Shape;

/// Chunks smaller than this are joined with their neighbour.
const CHUNK_ROWS_MIN: usize = 8192;
/// Messages of the first read: their size is not known yet.
const STEP_MESSAGES_FIRST: i64 = 512;
/// Decoded bytes that one read aims at.
const STEP_BYTES_TARGET: usize = 32 * 1024 * 1024;

/// Decoded rows by bucket.
#[derive(Debug, Default)]
pub(super) struct TableTail {
    topic_id: Option<TopicId>,
    schema: Option<Arc<TableSchema>>,
    buckets: BTreeMap<Bucket, BucketTail>,
}

/// Rows of offsets `from..to`, without gaps in what was read.
#[derive(Debug)]
struct BucketTail {
    from: Offset,
    to: Offset,
    chunks: VecDeque<Chunk>,
}

/// Rows in the order of the log.
#[derive(Debug, Clone)]
struct Chunk {
    batch: RecordBatch,
    /// Of each row.
    offsets: Vec<i64>,
    bytes: usize,
}

/// What reading takes.
pub(super) struct Reader<'a> {
    pub source: &'a dyn TailSource,
    pub entry: &'a TableEntry,
    pub schema: &'a Arc<TableSchema>,
    pub shape: &'a Shape,
    pub bytes_max: usize,
    pub deadline: Duration,
    pub metrics: &'a QueryMetrics,
}

impl TableTail {
    /// Starts anew for another incarnation of the topic or another schema.
    pub(super) fn belongs_to(&mut self, topic_id: TopicId, schema: &Arc<TableSchema>) {
        let same_schema = self
            .schema
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, schema) || held.as_ref() == schema.as_ref());
        if self.topic_id != Some(topic_id) || !same_schema {
            self.buckets.clear();
            self.topic_id = Some(topic_id);
        }
        self.schema = Some(Arc::clone(schema));
    }

    pub(super) fn clear(&mut self) {
        self.buckets.clear();
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets
            .values()
            .flat_map(|tail| &tail.chunks)
            .map(|chunk| chunk.bytes)
            .sum()
    }

    /// Drops chunks that lie before the watermarks as a whole.
    pub(super) fn forget_before(&mut self, watermark: impl Fn(Bucket) -> Watermark) {
        self.buckets.retain(|bucket, tail| {
            tail.forget_before(watermark(*bucket));
            tail.from < tail.to
        });
    }

    /// The rows of the ranges; reads what is missing.
    pub(super) async fn rows(
        &mut self,
        ranges: &[TailRange],
        reader: &Reader<'_>,
    ) -> Result<TailRows, QueryError> {
        // Rows before what is kept, for a query that is pinned to an older snapshot than the last.
        let mut before: BTreeMap<Bucket, BucketTail> = BTreeMap::new();
        let (mut wanted, mut wanted_before) = (Vec::new(), Vec::new());
        for range in ranges {
            match self.buckets.get(&range.bucket) {
                Some(tail) if tail.from > range.from => {
                    let to = tail.from.min(range.to);
                    wanted_before.push(TailRange { to, ..*range });
                    if tail.to < range.to {
                        wanted.push(TailRange {
                            from: tail.to,
                            ..*range
                        });
                    }
                }
                // A hole between what is kept and what is asked for: start anew.
                Some(tail) if tail.to < range.from => {
                    self.buckets.remove(&range.bucket);
                    wanted.push(*range);
                }
                Some(tail) if tail.to >= range.to => {}
                Some(tail) => wanted.push(TailRange {
                    from: tail.to,
                    ..*range
                }),
                None => wanted.push(*range),
            }
        }
        let mut held = self.held(ranges);
        read_into(&mut before, wanted_before, &mut held, reader).await?;
        read_into(&mut self.buckets, wanted, &mut held, reader).await?;

        let mut rows = TailRows::default();
        for range in ranges {
            for tails in [&before, &self.buckets] {
                if let Some(tail) = tails.get(&range.bucket) {
                    tail.collect(range, &mut rows);
                }
            }
        }
        Ok(rows)
    }

    fn held(&self, ranges: &[TailRange]) -> usize {
        let tails = ranges
            .iter()
            .filter_map(|range| self.buckets.get(&range.bucket));
        tails
            .flat_map(|tail| &tail.chunks)
            .map(|chunk| chunk.bytes)
            .sum()
    }
}

impl BucketTail {
    fn forget_before(&mut self, watermark: Watermark) {
        while let Some(first) = self.chunks.front() {
            if first.offsets.last().is_none_or(|last| *last >= watermark.0) {
                break;
            }
            let last = first.offsets.last().copied().unwrap_or(self.from.0);
            self.from = self.from.max(Offset(last + 1));
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.to.0 <= watermark.0 {
            self.from = self.to;
        }
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), QueryError> {
        if let Some(last) = self.chunks.back_mut()
            && last.offsets.len() + chunk.offsets.len() <= CHUNK_ROWS_MIN
        {
            let schema = last.batch.schema();
            last.batch = concat_batches(&schema, [&last.batch, &chunk.batch])?;
            last.offsets.extend_from_slice(&chunk.offsets);
            last.bytes = bytes_of(&last.batch, &last.offsets);
        } else {
            self.chunks.push_back(chunk);
        }
        Ok(())
    }

    fn collect(&self, range: &TailRange, rows: &mut TailRows) {
        for chunk in &self.chunks {
            let begin = chunk
                .offsets
                .partition_point(|offset| *offset < range.from.0);
            let end = chunk.offsets.partition_point(|offset| *offset < range.to.0);
            if begin < end {
                rows.batches.push(chunk.batch.slice(begin, end - begin));
                rows.rows += end - begin;
                rows.bytes += chunk.bytes * (end - begin) / chunk.offsets.len();
            }
        }
    }
}

fn bytes_of(batch: &RecordBatch, offsets: &[i64]) -> usize {
    batch.get_array_memory_size() + size_of_val(offsets)
}

/// Reads the ranges in steps of bounded size and appends the rows; `held` counts the query's bytes.
async fn read_into(
    tails: &mut BTreeMap<Bucket, BucketTail>,
    ranges: Vec<TailRange>,
    held: &mut usize,
    reader: &Reader<'_>,
) -> Result<(), QueryError> {
    let mut left: Vec<TailRange> = ranges.into_iter().filter(|r| r.from < r.to).collect();
    let mut step = STEP_MESSAGES_FIRST;
    while !left.is_empty() {
        let buckets = i64::try_from(left.len()).unwrap_or(i64::MAX);
        let each = (step / buckets).max(1);
        let asked: Vec<_> = left
            .iter()
            .map(|r| {
                (
                    r.bucket,
                    r.from,
                    r.to.min(Offset(r.from.0.saturating_add(each))),
                )
            })
            .collect();
        let topic = reader.entry.topic.as_str();
        let messages = reader
            .source
            .read(topic, asked.clone(), reader.deadline)
            .await?;
        let decoded = decode(messages, &asked, reader).await?;
        let (mut bytes, mut delivered) = (0, 0);
        for (range, (_, from, to)) in left.iter_mut().zip(asked) {
            let tail = tails.entry(range.bucket).or_insert_with(|| BucketTail {
                from,
                to: from,
                chunks: VecDeque::new(),
            });
            let mut reached = to;
            if let Some(found) = decoded.get(&range.bucket) {
                reached = reached.max(found.reached);
                delivered += found.messages;
                for chunk in &found.chunks {
                    bytes += chunk.bytes;
                    tail.push(chunk.clone())?;
                }
            }
            tail.to = reached;
            range.from = reached;
        }
        *held += bytes;
        if *held > reader.bytes_max {
            return Err(QueryError::TailTooLarge {
                table: reader.entry.id.clone(),
                bytes_max: reader.bytes_max,
                left: left.iter().map(|r| (r.to.0 - r.from.0).max(0)).sum(),
            });
        }
        let average = (bytes / usize::try_from(delivered).unwrap_or(1).max(1)).max(1);
        let fitting = i64::try_from(STEP_BYTES_TARGET / average).unwrap_or(i64::MAX);
        step = fitting.clamp(1, step.saturating_mul(8));
        left.retain(|range| range.from < range.to);
    }
    Ok(())
}

/// What one read brought of one bucket.
#[derive(Default)]
struct Decoded {
    chunks: Vec<Chunk>,
    /// The offset after the last message that came.
    reached: Offset,
    messages: i64,
}

/// Decodes off the async threads: a read can hold many megabytes of JSON.
async fn decode(
    messages: Vec<Box<dyn Messages>>,
    asked: &[(Bucket, Offset, Offset)],
    reader: &Reader<'_>,
) -> Result<BTreeMap<Bucket, Decoded>, QueryError> {
    let schema = Arc::clone(reader.schema);
    let shape = reader.shape.clone();
    let froms: BTreeMap<Bucket, Offset> = asked
        .iter()
        .map(|&(bucket, from, _)| (bucket, from))
        .collect();
    let rejected = reader.metrics.tail_rejected.clone();
    let work = move || -> Result<BTreeMap<Bucket, Decoded>, QueryError> {
        let mut decoders: BTreeMap<Bucket, (MessageDecoder, Decoded)> = BTreeMap::new();
        let mut failed = None;
        for part in &messages {
            part.visit(&mut |message| {
                // Anything before the range was delivered by an earlier read.
                if froms
                    .get(&message.bucket)
                    .is_none_or(|from| message.offset < from.0)
                {
                    return;
                }
                let (decoder, decoded) = match decoders.entry(message.bucket) {
                    std::collections::btree_map::Entry::Occupied(held) => held.into_mut(),
                    std::collections::btree_map::Entry::Vacant(empty) => {
                        match MessageDecoder::new(&schema) {
                            Ok(decoder) => empty.insert((decoder, Decoded::default())),
                            Err(error) => {
                                failed = Some(QueryError::Engine(error.to_string()));
                                return;
                            }
                        }
                    }
                };
                decoded.reached = decoded.reached.max(Offset(message.offset + 1));
                decoded.messages += 1;
                let wire = WireMessage {
                    offset: message.offset,
                    timestamp_ms: message.timestamp_ms,
                    value: message.value,
                    encoding: message.encoding,
                    op: message.op,
                };
                if decoder.push(&wire).is_err() {
                    // The flusher makes it a dead letter; it is no row.
                    rejected.inc();
                }
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let mut found = BTreeMap::new();
        for (bucket, (mut decoder, mut decoded)) in decoders {
            let rows = decoder
                .finish()
                .map_err(|error| QueryError::Engine(error.to_string()))?;
            for part in rows {
                let batch = shape.scanned(&part.batch)?;
                let bytes = bytes_of(&batch, &part.offsets);
                decoded.chunks.push(Chunk {
                    batch,
                    offsets: part.offsets,
                    bytes,
                });
            }
            found.insert(bucket, decoded);
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| QueryError::Engine(format!("decoding the tail: {error}")))?
}
