//! A folder as a durable object store.
//!
//! A write goes to a temporary file beside its target (`name#<digits>`, hidden from listings), is
//! flushed to the disk, moved into place in one step (hard link where the name must be new, rename
//! otherwise), and answered after the folder's own entry is on the disk too:
//!
//! ```text
//! write temp ─ fsync temp ─ link | rename ─ fsync folder ─ answer
//! ```
//!
//! A crash leaves a whole object or none, and at most a stale temporary file, which nobody reads.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};
use tidelake_core::threads;

const STORE: &str = "file";

/// Numbers the temporary files of this process.
static NEXT_TEMP: AtomicU64 = AtomicU64::new(1);

/// Objects as files under one folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DurableFiles {
    files: LocalFileSystem,
    folders: Arc<Folders>,
}

impl DurableFiles {
    /// The store under `root`; the folder is created where it is missing.
    pub fn open(root: &FilePath) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        if let Some(parent) = root.parent() {
            sync_folder(parent)?;
        }
        let files = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self {
            files,
            folders: Arc::new(Folders {
                root,
                durable: Mutex::default(),
            }),
        })
    }

    async fn put_file(&self, target: PathBuf, payload: PutPayload, new: bool) -> Result<()> {
        let folders = Arc::clone(&self.folders);
        blocking(move || {
            let (temp, mut file) = folders.open_temp(&target)?;
            payload
                .iter()
                .try_for_each(|chunk| file.write_all(chunk))
                .map_err(generic)?;
            file.sync_all().map_err(generic)?;
            drop(file);
            if new {
                temp.link(&target)
            } else {
                temp.rename(&target)
            }
        })
        .await
    }

    /// Runs a move inside the store and makes its result durable.
    async fn moved(&self, to: &Path, step: impl Future<Output = Result<()>>) -> Result<()> {
        let target = self.files.path_to_filesystem(to)?;
        let folders = Arc::clone(&self.folders);
        let parent = target.clone();
        blocking(move || folders.make_parent(&parent).map_err(generic)).await?;
        step.await?;
        blocking(move || sync_parent(&target)).await
    }
}

