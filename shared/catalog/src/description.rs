//! A table as clients see it, whichever service they ask.
//!
//! Owns the shape of a description and of a list of them, and what follows from what: lag, primary
//! key, where a list ends. Does not own where the parts come from: the caller brings what the
//! table's own log holds ([`Committed`]) and what the topic's ends are.

use std::collections::BTreeMap;

use serde::Serialize;
use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, TableName, TableVersion, TenantId, TopicId, Watermark};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use crate::entry::{TableEntry, TableMode};

/// Tables of one list.
pub const LIST_MAX: usize = 1000;
/// Tables whose whole state is read for one list. More are listed without it: a list must not load
/// everything that there is.
pub const LIST_LOADS_MAX: usize = 32;

/// What the table's own log holds at one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    pub schema: TableSchema,
    pub physical_names: PhysicalNames,
    pub version: TableVersion,
    pub rows: u64,
    pub files: usize,
    pub bytes: u64,
    /// Of every bucket that is read.
    pub watermarks: BTreeMap<Bucket, Watermark>,
}

/// A table at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    pub name: TableName,
    pub tenant: TenantId,
    pub mode: TableMode,
    /// The key's columns in key order; empty for append tables.
    pub primary_key: Vec<String>,
    pub buckets: u32,
    pub topic: String,
    pub topic_id: TopicId,
    pub schema: TableSchema,
    /// What columns are called in files, by id, where that differs: packed messages go by it.
    #[serde(skip_serializing_if = "PhysicalNames::is_empty")]
    pub physical_names: PhysicalNames,
    pub properties: BTreeMap<String, String>,
    pub created_ms: UnixMillis,
    pub version: u64,
    pub rows: u64,
    pub files: usize,
    pub bytes: u64,
    pub watermarks: BTreeMap<Bucket, Watermark>,
    /// Null while the log does not answer.
    pub end_offsets: Option<BTreeMap<Bucket, Watermark>>,
    /// Messages in the log that the table does not cover yet; null while the log does not answer, or
    /// has another topic in its place.
    pub lag_records: Option<i64>,
    /// Why the table takes no records: its topic is another by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_changed: Option<TopicNote>,
    /// The folder below the store's root.
    pub location: String,
}

/// A topic that is not the table's, as writes are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicNote {
    pub code: &'static str,
    pub detail: String,
    pub hint: Option<String>,
}

impl Description {
    pub fn new(
        entry: &TableEntry,
        committed: Committed,
        end_offsets: Option<BTreeMap<Bucket, Watermark>>,
    ) -> Self {
        let Committed {
            schema,
            physical_names,
            version,
            rows,
            files,
            bytes,
            watermarks,
        } = committed;
        let lag = |ends: &BTreeMap<Bucket, Watermark>| {
            let mark = |bucket| watermarks.get(bucket).copied().unwrap_or_default();
            ends.iter()
                .map(|(bucket, end)| (end.0 - mark(bucket).0).max(0))
                .sum()
        };
        let key = schema.identifier_fields();
        Self {
            name: entry.id.table.clone(),
            tenant: entry.id.tenant.clone(),
            mode: entry.mode,
            primary_key: key.iter().map(|field| field.name.clone()).collect(),
            buckets: entry.buckets,
            topic: entry.topic.clone(),
            topic_id: entry.topic_id,
            physical_names,
            properties: entry.properties.clone(),
            created_ms: entry.created_ms,
            version: version.0,
            rows,
            files,
            bytes,
            lag_records: end_offsets.as_ref().map(lag),
            topic_changed: None,
            schema,
            watermarks,
            end_offsets,
            location: entry.location(),
        }
    }

    /// The topic is not the table's any more, if there is such a note: how far the table is behind
    /// it means nothing then.
    pub fn note_topic(&mut self, changed: Option<TopicNote>) {
        if changed.is_some() {
            self.lag_records = None;
            self.topic_changed = changed;
        }
    }
}

/// A tenant's tables by name, or a part of them.
#[derive(Debug, Serialize)]
pub struct TableList {
    pub tables: Vec<Listed>,
    /// There are more: ask again with `after` this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<TableName>,
}

/// One table of a list: one whose log can't be read must not hide the others.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Listed {
    Described(Box<Description>),
    /// Nobody has looked at it for long, and the list has loaded enough: describing it tells more.
    Named {
        name: TableName,
        tenant: TenantId,
        mode: TableMode,
        buckets: u32,
        topic: String,
        topic_id: TopicId,
        /// As it was created.
        schema: Box<TableSchema>,
        properties: BTreeMap<String, String>,
        created_ms: UnixMillis,
        /// Always null.
        version: Option<u64>,
    },
    Unreadable {
        name: TableName,
        tenant: TenantId,
        mode: TableMode,
        buckets: u32,
        topic: String,
        topic_id: TopicId,
        /// The code of the error that describing it answers.
        code: &'static str,
        detail: String,
    },
}

