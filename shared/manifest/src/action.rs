//! The actions of a Delta log, as they stand in a commit: one JSON object on each line.
//!
//! Field names and meanings are those of the Delta protocol. Unknown actions and unknown fields are
//! ignored, and an optional field that is null counts as absent. Of `commitInfo`, in which writers
//! may put any JSON, what has another form than ours counts as absent too: it says nothing about
//! the table's rows. What does (paths, vectors, schema, versions) is never guessed. Nothing here
//! decides anything: that is the part of replay and of the rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A map with values that may be null, as partition values and tags are.
pub type NullableMap = BTreeMap<String, Option<String>>;

/// Tag of an add: the bucket whose rows the file holds, or several, divided by commas.
pub const TAG_BUCKET: &str = "tidelake.bucket";
/// Tag of an add: JSON object from bucket to `[from, to)` offsets.
pub const TAG_OFFSETS: &str = "tidelake.offsets";
/// Tag of an add: the level that compaction gave the file; 0 for a flushed file.
pub const TAG_LEVEL: &str = "tidelake.level";

/// A data file becomes part of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Relative to the table, percent-encoded. See [`decode_path`].
    pub path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub partition_values: NullableMap,
    /// Bytes.
    pub size: i64,
    /// Milliseconds since the epoch.
    #[serde(default, deserialize_with = "or_default")]
    pub modification_time: i64,
    /// False where the commit only rearranges rows.
    #[serde(default = "yes", deserialize_with = "or_yes")]
    pub data_change: bool,
    /// [`crate::Stats`] as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<NullableMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<VectorDescriptor>,
}

impl Add {
    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.as_ref()?.get(name)?.as_deref()
    }

    /// The remove that takes exactly this file, with exactly its deletion vector, out again.
    pub fn to_remove(&self, deletion_timestamp_ms: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            deletion_timestamp: Some(deletion_timestamp_ms),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            deletion_vector: self.deletion_vector.clone(),
        }
    }
}

/// A data file (with one deletion vector) is no longer part of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    #[serde(default = "yes", deserialize_with = "or_yes")]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<NullableMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<VectorDescriptor>,
}

fn yes() -> bool {
    true
}

/// Who does not say otherwise changes data.
fn or_yes<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(true))
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Where the deletion vector of a file is. Read and written by [`crate::vector`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VectorDescriptor {
    /// `u`: a file named by a UUID; `i`: inline; `p`: an absolute path.
    pub storage_type: String,
    pub path_or_inline_dv: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i32>,
    /// Bytes of the serialised vector, before any text encoding.
    pub size_in_bytes: i32,
    /// Rows that are deleted.
    pub cardinality: i64,
}

impl VectorDescriptor {
    /// The protocol's identity of a vector: with the path, the identity of a logical file.
    pub fn unique_id(&self) -> String {
        let Self {
            storage_type,
            path_or_inline_dv,
            offset,
            ..
        } = self;
        match offset {
            Some(offset) => format!("{storage_type}{path_or_inline_dv}@{offset}"),
            None => format!("{storage_type}{path_or_inline_dv}"),
        }
    }
}

/// The identity of a file's vector; none without one.
pub(crate) fn vector_id(vector: Option<&VectorDescriptor>) -> Option<String> {
    vector.map(VectorDescriptor::unique_id)
}

/// Name, schema and properties of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique for each table, for ever.
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub format: Format,
    pub schema_string: String,
    #[serde(default, deserialize_with = "or_default")]
    pub partition_columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
    #[serde(default, deserialize_with = "without_nulls")]
    pub configuration: BTreeMap<String, String>,
}

/// File format of the data files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub provider: String,
    #[serde(default, deserialize_with = "without_nulls")]
    pub options: BTreeMap<String, String>,
}

/// A map without the entries that are null, which say as much as absent ones.
fn without_nulls<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let entries: Option<NullableMap> = Option::deserialize(from)?;
    let entries = entries.unwrap_or_default().into_iter();
    Ok(entries
        .filter_map(|(key, value)| Some((key, value?)))
        .collect())
}

impl Default for Format {
    fn default() -> Self {
        Self {
            provider: "parquet".into(),
            options: BTreeMap::new(),
        }
    }
}

