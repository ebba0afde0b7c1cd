use arrow::array::{Float64Array, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{Field, TimeUnit};
use serde_json::json;
use std::sync::Arc;

use super::*;

fn schema() -> TableSchema {
    let field = |id: i32, name: &str, ty: &str| json!({ "id": id, "name": name, "type": ty, "required": false });
    let fields = [
        field(1, "id", "long"),
        field(2, "userName", "string"),
        field(3, "amount", "double"),
        field(4, "at", "timestamptz"),
        field(5, "raw", "binary"),
    ];
    let schema = json!({ "type": "struct", "schema-id": 0, "fields": fields });
    TableSchema::from_iceberg_value(&schema).unwrap()
}

fn batch() -> RecordBatch {
    let zone = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("userName", DataType::Utf8, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("at", zone, true),
    ];
    let days = [0, 86_400_000_000, 2 * 86_400_000_000, 0]
        .map(Some)
        .to_vec();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(3), None])),
        Arc::new(StringArray::from(vec![
            Some("Ann"),
            Some("it's"),
            Some(""),
            None,
        ])),
        Arc::new(Float64Array::from(vec![
            Some(1.5),
            Some(f64::NAN),
            Some(-2.0),
            None,
        ])),
        Arc::new(TimestampMicrosecondArray::from(days).with_timezone("UTC")),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Places of the rows that a condition holds for.
fn rows(text: &str) -> Vec<usize> {
    let predicate = Predicate::new(text, &schema()).unwrap();
    let held = predicate.decide(&batch()).unwrap();
    let holds = |row: &usize| held.is_valid(*row) && held.value(*row);
    (0..held.len()).filter(holds).collect()
}

#[test]
fn conditions_hold_as_in_sql() {
    for (text, expected) in [
        ("id = 2", &[1][..]),
        ("id <> 2", &[0, 2]),
        ("NOT id = 2", &[0, 2]),
        ("id IN (1, 3) AND userName <> ''", &[0]),
        ("id not in (1,3)", &[1]),
        ("username like 'A%' OR id IS NULL", &[0, 3]),
        ("\"userName\" = 'it''s'", &[1]),
        ("userName IS NOT NULL", &[0, 1, 2]),
        ("amount > 1", &[0, 1]),
        ("amount BETWEEN -2 AND 1.5", &[0, 2]),
        ("amount NOT BETWEEN -2 AND 1.5", &[1]),
        ("at >= '1970-01-02T00:00:00Z'", &[1, 2]),
        ("at < '1970-01-02'", &[0, 3]),
        ("id = 1 OR id = 2 AND amount < 0", &[0]),
        ("(id = 1 OR id = 2) AND NOT (amount < 0)", &[0, 1]),
        ("NOT (id = 1 AND amount IS NULL)", &[0, 1, 2]),
    ] {
        assert_eq!(rows(text), expected, "{text}");
    }
}

#[test]
fn of_a_delete_only_the_key_is_known() {
    let key = batch().project(&[0]).unwrap();
    let held = |text: &str| {
        let predicate = Predicate::new(text, &schema()).unwrap();
        predicate.decide(&key).unwrap().true_count()
    };
    assert_eq!(held("id >= 2"), 2);
    assert_eq!(held("amount > 0"), 0);
    assert_eq!(held("NOT amount > 0"), 0);
    assert_eq!(held("id = 1 OR amount > 0"), 1);
}

#[test]
fn a_condition_that_has_no_meaning_is_told() {
    for (text, expected) in [
        ("", "a column is missing at the end"),
        ("id", "a comparison is missing at the end"),
        ("id = ", "a value is missing at the end"),
        ("id = x", "x is no value: text stands in single quotes"),
        ("id = NULL", "say IS NULL"),
        ("id = 'x'", "column id: "),
        ("id = 1.5", "column id: "),
        ("nothing = 1", "the table has no column nothing"),
        ("raw = 'AA=='", "can't be compared here"),
        ("id LIKE '1%'", "column id is no text"),
        ("id = 1 userName = 'x'", "userName was not expected"),
        ("(id = 1", ") is missing at the end"),
        ("userName = 'x", "a ' is not closed"),
        ("id = 1; DROP", "; was not expected"),
        ("id NOT = 1", "IN, LIKE or BETWEEN"),
    ] {
        let failure = Predicate::new(text, &schema()).unwrap_err();
        assert!(
            failure.message.contains(expected),
            "{text}: {}",
            failure.message
        );
    }
    let deep = format!("{}id = 1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(
        Predicate::new(&deep, &schema())
            .unwrap_err()
            .message
            .contains("more than 2000")
    );
    let deep = format!("{}id = 1", "NOT ".repeat(100));
    assert!(
        Predicate::new(&deep, &schema())
            .unwrap_err()
            .message
            .contains("deeper than 64")
    );
    let wide = ["id = 1"; 400].join(" OR ");
    assert!(Predicate::new(&wide, &schema()).is_ok());
}

#[test]
fn a_column_that_the_table_has_lost_is_told() {
    let mut predicate = Predicate::new("amount > 1", &schema()).unwrap();
    let mut schema = schema();
    schema.fields.retain(|field| field.name != "amount");
    let failure = predicate.adopt(&schema).unwrap_err();
    assert!(
        failure.message.contains("no column amount"),
        "{}",
        failure.message
    );
}
