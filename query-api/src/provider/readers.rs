//! Parquet readers with cached footers.
//!
//! A data file never changes under its path, so a footer is good for ever. Footers are read together
//! with their page index: DataFusion then never asks for it again (its own cache would be bypassed).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

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
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, MetadataFetch};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::metrics::QueryMetrics;

/// Bytes read from a file's end in the hope that they hold footer and page index.
const FOOTER_BYTES_GUESS: usize = 64 * 1024;

/// Makes readers; clones share the cache.
#[derive(Clone)]
pub(crate) struct Readers {
    store: Arc<dyn ObjectStore>,
    cache: Arc<Footers>,
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
    metadata: Arc<ParquetMetaData>,
    bytes: usize,
    used: u64,
}

impl Footers {
    fn get(&self, path: &Path) -> Option<Arc<ParquetMetaData>> {
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
        Some(Arc::clone(&footer.metadata))
    }

    fn put(&self, path: &Path, metadata: Arc<ParquetMetaData>) {
        let bytes = metadata.memory_size() + path.as_ref().len();
        if bytes > self.bytes_max {
            return;
        }
        let mut held = self.held.lock();
        held.tick += 1;
        let used = held.tick;
        if let Some(old) = held.by_path.insert(
            path.clone(),
            Footer {
                metadata,
                bytes,
                used,
            },
        ) {
            held.by_use.remove(&old.used);
            held.bytes -= old.bytes;
        }
        held.by_use.insert(used, path.clone());
        held.bytes += bytes;
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
        bytes_max: usize,
        metrics: QueryMetrics,
    ) -> Self {
        let cache = Arc::new(Footers {
            bytes_max,
            metrics,
            held: Mutex::default(),
        });
        Self { store, cache }
    }

    /// The file's footer with its page index, where it has one.
    pub(crate) async fn footer(
        &self,
        path: &Path,
        size: u64,
    ) -> parquet::errors::Result<Arc<ParquetMetaData>> {
        if let Some(metadata) = self.cache.get(path) {
            self.cache.metrics.metadata_hits.inc();
            return Ok(metadata);
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
        let metadata = Arc::new(metadata);
        self.cache.put(path, Arc::clone(&metadata));
        Ok(metadata)
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
            metrics,
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
    metrics: ParquetFileMetrics,
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
        self.metrics
            .bytes_scanned
            .add(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
