//! The rows of one bucket that no commit covers yet.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use tidelake_core::{Bucket, Watermark};

/// Where each row of a chunk came from: parallel to its rows, in rising order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// Offset of the row's message.
    pub offsets: Vec<i64>,
    /// Row within its message.
    pub rows: Vec<u32>,
    /// Timestamp of the row's message, milliseconds since the Unix epoch.
    pub timestamps_ms: Vec<i64>,
}

impl Positions {
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    fn bytes(&self) -> usize {
        self.offsets.capacity() * 8 + self.rows.capacity() * 4 + self.timestamps_ms.capacity() * 8
    }
}

/// Rows as columns (the schema's logical types), with their positions.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub batch: RecordBatch,
    pub positions: Positions,
}

impl Chunk {
    /// # Panics
    /// Where rows and positions differ in number: a broken decoder.
    pub fn new(batch: RecordBatch, positions: Positions) -> Self {
        assert_eq!(
            batch.num_rows(),
            positions.len(),
            "each row has one position"
        );
        Self { batch, positions }
    }

    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// The chosen rows, in order.
    pub fn filtered(&self, rows: &BooleanBuffer) -> Result<Self, ArrowError> {
        let batch = filter_record_batch(&self.batch, &BooleanArray::new(rows.clone(), None))?;
        let at = &self.positions;
        let positions = Positions {
            offsets: rows.set_indices().map(|row| at.offsets[row]).collect(),
            rows: rows.set_indices().map(|row| at.rows[row]).collect(),
            timestamps_ms: rows
                .set_indices()
                .map(|row| at.timestamps_ms[row])
                .collect(),
        };
        Ok(Self::new(batch, positions))
    }

    /// Memory that the chunk holds.
    pub fn bytes(&self) -> usize {
        self.batch.get_array_memory_size() + self.positions.bytes()
    }
}

/// Keys that records removed, with the positions of those records.
#[derive(Debug, Clone)]
pub struct Deletes {
    /// The key columns, in key order, logical types.
    pub keys: RecordBatch,
    pub positions: Positions,
}

impl Deletes {
    /// # Panics
    /// Where keys and positions differ in number: a broken decoder.
    pub fn new(keys: RecordBatch, positions: Positions) -> Self {
        assert_eq!(
            keys.num_rows(),
            positions.len(),
            "each delete has one position"
        );
        Self { keys, positions }
    }

    /// Memory that the deletes hold.
    pub fn bytes(&self) -> usize {
        self.keys.get_array_memory_size() + self.positions.bytes()
    }
}

/// What a bucket has taken in since its watermark.
#[derive(Debug)]
pub struct Memtable {
    bucket: Bucket,
    from: Watermark,
    to: Watermark,
    chunks: Vec<Chunk>,
    deletes: Vec<Deletes>,
    rows: usize,
    bytes: usize,
}

impl Memtable {
    /// An empty memtable that begins at `from`.
    pub fn new(bucket: Bucket, from: Watermark) -> Self {
        Self {
            bucket,
            from,
            to: from,
            chunks: Vec::new(),
            deletes: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Everything before it has been taken in.
    pub fn to(&self) -> Watermark {
        self.to
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Memory that the rows hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where a commit would not even move the watermark.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Takes rows in.
    ///
    /// # Panics
    /// Where they don't come after what is there: a broken consumer.
    pub fn push(&mut self, chunk: Chunk) {
        let (Some(&first), Some(&last)) = (
            chunk.positions.offsets.first(),
            chunk.positions.offsets.last(),
        ) else {
            return;
        };
        assert!(
            first >= self.from.0,
            "offset {first} lies before watermark {}",
            self.from
        );
        self.rows += chunk.rows();
        self.bytes += chunk.bytes();
        self.to = self.to.max(Watermark(last + 1));
        self.chunks.push(chunk);
    }

    /// Takes deletes in, under the same rule as rows.
    ///
    /// # Panics
    /// Where they lie before the watermark.
    pub fn delete(&mut self, deletes: Deletes) {
        let offsets = &deletes.positions.offsets;
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
            return;
        };
        assert!(
            first >= self.from.0,
            "offset {first} lies before watermark {}",
            self.from
        );
        self.bytes += deletes.bytes();
        self.to = self.to.max(Watermark(last + 1));
        self.deletes.push(deletes);
    }

    /// Notes that everything before `to` has been taken in, also messages that hold no row.
    pub fn advance(&mut self, to: Watermark) {
        self.to = self.to.max(to);
    }

    /// Hands over what is there and begins anew behind it.
    pub fn seal(&mut self) -> Sealed {
        let fresh = Self::new(self.bucket, self.to);
        let full = std::mem::replace(self, fresh);
        Sealed {
            bucket: full.bucket,
            from: full.from,
            to: full.to,
            chunks: full.chunks.into(),
            deletes: full.deletes.into(),
            rows: full.rows,
            bytes: full.bytes,
        }
    }
}

/// A bucket's rows of `from..to`, complete and unchanging; a clone shares them.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub bucket: Bucket,
    pub from: Watermark,
    pub to: Watermark,
    pub chunks: Arc<[Chunk]>,
    /// Of upsert tables.
    pub deletes: Arc<[Deletes]>,
    pub rows: usize,
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn chunk(offsets: &[i64]) -> Chunk {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let column = Arc::new(Int64Array::from(offsets.to_vec()));
        let positions = Positions {
            offsets: offsets.to_vec(),
            rows: vec![0; offsets.len()],
            timestamps_ms: vec![0; offsets.len()],
        };
        Chunk::new(
            RecordBatch::try_new(schema, vec![column]).unwrap(),
            positions,
        )
    }

    #[test]
    fn sealing_hands_over_a_range_and_begins_behind_it() {
        let mut table = Memtable::new(Bucket(3), Watermark(10));
        table.push(chunk(&[10, 11]));
        table.advance(Watermark(15));
        let sealed = table.seal();
        assert_eq!(
            (sealed.from, sealed.to, sealed.rows),
            (Watermark(10), Watermark(15), 2)
        );
        assert!(table.is_empty());
        table.push(chunk(&[15]));
        assert_eq!(table.seal().from, Watermark(15));
    }

    #[test]
    fn a_bucket_with_markers_only_still_moves() {
        let mut table = Memtable::new(Bucket(0), Watermark(0));
        assert!(table.is_empty());
        table.advance(Watermark(1));
        assert!(!table.is_empty());
        assert_eq!(table.rows(), 0);
    }

    #[test]
    #[should_panic(expected = "lies before watermark")]
    fn rows_before_the_watermark_are_a_bug() {
        Memtable::new(Bucket(0), Watermark(5)).push(chunk(&[4]));
    }
}
