use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;

use super::*;
use crate::memtable::Positions;

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[
            {"id":1,"name":"id","required":true,"type":"long"}]}"#,
    )
    .unwrap()
}

fn batch(ids: &[i64]) -> RecordBatch {
    let ids = Arc::new(Int64Array::from(ids.to_vec()));
    RecordBatch::try_new(to_arrow(&schema()), vec![ids]).unwrap()
}

fn positions(at: &[(i64, u32)]) -> Positions {
    Positions {
        offsets: at.iter().map(|(offset, _)| *offset).collect(),
        rows: at.iter().map(|(_, row)| *row).collect(),
        timestamps_ms: vec![0; at.len()],
    }
}

fn newest(chunks: &[Chunk], deletes: &[Deletes]) -> Changes {
    Changes::newest_of(&KeySpec::of(&schema()).unwrap(), chunks, deletes).unwrap()
}

fn kept(changes: &Changes, chunks: &[Chunk]) -> Vec<i64> {
    let mut ids = Vec::new();
    for (place, chunk) in chunks.iter().enumerate() {
        let chunk = match changes.kept_of(place) {
            Some(rows) => chunk.filtered(rows).unwrap(),
            None => chunk.clone(),
        };
        ids.extend(chunk.batch.column(0).as_primitive::<Int64Type>().values());
    }
    ids
}

#[test]
fn a_key_s_last_row_is_kept_and_numbered_among_the_kept() {
    let chunks = [
        Chunk::new(batch(&[5, 1, 5]), positions(&[(0, 0), (0, 1), (1, 0)])),
        Chunk::new(batch(&[1, 9]), positions(&[(2, 0), (2, 1)])),
    ];
    let changes = newest(&chunks, &[]);
    assert_eq!(kept(&changes, &chunks), [5, 1, 9]);
    let entries = changes.entries();
    // In key order: 1, 5, 9.
    assert_eq!(entries.rows, [1, 0, 2]);
    assert_eq!((changes.kept_rows(), changes.removed_keys()), (3, 0));
}

#[test]
fn a_delete_wins_over_what_came_before_it_only() {
    let chunks = [Chunk::new(
        batch(&[1, 2, 3, 2]),
        positions(&[(0, 0), (0, 1), (0, 3), (7, 0)]),
    )];
    let removed = Deletes::new(batch(&[2, 3, 4]), positions(&[(0, 2), (1, 0), (2, 0)]));
    let changes = newest(&chunks, &[removed]);
    assert_eq!(kept(&changes, &chunks), [1, 2]);
    assert_eq!(changes.keys().len(), 4);
    assert_eq!((changes.kept_rows(), changes.removed_keys()), (2, 2));
    assert_eq!(changes.entries().rows, [0, 1]);
}

#[test]
fn distinct_keys_are_taken_as_they_are() {
    let chunks = [Chunk::new(
        batch(&[3, 1, 2]),
        positions(&[(0, 0), (0, 1), (0, 2)]),
    )];
    let changes = newest(&chunks, &[]);
    assert!(changes.kept_of(0).is_none());
    assert_eq!(changes.entries().rows, [1, 2, 0]);
}
