//! [`Snapshot`]: a table at one version. A value: it never changes, and later versions share what
//! they have in common with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, Offset, TableVersion, TopicId, Watermark};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use crate::action::{
    Add, Metadata, Protocol, TAG_BUCKET, TAG_LEVEL, TAG_OFFSETS, Txn, VectorDescriptor, decode_path,
};
use crate::commit_file::Fingerprint;
use crate::layered::Layered;
use crate::properties::{first_version, is_dropped};
use crate::retyped::Retyped;
use crate::stats::{Told, tell, widened};
use crate::trust::Proof;

/// What the schema's text takes once it is parsed as well, in its own lengths.
const PARSED_SHARE: u64 = 3;
/// A file's entry without its texts: the action, the counts, its places in the map.
const FILE_BYTES: u64 = size_of::<DataFile>() as u64 + 128;
/// An application's newest transaction: two texts of an id, and its place in the map.
const TXN_BYTES: u64 = 256;
/// What a snapshot takes without files.
const SNAPSHOT_BYTES: u64 = 4096;

/// A live file of a table.
#[derive(Debug)]
pub struct DataFile {
    /// The action that made it live.
    pub add: Add,
    path: Arc<str>,
    rows_physical: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RowCount {
    num_records: Option<u64>,
}

impl DataFile {
    pub(crate) fn new(path: Arc<str>, add: Add) -> Self {
        let count = add
            .stats
            .as_deref()
            .and_then(|s| serde_json::from_str::<RowCount>(s).ok());
        let rows_physical = count.and_then(|count| count.num_records);
        Self {
            add,
            path,
            rows_physical,
        }
    }

    /// The file of an `add` that stands by itself; none where its path lies outside of the table.
    pub fn of(add: Add) -> Option<Self> {
        let path = decode_path(&add.path)?;
        Some(Self::new(Arc::from(path), add))
    }

    /// Object name, relative to the table. Not percent-encoded.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.add.size).unwrap_or(0)
    }

    /// Rows in the file, deleted ones included. Unknown in files of writers that keep no
    /// statistics.
    pub fn num_records(&self) -> Option<u64> {
        self.rows_physical
    }

    /// Rows that count: without the deleted ones.
    pub fn live_rows(&self) -> Option<u64> {
        Some(self.rows_physical?.saturating_sub(self.deleted_rows()))
    }

    /// Rows that the deletion vector takes away.
    pub fn deleted_rows(&self) -> u64 {
        self.dv()
            .map_or(0, |vector| u64::try_from(vector.cardinality).unwrap_or(0))
    }

    /// The deletion vector, if the file has one.
    pub fn dv(&self) -> Option<&VectorDescriptor> {
        self.add.deletion_vector.as_ref()
    }

    /// About how much memory its entry in a snapshot takes.
    pub(crate) fn held_bytes(&self) -> u64 {
        let add = &self.add;
        let stats = add.stats.as_ref().map_or(0, String::len) as u64;
        let vector = add.deletion_vector.as_ref();
        let vector = vector.map_or(0, |vector| vector.path_or_inline_dv.len());
        let tags = add.tags.iter().flatten();
        let tags = tags.map(|(key, value)| key.len() + value.as_ref().map_or(0, String::len) + 64);
        let texts = 2 * self.path.len() + add.path.len() + vector + tags.sum::<usize>();
        FILE_BYTES + stats + texts as u64
    }

    /// Shows `each` what the file's statistics tell of its columns (see [`crate::stats::tell`]),
    /// and gives whether bounds are values. None where there are none or they are not understood:
    /// then what was shown does not count. They stay text here; parsed they take several times as
    /// much, and few readers want all of them.
    pub fn tell_stats(&self, each: &mut dyn FnMut(Told, &str, Value)) -> Option<bool> {
        let tight = tell(self.add.stats.as_deref()?, each).ok()?;
        Some(tight.unwrap_or(true))
    }

    /// The text of its statistics after rows of it were deleted (see [`crate::stats::widened`]);
    /// none where the number of its rows is unknown and must be learnt from the file first.
    pub fn widened_stats(&self) -> Option<String> {
        let rows = self.rows_physical?;
        Some(widened(self.add.stats.as_deref(), rows))
    }

    /// True where a bound of a column of floats rules NaN out, which lies above all numbers: our
    /// writers give a column that holds a NaN no bounds ([`crate::StatsCollector`]). Others leave
    /// NaN out of their bounds.
    pub fn float_bounds_cover_nan(&self) -> bool {
        self.tag(TAG_LEVEL).is_some()
    }

    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.add.tag(name)
    }

    /// The buckets that the file has rows of, by its tag. None for files of other writers.
    pub fn buckets(&self) -> Option<Vec<Bucket>> {
        buckets(&self.add)
    }

    /// The offsets `[from, to)` that the file covers, by bucket. None for files of other writers.
    pub fn offsets(&self) -> Option<BTreeMap<Bucket, (Offset, Offset)>> {
        let ranges: BTreeMap<u32, (i64, i64)> =
            serde_json::from_str(self.tag(TAG_OFFSETS)?).ok()?;
        let ranges = ranges.into_iter();
        Some(
            ranges
                .map(|(bucket, (from, to))| (Bucket(bucket), (Offset(from), Offset(to))))
                .collect(),
        )
    }
}

/// See [`DataFile::buckets`].
pub(crate) fn buckets(add: &Add) -> Option<Vec<Bucket>> {
    let list = add.tag(TAG_BUCKET)?.split(',');
    list.map(|bucket| bucket.trim().parse().ok().map(Bucket))
        .collect()
}

