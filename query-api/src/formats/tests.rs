use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::*;
use datafusion::arrow::ipc::reader::StreamReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::table::type_names::type_name;

/// Two rows: values, then nulls (where a type has them).
#[expect(clippy::too_many_lines, reason = "one column for each type")]
fn everything() -> RecordBatch {
    let list = |values: ArrayRef, lengths: [usize; 2]| -> ArrayRef {
        let field = Arc::new(Field::new("element", values.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(lengths);
        let nulls = Some(vec![true, false].into());
        Arc::new(ListArray::new(field, offsets, values, nulls))
    };
    let map = |keys: ArrayRef| -> ArrayRef {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), None]));
        let fields = Fields::from(vec![
            Field::new("key", keys.data_type().clone(), false),
            Field::new("value", DataType::Float64, true),
        ]);
        let entries = StructArray::new(fields.clone(), vec![keys, values], None);
        let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        let offsets = OffsetBuffer::from_lengths([2, 0]);
        Arc::new(MapArray::new(
            field,
            offsets,
            entries,
            Some(vec![true, false].into()),
            false,
        ))
    };
    let structs: ArrayRef = Arc::new(StructArray::new(
        Fields::from(vec![
            Field::new("x", DataType::Int32, true),
            Field::new("s", DataType::Utf8, true),
        ]),
        vec![
            Arc::new(Int32Array::from(vec![Some(1), None])),
            Arc::new(StringArray::from(vec![None, Some("hidden")])),
        ],
        Some(vec![true, false].into()),
    ));
    let decimal = Decimal128Array::from(vec![Some(-1234), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "boolean",
            Arc::new(BooleanArray::from(vec![Some(true), None])),
        ),
        ("tiny", Arc::new(Int8Array::from(vec![Some(-1), None]))),
        (
            "long",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
        ),
        (
            "huge",
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
        ),
        (
            "float",
            Arc::new(Float32Array::from(vec![Some(0.1), Some(f32::NAN)])),
        ),
        (
            "double",
            Arc::new(Float64Array::from(vec![Some(1e300), Some(f64::INFINITY)])),
        ),
        (
            "decimal",
            Arc::new(decimal.with_precision_and_scale(10, 2).unwrap()),
        ),
        (
            "date",
            Arc::new(Date32Array::from(vec![Some(20_778), None])),
        ),
        (
            "time",
            Arc::new(Time64MicrosecondArray::from(vec![
                Some(45_296_000_001),
                None,
            ])),
        ),
        (
            "local",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None])),
        ),
        (
            "moment",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1), None]).with_timezone("+02:00")),
        ),
        (
            "fine",
            Arc::new(TimestampNanosecondArray::from(vec![Some(1), None]).with_timezone("UTC")),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("a\"b\n\u{1}é"), None])),
        ),
        (
            "view",
            Arc::new(StringViewArray::from(vec![Some(""), None])),
        ),
        (
            "bytes",
            Arc::new(BinaryViewArray::from(vec![Some(&b"\xde\xad"[..]), None])),
        ),
        ("fixed", {
            let values = vec![Some(&b"ab"[..]), None].into_iter();
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 2).unwrap())
        }),
        (
            "list",
            list(Arc::new(Int32Array::from(vec![Some(1), None])), [2, 0]),
        ),
        ("struct", structs),
        ("map", map(Arc::new(StringArray::from(vec!["a", "b"])))),
        ("numbered", map(Arc::new(Int64Array::from(vec![1, 2])))),
        (
            "dictionary",
            Arc::new(DictionaryArray::<Int32Type>::from_iter([Some("d"), None])),
        ),
        (
            "interval",
            Arc::new(IntervalDayTimeArray::from(vec![
                Some(IntervalDayTime {
                    days: 1,
                    milliseconds: 500,
                }),
                None,
            ])),
        ),
        (
            "duration",
            Arc::new(DurationSecondArray::from(vec![Some(90), None])),
        ),
        ("nothing", Arc::new(NullArray::new(2))),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .unwrap()
}

fn written(format: Format, batch: &RecordBatch) -> Vec<u8> {
    let schema = output_schema(&batch.schema());
    let plain = output_batch(batch, &schema).unwrap();
    let mut encoder = encoder(format, &schema).unwrap();
    let mut bytes = encoder.write(&plain).unwrap().to_vec();
    bytes.extend_from_slice(
        &encoder
            .finish(End {
                truncated: false,
                rows: 0,
                late: false,
            })
            .unwrap(),
    );
    bytes
}

