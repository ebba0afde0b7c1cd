//! Sidecars of data files, read by ranges: what a few keys need of them, and no more.
//!
//! ```text
//!  end (block index) ─► which blocks ─► those that are not kept ─► rows of the keys
//! ```
//! Owns the requests and what is kept of their answers. A sidecar never changes under its path, so
//! what was read of it is good for ever; it is kept only after it was checked. Invariant: a sidecar
//! that is lost or damaged is told from one that holds none of the keys.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tidelake_table::index::{Ended, KeyKind, Keys, Sidecar, SidecarProbe};

use super::lru::Lru;
use crate::error::QueryError;

/// Bytes read from a sidecar's end in the hope that they hold its block index. Those of some ten
/// thousand keys are read whole so.
const END_BYTES_GUESS: u64 = 32 * 1024;
/// What an entry of the cache takes by itself.
const KEPT_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sidecars {
    store: Arc<dyn ObjectStore>,
    held: Mutex<Lru<(Path, Part), Kept>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    End,
    Block(usize),
}

#[derive(Debug, Clone)]
enum Kept {
    End(Arc<End>),
    Block(Bytes),
}

/// A sidecar's block index, and of a small one all of its bytes.
#[derive(Debug)]
struct End {
    sidecar: Sidecar,
    whole: Option<Bytes>,
    /// Of the whole object.
    len: u64,
}

impl End {
    fn bytes(&self) -> usize {
        self.sidecar.memory_bytes() + self.whole.as_ref().map_or(0, Bytes::len)
    }
}

/// The last bytes of an object.
struct Tail {
    /// Of the whole object.
    len: u64,
    bytes: Bytes,
}

impl Sidecars {
    pub(super) fn new(store: Arc<dyn ObjectStore>, bytes_max: usize) -> Self {
        let held = Mutex::new(Lru::new(bytes_max));
        Self { store, held }
    }

    /// Every row that the sidecar has of the keys, which ascend: key's place and row. `None` where it
    /// is lost or damaged.
    pub(super) async fn rows(
        &self,
        path: &Path,
        kind: KeyKind,
        keys: &Keys,
    ) -> Result<Option<Vec<(usize, u32)>>, QueryError> {
        let end = match self.kept(path, Part::End) {
            Some(Kept::End(end)) => Some(end),
            _ => self.open(path, kind).await?,
        };
        let Some(end) = end else {
            return Ok(None);
        };
        let probe = end.sidecar.plan(keys);
        let Some((blocks, fetched)) = self.blocks(path, &end, &probe).await? else {
            return Ok(None);
        };
        let mut rows = Vec::new();
        let hit = &mut |key, row| rows.push((key, row));
        if let Err(error) = end.sidecar.probe(&probe, keys, &blocks, hit) {
            tracing::debug!(%error, "a key index sidecar can't be used");
            return Ok(None);
        }
        for at in fetched {
            // Of what it was fetched with nothing is to stay in memory.
            let block = Bytes::copy_from_slice(&blocks[at]);
            let bytes = block.len();
            let part = Part::Block(probe.blocks()[at]);
            self.keep(path, part, Kept::Block(block), bytes);
        }
        Ok(Some(rows))
    }

    /// The blocks that the probe needs, and which of them were fetched for it.
    async fn blocks(
        &self,
        path: &Path,
        end: &End,
        probe: &SidecarProbe,
    ) -> Result<Option<(Vec<Bytes>, Vec<usize>)>, QueryError> {
        let ranges = probe.blocks().iter().map(|block| end.sidecar.range(*block));
        let ranges: Vec<Range<u64>> = ranges.collect();
        if let Some(whole) = &end.whole {
            let slice = |range: &Range<u64>| {
                let (from, to) = (range.start as usize, range.end as usize);
                (to <= whole.len()).then(|| whole.slice(from..to))
            };
            let blocks: Option<Vec<Bytes>> = ranges.iter().map(slice).collect();
            return Ok(blocks.map(|blocks| (blocks, Vec::new())));
        }
        let mut blocks = vec![Bytes::new(); ranges.len()];
        let mut missing = Vec::new();
        for (at, block) in probe.blocks().iter().enumerate() {
            match self.kept(path, Part::Block(*block)) {
                Some(Kept::Block(bytes)) => blocks[at] = bytes,
                _ => missing.push(at),
            }
        }
        if missing.is_empty() {
            return Ok(Some((blocks, missing)));
        }
        let wanted: Vec<Range<u64>> = missing.iter().map(|at| ranges[*at].clone()).collect();
        let fetched = match self.store.get_ranges(path, &wanted).await {
            Ok(fetched) => fetched,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => {
                // One that was cut since is damaged, not away.
                return match self.store.head(path).await {
                    Ok(meta) if meta.size == end.len => Err(failed(path, &error)),
                    Ok(_) | Err(Error::NotFound { .. }) => Ok(None),
                    Err(_) => Err(failed(path, &error)),
                };
            }
        };
        for (at, bytes) in missing.iter().zip(fetched) {
            blocks[*at] = bytes;
        }
        Ok(Some((blocks, missing)))
    }

