//! Parquet readers with cached footers, and cached pages for reads of single rows.
//!
//! A data file never changes under its path, so what was read of it is good for ever. Footers are read together
//! with their page index: DataFusion then never asks for it again (its own cache would be bypassed).
//!
//! Invariant: a footer that is handed out has no bounds of floats that say nothing about NaN, which
//! most writers leave out of them; NaN lies above all numbers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::error::Result;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, MetadataFetch};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::SchemaDescriptor;
use tidelake_table::FileRows;
use tidelake_table::lookup::{FilePages, PageCache};

use super::float_bounds;
use crate::metrics::QueryMetrics;

/// Bytes read from a file's end in the hope that they hold footer and page index.
const FOOTER_BYTES_GUESS: usize = 64 * 1024;

/// Makes readers; clones share the caches.
#[derive(Clone)]
pub(crate) struct Readers {
    store: Arc<dyn ObjectStore>,
    cache: Arc<Footers>,
    pages: PageCache,
}

struct Footers {
    bytes_max: usize,
    metrics: QueryMetrics,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_path: HashMap<Path, Footer>,
    /// Paths by when they were used last.
    by_use: BTreeMap<u64, Path>,
    bytes: usize,
    tick: u64,
}

struct Footer {
    known: Arc<Known>,
    bytes: usize,
    used: u64,
}

/// A footer, and what readers of single rows work out of it.
struct Known {
    metadata: Arc<ParquetMetaData>,
    arrow: OnceLock<ArrowReaderMetadata>,
    opened: Mutex<Option<Opened>>,
    /// Whatever the columns.
    pages: FilePages,
}

/// A file opened for reads of rows by number, of the columns that were asked for last.
struct Opened {
    columns: Arc<[usize]>,
    /// None where the file can't be read so.
    rows: Option<Arc<FileRows>>,
}

impl Opened {
    fn bytes(&self) -> usize {
        let rows = self.rows.as_ref().map_or(0, |rows| rows.memory_bytes());
        rows + size_of_val(&*self.columns)
    }
}

impl Footers {
    fn get(&self, path: &Path) -> Option<Arc<Known>> {
        let mut held = self.held.lock();
        held.tick += 1;
        let tick = held.tick;
        let Held {
            by_path, by_use, ..
        } = &mut *held;
        let footer = by_path.get_mut(path)?;
        by_use.remove(&footer.used);
        by_use.insert(tick, path.clone());
        footer.used = tick;
        Some(Arc::clone(&footer.known))
    }

    fn put(&self, path: &Path, known: Arc<Known>) {
        let bytes = known.metadata.memory_size() + path.as_ref().len();
        if bytes > self.bytes_max {
            return;
        }
        let mut held = self.held.lock();
        held.tick += 1;
        let used = held.tick;
        if let Some(old) = held
            .by_path
            .insert(path.clone(), Footer { known, bytes, used })
        {
            held.by_use.remove(&old.used);
            held.bytes -= old.bytes;
        }
        held.by_use.insert(used, path.clone());
        held.bytes += bytes;
        self.shrink(&mut held);
    }

    /// Counts what was added to a footer that may be held.
    fn grew(&self, path: &Path, known: &Arc<Known>, bytes: usize) {
        let mut held = self.held.lock();
        let Some(footer) = held.by_path.get_mut(path) else {
            return;
        };
        if Arc::ptr_eq(&footer.known, known) {
            footer.bytes += bytes;
            held.bytes += bytes;
            self.shrink(&mut held);
        }
    }

    /// Drops what was used longest ago until the rest fits.
    fn shrink(&self, held: &mut Held) {
        while held.bytes > self.bytes_max {
            let Some((_, oldest)) = held.by_use.pop_first() else {
                break;
            };
            if let Some(dropped) = held.by_path.remove(&oldest) {
                held.bytes -= dropped.bytes;
            }
        }
        self.metrics
            .metadata_bytes
            .set(i64::try_from(held.bytes).unwrap_or(i64::MAX));
    }
}

