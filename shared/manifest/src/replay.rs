//! From actions to snapshots: Delta's action reconciliation, without I/O.
//!
//! A commit's removes apply before its adds: together they are one step, whatever their order in
//! the file. A file's identity is its path with its deletion vector; at most one vector of a path
//! is live. Files that are gone leave nothing behind here: what a checkpoint must still tell of
//! them is in the log ([`crate::checkpointer`]).
//!
//! Versions are judged where a replay ends: what we can't read, and another engine took back since,
//! stops nobody.
//!
//! A snapshot is grounded on version 0, on a checkpoint, or on the beginning of a table that
//! followed a dropped one ([`crate::lifetime`]); a beginning ends whatever stood before it.

use std::sync::Arc;

use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;
use tidelake_schema::delta::{PhysicalNames, from_schema_string, physical_names};
use tidelake_schema::{SchemaError, TableSchema};

use crate::action::{Add, Metadata, Protocol, Remove, Txn, decode_path, vector_id};
use crate::commit_file::{Commit, Fingerprint};
use crate::error::{ManifestError, Result};
use crate::features::{check_readable, is_mapped};
use crate::layered::Layered;
use crate::properties::SCHEMA_ID;
use crate::retyped::{Retyped, unusable};
use crate::snapshot::{DataFile, Snapshot, Totals};
use crate::trust::Proof;

/// A snapshot in the making.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    at: Arc<str>,
    version: TableVersion,
    timestamp_ms: UnixMillis,
    checkpoint: Option<TableVersion>,
    protocol: Option<Arc<Protocol>>,
    metadata: Option<Arc<Metadata>>,
    /// The columns, or the last ones that could be used.
    schema: Option<Arc<TableSchema>>,
    physical: Arc<PhysicalNames>,
    /// Why the columns can't be used.
    unusable: Option<SchemaError>,
    retyped: Option<Arc<Retyped>>,
    files: Layered<Arc<str>, Arc<DataFile>>,
    txns: Layered<Arc<str>, Txn>,
    totals: Totals,
    held_bytes: u64,
    fingerprint: Option<Fingerprint>,
    /// No engine put its name to the last commit.
    is_unnamed: bool,
    grounded: bool,
}

impl Replay {
    /// Before the first action. `at` is what messages call the table.
    pub(crate) fn new(at: &str) -> Self {
        Self {
            at: Arc::from(at),
            version: TableVersion(0),
            timestamp_ms: i64::MIN,
            checkpoint: None,
            protocol: None,
            metadata: None,
            schema: None,
            physical: Arc::default(),
            unusable: None,
            retyped: None,
            files: Layered::default(),
            txns: Layered::default(),
            totals: Totals::default(),
            held_bytes: 0,
            fingerprint: None,
            is_unnamed: false,
            grounded: false,
        }
    }

    /// Goes on from a snapshot, which stays as it is.
    pub(crate) fn resume(at: &str, from: &Snapshot) -> Self {
        let from = from.clone();
        Self {
            at: Arc::from(at),
            version: from.version,
            timestamp_ms: from.timestamp_ms,
            checkpoint: from.checkpoint,
            protocol: Some(from.protocol),
            metadata: Some(from.metadata),
            schema: Some(from.schema),
            physical: from.physical,
            unusable: None,
            retyped: from.retyped,
            files: from.files,
            txns: from.txns,
            totals: from.totals,
            held_bytes: from.held_bytes,
            fingerprint: from.fingerprint,
            is_unnamed: from.is_unnamed,
            grounded: true,
        }
    }

    /// Applies the actions of a checkpoint, or a part of one. They don't contradict each other, so
    /// they may come in any order and in pieces.
    pub(crate) fn checkpoint(&mut self, version: TableVersion, part: Commit) -> Result<()> {
        self.version = version;
        self.checkpoint = Some(version);
        self.grounded = true;
        self.reconcile(part)
    }

    /// Time and fingerprint of the last applied version, which a checkpoint does not tell.
    pub(crate) fn set_commit(&mut self, timestamp_ms: UnixMillis, print: Option<Fingerprint>) {
        self.timestamp_ms = timestamp_ms;
        self.fingerprint = print;
    }

    /// True where what was applied stands on something.
    pub(crate) fn is_grounded(&self) -> bool {
        self.grounded
    }

    /// Applies the next commit.
    pub(crate) fn commit(&mut self, version: TableVersion, commit: Commit) -> Result<()> {
        if commit.begins_at(version) {
            let at = Arc::clone(&self.at);
            let timestamp_ms = self.timestamp_ms;
            *self = Self::new(&at);
            self.timestamp_ms = timestamp_ms;
            self.grounded = true;
        }
        self.grounded |= version.0 == 0;
        self.fingerprint = commit.fingerprint;
        self.is_unnamed = commit.info.engine_info.is_none();
        // Made to rise, as Delta does: clocks of several writers differ.
        let after = self.timestamp_ms.saturating_add(1);
        self.timestamp_ms = commit.info.timestamp.map_or(after, |own| own.max(after));
        self.version = version;
        self.reconcile(commit)
    }

