//! Foreign batches conform or are refused with row and field; streams survive any damage.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date64Array, Decimal128Array,
    DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeListArray, LargeStringArray,
    ListArray, NullArray, RecordBatch, RecordBatchOptions, StringArray, StringViewArray,
    StructArray, Time32SecondArray, Time64MicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Fields, Float16Type, Float32Type, Float64Type, Int32Type,
    Schema,
};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use proptest::prelude::*;
use tidelake_schema::TableSchema;

use super::{StreamLimits, StreamReader};
use crate::json::encode::{JsonStyle, write_rows};
use crate::json::tests::random::{Rng, random_record, random_schema};
use crate::json::tests::schema_of;
use crate::json::{JsonDecoder, JsonLimits};
use crate::{Allowance, Reason, Rejection, packed};

/// What a column may become.
const EXPANDED_BYTES_MAX: usize = 16 << 20;

fn conform(
    batch: &RecordBatch,
    schema: &TableSchema,
    first_row: usize,
) -> Result<RecordBatch, Rejection> {
    let mut allowance = Allowance::new(EXPANDED_BYTES_MAX);
    super::conform(batch, schema, first_row, &mut allowance)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let rows = columns.first().map_or(0, |(_, array)| array.len());
    let columns = columns.into_iter().map(|(_, array)| array).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap()
}

fn lines(batch: &RecordBatch) -> String {
    let mut out = Vec::new();
    write_rows(batch, &batch.schema(), &mut out, JsonStyle::Objects).unwrap();
    String::from_utf8(out).unwrap()
}

fn one(ty: &str, array: impl Array + 'static) -> Result<String, Rejection> {
    let schema = schema_of(&[("a", ty)]);
    let conformed = conform(&batch(vec![("a", Arc::new(array))]), &schema, 5)?;
    assert_eq!(
        conformed.schema(),
        tidelake_schema::arrow::to_arrow(&schema)
    );
    let values = lines(&conformed);
    let values = values
        .lines()
        .map(|line| line[5..line.len() - 1].to_owned());
    Ok(values.collect::<Vec<_>>().join(" "))
}

fn refused(ty: &str, array: impl Array + 'static) -> String {
    one(ty, array).unwrap_err().to_string()
}

fn random_batch(seed: u64, rows: usize) -> (TableSchema, RecordBatch) {
    let mut rng = Rng(seed | 1);
    let schema = random_schema(&mut rng);
    let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
    for _ in 0..rows {
        decoder
            .push_record(random_record(&schema, &mut rng).as_bytes())
            .unwrap();
    }
    let batch = decoder.finish().unwrap();
    (schema, batch)
}