impl Readers {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        footer_bytes_max: usize,
        page_bytes_max: u64,
        metrics: QueryMetrics,
    ) -> Self {
        let cache = Arc::new(Footers {
            bytes_max: footer_bytes_max,
            metrics,
            held: Mutex::default(),
        });
        let pages = PageCache::new(page_bytes_max);
        Self {
            store,
            cache,
            pages,
        }
    }

    /// The file's footer with its page index, where it has one.
    pub(crate) async fn footer(
        &self,
        path: &Path,
        size: u64,
    ) -> parquet::errors::Result<Arc<ParquetMetaData>> {
        Ok(Arc::clone(&self.known(path, size).await?.metadata))
    }

    async fn known(&self, path: &Path, size: u64) -> parquet::errors::Result<Arc<Known>> {
        if let Some(known) = self.cache.get(path) {
            self.cache.metrics.metadata_hits.inc();
            return Ok(known);
        }
        self.cache.metrics.metadata_misses.inc();
        let fetch = Fetch {
            store: self.store.as_ref(),
            path,
        };
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_prefetch_hint(Some(FOOTER_BYTES_GUESS))
            .load_and_finish(fetch, size)
            .await?;
        let known = Arc::new(Known {
            metadata: Arc::new(float_bounds::trusted(metadata)?),
            arrow: OnceLock::new(),
            opened: Mutex::new(None),
            pages: self.pages.file(),
        });
        self.cache.put(path, Arc::clone(&known));
        Ok(known)
    }

    /// The file, opened for reads of rows by number, and its cached pages; `None` where only a stream
    /// can read them. `columns` says which of its columns to read (roots by place, rising).
    pub(crate) async fn rows(
        &self,
        path: &Path,
        size: u64,
        columns: impl FnOnce(&SchemaDescriptor) -> Arc<[usize]>,
    ) -> parquet::errors::Result<Option<(Arc<FileRows>, FilePages)>> {
        let known = self.known(path, size).await?;
        let columns = columns(known.metadata.file_metadata().schema_descr());
        if let Some(opened) = &*known.opened.lock()
            && opened.columns == columns
        {
            let rows = opened.rows.clone();
            return Ok(rows.map(|rows| (rows, known.pages.clone())));
        }
        let rows = FileRows::open(&known.metadata, &columns);
        let rows = rows.map_err(|error| ParquetError::General(error.to_string()))?;
        let rows = rows.map(Arc::new);
        let opened = Opened {
            columns,
            rows: rows.clone(),
        };
        let bytes = opened.bytes();
        let old = known.opened.lock().replace(opened);
        // Less than before is not worth a count: the columns of a table seldom change.
        let old = old.map_or(0, |old| old.bytes());
        self.cache.grew(path, &known, bytes.saturating_sub(old));
        Ok(rows.map(|rows| (rows, known.pages.clone())))
    }

    /// Bytes of a file that a read of rows lacks; perhaps none.
    pub(crate) async fn ranges(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> parquet::errors::Result<Vec<Bytes>> {
        let metrics = &self.cache.metrics;
        let held = i64::try_from(self.pages.bytes()).unwrap_or(i64::MAX);
        metrics.page_bytes.set(held);
        if ranges.is_empty() {
            metrics.page_hits.inc();
            return Ok(Vec::new());
        }
        metrics.page_misses.inc();
        let bytes = self.store.get_ranges(path, ranges).await;
        bytes.map_err(external)
    }

    /// A builder of streams over the file, for readers of single rows.
    pub(crate) async fn stream(
        &self,
        path: &Path,
        size: u64,
    ) -> parquet::errors::Result<ParquetRecordBatchStreamBuilder<impl AsyncFileReader + use<>>>
    {
        let known = self.known(path, size).await?;
        let arrow = match known.arrow.get() {
            Some(arrow) => arrow.clone(),
            None => {
                let (metadata, options) = (Arc::clone(&known.metadata), Default::default());
                let arrow = ArrowReaderMetadata::try_new(metadata, options)?;
                known.arrow.get_or_init(|| arrow).clone()
            }
        };
        let reader = Reader {
            readers: self.clone(),
            path: path.clone(),
            size,
            metrics: None,
        };
        Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(
            reader, arrow,
        ))
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let path = file.object_meta.location;
        let metrics = ParquetFileMetrics::new(partition_index, path.as_ref(), metrics);
        let readers = self.clone();
        Ok(Box::new(Reader {
            readers,
            path,
            size: file.object_meta.size,
            metrics: Some(metrics),
        }))
    }
}

struct Fetch<'a> {
    store: &'a dyn ObjectStore,
    path: &'a Path,
}

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.store
            .get_range(self.path, range)
            .map_err(external)
            .boxed()
    }
}

struct Reader {
    readers: Readers,
    path: Path,
    size: u64,
    metrics: Option<ParquetFileMetrics>,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.count(range.end - range.start);
        self.readers
            .store
            .get_range(&self.path, range)
            .map_err(external)
            .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        self.count(ranges.iter().map(|range| range.end - range.start).sum());
        async move {
            self.readers
                .store
                .get_ranges(&self.path, &ranges)
                .await
                .map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move { self.readers.footer(&self.path, self.size).await }.boxed()
    }
}

impl Reader {
    fn count(&self, bytes: u64) {
        if let Some(metrics) = &self.metrics {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            metrics.bytes_scanned.add(bytes);
        }
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
