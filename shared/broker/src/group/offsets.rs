//! Committed offsets of all groups: in memory for answers, in one log file for ever.
//!
//! ```text
//! groups/offsets.log:  entry*      entry: body length u32 │ crc32c of body u32 │ body
//!   body: kind u8 │ group text │ and for kind 1 (commit): topic text │ partition i32 │ offset i64
//!         │ leader epoch i32 │ metadata text │ committed ms i64
//!         kind 2 (forget the group): nothing; kind 3 (forget a partition): topic text │ partition i32
//!   text: length u32 │ UTF-8
//! ```
//! Changes that arrive while the disk is busy share the next sync; a change counts once it is
//! durable. The file is rewritten without what was overtaken when that is most of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::error::BrokerError;
use crate::producers::field;

/// Overtaken entries that are tolerated beside as many as there are live ones.
const GARBAGE_MAX: usize = 20_000;
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// One committed position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub committed_ms: i64,
}

/// Positions of one group by topic and partition.
pub(crate) type GroupOffsets = BTreeMap<(String, i32), Committed>;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Commit {
        group: String,
        topic: String,
        partition: i32,
        committed: Committed,
    },
    ForgetGroup {
        group: String,
    },
    Forget {
        group: String,
        topic: String,
        partition: i32,
    },
}

type All = BTreeMap<String, GroupOffsets>;

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(Vec<Change>, oneshot::Sender<bool>)>,
    draining: bool,
}

#[derive(Debug)]
struct Log {
    file: File,
    bytes: u64,
    entries: usize,
}

/// The store; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct OffsetStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    runtime: Handle,
    fsync: bool,
    queue: Mutex<Queue>,
    idle: Notify,
    log: Mutex<Log>,
    all: RwLock<All>,
}

impl OffsetStore {
    /// Reads the log and cuts a torn tail. Blocks on the disk.
    pub(crate) fn open(dir: &Path, runtime: Handle, fsync: bool) -> Result<Self, BrokerError> {
        let dir = dir.join("groups");
        fs::create_dir_all(&dir).map_err(BrokerError::io(&dir))?;
        let path = dir.join("offsets.log");
        let (log, all) = open_log(&path).map_err(BrokerError::io(&path))?;
        Ok(Self(Arc::new(Shared {
            path,
            runtime,
            fsync,
            queue: Mutex::default(),
            idle: Notify::new(),
            log: Mutex::new(log),
            all: RwLock::new(all),
        })))
    }

    /// Applies changes, all or none; true once they are durable.
    pub(crate) async fn apply(&self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        let (answer, done) = oneshot::channel();
        {
            let mut queue = self.0.queue.lock();
            queue.waiting.push((changes, answer));
            if !queue.draining {
                queue.draining = true;
                let shared = Arc::clone(&self.0);
                self.0.runtime.spawn_blocking(move || shared.drain());
            }
        }
        done.await.unwrap_or(false)
    }

    /// Waits until nothing is being written.
    pub(crate) async fn settle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if !self.0.queue.lock().draining {
                return;
            }
            idle.await;
        }
    }

    /// The positions of a group, if it has any.
    pub(crate) fn group(&self, group: &str) -> Option<GroupOffsets> {
        self.0.all.read().get(group).cloned()
    }

    /// The names of all groups that have positions.
    pub(crate) fn groups(&self) -> Vec<String> {
        self.0.all.read().keys().cloned().collect()
    }

    /// What forgets every position in `topic`.
    pub(crate) fn forget_topic(&self, topic: &str) -> Vec<Change> {
        let all = self.0.all.read();
        let of_topic = all.iter().flat_map(|(group, offsets)| {
            offsets
                .keys()
                .filter(|(name, _)| name == topic)
                .map(move |(topic, partition)| {
                    let (group, topic) = (group.clone(), topic.clone());
                    Change::Forget {
                        group,
                        topic,
                        partition: *partition,
                    }
                })
        });
        of_topic.collect()
    }

    /// What forgets groups whose newest commit is older than `before_ms`, except those in `alive`.
    pub(crate) fn forget_stale(&self, before_ms: i64, alive: impl Fn(&str) -> bool) -> Vec<Change> {
        let all = self.0.all.read();
        let stale = all.iter().filter(|(group, offsets)| {
            offsets
                .values()
                .all(|committed| committed.committed_ms < before_ms)
                && !alive(group)
        });
        stale
            .map(|(group, _)| Change::ForgetGroup {
                group: group.clone(),
            })
            .collect()
    }
}

impl Shared {
    fn drain(&self) {
        loop {
            let round = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.draining = false;
                    self.idle.notify_waiters();
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let stored = self.store(round.iter().flat_map(|(changes, _)| changes));
            if let Err(error) = &stored {
                tracing::error!(path = ?self.path, %error, "committed offsets not stored");
            }
            for (changes, answer) in round {
                if stored.is_ok() {
                    let mut all = self.all.write();
                    changes
                        .into_iter()
                        .for_each(|change| apply_to(&mut all, change));
                }
                _ = answer.send(stored.is_ok());
            }
            if stored.is_ok()
                && let Err(error) = self.compact_if_due()
            {
                tracing::warn!(path = ?self.path, %error, "committed offsets not compacted");
            }
        }
    }