#[test]
fn every_type_has_its_json() {
    let text = String::from_utf8(written(Format::Ndjson(OddFloats::Null), &everything())).unwrap();
    let wanted = concat!(
        r#"{"boolean":true,"tiny":-1,"long":-9223372036854775808,"huge":18446744073709551615,"#,
        r#""float":0.1,"double":1e+300,"decimal":"-12.34","date":"2026-11-21","time":"12:34:56.000001","#,
        r#""local":"1969-12-31T23:59:59.999999","moment":"1970-01-01T00:00:00.001Z","#,
        r#""fine":"1970-01-01T00:00:00.000000001Z","text":"a\"b\n\u0001é","view":"","bytes":"3q0=","#,
        r#""fixed":"YWI=","list":[1,null],"struct":{"x":1,"s":null},"map":{"a":0.5,"b":null},"#,
        r#""numbered":[{"key":1,"value":0.5},{"key":2,"value":null}],"dictionary":"d","#,
        r#""interval":"P1DT0.5S","duration":"PT90S","nothing":null}"#,
        "\n",
        r#"{"boolean":null,"tiny":null,"long":null,"huge":null,"float":null,"double":null,"#,
        r#""decimal":null,"date":null,"time":null,"local":null,"moment":null,"fine":null,"text":null,"#,
        r#""view":null,"bytes":null,"fixed":null,"list":null,"struct":null,"map":null,"numbered":null,"#,
        r#""dictionary":null,"interval":null,"duration":null,"nothing":null}"#,
        "\n",
    );
    assert_eq!(text, wanted);
}

#[test]
fn csv_tells_null_from_empty_and_quotes_what_it_must() {
    let batch = RecordBatch::try_from_iter_with_nullable([
        (
            "a,b",
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
            true,
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("x\"y"), Some(""), None])),
            true,
        ),
        (
            "lines",
            Arc::new(StringArray::from(vec![" a", "b\r\nc", "plain"])),
            true,
        ),
        (
            "nan",
            Arc::new(Float64Array::from(vec![f64::NAN, 1.0, 2.5])),
            true,
        ),
    ])
    .unwrap();
    assert_eq!(
        String::from_utf8(written(Format::Csv, &batch)).unwrap(),
        "\"a,b\",text,lines,nan\r\n1,\"x\"\"y\",\" a\",NaN\r\n,\"\",\"b\r\nc\",1.0\r\n3,,plain,2.5\r\n"
    );
    let nested = String::from_utf8(written(Format::Csv, &everything())).unwrap();
    assert!(
        nested.contains(r#","[1,null]","{""x"":1,""s"":null}","#),
        "{nested}"
    );
}

#[test]
fn floats_that_are_no_numbers_are_null_or_text_at_any_depth() {
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5];
    let doubles = Arc::new(Float64Array::from(odd.to_vec())) as ArrayRef;
    let floats = Float32Array::from_iter_values(odd.iter().map(|value| *value as f32));
    let field = Arc::new(Field::new("x", DataType::Float64, true));
    let nested = StructArray::from(vec![(field, Arc::clone(&doubles))]);
    let batch = RecordBatch::try_from_iter([
        ("d", doubles),
        ("f", Arc::new(floats) as ArrayRef),
        ("s", Arc::new(nested) as ArrayRef),
    ])
    .unwrap();
    for (odd, wanted) in [
        (OddFloats::Null, ["null", "null", "null", "0.5"]),
        (
            OddFloats::Text,
            ["\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "0.5"],
        ),
    ] {
        let lines = wanted.map(|x| format!("{{\"d\":{x},\"f\":{x},\"s\":{{\"x\":{x}}}}}\n"));
        let text = String::from_utf8(written(Format::Ndjson(odd), &batch)).unwrap();
        assert_eq!(text, lines.concat());
    }
}

#[test]
fn formats_without_rows_still_have_their_frame() {
    let empty = everything().slice(0, 0);
    assert_eq!(written(Format::Ndjson(OddFloats::Null), &empty), b"");
    assert!(written(Format::Csv, &empty).starts_with(b"boolean,tiny,"));
    let schema = output_schema(&empty.schema());
    let stream = written(Format::Arrow, &empty);
    assert_eq!(
        StreamReader::try_new(stream.as_slice(), None)
            .unwrap()
            .schema(),
        schema
    );
}

#[test]
fn arrow_and_parquet_bring_the_rows_back() {
    let batch = everything();
    let batch = batch.project(&(0..21).collect::<Vec<_>>()).unwrap();
    let schema = output_schema(&batch.schema());
    let plain = output_batch(&batch, &schema).unwrap();
    let stream = written(Format::Arrow, &batch);
    let reader = StreamReader::try_new(stream.as_slice(), None).unwrap();
    let back: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(back.len(), 1);
    // NaN is not equal to itself: compare as text.
    assert_eq!(format!("{:?}", back[0]), format!("{plain:?}"));

    let file = written(Format::Parquet, &batch);
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap();
    let back: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    assert_eq!(back[0].num_rows(), 2);
    assert_eq!(back[0].column(2).as_ref(), plain.column(2).as_ref());
}