/// What a reader and a writer must understand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// The newest version that an application has reached; ours are watermarks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// Who committed what. For people, history, time travel, and for recognising our own commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Text values by us; other writers put other JSON there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_parameters: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_blind_append: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_metrics: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_info: Option<String>,
    /// Unique for each commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
}

impl<'de> Deserialize<'de> for CommitInfo {
    /// Takes any JSON.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Value::Object(mut info) = Value::deserialize(from)? else {
            return Ok(Self::default());
        };
        let mut take = |name: &str| info.remove(name);
        fn text(value: Option<Value>) -> Option<String> {
            match value? {
                Value::String(text) => Some(text),
                _ => None,
            }
        }
        fn object(value: Option<Value>) -> Option<BTreeMap<String, Value>> {
            match value? {
                Value::Object(members) => Some(members.into_iter().collect()),
                _ => None,
            }
        }
        fn number(value: Option<Value>) -> Option<i64> {
            match value? {
                Value::Number(number) => number.as_i64(),
                // Some writers quote their numbers.
                Value::String(text) => text.parse().ok(),
                _ => None,
            }
        }
        Ok(Self {
            timestamp: number(take("timestamp")),
            operation: text(take("operation")),
            operation_parameters: object(take("operationParameters")),
            read_version: number(take("readVersion")),
            is_blind_append: take("isBlindAppend").and_then(|value| value.as_bool()),
            operation_metrics: object(take("operationMetrics")),
            engine_info: text(take("engineInfo")),
            txn_id: text(take("txnId")),
        })
    }
}

/// One line of a commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    CommitInfo(CommitInfo),
    Protocol(Protocol),
    #[serde(rename = "metaData")]
    Metadata(Metadata),
    Txn(Txn),
    Remove(Remove),
    Add(Add),
}

/// A line as it is read: at most one of these, or an action that we don't know.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    commit_info: Option<CommitInfo>,
    protocol: Option<Protocol>,
    #[serde(rename = "metaData")]
    metadata: Option<Metadata>,
    txn: Option<Txn>,
    remove: Option<Remove>,
    add: Option<Add>,
}

impl Line {
    fn action(self) -> Option<Action> {
        let Self {
            commit_info,
            protocol,
            metadata,
            txn,
            remove,
            add,
        } = self;
        add.map(Action::Add)
            .or_else(|| remove.map(Action::Remove))
            .or_else(|| txn.map(Action::Txn))
            .or_else(|| metadata.map(Action::Metadata))
            .or_else(|| protocol.map(Action::Protocol))
            .or_else(|| commit_info.map(Action::CommitInfo))
    }
}

/// Why the bytes of a commit are not a commit.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is not a Delta action: {source}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    source: serde_json::Error,
}

/// Reads a commit.
pub fn parse_commit(bytes: &[u8]) -> Result<Vec<Action>, ParseError> {
    let mut actions = Vec::new();
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(line).map_err(|source| ParseError {
            line: i + 1,
            source,
        })?;
        actions.extend(line.action());
    }
    Ok(actions)
}

/// Writes a commit.
pub fn write_commit(actions: &[Action]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(actions.len() * 512);
    for action in actions {
        serde_json::to_writer(&mut bytes, action)
            .expect("actions have text keys and finite numbers");
        bytes.push(b'\n');
    }
    bytes
}

