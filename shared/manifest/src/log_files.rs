//! The files of a `_delta_log`, by their names: which commits and whole checkpoints there are.

use std::collections::BTreeMap;

use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;
use tidelake_storage::NumberedLog;

pub(crate) const LOG_FOLDER: &str = "_delta_log";
/// Commits that a listing may have skipped, over all gaps, that are asked for by name.
const GAPS_MAX: u64 = 64;
/// A wider gap is no accident of a listing: what is below it belongs to an earlier life of the log.
const GAP_MAX: u64 = 16;

/// The files of a log, as far as they were listed.
#[derive(Debug, Default)]
pub(crate) struct LogFiles {
    /// Commit numbers and the times of their files.
    pub(crate) commits: BTreeMap<u64, UnixMillis>,
    /// Whole classic checkpoints: names of their parts, relative to the log folder.
    pub(crate) checkpoints: BTreeMap<u64, Vec<String>>,
}

impl LogFiles {
    /// Sorts file names (with their times).
    pub(crate) fn of<'a>(names: impl Iterator<Item = (&'a str, UnixMillis)>) -> Self {
        let mut files = Self::default();
        let mut parts: BTreeMap<(u64, u32), Vec<String>> = BTreeMap::new();
        for (name, time_ms) in names {
            if let Some(version) = NumberedLog::parse(name) {
                files.commits.insert(version, time_ms);
            } else if let Some((version, of)) = parse_checkpoint(name) {
                parts
                    .entry((version, of))
                    .or_default()
                    .push(name.to_owned());
            }
        }
        for ((version, of), mut names) in parts {
            if names.len() == of as usize {
                names.sort();
                files.checkpoints.insert(version, names);
            }
        }
        files
    }

    /// The oldest version that can be read.
    pub(crate) fn earliest(&self) -> Option<u64> {
        let first = self
            .commits
            .first_key_value()
            .map(|(version, _)| *version)?;
        if first == 0 {
            return Some(0);
        }
        // Later commits build on a checkpoint at or after the commit before them.
        self.checkpoints
            .range(first.saturating_sub(1)..)
            .next()
            .map(|(version, _)| *version)
    }

    pub(crate) fn latest(&self) -> Option<u64> {
        let commit = self.commits.last_key_value().map(|(version, _)| *version);
        commit.max(
            self.checkpoints
                .last_key_value()
                .map(|(version, _)| *version),
        )
    }

    /// The first of the commits that lead to `target` without a gap; none where it has no commit.
    pub(crate) fn run_start(&self, target: u64) -> Option<u64> {
        let down = self
            .commits
            .range(..=target)
            .rev()
            .map(|(number, _)| *number);
        let run = down.zip((0..=target).rev());
        run.take_while(|(found, want)| found == want)
            .last()
            .map(|(first, _)| first)
    }

    /// Numbers from `from` on, which the listing was asked for, that are below listed commits and
    /// not listed; in short gaps only.
    pub(crate) fn gaps(&self, from: u64) -> Vec<u64> {
        let starts = self.commits.keys().map(|number| number + 1);
        let pairs = std::iter::once(from).chain(starts).zip(self.commits.keys());
        let pairs: Vec<_> = pairs.map(|(low, high)| (low, *high)).collect();
        let mut gaps = Vec::new();
        for (low, high) in pairs.into_iter().rev() {
            if high > low && high - low <= GAP_MAX && gaps.len() as u64 + (high - low) <= GAPS_MAX {
                gaps.extend(low..high);
            }
        }
        gaps
    }

    /// The newest whole checkpoint of these versions.
    pub(crate) fn checkpoint_between(
        &self,
        first: TableVersion,
        last: TableVersion,
    ) -> Option<(u64, &[String])> {
        let (found, parts) = self.checkpoints.range(first.0..=last.0).next_back()?;
        Some((*found, parts))
    }
}

