use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListBuilder, StringArray, StringBuilder};
use proptest::prelude::*;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;
use tidelake_schema::evolution::Columns;

use super::bytes::array_bytes;
use super::*;

fn wire(schema: &TableSchema) -> Arc<Wire> {
    Arc::new(Wire::new(Columns {
        schema,
        names: &PhysicalNames::new(),
    }))
}

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","fields":[
            {"id":1,"name":"n","required":true,"type":"long"},
            {"id":2,"name":"s","required":false,"type":"string"}]}"#,
    )
    .unwrap()
}

/// Text that LZ4 can't shorten.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + ((state >> 33) % 90) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

fn batch(first: i64, texts: &[String]) -> RecordBatch {
    let schema = tidelake_schema::arrow::to_arrow(&schema());
    let n = Int64Array::from_iter_values(first..first + texts.len() as i64);
    let s = StringArray::from_iter_values(texts);
    RecordBatch::try_new(schema, vec![Arc::new(n) as ArrayRef, Arc::new(s)]).unwrap()
}

fn pack(batches: Vec<RecordBatch>) -> Result<Vec<Packed>, PackError> {
    let mut packer = Packer::new(Encoder::Rows, wire(&schema()));
    let mut out = Vec::new();
    let mut sink = |packed| -> Result<(), PackError> {
        out.push(packed);
        Ok(())
    };
    for batch in batches {
        packer.push(batch, &mut sink)?;
    }
    packer.finish(&mut sink)?;
    Ok(out)
}

fn unpack(messages: &[Packed]) -> Vec<(i64, String)> {
    let schema = schema();
    let mut rows = Vec::new();
    for message in messages {
        let batch = packed::decode(&message.value, &schema).unwrap();
        assert_eq!(batch.num_rows(), message.rows as usize);
        let n = batch
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>();
        let s = batch.column(1).as_string::<i32>();
        rows.extend((0..batch.num_rows()).map(|row| (n.value(row), s.value(row).to_owned())));
    }
    rows
}

/// Bytes of a text: mostly small, sometimes near a message's limit.
fn sizes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let size = prop_oneof![
        200 => 0..40usize,
        20 => 1000..20_000usize,
        1 => 500_000..MESSAGE_VALUE_BYTES_MAX - 4096,
    ];
    prop::collection::vec(prop::collection::vec(size, 0..200), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_row_comes_out_once_in_order_and_no_message_is_too_large(sizes in sizes()) {
        let mut first = 0;
        let mut expected = Vec::new();
        let mut batches = Vec::new();
        for sizes in sizes {
            let texts: Vec<_> = sizes.iter().map(|bytes| noise(*bytes as u64, *bytes)).collect();
            batches.push(batch(first, &texts));
            expected.extend((first..).zip(texts));
            first = expected.len() as i64;
        }
        let fits = expected.len() <= ROWS_MAX
            && batches.iter().map(column_bytes).sum::<usize>() <= COLUMN_BYTES_MAX;
        let messages = pack(batches).unwrap();
        prop_assert!(messages.iter().all(|m| m.value.len() <= MESSAGE_VALUE_BYTES_MAX));
        prop_assert!(messages.iter().all(|m| m.rows as usize <= ROWS_MAX && m.rows > 0));
        if fits {
            prop_assert!(messages.len() <= 1, "a body that fits one message is one");
        }
        prop_assert!(unpack(&messages) == expected);
    }
}

#[test]
fn many_small_rows_are_cut_at_the_row_limit() {
    let rows = 2 * ROWS_MAX + 5;
    let texts = vec![String::new(); rows];
    let messages = pack(vec![batch(0, &texts)]).unwrap();
    let counts: Vec<_> = messages
        .iter()
        .map(|message| message.rows as usize)
        .collect();
    assert_eq!(counts, [ROWS_MAX, ROWS_MAX, 5]);
}

#[test]
fn a_row_that_no_message_can_hold_is_named() {
    let texts = [
        noise(1, 10),
        noise(2, 10),
        noise(3, MESSAGE_BYTES_MAX),
        noise(4, 10),
    ];
    let error = pack(vec![batch(0, &texts[..1]), batch(1, &texts[1..])]).unwrap_err();
    assert!(
        matches!(error, PackError::RowTooLarge { row: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_large_row_that_shrinks_enough_is_taken() {
    let texts = [
        "a".to_owned(),
        "x".repeat(2 * MESSAGE_BYTES_MAX),
        "b".to_owned(),
    ];
    let messages = pack(vec![batch(0, &texts)]).unwrap();
    assert_eq!(unpack(&messages).len(), 3);
}

#[test]
fn a_slice_counts_for_what_it_shows() {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..1000 {
        lists.values().append_value("x".repeat(100));
        lists.append(row % 10 != 0);
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    let one = array_bytes(lists.slice(500, 1).as_ref());
    assert!((100..200).contains(&one), "{one}");
    let all = array_bytes(lists.as_ref());
    assert!((100_000..120_000).contains(&all), "{all}");
}
