//! Which bytes of a file hold a row: what the offset index says, where it can be believed.

use std::ops::Range;

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::offset_index::PageLocation;

use super::pages::{GroupPages, Source, Step};
use super::{FilePages, FileRows};

/// Ranges that are closer than this are fetched as one: cheaper than another read.
const COALESCE_BYTES_MAX: u64 = 4 * 1024;

/// True where the offset index says plausibly where each row of these columns is.
pub(super) fn is_mapped(
    metadata: &ParquetMetaData,
    place: usize,
    group: &RowGroupMetaData,
    leaves: &[usize],
) -> bool {
    let index = metadata.offset_index().and_then(|index| index.get(place));
    let (Some(index), Ok(rows)) = (index, u32::try_from(group.num_rows())) else {
        return false;
    };
    leaves.iter().all(|&leaf| {
        let (Some(index), Some(chunk)) = (index.get(leaf), group.columns().get(leaf)) else {
            return false;
        };
        let Some(chunk_range) = chunk_range(chunk) else {
            return false;
        };
        let pages = index.page_locations();
        let inside = |page: &PageLocation| match (
            u64::try_from(page.offset),
            u64::try_from(page.compressed_page_size),
        ) {
            (Ok(offset), Ok(size)) => {
                let end = offset.saturating_add(size);
                size > 0 && offset >= chunk_range.start && end <= chunk_range.end
            }
            _ => false,
        };
        let rising = |pair: &[PageLocation]| {
            let ends = pair[0]
                .offset
                .saturating_add(pair[0].compressed_page_size.into());
            pair[0].first_row_index < pair[1].first_row_index && ends <= pair[1].offset
        };
        let (first, last) = (pages.first(), pages.last());
        chunk.file_path().is_none()
            && pages.iter().all(inside)
            && pages.windows(2).all(rising)
            && first.map_or(rows == 0, |page| page.first_row_index == 0)
            && last.is_none_or(|page| page.first_row_index < i64::from(rows))
    })
}

fn chunk_range(chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = chunk.dictionary_page_offset();
    let start = u64::try_from(start.unwrap_or(chunk.data_page_offset())).ok()?;
    let length = u64::try_from(chunk.compressed_size()).ok()?;
    Some(start..start.checked_add(length)?)
}

/// Collects the pages of a plan.
pub(super) struct Planner<'a> {
    file: &'a FileRows,
    known: Option<&'a FilePages>,
    /// What the reader of each leaf goes through, by row group.
    pub leaves: Vec<Vec<GroupPages>>,
    /// The pages that are read, and where in the file each begins.
    pub pages: Vec<Source>,
    pub offsets: Vec<u64>,
    /// Those of them that must be fetched.
    pub spans: Vec<Range<u64>>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(file: &'a FileRows, known: Option<&'a FilePages>) -> Self {
        Self {
            file,
            known,
            leaves: vec![Vec::new(); file.leaves.len()],
            pages: Vec::with_capacity(file.leaves.len() * 2),
            offsets: Vec::with_capacity(file.leaves.len() * 2),
            spans: Vec::new(),
        }
    }

    /// Adds a page; gives its place.
    fn page(&mut self, range: Range<u64>) -> usize {
        let known = self.known.and_then(|known| known.get(range.start));
        self.offsets.push(range.start);
        self.pages.push(match known {
            Some(page) => Source::Known(page),
            None => {
                self.spans.push(range);
                Source::Span(self.spans.len() - 1)
            }
        });
        self.pages.len() - 1
    }

    /// Adds the pages of a row group with `count` rows that hold `rows`, after a gap of `lead` rows.
    pub(super) fn group(&mut self, group: usize, count: usize, lead: usize, rows: &[usize]) {
        let metadata = &self.file.metadata;
        let index = metadata.offset_index().and_then(|index| index.get(group));
        for (place, &leaf) in self.file.leaves.iter().enumerate() {
            let locations = index.map_or(&[][..], |index| index[leaf].page_locations());
            let mut own = Vec::with_capacity(3 + rows.len().min(locations.len()));
            // Where the dictionary is read: before the first page that may need it.
            let (mut first, mut alone) = (None, true);
            let (mut at, mut gap, mut left) = (0, lead, rows);
            let mut pages = locations;
            while let Some(&row) = left.first() {
                let past = pages.partition_point(|page| page.first_row_index <= row as i64);
                let Some(page) = past.checked_sub(1).map(|page| &pages[page]) else {
                    break;
                };
                pages = &pages[past..];
                let begin = page.first_row_index.unsigned_abs() as usize;
                let end = pages
                    .first()
                    .map_or(count, |next| next.first_row_index.unsigned_abs() as usize);
                gap += begin - at;
                if gap > 0 {
                    own.push(Step::Gap { rows: gap });
                }
                first.get_or_insert(own.len());
                let from = page.offset.unsigned_abs();
                let size = u64::from(page.compressed_page_size.unsigned_abs());
                let rows = end - begin;
                let page = self.page(from..from + size);
                alone &= self.pages[page].stands_alone();
                own.push(Step::Data { rows, page });
                (at, gap) = (end, 0);
                left = &left[left.partition_point(|row| *row < end)..];
            }
            if at < count {
                own.push(Step::Gap { rows: count - at });
            }
            let dictionary = dictionary(metadata.row_group(group).column(leaf), locations);
            if let (Some(first), Some(range), false) = (first, dictionary, alone) {
                let page = self.page(range);
                own.insert(first, Step::Dictionary { page });
            }
            self.leaves[place].push(GroupPages { group, steps: own });
        }
    }
}

/// What stands before the first data page is the dictionary.
fn dictionary(chunk: &ColumnChunkMetaData, pages: &[PageLocation]) -> Option<Range<u64>> {
    let start = chunk_range(chunk)?.start;
    let end = pages.first()?.offset.unsigned_abs();
    (end > start).then_some(start..end)
}

/// Where a page is in what was fetched.
#[derive(Debug, Clone, Default)]
pub(super) struct Spot {
    pub range: usize,
    pub within: Range<usize>,
}

/// Ranges to fetch, and where in them each span is.
pub(super) fn coalesce(spans: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<Spot>) {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_unstable_by_key(|&span| spans[span].start);
    let mut ranges: Vec<Range<u64>> = Vec::with_capacity(spans.len());
    let mut places = vec![Spot::default(); spans.len()];
    for span in order {
        let Range { start, end } = spans[span];
        match ranges.last_mut() {
            Some(last) if start <= last.end.saturating_add(COALESCE_BYTES_MAX) => {
                last.end = last.end.max(end);
            }
            _ => ranges.push(start..end),
        }
        let at = ranges.len() - 1;
        let begin = ranges[at].start;
        places[span] = Spot {
            range: at,
            within: (start - begin) as usize..(end - begin) as usize,
        };
    }
    (ranges, places)
}
