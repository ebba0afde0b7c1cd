use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use tidelake_core::limits::KEY_TEXT_BYTES_MAX;
use tidelake_core::partition::bucket_of;

use super::*;

mod dead_letters;

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","schema-id":0,"fields":[
            {"id":1,"name":"id","required":true,"type":"long"}]}"#,
    )
    .unwrap()
}

fn message(offset: i64, value: &[u8]) -> WireMessage<'_> {
    WireMessage {
        offset,
        timestamp_ms: 7,
        key: None,
        value: Some(value),
        encoding: None,
        op: None,
        dead_letter: None,
    }
}

fn packed_rows(ids: std::ops::Range<i64>) -> bytes::Bytes {
    let mut decoder = JsonDecoder::new(&schema(), JsonLimits::default()).unwrap();
    for id in ids {
        decoder
            .push_record(format!("{{\"id\":{id}}}").as_bytes())
            .unwrap();
    }
    packed::encode(&decoder.finish().unwrap()).unwrap()
}

#[test]
fn rows_keep_the_order_of_their_messages_and_bad_ones_leave_nothing() {
    let mut decoder = MessageDecoder::append(&schema()).unwrap();
    let packed = packed_rows(10..13);
    assert_eq!(
        decoder.push(&message(0, b"{\"id\":1}")).unwrap(),
        Pushed::Rows(1)
    );
    assert!(decoder.push(&message(1, b"{\"id\":\"x\"}")).is_err());
    let batch = WireMessage {
        encoding: Some(b"arrow"),
        ..message(2, &packed)
    };
    assert_eq!(decoder.push(&batch).unwrap(), Pushed::Rows(3));
    let cut = WireMessage {
        encoding: Some(b"arrow"),
        ..message(3, &packed[..packed.len() / 2])
    };
    assert!(decoder.push(&cut).is_err());
    let marker = WireMessage {
        op: Some(b"flush"),
        value: None,
        ..message(4, b"")
    };
    assert_eq!(decoder.push(&marker).unwrap(), Pushed::Marker);
    assert!(
        decoder
            .push(&WireMessage {
                value: None,
                ..message(5, b"")
            })
            .is_err()
    );
    assert!(decoder.push(&message(6, &[0, 0, 0, 0, 1, 2])).is_err());
    assert_eq!(
        decoder.push(&message(7, b"{\"id\":2}")).unwrap(),
        Pushed::Rows(1)
    );
    assert_eq!(decoder.rows(), 5);
    let mut found = Vec::new();
    for rows in decoder.finish().unwrap().rows {
        let ids = rows.batch.column(0).as_primitive::<Int64Type>();
        for row in 0..rows.batch.num_rows() {
            found.push((ids.value(row), rows.offsets[row], rows.rows[row]));
        }
    }
    assert_eq!(
        found,
        vec![(1, 0, 0), (10, 2, 0), (11, 2, 1), (12, 2, 2), (2, 7, 0)]
    );
    assert_eq!(decoder.rows(), 0);
    assert!(decoder.finish().unwrap().rows.is_empty());
}

const BUCKETS: u32 = 3;

/// A key of region and id, in this order, which is not that of the columns.
fn upsert_schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","identifier-field-ids":[3,1],"fields":[
            {"id":1,"name":"id","required":true,"type":"long"},
            {"id":2,"name":"n","required":true,"type":"int"},
            {"id":3,"name":"region","required":true,"type":"string"},
            {"id":4,"name":"tags","required":true,"type":{
                "type":"list","element-id":5,"element-required":false,"element":"string"}}]}"#,
    )
    .unwrap()
}

fn text(id: i64) -> String {
    format!("[\"r{}\",{id}]", id % 3)
}

fn row(id: i64) -> String {
    format!(
        "{{\"id\":{id},\"n\":{id},\"region\":\"r{}\",\"tags\":[\"t\"]}}",
        id % 3
    )
}

fn bucket(id: i64) -> Bucket {
    bucket_of(text(id).as_bytes(), BUCKETS)
}

fn in_bucket(bucket: u32) -> MessageDecoder {
    let placement = Placement {
        bucket: Bucket(bucket),
        buckets: BUCKETS,
    };
    MessageDecoder::upsert(&upsert_schema(), Some(placement)).unwrap()
}