    async fn open(&self, path: &Path, kind: KeyKind) -> Result<Option<Arc<End>>, QueryError> {
        let name: Arc<str> = Arc::from(path.as_ref());
        let mut wanted = END_BYTES_GUESS;
        loop {
            let Some(tail) = self.tail(path, wanted).await? else {
                return Ok(None);
            };
            let sidecar = match Sidecar::open(&name, kind, tail.len, &tail.bytes) {
                Ok(Ended::Whole(sidecar)) => sidecar,
                Ok(Ended::Longer(bytes)) if bytes > wanted => {
                    wanted = bytes;
                    continue;
                }
                Ok(Ended::Longer(_)) => return Ok(None),
                Err(error) => {
                    tracing::debug!(%error, "a key index sidecar can't be used");
                    return Ok(None);
                }
            };
            let is_whole = tail.bytes.len() as u64 == tail.len;
            let whole = is_whole.then(|| Bytes::copy_from_slice(&tail.bytes));
            let len = tail.len;
            let end = Arc::new(End {
                sidecar,
                whole,
                len,
            });
            let bytes = end.bytes();
            self.keep(path, Part::End, Kept::End(Arc::clone(&end)), bytes);
            return Ok(Some(end));
        }
    }

    /// The last bytes, `wanted` of them or all that there are; `None` where there is no such object.
    async fn tail(&self, path: &Path, wanted: u64) -> Result<Option<Tail>, QueryError> {
        let options = GetOptions {
            range: Some(GetRange::Suffix(wanted)),
            ..GetOptions::default()
        };
        let got = match self.store.get_opts(path, options).await {
            Ok(got) => {
                let len = got.meta.size;
                got.bytes().await.map(|bytes| Tail { len, bytes })
            }
            // Some stores know no ranges that are counted from the end.
            Err(Error::NotSupported { .. } | Error::NotImplemented { .. }) => {
                self.tail_by_size(path, wanted).await
            }
            Err(error) => Err(error),
        };
        match got {
            Ok(tail) => Ok(Some(tail)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(path, &error)),
        }
    }

    async fn tail_by_size(&self, path: &Path, wanted: u64) -> object_store::Result<Tail> {
        let len = self.store.head(path).await?.size;
        let range = len.saturating_sub(wanted)..len;
        let bytes = self.store.get_range(path, range).await?;
        Ok(Tail { len, bytes })
    }

    fn kept(&self, path: &Path, part: Part) -> Option<Kept> {
        self.held.lock().get(&(path.clone(), part)).cloned()
    }

    fn keep(&self, path: &Path, part: Part, kept: Kept, bytes: usize) {
        let bytes = bytes + path.as_ref().len() + KEPT_BYTES;
        self.held.lock().put((path.clone(), part), kept, bytes);
    }
}

fn failed(path: &Path, error: &Error) -> QueryError {
    QueryError::Store(format!("reading the key index {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use tidelake_table::index::{Entries, KeyRef, encode_sidecar};

    use super::*;

    const KIND: KeyKind = KeyKind::Fixed { bytes: 8 };

    fn keys(of: impl Iterator<Item = u128>) -> Keys {
        let mut keys = Keys::new(KIND);
        of.for_each(|key| keys.push(KeyRef::Fixed(key)));
        keys
    }

    async fn stored(count: u128) -> (Sidecars, Path, usize) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        // Far apart, so that a key costs some bytes.
        let all = keys((0..count).map(|key| key * 0x1_0000_0001 + (key * key) % 977));
        let bytes = encode_sidecar(&Entries::of_rows(&all));
        let (path, len) = (Path::from("a.index"), bytes.len());
        store.put(&path, bytes.into()).await.unwrap();
        (Sidecars::new(store, 8 << 20), path, len)
    }

    #[tokio::test]
    async fn of_a_large_sidecar_only_what_is_asked_for_is_read() {
        let (sidecars, path, len) = stored(300_000).await;
        let one = keys([0x1_0000_0001 * 977].into_iter());
        let rows = sidecars.rows(&path, KIND, &one).await.unwrap();
        assert_eq!(rows.as_deref(), Some(&[(0, 977)][..]));
        let held = sidecars.held.lock().bytes();
        assert!(len > 10 * held, "{held} of {len} bytes");
        // What is held needs no request; the rest is gone.
        sidecars.store.delete(&path).await.unwrap();
        let rows = sidecars.rows(&path, KIND, &one).await.unwrap();
        assert_eq!(rows.as_deref(), Some(&[(0, 977)][..]));
        let none = keys([0x1_0000_0001 * 977 + 1].into_iter());
        let rows = sidecars.rows(&path, KIND, &none).await.unwrap();
        assert_eq!(rows.as_deref(), Some(&[][..]), "the same block");
        let other = keys([5].into_iter());
        assert_eq!(sidecars.rows(&path, KIND, &other).await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_that_was_cut_since_is_damaged_not_away() {
        let (sidecars, path, _) = stored(300_000).await;
        let first = keys([0].into_iter());
        assert!(sidecars.rows(&path, KIND, &first).await.unwrap().is_some());
        let begin = sidecars.store.get_range(&path, 0..1000).await.unwrap();
        sidecars.store.put(&path, begin.into()).await.unwrap();
        let last = keys([0x1_0000_0001 * 299_999 + (299_999 * 299_999) % 977].into_iter());
        assert_eq!(sidecars.rows(&path, KIND, &last).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_small_sidecar_is_one_request() {
        let (sidecars, path, len) = stored(500).await;
        let first = keys([0].into_iter());
        let rows = sidecars.rows(&path, KIND, &first).await.unwrap();
        assert_eq!(rows.as_deref(), Some(&[(0, 0)][..]));
        assert!(sidecars.held.lock().bytes() > len);
        sidecars.store.delete(&path).await.unwrap();
        let all = keys((0..500).map(|key: u128| key * 0x1_0000_0001 + (key * key) % 977));
        let rows = sidecars.rows(&path, KIND, &all).await.unwrap();
        assert_eq!(rows.map(|rows| rows.len()), Some(500));
    }
}
