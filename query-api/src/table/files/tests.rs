use std::collections::BTreeMap;

use tidelake_core::{clock, ids};
use tidelake_manifest::{Add, Metadata};
use tidelake_schema::TableSchema;
use tidelake_storage::{Store, StoreOptions};

use super::*;

const SCHEMA: &str = r#"{"type": "struct", "fields": [
    {"name": "n", "type": "long", "required": false}]}"#;

fn file(number: usize) -> Arc<DataFile> {
    let stats = serde_json::json!({
        "numRecords": 10, "minValues": {"n": number}, "maxValues": {"n": number + 5},
        "nullCount": {"n": 0},
    });
    let add = Add {
        path: format!("f{number:06}"),
        size: 1,
        stats: Some(stats.to_string()),
        tags: Some(BTreeMap::new()),
        ..Add::default()
    };
    Arc::new(DataFile::of(add).unwrap())
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<Arc<DataFile>> {
    numbers.map(file).collect()
}

fn all(files: usize) -> (Arc<DeltaTable>, Files) {
    let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
    let clock = Arc::new(clock::ManualClock::at(0));
    let table = Arc::new(DeltaTable::new(store.scoped("t"), clock, ids::random()));
    let schema = TableSchema::from_iceberg_json(SCHEMA).unwrap();
    let shape = Arc::new(Shape::new(Arc::new(schema), &Metadata::default()).unwrap());
    let files = Files::new(&table, &shape, numbered(0..files));
    (table, files)
}

#[test]
fn a_commit_of_a_few_files_leaves_nearly_all_segments_as_they_are() {
    let (table, before) = all(50_000);
    let changes = FileChanges {
        came: numbered(50_000..50_004),
        gone: vec![file(123)],
    };
    let after = before.after(&table, changes);
    let old = before.segments().iter();
    let shared = old.filter(|old| after.segments().iter().any(|new| Arc::ptr_eq(old, new)));
    assert!(shared.count() >= before.segments().len() - 2);
    assert_eq!((after.len(), after.live_rows()), (50_003, Some(500_030)));
    assert!(after.find("f000123").is_none() && after.find("f050003").is_some());
}

#[test]
fn many_small_commits_make_few_segments() {
    let (table, mut files) = all(0);
    for number in 0..3_000 {
        let changes = FileChanges {
            came: numbered(3 * number..3 * number + 3),
            gone: if number % 2 == 0 {
                vec![]
            } else {
                vec![file(3 * number - 1)]
            },
        };
        files = files.after(&table, changes);
        // As a query that prunes.
        _ = files
            .segments()
            .last()
            .map(|segment| segment.column(0).is_some());
    }
    assert_eq!(files.len(), 7_500);
    let parts = files.segments().len();
    assert!(
        parts <= 2 * 7_500 / SEGMENT_FILES_MAX + 13,
        "{parts} segments"
    );
    for number in (0..9_000).step_by(97) {
        let facts = files.find(&format!("f{number:06}"));
        assert_eq!(facts.is_some(), number % 6 != 2, "{number}");
        let least = facts.and_then(|facts| facts.bound(0).min);
        let wanted = datafusion::common::ScalarValue::Int64(Some(number as i64));
        assert!(least.is_none_or(|least| least == wanted));
    }
}
