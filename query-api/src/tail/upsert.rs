//! Upsert tables: a bucket's state at the snapshot, and after its tail.

use std::sync::Arc;

use tidelake_table::{BucketState, Changes, Chunk, Deletes, StateLoader, TableError};

use super::pieces::{BucketTail, Piece, Rows};
use crate::error::QueryError;
use crate::table::shape::Shape;

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

/// Takes rows and deletes in as one piece. Blocks.
pub(super) fn push(
    tail: &mut BucketTail,
    loader: &StateLoader,
    name: Arc<str>,
    (chunks, deletes): (Vec<Chunk>, Vec<Deletes>),
    shape: &Shape,
) -> Result<(), QueryError> {
    let Some(upsert) = &mut tail.upsert else {
        return Err(QueryError::Engine(
            "a bucket of an upsert table has no state".into(),
        ));
    };
    if chunks.is_empty() && deletes.is_empty() {
        return Ok(());
    }
    let home = loader.home();
    let changes = Changes::newest_of(loader.spec(), &chunks, &deletes)?;
    let fresh = upsert.fresh.apply(home, Arc::clone(&name), &changes)?;
    let rows = newest(chunks, &changes, shape)?;
    upsert.fresh = fresh.settled(home)?;
    tail.pieces.push(Arc::new(Piece::new(name, rows, deletes)));
    Ok(())
}

/// The tail on another committed state: one piece of all that lies behind it. Blocks.
pub(super) fn rebuild(
    tail: &mut BucketTail,
    loader: &StateLoader,
    name: Arc<str>,
    pieces: &[Arc<Piece>],
    shape: &Shape,
) -> Result<(), QueryError> {
    let chunks = pieces
        .iter()
        .flat_map(|piece| &piece.chunks)
        .map(|rows| rows.chunk.clone());
    let deletes = pieces.iter().flat_map(|piece| piece.deletes.clone());
    let (chunks, deletes) = (chunks.collect(), deletes.collect());
    push(tail, loader, name, (chunks, deletes), shape)
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
