//! A commit as a file of the log: its bytes, sorted by what they do.

use tidelake_core::TableVersion;

use crate::action::{Action, Add, CommitInfo, Metadata, Protocol, Remove, Txn, parse_commit};
use crate::error::{ManifestError, Result};
use crate::properties::first_version;

/// What identifies the bytes of a commit: their checksum and length.
pub(crate) type Fingerprint = u64;

/// See [`Fingerprint`].
pub(crate) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    u64::from(crc32fast::hash(bytes)) << 32 | (bytes.len() as u64 & 0xffff_ffff)
}

/// True where bytes of that fingerprint are so many, as far as it tells.
pub(crate) fn has_length(of: Fingerprint, bytes: u64) -> bool {
    of & 0xffff_ffff == bytes & 0xffff_ffff
}

/// True where an engine put its name to the commit. Those that do implement the protocol, which has
/// them create a commit whole; scripts and copies do not always.
pub(crate) fn names_its_engine(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    ["\"engineInfo\":", "\"clientVersion\":"]
        .iter()
        .any(|name| text.contains(name))
}

/// A commit as it was read, sorted by what it does.
#[derive(Debug, Default)]
pub struct Commit {
    pub info: CommitInfo,
    pub protocol: Option<Protocol>,
    pub metadata: Option<Metadata>,
    pub txns: Vec<Txn>,
    pub removes: Vec<Remove>,
    pub adds: Vec<Add>,
    /// Of the bytes that it was read from.
    pub(crate) fingerprint: Option<Fingerprint>,
}

impl Commit {
    /// Reads the bytes of commit `version` of the table at `at`.
    pub fn parse(at: &str, version: u64, bytes: &[u8]) -> Result<Self> {
        // No engine writes such a commit; as one it would hide the rows of the commit that it was.
        if bytes.trim_ascii().is_empty() {
            return Err(ManifestError::Corrupt {
                at: format!("{at} version {version}"),
                reason: "the commit is empty: it was not written to its end".into(),
            });
        }
        let actions = parse_commit(bytes).map_err(|error| ManifestError::Corrupt {
            at: format!("{at} version {version}"),
            reason: error.to_string(),
        })?;
        Ok(Self {
            fingerprint: Some(fingerprint(bytes)),
            ..Self::of(actions)
        })
    }

    /// True where a table begins with it, as `version`, that followed a dropped one.
    pub(crate) fn begins_at(&self, version: TableVersion) -> bool {
        let metadata = self.metadata.as_ref().filter(|_| self.protocol.is_some());
        version.0 > 0 && metadata.is_some_and(|metadata| first_version(metadata) == version)
    }

    /// Sorts actions.
    pub fn of(actions: Vec<Action>) -> Self {
        let mut commit = Self::default();
        for action in actions {
            match action {
                Action::CommitInfo(info) => commit.info = info,
                Action::Protocol(protocol) => commit.protocol = Some(protocol),
                Action::Metadata(metadata) => commit.metadata = Some(metadata),
                Action::Txn(txn) => commit.txns.push(txn),
                Action::Remove(remove) => commit.removes.push(remove),
                Action::Add(add) => commit.adds.push(add),
            }
        }
        commit
    }
}
