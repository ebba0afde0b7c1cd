use arrow::array::{
    Array, ArrayRef, Int8Array, Int32Array, Int64Array, StringArray, UInt64Array, new_null_array,
};
use proptest::prelude::*;

use super::*;
use crate::json::{JsonDecoder, JsonLimits};

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"identifier-field-ids":[2],"fields":[
            {"id":1,"name":"n","required":true,"type":"int"},
            {"id":2,"name":"k","required":true,"type":"long"},
            {"id":3,"name":"pt","required":true,"type":{"type":"struct","fields":[
                {"id":4,"name":"x","required":true,"type":"string"}]}}]}"#,
    )
    .unwrap()
}

fn key() -> KeyText {
    KeyText::new(&schema()).unwrap().unwrap()
}

fn rows(keys: &[i64]) -> RecordBatch {
    let mut decoder = JsonDecoder::new(&schema(), JsonLimits::default()).unwrap();
    for key in keys {
        let json = format!(r#"{{"n":{},"k":{key},"pt":{{"x":"x{key}"}}}}"#, key % 100);
        decoder.push_record(json.as_bytes()).unwrap();
    }
    decoder.finish().unwrap()
}

fn keys_of(batch: &RecordBatch) -> Vec<i64> {
    let keys = batch.column_by_name("k").unwrap();
    keys.as_primitive::<arrow::datatypes::Int64Type>()
        .values()
        .to_vec()
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), batches[0].schema_ref()).unwrap();
    batches
        .iter()
        .for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

fn refused(columns: Vec<(&str, ArrayRef)>) -> Rejection {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    );
    decode_upserts(&stream(&[batch.unwrap()]), &schema(), &key()).unwrap_err()
}

fn structs(values: &[Option<&str>]) -> ArrayRef {
    let x: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
    let field = Field::new("x", DataType::Utf8, true);
    Arc::new(arrow::array::StructArray::from(vec![(Arc::new(field), x)]))
}

proptest! {
    #[test]
    fn rows_and_deletes_come_apart_with_their_numbers(
        operations in prop::collection::vec((any::<i64>(), any::<bool>()), 0..60),
        cuts in prop::collection::vec(0..60_usize, 0..3),
        way in 0..3,
    ) {
        let all: Vec<i64> = operations.iter().map(|(key, _)| *key).collect();
        let mask: BooleanBuffer = operations.iter().map(|(_, delete)| *delete).collect();
        let (schema, key) = (schema(), key());
        let whole = rows(&all);
        let message = match way {
            0 => encode_with(&whole, Some(&mask)).unwrap().to_vec(),
            // Several batches, operations of another integer type.
            1 => {
                let operations: UInt64Array = mask.iter().map(u64::from).collect::<Vec<_>>().into();
                let mut columns: Vec<(&str, ArrayRef)> = vec![("__op", Arc::new(operations))];
                for (field, column) in whole.schema_ref().fields().iter().zip(whole.columns()) {
                    columns.push((field.name(), Arc::clone(column)));
                }
                let batch = RecordBatch::try_from_iter(columns).unwrap();
                let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.min(&all.len())).collect();
                cuts.extend([0, all.len()]);
                cuts.sort_unstable();
                let pieces: Vec<_> = cuts.windows(2)
                    .map(|cut| batch.slice(cut[0], cut[1] - cut[0]))
                    .collect();
                stream(&pieces)
            }
            // As the gateway has it.
            _ => {
                let mut columns = whole.columns().to_vec();
                columns.push(Arc::new(Int8Array::from_iter_values(mask.iter().map(i8::from))));
                let target = crate::arrow_ipc::operations_schema(&schema, &key);
                let batch = RecordBatch::try_new(target, columns).unwrap();
                let batch = conform_operations(&batch, &schema, &key, 0, &mut Allowance::of_message()).unwrap();
                encode(&without_idle_columns(&batch, &schema, &key).unwrap()).unwrap().to_vec()
            }
        };
        let packed = decode_upserts(&message, &schema, &key).unwrap();
        let numbered = |delete: bool| {
            let rows = (0_u32..).zip(&operations).filter(move |(_, (_, d))| *d == delete);
            rows.map(|(row, (key, _))| (row, *key)).unzip::<u32, i64, Vec<_>, Vec<_>>()
        };
        let (row_numbers, written) = numbered(false);
        prop_assert_eq!(&packed.rows, &rows(&written));
        prop_assert_eq!(packed.row_numbers, row_numbers);
        let (row_numbers, deleted) = numbered(true);
        match packed.deletes {
            None => prop_assert!(deleted.is_empty()),
            Some((keys, numbers)) => {
                prop_assert_eq!(keys.schema_ref(), key.schema());
                prop_assert_eq!(keys_of(&keys), deleted);
                prop_assert_eq!(numbers, row_numbers);
            }
        }
    }
}

