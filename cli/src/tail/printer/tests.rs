use serde_json::json;
use tidelake_core::TableName;
use tidelake_core::headers::NoHeaders;
use tidelake_core::partition::bucket_of;

use super::*;

fn table(columns: &[(&str, &str)], buckets: u32) -> Described {
    let fields = columns.iter().enumerate().map(|(place, (name, ty))| {
        json!({ "id": place + 1, "name": name, "type": ty, "required": place == 0 })
    });
    let told = json!({
        "mode": "upsert", "topic": "t", "topic_id": "x", "buckets": buckets,
        "schema": {
            "type": "struct", "schema-id": 0, "identifier-field-ids": [1],
            "fields": fields.collect::<Vec<_>>(),
        },
    });
    Described::of(&TableName::new("t").unwrap(), &told).unwrap()
}

fn two_columns() -> Described {
    table(&[("id", "long"), ("v", "long")], 1)
}

/// Takes messages of bucket 0, a tombstone where there is no value; tells what is no row.
fn take(printer: &mut Printer, from: i64, messages: &[(&str, Option<&str>)]) -> Vec<String> {
    let mut told = Vec::new();
    for (offset, (key, value)) in (from..).zip(messages) {
        let seen = Seen {
            offset: Offset(offset),
            timestamp_ms: 0,
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            headers: &NoHeaders,
        };
        told.extend(printer.take(Bucket(0), &seen));
    }
    told
}

fn lines(printer: &mut Printer) -> Vec<String> {
    let mut out = Vec::new();
    printer.lines(Bucket(0), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines().map(str::to_owned).collect()
}

const MIXED: [(&str, Option<&str>); 5] = [
    ("1", Some(r#"{"id":1,"v":1}"#)),
    ("1", None),
    ("2", Some(r#"{"id":2,"v":2}"#)),
    ("1", Some(r#"{"id":1,"v":3}"#)),
    ("2", None),
];

#[test]
fn rows_and_deletes_come_in_the_order_of_the_log() {
    let mut printer = Printer::new(&two_columns(), None, None, None).unwrap();
    assert_eq!(take(&mut printer, 0, &MIXED), Vec::<String>::new());
    assert_eq!(
        lines(&mut printer),
        [
            r#"{"id":1,"v":1}"#,
            r#"{"__op":"delete","id":1}"#,
            r#"{"id":2,"v":2}"#,
            r#"{"id":1,"v":3}"#,
            r#"{"__op":"delete","id":2}"#,
        ]
    );
    assert!(lines(&mut printer).is_empty());
}

#[test]
fn one_key_and_so_many_rows_are_shown_where_no_more_is_wanted() {
    let mut printer = Printer::new(&two_columns(), Some("2"), None, None).unwrap();
    let mut all = MIXED.to_vec();
    all.push(("3", Some("{")));
    assert_eq!(take(&mut printer, 0, &all), Vec::<String>::new());
    assert_eq!(
        lines(&mut printer),
        [r#"{"id":2,"v":2}"#, r#"{"__op":"delete","id":2}"#]
    );

    let mut printer = Printer::new(&two_columns(), None, None, Some(2)).unwrap();
    take(&mut printer, 0, &MIXED);
    assert_eq!(
        lines(&mut printer),
        [r#"{"id":1,"v":1}"#, r#"{"__op":"delete","id":1}"#]
    );
    assert!(printer.is_done());
}

#[test]
fn rows_are_shown_for_which_the_condition_holds() {
    let condition = Some("v > 1 OR id = 1 AND v IS NULL");
    let mut printer = Printer::new(&two_columns(), None, condition, None).unwrap();
    take(&mut printer, 0, &MIXED);
    assert_eq!(
        lines(&mut printer),
        [
            r#"{"__op":"delete","id":1}"#,
            r#"{"id":2,"v":2}"#,
            r#"{"id":1,"v":3}"#
        ]
    );
}

#[test]
fn a_key_is_looked_for_in_its_own_bucket_whatever_its_text() {
    let table = table(&[("id", "decimal(5,2)"), ("v", "long")], 7);
    let of =
        |key: &str| Printer::new(&table, Some(key), None, None).map(|printer| printer.bucket());
    assert_eq!(of("12.5").unwrap(), Some(bucket_of(b"12.50", 7)));
    assert!(of("x").unwrap_err().message.contains("no key of the table"));
}

#[test]
fn a_column_that_is_added_is_shown_from_its_first_row_on() {
    let mut printer = Printer::new(&two_columns(), Some("1"), None, None).unwrap();
    take(&mut printer, 0, &MIXED[..1]);
    assert_eq!(lines(&mut printer).len(), 1);
    let wider = table(&[("id", "long"), ("v", "long"), ("w", "string")], 1);
    assert!(two_columns().still(&wider).is_ok());
    printer.adopt(&wider).unwrap();
    let new = [("1", Some(r#"{"id":1,"v":1,"w":"x"}"#))];
    assert_eq!(take(&mut printer, 1, &new), Vec::<String>::new());
    assert_eq!(lines(&mut printer), [r#"{"id":1,"v":1,"w":"x"}"#]);
}

#[test]
fn a_record_that_fits_no_row_is_told_by_its_place() {
    let mut printer = Printer::new(&two_columns(), None, None, None).unwrap();
    let told = take(&mut printer, 5, &[("1", Some(r#"{"id":"x"}"#))]);
    assert!(told[0].starts_with("bucket 0 offset 5: "), "{told:?}");
}
