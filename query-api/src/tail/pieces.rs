//! Decoded rows of a bucket's tail.

use std::sync::Arc;

use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::record_batch::RecordBatch;
use tidelake_core::{Bucket, Offset, Watermark};
use tidelake_table::{Chunk, Deletes, Positions, RowSet};

use super::budget::Held;
use super::upsert::UpsertState;
use crate::error::QueryError;
use crate::table::shape::Shape;

/// Pieces of append tables smaller than this are joined with their neighbour.
const JOINED_ROWS_MAX: usize = 8192;

/// No data file's name begins so.
const PIECE_PREFIX: &str = "tail:";

/// The name of a follower's piece. It stays the piece's own as long as the follower lives.
pub(super) fn piece_name(bucket: Bucket, number: u64) -> Arc<str> {
    format!("{PIECE_PREFIX}{bucket}/{number:012}").into()
}

/// True of the names that pieces have.
pub(super) fn is_piece(name: &str) -> bool {
    name.starts_with(PIECE_PREFIX)
}

/// Chunks as one, in their order; none of none.
pub(super) fn concatenated<'a>(
    chunks: impl Iterator<Item = &'a Chunk> + Clone,
) -> Result<Option<Chunk>, QueryError> {
    let mut positions = Positions::default();
    for chunk in chunks.clone() {
        let at = &chunk.positions;
        positions.offsets.extend_from_slice(&at.offsets);
        positions.rows.extend_from_slice(&at.rows);
        positions.timestamps_ms.extend_from_slice(&at.timestamps_ms);
    }
    let batches: Vec<&RecordBatch> = chunks.map(|chunk| &chunk.batch).collect();
    let Some(first) = batches.first() else {
        return Ok(None);
    };
    let batch = concat_batches(&first.schema(), batches)?;
    Ok(Some(Chunk::new(batch, positions)))
}

/// A bucket's tail from the snapshot's watermark on. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BucketTail {
    /// The offset after the last that was read.
    pub reached: Offset,
    /// In the order of the log.
    pub pieces: Vec<Arc<Piece>>,
    /// Upsert tables only.
    pub upsert: Option<UpsertState>,
}

/// Rows that came together. For upsert tables: a file in memory, whose rows are the newest of their
/// keys at that time, numbered through all chunks.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Unlike any data file's.
    pub name: Arc<str>,
    pub chunks: Vec<Rows>,
    pub deletes: Vec<Deletes>,
    pub bytes: usize,
    /// The same bytes, in the budget.
    held: Held,
}

/// Rows in the order of the log.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// Logical types, and where each row came from.
    pub chunk: Chunk,
    /// The same as queries see them; shares the buffers.
    pub shown: RecordBatch,
}

impl Rows {
    pub(super) fn new(chunk: Chunk, shape: &Shape) -> Result<Self, QueryError> {
        let shown = shape.scanned(&chunk.batch)?;
        Ok(Self { chunk, shown })
    }

    fn slice(&self, from: usize, len: usize) -> Self {
        let at = &self.chunk.positions;
        let positions = Positions {
            offsets: at.offsets[from..from + len].to_vec(),
            rows: at.rows[from..from + len].to_vec(),
            timestamps_ms: at.timestamps_ms[from..from + len].to_vec(),
        };
        Self {
            chunk: Chunk::new(self.chunk.batch.slice(from, len), positions),
            shown: self.shown.slice(from, len),
        }
    }
}

