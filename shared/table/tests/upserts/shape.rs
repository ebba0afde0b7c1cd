//! What the primary key of a history is made of.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use proptest::prelude::*;
use tidelake_schema::TableSchema;
use tidelake_table::Owners;

/// What the primary key is made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Long,
    TextAndInt,
    /// All keys begin alike, for longer than any prefix that an index could keep.
    LongText,
}

impl Shape {
    pub(super) fn schema(self) -> TableSchema {
        let (key, ids) = match self {
            Self::Long => (
                r#"{"id":1,"name":"k","required":true,"type":"long"}"#,
                "[1]",
            ),
            Self::LongText => (
                r#"{"id":1,"name":"k","required":true,"type":"string"}"#,
                "[1]",
            ),
            Self::TextAndInt => (
                r#"{"id":1,"name":"k","required":true,"type":"string"},
                   {"id":2,"name":"n","required":true,"type":"int"}"#,
                "[2,1]",
            ),
        };
        TableSchema::from_iceberg_json(&format!(
            r#"{{"type":"struct","schema-id":0,"identifier-field-ids":{ids},"fields":[{key},
                {{"id":3,"name":"v","required":false,"type":"long"}}]}}"#
        ))
        .unwrap()
    }

    pub(super) fn key_columns(self, keys: &[u32]) -> Vec<ArrayRef> {
        let texts = |text: fn(u32) -> String| -> ArrayRef {
            Arc::new(
                keys.iter()
                    .map(|key| Some(text(*key)))
                    .collect::<StringArray>(),
            )
        };
        match self {
            Self::Long => {
                let longs = keys
                    .iter()
                    .map(|key| i64::from(*key) * 1_000_003 - 20_000_000);
                vec![Arc::new(longs.collect::<Int64Array>())]
            }
            Self::LongText => vec![texts(|key| format!("https://example.org/items/{key:05}"))],
            Self::TextAndInt => {
                let ints = keys.iter().map(|key| (*key % 5) as i32 - 2);
                vec![
                    texts(|key| format!("a\0{}", key / 5)),
                    Arc::new(ints.collect::<Int32Array>()),
                ]
            }
        }
    }

    /// Key columns in key order, as deletes have them.
    pub(super) fn delete_columns(self, keys: &[u32]) -> Vec<ArrayRef> {
        let mut columns = self.key_columns(keys);
        columns.reverse();
        columns
    }

    /// The bucket of each key: whether it is odd.
    pub(super) fn owners(self) -> Owners {
        Owners::new(2, move |keys| {
            let columns = keys.columns().len();
            // In the table's order again.
            let places: Vec<usize> = (0..columns).rev().collect();
            let table = keys.project(&places).unwrap();
            let buckets = (0..keys.num_rows()).map(|row| self.key_of(&table, row) % 2);
            Ok(buckets.collect())
        })
    }

    pub(super) fn key_of(self, batch: &RecordBatch, row: usize) -> u32 {
        match self {
            Self::Long => {
                let value = batch.column(0).as_primitive::<Int64Type>().value(row);
                ((value + 20_000_000) / 1_000_003) as u32
            }
            Self::LongText => {
                let text = batch.column(0).as_string::<i32>().value(row);
                text.rsplit('/').next().unwrap().parse().unwrap()
            }
            Self::TextAndInt => {
                let text = batch.column(0).as_string::<i32>().value(row);
                let int = batch.column(1).as_primitive::<Int32Type>().value(row);
                text.trim_start_matches("a\0").parse::<u32>().unwrap() * 5 + (int + 2) as u32
            }
        }
    }
}

pub(super) fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Long),
        Just(Shape::TextAndInt),
        Just(Shape::LongText)
    ]
}
