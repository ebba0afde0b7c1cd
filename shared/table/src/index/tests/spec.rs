use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int8Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use tidelake_schema::{Field, Primitive, TableSchema, Type};

use super::*;

/// A value whose order is that of its type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Boolean(bool),
    Int(i32),
    Long(i64),
    Decimal(i128),
    Uuid(u128),
    Text(String),
    Binary(Vec<u8>),
}

fn types() -> impl Strategy<Value = Primitive> {
    let decimal = |precision| Primitive::Decimal {
        precision,
        scale: 0,
    };
    prop_oneof![
        prop::sample::select(vec![
            Primitive::Boolean,
            Primitive::Byte,
            Primitive::Short,
            Primitive::Int,
            Primitive::Long,
            Primitive::Date,
            Primitive::Time,
            Primitive::Timestamp,
            Primitive::TimestampTz,
            Primitive::TimestampNs,
            Primitive::TimestampTzNs,
            Primitive::Uuid,
        ]),
        prop::sample::select(vec![Primitive::String, Primitive::Binary]),
        prop::sample::select(vec![1, 9, 10, 18, 19, 38]).prop_map(decimal),
        (1..20_u32).prop_map(Primitive::Fixed),
    ]
}

fn value(ty: Primitive) -> BoxedStrategy<Value> {
    let few = prop::sample::select(vec![0_u8, 1, 0x7F, 0x80, 0xFF]);
    match ty {
        Primitive::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        Primitive::Byte => prop_oneof![any::<i8>(), Just(i8::MIN), Just(i8::MAX)]
            .prop_map(|value| Value::Int(value.into()))
            .boxed(),
        Primitive::Short => prop_oneof![any::<i16>(), Just(i16::MIN), Just(i16::MAX)]
            .prop_map(|value| Value::Int(value.into()))
            .boxed(),
        Primitive::Int | Primitive::Date => prop_oneof![
            any::<i32>(),
            prop::sample::select(vec![i32::MIN, -1, 0, 1, i32::MAX])
        ]
        .prop_map(Value::Int)
        .boxed(),
        Primitive::Decimal { precision, .. } => {
            let max = 10_i128.pow(u32::from(precision)) - 1;
            prop_oneof![-max..=max, prop::sample::select(vec![-max, -1, 0, 1, max])]
                .prop_map(Value::Decimal)
                .boxed()
        }
        Primitive::Uuid => prop_oneof![any::<u128>(), 0..3_u128]
            .prop_map(Value::Uuid)
            .boxed(),
        Primitive::Fixed(bytes) => prop::collection::vec(few, bytes as usize)
            .prop_map(Value::Binary)
            .boxed(),
        Primitive::Binary => prop::collection::vec(few, 0..20)
            .prop_map(Value::Binary)
            .boxed(),
        Primitive::String => prop::collection::vec(
            prop::sample::select(vec!["\0", "\u{1}", "a", "ab", "ö", "\u{10FFFF}"]),
            0..8,
        )
        .prop_map(|parts| Value::Text(parts.concat()))
        .boxed(),
        _ => prop_oneof![
            any::<i64>(),
            prop::sample::select(vec![i64::MIN, -1, 0, 1, i64::MAX])
        ]
        .prop_map(Value::Long)
        .boxed(),
    }
}

fn column(ty: Primitive, values: &[&Value], view: bool) -> ArrayRef {
    let longs = || {
        values.iter().map(|value| match value {
            Value::Long(value) => *value,
            other => panic!("{other:?}"),
        })
    };
    let ints = || {
        values.iter().map(|value| match value {
            Value::Int(value) => *value,
            other => panic!("{other:?}"),
        })
    };
    let texts = || {
        values.iter().map(|value| match value {
            Value::Text(text) => text.clone(),
            Value::Uuid(value) => uuid::Uuid::from_u128(*value).to_string(),
            other => panic!("{other:?}"),
        })
    };
    match ty {
        Primitive::Boolean => {
            let values = values.iter().map(|value| **value == Value::Boolean(true));
            Arc::new(BooleanArray::from(values.collect::<Vec<_>>()))
        }
        Primitive::Byte => Arc::new(Int8Array::from_iter_values(ints().map(|v| v as i8))),
        Primitive::Short => Arc::new(Int16Array::from_iter_values(ints().map(|v| v as i16))),
        Primitive::Int => Arc::new(Int32Array::from_iter_values(ints())),
        Primitive::Date => Arc::new(Date32Array::from_iter_values(ints())),
        Primitive::Long => Arc::new(Int64Array::from_iter_values(longs())),
        Primitive::Time => Arc::new(Time64MicrosecondArray::from_iter_values(longs())),
        Primitive::Timestamp => Arc::new(TimestampMicrosecondArray::from_iter_values(longs())),
        Primitive::TimestampTz => {
            Arc::new(TimestampMicrosecondArray::from_iter_values(longs()).with_timezone("UTC"))
        }
        Primitive::TimestampNs => Arc::new(TimestampNanosecondArray::from_iter_values(longs())),
        Primitive::TimestampTzNs => {
            Arc::new(TimestampNanosecondArray::from_iter_values(longs()).with_timezone("UTC"))
        }
        Primitive::Decimal { precision, scale } => {
            let values = values.iter().map(|value| match value {
                Value::Decimal(value) => *value,
                other => panic!("{other:?}"),
            });
            let array = Decimal128Array::from_iter_values(values);
            Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
        }
        Primitive::String | Primitive::Uuid if view => {
            Arc::new(StringViewArray::from_iter_values(texts()))
        }
        Primitive::String | Primitive::Uuid => Arc::new(StringArray::from_iter_values(texts())),
        Primitive::Binary | Primitive::Fixed(_) => {
            let values = values.iter().map(|value| match value {
                Value::Binary(value) => value.clone(),
                other => panic!("{other:?}"),
            });
            Arc::new(BinaryArray::from_iter_values(values))
        }
        Primitive::Float | Primitive::Double => panic!("no key"),
    }
}

