//! Fetched pages as parquet's array readers want them.
//!
//! Pages that were not fetched are gaps: a reader skips a gap at once, whatever the number of its
//! pages, and never reads into it.

mod decode;

use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use parquet::arrow::arrow_reader::RowGroups;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

use super::header::{self, Header, Kind};
use super::{FilePages, FileRows};
use decode::{by_parquet, damaged, decompressed, page};

/// What the reader of a column chunk comes to, in this order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Rows that nobody asked for.
    Gap {
        rows: usize,
    },
    Dictionary {
        page: usize,
    },
    Data {
        rows: usize,
        page: usize,
    },
}

/// The steps of a column chunk.
#[derive(Debug, Clone)]
pub(super) struct GroupPages {
    pub group: usize,
    pub steps: Vec<Step>,
}

/// Where a page of a plan comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Was read before.
    Known(Page),
    /// One of the spans that are fetched.
    Span(usize),
}

impl Source {
    /// True for a page that is known to need no dictionary.
    pub(super) fn stands_alone(&self) -> bool {
        matches!(self, Self::Known(page) if !header::is_by_dictionary(page.encoding()))
    }
}

/// The pages of a read.
pub(super) struct Pages {
    /// In the order of the plan's.
    pages: Vec<Found>,
    /// Where in the file each begins.
    offsets: Vec<u64>,
    /// Takes those that were fetched.
    cache: Option<FilePages>,
}

enum Found {
    Known(Page),
    Fetched {
        header: Header,
        /// After the header.
        body: Bytes,
        /// With the header.
        whole: Bytes,
    },
}

impl Pages {
    /// `sources` begin at `offsets`; `spans` are the bytes that were fetched.
    pub(super) fn new(
        sources: Vec<Source>,
        offsets: Vec<u64>,
        spans: &[Bytes],
        cache: Option<FilePages>,
    ) -> Result<Self> {
        let found = |source| match source {
            Source::Known(page) => Ok(Found::Known(page)),
            Source::Span(span) => {
                let whole = spans[span].clone();
                let (header, length) = header::parse(&whole)?;
                let body = whole.slice(length..);
                // An offset index may count padding to a page.
                if header.stored_bytes > body.len() {
                    return Err(damaged("a page is longer than the offset index says"));
                }
                Ok(Found::Fetched {
                    header,
                    body: body.slice(..header.stored_bytes),
                    whole,
                })
            }
        };
        let pages = sources.into_iter().map(found).collect::<Result<_>>()?;
        Ok(Self {
            pages,
            offsets,
            cache,
        })
    }

    fn needs_dictionary(&self, place: usize) -> bool {
        match &self.pages[place] {
            Found::Known(page) => header::is_by_dictionary(page.encoding()),
            Found::Fetched { header, .. } => header.kind.needs_dictionary(),
        }
    }

    /// How a data page's values are written.
    pub(super) fn encoding(&self, place: usize) -> Encoding {
        match &self.pages[place] {
            Found::Known(page) => page.encoding(),
            Found::Fetched { header, .. } => match header.kind {
                Kind::Data { encoding, .. }
                | Kind::DataV2 { encoding, .. }
                | Kind::Dictionary { encoding, .. } => encoding,
            },
        }
    }

    /// A page of this chunk, decompressed.
    pub(super) fn page(&self, place: usize, chunk: &ColumnChunkMetaData) -> Result<Page> {
        let (header, body, whole) = match &self.pages[place] {
            Found::Known(page) => return Ok(page.clone()),
            Found::Fetched {
                header,
                body,
                whole,
            } => (header, body, whole),
        };
        // Before anything of this size is allocated.
        let chunk_bytes = usize::try_from(chunk.uncompressed_size()).unwrap_or(0);
        if header.plain_bytes > chunk_bytes.max(chunk.compressed_size().unsigned_abs() as usize) {
            return Err(damaged("a page is bigger than its column chunk"));
        }
        let page = match chunk.compression() {
            Compression::UNCOMPRESSED => page(header, body.clone())?,
            Compression::ZSTD(_) => page(header, decompressed(header, body)?)?,
            _ => by_parquet(chunk, whole)?,
        };
        if let Some(cache) = &self.cache {
            cache.put(self.offsets[place], &page);
        }
        Ok(page)
    }
}

/// The pages of a read by column.
pub(super) struct FetchedPages {
    file: Arc<FileRows>,
    rows: usize,
    /// By leaf, in the order of the file's leaves.
    leaves: Vec<Vec<GroupPages>>,
    pages: Arc<Pages>,
}

impl FetchedPages {
    pub(super) fn new(
        file: Arc<FileRows>,
        rows: usize,
        mut leaves: Vec<Vec<GroupPages>>,
        pages: Pages,
    ) -> Self {
        // Pages after a dictionary that grew too big do without.
        for chunk in leaves.iter_mut().flatten() {
            let needs = |step: &Step| match step {
                Step::Data { page, .. } => pages.needs_dictionary(*page),
                _ => false,
            };
            if !chunk.steps.iter().any(needs) {
                chunk
                    .steps
                    .retain(|step| !matches!(step, Step::Dictionary { .. }));
            }
        }
        Self {
            file,
            rows,
            leaves,
            pages: Arc::new(pages),
        }
    }
}

