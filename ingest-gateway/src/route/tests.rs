use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::{arrow_ipc, packed};
use tidelake_core::partition::bucket_of;
use tidelake_core::{TableId, TableName, TenantId, TopicId};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;
use tidelake_schema::evolution::Columns;

use super::*;
use crate::packer::MESSAGE_VALUE_BYTES_MAX;
use crate::spool::{Spool, SpoolBudget};

fn table(buckets: u32) -> Arc<TableEntry> {
    let schema = TableSchema::from_iceberg_json(
        r#"{"identifier-field-ids":[2],"fields":[
            {"id":1,"name":"v","required":true,"type":"long"},
            {"id":2,"name":"k","required":true,"type":"string"}]}"#,
    );
    Arc::new(TableEntry {
        id: TableId::new(TenantId::default(), TableName::new("t").unwrap()),
        mode: TableMode::Upsert,
        schema: schema.unwrap(),
        buckets,
        topic: "tidelake.default.t".into(),
        topic_id: TopicId([1; 16]),
        properties: BTreeMap::new(),
        created_ms: 0,
        dead_letters_topic_id: None,
        restores: 0,
    })
}

/// A row: its key, and whether it deletes. Its value is its place in the body.
type Row = (String, bool);

fn key_of(table: &TableEntry) -> KeyText {
    KeyText::new(&table.schema).unwrap().unwrap()
}

fn wire(table: &TableEntry) -> Arc<Wire> {
    Arc::new(Wire::new(Columns {
        schema: &table.schema,
        names: &PhysicalNames::new(),
    }))
}

fn encoder(table: &Arc<TableEntry>, way: usize) -> Encoder {
    match way {
        0 => Encoder::Rows,
        1 => Encoder::Deletes,
        _ => Encoder::Operations {
            table: Arc::clone(table),
            key: key_of(table),
        },
    }
}

/// Rows as the decoder hands them on.
fn batch(table: &TableEntry, encoder: &Encoder, first: usize, rows: &[Row]) -> RecordBatch {
    let key = key_of(table);
    let ks = StringArray::from_iter_values(rows.iter().map(|(key, _)| key));
    let ks: ArrayRef = Arc::new(ks);
    let vs = (first..).zip(rows);
    match encoder {
        Encoder::Deletes => RecordBatch::try_new(Arc::clone(key.schema()), vec![ks]),
        Encoder::Rows => {
            let vs = Int64Array::from_iter_values(vs.map(|(v, _)| v as i64));
            let schema = tidelake_schema::arrow::to_arrow(&table.schema);
            RecordBatch::try_new(schema, vec![Arc::new(vs), ks])
        }
        Encoder::Operations { .. } => {
            let vs: Int64Array = vs
                .map(|(v, (_, delete))| (!delete).then_some(v as i64))
                .collect();
            let ops = Int8Array::from_iter_values(rows.iter().map(|(_, delete)| i8::from(*delete)));
            let schema = arrow_ipc::operations_schema(&table.schema, &key);
            RecordBatch::try_new(schema, vec![Arc::new(vs), ks, Arc::new(ops)])
        }
    }
    .unwrap()
}

/// Key and value of each row of a message, in order; no value where it deletes.
fn unpack(table: &TableEntry, message: &Packed) -> Vec<(String, Option<i64>)> {
    let packed = packed::decode_upserts(&message.value, &table.schema, &key_of(table)).unwrap();
    let texts = |batch: &RecordBatch| -> Vec<String> {
        let keys = batch.column_by_name("k").unwrap().as_string::<i32>().iter();
        keys.map(|key| key.unwrap().to_owned()).collect()
    };
    let values = packed.rows.column(0).as_primitive::<Int64Type>().values();
    let written = texts(&packed.rows)
        .into_iter()
        .zip(values.iter().map(|v| Some(*v)));
    let mut rows: BTreeMap<u32, _> = packed.row_numbers.into_iter().zip(written).collect();
    if let Some((keys, numbers)) = packed.deletes {
        rows.extend(
            numbers
                .into_iter()
                .zip(texts(&keys).into_iter().map(|key| (key, None))),
        );
    }
    assert!(rows.keys().copied().eq(0..message.rows));
    rows.into_values().collect()
}