/// A table with a column before the key and the key's columns in reverse.
fn schema(types: &[Primitive]) -> TableSchema {
    let field = |id: usize, ty| Field {
        id: id as i32,
        name: format!("c{id}"),
        required: true,
        ty: Type::Primitive(ty),
        doc: None,
    };
    let keys = types.iter().enumerate().rev();
    let keys = keys.map(|(i, ty)| field(i + 2, *ty));
    let schema = TableSchema {
        schema_id: 0,
        fields: [field(1, Primitive::Double)]
            .into_iter()
            .chain(keys)
            .collect(),
        identifier_field_ids: (2..types.len() as i32 + 2).collect(),
    };
    schema.validate().unwrap();
    schema
}

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let name = |i: usize| format!("c{i}");
    let columns = columns.into_iter().enumerate();
    RecordBatch::try_from_iter(columns.map(|(i, column)| (name(i), column))).unwrap()
}

fn tables() -> impl Strategy<Value = (Vec<Primitive>, Vec<Vec<Value>>, bool)> {
    let types = prop::collection::vec(types(), 1..4);
    types.prop_flat_map(|types| {
        let row: Vec<_> = types.iter().map(|ty| value(*ty)).collect();
        (
            Just(types),
            prop::collection::vec(row, 2..24),
            any::<bool>(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn keys_are_ordered_and_equal_as_their_values((types, rows, view) in tables()) {
        let schema = schema(&types);
        let spec = KeySpec::of(&schema).unwrap();
        let columns = types.iter().enumerate().map(|(i, ty)| {
            let values: Vec<&Value> = rows.iter().map(|row| &row[i]).collect();
            column(*ty, &values, view)
        });
        let key_columns: Vec<ArrayRef> = columns.collect();
        let keys = spec.keys(&batch(key_columns.clone())).unwrap();
        prop_assert_eq!(keys.kind(), spec.kind());
        if let KeyKind::Fixed { bytes } = spec.kind() {
            let max = u128::MAX >> (128 - 8 * bytes);
            prop_assert!(keys.iter().all(|key| key <= KeyRef::Fixed(max)));
        }
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                prop_assert_eq!(keys.get(i).cmp(&keys.get(j)), a.cmp(b));
            }
        }
        // The same from whole rows, and from a slice.
        let other: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.0; rows.len()]));
        let all = [other].into_iter().chain(key_columns.into_iter().rev()).collect();
        let all = batch(all);
        prop_assert_eq!(&spec.rows(&all).unwrap(), &keys);
        let sliced = spec.rows(&all.slice(1, rows.len() - 1)).unwrap();
        prop_assert!(sliced.iter().eq(keys.iter().skip(1)));
    }
}

#[test]
fn the_kind_follows_from_the_width() {
    let kind = |types: &[Primitive]| KeySpec::of(&schema(types)).unwrap().kind();
    let fixed = |bytes| KeyKind::Fixed { bytes };
    assert_eq!(kind(&[Primitive::Long]), fixed(8));
    assert_eq!(kind(&[Primitive::Boolean, Primitive::Int]), fixed(5));
    assert_eq!(kind(&[Primitive::Byte, Primitive::Short]), fixed(3));
    assert_eq!(kind(&[Primitive::Uuid]), fixed(16));
    assert_eq!(kind(&[Primitive::Long, Primitive::Timestamp]), fixed(16));
    assert_eq!(kind(&[Primitive::Uuid, Primitive::Boolean]), KeyKind::Bytes);
    assert_eq!(kind(&[Primitive::Fixed(17)]), KeyKind::Bytes);
    assert_eq!(kind(&[Primitive::String]), KeyKind::Bytes);
    let spec = KeySpec::of(&schema(&[Primitive::Int, Primitive::Date])).unwrap();
    assert_eq!(spec.columns(), [2, 1]);
    let mut without = schema(&[Primitive::Int]);
    without.identifier_field_ids.clear();
    assert_eq!(KeySpec::of(&without), None);
}

#[test]
fn rows_without_a_key_are_refused() {
    let spec = |ty| KeySpec::of(&schema(&[ty])).unwrap();
    let refused = |ty, column: ArrayRef| {
        let error = spec(ty).keys(&batch(vec![column])).unwrap_err();
        assert_eq!(error.kind(), tidelake_core::ErrorKind::Invalid);
        error.to_string()
    };
    let null: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
    assert_eq!(
        refused(Primitive::Int, null.clone()),
        "key column c2: null in a key"
    );
    let long: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert_eq!(
        refused(Primitive::Int, long.clone()),
        "key column c2: found Arrow type Int64, expected int"
    );
    let micros: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    refused(Primitive::TimestampNs, micros);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["0190163d8694739bbd7da21f82ff9ec1"]));
    assert_eq!(refused(Primitive::Uuid, text), "key column c2: not a uuid");
    let short: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"abc"]));
    assert_eq!(
        refused(Primitive::Fixed(4), short),
        "key column c2: 3 bytes, expected fixed[4]"
    );
    let wide: ArrayRef = Arc::new(Decimal128Array::from(vec![i128::from(i32::MAX) + 1]));
    refused(
        Primitive::Decimal {
            precision: 9,
            scale: 0,
        },
        wide,
    );
    let error = spec(Primitive::Long)
        .keys(&batch(vec![long.clone(), long]))
        .unwrap_err();
    assert_eq!(error.to_string(), "the batch has 2 columns, expected 1");
}
