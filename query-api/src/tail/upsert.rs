//! Upsert tables: a bucket's state at the snapshot, and after its tail.
//!
//! ```text
//!  committed ─ runs of files ─┬─► fresh: the same runs, and those of the pieces, which are merged
//!  pieces ─ runs in memory ───┘           among themselves only
//! ```
//! Invariants: every piece with rows is a file of `fresh`; runs of files are never merged into
//! those of pieces, since the next snapshot throws them away; pieces of one size are few, and each
//! row is copied once for each size that its piece passes through; a newer snapshot takes over the
//! pieces as they are, those that it covers in part with the rows that it covers marked as gone.

use std::sync::Arc;

use datafusion::arrow::buffer::BooleanBuffer;
use tidelake_core::Watermark;
use tidelake_table::index::IndexHome;
use tidelake_table::{BucketState, Changes, Chunk, Deletes, StateLoader, TableError};

use super::budget::Held;
use super::pieces::{BucketTail, Piece, Rows, concatenated, is_piece};
use crate::error::QueryError;
use crate::table::shape::Shape;

/// So many pieces of about one size become one.
const JOINED_PIECES: usize = 8;
/// More bytes are not copied for it.
const JOINED_BYTES_MAX: usize = 64 << 20;
/// Pieces of fewer records are of the smallest size.
const SMALL_RECORDS: usize = 1024;

/// A bucket's state, twice. Every piece of the tail is a file of `fresh`.
#[derive(Debug, Clone)]
pub(crate) struct UpsertState {
    /// As the snapshot has it.
    pub committed: BucketState,
    /// After everything behind it: what is deleted here is hidden from `latest`.
    pub fresh: BucketState,
}

impl UpsertState {
    pub(super) fn of(committed: BucketState) -> Self {
        Self {
            fresh: committed.clone(),
            committed,
        }
    }

    /// Files of which the tail supersedes rows, by path; its own pieces may be among them.
    pub(crate) fn superseding(&self) -> impl Iterator<Item = &str> {
        let (committed, fresh) = (self.committed.files(), self.fresh.files());
        let unchanged = std::ptr::eq(committed, fresh);
        let fresh = if unchanged { &[] } else { fresh };
        let mut committed = committed.iter().peekable();
        // Both are in the order of their paths.
        let changed = fresh.iter().filter(move |file| {
            while committed.next_if(|old| old.path < file.path).is_some() {}
            let same = committed.next_if(|old| old.path == file.path);
            same.is_none_or(|old| !Arc::ptr_eq(&old.deleted, &file.deleted))
        });
        changed.map(|file| &*file.path)
    }
}

/// What pieces are made with.
#[derive(Debug, Clone)]
pub(super) struct Pen {
    pub loader: StateLoader,
    pub shape: Arc<Shape>,
    /// Of the pieces' runs.
    home: IndexHome,
}

impl Pen {
    pub(super) fn new(loader: StateLoader, shape: Arc<Shape>) -> Self {
        // Pieces are in memory; so are their keys.
        let home = IndexHome::memory();
        Self {
            loader,
            shape,
            home,
        }
    }

    /// Takes rows and deletes in as one piece. Blocks.
    pub(super) fn push(
        &self,
        tail: &mut BucketTail,
        name: Arc<str>,
        (chunks, deletes): (Vec<Chunk>, Vec<Deletes>),
        held: Held,
    ) -> Result<(), QueryError> {
        if chunks.is_empty() && deletes.is_empty() {
            return Ok(());
        }
        let upsert = state(tail)?;
        let changes = Changes::newest_of(self.loader.spec(), &chunks, &deletes)?;
        let fresh = upsert
            .fresh
            .apply(&self.home, Arc::clone(&name), &changes)?;
        upsert.fresh = fresh.settled_among(&self.home, &is_piece)?;
        let rows = newest(chunks, &changes, &self.shape)?;
        let piece = Piece::new(name, rows, deletes, held);
        tail.pieces.push(Arc::new(piece));
        Ok(())
    }