/// Rows as (id, delete) of one message.
fn packed_operations(rows: &[(i64, bool)]) -> bytes::Bytes {
    let schema = upsert_schema();
    let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
    for (id, _) in rows {
        decoder.push_record(row(*id).as_bytes()).unwrap();
    }
    let deletes = rows.iter().map(|(_, delete)| *delete).collect();
    packed::encode_with(&decoder.finish().unwrap(), Some(&deletes)).unwrap()
}

fn arrow(offset: i64, value: &[u8]) -> WireMessage<'_> {
    WireMessage {
        encoding: Some(b"arrow"),
        ..message(offset, value)
    }
}

fn tombstone(offset: i64, key: Option<&[u8]>) -> WireMessage<'_> {
    WireMessage {
        key,
        value: None,
        ..message(offset, b"")
    }
}

/// (offset, row, id) of what is written, and of what is deleted.
type Positions = Vec<(i64, u32, i64)>;

fn positions(decoded: &Decoded) -> (Positions, Positions) {
    let ids = |batch: &RecordBatch, offsets: &[i64], rows: &[u32], column: &str| {
        let ids = batch.column_by_name(column).unwrap();
        let ids = ids.as_primitive::<Int64Type>().values().to_vec();
        assert_eq!((ids.len(), ids.len()), (offsets.len(), rows.len()));
        let at = offsets.iter().zip(rows).zip(ids);
        at.map(|((offset, row), id)| (*offset, *row, id))
            .collect::<Positions>()
    };
    let rows = decoded.rows.iter();
    let rows = rows.flat_map(|part| ids(&part.batch, &part.offsets, &part.rows, "id"));
    let deletes = decoded.deletes.iter();
    let deletes = deletes.flat_map(|part| {
        assert_eq!(part.timestamps_ms, vec![7; part.rows.len()]);
        ids(&part.keys, &part.offsets, &part.rows, "id")
    });
    (rows.collect(), deletes.collect())
}

#[test]
fn rows_and_deletes_come_in_the_order_of_their_positions() {
    let mut decoder = MessageDecoder::upsert(&upsert_schema(), None).unwrap();
    let mixed = packed_operations(&[(1, false), (2, true), (3, true), (2, false)]);
    let deletes = packed_operations(&[(8, true), (9, true)]);
    assert_eq!(
        decoder.push(&message(0, row(5).as_bytes())),
        Ok(Pushed::Rows(1))
    );
    assert_eq!(
        decoder.push(&tombstone(1, Some(text(4).as_bytes()))),
        Ok(Pushed::Rows(1))
    );
    assert_eq!(decoder.push(&arrow(2, &mixed)), Ok(Pushed::Rows(4)));
    assert_eq!(
        decoder.push(&message(3, row(6).as_bytes())),
        Ok(Pushed::Rows(1))
    );
    assert_eq!(
        decoder.push(&tombstone(4, Some(b" [ \"r1\", 7 ]"))),
        Ok(Pushed::Rows(1)),
        "what is no canonical text is taken"
    );
    assert_eq!(decoder.push(&arrow(5, &deletes)), Ok(Pushed::Rows(2)));
    assert_eq!(decoder.rows(), 10);
    assert!(decoder.bytes() > 10 * POSITION_BYTES);
    let decoded = decoder.finish().unwrap();
    let (rows, deletes) = positions(&decoded);
    assert_eq!(rows, [(0, 0, 5), (2, 0, 1), (2, 3, 2), (3, 0, 6)]);
    assert_eq!(
        deletes,
        [
            (1, 0, 4),
            (2, 1, 2),
            (2, 2, 3),
            (4, 0, 7),
            (5, 0, 8),
            (5, 1, 9)
        ]
    );
    let keys = tidelake_codec::key::key_schema(&upsert_schema());
    assert!(
        decoded
            .deletes
            .iter()
            .all(|part| part.keys.schema_ref() == &keys)
    );
    assert_eq!(decoder.rows(), 0);
    assert!(decoder.finish().unwrap().deletes.is_empty());
}

#[test]
fn a_single_record_of_another_bucket_is_told_and_left_out() {
    let mut decoder = in_bucket(1);
    let mut kept = Vec::new();
    for id in 0..60 {
        let pushed = if id % 2 == 0 {
            decoder.push(&message(id, row(id).as_bytes()))
        } else {
            decoder.push(&tombstone(id, Some(text(id).as_bytes())))
        };
        if bucket(id) == Bucket(1) {
            assert_eq!(pushed, Ok(Pushed::Rows(1)));
            kept.push(id);
        } else {
            assert_eq!(pushed, Ok(Pushed::Elsewhere(bucket(id))));
        }
        assert_eq!(decoder.rows(), kept.len());
    }
    let (rows, deletes) = positions(&decoder.finish().unwrap());
    let mut found: Vec<_> = rows
        .into_iter()
        .chain(deletes)
        .map(|(_, _, id)| id)
        .collect();
    found.sort_unstable();
    assert!(found.len() > 5 && found == kept, "{found:?}");
}

