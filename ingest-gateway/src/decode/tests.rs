use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use proptest::prelude::*;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::packed;
use tidelake_core::{TableId, TableName, TenantId, TopicId};

use tidelake_schema::TableSchema;

use super::columns::{end_of_lines, middle_of_lines};
use super::*;
use crate::spool::SpoolBudget;

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","fields":[
            {"id":1,"name":"n","required":true,"type":"long"},
            {"id":2,"name":"s","required":false,"type":"string"}]}"#,
    )
    .unwrap()
}

fn table() -> LoggedTable {
    let entry = TableEntry {
        id: TableId::new(TenantId::default(), TableName::new("t").unwrap()),
        mode: TableMode::Append,
        schema: schema(),
        buckets: 1,
        topic: "tidelake.default.t".into(),
        topic_id: TopicId([1; 16]),
        properties: BTreeMap::new(),
        created_ms: 0,
        dead_letters_topic_id: None,
        restores: 0,
    };
    LoggedTable::new(entry, &tidelake_schema::delta::PhysicalNames::new())
}

fn decode_chunks(
    chunks: Vec<Result<Bytes, Fault>>,
    coding: Coding,
    format: Format,
    bytes_max: u64,
) -> Result<Decoded, BodyError> {
    run(Work {
        chunks: Chunks::of(chunks),
        coding,
        bytes_max,
        format,
        operation: Operation::Write,
        table: table(),
        room: Room::Stream(64 << 20),
        spool: Spool::new(SpoolBudget::new(1 << 20, 1 << 30, 1 << 30, None)),
    })
}

fn decode(body: &[u8], coding: Coding, format: Format) -> Result<Decoded, BodyError> {
    let chunks = body
        .chunks(10_007)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    decode_chunks(chunks, coding, format, 1 << 30)
}

fn rows_of(mut decoded: Decoded) -> Vec<(i64, Option<String>)> {
    let mut rows = Vec::new();
    while let Some(message) = decoded.spool.pop().unwrap() {
        let batch = packed::decode(&message.value, &schema()).unwrap();
        let n = batch.column(0).as_primitive::<Int64Type>();
        let s = batch.column(1).as_string::<i32>().iter();
        rows.extend(
            n.values()
                .iter()
                .copied()
                .zip(s.map(|s| s.map(str::to_owned))),
        );
    }
    rows
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn compress(body: &[u8], coding: Coding) -> Vec<u8> {
    match coding {
        Coding::Identity => body.to_vec(),
        Coding::Gzip => gzip(body),
        Coding::Zstd => zstd::encode_all(body, 1).unwrap(),
    }
}

fn encode(rows: &[(i64, Option<String>)], format: Format, blanks: bool) -> Vec<u8> {
    let json = |(n, s): &(i64, Option<String>)| serde_json::json!({"n": n, "s": s}).to_string();
    let records: Vec<_> = rows.iter().map(json).collect();
    match format {
        Format::Json => format!("[{}]", records.join(if blanks { " ,\n" } else { "," })).into(),
        Format::Ndjson => records.join(if blanks { "\n\n" } else { "\n" }).into(),
        Format::Arrow => {
            let schema = tidelake_schema::arrow::to_arrow(&schema());
            let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
            for rows in rows.chunks(7) {
                let n = arrow::array::Int64Array::from_iter_values(rows.iter().map(|row| row.0));
                let s = arrow::array::StringArray::from_iter(rows.iter().map(|row| row.1.clone()));
                let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(n), Arc::new(s)];
                writer
                    .write(&RecordBatch::try_new(schema.clone(), columns).unwrap())
                    .unwrap();
            }
            writer.into_inner().unwrap()
        }
    }
}

fn codings() -> impl Strategy<Value = Coding> {
    prop_oneof![
        Just(Coding::Identity),
        Just(Coding::Gzip),
        Just(Coding::Zstd)
    ]
}

