use std::borrow::Cow;

use arrow::array::AsArray;
use bytes::Bytes;
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::packed::{ENCODING, Wire};
use tidelake_core::Offset;
use tidelake_core::partition::bucket_of;
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;
use tidelake_schema::evolution::Columns;

use super::*;
use crate::misrouted::{republished, with_origin};
use crate::origin::Origin;
use crate::seen::{Outgoing, OwnedHeaders};

const TOPIC: TopicId = TopicId([7; 16]);

fn table(kind: TableKind) -> IntakeTable {
    let schema = TableSchema::from_iceberg_json(
        r#"{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[
            {"id":1,"name":"id","required":true,"type":"long"}]}"#,
    );
    IntakeTable {
        names: Arc::default(),
        kind,
        schema: schema.unwrap().into(),
        topic_id: TOPIC,
        buckets: 4,
        origin_key: OriginKey::new("a", TOPIC),
    }
}

fn intake(table: &IntakeTable, bucket: Bucket) -> BucketIntake {
    BucketIntake::with_origins(table, bucket, Origins::default()).unwrap()
}

/// A record as a producer wrote it to some bucket.
fn record(id: i64) -> Outgoing {
    Outgoing {
        bucket: Bucket(0),
        key: Some(Bytes::from(id.to_string())),
        value: Some(Bytes::from(format!("{{\"id\":{id}}}"))),
        headers: OwnedHeaders::default(),
        timestamp_ms: Some(7),
    }
}

fn seen(message: &Outgoing, offset: i64) -> Seen<'_> {
    Seen {
        offset: Offset(offset),
        timestamp_ms: 7,
        key: message.key.as_deref(),
        value: message.value.as_deref(),
        headers: &message.headers,
    }
}

/// An id whose bucket is not this one, and its bucket.
fn foreign(bucket: Bucket) -> (i64, Bucket) {
    let of = |id: i64| bucket_of(id.to_string().as_bytes(), 4);
    let id = (0..).find(|id| of(*id) != bucket).unwrap();
    (id, of(id))
}

#[test]
fn a_misrouted_record_is_taken_once_where_it_belongs() {
    let table = table(TableKind::Upsert);
    let source = Bucket(0);
    let (id, target) = foreign(source);
    let record = record(id);
    let taken = intake(&table, source).take(&seen(&record, 17));
    assert_eq!(taken, Taken::Misrouted(target));
    let origin = Origin {
        bucket: source,
        offset: Offset(17),
        floor: Offset(17),
    };
    let header = table.origin_key().header(origin, target);
    let sent = with_origin(republished(&seen(&record, 17), target), header);
    let mut receiver = intake(&table, target);
    assert_eq!(receiver.take(&seen(&sent, 5)), Taken::Rows(1));
    assert_eq!(receiver.take(&seen(&sent, 6)), Taken::Repeated);
    assert_eq!(receiver.drain().unwrap().chunks[0].rows(), 1);
    assert_eq!(receiver.seal_origins(1).len(), 2);
}

#[test]
fn the_key_of_a_misrouted_record_is_that_of_its_row() {
    let table = table(TableKind::Upsert);
    let (id, target) = foreign(Bucket(0));
    let mut intake = intake(&table, Bucket(0));
    let mut tombstone = record(id);
    tombstone.value = None;
    let mut keyless = record(id);
    keyless.key = None;
    let mut named = record(id);
    named.key = Some(Bytes::from_static(b"whatever"));
    for message in [tombstone, keyless, named] {
        let taken = intake.take(&seen(&message, 0));
        assert_eq!(taken, Taken::Misrouted(target));
        assert_eq!(intake.misrouted_key(), id.to_string().as_bytes());
    }
}

#[test]
fn an_origin_that_is_not_ours_takes_nothing_away_and_is_not_sent_on() {
    let table = table(TableKind::Upsert);
    let (id, target) = foreign(Bucket(0));
    let elsewhere = OriginKey::new("another table", TOPIC);
    let far = Origin {
        bucket: Bucket(0),
        offset: Offset(i64::MAX),
        floor: Offset(i64::MAX),
    };
    let forged = [
        elsewhere.header(far, target),
        Bytes::from_static(b"0/9223372036854775807"),
        Bytes::from_static(b"nonsense"),
    ];
    for header in forged {
        let message = with_origin(record(id), header);
        let mut receiver = intake(&table, target);
        assert_eq!(receiver.take(&seen(&message, 0)), Taken::Rows(1));
        assert_eq!(receiver.take(&seen(&message, 1)), Taken::Rows(1));
        let origin = Origin {
            bucket: Bucket(0),
            offset: Offset(3),
            floor: Offset(0),
        };
        let ours = table.origin_key().header(origin, target);
        let ours = with_origin(record(id), ours);
        assert_eq!(receiver.take(&seen(&ours, 2)), Taken::Rows(1));
        let mut source = intake(&table, Bucket(0));
        let taken = source.take(&seen(&message, 0));
        assert_eq!(taken, Taken::Misrouted(target));
        assert!(republished(&seen(&message, 0), target).headers.0.is_empty());
    }
}

#[test]
fn a_republication_that_was_on_its_way_when_the_topic_was_replaced_counts_for_nothing() {
    let table = table(TableKind::Upsert);
    let left = OriginKey::new("a", TopicId([6; 16]));
    let (id, target) = foreign(Bucket(0));
    let origin = Origin {
        bucket: Bucket(0),
        offset: Offset(17),
        floor: Offset(17),
    };
    let late = with_origin(record(id), left.header(origin, target));
    let mut receiver = intake(&table, target);
    let newer = receiver.take(&seen(&record(id), 0));
    assert_eq!(newer, Taken::Rows(1));
    assert_eq!(receiver.take(&seen(&late, 1)), Taken::Repeated);
    let ours = with_origin(record(id), table.origin_key().header(origin, target));
    let ours = receiver.take(&seen(&ours, 2));
    assert_eq!(ours, Taken::Rows(1), "each topic's offsets are its own");
}

