//! A store that fails on demand, for tests and simulations.
//!
//! Faults belong to the instance: scripted by [`Rule`]s (this operation, on this name, that often),
//! or drawn from a seed ([`FaultStore::random`]). A [`Gate`] holds a request at a chosen point,
//! which forces an interleaving of two writers. [`Creates`] turns the store into the kind that the
//! start-up probe must refuse.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};
use tokio::sync::Semaphore;

use crate::Operation;
use crate::backoff::mix;

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection breaks before the store saw the request.
    FailBefore,
    /// The store does the work, the answer gets lost.
    LoseAnswer,
    /// The file system is read-only.
    ReadOnly,
    /// The disk is full.
    Full,
    /// The request waits first.
    Delay(Duration),
    /// The request waits at the gate before the store sees it.
    HoldBefore(Gate),
    /// The store does the work, the answer waits at the gate.
    HoldAfter(Gate),
}

/// Holds requests until it is opened.
#[derive(Debug, Clone)]
pub struct Gate {
    reached: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    pub fn new() -> Self {
        Self {
            reached: Arc::new(Semaphore::new(0)),
            opened: Arc::new(Semaphore::new(0)),
        }
    }

    /// Waits until a request stands at the gate (each arrival is seen once).
    pub async fn reached(&self) {
        if let Ok(permit) = self.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets through whoever waits, and everyone who comes later.
    pub fn open(&self) {
        self.opened.close();
    }

    async fn pass(&self) {
        self.reached.add_permits(1);
        // Only closing ends the wait.
        let _ = self.opened.acquire().await;
    }
}

/// When a fault strikes: by default at every request.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    operation: Option<Operation>,
    part: String,
    skip: u32,
    times: u32,
}

impl Rule {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            operation: None,
            part: String::new(),
            skip: 0,
            times: u32::MAX,
        }
    }

    /// Only requests of this kind.
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only objects whose path contains `part`.
    pub fn at(mut self, part: &str) -> Self {
        self.part = part.to_owned();
        self
    }

    /// Lets the first `skip` matching requests pass.
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Strikes `times` times, then never again.
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    fn matches(&self, operation: Operation, path: &Path) -> bool {
        let writes = !matches!(
            operation,
            Operation::Get | Operation::Head | Operation::List
        );
        let applies = writes || !matches!(self.fault, Fault::ReadOnly | Fault::Full);
        applies
            && self.times > 0
            && self.operation.is_none_or(|wanted| wanted == operation)
            && path.as_ref().contains(&self.part)
    }
}

/// How the store treats put-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Creates {
    /// As the wrapped store does.
    #[default]
    AsWrapped,
    /// Looks first, writes then: two racing writers both succeed.
    CheckThenWrite,
    /// Ignores the condition.
    Overwrite,
}

/// Share of requests, in thousandths, that random faults hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Odds {
    pub fail_before: u16,
    pub lose_answer: u16,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    odds: Odds,
    random: u64,
    creates: Creates,
    unlisted: Vec<String>,
}

/// The wrapper. Clones share the script.
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Mutex<Script>>,
}