fn routed(
    router: Router,
    encoder: Encoder,
    batches: Vec<RecordBatch>,
) -> Result<Vec<Packed>, BodyError> {
    let mut router = router;
    let mut spool = Spool::new(SpoolBudget::new(1 << 16, 1 << 30, 1 << 30, None));
    let mut sink = |message| Ok(spool.push(message)?);
    for batch in batches {
        router.push(batch, &mut sink)?;
    }
    router.finish(&mut sink)?;
    spool.rewind(encoder);
    Ok(std::iter::from_fn(|| spool.pop().unwrap()).collect())
}

/// Bodies of few keys, so that they repeat, with texts that are short or long.
fn bodies() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let key = prop_oneof![
        8 => "[a-e]{0,2}",
        1 => "[a-z]{2000,9000}",
    ];
    prop::collection::vec(prop::collection::vec((key, any::<bool>()), 0..300), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_row_lands_in_the_bucket_of_its_key_once_and_in_order(
        body in bodies(), buckets in 1..12_u32, way in 0..3_usize,
        gathered in prop::sample::select(vec![1, 100, 1 << 20]),
        held in prop::sample::select(vec![0, 1 << 16, 1 << 30]),
    ) {
        let table = table(buckets);
        let encoder = encoder(&table, way);
        let mut expected = BTreeMap::<u32, Vec<(String, Option<i64>)>>::new();
        let mut batches = Vec::new();
        let mut first = 0;
        for rows in &body {
            batches.push(batch(&table, &encoder, first, rows));
            for (at, (key, delete)) in (first..).zip(rows) {
                let value = match way {
                    0 => Some(at as i64),
                    1 => None,
                    _ => (!delete).then_some(at as i64),
                };
                let owner = bucket_of(key.as_bytes(), buckets).0;
                expected.entry(owner).or_default().push((key.clone(), value));
            }
            first += rows.len();
        }
        let router = Router::new(key_of(&table), buckets, encoder.clone(), &wire(&table)).holding(gathered, held);
        let messages = routed(router, encoder, batches).unwrap();
        let owners: BTreeSet<_> = messages.iter().map(|message| message.bucket).collect();
        let mut found = BTreeMap::<u32, Vec<_>>::new();
        for message in &messages {
            prop_assert!(message.value.len() <= MESSAGE_VALUE_BYTES_MAX);
            let rows = unpack(&table, message);
            found.entry(message.bucket.unwrap().0).or_default().extend(rows);
        }
        prop_assert!(found == expected);
        // All of it would fit one message, so each bucket's does, however often it was cut.
        prop_assert_eq!(messages.len(), owners.len());
    }
}

#[test]
fn a_bucket_of_more_than_a_message_has_full_messages_even_where_memory_is_short() {
    let buckets = 64;
    let table = table(buckets);
    let rows: Vec<Row> = (0..40_000)
        .map(|n| (format!("{n:0>1000}"), false))
        .collect();
    for held in [1 << 20, HELD_BYTES_MAX] {
        let batches = rows.chunks(10_000).enumerate();
        let batches = batches.map(|(at, rows)| batch(&table, &Encoder::Rows, at * 10_000, rows));
        let router = Router::new(key_of(&table), buckets, Encoder::Rows, &wire(&table))
            .holding(GATHERED_ROWS, held);
        let messages = routed(router, Encoder::Rows, batches.collect()).unwrap();
        assert_eq!(messages.len(), buckets as usize, "some 620 KB each");
        let mut values: Vec<_> = messages.iter().flat_map(|m| unpack(&table, m)).collect();
        values.sort_unstable_by_key(|(_, value)| *value);
        assert!(
            values
                .iter()
                .map(|(key, _)| key)
                .eq(rows.iter().map(|(key, _)| key))
        );
    }
}

#[test]
fn rows_that_are_refused_are_named_by_their_place_in_the_body() {
    let table = table(4);
    let small = |n: usize| (format!("k{n}"), false);
    let mut rows: Vec<Row> = (0..GATHERED_ROWS + 7).map(small).collect();
    rows.push(("x".repeat(17 << 10), false));
    let batches = rows.chunks(5_000).enumerate();
    let batches: Vec<_> = batches
        .map(|(at, rows)| batch(&table, &Encoder::Rows, at * 5_000, rows))
        .collect();
    let router = Router::new(key_of(&table), 4, Encoder::Rows, &wire(&table));
    match routed(router, Encoder::Rows, batches) {
        Err(BodyError::Rejected { row, rejection }) => {
            assert_eq!(row, GATHERED_ROWS as u64 + 7);
            assert_eq!(rejection.code(), "TOO_LARGE");
        }
        other => panic!("{other:?}"),
    }
}