#[test]
fn a_large_parquet_answer_leaves_in_pieces() {
    let values: Int64Array = (0..200_000).map(|n| n * 7_919 % 1_000_003).collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(values) as ArrayRef)]).unwrap();
    let mut encoder = encoder(Format::Parquet, &batch.schema()).unwrap();
    let mut early = 0;
    for _ in 0..3 {
        early += encoder.write(&batch).unwrap().len();
    }
    assert!(early > 100_000, "{early}");
}

#[test]
fn result_columns_have_plain_types_and_names_of_their_own() {
    let schema = Schema::new(vec![
        Field::new("a", DataType::Utf8View, true),
        Field::new("a", DataType::BinaryView, true),
        Field::new("a_2", DataType::Int64, true),
        Field::new_dictionary("d", DataType::Int32, DataType::Utf8View, true),
        Field::new_list("l", Field::new("element", DataType::Utf8View, true), true),
    ]);
    let plain = output_schema(&schema);
    let shown: Vec<_> = plain
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), type_name(f)))
        .collect();
    assert_eq!(
        shown,
        [
            "a string",
            "a_2 binary",
            "a_2_2 long",
            "d string",
            "l list<string>"
        ]
    );
    assert_eq!(plain.field(3).data_type(), &DataType::Utf8);
}

#[test]
fn types_have_icebergs_names() {
    let utc = || Some(Arc::from("UTC"));
    for (data_type, name) in [
        (DataType::Int32, "int"),
        (DataType::Int64, "long"),
        (DataType::Float32, "float"),
        (DataType::Float64, "double"),
        (DataType::Decimal128(10, 2), "decimal(10,2)"),
        (
            DataType::Timestamp(TimeUnit::Microsecond, None),
            "timestamp",
        ),
        (
            DataType::Timestamp(TimeUnit::Microsecond, utc()),
            "timestamptz",
        ),
        (
            DataType::Timestamp(TimeUnit::Nanosecond, utc()),
            "timestamptz_ns",
        ),
        (DataType::Time64(TimeUnit::Microsecond), "time"),
        (DataType::Utf8View, "string"),
        (DataType::FixedSizeBinary(3), "fixed[3]"),
    ] {
        assert_eq!(type_name(&Field::new("x", data_type, true)), name);
    }
    let declared = Field::new("k", DataType::Utf8View, true)
        .with_metadata([("tidelake.type".to_owned(), "uuid".to_owned())].into());
    assert_eq!(type_name(&declared), "uuid");
}

#[test]
fn the_best_acceptable_format_is_taken() {
    for (accept, wanted) in [
        (None, Some(Format::Json(OddFloats::Null))),
        (Some(""), Some(Format::Json(OddFloats::Null))),
        (Some("*/*"), Some(Format::Json(OddFloats::Null))),
        (Some("application/*"), Some(Format::Json(OddFloats::Null))),
        (Some("text/*"), Some(Format::Csv)),
        (Some("text/csv, application/json"), Some(Format::Csv)),
        (
            Some("text/csv;q=0.5, application/x-ndjson"),
            Some(Format::Ndjson(OddFloats::Null)),
        ),
        (
            Some("application/vnd.apache.arrow.stream"),
            Some(Format::Arrow),
        ),
        (
            Some("application/vnd.apache.parquet"),
            Some(Format::Parquet),
        ),
        (
            Some("application/json; floats=text"),
            Some(Format::Json(OddFloats::Text)),
        ),
        (
            Some("text/csv;q=0.1, application/x-ndjson; q=0.5; floats=text"),
            Some(Format::Ndjson(OddFloats::Text)),
        ),
        (
            Some("application/json; floats=other"),
            Some(Format::Json(OddFloats::Null)),
        ),
        (
            Some("text/html, */*;q=0.1"),
            Some(Format::Json(OddFloats::Null)),
        ),
        (Some("text/csv;q=0"), None),
        (Some("image/png"), None),
        (Some("application"), None),
    ] {
        assert_eq!(Format::of_accept(accept).ok(), wanted, "{accept:?}");
    }
}

#[test]
fn a_null_of_a_csv_of_one_column_is_no_blank_line() {
    let csv = |column: ArrayRef| {
        let batch = RecordBatch::try_from_iter_with_nullable([("x", column, true)]).unwrap();
        let mut encoder = encoder(Format::Csv, &batch.schema()).unwrap();
        String::from_utf8(encoder.write(&batch).unwrap().to_vec()).unwrap()
    };
    let numbers = Int64Array::from(vec![Some(1), None]);
    assert_eq!(csv(Arc::new(numbers)), "x\r\n1\r\n\"\"\r\n");
    let texts = StringArray::from(vec![Some("a"), None, Some(""), Some("NULL")]);
    assert_eq!(
        csv(Arc::new(texts)),
        "x\r\na\r\nNULL\r\n\"\"\r\n\"NULL\"\r\n"
    );
}
