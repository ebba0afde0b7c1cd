use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use proptest::prelude::*;
use tidelake_core::headers::{SCHEMA, dead_letter as names};

use super::*;

type Headers = BTreeMap<&'static str, Vec<u8>>;

fn complete() -> Headers {
    let text = |text: &str| text.as_bytes().to_vec();
    BTreeMap::from([
        (names::CODE, text("TYPE_MISMATCH")),
        (names::REASON, text("row 3: expected long")),
        (names::FIELD, text("pt.x")),
        (names::ROW, text("3")),
        (names::SOURCE_BUCKET, text("2")),
        (names::SOURCE_OFFSET, text("41")),
        (names::SOURCE_TIMESTAMP, text("1000")),
        (names::KEY, vec![0xff]),
        (SCHEMA, text("5")),
    ])
}

/// The columns of one message, by name.
fn row_of(message: WireMessage<'_>, headers: &Headers) -> BTreeMap<String, ArrayRef> {
    let letter = DeadLetter::read(|name| headers.get(name).map(Vec::as_slice));
    let mut decoder = MessageDecoder::dead_letters().unwrap();
    let wire = WireMessage {
        dead_letter: Some(&letter),
        ..message
    };
    let empty = decoder.bytes();
    assert_eq!(decoder.push(&wire), Ok(Pushed::Rows(1)));
    assert!(decoder.rows() == 1 && decoder.bytes() > empty);
    let decoded = decoder.finish().unwrap();
    assert!(decoder.rows() == 0 && decoder.bytes() == empty);
    assert!(decoded.deletes.is_empty() && decoded.rows.len() == 1);
    let part = &decoded.rows[0];
    assert_eq!(
        (part.offsets.as_slice(), part.rows.as_slice()),
        (&[message.offset][..], &[0][..])
    );
    let schema = part.batch.schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.zip(part.batch.columns().iter().cloned()).collect()
}

fn text<'a>(row: &'a BTreeMap<String, ArrayRef>, column: &str) -> Option<&'a str> {
    let column = row[column].as_string::<i32>();
    column.is_valid(0).then(|| column.value(0))
}

fn bytes<'a>(row: &'a BTreeMap<String, ArrayRef>, column: &str) -> Option<&'a [u8]> {
    let column = row[column].as_binary::<i32>();
    column.is_valid(0).then(|| column.value(0))
}

fn source(row: &BTreeMap<String, ArrayRef>) -> (i32, i64) {
    (
        row["source_bucket"].as_primitive::<Int32Type>().value(0),
        row["source_offset"].as_primitive::<Int64Type>().value(0),
    )
}

fn ms(row: &BTreeMap<String, ArrayRef>, column: &str) -> Option<i64> {
    let column = row[column].as_primitive::<TimestampMicrosecondType>();
    column.is_valid(0).then(|| column.value(0) / 1000)
}

#[test]
fn a_dead_letter_is_a_row_named_by_its_source() {
    let mut headers = complete();
    let original = WireMessage {
        encoding: Some(b"arrow"),
        op: Some(b"what"),
        key: Some(b"2/41"),
        ..message(8, b"\x00raw")
    };
    let row = row_of(original, &headers);
    assert_eq!(source(&row), (2, 41));
    assert_eq!(text(&row, "code"), Some("TYPE_MISMATCH"));
    assert_eq!(text(&row, "reason"), Some("row 3: expected long"));
    assert_eq!(text(&row, "field"), Some("pt.x"));
    assert_eq!(row["row"].as_primitive::<Int32Type>().value(0), 3);
    assert_eq!(bytes(&row, "key"), Some(&[0xff][..]));
    assert_eq!(bytes(&row, "value"), Some(&b"\x00raw"[..]));
    assert_eq!(text(&row, "encoding"), Some("arrow"));
    assert_eq!(text(&row, "op"), Some("what"));
    assert_eq!(text(&row, "schema_version"), Some("5"));
    assert_eq!(
        (ms(&row, "source_timestamp"), ms(&row, "dead_at")),
        (Some(1000), Some(7))
    );
    assert_eq!(
        (ms(&row, "replayed_at"), text(&row, "replayed_to")),
        (None, None)
    );

    headers.insert(names::DEAD_AT, b"5".to_vec());
    headers.insert(names::REPLAYED_AT, b"9".to_vec());
    headers.insert(names::REPLAYED_TO, b"0/77".to_vec());
    let row = row_of(original, &headers);
    assert_eq!(
        (ms(&row, "dead_at"), ms(&row, "replayed_at")),
        (Some(5), Some(9))
    );
    assert_eq!(text(&row, "replayed_to"), Some("0/77"));
    headers.insert(names::REPLAYED_AT, b"soon".to_vec());
    assert_eq!(ms(&row_of(original, &headers), "replayed_at"), Some(7));
}