    fn reconcile(&mut self, commit: Commit) -> Result<()> {
        if let Some(protocol) = commit.protocol {
            self.protocol = Some(Arc::new(protocol));
        }
        if let Some(metadata) = commit.metadata {
            self.set_metadata(metadata);
        }
        for txn in commit.txns {
            self.txns.insert(Arc::from(txn.app_id.as_str()), txn);
        }
        let applied = self.files_of(commit.removes, commit.adds);
        self.files.settle();
        self.txns.settle();
        // Files may look damaged for what the table needs.
        applied.map_err(|error| self.check_usable().err().unwrap_or(error))
    }

    fn files_of(&mut self, removes: Vec<Remove>, adds: Vec<Add>) -> Result<()> {
        for remove in removes {
            self.remove(remove)?;
        }
        for add in adds {
            self.add(add)?;
        }
        Ok(())
    }

    /// Refuses what we would misread.
    fn check_usable(&self) -> Result<()> {
        // A partitioned table is refused for what it is, not for its schema.
        if let (Some(protocol), Some(metadata)) = (&self.protocol, &self.metadata) {
            check_readable(&self.at, protocol, metadata)?;
        }
        match &self.unusable {
            Some(source) => Err(unusable(&self.at, source.clone())),
            None => Ok(()),
        }
    }

    fn set_metadata(&mut self, metadata: Metadata) {
        let same = self.metadata.as_ref().is_some_and(|old| {
            old.schema_string == metadata.schema_string
                && old.configuration.get(SCHEMA_ID) == metadata.configuration.get(SCHEMA_ID)
                && is_mapped(old) == is_mapped(&metadata)
        });
        if !same {
            match columns_of(&metadata) {
                Ok(now) => self.set_columns(&metadata, now),
                Err(source) => self.unusable = Some(source),
            }
        }
        self.metadata = Some(Arc::new(metadata));
    }

    fn set_columns(&mut self, metadata: &Metadata, (schema, physical): Columns) {
        let old = self.metadata.as_ref().zip(self.schema.as_ref());
        if let Some((_, before)) = old.filter(|(old, _)| old.id == metadata.id) {
            let retyped = self.retyped.as_deref();
            self.retyped = Retyped::after(retyped, (before, &self.physical), (&schema, &physical));
        }
        (self.schema, self.physical, self.unusable) = (Some(schema), physical, None);
    }

    fn remove(&mut self, remove: Remove) -> Result<()> {
        let path = self.path(&remove.path)?;
        let vector = vector_id(remove.deletion_vector.as_ref());
        let live = self
            .files
            .get(&path)
            .is_some_and(|file| vector_id(file.dv()) == vector);
        if live && let Some(file) = self.files.remove(&path) {
            self.count(&file, false);
        }
        Ok(())
    }

    fn add(&mut self, add: Add) -> Result<()> {
        let path = self.path(&add.path)?;
        let vector = vector_id(add.deletion_vector.as_ref());
        if let Some(old) = self.files.get(&path) {
            if vector_id(old.dv()) != vector {
                return Err(self.corrupt(format!(
                    "{:?} was added with a new deletion vector while the old one is still live; \
                     its rows would count twice",
                    add.path
                )));
            }
            let old = Arc::clone(old);
            self.count(&old, false);
        }
        let file = Arc::new(DataFile::new(Arc::clone(&path), add));
        self.count(&file, true);
        self.files.insert(path, file);
        Ok(())
    }

    fn count(&mut self, file: &DataFile, comes: bool) {
        let totals = &mut self.totals;
        let change = |sum: &mut u64, by: u64| {
            *sum = if comes {
                sum.saturating_add(by)
            } else {
                sum.saturating_sub(by)
            };
        };
        change(&mut self.held_bytes, file.held_bytes());
        change(&mut totals.bytes, file.size());
        match file.live_rows() {
            Some(rows) => change(&mut totals.rows, rows),
            None => change(&mut totals.files_uncounted, 1),
        }
    }

    fn path(&self, path: &str) -> Result<Arc<str>> {
        let decoded = decode_path(path).ok_or_else(|| {
            self.corrupt(format!(
                "{path:?} is not the name of a file inside the table (shallow clones are not \
                 supported)"
            ))
        })?;
        Ok(Arc::from(decoded))
    }

    fn corrupt(&self, reason: String) -> ManifestError {
        ManifestError::Corrupt {
            at: format!("{} version {}", self.at, self.version),
            reason,
        }
    }

