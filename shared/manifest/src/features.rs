//! Which Delta features a table may need, and which it gets from us.

use std::collections::BTreeMap;

use tidelake_schema::TableSchema;
use tidelake_schema::delta::{
    PhysicalNames, mapped_schema_string, needs_column_mapping, schema_string, uses_timestamp_ntz,
};

use crate::action::{Metadata, Protocol};
use crate::error::{ManifestError, Result};
use crate::properties;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;

const READER_VERSION: i32 = 3;
const WRITER_VERSION: i32 = 7;

const MAPPING_MODE: &str = "delta.columnMapping.mode";
const MAX_COLUMN_ID: &str = "delta.columnMapping.maxColumnId";

const COLUMN_MAPPING: &str = "columnMapping";
pub(crate) const DELETION_VECTORS: &str = "deletionVectors";
const TIMESTAMP_NTZ: &str = "timestampNtz";

/// What we read: these features change how files or the log are to be understood.
const READABLE: [&str; 3] = [COLUMN_MAPPING, DELETION_VECTORS, TIMESTAMP_NTZ];
/// What we write correctly.
const WRITABLE: [&str; 3] = [COLUMN_MAPPING, DELETION_VECTORS, TIMESTAMP_NTZ];
/// Types that no column of a table that we read has: its schema refuses them by name. So the feature
/// asks nothing of us. delta-rs names it on every table with features of which it sets a property.
const OF_TYPES_REFUSED: [&str; 2] = ["variantType", "variantType-preview"];
/// What writer version 2 stands for. Honoured by refusing what they forbid.
const BY_NUMBER_2: &[&str] = &["appendOnly", "invariants"];
/// What the writer versions up to 6 stand for besides, all of it optional: a table that may use it
/// and does not asks nothing of us ([`used`]).
const BY_LATER_NUMBERS: [(i32, &str); 4] = [
    (3, "checkConstraints"),
    (4, "changeDataFeed"),
    (4, "generatedColumns"),
    (6, "identityColumns"),
];

/// Properties that change what writers must do, and with it who can write; and the one that would
/// let other engines forget our watermarks.
const TXN_RETENTION: &str = "delta.setTransactionRetentionDuration";
/// Delta properties that a table may be created with: none of them asks for a feature.
const PROPERTIES: [&str; 6] = [
    "delta.logRetentionDuration",
    "delta.deletedFileRetentionDuration",
    "delta.checkpointInterval",
    "delta.dataSkippingNumIndexedCols",
    "delta.targetFileSize",
    "delta.tuneFileSizesForRewrites",
];

/// What a new table says of itself: the least that its readers and writers must understand.
#[derive(Debug)]
pub(crate) struct NewTable {
    pub(crate) protocol: Protocol,
    pub(crate) schema_string: String,
    pub(crate) configuration: BTreeMap<String, String>,
}

impl NewTable {
    /// Column mapping keeps many engines out, so only names that Parquet files can't have for every
    /// reader ask for it; [`with_column_mapping`] turns it on later, at the first rename or drop.
    pub(crate) fn of(schema: &TableSchema, append_only: bool) -> Self {
        let mut features = Vec::new();
        let mut configuration = BTreeMap::new();
        let mut set = |key: &str, value: String| configuration.insert(key.to_owned(), value);
        // Ids are given in every case; without a mode the number says nothing to others.
        set(MAX_COLUMN_ID, schema.last_column_id().to_string());
        if needs_column_mapping(schema) {
            features.push(COLUMN_MAPPING);
            set(MAPPING_MODE, "name".into());
        }
        if !append_only {
            features.push(DELETION_VECTORS);
            set("delta.enableDeletionVectors", "true".into());
        }
        if uses_timestamp_ntz(schema) {
            features.push(TIMESTAMP_NTZ);
        }
        let protocol = if features.is_empty() {
            Protocol {
                min_reader_version: 1,
                min_writer_version: 2,
                ..Protocol::default()
            }
        } else {
            named_features(&features, BY_NUMBER_2)
        };
        Self {
            protocol,
            schema_string: schema_string(schema),
            configuration,
        }
    }
}

