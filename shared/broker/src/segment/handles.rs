//! Open segment files: as many as are allowed, however many segments and partitions there are.
//!
//! Owns every handle by which segments are read and written. A file is opened when it is needed and
//! closed when others were needed more recently; what was written through a handle that is closed is
//! durable or will be cut, because a round syncs before it lets go of its handle. Where rounds do
//! not sync, the file as a whole is synced before its segment is closed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The system's answers where a process, or all of them, have no handle left.
const NO_HANDLE_LEFT: [i32; 2] = [24, 23];

#[derive(Debug)]
struct Handle {
    file: Arc<File>,
    /// When it was asked for last, in uses of the pool.
    used: u64,
}

#[derive(Debug, Default)]
struct Pool {
    open: HashMap<u64, Handle>,
    uses: u64,
}

/// The pool; all segments of a broker share one.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    max: usize,
    ids: AtomicU64,
    pool: Mutex<Pool>,
}

impl OpenFiles {
    /// A pool of `max` handles, one at least.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            ids: AtomicU64::new(0),
            pool: Mutex::default(),
        })
    }

    /// A name for one more segment. Paths are none: a folder that was deleted may come back.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The segment's open file; `open` opens it where it is not.
    pub(crate) fn get(
        &self,
        id: u64,
        open: impl Fn() -> io::Result<File>,
    ) -> io::Result<Arc<File>> {
        {
            let mut pool = self.pool.lock();
            pool.uses += 1;
            let used = pool.uses;
            if let Some(handle) = pool.open.get_mut(&id) {
                handle.used = used;
                return Ok(Arc::clone(&handle.file));
            }
        }
        // Not under the lock: a slow disk must not stop those whose files are open.
        let file = match open() {
            Err(error)
                if error
                    .raw_os_error()
                    .is_some_and(|code| NO_HANDLE_LEFT.contains(&code)) =>
            {
                self.pool.lock().open.clear();
                open()?
            }
            opened => opened?,
        };
        let mut pool = self.pool.lock();
        let used = pool.uses;
        let file = match pool.open.get(&id) {
            // Somebody else was faster; all use one handle.
            Some(handle) => Arc::clone(&handle.file),
            None => Arc::new(file),
        };
        let handle = Handle {
            file: Arc::clone(&file),
            used,
        };
        pool.open.insert(id, handle);
        while pool.open.len() > self.max {
            let oldest = pool.open.iter().filter(|(other, _)| **other != id);
            let oldest = oldest.min_by_key(|(_, handle)| handle.used);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            pool.open.remove(&oldest);
        }
        Ok(file)
    }

    /// Lets go of a segment's file.
    pub(crate) fn close(&self, id: u64) {
        self.pool.lock().open.remove(&id);
    }

    #[cfg(test)]
    pub(crate) fn open_now(&self) -> usize {
        self.pool.lock().open.len()
    }
}