impl Piece {
    pub(super) fn new(
        name: Arc<str>,
        chunks: Vec<Rows>,
        deletes: Vec<Deletes>,
        mut held: Held,
    ) -> Self {
        // Views cost extra, the buffers behind them are shared.
        let views = |rows: &Rows| rows.shown.num_rows() * rows.shown.num_columns() * 4;
        let bytes = chunks
            .iter()
            .map(|rows| rows.chunk.bytes() + views(rows))
            .chain(deletes.iter().map(Deletes::bytes))
            .sum();
        held.set(bytes);
        Self {
            name,
            chunks,
            deletes,
            bytes,
            held,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.chunks.iter().map(|rows| rows.chunk.rows()).sum()
    }

    /// The chunk and its row that hold a row of the piece.
    pub(crate) fn locate(&self, row: u32) -> Option<(&RecordBatch, usize)> {
        let mut row = row as usize;
        for rows in &self.chunks {
            if row < rows.shown.num_rows() {
                return Some((&rows.shown, row));
            }
            row -= rows.shown.num_rows();
        }
        None
    }

    /// The rows before a watermark, by their numbers.
    pub(super) fn rows_before(&self, mark: Watermark) -> RowSet {
        let mut before = RowSet::default();
        let mut first = 0;
        for rows in &self.chunks {
            let offsets = &rows.chunk.positions.offsets;
            let end = offsets.partition_point(|offset| *offset < mark.0);
            (first..first + end as u32).for_each(|row| _ = before.insert(row));
            first += offsets.len() as u32;
        }
        before
    }

    /// What of the piece lies behind a watermark: all, a part, or nothing.
    fn behind(self: &Arc<Self>, mark: Watermark) -> Option<Arc<Self>> {
        let first = |offsets: &[i64]| offsets.first().copied();
        let offsets = self
            .chunks
            .iter()
            .map(|rows| rows.chunk.positions.offsets.as_slice())
            .chain(self.deletes.iter().map(|d| d.positions.offsets.as_slice()));
        if offsets.filter_map(first).all(|first| first >= mark.0) {
            return Some(Arc::clone(self));
        }
        let cut = |offsets: &[i64]| offsets.partition_point(|offset| *offset < mark.0);
        let chunks = self.chunks.iter().filter_map(|rows| {
            let (from, all) = (cut(&rows.chunk.positions.offsets), rows.chunk.rows());
            (from < all).then(|| rows.slice(from, all - from))
        });
        let deletes = self.deletes.iter().filter_map(|deletes| {
            let at = &deletes.positions;
            let (from, all) = (cut(&at.offsets), at.len());
            (from < all).then(|| {
                let positions = Positions {
                    offsets: at.offsets[from..].to_vec(),
                    rows: at.rows[from..].to_vec(),
                    timestamps_ms: at.timestamps_ms[from..].to_vec(),
                };
                Deletes::new(deletes.keys.slice(from, all - from), positions)
            })
        });
        let (chunks, deletes): (Vec<_>, Vec<_>) = (chunks.collect(), deletes.collect());
        if chunks.is_empty() && deletes.is_empty() {
            return None;
        }
        let held = self.nothing_held();
        let piece = Self::new(Arc::clone(&self.name), chunks, deletes, held);
        Some(Arc::new(piece))
    }

    /// What of the piece lies before a watermark, for rows without keys: all, a part, or nothing.
    fn before(self: &Arc<Self>, mark: Watermark) -> Option<Arc<Self>> {
        let cut = |rows: &Rows| {
            let offsets = &rows.chunk.positions.offsets;
            offsets.partition_point(|offset| *offset < mark.0)
        };
        if self
            .chunks
            .iter()
            .all(|rows| cut(rows) == rows.chunk.rows())
        {
            return Some(Arc::clone(self));
        }
        let chunks = self.chunks.iter().filter_map(|rows| {
            let before = cut(rows);
            (before > 0).then(|| rows.slice(0, before))
        });
        let chunks: Vec<_> = chunks.collect();
        (!chunks.is_empty()).then(|| {
            let name = Arc::clone(&self.name);
            Arc::new(Self::new(name, chunks, Vec::new(), self.nothing_held()))
        })
    }

    /// Both as one, for rows without keys.
    fn joined(&self, next: &Self, shape: &Shape) -> Result<Self, QueryError> {
        let parts = self.chunks.iter().chain(&next.chunks);
        let rows = match concatenated(parts.map(|rows| &rows.chunk))? {
            Some(chunk) => vec![Rows::new(chunk, shape)?],
            None => Vec::new(),
        };
        let name = Arc::clone(&self.name);
        Ok(Self::new(name, rows, Vec::new(), self.nothing_held()))
    }

    /// Of the same budget.
    pub(super) fn nothing_held(&self) -> Held {
        self.held.nothing()
    }
}

impl BucketTail {
    pub(super) fn new(mark: Watermark, upsert: Option<UpsertState>) -> Self {
        Self {
            reached: Offset(mark.0),
            pieces: Vec::new(),
            upsert,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.pieces.iter().map(|piece| piece.rows()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// A piece by its name; data files have none.
    pub(crate) fn piece(&self, name: &str) -> Option<&Arc<Piece>> {
        if !is_piece(name) {
            return None;
        }
        self.pieces.iter().find(|piece| piece.name.as_ref() == name)
    }

    /// The same tail up to an earlier offset; none where it is not known that far, or rows beyond
    /// have superseded others.
    pub(super) fn up_to(&self, mark: Watermark) -> Option<Self> {
        if self.upsert.is_some() || self.reached.0 < mark.0 {
            return None;
        }
        let pieces = self.pieces.iter();
        Some(Self {
            reached: Offset(mark.0),
            pieces: pieces.filter_map(|piece| piece.before(mark)).collect(),
            upsert: None,
        })
    }

    /// The pieces behind a watermark.
    pub(super) fn behind(&self, mark: Watermark) -> Vec<Arc<Piece>> {
        let pieces = self.pieces.iter();
        pieces.filter_map(|piece| piece.behind(mark)).collect()
    }

    /// The pieces that reach behind a watermark: each whole, and what of it lies there.
    pub(super) fn reaching(&self, mark: Watermark) -> Vec<(Arc<Piece>, Arc<Piece>)> {
        let pieces = self.pieces.iter();
        pieces
            .filter_map(|piece| Some((Arc::clone(piece), piece.behind(mark)?)))
            .collect()
    }

    /// Adds a piece of an append table. Small ones are joined as in a binary counter: every row is
    /// copied a few times at most.
    pub(super) fn push(&mut self, mut piece: Piece, shape: &Shape) -> Result<(), QueryError> {
        while let Some(last) = self.pieces.last() {
            let (before, new) = (last.rows(), piece.rows());
            if before >= 2 * new || before + new > JOINED_ROWS_MAX {
                break;
            }
            piece = last.joined(&piece, shape)?;
            self.pieces.pop();
        }
        self.pieces.push(Arc::new(piece));
        Ok(())
    }
}
