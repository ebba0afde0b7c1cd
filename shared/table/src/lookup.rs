//! Rows of a data file by number: only the pages that hold them are read.
//!
//! ```text
//!  footer with offset index ─ FileRows::open ─► FileRows ─ plan(rows) ─► RowRead
//!                                                  ranges() ─► fetched by the caller ─► decode(bytes)
//! ```
//! Owns which bytes hold a row and how these pages become columns; what opens a file once is kept in
//! [`FileRows`], pages that were read before in a [`PageCache`]. Fetching is the caller's, so is
//! finding the row numbers. A few rows of flat columns are read where they stand (`direct`). The
//! pages of all others go through parquet's own array readers; only the page reader below them is
//! ours, because parquet's makes both zstd contexts for every column chunk, which costs more than
//! decoding a row.
//!
//! Invariants: a plan names each page once; bytes that don't fit a plan, or are damaged, are an
//! error and never a panic. A file that can't be read this way (without a usable offset index) is not
//! opened: [`FileRows::open`] says so with `None`, and other readers take it. (Encrypted files don't
//! come here: this build of parquet can't read their footers.)

mod cache;
mod direct;
mod header;
mod pages;
mod place;

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowSelection,
};
use parquet::arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use tidelake_core::ErrorKind;

pub use cache::{FilePages, PageCache};
use pages::{FetchedPages, GroupPages, Pages, Source};
use place::{Planner, Spot, coalesce, is_mapped};

/// Parquet decodes the rows between selected ones too (and so asks for pages that were not fetched)
/// where runs are shorter than 32 rows on average. A skip of so many rows for each selected one, in
/// front of the first, keeps the average above that.
const LEAD_ROWS: usize = 128;
/// What a field takes in memory beside its name and type; estimated.
const FIELD_BYTES: usize = 256;

/// A failure to read rows by number.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("row {row} was asked for, the file has {rows}")]
    NoSuchRow { row: u32, rows: u64 },
    #[error("row numbers must rise, row {row} follows {previous}")]
    Unordered { previous: u32, row: u32 },
    #[error("the bytes of {fetched} ranges don't fit the {planned} ranges of the plan")]
    Unfit { planned: usize, fetched: usize },
    #[error("a page is damaged: {0}")]
    Damaged(String),
    #[error("the footer can't be used: {0}")]
    Footer(#[source] ParquetError),
}

impl LookupError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchRow { .. } | Self::Damaged(_) | Self::Footer(_) => ErrorKind::Corrupt,
            Self::Unordered { .. } | Self::Unfit { .. } => ErrorKind::Bug,
        }
    }
}

/// What reading rows of a file takes, worked out once from its footer. Share it in an [`Arc`].
pub struct FileRows {
    metadata: Arc<ParquetMetaData>,
    columns: Box<[usize]>,
    levels: FieldLevels,
    /// How a few rows are read, where the columns allow it.
    flat: Option<direct::Flat>,
    /// Leaf columns that are read; rising.
    leaves: Box<[usize]>,
    /// The first row of each row group, then the number of all rows.
    starts: Box<[u64]>,
    bytes: usize,
}

impl FileRows {
    /// Prepares reads of `columns` (root columns by place, rising) of the file with this footer.
    /// `None` where the file can't be read by pages.
    pub fn open(
        metadata: &Arc<ParquetMetaData>,
        columns: &[usize],
    ) -> Result<Option<Self>, LookupError> {
        let descriptor = metadata.file_metadata().schema_descr();
        let mask = ProjectionMask::roots(descriptor, columns.iter().copied());
        let leaves: Box<[usize]> = (0..descriptor.num_columns())
            .filter(|&leaf| mask.leaf_included(leaf))
            .collect();
        let mut starts = Vec::with_capacity(metadata.num_row_groups() + 1);
        let mut rows = 0;
        for (place, group) in metadata.row_groups().iter().enumerate() {
            if !is_mapped(metadata, place, group, &leaves) {
                return Ok(None);
            }
            starts.push(rows);
            rows += group.num_rows().unsigned_abs();
        }
        starts.push(rows);
        // Types as every other reader has them: what the embedded Arrow schema says, where it fits.
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
        let arrow = ArrowReaderMetadata::try_new(Arc::clone(metadata), options)
            .map_err(LookupError::Footer)?;
        let levels = parquet_to_arrow_field_levels(descriptor, mask, Some(arrow.schema().fields()))
            .map_err(LookupError::Footer)?;
        let read = columns
            .iter()
            .filter_map(|&c| arrow.schema().fields().get(c));
        let flat = direct::Flat::of(metadata, &leaves, read.clone().cloned());
        let bytes = size_of::<Self>()
            + size_of_val(columns)
            + size_of_val(&*leaves)
            + size_of_val(starts.as_slice())
            // As fields, as levels, and as the schema of few rows.
            + 3 * read.map(|field| field.size() + FIELD_BYTES).sum::<usize>();
        Ok(Some(Self {
            metadata: Arc::clone(metadata),
            columns: columns.into(),
            levels,
            flat,
            leaves,
            starts: starts.into(),
            bytes,
        }))
    }