#[test]
fn a_message_without_a_source_is_a_row_under_its_own_offset() {
    let foreign = WireMessage {
        key: Some(b"k"),
        ..message(3, b"hello")
    };
    for (name, value) in [
        (names::SOURCE_OFFSET, None),
        (names::SOURCE_OFFSET, Some("-1")),
        (names::SOURCE_OFFSET, Some("9223372036854775808")),
        (names::SOURCE_BUCKET, None),
        (names::SOURCE_BUCKET, Some("-2")),
        (names::SOURCE_BUCKET, Some("x")),
    ] {
        let mut headers = Headers::new();
        headers.insert(names::SOURCE_BUCKET, b"2".to_vec());
        headers.insert(names::SOURCE_OFFSET, b"41".to_vec());
        match value {
            Some(value) => headers.insert(name, value.as_bytes().to_vec()),
            None => headers.remove(name),
        };
        let row = row_of(foreign, &headers);
        assert_eq!(source(&row), (-1, 3), "{name} {value:?}");
        assert_eq!(text(&row, "code"), Some("NO_SOURCE"));
        assert!(text(&row, "reason").is_some_and(|reason| !reason.is_empty()));
        assert_eq!(bytes(&row, "key"), Some(&b"k"[..]));
        assert_eq!(ms(&row, "source_timestamp"), Some(7));
    }
    // What was written again under that name keeps it.
    let headers = BTreeMap::from([
        (names::SOURCE_BUCKET, b"-1".to_vec()),
        (names::SOURCE_OFFSET, b"3".to_vec()),
    ]);
    let row = row_of(foreign, &headers);
    assert_eq!(
        (source(&row), text(&row, "code")),
        ((-1, 3), Some("UNKNOWN"))
    );
}

#[test]
fn a_tombstone_s_letter_is_a_row_and_only_a_marker_is_none() {
    let headers = complete();
    let letter = DeadLetter::read(|name| headers.get(name).map(Vec::as_slice));
    let mut decoder = MessageDecoder::dead_letters().unwrap();
    let empty = WireMessage {
        value: None,
        ..message(0, b"")
    };
    let marker = WireMessage {
        op: Some(b"flush"),
        ..empty
    };
    let of_marker = WireMessage {
        dead_letter: Some(&letter),
        ..marker
    };
    assert_eq!(decoder.push(&empty), Ok(Pushed::Rows(1)));
    assert_eq!(decoder.push(&marker), Ok(Pushed::Marker));
    assert_eq!(decoder.push(&of_marker), Ok(Pushed::Rows(1)));
    assert_eq!(decoder.finish().unwrap().rows[0].rows.len(), 2);
}

#[test]
fn times_of_sql_answers_are_read_back() {
    assert_eq!(timestamp_ms("1970-01-01T00:00:01.234567Z"), Some(1234));
    assert_eq!(timestamp_ms("1969-12-31T23:59:59.9995Z"), Some(-1));
    assert_eq!(timestamp_ms("yesterday"), None);
}

proptest! {
    #[test]
    fn any_message_is_one_row_that_can_be_written(
        headers in prop::collection::btree_map(
            prop::sample::select(vec![
                names::CODE, names::REASON, names::FIELD, names::ROW, names::SOURCE_BUCKET,
                names::SOURCE_OFFSET, names::SOURCE_TIMESTAMP, names::KEY, names::DEAD_AT,
                names::REPLAYED_AT, names::REPLAYED_TO, SCHEMA,
            ]),
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..12),
                any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            ],
            0..12,
        ),
        value in prop::option::of(prop::collection::vec(any::<u8>(), 0..12)),
        offset in 0..i64::MAX,
        timestamp_ms in any::<i64>(),
    ) {
        let own = WireMessage { value: value.as_deref(), timestamp_ms, ..message(offset, b"") };
        let row = row_of(own, &headers);
        prop_assert_eq!(bytes(&row, "value"), value.as_deref());
        for column in ["source_timestamp", "dead_at"] {
            let at = row[column].as_primitive::<TimestampMicrosecondType>().value(0);
            prop_assert!((-62_135_596_800_000_000..=253_402_300_799_999_000).contains(&at));
        }
    }
}