/// The object name that a `path` of the log stands for; none where it lies outside of the table.
pub fn decode_path(path: &str) -> Option<String> {
    let has_scheme = path.split_once(':').is_some_and(|(scheme, _)| {
        let mut letters = scheme.bytes();
        letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            && letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    if has_scheme || path.starts_with('/') || path.is_empty() {
        return None;
    }
    if !path.contains('%') {
        return safe(path.to_owned());
    }
    let hex = |digit: Option<&u8>| char::from(*digit?).to_digit(16);
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        if byte == b'%'
            && let (Some(high), Some(low)) = (hex(bytes.get(i + 1)), hex(bytes.get(i + 2)))
        {
            decoded.push((high * 16 + low) as u8);
            i += 3;
        } else {
            decoded.push(byte);
            i += 1;
        }
    }
    safe(String::from_utf8(decoded).ok()?)
}

/// Only names that stay inside the table's folder.
fn safe(name: String) -> Option<String> {
    let stays = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    stays.then_some(name)
}

/// The `path` that stands for an object name: percent-encoded where a URI needs it.
pub fn encode_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'/'
            | b'='
            | b'+'
            | b','
            | b'@'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_we_do_not_know_is_ignored() {
        let commit = br#"{"commitInfo":{"timestamp":5,"operation":"MERGE","clusterId":"x","operationParameters":{"predicate":["a"],"n":1}}}
{"domainMetadata":{"domain":"x","configuration":"{}","removed":false}}
{"add":{"path":"a%20b.parquet","partitionValues":{},"size":1,"modificationTime":2,"dataChange":true,"baseRowId":4,"clusteringProvider":"liquid"}}

{"cdc":{"path":"c","partitionValues":{},"size":1,"dataChange":false}}
"#;
        let actions = parse_commit(commit).unwrap();
        assert_eq!(actions.len(), 2);
        let Action::Add(add) = &actions[1] else {
            panic!("{actions:?}")
        };
        assert_eq!(decode_path(&add.path).as_deref(), Some("a b.parquet"));
    }

    #[test]
    fn any_json_is_a_commit_info() {
        for (info, timestamp) in [
            (
                r#"{"timestamp":"2026-11-29T00:00:00Z","operation":7,"operationMetrics":["a"]}"#,
                None,
            ),
            (
                r#"{"timestamp":"17","operationParameters":"none","isBlindAppend":"x"}"#,
                Some(17),
            ),
            (
                r#"{"timestamp":17.5,"readVersion":[],"engineInfo":{},"txnId":false}"#,
                None,
            ),
            (r#"["a"]"#, None),
            (r#""words""#, None),
        ] {
            let actions = parse_commit(format!(r#"{{"commitInfo":{info}}}"#).as_bytes()).unwrap();
            let [Action::CommitInfo(read)] = &actions[..] else {
                panic!("{actions:?}")
            };
            let expected = CommitInfo {
                timestamp,
                ..CommitInfo::default()
            };
            assert_eq!(*read, expected, "{info}");
        }
    }

    #[test]
    fn an_optional_field_that_is_null_or_absent_is_no_damage() {
        let commit = br#"{"add":{"path":"a","size":1,"partitionValues":null,"modificationTime":null,"dataChange":null,"stats":null,"tags":null,"deletionVector":null}}
{"add":{"path":"b","size":1}}
{"remove":{"path":"c","deletionTimestamp":null,"dataChange":null,"partitionValues":null,"size":null}}
{"metaData":{"id":"x","name":null,"format":null,"schemaString":"{}","partitionColumns":null,"createdTime":null,"configuration":{"a":null,"b":"c"}}}
{"txn":{"appId":"a","version":1,"lastUpdated":null},"add":null}
{"commitInfo":null}
"#;
        let actions = parse_commit(commit).unwrap();
        assert_eq!(actions.len(), 5);
        let Action::Add(add) = &actions[1] else {
            panic!("{actions:?}")
        };
        assert!(add.data_change && add.stats.is_none());
        let Action::Metadata(metadata) = &actions[3] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            metadata.configuration,
            BTreeMap::from([("b".into(), "c".into())])
        );
        // Without these nobody can tell which rows there are.
        for line in [
            r#"{"add":{"size":1}}"#,
            r#"{"add":{"path":"a","size":null}}"#,
            r#"{"txn":{"appId":"a"}}"#,
        ] {
            assert!(parse_commit(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let error =
            parse_commit(b"{\"txn\":{\"appId\":\"a\",\"version\":1}}\n{\"add\":{\"pa").unwrap_err();
        assert_eq!(error.line, 2);
    }

    #[test]
    fn paths_outside_of_the_table_are_not_names() {
        for path in [
            "s3://b/x",
            "/x",
            "",
            "a/../../x",
            "a//b",
            "file:///x",
            "%2e%2e/x",
            "abfss:x",
        ] {
            assert_eq!(decode_path(path), None, "{path}");
        }
        assert_eq!(decode_path("p=1%253A2/x").as_deref(), Some("p=1%3A2/x"));
        assert_eq!(decode_path("100%/x").as_deref(), Some("100%/x"));
    }

    proptest! {
        #[test]
        fn every_name_survives_its_path(name in "[^/]{1,20}(/[^/]{1,20}){0,2}") {
            prop_assume!(name.split('/').all(|part| part != "." && part != ".."));
            let path = encode_path(&name);
            prop_assert!(path.is_ascii());
            prop_assert_eq!(decode_path(&path), Some(name));
        }
    }
}