/// A protocol that names `features` for readers and writers, and `writers` for writers only.
fn named_features(features: &[&str], writers: &[&str]) -> Protocol {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut writer: Vec<String> = owned(features);
    writer.extend(writers.iter().map(|name| (*name).to_owned()));
    Protocol {
        min_reader_version: READER_VERSION,
        min_writer_version: WRITER_VERSION,
        reader_features: Some(owned(features)),
        writer_features: Some(writer),
    }
}

/// Protocol and metadata of the same table with column mapping, under which columns can be renamed
/// and dropped: to be committed as one change. Its files stay as they are, since every column's
/// physical name is the one that it has there.
pub fn with_column_mapping(
    protocol: &Protocol,
    metadata: &Metadata,
    schema: &TableSchema,
) -> (Protocol, Metadata) {
    if is_mapped(metadata) {
        return (protocol.clone(), metadata.clone());
    }
    let mut mapped = metadata.clone();
    mapped.schema_string = mapped_schema_string(schema, &PhysicalNames::new());
    let held = metadata.configuration.get(MAX_COLUMN_ID);
    let held = held.and_then(|id| id.parse().ok()).unwrap_or(0);
    let last = schema.last_column_id().max(held);
    let mut set = |key: &str, value: String| mapped.configuration.insert(key.to_owned(), value);
    set(MAPPING_MODE, "name".into());
    set(MAX_COLUMN_ID, last.to_string());
    if protocol.min_writer_version < WRITER_VERSION {
        // What the number stood for stays part of the protocol.
        let mut writers = BY_NUMBER_2.to_vec();
        let later = BY_LATER_NUMBERS.iter();
        let later = later.filter(|(number, _)| *number <= protocol.min_writer_version);
        writers.extend(later.map(|(_, name)| *name));
        return (named_features(&[COLUMN_MAPPING], &writers), mapped);
    }
    let mut protocol = protocol.clone();
    protocol.min_reader_version = READER_VERSION;
    for names in [&mut protocol.reader_features, &mut protocol.writer_features] {
        let names = names.get_or_insert_default();
        if !names.iter().any(|name| name == COLUMN_MAPPING) {
            names.push(COLUMN_MAPPING.to_owned());
        }
    }
    (protocol, mapped)
}

/// True where columns have physical names of their own.
pub(crate) fn is_mapped(metadata: &Metadata) -> bool {
    let mode = metadata.configuration.get(MAPPING_MODE);
    mode.is_some_and(|mode| mode != "none")
}

/// Refuses a property that a table can't be created with.
pub(crate) fn check_property(key: &str, value: &str) -> Result<()> {
    let reason = if properties::OWN.contains(&key) {
        "it is Tidelake's to set"
    } else if key == TXN_RETENTION {
        "other engines would forget how far the table covers its topic"
    } else if key.starts_with("delta.") && !PROPERTIES.contains(&key) {
        "it is Tidelake's to set, or asks for a Delta feature that Tidelake does not write"
    } else {
        return Ok(());
    };
    Err(ManifestError::Property {
        key: key.to_owned(),
        value: value.to_owned(),
        reason,
    })
}

/// Refuses a table that we would misread.
pub(crate) fn check_readable(at: &str, protocol: &Protocol, metadata: &Metadata) -> Result<()> {
    let mut features = Vec::new();
    if protocol.min_reader_version > READER_VERSION {
        features.push(format!("reader version {}", protocol.min_reader_version));
    }
    let named = protocol.reader_features.iter().flatten();
    features.extend(
        named
            .filter(|name| {
                let name = name.as_str();
                !READABLE.contains(&name) && !OF_TYPES_REFUSED.contains(&name)
            })
            .cloned(),
    );
    if !features.is_empty() {
        return Err(ManifestError::ReaderFeatures {
            at: at.to_owned(),
            features,
        });
    }
    if metadata.format.provider != "parquet" {
        let features = vec![format!("file format {:?}", metadata.format.provider)];
        return Err(ManifestError::ReaderFeatures {
            at: at.to_owned(),
            features,
        });
    }
    if !metadata.partition_columns.is_empty() {
        let columns = metadata.partition_columns.clone();
        return Err(ManifestError::Partitioned {
            at: at.to_owned(),
            columns,
        });
    }
    Ok(())
}

