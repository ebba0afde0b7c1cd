//! Files whose facts lie in arrays: one entry for each file, one array for each column's bound.
//!
//! Invariants: files are in the order of their paths; a segment never changes. Statistics are read
//! from their text once, when the first query asks for a bound, and go along with their file from
//! segment to segment.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, UInt64Array, make_comparator};
use datafusion::arrow::compute::SortOptions;
use datafusion::common::ScalarValue;
use tidelake_manifest::DataFile;

use super::column_bounds::{Bounds, ColumnBounds};
use super::shape::Shape;

/// What a file takes here beside its bounds.
const FILE_BYTES: u64 = 32;
/// What a segment takes by itself, and what each of its columns does.
const SEGMENT_BYTES: u64 = 512;
const COLUMN_BYTES: u64 = 256;

/// See the module.
pub(crate) struct Segment {
    pub(super) shape: Arc<Shape>,
    pub(super) files: Vec<Arc<DataFile>>,
    /// Physical rows of each file.
    records: UInt64Array,
    /// Rows that count, where every file tells its own.
    live: Option<u64>,
    /// Of all files.
    bytes: u64,
    /// No row of any file is deleted.
    whole: bool,
    held_bytes: u64,
    bounds: OnceLock<Bounds>,
}

/// Least and greatest value of a column in a file, and how many nulls.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Bound {
    pub min: Option<ScalarValue>,
    pub max: Option<ScalarValue>,
    /// Physical, deleted rows included.
    pub nulls: Option<u64>,
    pub exact: bool,
}

/// Ends of a column in many files: none where they are not known, else a value if there is any.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    pub least: Option<Option<ScalarValue>>,
    pub greatest: Option<Option<ScalarValue>>,
    pub nulls: Option<u64>,
    pub exact: bool,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// `files` by path.
    pub(super) fn new(shape: &Arc<Shape>, files: Vec<Arc<DataFile>>) -> Self {
        let records = files.iter().map(|file| file.num_records());
        let live = files.iter().map(|file| file.live_rows());
        let texts = files.iter().map(|file| file.add.stats.as_ref());
        let texts: usize = texts.flatten().map(String::len).sum();
        let columns = shape.table.fields.len() as u64 * COLUMN_BYTES;
        let held_bytes = SEGMENT_BYTES + columns + files.len() as u64 * FILE_BYTES + texts as u64;
        Self {
            held_bytes,
            records: records.collect(),
            live: live.sum(),
            bytes: files.iter().map(|file| file.size()).sum(),
            whole: files.iter().all(|file| file.dv().is_none()),
            shape: Arc::clone(shape),
            files,
            bounds: OnceLock::new(),
        }
    }

    /// The files of several segments at these places (segment, file), which are in order of path.
    /// What was read of statistics is not read again.
    pub(super) fn gathered(parts: &[&Self], places: &[(usize, usize)]) -> Option<Self> {
        let first = parts.first()?;
        let files = places.iter();
        let files = files.map(|(part, file)| Arc::clone(&parts[*part].files[*file]));
        let gathered = Self::new(&first.shape, files.collect());
        if parts.iter().any(|part| part.bounds.get().is_some()) {
            let bounds: Vec<&Bounds> = parts.iter().map(|part| part.bounds()).collect();
            let files: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            // Where arrays can't be joined, the text is still there.
            if let Some(bounds) = Bounds::gathered(&first.shape, &bounds, &files, places) {
                _ = gathered.bounds.set(bounds);
            }
        }
        Some(gathered)
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn live(&self) -> Option<u64> {
        self.live
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// What is known of a column in all files together, none where a file does not tell: an end is
    /// one of its values if it is exact.
    pub(super) fn ends(&self, place: usize) -> Ends {
        let Some(column) = self.column(place) else {
            return Ends::default();
        };
        let nulls = column.nulls.as_ref().map(counts);
        let all_null = |file: usize| {
            let nulls = nulls.filter(|nulls| nulls.is_valid(file));
            let records = self
                .records
                .is_valid(file)
                .then(|| self.records.value(file));
            nulls.is_some_and(|nulls| Some(nulls.value(file)) == records)
        };
        let end = |of: &Option<ArrayRef>, wanted: Ordering| {
            let mut best = None;
            let Some(array) = of else {
                let nothing = (0..self.len()).all(all_null);
                return nothing.then_some(None);
            };
            let order = make_comparator(array, array, SortOptions::default()).ok()?;
            for file in 0..self.len() {
                if array.is_null(file) {
                    // Without a bound only nulls are known to be no end.
                    all_null(file).then_some(())?;
                } else if best.is_none_or(|best| order(file, best) == wanted) {
                    best = Some(file);
                }
            }
            best.map(|file| ScalarValue::try_from_array(array, file).ok())
                .map_or(Some(None), |end| Some(Some(end?)))
        };
        let told = nulls.filter(|nulls| nulls.null_count() == 0);
        Ends {
            least: end(&column.least, Ordering::Less),
            greatest: end(&column.greatest, Ordering::Greater),
            nulls: told.map(|nulls| nulls.values().iter().sum()),
            exact: (0..self.len()).all(|file| self.is_exact(column, file) || all_null(file)),
        }
    }

    /// Physical rows of each file.
    pub(crate) fn records(&self) -> &UInt64Array {
        &self.records
    }

    /// The place of a file by its path.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        let (first, last) = (self.files.first()?, self.files.last()?);
        if path < first.path() || last.path() < path {
            return None;
        }
        self.files
            .binary_search_by(|file| file.path().cmp(path))
            .ok()
    }

    /// What it takes once its statistics are read: about as much as their text, in which each value
    /// has its column's name beside it.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Bounds of a column of the table, by its place.
    pub(crate) fn column(&self, place: usize) -> Option<&ColumnBounds> {
        self.bounds().columns.get(place)
    }

    /// True where the bounds of a column of that file are values.
    pub(super) fn is_exact(&self, column: &ColumnBounds, file: usize) -> bool {
        column.keeps_values && self.bounds().tight.value(file)
    }

    /// What is known of a column in one file.
    pub(super) fn bound(&self, place: usize, file: usize) -> Bound {
        let Some(column) = self.column(place) else {
            return Bound::default();
        };
        let value = |of: &Option<ArrayRef>| {
            let array = of.as_ref().filter(|array| array.is_valid(file))?;
            ScalarValue::try_from_array(array, file).ok()
        };
        let nulls = column.nulls.as_ref().filter(|nulls| nulls.is_valid(file));
        Bound {
            min: value(&column.least),
            max: value(&column.greatest),
            nulls: nulls.map(|nulls| counts(nulls).value(file)),
            exact: self.is_exact(column, file),
        }
    }

    fn bounds(&self) -> &Bounds {
        self.bounds
            .get_or_init(|| Bounds::read(&self.shape, &self.files))
    }
}

pub(crate) fn counts(array: &ArrayRef) -> &UInt64Array {
    array.as_primitive()
}
