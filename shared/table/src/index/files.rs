//! The files that a run speaks of, and the one space of numbers that its positions live in.

use std::sync::Arc;

/// One file of a run: its rows are the positions `base..base + extent`.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub path: Arc<str>,
    pub base: u64,
    pub extent: u64,
}

/// A run's files by rising base.
#[derive(Debug, Default)]
pub(super) struct Files {
    spans: Vec<Span>,
    /// Places in `spans` by path.
    by_path: Vec<u32>,
    /// The file of position `i << shift`, for all `i`; and the last file.
    guide: Vec<u32>,
    shift: u32,
}

/// Entries of the guide for each file.
const GUIDE_DENSITY: usize = 4;

impl Files {
    /// Lays files out one behind the other.
    pub(super) fn lay_out(files: impl IntoIterator<Item = (Arc<str>, u64)>) -> Self {
        let mut base = 0;
        let mut spans = Vec::new();
        for (path, extent) in files {
            spans.push(Span { path, base, extent });
            base += extent;
        }
        let mut by_path: Vec<u32> = (0..spans.len() as u32).collect();
        by_path.sort_by(|&a, &b| spans[a as usize].path.cmp(&spans[b as usize].path));
        let (guide, shift) = guide(&spans, base);
        Self {
            spans,
            by_path,
            guide,
            shift,
        }
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub(super) fn contains(&self, path: &str) -> bool {
        let path_of = |place: &u32| &*self.spans[*place as usize].path;
        self.by_path
            .binary_search_by(|place| path_of(place).cmp(path))
            .is_ok()
    }

    /// The end of the last file's positions.
    pub(super) fn end(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.base + span.extent)
    }

    /// Which file a position belongs to. The position must lie below [`Files::end`].
    #[inline]
    pub(super) fn of(&self, position: u64) -> usize {
        let at = (position >> self.shift) as usize;
        let (mut low, mut high) = (self.guide[at] as usize, self.guide[at + 1] as usize);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.spans[middle].base <= position {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    pub(super) fn bytes(&self) -> usize {
        let paths: usize = self.spans.iter().map(|span| span.path.len()).sum();
        paths
            + self.spans.capacity() * size_of::<Span>()
            + (self.by_path.capacity() + self.guide.capacity()) * 4
    }
}

fn guide(spans: &[Span], end: u64) -> (Vec<u32>, u32) {
    let mut shift = 0;
    while end >> shift >= (GUIDE_DENSITY * spans.len()).max(2) as u64 {
        shift += 1;
    }
    let last = spans.len().saturating_sub(1) as u32;
    let file_of = |position| {
        let after = spans.partition_point(|span| span.base <= position);
        after.saturating_sub(1) as u32
    };
    let starts = 0..=end >> shift;
    let guide = starts.map(|i| file_of(i << shift)).chain([last]);
    (guide.collect(), shift)
}