#[test]
fn only_the_key_of_a_delete_is_read() {
    let (schema, key) = (schema(), key());
    let batch = RecordBatch::try_from_iter_with_nullable([
        (
            "n",
            Arc::new(Int64Array::from(vec![Some(1), Some(1 << 40), Some(3)])) as ArrayRef,
            true,
        ),
        ("k", Arc::new(Int64Array::from(vec![1, 2, 3])), true),
        ("pt", structs(&[Some("a"), None, Some("b")]), true),
        ("__op", Arc::new(Int32Array::from(vec![0, 1, 1])), true),
    ])
    .unwrap();
    let packed = decode_upserts(&stream(std::slice::from_ref(&batch)), &schema, &key).unwrap();
    assert_eq!(keys_of(&packed.rows), [1]);
    assert_eq!(keys_of(&packed.deletes.unwrap().0), [2, 3]);
    let conformed =
        conform_operations(&batch, &schema, &key, 0, &mut Allowance::of_message()).unwrap();
    for column in ["n", "pt"] {
        let column = conformed.column_by_name(column).unwrap();
        let nulls: Vec<_> = (0..3).map(|row| column.is_null(row)).collect();
        assert_eq!(
            nulls,
            [false, true, true],
            "nothing else of a delete is kept"
        );
    }
    let keys_only = batch.slice(1, 2).project(&[1, 3]).unwrap();
    let packed = decode_upserts(&stream(&[keys_only]), &schema, &key).unwrap();
    assert_eq!(packed.rows.num_rows(), 0);
    assert_eq!(packed.deletes.unwrap().1, [0, 1]);
}

#[test]
fn messages_carry_no_more_than_their_operations_need() {
    let (schema, key) = (schema(), key());
    let columns = |operations: [i8; 2]| {
        let mut columns = rows(&[1, 2]).columns().to_vec();
        columns.push(Arc::new(Int8Array::from(operations.to_vec())));
        let target = crate::arrow_ipc::operations_schema(&schema, &key);
        let batch = RecordBatch::try_new(target, columns).unwrap();
        let message = encode(&without_idle_columns(&batch, &schema, &key).unwrap()).unwrap();
        let sent = read(
            &message,
            names::plain(&schema),
            &mut Allowance::of_message(),
        )
        .unwrap();
        let names = sent[0].schema_ref().fields().iter();
        names.map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    assert_eq!(columns([0, 0]), ["n", "k", "pt"]);
    assert_eq!(columns([0, 1]), ["n", "k", "pt", "__op"]);
    assert_eq!(columns([1, 1]), ["k", "__op"]);
    let none = BooleanBuffer::new_unset(2);
    let plain = encode(&rows(&[1, 2])).unwrap();
    assert_eq!(encode_with(&rows(&[1, 2]), Some(&none)).unwrap(), plain);
}

#[test]
fn bad_operations_and_keys_name_their_row_in_the_message() {
    let ks = || Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef;
    let op = |values: Vec<Option<i32>>| Arc::new(Int32Array::from(values)) as ArrayRef;
    let is = |rejection: &Rejection, row, field, code| {
        let found = (rejection.row, rejection.field.as_deref(), rejection.code());
        assert_eq!(found, (row, Some(field), code), "{rejection}");
    };
    for (value, shown) in [
        (Some(2), "2"),
        (Some(256), "256"),
        (Some(-1), "-1"),
        (None, "null"),
    ] {
        let rejection = refused(vec![
            ("k", ks()),
            ("__op", op(vec![Some(1), Some(1), value])),
        ]);
        is(&rejection, 2, "__op", "UNKNOWN_OPERATION");
        assert!(
            rejection.to_string().ends_with(&format!("found {shown}")),
            "{rejection}"
        );
    }
    let text = Arc::new(StringArray::from(vec!["1", "1", "1"]));
    is(
        &refused(vec![("k", ks()), ("__op", text)]),
        0,
        "__op",
        "WRONG_TYPE",
    );
    let deletes = || op(vec![Some(1); 3]);
    let nulls = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    is(
        &refused(vec![("k", nulls), ("__op", deletes())]),
        1,
        "k",
        "NULL_IN_REQUIRED",
    );
    let all_null = new_null_array(&DataType::Null, 3);
    is(
        &refused(vec![("k", all_null), ("__op", deletes())]),
        0,
        "k",
        "NULL_IN_REQUIRED",
    );
    is(
        &refused(vec![("n", ks()), ("__op", deletes())]),
        0,
        "k",
        "MISSING_FIELD",
    );
    let mixed = op(vec![Some(1), Some(0), Some(1)]);
    is(
        &refused(vec![("k", ks()), ("__op", mixed.clone())]),
        1,
        "n",
        "MISSING_FIELD",
    );
    let n = Arc::new(Int64Array::from(vec![None, None, Some(1)]));
    let pt = || structs(&[Some("a"); 3]);
    let columns = vec![
        ("k", ks()),
        ("n", n as ArrayRef),
        ("pt", pt()),
        ("__op", mixed.clone()),
    ];
    is(&refused(columns), 1, "n", "NULL_IN_REQUIRED");
    let columns = vec![("k", ks()), ("nope", ks()), ("__op", mixed.clone())];
    is(&refused(columns), 0, "nope", "UNKNOWN_FIELD");
    let columns = vec![("k", ks()), ("__op", mixed.clone()), ("__op", mixed)];
    is(&refused(columns), 0, "__op", "DUPLICATE_FIELD");
}
