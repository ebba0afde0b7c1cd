//! Counts the requests that reach a store and repeats those that may be repeated.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::backoff::{Backoff, RetryPolicy, salt_of};
use crate::error::Class;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Get,
    Head,
    /// A put that may overwrite.
    Put,
    /// A put that must not overwrite.
    Create,
    /// The start of an upload in parts.
    Upload,
    List,
    Delete,
    /// A copy or rename inside the store.
    Copy,
}

impl Operation {
    pub const ALL: [Self; 8] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Create,
        Self::Upload,
        Self::List,
        Self::Delete,
        Self::Copy,
    ];

    /// The name that metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Create => "create",
            Self::Upload => "upload",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

/// Requests made so far, by operation. Repetitions by us count, those inside the S3 client and the
/// further pages of a long listing do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests([u64; Operation::ALL.len()]);

impl Requests {
    pub fn of(&self, operation: Operation) -> u64 {
        self.0[operation as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// All of them, by the name that metrics use.
    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        let all = Operation::ALL.into_iter();
        all.map(|operation| (operation.name(), self.of(operation)))
            .collect()
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut added = *self;
        for (count, before) in added.0.iter_mut().zip(earlier.0) {
            *count = count.saturating_sub(before);
        }
        added
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; Operation::ALL.len()]);

impl Counters {
    pub(crate) fn count(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Requests {
        Requests(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

/// The wrapper around every store. Repeats reads and overwriting puts after transient errors;
/// never a create, whose lost answers `put_once` resolves.
#[derive(Debug)]
pub(crate) struct Metered {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
    retry: RetryPolicy,
}

impl Metered {
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        counters: Arc<Counters>,
        retry: RetryPolicy,
    ) -> Self {
        Self {
            inner,
            counters,
            retry,
        }
    }

    async fn repeat<T, F>(
        &self,
        operation: Operation,
        location: &Path,
        mut call: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::new(self.retry, salt_of(location.as_ref()));
        loop {
            self.counters.count(operation);
            match call().await {
                Err(error) if Class::of(&error) == Class::Transient => {
                    let operation = operation.name();
                    tracing::debug!(%location, operation, %error, "transient store error");
                    if !backoff.wait().await {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if options.mode == PutMode::Overwrite {
            let put = || {
                self.inner
                    .put_opts(location, payload.clone(), options.clone())
            };
            return self.repeat(Operation::Put, location, put).await;
        }
        self.counters.count(Operation::Create);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let start = || self.inner.put_multipart_opts(location, options.clone());
        self.repeat(Operation::Upload, location, start).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head {
            Operation::Head
        } else {
            Operation::Get
        };
        self.repeat(operation, location, || {
            self.inner.get_opts(location, options.clone())
        })
        .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.repeat(Operation::Get, location, || {
            self.inner.get_ranges(location, ranges)
        })
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let counters = Arc::clone(&self.counters);
        let counted = locations.inspect(move |_| counters.count(Operation::Delete));
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.count(Operation::List);
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.count(Operation::List);
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.cloned().unwrap_or_default();
        self.repeat(Operation::List, &name, || {
            self.inner.list_with_delimiter(prefix)
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counters.count(Operation::Copy);
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.counters.count(Operation::Copy);
        self.inner.rename_opts(from, to, options).await
    }
}
