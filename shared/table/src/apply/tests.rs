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

/// Rows of a file: ids and offsets.
type Rows = Vec<(i64, i64)>;

fn chunk(rows: &Rows) -> Chunk {
    let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
    let at: Vec<(i64, u32)> = rows.iter().map(|(_, offset)| (*offset, 0)).collect();
    Chunk::new(batch(&ids), positions(&at))
}

/// Each row has an id of its own within its piece.
fn piece(number: i64) -> Rows {
    let ids = (0..6).map(|at| (number * 7 + at * (1 + number % 5)) % 31);
    let ids: std::collections::BTreeSet<i64> = ids.collect();
    (number * 100..).zip(ids).map(|(at, id)| (id, at)).collect()
}

#[test]
fn pieces_are_carried_onto_a_newer_state() {
    let home = IndexHome::memory();
    let spec = KeySpec::of(&schema()).unwrap();
    let of_piece = |name: &str| name.starts_with("tail:");
    let mut old = BucketState::new(spec.kind());
    let first: Rows = (0..25).map(|id| (id, 0)).collect();
    let changes = newest(&[chunk(&first)], &[]);
    old = old.apply(&home, "f0".into(), &changes).unwrap();
    let mut fresh = old.clone();
    let pieces: Vec<Rows> = (1..60).map(piece).collect();
    let name = |place: usize| -> Arc<str> { format!("tail:{place:03}").into() };
    for (place, rows) in pieces.iter().enumerate() {
        let changes = newest(&[chunk(rows)], &[]);
        fresh = fresh.apply(&home, name(place), &changes).unwrap();
        fresh = fresh.settled_among(&home, &of_piece).unwrap();
        assert!(fresh.index().runs().len() <= 8);
    }
    // In the middle of a piece, between two, before all and behind all.
    for mark in [2_303i64, 2_300, 100, 9_000] {
        let behind = |row: &(i64, i64)| row.1 >= mark;
        let flushed: Vec<Chunk> = pieces
            .iter()
            .map(|rows| rows.iter().copied().filter(|row| !behind(row)).collect())
            .map(|rows| chunk(&rows))
            .collect();
        let changes = newest(&flushed, &[]);
        let mut next = old.clone();
        if changes.kept_rows() > 0 {
            next = next.apply(&home, "f1".into(), &changes).unwrap();
        }
        let left = pieces
            .iter()
            .map(|rows| rows.iter().copied().filter(behind).collect());
        let left: Vec<Chunk> = left.map(|rows| chunk(&rows)).collect();
        let carried = pieces.iter().enumerate().filter_map(|(place, rows)| {
            let mut gone = RowSet::default();
            for (row, _) in rows.iter().enumerate().filter(|(_, row)| !behind(row)) {
                gone.insert(row as u32);
            }
            (gone.len() < rows.len() as u32).then(|| (name(place), gone))
        });
        let carried: Vec<_> = carried.collect();
        let next = next
            .carrying(&newest(&left, &[]), &fresh, &carried)
            .unwrap();
        let ids: Vec<i64> = (0..31).collect();
        let keys = spec.keys(&batch(&ids)).unwrap();
        for (id, found) in ids.iter().zip(next.find(&keys).unwrap()) {
            let all = pieces.iter().enumerate().flat_map(|(place, rows)| {
                let rows = rows.iter().enumerate();
                rows.map(move |(row, (id, offset))| (*id, *offset, place, row as u32))
            });
            let newest = all.filter(|row| row.0 == *id).max_by_key(|row| row.1);
            let found = found.map(|place| (place.file.to_string(), place.row));
            match newest {
                Some((_, offset, place, row)) if offset >= mark => {
                    assert_eq!(found, Some((name(place).to_string(), row)), "id {id}");
                }
                Some(_) => assert_eq!(found.unwrap().0, "f1", "id {id} at {mark}"),
                None if *id < 25 => assert_eq!(found, Some(("f0".into(), *id as u32))),
                None => assert_eq!(found, None),
            }
        }
        let live: u64 = next.live_rows();
        let distinct = keys.len() as u64;
        assert!(
            live <= distinct,
            "{live} live rows of {distinct} keys at {mark}"
        );
    }
}
