//! What a cache tells of itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a cache holds, and what it has saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// About; versions of one table are counted as if they shared nothing.
    pub bytes: u64,
    /// Tables of which a version is held.
    pub tables: u64,
    /// Answers without a request to the store.
    pub hits: u64,
    /// Looks for new commits.
    pub refreshes: u64,
    /// Versions that were read as a whole.
    pub loads: u64,
    /// Versions that had to go.
    pub evictions: u64,
}

impl CacheStats {
    /// What has happened, by name.
    pub fn events(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("hit", self.hits),
            ("refresh", self.refreshes),
            ("load", self.loads),
            ("eviction", self.evictions),
        ]
    }

    /// What is there, by unit.
    pub fn held(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes", self.bytes), ("tables", self.tables)]
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    hits: AtomicU64,
    refreshes: AtomicU64,
    loads: AtomicU64,
    evictions: AtomicU64,
}

impl Counts {
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refreshed(&self) {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn loaded(&self) {
        self.loads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn evicted(&self, versions: u64) {
        self.evictions.fetch_add(versions, Ordering::Relaxed);
    }

    pub(super) fn stats(&self, bytes: u64, tables: u64) -> CacheStats {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        CacheStats {
            bytes,
            tables,
            hits: count(&self.hits),
            refreshes: count(&self.refreshes),
            loads: count(&self.loads),
            evictions: count(&self.evictions),
        }
    }
}