fn formats() -> impl Strategy<Value = Format> {
    prop_oneof![
        Just(Format::Json),
        Just(Format::Ndjson),
        Just(Format::Arrow)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// However a body is cut, compressed (in one member or two) and written: the same rows.
    #[test]
    fn a_body_is_its_rows_however_it_comes(
        rows in prop::collection::vec((any::<i64>(), prop::option::of("\\PC{0,12}")), 1..60),
        format in formats(),
        coding in codings(),
        blanks: bool,
        members in 1..3usize,
        cuts in prop::collection::vec(1..400usize, 1..5),
    ) {
        let body = encode(&rows, format, blanks);
        let (head, tail) = body.split_at(body.len() * (members - 1) / 2);
        let mut sent = compress(tail, coding);
        if !head.is_empty() {
            sent = [compress(head, coding), sent].concat();
        }
        let mut chunks = Vec::new();
        let mut rest = Bytes::from(sent);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            chunks.push(Ok(rest.split_to((*cut).min(rest.len()))));
        }
        let decoded = decode_chunks(chunks, coding, format, 1 << 30).unwrap();
        prop_assert_eq!(decoded.bytes, body.len() as u64);
        prop_assert_eq!(decoded.spool.rows(), rows.len() as u64);
        prop_assert_eq!(decoded.spool.messages(), 1);
        prop_assert_eq!(rows_of(decoded), rows);
    }

    /// The first bad record is named, wherever it stands.
    #[test]
    fn the_first_bad_record_is_named(
        good in 0..6_000usize,
        coding in codings(),
        array: bool,
    ) {
        let format = if array { Format::Json } else { Format::Ndjson };
        let (separator, open, close) = if array { (",", "[", "]") } else { ("\n", "", "\n") };
        let mut records = vec![r#"{"n":1,"s":"some text that fills a block soon"}"#; good];
        records.extend([r#"{"n":"x"}"#, r#"{"n":2}"#, "{}"]);
        let body = format!("{open}{}{close}", records.join(separator));
        let error = decode(&compress(body.as_bytes(), coding), coding, format).unwrap_err();
        let BodyError::Rejected { row, rejection } = error else { panic!("{error}") };
        prop_assert_eq!(row, good as u64);
        prop_assert_eq!(rejection.field.as_deref(), Some("n"));
        prop_assert_eq!(rejection.code(), "WRONG_TYPE");
    }
}

#[test]
fn many_rows_become_messages_of_bounded_rows_without_copies() {
    let rows: Vec<_> = (0..200_000)
        .map(|n| (n, Some(format!("text {n}"))))
        .collect();
    for format in [Format::Json, Format::Ndjson, Format::Arrow] {
        let decoded = decode(&encode(&rows, format, false), Coding::Identity, format).unwrap();
        assert!(
            (4..=6).contains(&decoded.spool.messages()),
            "{}",
            decoded.spool.messages()
        );
        assert_eq!(rows_of(decoded), rows, "{format:?}");
    }
}

#[test]
fn one_object_is_one_record() {
    let decoded = decode(b" {\"n\":5} ", Coding::Identity, Format::Json).unwrap();
    assert_eq!(rows_of(decoded), [(5, None)]);
}

#[test]
fn nothing_is_not_a_body_but_an_empty_array_is() {
    for format in [Format::Json, Format::Ndjson, Format::Arrow] {
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
            let error = decode(&compress(b"", coding), coding, format).unwrap_err();
            assert!(
                matches!(error, BodyError::Empty),
                "{format:?} {coding:?} {error}"
            );
        }
    }
    for format in [Format::Json, Format::Ndjson] {
        let error = decode(b" \r\n \n", Coding::Identity, format).unwrap_err();
        assert!(matches!(error, BodyError::Empty), "{format:?} {error}");
    }
    let decoded = decode(b"[]", Coding::Identity, Format::Json).unwrap();
    assert_eq!(decoded.spool.rows(), 0);
    let decoded = decode(
        &encode(&[], Format::Arrow, false),
        Coding::Identity,
        Format::Arrow,
    );
    assert_eq!(decoded.unwrap().spool.rows(), 0);
}

#[test]
fn a_cut_or_broken_coding_is_named_as_such() {
    let body = encode(&vec![(1, Some("text".into())); 1000], Format::Ndjson, false);
    for coding in [Coding::Gzip, Coding::Zstd] {
        let sent = compress(&body, coding);
        let cut = decode(&sent[..sent.len() - 5], coding, Format::Ndjson).unwrap_err();
        assert!(
            matches!(cut, BodyError::Fault(Fault::Coding { .. })),
            "{coding:?} {cut}"
        );
        let plain = decode(&body, coding, Format::Ndjson).unwrap_err();
        assert!(
            matches!(plain, BodyError::Fault(Fault::Coding { .. })),
            "{coding:?} {plain}"
        );
    }
}

#[test]
fn a_body_that_ends_early_is_cut_short_not_malformed() {
    for format in [Format::Json, Format::Ndjson, Format::Arrow] {
        let body = encode(&vec![(1, None); 100], format, false);
        let half = Bytes::copy_from_slice(&body[..body.len() / 2]);
        let chunks = vec![Ok(half), Err(Fault::CutShort("reset".into()))];
        let error = decode_chunks(chunks, Coding::Identity, format, 1 << 30).unwrap_err();
        assert!(
            matches!(error, BodyError::Fault(Fault::CutShort(_))),
            "{format:?} {error}"
        );
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let bomb = compress(&vec![b' '; 64 << 20], Coding::Gzip);
    assert!(bomb.len() < 1 << 20);
    let chunks = vec![Ok(Bytes::from(bomb))];
    let error = decode_chunks(chunks, Coding::Gzip, Format::Ndjson, 1 << 20).unwrap_err();
    assert!(
        matches!(error, BodyError::Fault(Fault::TooLarge(_))),
        "{error}"
    );
}

#[test]
fn a_record_beyond_the_limit_is_refused_with_its_row() {
    let large = format!(r#"{{"n":1,"s":"{}"}}"#, "x".repeat(RECORD_BYTES_MAX));
    for (body, format) in [
        (format!("{{\"n\":1}}\n{large}\n"), Format::Ndjson),
        (format!("[{{\"n\":1}},{large}]"), Format::Json),
    ] {
        let error = decode(body.as_bytes(), Coding::Identity, format).unwrap_err();
        let BodyError::Rejected { row: 1, rejection } = error else {
            panic!("{error}")
        };
        assert_eq!(rejection.code(), "TOO_LARGE");
    }
}

#[test]
fn short_lines_of_a_wide_table_are_taken_in_portions() {
    assert_eq!(end_of_lines(b"{}\n{}\n{}\n{}\n", 2), 6);
    assert_eq!(end_of_lines(b"{}\n{}\n{}", 100), 8);
    assert_eq!(end_of_lines(b"{\"a\":1}\n{\"a\":1}", 1), 8);
    assert_eq!(end_of_lines(b"{\"a\":1111}", 1), 10);
}

#[test]
fn lines_are_halved_between_lines_down_to_one() {
    assert_eq!(middle_of_lines(b"aa\nbb\ncc\ndd\n"), Some(9));
    assert_eq!(middle_of_lines(b"aa\nbb"), Some(3));
    assert_eq!(middle_of_lines(b"a\nbbbbbbbbbb\n"), Some(2));
    assert_eq!(middle_of_lines(b"aaaaaaaaaa\nb"), Some(11));
    assert_eq!(middle_of_lines(b"aaaa\n"), None);
    assert_eq!(middle_of_lines(b"aaaa"), None);
}