/// How the files of one version differ from those of another. One that got another deletion vector
/// went and came.
#[derive(Debug, Default)]
pub struct FileChanges {
    pub came: Vec<Arc<DataFile>>,
    pub gone: Vec<Arc<DataFile>>,
}

/// Sums over the live files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Live rows of the files whose number of rows is known.
    pub rows: u64,
    pub bytes: u64,
    /// Files without statistics.
    pub files_uncounted: u64,
}

/// A table at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) version: TableVersion,
    pub(crate) timestamp_ms: UnixMillis,
    /// That this was the latest version. Knowledge about the log, no part of the table.
    pub(crate) proof: Proof,
    /// Of the version's commit; none where the log no longer holds it.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// No engine put its name to that commit: in a folder it may be longer by now.
    pub(crate) is_unnamed: bool,
    pub(crate) checkpoint: Option<TableVersion>,
    pub(crate) protocol: Arc<Protocol>,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) physical: Arc<PhysicalNames>,
    /// No row may follow.
    pub(crate) retyped: Option<Arc<Retyped>>,
    pub(crate) files: Layered<Arc<str>, Arc<DataFile>>,
    pub(crate) txns: Layered<Arc<str>, Txn>,
    pub(crate) totals: Totals,
    /// Of the files' entries; see [`Snapshot::held_bytes`].
    pub(crate) held_bytes: u64,
}

impl Snapshot {
    pub fn version(&self) -> TableVersion {
        self.version
    }

    /// True where both were read from the same bytes: a commit that somebody wrote piece by piece may
    /// have been taken for whole too early.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.version == other.version && self.fingerprint == other.fingerprint
    }

    /// When the version was committed: the writer's clock, made to rise from version to version.
    pub fn timestamp_ms(&self) -> UnixMillis {
        self.timestamp_ms
    }

    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// The table's properties, ours and Delta's.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.metadata.configuration
    }

    /// Under which names Parquet files and statistics have the columns: by field id, only where the
    /// name differs from the logical one.
    pub fn physical_names(&self) -> &Arc<PhysicalNames> {
        &self.physical
    }

    /// The live files, in no particular order, but always in the same for the same snapshot.
    pub fn files(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.files.iter().map(|(_, file)| file)
    }

    /// How the live files differ from those of another version of the table. Versions of which one
    /// was made from the other by a few commits cost about what these changed.
    pub fn files_since(&self, before: &Self) -> FileChanges {
        let mut changes = FileChanges::default();
        let same = |a: &Arc<DataFile>, b: &Arc<DataFile>| Arc::ptr_eq(a, b) || a.add == b.add;
        self.files.changes_since(&before.files, same, |gone, came| {
            changes.gone.extend(gone.cloned());
            changes.came.extend(came.cloned());
        });
        changes
    }

    /// The live file of that object name.
    pub fn file(&self, path: &str) -> Option<&Arc<DataFile>> {
        self.files.get(path)
    }

    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Live rows; files of writers that keep no statistics are left out (see [`Snapshot::totals`]).
    pub fn total_rows(&self) -> u64 {
        self.totals.rows
    }

    pub fn total_bytes(&self) -> u64 {
        self.totals.bytes
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// About how much memory this version takes by itself: mostly its list of files. Versions of one
    /// table share most of theirs.
    pub fn held_bytes(&self) -> u64 {
        let schema = self.metadata.schema_string.len() as u64 * PARSED_SHARE;
        SNAPSHOT_BYTES + schema + self.held_bytes + self.txns.len() as u64 * TXN_BYTES
    }

    /// How far the table covers a bucket; none where it never had a flush.
    pub fn watermark(&self, topic: &TopicId, bucket: Bucket) -> Option<Watermark> {
        self.txn(&app_id(topic, bucket))
            .map(|txn| Watermark(txn.version))
    }

    /// The watermarks of all buckets of a topic that have one.
    pub fn watermarks(&self, topic: &TopicId) -> BTreeMap<Bucket, Watermark> {
        let prefix = format!("tidelake/{topic}/");
        let own = self.txns.iter().filter_map(|(app_id, txn)| {
            let bucket = app_id.strip_prefix(&prefix)?.parse().ok()?;
            Some((Bucket(bucket), Watermark(txn.version)))
        });
        own.collect()
    }

    /// The newest transaction of an application.
    pub fn txn(&self, app_id: &str) -> Option<&Txn> {
        self.txns.get(app_id)
    }

    /// All applications' newest transactions.
    pub fn txns(&self) -> impl Iterator<Item = &Txn> {
        self.txns.iter().map(|(_, txn)| txn)
    }

    /// The version at which the table's log begins: 0, or above what an earlier table of the same
    /// folder left (see [`crate::DeltaTable::create`]).
    pub fn first_version(&self) -> TableVersion {
        first_version(&self.metadata)
    }

    /// True where the table's last commit was made: it was dropped.
    pub fn is_dropped(&self) -> bool {
        is_dropped(&self.metadata)
    }

    /// Commits that a reader must replay after the newest checkpoint known to this snapshot.
    pub fn commits_since_checkpoint(&self) -> u64 {
        match self.checkpoint {
            Some(checkpoint) => self.version.0.saturating_sub(checkpoint.0),
            None => self.version.0 + 1 - self.first_version().0.min(self.version.0),
        }
    }

    /// The checkpoint that this snapshot was loaded from, or knows to have been written since.
    pub fn checkpoint_version(&self) -> Option<TableVersion> {
        self.checkpoint
    }
}

/// The application id under which a bucket's watermark is kept.
pub fn app_id(topic: &TopicId, bucket: Bucket) -> String {
    format!("tidelake/{topic}/{bucket}")
}