fn stream(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .unwrap();
    let schema = batches[0].schema();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
    batches
        .iter()
        .for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn values_are_cast_where_nothing_is_lost() {
    let ok = |ty, array: ArrayRef| one(ty, array).unwrap();
    assert_eq!(
        ok("long", Arc::new(Int8Array::from(vec![Some(-1), None]))),
        "-1 null"
    );
    assert_eq!(ok("int", Arc::new(UInt64Array::from(vec![7]))), "7");
    assert_eq!(ok("int", Arc::new(Float64Array::from(vec![7.0]))), "7");
    assert_eq!(
        ok(
            "short",
            Arc::new(Int64Array::from(vec![i64::from(i16::MIN), 32767]))
        ),
        "-32768 32767"
    );
    assert_eq!(
        ok("byte", Arc::new(Int32Array::from(vec![-128, 127]))),
        "-128 127"
    );
    assert_eq!(
        ok("double", Arc::new(Int64Array::from(vec![1 << 53]))),
        "9007199254740992.0"
    );
    let money = Decimal128Array::from(vec![1230, 100])
        .with_precision_and_scale(10, 3)
        .unwrap();
    assert_eq!(
        ok("decimal(5,2)", Arc::new(money.clone())),
        r#""1.23" "0.10""#
    );
    assert_eq!(ok("double", Arc::new(money)), "1.23 0.1");
    assert_eq!(
        ok("decimal(9,2)", Arc::new(Int32Array::from(vec![5]))),
        r#""5.00""#
    );
    assert_eq!(
        ok("date", Arc::new(Date64Array::from(vec![86_400_000]))),
        r#""1970-01-02""#
    );
    assert_eq!(
        ok("time", Arc::new(Time32SecondArray::from(vec![61]))),
        r#""00:01:01""#
    );
    let millis = TimestampMillisecondArray::from(vec![1]);
    assert_eq!(
        ok("timestamp", Arc::new(millis.clone())),
        r#""1970-01-01T00:00:00.001""#
    );
    let zoned = millis.with_timezone("+02:00");
    assert_eq!(
        ok("timestamptz_ns", Arc::new(zoned)),
        r#""1970-01-01T00:00:00.001Z""#
    );
    assert_eq!(
        ok("string", Arc::new(LargeStringArray::from(vec!["x"]))),
        r#""x""#
    );
    let long = "a view that does not fit in its twelve bytes";
    assert_eq!(
        ok("string", Arc::new(StringViewArray::from(vec![long]))),
        format!("{long:?}")
    );
    let words: DictionaryArray<Int32Type> = vec![Some("b"), None, Some("b")].into_iter().collect();
    assert_eq!(ok("string", Arc::new(words)), r#""b" null "b""#);
    let uuid = "00112233-4455-6677-8899-AABBCCDDEEFF";
    let expected = format!("{:?}", uuid.to_lowercase());
    assert_eq!(
        ok("uuid", Arc::new(StringArray::from(vec![Some(uuid)]))),
        expected
    );
    let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
    let bytes = FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).unwrap();
    assert_eq!(ok("uuid", Arc::new(bytes)), expected);
    assert_eq!(
        ok("fixed[2]", Arc::new(BinaryArray::from(vec![&b"ab"[..]]))),
        r#""YWI=""#
    );
    assert_eq!(ok("boolean", Arc::new(NullArray::new(2))), "null null");
}

#[test]
fn what_would_change_is_refused_with_its_row() {
    let messages = [
        refused("int", Int64Array::from(vec![1, 1 << 31])),
        refused("short", Int32Array::from(vec![1, 1 << 15])),
        refused("byte", Int16Array::from(vec![-128, -129])),
        refused("int", Float64Array::from(vec![1.0, 2.0, 2.5])),
        refused("long", UInt64Array::from(vec![u64::MAX])),
        refused("double", Int64Array::from(vec![(1 << 53) + 1])),
        refused("float", Float64Array::from(vec![0.1])),
        refused("int", StringArray::from(vec!["1"])),
        refused("string", Int32Array::from(vec![1])),
        refused("boolean", Int32Array::from(vec![1])),
        refused("int!", Int32Array::from(vec![Some(1), None])),
        refused("int!", NullArray::new(1)),
        refused("decimal(3,2)", Float64Array::from(vec![12.5])),
        refused("date", Date64Array::from(vec![1])),
        refused("timestamp", TimestampNanosecondArray::from(vec![1001])),
        refused("timestamptz", TimestampNanosecondArray::from(vec![1000])),
        refused(
            "time",
            Time64MicrosecondArray::from(vec![0, 86_400_000_000]),
        ),
        refused("uuid", StringArray::from(vec!["nonsense"])),
        refused("fixed[2]", BinaryArray::from(vec![&b"abc"[..]])),
        refused(
            "decimal(2,0)",
            Decimal128Array::new(vec![100].into(), None).with_data_type(DataType::Decimal128(2, 0)),
        ),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn a_signalling_nan_is_a_nan() {
    type F16 = <Float16Type as ArrowPrimitiveType>::Native;
    let half = F16::from_bits(0x7c01);
    let single = f32::from_bits(0x7f80_0001);
    let double = f64::from_bits(0x7ff0_0000_0000_0001);
    for ty in ["float", "double"] {
        assert_eq!(one(ty, Float16Array::from(vec![half])).unwrap(), "null");
        assert_eq!(one(ty, Float32Array::from(vec![single])).unwrap(), "null");
        assert_eq!(one(ty, Float64Array::from(vec![double])).unwrap(), "null");
    }
    refused("int", Float16Array::from(vec![half]));
}

#[test]
fn every_nan_is_the_one_nan() {
    let bits = |ty: &str, array: ArrayRef| -> Vec<u64> {
        let conformed = conform(&batch(vec![("a", array)]), &schema_of(&[("a", ty)]), 0);
        let column = Arc::clone(conformed.unwrap().column(0));
        match ty {
            "float" => column
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .map(|value| value.to_bits().into())
                .collect(),
            _ => column
                .as_primitive::<Float64Type>()
                .values()
                .iter()
                .map(|value| value.to_bits())
                .collect(),
        }
    };
    let odd = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001)];
    let doubles: Vec<f64> = odd.into_iter().chain([-0.0, f64::NEG_INFINITY]).collect();
    let floats: Vec<f32> = doubles.iter().map(|value| *value as f32).collect();
    let (one, kept) = (
        f64::NAN.to_bits(),
        [-0.0, f64::NEG_INFINITY].map(f64::to_bits),
    );
    let wanted = [one, one, one, kept[0], kept[1]];
    assert_eq!(
        bits("double", Arc::new(Float64Array::from(doubles))),
        wanted
    );
    assert_eq!(
        bits("double", Arc::new(Float32Array::from(floats.clone()))),
        wanted
    );
    let (one, kept) = (
        f32::NAN.to_bits(),
        [-0.0, f32::NEG_INFINITY].map(f32::to_bits),
    );
    let wanted = [one, one, one, kept[0], kept[1]].map(u64::from);
    assert_eq!(bits("float", Arc::new(Float32Array::from(floats))), wanted);
}

#[test]
fn columns_are_matched_by_name() {
    let schema = schema_of(&[("a", "int!"), ("b", "string"), ("c", "long")]);
    let ints = |values: Vec<i32>| -> ArrayRef { Arc::new(Int32Array::from(values)) };
    let given = batch(vec![("c", ints(vec![3])), ("a", ints(vec![1]))]);
    assert_eq!(
        lines(&conform(&given, &schema, 0).unwrap()),
        "{\"a\":1,\"b\":null,\"c\":3}\n"
    );
    let error = |columns| {
        conform(&batch(columns), &schema, 7)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(vec![("c", ints(vec![3]))]),
        r#"row 7, field "a": a required field is missing"#
    );
    assert_eq!(
        error(vec![("a", ints(vec![1])), ("A", ints(vec![1]))]),
        r#"row 7, field "A": no such column in the table; remove the field or add the column"#
    );
    assert_eq!(
        error(vec![("a", ints(vec![1])), ("a", ints(vec![1]))]),
        r#"row 7, field "a": the field is given twice"#
    );
}

const NESTED: &str = r#"{"type":"list","element-required":true,"element":
    {"type":"struct","fields":[{"name":"x","required":true,"type":"int"}]}}"#;