/// Refuses to write where another engine asked for what we don't do.
pub(crate) fn check_writable(at: &str, protocol: &Protocol, metadata: &Metadata) -> Result<()> {
    let mut features = Vec::new();
    if !(1..=WRITER_VERSION).contains(&protocol.min_writer_version) {
        features.push(format!("writer version {}", protocol.min_writer_version));
    }
    let named = protocol.writer_features.iter().flatten().filter(|name| {
        let name = name.as_str();
        !WRITABLE.contains(&name)
            && !OF_TYPES_REFUSED.contains(&name)
            && !BY_NUMBER_2.contains(&name)
            && !BY_LATER_NUMBERS.iter().any(|(_, unused)| *unused == name)
    });
    features.extend(named.cloned());
    features.extend(used(metadata));
    if metadata.configuration.contains_key(TXN_RETENTION) {
        features.push(format!("property {TXN_RETENTION}"));
    }
    if features.is_empty() {
        Ok(())
    } else {
        Err(ManifestError::WriterFeatures {
            at: at.to_owned(),
            features,
        })
    }
}

/// Refuses a change that the table's properties forbid. Tables of ours don't: another engine set
/// them.
pub(crate) fn check_allowed(at: &str, base: &Snapshot, tx: &Transaction) -> Result<()> {
    let deletes = tx.removes.iter().any(|remove| remove.data_change);
    let marks = tx.adds.iter().any(|add| add.deletion_vector.is_some());
    let reason = if deletes && is_append_only(base.metadata()) {
        "it takes rows away, and another engine set delta.appendOnly=true on the table; set it to \
         false there"
    } else if marks
        && has_vectors(base.protocol())
        && !takes_vectors(base.protocol(), base.metadata())
    {
        "it has deletion vectors, and another engine set delta.enableDeletionVectors to another value \
         than true; set it to true again there"
    } else {
        return Ok(());
    };
    Err(ManifestError::Forbidden {
        at: at.to_owned(),
        reason,
    })
}

/// True where a property forbids to take rows away, or to do so by vectors.
pub(crate) fn forbids_some(protocol: &Protocol, metadata: &Metadata) -> bool {
    is_append_only(metadata) || (has_vectors(protocol) && !takes_vectors(protocol, metadata))
}

/// What the table makes use of that a writer would have to do something for.
fn used(metadata: &Metadata) -> Vec<String> {
    let set = &metadata.configuration;
    let mut used: Vec<String> = set
        .keys()
        .filter(|key| key.starts_with("delta.constraints."))
        .map(|key| format!("property {key}"))
        .collect();
    let feed = set.get("delta.enableChangeDataFeed");
    if feed.is_some_and(|feed| feed.eq_ignore_ascii_case("true")) {
        used.push("changeDataFeed".into());
    }
    for (key, what) in [
        ("\"delta.invariants\"", "column invariants"),
        ("\"delta.generationExpression\"", "generated columns"),
        ("\"delta.identity.", "identity columns"),
    ] {
        if metadata.schema_string.contains(key) {
            used.push(what.into());
        }
    }
    used
}

/// True where rows of the table may never be deleted or changed.
pub(crate) fn is_append_only(metadata: &Metadata) -> bool {
    let value = metadata.configuration.get("delta.appendOnly");
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// True where new deletion vectors may be written.
pub(crate) fn takes_vectors(protocol: &Protocol, metadata: &Metadata) -> bool {
    has_vectors(protocol)
        && metadata
            .configuration
            .get("delta.enableDeletionVectors")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// True where readers and writers of the table understand deletion vectors.
fn has_vectors(protocol: &Protocol) -> bool {
    let feature =
        |names: &Option<Vec<String>>| names.iter().flatten().any(|name| name == DELETION_VECTORS);
    feature(&protocol.reader_features) && feature(&protocol.writer_features)
}