#[test]
fn the_bucket_of_a_tombstone_is_that_of_its_canonical_text() {
    for id in 0..20 {
        let spaced = format!(" [ \"\\u0072{}\", {id} ]", id % 3);
        let mut decoder = in_bucket(bucket(id).0);
        let pushed = decoder.push(&tombstone(0, Some(spaced.as_bytes())));
        assert_eq!(pushed, Ok(Pushed::Rows(1)), "{spaced}");
    }
}

#[test]
fn a_batch_with_a_row_of_another_bucket_is_refused_whole_at_that_row() {
    let of = |wanted: u32| (0..).filter(move |id| bucket(*id) == Bucket(wanted));
    let own: Vec<i64> = of(2).take(4).collect();
    let misrouted = of(0).next().unwrap();
    let mut decoder = in_bucket(2);
    let all = [
        (own[0], false),
        (own[1], true),
        (own[2], false),
        (own[3], true),
    ];
    assert_eq!(
        decoder.push(&arrow(0, &packed_operations(&all))),
        Ok(Pushed::Rows(4))
    );
    for at in 0..4 {
        let mut rows = all;
        rows[at].0 = misrouted;
        // A later misrouted row, of the other kind, must not be the one that is named.
        rows[3].0 = misrouted;
        let refused = decoder
            .push(&arrow(1, &packed_operations(&rows)))
            .unwrap_err();
        assert_eq!(refused.row, at);
        let reason = Reason::WrongBucket {
            owner: 0,
            bucket: 2,
        };
        assert_eq!(refused.reason, reason);
    }
    assert_eq!(decoder.rows(), 4);
    let plain = MessageDecoder::upsert(&upsert_schema(), None);
    let mut plain = plain.unwrap();
    let anywhere = packed_operations(&[(own[0], false), (misrouted, true)]);
    assert_eq!(plain.push(&arrow(0, &anywhere)), Ok(Pushed::Rows(2)));
}

#[test]
fn bad_keys_and_operations_are_refused_with_their_reason() {
    let mut decoder = in_bucket(0);
    let mut code = |message: &WireMessage<'_>| decoder.push(message).unwrap_err().code();
    assert_eq!(code(&tombstone(0, None)), "MISSING_KEY");
    assert_eq!(code(&tombstone(0, Some(b""))), "INVALID_KEY");
    assert_eq!(code(&tombstone(0, Some(b"garbage"))), "INVALID_KEY");
    assert_eq!(code(&tombstone(0, Some(b"[\"r0\",null]"))), "INVALID_KEY");
    assert_eq!(code(&tombstone(0, Some(&[0xff; 9]))), "INVALID_KEY");
    let large = format!("[\"{}\",1]", "x".repeat(KEY_TEXT_BYTES_MAX));
    assert_eq!(code(&tombstone(0, Some(large.as_bytes()))), "TOO_LARGE");
    let wide = format!(
        r#"{{"id":1,"n":1,"region":"{}","tags":[]}}"#,
        "\\u0001".repeat(KEY_TEXT_BYTES_MAX / 4)
    );
    assert_eq!(code(&message(0, wide.as_bytes())), "TOO_LARGE");
    let no_key = br#"{"id":1,"n":1,"region":null,"tags":[]}"#;
    assert_eq!(code(&message(0, no_key)), "NULL_IN_REQUIRED");
    assert_eq!(decoder.rows(), 0);
    let decoded = decoder.finish().unwrap();
    assert!(decoded.rows.is_empty() && decoded.deletes.is_empty());

    let mut append = MessageDecoder::append(&upsert_schema()).unwrap();
    let operations = packed_operations(&[(1, true)]);
    let refused = append.push(&arrow(0, &operations)).unwrap_err();
    assert_eq!(
        (refused.code(), refused.field.as_deref()),
        ("NO_PRIMARY_KEY", Some("__op"))
    );
    let refused = append.push(&tombstone(0, Some(b"[\"r1\",1]"))).unwrap_err();
    assert_eq!(refused.code(), "TOMBSTONE");
}