fn structs(values: Vec<Option<i32>>, nulls: Option<NullBuffer>) -> StructArray {
    let fields = Fields::from(vec![Field::new("x", DataType::Int32, true)]);
    StructArray::new(fields, vec![Arc::new(Int32Array::from(values))], nulls)
}

fn list_of(items: StructArray, lengths: &[usize], nulls: Option<NullBuffer>) -> ListArray {
    let field = Arc::new(Field::new("item", items.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    ListArray::new(field, offsets, Arc::new(items), nulls)
}

#[test]
fn nested_columns_conform_and_name_the_row_that_holds_the_fault() {
    let good = list_of(
        structs(vec![Some(1), Some(2), Some(3)], None),
        &[1, 0, 2],
        None,
    );
    assert_eq!(
        one(NESTED, good.clone()).unwrap(),
        r#"[{"x":1}] [] [{"x":2},{"x":3}]"#
    );
    assert_eq!(
        one(NESTED, good.slice(1, 2)).unwrap(),
        r#"[] [{"x":2},{"x":3}]"#
    );
    let bad = list_of(
        structs(vec![Some(1), Some(2), None], None),
        &[1, 0, 2],
        None,
    );
    assert_eq!(
        refused(NESTED, bad),
        r#"row 7, field "a[1].x": null in a required field"#
    );
    let nulls = Some(NullBuffer::from(vec![true, false]));
    let bad = list_of(
        structs(vec![Some(1), Some(2)], nulls.clone()),
        &[0, 2],
        None,
    );
    assert_eq!(
        refused(NESTED, bad),
        r#"row 6, field "a[1]": null in a required field"#
    );
    // Beneath a null there may be anything.
    let masked = list_of(structs(vec![Some(1), None], None), &[1, 1], nulls);
    assert_eq!(one(NESTED, masked).unwrap(), r#"[{"x":1}] null"#);
}

#[test]
fn lists_of_other_kinds_become_lists() {
    let ty = r#"{"type":"list","element-required":false,"element":"long"}"#;
    let field = Arc::new(Field::new("item", DataType::Int32, true));
    let values: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
    let fixed = FixedSizeListArray::new(Arc::clone(&field), 2, Arc::clone(&values), None);
    assert_eq!(one(ty, fixed).unwrap(), "[1,2] [3,4]");
    let large = LargeListArray::new(field, OffsetBuffer::from_lengths([3, 1]), values, None);
    assert_eq!(one(ty, large).unwrap(), "[1,2,3] [4]");
}

#[test]
fn few_bytes_that_stand_for_many_are_refused() {
    let values = StringArray::from(vec!["x".repeat(1 << 20)]);
    let keys = Int32Array::from(vec![0; 1 + EXPANDED_BYTES_MAX / (1 << 20)]);
    let words = DictionaryArray::new(keys, Arc::new(values));
    assert_eq!(one("string", words).unwrap_err().code(), "TOO_LARGE");
    let wide: Vec<_> = (0..100).map(|i| format!("c{i}")).collect();
    let columns: Vec<_> = wide
        .iter()
        .map(|name| (name.as_str(), "decimal(38,0)"))
        .collect();
    let point: Vec<_> = columns
        .iter()
        .map(|(name, ty)| format!(r#"{{"name":"{name}","required":false,"type":"{ty}"}}"#))
        .collect();
    let ty = format!(r#"{{"type":"struct","fields":[{}]}}"#, point.join(","));
    let nulls = NullArray::new(EXPANDED_BYTES_MAX / 100);
    assert_eq!(one(&ty, nulls).unwrap_err().code(), "TOO_LARGE");
}

#[test]
fn a_stream_gives_its_batches() {
    let (_, rows) = random_batch(3, 10);
    let parts = [rows.slice(0, 4), rows.slice(4, 6)];
    for compression in [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ] {
        let bytes = stream(&parts, compression);
        let mut reader = StreamReader::new(bytes.as_slice(), StreamLimits::default());
        let read: Vec<_> = reader.by_ref().map(Result::unwrap).collect();
        assert_eq!(read, parts);
        assert_eq!(reader.rows(), 10);
        // Cut off: an error, not an end.
        let reader = StreamReader::new(&bytes[..bytes.len() - 20], StreamLimits::default());
        assert!(reader.last().unwrap().is_err());
    }
}

#[test]
fn limits_of_a_stream_hold() {
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![7; 100_000]));
    let rows = batch(vec![("a", ints)]);
    let bytes = stream(&[rows], Some(CompressionType::LZ4_FRAME));
    assert!(bytes.len() < 10_000);
    let reject = |limits| {
        let error = StreamReader::new(bytes.as_slice(), limits)
            .last()
            .unwrap()
            .unwrap_err();
        match error.reason {
            Reason::BatchTooLarge { what, max, .. } => (what, max),
            Reason::CorruptArrow { .. } => ("corrupt", 0),
            _ => panic!("{error}"),
        }
    };
    let default = StreamLimits::default();
    let little = StreamLimits {
        decoded_bytes_max: 700_000,
        ..default
    };
    let error = StreamReader::new(bytes.as_slice(), little).last().unwrap();
    assert_eq!(error.unwrap_err().code(), "TOO_LARGE");
    assert_eq!(
        reject(StreamLimits {
            batch_rows_max: 99_999,
            ..default
        }),
        ("rows", 99_999)
    );
    assert_eq!(
        reject(StreamLimits {
            body_bytes_max: 1000,
            ..default
        }),
        ("bytes", 1000)
    );
    assert_eq!(
        reject(StreamLimits {
            metadata_bytes_max: 10,
            ..default
        }),
        ("corrupt", 0)
    );
}

#[test]
fn packed_messages_refuse_what_is_not_theirs() {
    let schema = schema_of(&[("a", "long")]);
    let rows = batch(vec![("a", Arc::new(Int64Array::from(vec![1, 2])))]);
    let message = packed::encode(&rows).unwrap();
    assert_eq!(packed::decode(&message, &schema).unwrap().num_rows(), 2);
    let both = [&message[..], b"x"].concat();
    for bad in [b"".as_slice(), b"{}", &message[..message.len() - 8], &both] {
        assert_eq!(
            packed::decode(bad, &schema).unwrap_err().code(),
            "CORRUPT_ARROW"
        );
    }
    let rejection = packed::decode(&message, &schema_of(&[("b", "long")])).unwrap_err();
    assert_eq!(rejection.code(), "UNKNOWN_FIELD");
    let many: ArrayRef = Arc::new(BooleanArray::new_null(packed::ROWS_MAX + 1));
    packed::encode(&batch(vec![("a", many)])).unwrap_err();
}

#[test]
fn a_packed_message_of_constant_rows_stays_within_its_bounds() {
    let schema = schema_of(&[("a", "string"), ("b", "long")]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["constant text"; 400_000]));
    let longs: ArrayRef = Arc::new(Int64Array::from(vec![7; 400_000]));
    let rows = batch(vec![("a", text), ("b", longs)]);
    let message = packed::encode(&rows).unwrap();
    assert_eq!(
        packed::decode(&message, &schema).unwrap().num_rows(),
        400_000
    );
}

#[test]
fn several_batches_in_one_message_are_one() {
    let schema = schema_of(&[("a", "long!")]);
    let ints = |values: Vec<Option<i64>>| {
        batch(vec![("a", Arc::new(Int64Array::from(values)) as ArrayRef)])
    };
    let message = stream(&[ints(vec![Some(1)]), ints(vec![Some(2), Some(3)])], None);
    assert_eq!(packed::decode(&message, &schema).unwrap().num_rows(), 3);
    let message = stream(&[ints(vec![Some(1)]), ints(vec![Some(2), None])], None);
    assert_eq!(packed::decode(&message, &schema).unwrap_err().row, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn packed_rows_come_back(seed in any::<u64>(), cut in 0..5usize) {
        let (schema, rows) = random_batch(seed, 8);
        let rows = rows.slice(cut, 8 - cut);
        let message = packed::encode(&rows).unwrap();
        prop_assert_eq!(packed::decode(&message, &schema).unwrap(), rows);
    }

    #[test]
    fn damaged_messages_are_refused_or_read_but_never_panic(
        seed in any::<u64>(), flips in any::<[u64; 24]>(), plain in any::<bool>()
    ) {
        let (schema, rows) = random_batch(seed, 6);
        let message = if plain {
            stream(&[rows], None)
        } else {
            packed::encode(&rows).unwrap().to_vec()
        };
        for flip in flips {
            let mut damaged = message.clone();
            let mut rng = Rng(flip | 1);
            for _ in 0..=rng.below(3) {
                let at = rng.below(damaged.len());
                match rng.below(3) {
                    0 => damaged[at] ^= 1 << rng.below(8),
                    1 => damaged[at] = [0, 0xff, 0x7f, 0x80][rng.below(4)],
                    _ => {
                        let tail = damaged.len().min(at + 8);
                        damaged[at..tail].fill([0, 0xff, 0x7f][rng.below(3)]);
                    }
                }
            }
            if rng.below(8) == 0 {
                damaged.truncate(rng.below(damaged.len() + 1));
            }
            if let Ok(rows) = packed::decode(&damaged, &schema) {
                // Whatever was read is whole: it prints and packs again.
                let _ = lines(&rows);
                packed::encode(&rows).unwrap();
            }
            for batch in StreamReader::new(damaged.as_slice(), StreamLimits::default()).flatten() {
                let _ = conform(&batch, &schema, 0);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_stream(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let schema = schema_of(&[("a", "long")]);
        prop_assert!(packed::decode(&bytes, &schema).is_err());
        let mut stream = vec![0xff; 4];
        stream.extend(bytes);
        let _ = StreamReader::new(stream.as_slice(), StreamLimits::default()).count();
    }
}

#[test]
fn scalar_buffers_beneath_nulls_are_not_looked_at() {
    let values = ScalarBuffer::from(vec![1_i64, i64::MAX]);
    let nulls = Some(NullBuffer::from(vec![true, false]));
    assert_eq!(
        one("int", Int64Array::new(values, nulls)).unwrap(),
        "1 null"
    );
}