impl FaultStore {
    /// No faults until told.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            script: Arc::default(),
        }
    }

    /// Adds a rule; of several that match the oldest strikes.
    pub fn inject(&self, rule: Rule) {
        self.script().rules.push(rule);
    }

    /// Draws faults from `seed` with `odds`, besides the rules.
    pub fn random(&self, seed: u64, odds: Odds) {
        let mut script = self.script();
        script.random = seed;
        script.odds = odds;
    }

    /// Changes how put-if-absent works.
    pub fn creates(&self, creates: Creates) {
        self.script().creates = creates;
    }

    /// Leaves objects whose path contains `part` out of every listing, as a store may that lists
    /// while they are being made. By name they are there.
    pub fn hide_from_listings(&self, part: &str) {
        self.script().unlisted.push(part.to_owned());
    }

    /// Ends all faults. Gates keep what they hold.
    pub fn heal(&self) {
        *self.script() = Script::default();
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_listed(&self, meta: &ObjectMeta) -> bool {
        let script = self.script();
        let path = meta.location.as_ref();
        !script.unlisted.iter().any(|part| path.contains(part))
    }

    /// A listing with its faults.
    fn listed(
        &self,
        prefix: Option<&Path>,
        found: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, path) = (self.clone(), prefix.cloned().unwrap_or_default());
        let shown = self.clone();
        let found = found.try_filter(move |meta| {
            let shown = shown.is_listed(meta);
            async move { shown }
        });
        stream::once(async move {
            this.around(Operation::List, &path, async move { Ok(found) })
                .await
        })
        .try_flatten()
        .boxed()
    }

    fn decide(&self, operation: Operation, path: &Path) -> Option<Fault> {
        let mut script = self.script();
        for rule in script
            .rules
            .iter_mut()
            .filter(|rule| rule.matches(operation, path))
        {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else {
                rule.times -= 1;
                return Some(rule.fault.clone());
            }
        }
        if script.odds == Odds::default() {
            return None;
        }
        script.random = script.random.wrapping_add(1);
        let draw = (mix(script.random) % 1000) as u16;
        let Odds {
            fail_before,
            lose_answer,
        } = script.odds;
        if draw < fail_before {
            Some(Fault::FailBefore)
        } else if draw < fail_before + lose_answer {
            Some(Fault::LoseAnswer)
        } else {
            None
        }
    }

    async fn around<T>(
        &self,
        operation: Operation,
        path: &Path,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.decide(operation, path) {
            None => call.await,
            Some(Fault::FailBefore) => Err(injected(io::ErrorKind::ConnectionReset)),
            Some(Fault::LoseAnswer) => {
                call.await?;
                Err(injected(io::ErrorKind::ConnectionReset))
            }
            Some(Fault::ReadOnly) => Err(injected(io::ErrorKind::ReadOnlyFilesystem)),
            Some(Fault::Full) => Err(injected(io::ErrorKind::StorageFull)),
            Some(Fault::Delay(wait)) => {
                #[expect(clippy::disallowed_methods, reason = "an injected delay is a sleep")]
                tokio::time::sleep(wait).await;
                call.await
            }
            Some(Fault::HoldBefore(gate)) => {
                gate.pass().await;
                call.await
            }
            Some(Fault::HoldAfter(gate)) => {
                let outcome = call.await;
                gate.pass().await;
                outcome
            }
        }
    }

    async fn create(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let overwrite = PutOptions {
            mode: PutMode::Overwrite,
            ..options.clone()
        };
        let creates = self.script().creates;
        match creates {
            Creates::AsWrapped => self.inner.put_opts(path, payload, options).await,
            Creates::Overwrite => self.inner.put_opts(path, payload, overwrite).await,
            Creates::CheckThenWrite => {
                if self.inner.head(path).await.is_ok() {
                    let source = "found".into();
                    return Err(Error::AlreadyExists {
                        path: path.to_string(),
                        source,
                    });
                }
                tokio::task::yield_now().await;
                self.inner.put_opts(path, payload, overwrite).await
            }
        }
    }
}

fn injected(kind: io::ErrorKind) -> Error {
    Error::Generic {
        store: "faults",
        source: io::Error::new(kind, "injected fault").into(),
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if options.mode == PutMode::Create {
            let create = self.create(path, payload, options);
            return self.around(Operation::Create, path, create).await;
        }
        self.around(
            Operation::Put,
            path,
            self.inner.put_opts(path, payload, options),
        )
        .await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let start = self.inner.put_multipart_opts(path, options);
        self.around(Operation::Upload, path, start).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head {
            Operation::Head
        } else {
            Operation::Get
        };
        self.around(operation, path, self.inner.get_opts(path, options))
            .await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.around(Operation::Get, path, self.inner.get_ranges(path, ranges))
            .await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        paths
            .and_then(move |path| {
                let this = this.clone();
                async move {
                    this.around(Operation::Delete, &path, this.inner.delete(&path))
                        .await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        self.around(
            Operation::List,
            &path,
            self.inner.list_with_delimiter(prefix),
        )
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.around(Operation::Copy, to, self.inner.copy_opts(from, to, options))
            .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.around(
            Operation::Copy,
            to,
            self.inner.rename_opts(from, to, options),
        )
        .await
    }
}

#[cfg(test)]
mod tests;
