use arrow::array::{Float32Array, Float64Array, Int64Array, ListArray, RecordBatch, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;
use tidelake_core::{Bucket, Watermark};
use tidelake_schema::TableSchema;

use super::*;
use crate::{Chunk, FileSettings, Memtable, Positions, encode};

fn schema() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"type":"struct","schema-id":0,"fields":[
            {"id":1,"name":"n","required":false,"type":"long"},
            {"id":2,"name":"x","required":false,"type":"double"},
            {"id":3,"name":"y","required":false,"type":"float"},
            {"id":4,"name":"st","required":false,"type":{"type":"struct","fields":[
                {"id":5,"name":"a","required":false,"type":"long"},
                {"id":6,"name":"x","required":false,"type":"double"}]}},
            {"id":7,"name":"li","required":false,"type":{"type":"list","element-id":8,
                "element":"double","element-required":false}}]}"#,
    )
    .unwrap()
}

/// One row for each value of `x`; the other columns of floats hold what they are told.
fn rows(x: &[f64], y: f32, inner: f64, element: f64) -> RecordBatch {
    let n = x.len();
    let schema = tidelake_schema::arrow::to_arrow(&schema());
    let DataType::Struct(fields) = schema.field(3).data_type() else {
        unreachable!()
    };
    let DataType::List(of) = schema.field(4).data_type() else {
        unreachable!()
    };
    let longs: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n as i64));
    let inner: ArrayRef = Arc::new(Float64Array::from(vec![inner; n]));
    let parts = vec![Arc::clone(&longs), inner];
    let elements: ArrayRef = Arc::new(Float64Array::from(vec![element; n]));
    let lengths = OffsetBuffer::from_lengths(std::iter::repeat_n(1, n));
    let columns: Vec<ArrayRef> = vec![
        longs,
        Arc::new(Float64Array::from(x.to_vec())),
        Arc::new(Float32Array::from(vec![y; n])),
        Arc::new(StructArray::new(fields.clone(), parts, None)),
        Arc::new(ListArray::new(Arc::clone(of), lengths, elements, None)),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

fn file(batches: Vec<RecordBatch>) -> ParquetMetaData {
    let mut table = Memtable::new(Bucket(0), Watermark(0));
    let mut from = 0;
    for batch in batches {
        let n = batch.num_rows();
        let positions = Positions {
            offsets: (from..from + n as i64).collect(),
            rows: vec![0; n],
            timestamps_ms: vec![0; n],
        };
        from += n as i64;
        table.push(Chunk::new(batch, positions));
    }
    let layout = FileLayout::plain(&schema());
    let file = encode(&layout, &[table.seal()], FileSettings::default());
    let file = file.unwrap().unwrap();
    let reader = SerializedFileReader::new(file.bytes).unwrap();
    reader.metadata().clone()
}

/// Least and greatest of each leaf column that has them, by path.
fn bounded(metadata: &ParquetMetaData) -> Vec<String> {
    let columns = metadata.row_groups()[0].columns().iter();
    let bounded = columns.filter(|column| {
        let bounds = column.statistics();
        bounds.is_some_and(|s| s.min_bytes_opt().is_some() || s.max_bytes_opt().is_some())
    });
    let paths = bounded.map(|column| column.column_path().string());
    paths.filter(|path| !path.starts_with("__")).collect()
}

#[test]
fn a_column_that_holds_a_nan_has_no_bounds() {
    let all = ["n", "x", "y", "st.a", "st.x", "li.list.element"];
    let nan = f64::NAN;
    for (x, y, inner, element, unbounded) in [
        (1.0, 1.0, 1.0, 1.0, ""),
        (nan, 1.0, 1.0, 1.0, "x"),
        (-nan, 1.0, 1.0, 1.0, "x"),
        (1.0, f32::NAN, 1.0, 1.0, "y"),
        (1.0, 1.0, nan, 1.0, "st.x"),
        (1.0, 1.0, 1.0, nan, "li.list.element"),
        (f64::INFINITY, 1.0, 1.0, 1.0, ""),
    ] {
        // The second batch, so that nothing hangs on the first.
        let metadata = file(vec![
            rows(&[3.0, 5.0], 2.0, 2.0, 2.0),
            rows(&[2.0, x, 4.0], y, inner, element),
        ]);
        let expected: Vec<&str> = all.into_iter().filter(|path| *path != unbounded).collect();
        assert_eq!(bounded(&metadata), expected, "without {unbounded:?}");
        assert!(float_bounds_cover_nan(metadata.file_metadata()));
    }
}

#[test]
fn a_nan_under_a_null_costs_no_bounds() {
    let batch = rows(&[1.0, f64::NAN], 1.0, 1.0, 1.0);
    let mut columns = batch.columns().to_vec();
    let values = columns[1].as_primitive::<Float64Type>().values().clone();
    let nulls = NullBuffer::from(vec![true, false]);
    columns[1] = Arc::new(Float64Array::new(values, Some(nulls)));
    let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let metadata = file(vec![batch]);
    assert!(bounded(&metadata).contains(&"x".to_owned()));
}

#[test]
fn bounds_of_zeros_enclose_both() {
    for zero in [0.0, -0.0] {
        let metadata = file(vec![rows(&[zero], 1.0, 1.0, 1.0)]);
        let Some(Statistics::Double(x)) = metadata.row_groups()[0].column(1).statistics() else {
            panic!("no bounds")
        };
        let (least, greatest) = (x.min_opt().unwrap(), x.max_opt().unwrap());
        assert!(least.is_sign_negative() && greatest.is_sign_positive());
    }
}

#[test]
fn other_writers_are_not_trusted() {
    let metadata = file(vec![rows(&[1.0], 1.0, 1.0, 1.0)]);
    let own = metadata.file_metadata();
    let with = |entries| {
        FileMetaData::new(
            own.version(),
            own.num_rows(),
            own.created_by().map(str::to_owned),
            entries,
            own.schema_descr_ptr(),
            None,
        )
    };
    assert!(!float_bounds_cover_nan(&with(None)));
    let other = KeyValue::new(COVERS_NAN.0.to_owned(), None);
    assert!(!float_bounds_cover_nan(&with(Some(vec![other]))));
}