    /// Makes the last pieces one where there are many of their size. Blocks.
    pub(super) fn join_last(
        &self,
        tail: &mut BucketTail,
        name: Arc<str>,
    ) -> Result<(), QueryError> {
        let Some(last) = tail.pieces.last() else {
            return Ok(());
        };
        let level = level(last);
        let alike = tail.pieces.iter().rev();
        let alike = alike
            .take_while(|piece| self::level(piece) <= level)
            .count();
        let first = tail.pieces.len() - alike;
        let bytes: usize = tail.pieces[first..].iter().map(|piece| piece.bytes).sum();
        if alike < JOINED_PIECES || bytes > JOINED_BYTES_MAX {
            return Ok(());
        }
        let held = last.nothing_held();
        let joined = tail.pieces.split_off(first);
        let upsert = state(tail)?;
        let (mut chunks, mut deletes) = (Vec::new(), Vec::new());
        for piece in &joined {
            let mut first = 0;
            for rows in &piece.chunks {
                let gone = upsert.fresh.deleted(&piece.name);
                let alive = gone.filter(|gone| !gone.is_empty()).map(|gone| {
                    BooleanBuffer::collect_bool(rows.chunk.rows(), |row| {
                        !gone.contains(first + row as u32)
                    })
                });
                first += rows.chunk.rows() as u32;
                chunks.push(match alive {
                    Some(alive) => rows.chunk.filtered(&alive).map_err(TableError::from)?,
                    None => rows.chunk.clone(),
                });
            }
            deletes.extend(piece.deletes.iter().cloned());
        }
        let chunks = concatenated(chunks.iter())?;
        let chunks = Vec::from_iter(chunks.filter(|chunk| chunk.rows() > 0));
        let changes = Changes::newest_of(self.loader.spec(), &chunks, &deletes)?;
        let names = joined.iter().map(|piece| &piece.name);
        let names: Vec<Arc<str>> = names.cloned().collect();
        let fresh = upsert
            .fresh
            .joined(&self.home, &names, Arc::clone(&name), &changes)?;
        upsert.fresh = fresh.settled_among(&self.home, &is_piece)?;
        let rows = newest(chunks, &changes, &self.shape)?;
        let piece = Piece::new(name, rows, deletes, held);
        tail.pieces.push(Arc::new(piece));
        Ok(())
    }

    /// The pieces that reach behind a watermark on top of the state that is committed up to there:
    /// they stay what they are, only what they supersede is looked for anew. Blocks.
    pub(super) fn carry(
        &self,
        onto: &mut BucketTail,
        before: &BucketTail,
        mark: Watermark,
    ) -> Result<(), QueryError> {
        let carried = before.reaching(mark);
        if carried.is_empty() {
            return Ok(());
        }
        let missing = || QueryError::Engine("a bucket of an upsert table has no state".into());
        let earlier = before.upsert.as_ref().ok_or_else(missing)?;
        let behind = carried.iter().map(|(_, behind)| behind.as_ref());
        let (chunks, deletes) = records(behind);
        let changes = Changes::newest_of(self.loader.spec(), &chunks, &deletes)?;
        let gone = |(piece, behind): &(Arc<Piece>, Arc<Piece>)| {
            let is_cut = !Arc::ptr_eq(piece, behind);
            let gone = is_cut.then(|| piece.rows_before(mark));
            (Arc::clone(&piece.name), gone.unwrap_or_default())
        };
        let files: Vec<_> = carried.iter().map(gone).collect();
        let upsert = state(onto)?;
        upsert.fresh = upsert
            .committed
            .carrying(&changes, &earlier.fresh, &files)?;
        onto.pieces = carried.into_iter().map(|(piece, _)| piece).collect();
        Ok(())
    }

    /// What of an earlier tail lies behind a watermark, as one more piece. Blocks.
    pub(super) fn push_behind(
        &self,
        tail: &mut BucketTail,
        name: Arc<str>,
        (before, mark): (&BucketTail, Watermark),
    ) -> Result<(), QueryError> {
        let pieces = before.behind(mark);
        let Some(first) = pieces.first() else {
            return Ok(());
        };
        let came = records(pieces.iter().map(Arc::as_ref));
        self.push(tail, name, came, first.nothing_held())
    }
}

fn records<'a>(pieces: impl Iterator<Item = &'a Piece>) -> (Vec<Chunk>, Vec<Deletes>) {
    let (mut chunks, mut deletes) = (Vec::new(), Vec::new());
    for piece in pieces {
        chunks.extend(piece.chunks.iter().map(|rows| rows.chunk.clone()));
        deletes.extend(piece.deletes.iter().cloned());
    }
    (chunks, deletes)
}

fn state(tail: &mut BucketTail) -> Result<&mut UpsertState, QueryError> {
    let missing = || QueryError::Engine("a bucket of an upsert table has no state".into());
    tail.upsert.as_mut().ok_or_else(missing)
}

/// The size of a piece, in powers of [`JOINED_PIECES`].
fn level(piece: &Piece) -> u32 {
    let deletes = piece.deletes.iter().map(|deletes| deletes.positions.len());
    let records = piece.rows() + deletes.sum::<usize>();
    (records / SMALL_RECORDS).max(1).ilog(JOINED_PIECES)
}

/// The rows that make up the piece: those that `changes` counted.
fn newest(chunks: Vec<Chunk>, changes: &Changes, shape: &Shape) -> Result<Vec<Rows>, QueryError> {
    let kept = chunks.into_iter().enumerate().map(|(place, chunk)| {
        let chunk = match changes.kept_of(place) {
            Some(kept) => chunk.filtered(kept).map_err(TableError::from)?,
            None => chunk,
        };
        Rows::new(chunk, shape)
    });
    let rows: Vec<Rows> = kept.collect::<Result<_, _>>()?;
    Ok(rows
        .into_iter()
        .filter(|rows| rows.chunk.rows() > 0)
        .collect())
}