/// The folders of a store, and which of them are known to be on the disk.
#[derive(Debug)]
struct Folders {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    /// Makes the folder of `target` and everything above it durable, once for each folder.
    fn make_parent(&self, target: &FilePath) -> io::Result<()> {
        let parent = target.parent().unwrap_or(&self.root);
        if self.durable().contains(parent) && parent.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(parent)?;
        let mut folder = parent;
        while folder != self.root && folder.starts_with(&self.root) {
            let Some(above) = folder.parent() else { break };
            sync_folder(above)?;
            folder = above;
        }
        self.durable().insert(parent.to_path_buf());
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new temporary file beside `target`. Names left over from an earlier process are skipped.
    fn open_temp(&self, target: &FilePath) -> Result<(Temp, File)> {
        self.make_parent(target).map_err(generic)?;
        loop {
            let number = NEXT_TEMP.fetch_add(1, Ordering::Relaxed);
            let mut name = target.as_os_str().to_owned();
            name.push(format!("#{}{number:09}", std::process::id()));
            let path = PathBuf::from(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok((
                        Temp {
                            path,
                            placed: false,
                        },
                        file,
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(generic(error)),
            }
        }
    }
}

/// A temporary file; removed on drop unless it was renamed into place.
#[derive(Debug)]
struct Temp {
    path: PathBuf,
    placed: bool,
}

impl Temp {
    /// Gives the file the name `target`, which must be free.
    fn link(self, target: &FilePath) -> Result<()> {
        match fs::hard_link(&self.path, target) {
            Ok(()) => sync_parent(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // The caller will build on what it finds: that must be durable as well.
                sync_parent(target)?;
                let path = target.display().to_string();
                Err(Error::AlreadyExists {
                    path,
                    source: error.into(),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(Error::NotSupported {
                source: "the file system has no hard links, which an atomic create needs".into(),
            }),
            Err(error) => Err(generic(error)),
        }
    }

    /// Gives the file the name `target`, in place of what is there.
    fn rename(mut self, target: &FilePath) -> Result<()> {
        fs::rename(&self.path, target).map_err(generic)?;
        self.placed = true;
        sync_parent(target)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.placed {
            // A stale temporary file is hidden and harmless.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn generic(error: io::Error) -> Error {
    Error::Generic {
        store: STORE,
        source: error.into(),
    }
}

fn sync_folder(folder: &FilePath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn sync_parent(target: &FilePath) -> Result<()> {
    target
        .parent()
        .map_or(Ok(()), |parent| sync_folder(parent).map_err(generic))
}

/// Runs file work off the async threads, where there are any.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) if threads::works_in_place() => work(),
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

impl fmt::Display for DurableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableFiles({})", self.folders.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFiles {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let new = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => {
                let operation = "put with PutMode::Update".into();
                return Err(Error::NotImplemented {
                    operation,
                    implementer: self.to_string(),
                });
            }
        };
        let target = self.files.path_to_filesystem(location)?;
        self.put_file(target, payload, new).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.files.path_to_filesystem(location)?;
        let folders = Arc::clone(&self.folders);
        blocking(move || {
            let (temp, file) = folders.open_temp(&target)?;
            let upload = FileUpload {
                temp: Some(temp),
                file: Arc::new(file),
                target,
                bytes: 0,
            };
            Ok(Box::new(upload) as Box<dyn MultipartUpload>)
        })
        .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.moved(to, self.files.copy_opts(from, to, options))
            .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.moved(to, self.files.rename_opts(from, to, options))
            .await
    }
}

/// An upload in parts: one temporary file, written at offsets.
#[derive(Debug)]
struct FileUpload {
    temp: Option<Temp>,
    file: Arc<File>,
    target: PathBuf,
    bytes: u64,
}

#[async_trait]
impl MultipartUpload for FileUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut offset = self.bytes;
        self.bytes += data.content_length() as u64;
        let file = Arc::clone(&self.file);
        blocking(move || {
            for chunk in data.iter() {
                file.write_all_at(chunk, offset).map_err(generic)?;
                offset += chunk.len() as u64;
            }
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(temp) = self.temp.take() else {
            return Err(Error::Generic {
                store: STORE,
                source: "upload has ended".into(),
            });
        };
        let (file, target) = (Arc::clone(&self.file), self.target.clone());
        blocking(move || {
            file.sync_all().map_err(generic)?;
            temp.rename(&target)?;
            Ok(PutResult {
                e_tag: None,
                version: None,
            })
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.temp = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn names(folder: &FilePath) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn writing_leaves_no_temporary_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::open(folder.path()).unwrap();
        let at = Path::from("a");
        store.put(&at, "one".into()).await.unwrap();
        let second = store
            .put_opts(&at, "two".into(), PutMode::Create.into())
            .await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })));
        let mut upload = store.put_multipart(&Path::from("b")).await.unwrap();
        upload.put_part("half".into()).await.unwrap();
        assert_eq!(
            names(folder.path()).len(),
            2,
            "the part is there, under a hidden name"
        );
        drop(upload);
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[tokio::test]
    async fn leftovers_of_a_crash_are_hidden_and_in_nobody_s_way() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::open(folder.path()).unwrap();
        let next = NEXT_TEMP.load(Ordering::Relaxed);
        for number in next..next + 20 {
            let name = format!("a#{}{number:09}", std::process::id());
            fs::write(folder.path().join(name), "half").unwrap();
        }
        assert_eq!(
            store.list_with_delimiter(None).await.unwrap().objects.len(),
            0
        );
        store
            .put_opts(&Path::from("a"), "whole".into(), PutMode::Create.into())
            .await
            .unwrap();
        let found = store.list_with_delimiter(None).await.unwrap().objects;
        assert_eq!(found.len(), 1);
    }

    #[tokio::test]
    async fn a_folder_that_vanished_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::open(folder.path()).unwrap();
        store.put(&Path::from("t/log/0"), "x".into()).await.unwrap();
        fs::remove_dir_all(folder.path().join("t")).unwrap();
        store.put(&Path::from("t/log/1"), "y".into()).await.unwrap();
        assert_eq!(names(&folder.path().join("t/log")), ["1"]);
    }
}