/// The version that a file of the log's folder is of; none for files that are of no version.
pub(crate) fn version_of(file_name: &str) -> Option<u64> {
    let (digits, rest) = file_name.split_once('.')?;
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    (plain && !rest.is_empty()).then(|| digits.parse().ok())?
}

/// Version and number of parts of a classic checkpoint: `N.checkpoint.parquet` or
/// `N.checkpoint.I.OF.parquet`.
fn parse_checkpoint(name: &str) -> Option<(u64, u32)> {
    fn digits<T: std::str::FromStr>(text: &str, width: usize) -> Option<T> {
        let plain = text.len() == width && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok())?
    }
    let parts: Vec<_> = name.split('.').collect();
    match parts[..] {
        [version, "checkpoint", "parquet"] => Some((digits(version, 20)?, 1)),
        [version, "checkpoint", part, of, "parquet"] => {
            digits::<u32>(part, 10)?;
            Some((digits(version, 20)?, digits(of, 10)?))
        }
        _ => None,
    }
}

pub(crate) fn checkpoint_name(version: TableVersion) -> String {
    format!("{LOG_FOLDER}/{:020}.checkpoint.parquet", version.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> LogFiles {
        LogFiles::of(names.iter().map(|name| (*name, 0)))
    }

    fn commits(numbers: &[u64]) -> LogFiles {
        let commits = numbers.iter().map(|number| (*number, 0)).collect();
        LogFiles {
            commits,
            ..LogFiles::default()
        }
    }

    #[test]
    fn only_whole_classic_checkpoints_count() {
        let found = files(&[
            "00000000000000000007.json",
            "00000000000000000007.checkpoint.parquet",
            "00000000000000000008.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000009.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000009.checkpoint.0000000002.0000000002.parquet",
            "00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json",
            "00000000000000000001.00000000000000000007.compacted.json",
            "00000000000000000007.crc",
            "_last_checkpoint",
        ]);
        assert_eq!(
            found.checkpoints.keys().copied().collect::<Vec<_>>(),
            [7, 9]
        );
        assert_eq!(found.checkpoints[&9].len(), 2);
        assert_eq!(found.commits.len(), 1);
    }

    #[test]
    fn the_earliest_version_needs_a_start_to_build_on() {
        assert_eq!(files(&["00000000000000000000.json"]).earliest(), Some(0));
        let cleaned = [
            "00000000000000000005.json",
            "00000000000000000006.json",
            "00000000000000000006.checkpoint.parquet",
        ];
        assert_eq!(files(&cleaned).earliest(), Some(6));
        assert_eq!(files(&cleaned[..2]).earliest(), None);
    }

    #[test]
    fn short_gaps_are_worth_a_question() {
        assert_eq!(commits(&[0, 1, 2]).gaps(0), [0; 0]);
        assert_eq!(commits(&[0, 2, 3, 6]).gaps(0), [4, 5, 1]);
        assert_eq!(commits(&[2, 3]).gaps(0), [0, 1]);
        assert_eq!(commits(&[2, 3]).gaps(2), [0; 0]);
        assert_eq!(commits(&[0, 1000, 1001]).gaps(0), [0; 0]);
        let many: Vec<u64> = (0..1000).step_by(2).collect();
        assert_eq!(commits(&many).gaps(0).len() as u64, GAPS_MAX);
    }

    #[test]
    fn a_run_ends_at_the_first_gap() {
        assert_eq!(commits(&[0, 1, 2]).run_start(2), Some(0));
        assert_eq!(commits(&[0, 2, 3, 4]).run_start(3), Some(2));
        assert_eq!(commits(&[0, 2]).run_start(1), None);
        assert_eq!(commits(&[]).run_start(0), None);
    }

    #[test]
    fn files_of_a_version_begin_with_its_number() {
        assert_eq!(
            version_of("00000000000000000007.checkpoint.parquet"),
            Some(7)
        );
        assert_eq!(version_of("00000000000000000009.crc"), Some(9));
        for other in [
            "_last_checkpoint",
            "7.json",
            "00000000000000000007",
            "_sidecars",
        ] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }
}
