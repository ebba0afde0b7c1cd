//! [`Store`]: one prefix of an object store, and the calls the rest of the workspace makes on it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart,
};

use crate::backoff::{Backoff, RetryPolicy, salt_of};
use crate::error::{Class, StorageError};
use crate::metered::{Counters, Metered, Requests};
use crate::{Result, open};

/// Bytes of a part of an upload: above S3's least (5 MiB), small enough to keep several in memory.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts of one upload that are on their way at a time.
const PARTS_IN_FLIGHT_MAX: usize = 4;

/// A prefix of an object store. Names given to it are relative to the prefix, `/` divides them.
/// Cheap to clone; clones and scopes share connections and request counts.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
    pub(crate) retry: RetryPolicy,
    /// URL of the whole store, without a slash at its end.
    root_url: Arc<str>,
    prefix: Path,
}

impl Store {
    /// Wraps a store, for example one that injects faults. `url` is what messages call it.
    pub fn new(inner: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self::with_policy(inner, url, RetryPolicy::default())
    }

    /// As [`Store::new`], with a retry policy of its own.
    pub fn with_policy(inner: Arc<dyn ObjectStore>, url: &str, retry: RetryPolicy) -> Self {
        Self::with_policies(inner, url, retry, retry)
    }

    /// `single` is for the requests that the wrapper repeats, `retry` for the calls that consist of
    /// several requests: put-if-absent, listings, deletes.
    pub(crate) fn with_policies(
        inner: Arc<dyn ObjectStore>,
        url: &str,
        single: RetryPolicy,
        retry: RetryPolicy,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        let inner = Arc::new(Metered::new(inner, Arc::clone(&counters), single));
        let root_url = Arc::from(url.strip_suffix('/').unwrap_or(url));
        Self {
            inner,
            counters,
            retry,
            root_url,
            prefix: Path::default(),
        }
    }

    /// Opens `file:///folder`, `memory:///` or `s3://bucket/prefix`. Makes no request.
    pub fn open(url: &str, options: &open::StoreOptions) -> Result<Self> {
        open::open(url, options)
    }

    /// The store below `sub`.
    pub fn scoped(&self, sub: &str) -> Self {
        Self {
            prefix: self.path(sub),
            ..self.clone()
        }
    }

