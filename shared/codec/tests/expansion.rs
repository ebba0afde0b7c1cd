//! Small inputs that stand for very much are refused, and memory stays bounded on the way.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int8Array, Int32Array, Int64Array,
    LargeListViewArray, ListArray, ListViewArray, NullArray, RecordBatch, RecordBatchOptions,
    RunArray, StringArray, StringViewBuilder, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use tidelake_codec::arrow_ipc::{OPERATION_COLUMN, StreamLimits, StreamReader, conform};
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::key::{KeyBuilder, KeyText};
use tidelake_codec::{MESSAGE_DECODED_BYTES_MAX, Rejection, packed};
use tidelake_schema::TableSchema;

/// Counts what is allocated, and remembers the most.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator has no safe way")]
// SAFETY: every call is the system allocator's, with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `work` held at a time.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = work();
    (done, PEAK.load(Ordering::Relaxed) - before)
}

fn schema_of(columns: usize, ty: &str) -> TableSchema {
    let key = r#"{"name":"k","required":false,"type":"long"}"#.to_owned();
    let field = |i| format!(r#"{{"name":"c{i}","required":false,"type":{ty}}}"#);
    let fields: Vec<_> = std::iter::once(key)
        .chain((0..columns).map(field))
        .collect();
    TableSchema::from_iceberg_json(&format!(r#"{{"fields":[{}]}}"#, fields.join(","))).unwrap()
}

fn wide_struct(fields: usize) -> String {
    let field = |i| format!(r#"{{"name":"f{i}","required":false,"type":"decimal(38,0)"}}"#);
    let fields: Vec<_> = (0..fields).map(field).collect();
    format!(r#"{{"type":"struct","fields":[{}]}}"#, fields.join(","))
}

fn list_of(element: &str) -> String {
    format!(r#"{{"type":"list","element-required":false,"element":{element}}}"#)
}

/// A stream of one batch that has the same array in every column.
fn stream(columns: usize, array: &ArrayRef, compression: Option<CompressionType>) -> Vec<u8> {
    let field = |i| Field::new(format!("c{i}"), array.data_type().clone(), true);
    let fields: Vec<_> = (0..columns).map(field).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(array.len()));
    let batch = RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        vec![Arc::clone(array); columns],
        &options,
    );
    let batch = batch.unwrap();
    let options = IpcWriteOptions::default().try_with_compression(compression);
    let schema = batch.schema();
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &schema, options.unwrap()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

/// Bodies of up to some hundred KB, the table they are for, and what they are.
fn hostile() -> Vec<(&'static str, TableSchema, Vec<u8>)> {
    let lz4 = Some(CompressionType::LZ4_FRAME);
    let mut bodies = Vec::new();
    let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(256 << 10)]));
    let keys = Int8Array::from(vec![0; 1000]);
    let words: ArrayRef = Arc::new(DictionaryArray::new(keys, long));
    bodies.push((
        "dictionaries",
        schema_of(12, r#""string""#),
        stream(12, &words, lz4),
    ));

    let text = "y".repeat(256 << 10);
    let mut builder = StringViewBuilder::new();
    let block = builder.append_block(text.as_bytes().into());
    for _ in 0..1000 {
        builder.try_append_view(block, 0, 256 << 10).unwrap();
    }
    let views: ArrayRef = Arc::new(builder.finish());
    bodies.push((
        "views",
        schema_of(12, r#""string""#),
        stream(12, &views, lz4),
    ));

    let nulls: ArrayRef = Arc::new(NullArray::new(1 << 20));
    bodies.push((
        "nulls",
        schema_of(300, r#""decimal(38,0)""#),
        stream(300, &nulls, lz4),
    ));
    bodies.push((
        "missing columns",
        schema_of(1000, r#""decimal(38,0)""#),
        stream(1, &nulls, lz4),
    ));

    let field = Arc::new(Field::new("item", DataType::Null, true));
    let items: ArrayRef = Arc::new(NullArray::new(1 << 27));
    let offsets = OffsetBuffer::from_lengths([1 << 27]);
    let list: ArrayRef = Arc::new(ListArray::new(field, offsets, items, None));
    let of_structs = list_of(&wide_struct(50));
    bodies.push((
        "a list of nulls",
        schema_of(1, &of_structs),
        stream(1, &list, None),
    ));

    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 1 << 20]));
    for (name, codec) in [
        ("constant columns, LZ4", CompressionType::LZ4_FRAME),
        ("constant columns, Zstandard", CompressionType::ZSTD),
    ] {
        bodies.push((
            name,
            schema_of(20, r#""long""#),
            stream(20, &zeros, Some(codec)),
        ));
    }
    let narrow: ArrayRef = Arc::new(Int8Array::from(vec![1; 1 << 20]));
    bodies.push((
        "wider types",
        schema_of(30, r#""decimal(38,0)""#),
        stream(30, &narrow, lz4),
    ));
    let ids = FixedSizeBinaryArray::try_from_iter(std::iter::repeat_n([7_u8; 16], 1 << 18));
    let ids: ArrayRef = Arc::new(ids.unwrap());
    bodies.push(("uuids", schema_of(20, r#""uuid""#), stream(20, &ids, lz4)));
    let keys = Int32Array::from(vec![0; 1 << 20]);
    let numbers: ArrayRef = Arc::new(DictionaryArray::new(
        keys,
        Arc::new(Int64Array::from(vec![1])) as ArrayRef,
    ));
    bodies.push((
        "run-like numbers",
        schema_of(40, r#""long""#),
        stream(40, &numbers, lz4),
    ));
    bodies
}

fn read(body: &[u8], schema: &TableSchema) -> Result<usize, Rejection> {
    let limits = StreamLimits {
        decoded_bytes_max: MESSAGE_DECODED_BYTES_MAX,
        ..StreamLimits::default()
    };
    let mut reader = StreamReader::new(body, limits);
    let mut rows = 0;
    while let Some(batch) = reader.next() {
        let mut allowance = reader.allowance();
        rows += conform(&batch?, schema, rows, &mut allowance)?.num_rows();
    }
    Ok(rows)
}

/// One test, since memory is counted for the whole process.
#[test]
fn small_inputs_that_stand_for_much_are_refused_in_bounded_memory() {
    let bound = 3 * MESSAGE_DECODED_BYTES_MAX;
    for (name, schema, body) in hostile() {
        let (read, peak) = peak_of(|| read(&body, &schema));
        assert_eq!(read.unwrap_err().code(), "TOO_LARGE", "{name}");
        assert!(
            peak < bound,
            "{name}: {peak} bytes for {} of a body",
            body.len()
        );
        let (decoded, peak) = peak_of(|| packed::decode(&body, &schema));
        assert_eq!(decoded.unwrap_err().code(), "TOO_LARGE", "{name}, packed");
        assert!(peak < bound, "{name}, packed: {peak} bytes");
    }
    for (name, schema, body, code) in misshapen() {
        let (read, peak) = peak_of(|| read(&body, &schema));
        assert_eq!(read.unwrap_err().code(), code, "{name}");
        let (decoded, packed_peak) = peak_of(|| packed::decode(&body, &schema));
        assert_eq!(decoded.unwrap_err().code(), code, "{name}, packed");
        let peak = peak.max(packed_peak);
        assert!(peak < 16 << 20, "{name}: {peak} bytes for {}", body.len());
    }
    packed_deletes(bound);
    nested_json(bound);
    deep_json();
    many_small_records(bound);
    legal_messages_are_read();
}

/// Bodies that are refused for their types, before anything is unpacked.
fn misshapen() -> Vec<(&'static str, TableSchema, Vec<u8>, &'static str)> {
    let text = schema_of(1, r#""string""#);
    let lists = schema_of(1, &list_of(r#""long""#));
    let mut bodies = Vec::new();

    let ends = Int32Array::from(vec![1 << 30]);
    let long = StringArray::from(vec!["x".repeat(64 << 10)]);
    let runs: ArrayRef = Arc::new(RunArray::<Int32Type>::try_new(&ends, &long).unwrap());
    bodies.push((
        "a run",
        text.clone(),
        stream(1, &runs, None),
        "CORRUPT_ARROW",
    ));

    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1; 1 << 12]));
    let rows = 1 << 14;
    let (from, sizes) = (vec![0; rows].into(), vec![1 << 12; rows].into());
    let views = ListViewArray::new(Arc::clone(&item), from, sizes, Arc::clone(&values), None);
    let body = stream(1, &(Arc::new(views) as ArrayRef), None);
    bodies.push(("one list seen often", lists.clone(), body, "CORRUPT_ARROW"));
    let (from, sizes) = (vec![0; rows].into(), vec![1 << 12; rows].into());
    let views = LargeListViewArray::new(item, from, sizes, values, None);
    let body = stream(1, &(Arc::new(views) as ArrayRef), None);
    bodies.push((
        "one large list seen often",
        lists.clone(),
        body,
        "CORRUPT_ARROW",
    ));

    for (name, levels) in [("70 levels", 70), ("1000 levels", 1000)] {
        let nested = (0..levels).fold(DataType::Int64, |inner, _| {
            DataType::List(Arc::new(Field::new("item", inner, true)))
        });
        let body = stream(1, &new_null_array(&nested, 1), None);
        bodies.push((name, lists.clone(), body, "CORRUPT_ARROW"));
    }
    let wide = DataType::Struct(
        (0..20_000)
            .map(|i| Field::new(format!("f{i}"), DataType::Null, true))
            .collect(),
    );
    let body = stream(1, &new_null_array(&wide, 1), None);
    bodies.push(("20,000 fields", text, body, "WRONG_TYPE"));
    bodies
}

/// Rows that delete have no other columns; those that are written have all.
fn packed_deletes(bound: usize) {
    let columns = (0..300).map(|i| {
        format!(
            r#"{{"id":{},"name":"c{i}","required":false,"type":"decimal(38,0)"}}"#,
            i + 2
        )
    });
    let key = r#"{"id":1,"name":"k","required":true,"type":"long"}"#.to_owned();
    let fields: Vec<_> = std::iter::once(key).chain(columns).collect();
    let text = format!(
        r#"{{"identifier-field-ids":[1],"fields":[{}]}}"#,
        fields.join(",")
    );
    let schema = TableSchema::from_iceberg_json(&text).unwrap();
    let rows = 1 << 20;
    let operations = Int8Array::from_iter_values((0..rows).map(|row| i8::from(row % 2 == 0)));
    let batch = RecordBatch::try_from_iter([
        ("k", Arc::new(Int64Array::from(vec![7; rows])) as ArrayRef),
        (OPERATION_COLUMN, Arc::new(operations) as ArrayRef),
    ]);
    let message = packed::encode(&batch.unwrap()).unwrap();
    let key = KeyText::new(&schema).unwrap().unwrap();
    let (decoded, peak) = peak_of(|| packed::decode_upserts(&message, &schema, &key));
    assert_eq!(
        decoded.unwrap_err().code(),
        "TOO_LARGE",
        "deletes among rows"
    );
    assert!(
        peak < bound,
        "deletes among rows: {peak} bytes for {}",
        message.len()
    );
}

/// Nesting is refused where it begins to be too deep, in what is kept and in what is read over.
fn deep_json() {
    let deep = "[".repeat(4 << 20);
    let schema = schema_of(1, &list_of(r#""long""#));
    for record in [
        format!(r#"{{"c0":{deep}"#),
        format!(r#"{{"other":{deep}"#),
        deep.clone(),
    ] {
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
        let (pushed, peak) = peak_of(|| decoder.push_record(record.as_bytes()));
        pushed.unwrap_err();
        assert!(peak < 1 << 20, "deep JSON: {peak} bytes");
    }
    let text = r#"{"identifier-field-ids":[1],"fields":[
        {"id":1,"name":"k","required":true,"type":"long"},
        {"id":2,"name":"c","required":false,"type":"string"}]}"#;
    let schema = TableSchema::from_iceberg_json(text).unwrap();
    let mut keys = KeyBuilder::new(&schema).unwrap().unwrap();
    let record = format!(r#"{{"c":{deep}"#);
    let (pushed, peak) = peak_of(|| keys.push_object(record.as_bytes()));
    pushed.unwrap_err();
    assert!(peak < 1 << 20, "deep JSON beside a key: {peak} bytes");
}

/// A record of two bytes is a row of all columns.
fn many_small_records(bound: usize) {
    let schema = schema_of(1000, r#""decimal(38,0)""#);
    for (name, lines) in [
        ("lines", "{}\n".repeat(1 << 20)),
        ("an array", {
            let records = "{},".repeat(1 << 20);
            format!("[{}]", &records[..records.len() - 1])
        }),
    ] {
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
        let (pushed, peak) = peak_of(|| match name {
            "lines" => decoder.push_ndjson(lines.as_bytes()),
            _ => decoder.push_array(lines.as_bytes()),
        });
        assert_eq!(pushed.unwrap_err().code(), "TOO_LARGE", "{name}");
        assert!(peak < bound, "{name} of empty records: {peak} bytes");
        assert_eq!(decoder.rows(), 0, "{name}");
    }
}

fn nested_json(bound: usize) {
    let schema = schema_of(1, &list_of(&wide_struct(64)));
    let empty = "{},".repeat(1_300_000);
    let nulls = "null,".repeat(800_000);
    for elements in [&empty, &nulls] {
        let record = format!(r#"{{"c0":[{}]}}"#, &elements[..elements.len() - 1]);
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
        let (pushed, peak) = peak_of(|| decoder.push_record(record.as_bytes()));
        assert_eq!(pushed.unwrap_err().code(), "TOO_LARGE");
        assert!(peak < bound, "nested JSON: {peak} bytes");
        assert_eq!(decoder.rows(), 0);
        decoder.push_record(br#"{"c0":[{"f1":1}]}"#).unwrap();
        assert_eq!(
            decoder.finish().unwrap().num_rows(),
            1,
            "the decoder goes on"
        );
    }
}

/// The largest that may be packed can be read, also by a table that has gained columns.
fn legal_messages_are_read() {
    let rows = packed::COLUMN_BYTES_MAX / 8 / 16;
    let longs: ArrayRef = Arc::new(Int64Array::from_iter_values(
        (0..rows).map(|n| n as i64 / 64),
    ));
    let field = |i| Field::new(format!("c{i}"), DataType::Int64, true);
    let fields: Vec<_> = (0..16).map(field).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![longs; 16]).unwrap();
    let message = packed::encode(&batch).unwrap();
    let rows = packed::decode(&message, &schema_of(20, r#""long""#)).unwrap();
    assert_eq!(rows.num_rows(), batch.num_rows());
    // Many columns of few rows: what each buffer could hold at most is no reason to refuse it.
    let some: ArrayRef = Arc::new(Int64Array::from_iter_values((0..300).map(|i| i * i)));
    let message = stream(1500, &some, Some(CompressionType::LZ4_FRAME));
    let schema = schema_of(1500, r#""long""#);
    assert_eq!(packed::decode(&message, &schema).unwrap().num_rows(), 300);
}
