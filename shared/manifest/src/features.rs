//! Which Delta features a table may need, and which it gets from us.

use tidelake_schema::TableSchema;
use tidelake_schema::delta::uses_timestamp_ntz;

use crate::action::{Metadata, Protocol};
use crate::error::{ManifestError, Result};

const READER_VERSION: i32 = 3;
const WRITER_VERSION: i32 = 7;

const COLUMN_MAPPING: &str = "columnMapping";
pub(crate) const DELETION_VECTORS: &str = "deletionVectors";
const TIMESTAMP_NTZ: &str = "timestampNtz";

/// What we read: these features change how files or the log are to be understood.
const READABLE: [&str; 3] = [COLUMN_MAPPING, DELETION_VECTORS, TIMESTAMP_NTZ];
/// What we write correctly. `appendOnly` and `invariants` are honoured by refusing what they forbid.
const WRITABLE: [&str; 5] = [
    COLUMN_MAPPING,
    DELETION_VECTORS,
    TIMESTAMP_NTZ,
    "appendOnly",
    "invariants",
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

/// The protocol of a new table.
pub(crate) fn protocol_of_new_table(schema: &TableSchema, append_only: bool) -> Protocol {
    let mut shared = vec![COLUMN_MAPPING.to_owned()];
    if !append_only {
        shared.push(DELETION_VECTORS.to_owned());
    }
    if uses_timestamp_ntz(schema) {
        shared.push(TIMESTAMP_NTZ.to_owned());
    }
    let mut writer = shared.clone();
    writer.extend(["appendOnly".to_owned(), "invariants".to_owned()]);
    Protocol {
        min_reader_version: READER_VERSION,
        min_writer_version: WRITER_VERSION,
        reader_features: Some(shared),
        writer_features: Some(writer),
    }
}

/// Refuses a property that a table can't be created with.
pub(crate) fn check_property(key: &str, value: &str) -> Result<()> {
    let reason = if key == TXN_RETENTION {
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
            .filter(|name| !READABLE.contains(&name.as_str()))
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
    // Versions 3 to 6 stand for features by number; tables of ours name them.
    if !matches!(protocol.min_writer_version, 1 | 2 | WRITER_VERSION) {
        features.push(format!("writer version {}", protocol.min_writer_version));
    }
    let named = protocol.writer_features.iter().flatten();
    features.extend(
        named
            .filter(|name| !WRITABLE.contains(&name.as_str()))
            .cloned(),
    );
    let set = &metadata.configuration;
    if set.contains_key(TXN_RETENTION) {
        features.push(format!("property {TXN_RETENTION}"));
    }
    if metadata.schema_string.contains("\"delta.invariants\"") {
        features.push("column invariants".into());
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

/// True where rows of the table may never be deleted or changed.
pub(crate) fn is_append_only(metadata: &Metadata) -> bool {
    let value = metadata.configuration.get("delta.appendOnly");
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// True where new deletion vectors may be written.
pub(crate) fn takes_vectors(protocol: &Protocol, metadata: &Metadata) -> bool {
    let feature =
        |names: &Option<Vec<String>>| names.iter().flatten().any(|name| name == DELETION_VECTORS);
    feature(&protocol.reader_features)
        && feature(&protocol.writer_features)
        && metadata
            .configuration
            .get("delta.enableDeletionVectors")
            .is_some_and(|v| v == "true")
}