    /// The root columns that it was opened for.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Bytes held beside the footer.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// How to read `rows`: numbers within the file, rising, each once. What `known` holds of the
    /// file is not fetched, what it lacks it gets when the read is decoded.
    pub fn plan(
        self: &Arc<Self>,
        rows: &[u32],
        known: Option<&FilePages>,
    ) -> Result<RowRead, LookupError> {
        if let Some(pair) = rows.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (previous, row) = (pair[0], pair[1]);
            return Err(LookupError::Unordered { previous, row });
        }
        let total = self.starts.last().copied().unwrap_or(0);
        if let Some(&row) = rows.last().filter(|row| u64::from(**row) >= total) {
            return Err(LookupError::NoSuchRow { row, rows: total });
        }
        let lead = LEAD_ROWS * (rows.len() + 1);
        let mut plan = Planner::new(self, known);
        let mut selected = Vec::with_capacity(rows.len());
        let mut kept = lead;
        let mut left = rows;
        for (group, pair) in self.starts.windows(2).enumerate() {
            let (begin, end) = (pair[0], pair[1]);
            let within = left.partition_point(|row| u64::from(*row) < end);
            if within == 0 {
                continue;
            }
            let (own, rest) = left.split_at(within);
            let count = (end - begin) as usize;
            let own: Vec<usize> = own
                .iter()
                .map(|row| *row as usize - begin as usize)
                .collect();
            selected.extend(own.iter().map(|row| kept + row..kept + row + 1));
            let gap = if kept == lead { lead } else { 0 };
            plan.group(group, count, gap, &own);
            kept += count;
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        let (ranges, places) = coalesce(&plan.spans);
        Ok(RowRead {
            leaves: plan.leaves,
            file: Arc::clone(self),
            known: known.cloned(),
            pages: plan.pages,
            offsets: plan.offsets,
            rows: rows.len(),
            total: kept,
            spots: match rows.len() <= direct::ROWS_MAX {
                true => selected.iter().map(|range| range.start).collect(),
                false => Vec::new(),
            },
            selection: RowSelection::from_consecutive_ranges(selected.into_iter(), kept),
            ranges,
            places,
        })
    }
}

impl fmt::Debug for FileRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRows")
            .field("columns", &self.columns)
            .field("starts", &self.starts)
            .finish_non_exhaustive()
    }
}

/// A read of rows: what to fetch, and what to make of it.
#[derive(Debug)]
pub struct RowRead {
    file: Arc<FileRows>,
    rows: usize,
    /// Rows that the readers go through, skipped ones included.
    total: usize,
    selection: RowSelection,
    /// Of the rows among those that the readers go through, where they are few.
    spots: Vec<usize>,
    leaves: Vec<Vec<GroupPages>>,
    known: Option<FilePages>,
    /// Each page of the read: known, or by its span.
    pages: Vec<Source>,
    /// Where in the file each page begins.
    offsets: Vec<u64>,
    /// Of each span.
    places: Vec<Spot>,
    ranges: Vec<Range<u64>>,
}

impl RowRead {
    /// The bytes of the file that are needed; rising, apart from each other. None where all pages
    /// are known.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// The rows, in their order; `bytes` are those of [`Self::ranges`].
    pub fn decode(self, bytes: Vec<Bytes>) -> Result<RecordBatch, LookupError> {
        let fits =
            |(range, bytes): (&Range<u64>, &Bytes)| range.end - range.start == bytes.len() as u64;
        if bytes.len() != self.ranges.len() || !self.ranges.iter().zip(&bytes).all(fits) {
            let (planned, fetched) = (self.ranges.len(), bytes.len());
            return Err(LookupError::Unfit { planned, fetched });
        }
        let span = |spot: &Spot| bytes[spot.range].slice(spot.within.clone());
        let spans: Vec<Bytes> = self.places.iter().map(span).collect();
        let offsets = self.offsets.clone();
        let known = self.known.clone();
        let decoded = self.read(&spans);
        if let (Err(_), Some(known)) = (&decoded, known) {
            // What is damaged may have been damaged on its way.
            known.forget(&offsets);
        }
        decoded
    }

    fn read(self, spans: &[Bytes]) -> Result<RecordBatch, LookupError> {
        let Self { file, rows, .. } = self;
        let pages = Pages::new(self.pages, self.offsets, spans, self.known).map_err(damaged)?;
        if let (Some(flat), false) = (&file.flat, self.spots.is_empty())
            && let Some(batch) = flat.rows(&file, &self.leaves, &pages, &self.spots)
        {
            return Ok(batch);
        }
        let fetched = FetchedPages::new(Arc::clone(&file), self.total, self.leaves, pages);
        // The decoders of the parquet crate panic on some damaged pages.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let selection = Some(self.selection);
            let reader = ParquetRecordBatchReader::try_new_with_row_groups(
                &file.levels,
                &fetched,
                rows.max(1),
                selection,
            );
            reader
                .map_err(damaged)?
                .next()
                .transpose()
                .map_err(|error| LookupError::Damaged(error.to_string()))
        }));
        let batch = match decoded {
            Ok(batch) => batch?,
            Err(_panic) => {
                let reason = "its values contradict each other";
                return Err(LookupError::Damaged(reason.to_owned()));
            }
        };
        match batch {
            Some(batch) if batch.num_rows() == rows => Ok(batch),
            batch => Err(LookupError::Damaged(format!(
                "{} of {rows} rows were read",
                batch.map_or(0, |batch| batch.num_rows())
            ))),
        }
    }
}

fn damaged(error: ParquetError) -> LookupError {
    LookupError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests;
