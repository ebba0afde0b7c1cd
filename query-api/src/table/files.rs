//! The live files of a version, in segments that it shares with the versions around it.
//!
//! ```text
//!  version 7: [ 4096 files ][ 4096 files ][ 900 ][ 4 ]
//!  version 8: [ 4096 files ][ 4095 files ][ 900 ][ 8 ]      one file went, four came
//! ```
//! A commit costs the segments that it touches: those that lost files are made anew, files that came
//! form one of their own, and small ones are joined until each is at least twice as large as the
//! next. Nothing is kept for a single file beyond its entries in the arrays; what a query wants to
//! know of the files that it reads is looked up there ([`FileFacts`]).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use tidelake_manifest::{DataFile, DeltaTable, FileChanges};

use super::facts::FileFacts;
use super::segment::{Ends, Segment};
use super::shape::Shape;

/// Files of a segment: so many are pruned at a time.
const SEGMENT_FILES_MAX: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Files {
    table: Arc<DeltaTable>,
    shape: Arc<Shape>,
    segments: Vec<Arc<Segment>>,
    len: usize,
    live_rows: Option<u64>,
}

impl Files {
    pub(crate) fn new(
        table: &Arc<DeltaTable>,
        shape: &Arc<Shape>,
        files: Vec<Arc<DataFile>>,
    ) -> Self {
        let mut segments = Vec::new();
        push(&mut segments, shape, files);
        Self::of(table, shape, segments)
    }

    fn of(table: &Arc<DeltaTable>, shape: &Arc<Shape>, segments: Vec<Arc<Segment>>) -> Self {
        Self {
            len: segments.iter().map(|segment| segment.len()).sum(),
            live_rows: segments.iter().map(|segment| segment.live()).sum(),
            table: Arc::clone(table),
            shape: Arc::clone(shape),
            segments,
        }
    }

    /// The files of another version of the same columns.
    pub(crate) fn after(&self, table: &Arc<DeltaTable>, changes: FileChanges) -> Self {
        let mut gone: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for file in &changes.gone {
            if let Some((segment, place)) = self.place(file.path()) {
                gone.entry(segment).or_default().insert(place);
            }
        }
        let segments = self.segments.iter().enumerate();
        let segments = segments.filter_map(|(number, segment)| match gone.get(&number) {
            None => Some(Arc::clone(segment)),
            Some(gone) if gone.len() == segment.len() => None,
            Some(gone) => {
                let left = (0..segment.len()).filter(|place| !gone.contains(place));
                let left: Vec<_> = left.map(|place| (0, place)).collect();
                Segment::gathered(&[segment], &left).map(Arc::new)
            }
        });
        let mut segments: Vec<_> = segments.collect();
        push(&mut segments, &self.shape, changes.came);
        settle(&mut segments);
        Self::of(table, &self.shape, segments)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Rows that count, where every file tells its own.
    pub(crate) fn live_rows(&self) -> Option<u64> {
        self.live_rows
    }

    /// True where no row of any file is deleted.
    pub(crate) fn is_whole(&self) -> bool {
        self.segments.iter().all(|segment| segment.is_whole())
    }

    /// Statistics of all files together as plans use them, of the columns at these places; no row
    /// is deleted.
    pub(crate) fn statistics(&self, columns: &BTreeSet<usize>) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.shape.scan);
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(rows) = self.live_rows {
            statistics.num_rows = Precision::Exact(size(rows));
        }
        let bytes = self.segments.iter().map(|segment| segment.bytes());
        statistics.total_byte_size = Precision::Inexact(size(bytes.sum()));
        for &place in columns {
            let ends: Vec<Ends> = self.segments.iter().map(|part| part.ends(place)).collect();
            let exact = ends.iter().all(|ends| ends.exact);
            let end = |of: &dyn Fn(&Ends) -> Option<Option<ScalarValue>>, wanted: Ordering| {
                let known = ends.iter().map(of).collect::<Option<Vec<_>>>();
                let better = |a: ScalarValue, b: ScalarValue| match a.partial_cmp(&b) {
                    Some(order) if order == wanted => a,
                    _ => b,
                };
                match known.and_then(|known| known.into_iter().flatten().reduce(better)) {
                    Some(end) if exact => Precision::Exact(end),
                    Some(end) => Precision::Inexact(end),
                    None => Precision::Absent,
                }
            };
            let nulls = ends.iter().map(|ends| ends.nulls).sum::<Option<u64>>();
            statistics.column_statistics[place] = ColumnStatistics {
                min_value: end(&|ends| ends.least.clone(), Ordering::Less),
                max_value: end(&|ends| ends.greatest.clone(), Ordering::Greater),
                null_count: nulls.map_or(Precision::Absent, |nulls| Precision::Exact(size(nulls))),
                ..ColumnStatistics::new_unknown()
            };
        }
        statistics
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// One file of a segment.
    pub(crate) fn facts(&self, segment: &Arc<Segment>, place: usize) -> FileFacts {
        FileFacts::of(&self.table, segment, place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = FileFacts> {
        let segments = self.segments.iter();
        segments.flat_map(|segment| (0..segment.len()).map(|place| self.facts(segment, place)))
    }

    /// A file by its path, relative to the table.
    pub(crate) fn find(&self, path: &str) -> Option<FileFacts> {
        let (segment, place) = self.place(path)?;
        Some(self.facts(&self.segments[segment], place))
    }

    fn place(&self, path: &str) -> Option<(usize, usize)> {
        let mut segments = self.segments.iter().enumerate();
        segments.find_map(|(number, segment)| Some((number, segment.find(path)?)))
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.held_bytes())
            .sum()
    }
}

fn push(segments: &mut Vec<Arc<Segment>>, shape: &Arc<Shape>, mut files: Vec<Arc<DataFile>>) {
    files.sort_unstable_by(|a, b| a.path().cmp(b.path()));
    let parts = files.chunks(SEGMENT_FILES_MAX);
    segments.extend(parts.map(|part| Arc::new(Segment::new(shape, part.to_vec()))));
}

/// Joins the smallest for as long as they are of like size and fit into one.
fn settle(segments: &mut Vec<Arc<Segment>>) {
    loop {
        segments.sort_by_key(|segment| Reverse(segment.len()));
        let [.., a, b] = segments.as_slice() else {
            return;
        };
        if b.len() * 2 < a.len() || a.len() + b.len() > SEGMENT_FILES_MAX {
            return;
        }
        let Some(joined) = joined(a, b) else {
            return;
        };
        segments.truncate(segments.len() - 2);
        segments.push(Arc::new(joined));
    }
}

fn joined(a: &Segment, b: &Segment) -> Option<Segment> {
    let (mut at, mut places) = ([0, 0], Vec::with_capacity(a.len() + b.len()));
    loop {
        let part = match (a.files.get(at[0]), b.files.get(at[1])) {
            (Some(a), Some(b)) => usize::from(b.path() < a.path()),
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (None, None) => break,
        };
        places.push((part, at[part]));
        at[part] += 1;
    }
    Segment::gathered(&[a, b], &places)
}

#[cfg(test)]
mod tests;
