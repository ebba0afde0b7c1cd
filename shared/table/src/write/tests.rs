use arrow::array::{Array, AsArray, Int8Array, Int16Array, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::LogicalType;
use proptest::prelude::*;
use tidelake_core::Watermark;
use tidelake_schema::TableSchema;

use super::*;
use crate::Memtable;

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","schema-id":0,"fields":[
            {"id":1,"name":"id","required":true,"type":"long"},
            {"id":2,"name":"name","required":false,"type":"string"},
            {"id":3,"name":"at","required":false,"type":"time"}]}"#,
    )
    .unwrap()
}

fn layout() -> FileLayout {
    FileLayout::plain(&schema())
}

fn sealed(bucket: u32, from: i64, names: &[Option<String>]) -> Sealed {
    let schema = schema();
    let ids = Int64Array::from_iter_values((0..names.len() as i64).map(|i| from + i));
    let times = arrow::array::Time64MicrosecondArray::from_iter(
        (0..names.len() as i64).map(|i| (i % 3 != 0).then_some(i * 1_000_000 % 86_400_000_000)),
    );
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(StringArray::from(names.to_vec())),
        Arc::new(times),
    ];
    let batch = RecordBatch::try_new(tidelake_schema::arrow::to_arrow(&schema), columns).unwrap();
    let positions = Positions {
        offsets: (0..names.len() as i64).map(|i| from + i).collect(),
        rows: vec![0; names.len()],
        timestamps_ms: (0..names.len() as i64)
            .map(|i| 1_700_000_000_000 + i)
            .collect(),
    };
    let mut table = Memtable::new(Bucket(bucket), Watermark(from));
    table.push(Chunk::new(batch, positions));
    table.seal()
}

fn read(file: &EncodedFile) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_file_gives_back_every_row_with_its_sequence(
        first in prop::collection::vec(prop::option::of("[a-z]{0,5}"), 0..300),
        second in prop::collection::vec(prop::option::of("[a-z]{0,80}"), 0..300),
        group in 1usize..200,
    ) {
        let buckets = [sealed(0, 100, &first), sealed(7, 5, &second)];
        let settings = FileSettings { row_group_rows_max: group, ..FileSettings::default() };
        let file = encode(&layout(), &buckets, settings).unwrap();
        let names: Vec<_> = first.iter().chain(&second).cloned().collect();
        let Some(file) = file else { prop_assert!(names.is_empty()); return Ok(()) };
        prop_assert_eq!(file.rows as usize, names.len());
        let rows = read(&file);
        let offset = rows.column_by_name("__offset").unwrap().as_primitive::<Int64Type>();
        let bucket = rows.column_by_name("__bucket").unwrap().as_primitive::<Int32Type>();
        let name = rows.column_by_name("name").unwrap().as_string::<i32>();
        let id = rows.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        for (row, expected) in names.iter().enumerate() {
            let (b, o) = if row < first.len() {
                (0, 100 + row as i64)
            } else {
                (7, 5 + (row - first.len()) as i64)
            };
            prop_assert_eq!((bucket.value(row), offset.value(row)), (b, o));
            prop_assert_eq!(id.value(row), o);
            let found = (!name.is_null(row)).then(|| name.value(row));
            prop_assert_eq!(found, expected.as_deref());
        }
    }
}

#[test]
fn time_is_stored_as_a_plain_long_and_columns_keep_their_field_ids() {
    let file = encode(
        &layout(),
        &[sealed(0, 0, &[None, Some("x".into())])],
        FileSettings::default(),
    )
    .unwrap()
    .unwrap();
    let parquet = file.metadata.file_metadata().schema_descr();
    let at = parquet.column(2);
    assert_eq!(at.physical_type(), parquet::basic::Type::INT64);
    assert_eq!(at.logical_type_ref(), None);
    assert_eq!(parquet.column(0).self_type().get_basic_info().id(), 1);
    assert_eq!(parquet.column(3).name(), "__bucket");
}

#[test]
fn narrow_integers_keep_their_width_in_the_file_and_have_bounds() {
    let schema = TableSchema::from_iceberg_json(
        r#"{"fields":[
            {"id":1,"name":"tiny","required":true,"type":"byte"},
            {"id":2,"name":"small","required":false,"type":"short"}]}"#,
    )
    .unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int8Array::from(vec![i8::MIN, 3, i8::MAX])),
        Arc::new(Int16Array::from(vec![Some(i16::MAX), None, Some(i16::MIN)])),
    ];
    let batch = RecordBatch::try_new(tidelake_schema::arrow::to_arrow(&schema), columns).unwrap();
    let positions = Positions {
        offsets: vec![0, 1, 2],
        rows: vec![0; 3],
        timestamps_ms: vec![0; 3],
    };
    let mut table = Memtable::new(Bucket(0), Watermark(0));
    table.push(Chunk::new(batch.clone(), positions));
    let layout = FileLayout::plain(&schema);
    let file = encode(&layout, &[table.seal()], FileSettings::default());
    let file = file.unwrap().unwrap();
    let parquet = file.metadata.file_metadata().schema_descr();
    for (column, bit_width) in [(0, 8), (1, 16)] {
        let column = parquet.column(column);
        assert_eq!(column.physical_type(), parquet::basic::Type::INT32);
        let integer = LogicalType::integer(bit_width, true);
        assert_eq!(column.logical_type_ref(), Some(&integer));
    }
    let stats: serde_json::Value = serde_json::from_str(&file.stats.to_json()).unwrap();
    assert_eq!(stats["minValues"]["tiny"], -128, "{stats}");
    assert_eq!(stats["maxValues"]["small"], 32767, "{stats}");
    let rows = read(&file);
    assert_eq!(rows.columns()[..2], batch.columns()[..]);
}