    /// The snapshot; `proven_ms` is the time at which this version was known to be the latest.
    pub(crate) fn finish(self, proven_ms: UnixMillis) -> Result<Snapshot> {
        let missing = |what: &str| ManifestError::Corrupt {
            at: format!("{} version {}", self.at, self.version),
            reason: format!("the log holds no {what} action"),
        };
        let protocol = self.protocol.clone().ok_or_else(|| missing("protocol"))?;
        let metadata = self.metadata.clone().ok_or_else(|| missing("metaData"))?;
        self.check_usable()?;
        Ok(Snapshot {
            protocol,
            metadata,
            schema: self.schema.clone().ok_or_else(|| missing("metaData"))?,
            version: self.version,
            timestamp_ms: self.timestamp_ms,
            physical: self.physical,
            retyped: self.retyped,
            proof: Proof::at(proven_ms),
            fingerprint: self.fingerprint,
            is_unnamed: self.is_unnamed,
            checkpoint: self.checkpoint,
            files: self.files,
            txns: self.txns,
            totals: self.totals,
            held_bytes: self.held_bytes,
        })
    }
}

/// Columns, and the names that they have in files.
type Columns = (Arc<TableSchema>, Arc<PhysicalNames>);

fn columns_of(metadata: &Metadata) -> std::result::Result<Columns, SchemaError> {
    let mut schema = from_schema_string(&metadata.schema_string)?;
    let id = metadata.configuration.get(SCHEMA_ID);
    if let Some(id) = id.and_then(|id| id.parse().ok()) {
        schema.schema_id = id;
    }
    let physical = match is_mapped(metadata) {
        true => physical_names(&metadata.schema_string)?,
        false => PhysicalNames::new(),
    };
    Ok((Arc::new(schema), Arc::new(physical)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector;

    const METADATA: &str = r#"{"metaData":{"id":"x","format":{"provider":"parquet"},"schemaString":"{\"type\":\"struct\",\"fields\":[{\"name\":\"id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}","partitionColumns":[],"configuration":{}}}
{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;

    fn add(row: Option<u64>) -> Add {
        let deletion_vector = row.map(|row| vector::inline(&[row].into_iter().collect()));
        Add {
            path: "a".into(),
            size: 1,
            deletion_vector,
            ..Add::default()
        }
    }

    /// Vectors of the removes and of the adds of a commit.
    type Step<'a> = (&'a [Option<u64>], &'a [Option<u64>]);

    /// Replays commits of removes and adds of the file `a` with the vectors of these rows.
    fn replay(commits: &[Step<'_>]) -> Result<Snapshot> {
        let mut replay = Replay::new("t");
        replay.commit(TableVersion(0), Commit::parse("t", 0, METADATA.as_bytes())?)?;
        for (i, (removes, adds)) in commits.iter().enumerate() {
            let commit = Commit {
                removes: removes
                    .iter()
                    .map(|row| add(*row).to_remove(1, true))
                    .collect(),
                adds: adds.iter().map(|row| add(*row)).collect(),
                ..Commit::default()
            };
            replay.commit(TableVersion(i as u64 + 1), commit)?;
        }
        replay.finish(0)
    }

    #[test]
    fn a_remove_takes_only_the_vector_that_it_names() {
        let snapshot = replay(&[(&[], &[Some(1)]), (&[Some(2)], &[]), (&[None], &[])]).unwrap();
        assert_eq!(snapshot.file_count(), 1);
        let snapshot = replay(&[(&[], &[Some(1)]), (&[Some(1)], &[])]).unwrap();
        assert_eq!((snapshot.file_count(), snapshot.total_bytes()), (0, 0));
    }

    #[test]
    fn an_add_of_what_is_live_replaces_it() {
        let snapshot = replay(&[(&[], &[Some(1)]), (&[], &[Some(1)])]).unwrap();
        assert_eq!((snapshot.file_count(), snapshot.total_bytes()), (1, 1));
        assert!(replay(&[(&[], &[Some(1)]), (&[], &[Some(2)])]).is_err());
    }

    #[test]
    fn a_beginning_ends_what_stood_before_it() {
        let mut replay = Replay::new("t");
        replay
            .commit(
                TableVersion(0),
                Commit::parse("t", 0, METADATA.as_bytes()).unwrap(),
            )
            .unwrap();
        let txn = Txn {
            app_id: "x".into(),
            version: 1,
            last_updated: None,
        };
        let earlier = Commit {
            adds: vec![add(None)],
            txns: vec![txn],
            ..Commit::default()
        };
        replay.commit(TableVersion(1), earlier).unwrap();
        let text = METADATA.replace(
            r#""configuration":{}"#,
            r#""configuration":{"tidelake.firstVersion":"4"}"#,
        );
        let begins = || Commit::parse("t", 4, text.as_bytes()).unwrap();
        assert!(begins().begins_at(TableVersion(4)) && !begins().begins_at(TableVersion(5)));
        replay.commit(TableVersion(4), begins()).unwrap();
        let snapshot = replay.finish(0).unwrap();
        assert_eq!((snapshot.file_count(), snapshot.txns().count()), (0, 0));
        // On a commit in the middle of a log nothing can stand.
        let mut replay = Replay::new("t");
        replay.commit(TableVersion(5), begins()).unwrap();
        assert!(!replay.is_grounded());
    }
}
