//! Pages that were read before, decompressed: rows that are asked for again need no request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::column::page::Page;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry takes beside its page's bytes; estimated.
const ENTRY_BYTES: u64 = 160;
/// Bytes of a page of 1,024 values, for the first size of the cache's own tables.
const PAGE_BYTES_GUESS: u64 = 8 * 1024;

/// Pages of many files in bounded memory; clones share it. What is used seldom goes first.
#[derive(Clone)]
pub struct PageCache {
    pages: Arc<Cache<Place, Page, Bytewise>>,
    files: Arc<AtomicU64>,
}

/// A file, and where in it the page begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    file: u64,
    offset: u64,
}

#[derive(Clone)]
struct Bytewise;

impl Weighter<Place, Page> for Bytewise {
    fn weight(&self, _place: &Place, page: &Page) -> u64 {
        page.buffer().len() as u64 + ENTRY_BYTES
    }
}

impl PageCache {
    /// Holds `bytes_max` at most; 0 keeps nothing.
    pub fn new(bytes_max: u64) -> Self {
        let items = usize::try_from(bytes_max / PAGE_BYTES_GUESS).unwrap_or(usize::MAX);
        Self {
            pages: Arc::new(Cache::with_weighter(items, bytes_max, Bytewise)),
            files: Arc::default(),
        }
    }

    /// A place for the pages of one file. A file that is given two has its pages twice.
    pub fn file(&self) -> FilePages {
        FilePages {
            cache: self.clone(),
            file: self.files.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Bytes that are held now.
    pub fn bytes(&self) -> u64 {
        self.pages.weight()
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// The pages of one file. Its contents must never change.
#[derive(Debug, Clone)]
pub struct FilePages {
    cache: PageCache,
    file: u64,
}

impl FilePages {
    pub(super) fn get(&self, offset: u64) -> Option<Page> {
        let file = self.file;
        self.cache.pages.get(&Place { file, offset })
    }

    pub(super) fn put(&self, offset: u64, page: &Page) {
        let file = self.file;
        self.cache.pages.insert(Place { file, offset }, alone(page));
    }

    pub(super) fn forget(&self, offsets: &[u64]) {
        let file = self.file;
        for &offset in offsets {
            self.cache.pages.remove(&Place { file, offset });
        }
    }
}

/// The page with a buffer of its own: one that is part of what was fetched would hold all of it.
fn alone(page: &Page) -> Page {
    let mut page = page.clone();
    match &mut page {
        Page::DataPage { buf, .. }
        | Page::DataPageV2 { buf, .. }
        | Page::DictionaryPage { buf, .. } => *buf = Bytes::copy_from_slice(buf),
    }
    page
}
