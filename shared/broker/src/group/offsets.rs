//! Committed offsets of all groups: in memory for answers, in one log file for ever.
//!
//! `groups/offsets.log` is a row of entries ([`entry`]). Changes that arrive while the disk is busy
//! share the next sync; a change counts once it is durable. The file is rewritten without what was
//! overtaken when that is most of it.
//!
//! Invariants: an entry that is damaged costs that entry, never those behind it; a group's positions
//! are forgotten by age only after nobody was in the group and nobody committed for that long.

mod entry;
mod kept;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::error::BrokerError;

use entry::{decode, encode, next_entry};

use kept::{All, BYTES_MAX};

pub(crate) use entry::{Change, Committed};
pub(crate) use kept::GroupOffsets;

use super::shares::{CoordinatorUse, Refused};

/// Overtaken entries that are tolerated beside as many as there are live ones.
const GARBAGE_MAX: usize = 20_000;
/// How exactly it is kept when a group had members last. The mark costs one entry for each group.
const SEEN_EVERY_MS: i64 = 60 * 60 * 1000;

/// Changes that wait for the disk.
#[derive(Debug)]
struct Waiting {
    /// Whose share of the room they take.
    client: String,
    changes: Vec<Change>,
    answer: oneshot::Sender<bool>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
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
        self.apply_for(String::new(), changes).await
    }

    /// Applies changes that a client asked for.
    pub(super) async fn apply_for(&self, client: String, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        let (answer, done) = oneshot::channel();
        {
            let mut queue = self.0.queue.lock();
            queue.waiting.push(Waiting {
                client,
                changes,
                answer,
            });
            if !queue.draining {
                queue.draining = true;
                let shared = Arc::clone(&self.0);
                self.0.runtime.spawn_blocking(move || shared.drain());
            }
        }
        done.await.unwrap_or(false)
    }

    /// True where there is room for what these positions add, beside what is being written.
    pub(super) fn admits(
        &self,
        client: &str,
        group: &str,
        positions: &[(String, i32, Committed)],
    ) -> Result<(), Refused> {
        self.0.all.read().admits(client, group, positions)
    }

    pub(super) fn in_use(&self) -> CoordinatorUse {
        self.0.all.read().in_use()
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
        let all = self.0.all.read();
        all.get(group).map(|kept| kept.positions.clone())
    }

    /// True for a group that has positions.
    pub(crate) fn knows(&self, group: &str) -> bool {
        self.0.all.read().get(group).is_some()
    }

    /// The names of all groups that have positions.
    pub(crate) fn groups(&self) -> Vec<String> {
        self.0
            .all
            .read()
            .iter()
            .map(|(group, _)| group.clone())
            .collect()
    }

    /// What forgets every position in `topic`.
    pub(crate) fn forget_topic(&self, topic: &str) -> Vec<Change> {
        let all = self.0.all.read();
        let of_topic = all.iter().flat_map(|(group, kept)| {
            kept.positions.keys().filter(|(name, _)| name == topic).map(
                move |(topic, partition)| {
                    let (group, topic) = (group.clone(), topic.clone());
                    Change::Forget {
                        group,
                        topic,
                        partition: *partition,
                    }
                },
            )
        });
        of_topic.collect()
    }

    /// What keeps house at `now_ms`: groups that are in use are marked as seen, now and then, and
    /// those without any sign of life since `before_ms` are forgotten.
    pub(crate) fn keep_house(
        &self,
        now_ms: i64,
        before_ms: i64,
        in_use: impl Fn(&str) -> bool,
    ) -> Vec<Change> {
        let all = self.0.all.read();
        let changes = all.iter().filter_map(|(group, kept)| {
            let group = group.clone();
            if in_use(&group) {
                let due = now_ms.saturating_sub(kept.seen_ms) >= SEEN_EVERY_MS;
                due.then_some(Change::Seen {
                    group,
                    seen_ms: now_ms,
                })
            } else {
                let stale = kept.last_sign_ms() < before_ms;
                stale.then_some(Change::ForgetStale { group, before_ms })
            }
        });
        changes.collect()
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
            let stored = self.store(round.iter().flat_map(|waiting| &waiting.changes));
            if let Err(error) = &stored {
                tracing::error!(path = ?self.path, %error, "committed offsets not stored");
            }
            for waiting in round {
                let Waiting {
                    client,
                    changes,
                    answer,
                } = waiting;
                if stored.is_ok() {
                    let mut all = self.all.write();
                    changes
                        .into_iter()
                        .for_each(|change| all.apply(&client, change));
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
        let live: usize = all.iter().map(|(_, kept)| kept.positions.len() + 1).sum();
        if log.entries <= 2 * live + GARBAGE_MAX {
            return Ok(());
        }
        *log = rewrite(&self.path, &all)?;
        Ok(())
    }
}

/// Replaces the log by one that holds just `all`.
fn rewrite(path: &Path, all: &All) -> io::Result<Log> {
    let mut bytes = Vec::new();
    let mut entries = 0;
    for (group, kept) in all.iter() {
        let commits = kept
            .positions
            .iter()
            .map(|((topic, partition), committed)| {
                let committed = committed.clone();
                Change::Commit {
                    group: group.clone(),
                    topic: topic.clone(),
                    partition: *partition,
                    committed,
                }
            });
        let seen = Change::Seen {
            group: group.clone(),
            seen_ms: kept.seen_ms,
        };
        for change in commits.chain([seen]) {
            encode(&change, &mut bytes);
            entries += 1;
        }
    }
    crate::files::write_atomic(path, &bytes)?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(Log {
        file,
        bytes: bytes.len() as u64,
        entries,
    })
}

fn open_log(path: &Path) -> io::Result<(Log, All)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let bytes = fs::read(path)?;
    let mut all = All::new(BYTES_MAX);
    let mut rest = bytes.as_slice();
    let (mut entries, mut damaged) = (0, false);
    loop {
        while let Some(change) = decode(&mut rest) {
            all.apply("", change);
            entries += 1;
        }
        let at = bytes.len() - rest.len();
        let Some(lost_bytes) = next_entry(rest) else {
            break;
        };
        tracing::error!(
            ?path,
            at,
            lost_bytes,
            "entry is damaged: its group goes on from an earlier commit"
        );
        rest = &rest[lost_bytes..];
        damaged = true;
    }
    let end = (bytes.len() - rest.len()) as u64;
    if damaged {
        fs::copy(path, path.with_extension("log.damaged"))?;
        return Ok((rewrite(path, &all)?, all));
    }
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

#[cfg(test)]
mod tests;