impl RowGroups for FetchedPages {
    fn num_rows(&self) -> usize {
        self.rows
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let place = self.file.leaves.binary_search(&leaf);
        let place = place.map_err(|_| damaged("a column was not fetched"))?;
        Ok(Box::new(Chunks {
            file: Arc::clone(&self.file),
            leaf,
            chunks: self.leaves[place].clone().into_iter(),
            pages: Arc::clone(&self.pages),
        }))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(self.file.metadata.row_groups().iter())
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.file.metadata
    }
}

/// The chunks of a leaf column.
struct Chunks {
    file: Arc<FileRows>,
    leaf: usize,
    chunks: IntoIter<GroupPages>,
    pages: Arc<Pages>,
}

impl Iterator for Chunks {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        let GroupPages { group, steps } = self.chunks.next()?;
        Some(Ok(Box::new(Chunk {
            file: Arc::clone(&self.file),
            group,
            leaf: self.leaf,
            steps: steps.into_iter(),
            pages: Arc::clone(&self.pages),
        })))
    }
}

impl PageIterator for Chunks {}

/// The pages of a column chunk.
struct Chunk {
    file: Arc<FileRows>,
    group: usize,
    leaf: usize,
    steps: IntoIter<Step>,
    pages: Arc<Pages>,
}

impl Chunk {
    fn metadata(&self) -> &ColumnChunkMetaData {
        self.file.metadata.row_group(self.group).column(self.leaf)
    }

    fn page(&self, place: usize) -> Result<Page> {
        self.pages.page(place, self.metadata())
    }

    /// What the decoders rely on without a look.
    fn check(&self, page: &Page, rows: usize) -> Result<()> {
        let column = self.metadata().column_descr();
        let values = page.num_values() as usize;
        let chunk_values = usize::try_from(self.metadata().num_values()).unwrap_or(0);
        let plausible = match column.max_rep_level() {
            0 => values == rows,
            _ => (rows..=chunk_values.max(rows)).contains(&values),
        };
        if !plausible {
            return Err(damaged("a page has another number of values than of rows"));
        }
        let length = page.buffer().len();
        let level_bytes = match page {
            Page::DictionaryPage { .. } => return Err(damaged("a dictionary within the data")),
            Page::DataPage {
                def_level_encoding,
                rep_level_encoding,
                ..
            } => {
                let levels = [
                    (column.max_def_level(), def_level_encoding),
                    (column.max_rep_level(), rep_level_encoding),
                ];
                let packed = levels.iter().filter(|(max, encoding)| {
                    // The other encodings tell their lengths, which are checked.
                    *max > 0 && **encoding != Encoding::RLE
                });
                packed
                    .map(|(max, _)| (values * bits(*max)).div_ceil(8))
                    .sum()
            }
            Page::DataPageV2 {
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                if *num_rows as usize != rows || *num_nulls as usize > values {
                    return Err(damaged("a page has another number of rows than it should"));
                }
                *def_levels_byte_len as usize + *rep_levels_byte_len as usize
            }
        };
        let whole = level_bytes <= length
            && (column.max_rep_level() == 0 || repeats(page, column.max_rep_level(), values));
        match whole {
            true => Ok(()),
            false => Err(damaged("the levels of a page are cut short")),
        }
    }
}

/// True where a page has a repetition level for each value: parquet skips rows of one that has
/// fewer for ever.
fn repeats(page: &Page, max: i16, values: usize) -> bool {
    let levels = match page {
        Page::DataPage {
            buf,
            rep_level_encoding: Encoding::RLE,
            ..
        } => match buf.split_first_chunk::<4>() {
            Some((length, rest)) => rest.get(..u32::from_le_bytes(*length) as usize),
            None => None,
        },
        Page::DataPageV2 {
            buf,
            rep_levels_byte_len,
            ..
        } => buf.get(..*rep_levels_byte_len as usize),
        // Packed, and long enough.
        _ => return true,
    };
    levels.is_some_and(|levels| header::levels(levels, bits(max), values) >= values)
}

/// Bits that a level takes.
fn bits(max: i16) -> usize {
    (i16::BITS - max.leading_zeros()) as usize
}

impl Iterator for Chunk {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Chunk {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        match self.steps.next() {
            None => Ok(None),
            Some(Step::Gap { .. }) => Err(damaged("rows were read that nobody asked for")),
            Some(Step::Dictionary { page }) => match self.page(page)? {
                page @ Page::DictionaryPage { .. } => Ok(Some(page)),
                _ => Err(damaged("a data page in the place of the dictionary")),
            },
            Some(Step::Data { rows, page }) => {
                let page = self.page(page)?;
                self.check(&page, rows)?;
                Ok(Some(page))
            }
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.steps.as_slice().first().map(|step| match step {
            Step::Dictionary { .. } => PageMetadata {
                num_rows: None,
                num_levels: None,
                is_dict: true,
            },
            Step::Gap { rows } | Step::Data { rows, .. } => PageMetadata {
                num_rows: Some(*rows),
                num_levels: None,
                is_dict: false,
            },
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.steps.next();
        Ok(())
    }

    /// An offset index is only for pages that begin with a row.
    fn at_record_boundary(&mut self) -> Result<bool> {
        Ok(true)
    }
}