#[test]
fn a_refused_republication_is_one_dead_letter_not_two() {
    let table = table(TableKind::Upsert);
    let origin = Origin {
        bucket: Bucket(0),
        offset: Offset(3),
        floor: Offset(3),
    };
    let target = Bucket(1);
    let mut bad = with_origin(record(1), table.origin_key().header(origin, target));
    bad.value = Some(Bytes::from_static(b"{}"));
    let mut receiver = intake(&table, target);
    assert!(matches!(receiver.take(&seen(&bad, 0)), Taken::Refused(_)));
    assert_eq!(receiver.take(&seen(&bad, 1)), Taken::Repeated);
}

#[test]
fn each_kind_of_table_counts_a_tombstone_in_its_own_way() {
    let id = (0..).find(|id: &i64| bucket_of(id.to_string().as_bytes(), 4) == Bucket(2));
    let mut tombstone = record(id.unwrap());
    tombstone.value = None;
    let taken = |kind| intake(&table(kind), Bucket(2)).take(&seen(&tombstone, 0));
    assert_eq!(taken(TableKind::Upsert), Taken::Rows(1));
    assert_eq!(taken(TableKind::DeadLetters), Taken::Rows(1));
    assert!(matches!(taken(TableKind::Append), Taken::Refused(_)));
}

#[test]
fn a_quiet_bucket_gives_its_room_back() {
    let table = table(TableKind::Append);
    let mut intake = intake(&table, Bucket(2));
    for offset in 0..10_000 {
        assert_eq!(intake.take(&seen(&record(offset), offset)), Taken::Rows(1));
    }
    intake.shrink();
    assert_eq!(intake.rows(), 10_000, "what waits is not touched");
    assert_eq!(intake.drain().unwrap().chunks[0].rows(), 10_000);
    intake.shrink();
    assert!(intake.bytes() < 4096, "{} bytes", intake.bytes());
    assert_eq!(intake.take(&seen(&record(1), 10_000)), Taken::Rows(1));
}

#[test]
fn headers_of_the_producer_travel_along() {
    let mut message = record(1);
    let own: (Cow<'static, str>, Bytes) = ("traceparent".into(), Bytes::from_static(b"x"));
    message.headers.0 = vec![own.clone()];
    assert_eq!(republished(&seen(&message, 0), Bucket(1)).headers.0, [own]);
}

/// A table of a key and two columns, which are called so.
fn of_columns(kind: TableKind, names: [&str; 3]) -> IntakeTable {
    let [k, a, b] = names;
    let key = if kind == TableKind::Upsert { "1" } else { "" };
    let schema = TableSchema::from_iceberg_json(&format!(
        r#"{{"identifier-field-ids":[{key}],"fields":[
            {{"id":1,"name":"{k}","required":true,"type":"long"}},
            {{"id":2,"name":"{a}","required":false,"type":"string"}},
            {{"id":3,"name":"{b}","required":false,"type":"string"}}]}}"#
    ));
    IntakeTable {
        schema: schema.unwrap().into(),
        buckets: 1,
        ..table(kind)
    }
}

/// A message as the gateway packed it while the columns were called `k`, `a` and `b`.
fn packed_before(kind: TableKind) -> Outgoing {
    let before = of_columns(kind, ["k", "a", "b"]);
    let mut rows = JsonDecoder::new(&before.schema, JsonLimits::default()).unwrap();
    rows.push_record(br#"{"k":1,"a":"of a","b":"of b"}"#)
        .unwrap();
    let wire = Wire::new(Columns {
        schema: &before.schema,
        names: &before.names,
    });
    let mut message = record(1);
    message.value = Some(wire.encode(&rows.finish().unwrap()).unwrap());
    let encoding = Bytes::from_static(ENCODING.as_bytes());
    message.headers.0.push((headers::ENCODING.into(), encoding));
    message
}

#[test]
fn rows_on_their_way_follow_their_columns() {
    let physical = |names: [&str; 3]| -> Arc<PhysicalNames> {
        Arc::new((1..).zip(names.map(str::to_owned)).collect())
    };
    for kind in [TableKind::Append, TableKind::Upsert] {
        let message = packed_before(kind);
        for (now, names, wanted) in [
            (["id", "a", "c"], ["k", "a", "b"], ["of a", "of b"]),
            (["k", "b", "a"], ["k", "a", "b"], ["of a", "of b"]),
            // Dropped, and made again.
            (["k", "a", "b"], ["k", "a", "col-9"], ["of a", ""]),
        ] {
            let table = IntakeTable {
                names: physical(names),
                ..of_columns(kind, now)
            };
            let mut intake = intake(&table, Bucket(0));
            let taken = intake.take(&seen(&message, 5));
            assert_eq!(taken, Taken::Rows(1), "{kind:?} {now:?}");
            // Room that was given back does not bring the old names back.
            let chunk = intake.drain().unwrap().chunks.remove(0);
            intake.shrink();
            assert_eq!(intake.take(&seen(&message, 6)), Taken::Rows(1));
            let text = |column: usize| {
                let column = chunk.batch.column(column).as_string::<i32>();
                column.iter().next().flatten().unwrap_or_default()
            };
            assert_eq!([text(1), text(2)], wanted, "{kind:?} {now:?}");
            assert_eq!(chunk.batch.schema(), to_arrow(&table.schema));
        }
    }
}