impl Listed {
    /// Without what only its log tells.
    pub fn named(entry: &TableEntry) -> Self {
        Self::Named {
            name: entry.id.table.clone(),
            tenant: entry.id.tenant.clone(),
            mode: entry.mode,
            buckets: entry.buckets,
            topic: entry.topic.clone(),
            topic_id: entry.topic_id,
            schema: Box::new(entry.schema.clone()),
            properties: entry.properties.clone(),
            created_ms: entry.created_ms,
            version: None,
        }
    }

    /// Its log can't be read.
    pub fn unreadable(entry: &TableEntry, code: &'static str, detail: String) -> Self {
        Self::Unreadable {
            name: entry.id.table.clone(),
            tenant: entry.id.tenant.clone(),
            mode: entry.mode,
            buckets: entry.buckets,
            topic: entry.topic.clone(),
            topic_id: entry.topic_id,
            code,
            detail,
        }
    }
}

/// Which of a tenant's tables one list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPart {
    /// At most so many, and never more than [`LIST_MAX`].
    pub limit: Option<usize>,
    /// Only tables whose names sort behind this one.
    pub after: Option<String>,
}

impl ListPart {
    /// Leaves the tables of this part, which are sorted by name; after which one to ask again, where
    /// there are more.
    pub fn cut<T>(
        &self,
        tables: &mut Vec<T>,
        entry: impl Fn(&T) -> &TableEntry,
    ) -> Option<TableName> {
        if let Some(after) = &self.after {
            tables.retain(|table| entry(table).id.table.as_str() > after.as_str());
        }
        let limit = self.limit.unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
        let more = tables.len() > limit;
        tables.truncate(limit);
        let last = tables.last().filter(|_| more);
        last.map(|table| entry(table).id.table.clone())
    }
}

/// Whether the whole state of each table is read for a list, in their order: of those that are known
/// it costs nothing.
pub fn looked_at<T>(tables: Vec<T>, is_known: impl Fn(&T) -> bool) -> Vec<(T, bool)> {
    let mut loads = LIST_LOADS_MAX;
    let looks = tables.into_iter().map(|table| {
        let known = is_known(&table);
        let looked = known || loads > 0;
        if !known {
            loads = loads.saturating_sub(1);
        }
        (table, looked)
    });
    looks.collect()
}

#[cfg(test)]
mod tests {
    use tidelake_core::TableId;

    use super::*;

    fn entry(name: &str) -> TableEntry {
        let schema = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
            {"id": 1, "name": "id", "type": "long", "required": true}]}"#;
        TableEntry {
            id: TableId::new(TenantId::default(), TableName::new(name).unwrap()),
            mode: TableMode::Upsert,
            schema: TableSchema::from_iceberg_json(schema).unwrap(),
            buckets: 2,
            topic: format!("t.{name}"),
            topic_id: TopicId([7; 16]),
            properties: BTreeMap::new(),
            created_ms: 7,
            dead_letters_topic_id: None,
            restores: 0,
        }
    }

    #[test]
    fn a_description_says_how_far_the_table_is_behind_its_own_topic_only() {
        let entry = entry("orders");
        let committed = Committed {
            schema: entry.schema.clone(),
            physical_names: PhysicalNames::new(),
            version: TableVersion(3),
            rows: 5,
            files: 1,
            bytes: 100,
            watermarks: BTreeMap::from([(Bucket(0), Watermark(5)), (Bucket(1), Watermark(0))]),
        };
        let ends = BTreeMap::from([(Bucket(0), Watermark(4)), (Bucket(1), Watermark(3))]);
        let mut told = Description::new(&entry, committed.clone(), Some(ends));
        assert_eq!(
            (told.lag_records, &*told.primary_key),
            (Some(3), &["id".to_owned()][..])
        );
        let away = Description::new(&entry, committed, None);
        assert_eq!(away.lag_records, None);
        told.note_topic(Some(TopicNote {
            code: "TOPIC_REPLACED",
            detail: String::new(),
            hint: None,
        }));
        let shown = serde_json::to_value(&told).unwrap();
        assert!(shown["lag_records"].is_null());
        assert_eq!(shown["topic_changed"]["code"], "TOPIC_REPLACED");
        assert_eq!(shown["location"], "default/orders");
        assert!(shown.get("physical_names").is_none());
    }

    #[test]
    fn a_list_ends_where_its_part_ends() {
        let all = || ["a", "b", "c", "d"].map(entry).to_vec();
        let names = |tables: &[TableEntry]| {
            let names = tables.iter().map(|entry| entry.id.table.to_string());
            names.collect::<String>()
        };
        for (limit, after, wanted, more) in [
            (None, None, "abcd", None),
            (Some(2), None, "ab", Some("b")),
            (Some(2), Some("b"), "cd", None),
            (Some(0), Some("b"), "c", Some("c")),
            (Some(usize::MAX), Some("d"), "", None),
        ] {
            let after = after.map(str::to_owned);
            let mut tables = all();
            let next = ListPart { limit, after }.cut(&mut tables, |entry| entry);
            assert_eq!(names(&tables), wanted);
            assert_eq!(next.as_ref().map(TableName::as_str), more);
        }
        let looked = looked_at((0..100).collect(), |number| *number >= 50);
        let read = looked.iter().filter(|(_, looked)| *looked).count();
        assert_eq!(read, LIST_LOADS_MAX + 50);
    }
}
