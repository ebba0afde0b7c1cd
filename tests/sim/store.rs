//! The object store as one process sees it: a disk that all share, behind a network of its own.
//!
//! What was stored is there for everybody at once, as on S3. Requests of one process overtake each
//! other, get lost, or are done without an answer, and those of a process that has died may still
//! arrive.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};
use tidelake_storage::Store;

use crate::compactors::COMPACTOR;
use crate::life::Life;
use crate::machine::pass;
use crate::sim::{Sight, Sim};

/// Where a process tries what the store can do before it begins. It is not what is simulated here,
/// and takes more requests than all that follows.
const PROBES: &str = "_tidelake_probe/";
/// What messages call it.
pub(crate) const URL: &str = "memory:///";

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct SimStore {
    disk: Arc<InMemory>,
    life: Arc<Life>,
    sim: Arc<Sim>,
}

impl SimStore {
    pub(crate) fn open(disk: &Arc<InMemory>, life: &Arc<Life>, sim: &Arc<Sim>) -> Store {
        let store = Self {
            disk: disk.clone(),
            life: life.clone(),
            sim: sim.clone(),
        };
        Store::new(Arc::new(store), URL)
    }

    async fn around<T>(
        &self,
        what: &str,
        path: &Path,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if path.as_ref().starts_with(PROBES) {
            return call.await;
        }
        self.life.goes_on().await;
        let (fate, last) = (self.sim.fate(), self.life.ends_with_this());
        pass(fate.there_ms).await;
        if last {
            self.life.end(&self.sim);
        }
        let arrives = match self.life.is_dead() {
            true => self.sim.draw(|dice| dice.hits(500)),
            false => fate.arrives,
        };
        if !arrives {
            self.note(what, path, "is lost");
            self.life.goes_on().await;
            return Err(broken());
        }
        let done = call.await;
        if what == "CREATE" && path.as_ref().contains("/_delta_log/") {
            self.saw_commit(&done, fate.answered);
        }
        match &done {
            Ok(_) if fate.answered => self.note(what, path, "is done"),
            Ok(_) => self.note(what, path, "is done, without an answer"),
            Err(Error::NotFound { .. }) => self.note(what, path, "finds nothing"),
            Err(Error::AlreadyExists { .. }) => self.note(what, path, "comes too late"),
            Err(error) => self.note(what, path, &error.to_string()),
        }
        pass(fate.back_ms).await;
        self.life.goes_on().await;
        if fate.answered {
            done
        } else {
            done.and(Err(broken()))
        }
    }

    fn saw_commit<T>(&self, done: &Result<T>, answered: bool) {
        if done.is_ok() && self.life.name.starts_with(COMPACTOR) {
            self.sim.sees(Sight::Compacted);
        }
        match done {
            Ok(_) if self.life.is_dead() => self.sim.sees(Sight::CommitAfterDeath),
            Ok(_) if !answered => self.sim.sees(Sight::CommitAnswerLost),
            Err(Error::AlreadyExists { .. }) => self.sim.sees(Sight::CommitConflict),
            _ => {}
        }
    }

    fn note(&self, what: &str, path: &Path, outcome: &str) {
        let life = &self.life;
        self.sim
            .note(format_args!("{life} {what} {path} {outcome}"));
    }

    fn listed(&self, prefix: Option<&Path>, after: Option<&Path>) -> Listing {
        let (this, prefix, after) = (self.clone(), prefix.cloned(), after.cloned());
        let found = async move {
            let (disk, at) = (this.disk.clone(), prefix.clone().unwrap_or_default());
            let found = async {
                Ok(match &after {
                    None => disk.list(prefix.as_ref()),
                    Some(after) => disk.list_with_offset(prefix.as_ref(), after),
                })
            };
            this.around("LIST", &at, found).await
        };
        stream::once(found).try_flatten().boxed()
    }
}

type Listing = BoxStream<'static, Result<ObjectMeta>>;

fn broken() -> Error {
    let source = io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke").into();
    Error::Generic {
        store: "simulation",
        source,
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore({})", self.life)
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, path: &Path, load: PutPayload, how: PutOptions) -> Result<PutResult> {
        let what = match how.mode {
            object_store::PutMode::Create => "CREATE",
            _ => "PUT",
        };
        self.around(what, path, self.disk.put_opts(path, load, how))
            .await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.around("UPLOAD", path, self.disk.put_multipart_opts(path, how))
            .await
    }

    async fn get_opts(&self, path: &Path, how: GetOptions) -> Result<GetResult> {
        self.around("GET", path, self.disk.get_opts(path, how))
            .await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.around("GET", path, self.disk.get_ranges(path, ranges))
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
                    this.around("DELETE", &path, this.disk.delete(&path))
                        .await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> Listing {
        self.listed(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, after: &Path) -> Listing {
        self.listed(prefix, Some(after))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let at = prefix.cloned().unwrap_or_default();
        self.around("LIST", &at, self.disk.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.around("COPY", to, self.disk.copy_opts(from, to, how))
            .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.around("RENAME", to, self.disk.rename_opts(from, to, how))
            .await
    }
}
