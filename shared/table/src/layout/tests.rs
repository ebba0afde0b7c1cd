use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, StructArray};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidelake_core::{Bucket, ErrorKind, Watermark};
use tidelake_manifest::action::Format;

use super::*;
use crate::{EncodedFile, FileSettings, Memtable, Positions, encode};

fn schema(fields: &str) -> TableSchema {
    let text = format!(r#"{{"type":"struct","schema-id":0,"fields":[{fields}]}}"#);
    TableSchema::from_iceberg_json(&text).unwrap()
}

const ID: &str = r#"{"id":1,"name":"id","required":true,"type":"long"}"#;
const A: &str = r#"{"id":2,"name":"a","required":false,"type":"long"}"#;
const B: &str = r#"{"id":3,"name":"b","required":false,"type":"long"}"#;

fn before() -> TableSchema {
    schema(&[ID, A, B].join(","))
}

fn sealed(schema: &TableSchema, columns: Vec<ArrayRef>) -> Sealed {
    let batch = RecordBatch::try_new(to_arrow(schema), columns).unwrap();
    let rows = batch.num_rows();
    let positions = Positions {
        offsets: (0..rows as i64).collect(),
        rows: vec![0; rows],
        timestamps_ms: vec![0; rows],
    };
    let mut memtable = Memtable::new(Bucket(0), Watermark(0));
    memtable.push(Chunk::new(batch, positions));
    memtable.seal()
}

fn longs(values: [i64; 2]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn read(file: &EncodedFile) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).unwrap();
    let mut batches = reader.build().unwrap();
    batches.next().unwrap().unwrap()
}

fn column(batch: &RecordBatch, name: &str) -> Vec<i64> {
    let column = batch.column_by_name(name).unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

/// Rows decoded by [`before`], written by another version of the schema.
fn written(now: &TableSchema) -> Result<EncodedFile, TableError> {
    let rows = sealed(
        &before(),
        vec![longs([1, 2]), longs([10, 20]), longs([100, 200])],
    );
    let file = encode(&FileLayout::plain(now), &[rows], FileSettings::default());
    file.map(Option::unwrap)
}

#[test]
fn columns_that_changed_places_keep_their_values() {
    let file = written(&schema(&[B, ID, A].join(","))).unwrap();
    let rows = read(&file);
    assert_eq!(column(&rows, "id"), [1, 2]);
    assert_eq!(column(&rows, "a"), [10, 20]);
    assert_eq!(column(&rows, "b"), [100, 200]);
    assert_eq!(file.stats.max_values["b"], 200);
}

#[test]
fn a_renamed_column_is_the_same_column() {
    // And its old name may be another's now.
    let renamed = [A.replace("\"a\"", "\"b\""), B.replace("\"b\"", "\"a\"")];
    let rows = read(&written(&schema(&format!("{ID},{}", renamed.join(",")))).unwrap());
    assert_eq!(column(&rows, "b"), [10, 20]);
    assert_eq!(column(&rows, "a"), [100, 200]);
}

#[test]
fn rows_that_another_schema_decoded_are_refused() {
    let typed = A.replace("long", "string");
    let new = r#"{"id":4,"name":"c","required":false,"type":"long"}"#;
    let gone = [ID, A].join(",");
    let added = [ID, A, B, new].join(",");
    let retyped = [ID, &typed, B].join(",");
    // Dropped and added again: another column of the same name.
    let again = [ID, A, &B.replace("\"id\":3", "\"id\":5")].join(",");
    for fields in [gone, added, retyped, again] {
        let error = written(&schema(&fields)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().ends_with("decode them again"), "{error}");
    }
}

#[test]
fn tables_without_column_mapping_go_by_names() {
    // Such a schema counts its ids anew in the order of the columns.
    let now = schema(
        &[
            ID,
            &B.replace("\"id\":3", "\"id\":2"),
            &A.replace("\"id\":2", "\"id\":3"),
        ]
        .join(","),
    );
    let layout = FileLayout::new(&now, &metadata(&now, None)).unwrap();
    let rows = sealed(
        &before(),
        vec![longs([1, 2]), longs([10, 20]), longs([100, 200])],
    );
    let file = encode(&layout, &[rows], FileSettings::default())
        .unwrap()
        .unwrap();
    assert_eq!(column(&read(&file), "a"), [10, 20]);
    assert_eq!(column(&read(&file), "b"), [100, 200]);
}

fn metadata(schema: &TableSchema, physical: Option<&[(i32, &str)]>) -> Metadata {
    let names = physical.unwrap_or_default().iter();
    let names = names.map(|(id, name)| (*id, (*name).to_owned())).collect();
    let mode = physical.map(|_| (MAPPING_MODE.to_owned(), "name".to_owned()));
    Metadata {
        id: "t".into(),
        name: None,
        description: None,
        format: Format::default(),
        schema_string: tidelake_schema::delta::schema_string_with(schema, &names),
        partition_columns: Vec::new(),
        configuration: mode.into_iter().collect::<BTreeMap<_, _>>(),
        created_time: None,
    }
}

#[test]
fn files_and_statistics_have_physical_names() {
    let inner = r#"{"id":4,"name":"city","required":false,"type":"string"}"#;
    let place = format!(
        r#"{{"id":3,"name":"place","required":false,"type":{{"type":"struct","fields":[{inner}]}}}}"#
    );
    let schema = schema(&[ID, A, &place].join(","));
    let names = [(2, "col-a"), (3, "col-place"), (4, "col-city")];
    let layout = FileLayout::new(&schema, &metadata(&schema, Some(&names))).unwrap();
    let DataType::Struct(fields) = to_arrow(&schema).field(2).data_type().clone() else {
        panic!("a struct")
    };
    let cities: ArrayRef = Arc::new(StringArray::from(vec!["Oslo", "Rome"]));
    let places: ArrayRef = Arc::new(StructArray::new(fields, vec![cities], None));
    let rows = sealed(&schema, vec![longs([1, 2]), longs([10, 20]), places]);
    let file = encode(&layout, &[rows], FileSettings::default())
        .unwrap()
        .unwrap();
    let parquet = file.metadata.file_metadata().schema_descr();
    let paths: Vec<_> = parquet
        .columns()
        .iter()
        .map(|c| c.path().string())
        .collect();
    assert_eq!(paths[..3], ["id", "col-a", "col-place.col-city"]);
    let ids = parquet
        .root_schema()
        .get_fields()
        .iter()
        .map(|c| c.get_basic_info().id());
    assert_eq!(ids.take(3).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(file.stats.min_values["col-a"], 10);
    assert_eq!(file.stats.max_values["col-place"]["col-city"], "Rome");
    assert!(file.stats.null_count.contains_key("id") && !file.stats.null_count.contains_key("a"));
    let stored = read(&file);
    let places = stored.column_by_name("col-place").unwrap().as_struct();
    assert_eq!(places.column_by_name("col-city").unwrap().len(), 2);
}