    fn store<'a>(&self, changes: impl Iterator<Item = &'a Change>) -> io::Result<()> {
        let mut log = self.log.lock();
        let mut bytes = Vec::new();
        let entries = changes.map(|change| encode(change, &mut bytes)).count();
        let at = log.bytes;
        let stored = log.file.write_all_at(&bytes, at).and_then(|()| {
            if self.fsync {
                log.file.sync_data()
            } else {
                Ok(())
            }
        });
        if stored.is_err() {
            log.file.set_len(at)?;
        }
        stored?;
        log.bytes += bytes.len() as u64;
        log.entries += entries;
        Ok(())
    }

    /// Rewrites the log from memory when most of it was overtaken.
    fn compact_if_due(&self) -> io::Result<()> {
        let mut log = self.log.lock();
        let all = self.all.read();
        let live: usize = all.values().map(BTreeMap::len).sum();
        if log.entries <= 2 * live + GARBAGE_MAX {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for (group, offsets) in all.iter() {
            for ((topic, partition), committed) in offsets {
                let (group, topic) = (group.clone(), topic.clone());
                let committed = committed.clone();
                let partition = *partition;
                encode(
                    &Change::Commit {
                        group,
                        topic,
                        partition,
                        committed,
                    },
                    &mut bytes,
                );
            }
        }
        crate::files::write_atomic(&self.path, &bytes)?;
        log.file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        log.bytes = bytes.len() as u64;
        log.entries = live;
        Ok(())
    }
}

fn open_log(path: &Path) -> io::Result<(Log, All)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let bytes = fs::read(path)?;
    let mut all = All::new();
    let mut rest = bytes.as_slice();
    let mut entries = 0;
    while let Some(change) = decode(&mut rest) {
        apply_to(&mut all, change);
        entries += 1;
    }
    let end = (bytes.len() - rest.len()) as u64;
    if !rest.is_empty() {
        tracing::warn!(?path, at = end, cut_bytes = rest.len(), "torn tail cut");
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok((
        Log {
            file,
            bytes: end,
            entries,
        },
        all,
    ))
}

fn apply_to(all: &mut All, change: Change) {
    match change {
        Change::Commit {
            group,
            topic,
            partition,
            committed,
        } => {
            all.entry(group)
                .or_default()
                .insert((topic, partition), committed);
        }
        Change::ForgetGroup { group } => _ = all.remove(&group),
        Change::Forget {
            group,
            topic,
            partition,
        } => {
            if let Some(offsets) = all.get_mut(&group) {
                offsets.remove(&(topic, partition));
                if offsets.is_empty() {
                    all.remove(&group);
                }
            }
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let len = u32::from_be_bytes(field(bytes)?) as usize;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn encode(change: &Change, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 8]);
    match change {
        Change::Commit {
            group,
            topic,
            partition,
            committed,
        } => {
            out.push(1);
            put_text(out, group);
            put_text(out, topic);
            out.extend(partition.to_be_bytes());
            out.extend(committed.offset.to_be_bytes());
            out.extend(committed.leader_epoch.to_be_bytes());
            put_text(out, &committed.metadata);
            out.extend(committed.committed_ms.to_be_bytes());
        }
        Change::ForgetGroup { group } => {
            out.push(2);
            put_text(out, group);
        }
        Change::Forget {
            group,
            topic,
            partition,
        } => {
            out.push(3);
            put_text(out, group);
            put_text(out, topic);
            out.extend(partition.to_be_bytes());
        }
    }
    let body = start + 8;
    let len = (out.len() - body) as u32;
    let crc = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_be_bytes());
}

/// Takes one whole entry; leaves `bytes` as it is where there is none.
fn decode(bytes: &mut &[u8]) -> Option<Change> {
    let mut rest = *bytes;
    let len = u32::from_be_bytes(field(&mut rest)?) as usize;
    let crc = u32::from_be_bytes(field(&mut rest)?);
    let (mut body, rest) = rest.split_at_checked(len)?;
    if len > ENTRY_BYTES_MAX || crc32c::crc32c(body) != crc {
        return None;
    }
    let body = &mut body;
    let [kind] = field(body)?;
    let group = take_text(body)?;
    let change = match kind {
        1 => Change::Commit {
            group,
            topic: take_text(body)?,
            partition: i32::from_be_bytes(field(body)?),
            committed: Committed {
                offset: i64::from_be_bytes(field(body)?),
                leader_epoch: i32::from_be_bytes(field(body)?),
                metadata: take_text(body)?,
                committed_ms: i64::from_be_bytes(field(body)?),
            },
        },
        2 => Change::ForgetGroup { group },
        3 => Change::Forget {
            group,
            topic: take_text(body)?,
            partition: i32::from_be_bytes(field(body)?),
        },
        _ => return None,
    };
    *bytes = rest;
    Some(change)
}

#[cfg(test)]
mod tests;
