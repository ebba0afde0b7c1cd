//! What a flusher can be told.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidelake_log::KafkaSettings;
use tidelake_table::FileSettings;

/// Settings of the flusher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// URL of the object store.
    pub store: String,
    pub kafka: KafkaSettings,
    /// Where health and metrics answer.
    pub listen: String,
    /// The consumer group, which all flushers of one installation share and nobody else may. Empty:
    /// `tidelake-flusher-` and the installation's id, which is kept in the store; only this is safe
    /// where several installations have the topic prefix in common. A change costs one rebalance,
    /// and lag tools have to be told the new name.
    pub group: String,
    /// Names this flusher for good, so that a restart takes its buckets back at once; they wait for it
    /// then until its session is over. Two processes must not share one. Empty: a name that is kept
    /// in `index_dir`, by which it comes back after a crash; where it is stopped, others take its
    /// buckets at once. `none`: no name; buckets move when the session of a dead flusher is over.
    pub instance_id: String,
    /// Memory for everything between the log and its commit, over all tables: rows, decoders,
    /// messages to send, flushes under way, key indexes, what is read ahead. At half of it the
    /// largest table is flushed, at three quarters tables above their share pause, at all of it
    /// reading pauses.
    pub memory_bytes_max: usize,
    /// How far the log client reads ahead; twice this is taken out of `memory_bytes_max`, and it is
    /// an eighth of that at most. Less makes catching up slower.
    pub prefetch_bytes_max: usize,
    /// Memory for versions of tables that are not open here just now, so that buckets which come
    /// back are begun sooner. In a process of several services its own setting counts, not this one.
    pub snapshot_cache_bytes_max: u64,
    /// A table is flushed when it holds so much: larger files, more to read again after a crash.
    pub flush_bytes: usize,
    /// A table is flushed when its oldest row is this old: how far other engines lag behind.
    pub flush_age_ms: u64,
    /// How old it may become in a table of which less than 1 MiB comes between two flushes: the age
    /// doubles with each of them, and begins anew with the first that finds more, or after a pause.
    /// Fewer commits and files; queries of Tidelake itself see all rows at once. 0: twelve times
    /// `flush_age_ms`. At or below `flush_age_ms`: it never grows.
    pub flush_age_max_ms: u64,
    /// How soon the topic of a new table is noticed.
    pub discovery_ms: u64,
    /// zstd level of data files.
    pub zstd_level: i32,
    /// Folder for key indexes of upsert tables: a cache, some 8 bytes a live key, thrown away at
    /// will. Empty: below the system's folder for temporary files.
    pub index_dir: String,
    /// A crash or shutdown waits for commits this long at most.
    pub drain_ms: u64,
    /// Announce commits on the topic `<prefix>.commits`.
    pub announce: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: "file:///var/lib/tidelake".into(),
            kafka: KafkaSettings::default(),
            listen: "127.0.0.1:8082".into(),
            group: String::new(),
            instance_id: String::new(),
            memory_bytes_max: 1 << 30,
            prefetch_bytes_max: 32 << 20,
            snapshot_cache_bytes_max: 64 << 20,
            flush_bytes: 128 << 20,
            flush_age_ms: 5_000,
            flush_age_max_ms: 0,
            discovery_ms: 1_000,
            zstd_level: FileSettings::default().zstd_level,
            index_dir: String::new(),
            drain_ms: 20_000,
            announce: true,
        }
    }
}

impl Settings {
    pub(crate) fn files(&self) -> FileSettings {
        FileSettings {
            zstd_level: self.zstd_level,
            ..FileSettings::default()
        }
    }

    pub(crate) fn index_folder(&self) -> PathBuf {
        if self.index_dir.is_empty() {
            std::env::temp_dir().join("tidelake-index")
        } else {
            PathBuf::from(&self.index_dir)
        }
    }

    pub(crate) fn flush_age_max(&self) -> Duration {
        Duration::from_millis(match self.flush_age_max_ms {
            0 => self.flush_age_ms.saturating_mul(12),
            set => set,
        })
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    /// What the log client reads ahead.
    pub(crate) fn prefetch_bytes(&self) -> usize {
        let most = self.memory_bytes_max / 8;
        self.prefetch_bytes_max.min(most).max(1 << 20)
    }

    /// What writers of files may hold at once.
    pub(crate) fn encoder_bytes(&self) -> usize {
        self.memory_bytes_max / 8
    }

    /// Memory that rows can't have: what the log client has fetched, as much again on its way to
    /// the loop, and writers of files.
    pub(crate) fn aside_bytes(&self) -> usize {
        self.prefetch_bytes() * 2 + self.encoder_bytes()
    }

    /// What can't work, said before anything starts.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.memory_bytes_max < 16 << 20 {
            return Err(format!(
                "memory_bytes_max is {}: at least 16777216 (16 MiB) are needed",
                self.memory_bytes_max
            ));
        }
        if self.flush_bytes == 0 || self.flush_age_ms == 0 {
            return Err("flush_bytes and flush_age_ms must be above 0".into());
        }
        if !(1..=22).contains(&self.zstd_level) {
            return Err(format!(
                "zstd_level is {}: expected 1 to 22",
                self.zstd_level
            ));
        }
        Ok(())
    }
}
