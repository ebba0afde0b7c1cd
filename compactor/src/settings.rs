//! What a compactor can be told.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidelake_table::FileSettings;

use crate::plan::Rules;

/// Of its memory, what an output may take: it is encoded in memory, beside what is read for it.
const OUTPUT_PART: u64 = 4;

/// Settings of the compactor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// False: files stay as they were flushed.
    pub enabled: bool,
    /// URL of the object store.
    pub store: String,
    /// Where health and metrics answer.
    pub listen: String,
    /// Memory for a rewrite: an output takes a quarter of it at most. One runs at a time.
    pub memory_bytes_max: u64,
    /// Memory for versions of tables between looks. In a process of several services its own
    /// setting counts, not this one.
    pub snapshot_cache_bytes_max: u64,
    /// How long a new version may stand before it is looked at.
    pub sweep_ms: u64,
    /// A table that nobody commits to is looked at less and less often, down to this.
    pub sweep_max_ms: u64,
    /// Files of this size are large enough.
    pub target_file_bytes: u64,
    /// So many files of about one size become one.
    pub files_to_merge: usize,
    /// A file is rewritten once this share of its rows is deleted, in percent.
    pub deleted_percent: u32,
    /// zstd level of data files.
    pub zstd_level: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            store: "file:///var/lib/tidelake".into(),
            listen: "127.0.0.1:8083".into(),
            memory_bytes_max: 256 << 20,
            snapshot_cache_bytes_max: 64 << 20,
            sweep_ms: 10_000,
            sweep_max_ms: 600_000,
            target_file_bytes: 128 << 20,
            files_to_merge: 8,
            deleted_percent: 30,
            zstd_level: FileSettings::default().zstd_level,
        }
    }
}

impl Settings {
    /// Whether it can work.
    pub(crate) fn check(&self) -> Result<(), String> {
        let least = [
            ("memory_bytes_max", self.memory_bytes_max, 16 << 20),
            ("sweep_ms", self.sweep_ms, 10),
            ("target_file_bytes", self.target_file_bytes, 1 << 10),
            ("files_to_merge", self.files_to_merge as u64, 2),
            ("deleted_percent", self.deleted_percent.into(), 1),
        ];
        for (name, value, least) in least {
            if value < least {
                return Err(format!("{name} is {value}: at least {least} is needed"));
            }
        }
        if self.deleted_percent > 100 || !(1..=22).contains(&self.zstd_level) {
            return Err("deleted_percent is at most 100, zstd_level from 1 to 22".to_owned());
        }
        Ok(())
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            target_bytes: self
                .target_file_bytes
                .min(self.memory_bytes_max / OUTPUT_PART),
            files_to_merge: self.files_to_merge,
            deleted_percent: self.deleted_percent.into(),
        }
    }

    pub(crate) fn files(&self) -> FileSettings {
        FileSettings {
            zstd_level: self.zstd_level,
            // What is encoded and not yet written counts to the memory, too.
            row_group_rows_max: 128 * 1024,
            ..FileSettings::default()
        }
    }

    pub(crate) fn sweep(&self) -> Duration {
        Duration::from_millis(self.sweep_ms)
    }

    pub(crate) fn sweep_max(&self) -> Duration {
        Duration::from_millis(self.sweep_max_ms).max(self.sweep())
    }
}