    /// The whole store, with retries and counts, for readers that bring their own paths
    /// (see [`Store::path`]).
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner)
    }

    /// The path of `rel` in [`Store::object_store`]. The name is taken as it is; only what no object
    /// name may contain (`.` and `..` as a whole segment, control characters) is percent-encoded.
    pub fn path(&self, rel: &str) -> Path {
        let rel = rel.trim_matches('/');
        let parsed = Path::parse(rel).unwrap_or_else(|_| Path::from(rel));
        self.prefix.parts().chain(parsed.parts()).collect()
    }

    /// The name of `path` relative to this store's prefix, if it lies below it.
    pub fn relative(&self, path: &Path) -> Option<String> {
        let rest = path.as_ref().strip_prefix(self.prefix.as_ref())?;
        if self.prefix.as_ref().is_empty() {
            return Some(rest.to_owned());
        }
        rest.strip_prefix('/').map(str::to_owned)
    }

    /// Where this store is, for people and messages.
    pub fn url(&self) -> String {
        self.url_of("")
    }

    /// Where the object `rel` is, for people and messages.
    pub fn url_of(&self, rel: &str) -> String {
        format!("{}/{}", self.root_url, self.path(rel))
    }

    /// Requests made so far through this store, its clones and scopes.
    pub fn requests(&self) -> Requests {
        self.counters.snapshot()
    }

    pub(crate) fn error(&self, rel: &str, source: object_store::Error) -> StorageError {
        StorageError::from_store(self.url_of(rel), source)
    }

    /// The whole object.
    pub async fn get(&self, rel: &str) -> Result<Bytes> {
        let got = async { self.inner.get(&self.path(rel)).await?.bytes().await };
        got.await.map_err(|error| self.error(rel, error))
    }

    /// The whole object, or none where it does not exist. A missing bucket is an error.
    pub async fn get_opt(&self, rel: &str) -> Result<Option<Bytes>> {
        match self.get(rel).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Store::get_opt`], with the object's size and time.
    pub(crate) async fn get_with_meta(&self, rel: &str) -> Result<Option<(ObjectMeta, Bytes)>> {
        let got = async {
            let found = self.inner.get(&self.path(rel)).await?;
            Ok((found.meta.clone(), found.bytes().await?))
        };
        match got.await.map_err(|error| self.error(rel, error)) {
            Ok(found) => Ok(Some(found)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// True where a plain write shows its beginning before its end: a folder of files.
    pub(crate) fn shows_parts(&self) -> bool {
        self.root_url.starts_with("file:")
    }

    /// Bytes `range` of the object.
    pub async fn get_range(&self, rel: &str, range: Range<u64>) -> Result<Bytes> {
        let got = self.inner.get_range(&self.path(rel), range).await;
        got.map_err(|error| self.error(rel, error))
    }

    /// Size and time of the object.
    pub async fn head(&self, rel: &str) -> Result<ObjectMeta> {
        self.inner
            .head(&self.path(rel))
            .await
            .map_err(|error| self.error(rel, error))
    }

    /// Writes an object whose name nobody else uses; overwrites what is there.
    pub async fn put(&self, rel: &str, bytes: Bytes) -> Result<()> {
        let put = self
            .inner
            .put(&self.path(rel), PutPayload::from_bytes(bytes))
            .await;
        put.map(drop).map_err(|error| self.error(rel, error))
    }

    /// Writes a large object in parts; returns its size. Visible only once it is whole.
    pub async fn put_stream<E>(
        &self,
        rel: &str,
        chunks: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<u64, E>
    where
        E: From<StorageError>,
    {
        let failed = |error| E::from(self.error(rel, error));
        let upload = self
            .inner
            .put_multipart(&self.path(rel))
            .await
            .map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut chunks = std::pin::pin!(chunks);
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    abort(upload).await;
                    return Err(error);
                }
            };
            bytes += chunk.len() as u64;
            upload.put(chunk);
            if let Err(error) = upload.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await {
                abort(upload).await;
                return Err(failed(error));
            }
        }
        upload.finish().await.map_err(failed)?;
        Ok(bytes)
    }

    /// A writer for a large object. It must be shut down: only then is the object visible.
    pub fn writer(&self, rel: &str) -> BufWriter {
        BufWriter::with_capacity(self.object_store(), self.path(rel), PART_BYTES)
            .with_max_concurrency(PARTS_IN_FLIGHT_MAX)
    }

    /// An upload in parts, for callers that cut the parts themselves.
    pub async fn upload(&self, rel: &str) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart(&self.path(rel)).await;
        upload.map_err(|error| self.error(rel, error))
    }

    /// All objects below `prefix` (a whole folder name, or empty for everything), in name order.
    /// Their locations are those of [`Store::object_store`]; see [`Store::relative`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.listed(prefix, None).await
    }

    /// Those objects below `prefix` whose names sort after `start_after`.
    pub async fn list_from(&self, prefix: &str, start_after: &str) -> Result<Vec<ObjectMeta>> {
        self.listed(prefix, Some(start_after)).await
    }

    async fn listed(&self, prefix: &str, start_after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let path = self.path(prefix);
        let mut backoff = Backoff::new(self.retry, salt_of(path.as_ref()));
        loop {
            let listing = match start_after {
                None => self.inner.list(Some(&path)),
                Some(after) => self.inner.list_with_offset(Some(&path), &self.path(after)),
            };
            match listing.try_collect::<Vec<_>>().await {
                Ok(mut found) => {
                    // Files come in the order of the folder.
                    found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
                    return Ok(found);
                }
                Err(error) if Class::of(&error) == Class::Transient && backoff.wait().await => {}
                Err(error) => return Err(self.error(prefix, error)),
            }
        }
    }

    /// Folder names directly below `prefix`, sorted.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let found = self
            .inner
            .list_with_delimiter(Some(&self.path(prefix)))
            .await;
        let found = found.map_err(|error| self.error(prefix, error))?;
        let mut names: Vec<_> = found
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; one that does not exist is as good as deleted.
    pub async fn delete(&self, rel: &str) -> Result<()> {
        let path = self.path(rel);
        let mut backoff = Backoff::new(self.retry, salt_of(path.as_ref()));
        loop {
            match self.inner.delete(&path).await {
                Ok(()) => return Ok(()),
                Err(error) => match Class::of(&error) {
                    Class::NotFound => return Ok(()),
                    Class::Transient if backoff.wait().await => {}
                    _ => return Err(self.error(rel, error)),
                },
            }
        }
    }
}

/// Gives up an upload; a failure to do so leaves parts that the store's own rules expire.
async fn abort(upload: WriteMultipart) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(%error, "an upload could not be aborted");
    }
}
