//! Parquet readers with cached footers, cached deleted rows, and cached pages for reads of single
//! rows; and the sidecars beside the files.
//!
//! A data file never changes under its path, so what was read of it is good for ever. Footers are read together
//! with their page index: DataFusion then never asks for it again (its own cache would be bypassed).
//!
//! Invariant: a footer that is handed out has no bounds of floats that say nothing about NaN, which
//! most writers leave out of them; NaN lies above all numbers.

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
use tidelake_core::TenantId;
use tidelake_manifest::VectorDescriptor;
use tidelake_table::lookup::{FilePages, PageCache};
use tidelake_table::{FileRows, RowSet};

use super::lru::Lru;
use super::scan_bytes::{Held, ScanBytes};
use super::sidecars::Sidecars;
use super::{float_bounds, page_bytes};
use crate::metrics::QueryMetrics;

/// Bytes read from a file's end in the hope that they hold footer and page index.
const FOOTER_BYTES_GUESS: usize = 64 * 1024;

/// What an entry of a cache takes by itself.
const KEPT_BYTES: usize = 256;

/// Makes readers; clones share the caches.
#[derive(Clone)]
pub(crate) struct Readers {
    store: Arc<dyn ObjectStore>,
    cache: Arc<Footers>,
    pages: PageCache,
    vectors: Arc<Mutex<Lru<VectorId, Arc<RowSet>>>>,
    scans: ScanBytes,
    sidecars: Arc<Sidecars>,
}

/// Bytes that each kind of what is read may take between queries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheBytes {
    pub footers_max: usize,
    pub pages_max: u64,
    pub vectors_max: usize,
    pub sidecars_max: usize,
}

/// A file, and its deletion vector's identity.
type VectorId = (Path, String);

struct Footers {
    metrics: QueryMetrics,
    held: Mutex<Lru<Path, Arc<Known>>>,
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
        self.held.lock().get(path).map(Arc::clone)
    }

    fn put(&self, path: &Path, known: Arc<Known>) {
        let bytes = known.metadata.memory_size() + path.as_ref().len();
        let mut held = self.held.lock();
        held.put(path.clone(), known, bytes);
        self.tell(&held);
    }

    /// Counts what was added to a footer that may be held.
    fn grew(&self, path: &Path, known: &Arc<Known>, bytes: usize) {
        let mut held = self.held.lock();
        held.grew(path, |held| Arc::ptr_eq(held, known), bytes);
        self.tell(&held);
    }

    fn tell(&self, held: &Lru<Path, Arc<Known>>) {
        let bytes = i64::try_from(held.bytes()).unwrap_or(i64::MAX);
        self.metrics.metadata_bytes.set(bytes);
    }
}

impl Readers {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        bytes: CacheBytes,
        (metrics, scans): (QueryMetrics, ScanBytes),
    ) -> Self {
        let held = Mutex::new(Lru::new(bytes.footers_max));
        Self {
            sidecars: Arc::new(Sidecars::new(Arc::clone(&store), bytes.sidecars_max)),
            store,
            cache: Arc::new(Footers { metrics, held }),
            pages: PageCache::new(bytes.pages_max),
            vectors: Arc::new(Mutex::new(Lru::new(bytes.vectors_max))),
            scans,
        }
    }

    /// The same, for scans of a tenant.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Self {
        Self {
            scans: self.scans.of_tenant(tenant),
            ..self.clone()
        }
    }

    pub(super) fn sidecars(&self) -> &Sidecars {
        &self.sidecars
    }

    /// The file's footer with its page index, where it has one.
    pub(crate) async fn footer(
        &self,
        path: &Path,
        size: u64,
    ) -> parquet::errors::Result<Arc<ParquetMetaData>> {
        Ok(Arc::clone(&self.known(path, size).await?.metadata))
    }

    /// The rows that a file's vector deletes, if they are known.
    pub(super) fn deleted(&self, path: &Path, vector: &VectorDescriptor) -> Option<Arc<RowSet>> {
        let id = (path.clone(), vector.unique_id());
        self.vectors.lock().get(&id).map(Arc::clone)
    }

    pub(super) fn keep_deleted(
        &self,
        path: &Path,
        vector: &VectorDescriptor,
        deleted: &Arc<RowSet>,
    ) {
        let id = (path.clone(), vector.unique_id());
        let bytes = deleted.bytes() + path.as_ref().len() + id.1.len() + KEPT_BYTES;
        self.vectors.lock().put(id, Arc::clone(deleted), bytes);
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
            scan: None,
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
        Ok(Box::new(Reader {
            readers: self.clone(),
            path,
            size: file.object_meta.size,
            scan: Some((metrics, self.scans.nothing())),
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
    /// Where a scan reads: what it counts, and what it holds.
    scan: Option<(ParquetFileMetrics, Held)>,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            self.count(std::slice::from_ref(&range)).await?;
            let bytes = self.readers.store.get_range(&self.path, range).await;
            bytes.map_err(external)
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            self.count(&ranges).await?;
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
    /// The bytes of a row group take the place of those of the one before.
    async fn count(&self, ranges: &[Range<u64>]) -> parquet::errors::Result<()> {
        let Some((metrics, held)) = &self.scan else {
            return Ok(());
        };
        let whole = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let fetched = ranges
            .iter()
            .map(|range| range.end.saturating_sub(range.start));
        let fetched = whole(fetched.fold(0, u64::saturating_add));
        let footer = self.readers.footer(&self.path, self.size).await?;
        let decoded = whole(page_bytes::decoded(&footer, ranges));
        let fits = held.become_bytes(fetched, decoded).await;
        fits.map_err(|error| ParquetError::External(Box::new(error)))?;
        metrics.bytes_scanned.add(fetched);
        Ok(())
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
