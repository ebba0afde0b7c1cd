//! Classic (V1) checkpoints: the state of a snapshot as one Parquet file, one row for each action.
//!
//! Writing makes `N.checkpoint.parquet`; reading also takes the old multi-part form and the columns
//! of other writers in whatever order. Rows come in groups of one kind, so that a group holds one
//! column of values and otherwise nulls, and memory for a group is all that building needs beside
//! the compressed bytes. Statistics are carried as text, as they stand in the log.

mod read;
mod write;

pub(crate) use read::{REMOVES, STATE, read};
pub(crate) use write::{Pen, Written};

/// Actions in one batch on their way to or from the file.
const BATCH_ROWS: usize = 4096;
