use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int8Array, Int16Array,
    Int32Array, Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray,
};
use proptest::prelude::*;
use tidelake_core::partition::murmur2;
use tidelake_schema::Field;

use super::*;
use crate::Reason;
use crate::json::encode::{JsonStyle, write_rows};
use crate::json::{JsonDecoder, JsonLimits};
use crate::temporal::MICROS_A_DAY;

const KINDS: [Primitive; 16] = [
    Primitive::Boolean,
    Primitive::Byte,
    Primitive::Short,
    Primitive::Int,
    Primitive::Long,
    Primitive::Decimal {
        precision: 38,
        scale: 0,
    },
    Primitive::Decimal {
        precision: 20,
        scale: 20,
    },
    Primitive::Date,
    Primitive::Time,
    Primitive::Timestamp,
    Primitive::TimestampTz,
    Primitive::TimestampNs,
    Primitive::TimestampTzNs,
    Primitive::String,
    Primitive::Uuid,
    Primitive::Binary,
];

/// A table whose first column is no key, and whose key's columns stand in the reverse order.
fn table(kinds: &[Primitive]) -> TableSchema {
    let field = |(place, ty): (usize, Type), required| Field {
        id: place as i32 + 1,
        name: format!("c{place}"),
        required,
        ty,
        doc: None,
    };
    let note = field((0, Type::Primitive(Primitive::String)), false);
    let keys = kinds.iter().enumerate();
    let keys = keys.map(|(place, kind)| field((place + 1, Type::Primitive(*kind)), true));
    let fields: Vec<_> = [note].into_iter().chain(keys).collect();
    TableSchema {
        schema_id: 0,
        identifier_field_ids: fields[1..].iter().rev().map(|field| field.id).collect(),
        fields,
    }
}

fn limits<T: Clone + std::fmt::Debug + 'static>(
    any: impl Strategy<Value = T> + 'static,
    edges: &[T],
) -> BoxedStrategy<T> {
    prop_oneof![3 => any, 1 => prop::sample::select(edges.to_vec())].boxed()
}

fn texts() -> BoxedStrategy<String> {
    let edges = [
        "",
        " ",
        "null",
        "true",
        "1",
        "\"",
        "\\",
        "[\"a\",1]",
        "a\u{0}b",
        "\u{1f}\n\t\r\u{8}\u{c}",
        "\u{7f}\u{80}",
        "ключ",
        "𝄞\u{10ffff}",
        "\u{2028}",
        "%2F/?#",
        "-0",
    ];
    let edges = edges.map(str::to_owned);
    prop_oneof![
        3 => any::<String>(),
        2 => "[a-z\"\\\\\\x00-\\x20é]{0,20}",
        2 => prop::sample::select(edges.to_vec()),
    ]
    .boxed()
}

fn column(kind: Primitive, rows: usize) -> BoxedStrategy<ArrayRef> {
    fn of<T: std::fmt::Debug + 'static>(
        values: BoxedStrategy<T>,
        rows: usize,
        build: impl Fn(Vec<T>) -> ArrayRef + 'static,
    ) -> BoxedStrategy<ArrayRef> {
        prop::collection::vec(values, rows).prop_map(build).boxed()
    }
    let longs = || {
        limits(
            any::<i64>(),
            &[0, -1, i64::MIN, i64::MAX, 999_999, 1_000_000],
        )
    };
    match kind {
        Primitive::Boolean => of(any::<bool>().boxed(), rows, |v| {
            Arc::new(BooleanArray::from(v))
        }),
        Primitive::Byte => of(limits(any::<i8>(), &[0, -1, i8::MIN, i8::MAX]), rows, |v| {
            Arc::new(Int8Array::from(v))
        }),
        Primitive::Short => of(
            limits(any::<i16>(), &[0, -1, i16::MIN, i16::MAX]),
            rows,
            |v| Arc::new(Int16Array::from(v)),
        ),
        Primitive::Int => of(
            limits(any::<i32>(), &[0, -1, i32::MIN, i32::MAX]),
            rows,
            |v| Arc::new(Int32Array::from(v)),
        ),
        Primitive::Long => of(longs(), rows, |v| Arc::new(Int64Array::from(v))),
        Primitive::Decimal { precision, scale } => {
            let max = 10_i128.pow(precision.into()) - 1;
            of(
                limits(-max..=max, &[0, 1, -1, max, -max, 10, -100]),
                rows,
                move |v| {
                    let array = Decimal128Array::from(v);
                    Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
                },
            )
        }
        Primitive::Date => of(
            limits(any::<i32>(), &[0, i32::MIN, i32::MAX, -719_529, 2_932_897]),
            rows,
            |v| Arc::new(Date32Array::from(v)),
        ),
        Primitive::Time => of(
            limits(0..MICROS_A_DAY, &[0, 1, 1000, MICROS_A_DAY - 1]),
            rows,
            |v| Arc::new(Time64MicrosecondArray::from(v)),
        ),
        Primitive::Timestamp => of(longs(), rows, |v| {
            Arc::new(TimestampMicrosecondArray::from(v))
        }),
        Primitive::TimestampTz => of(longs(), rows, |v| {
            Arc::new(TimestampMicrosecondArray::from(v).with_timezone("UTC"))
        }),
        Primitive::TimestampNs => of(longs(), rows, |v| {
            Arc::new(TimestampNanosecondArray::from(v))
        }),
        Primitive::TimestampTzNs => of(longs(), rows, |v| {
            Arc::new(TimestampNanosecondArray::from(v).with_timezone("UTC"))
        }),
        Primitive::String => of(texts(), rows, |v| {
            Arc::new(StringArray::from_iter_values(v))
        }),
        Primitive::Uuid => of(
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}".boxed(),
            rows,
            |v| Arc::new(StringArray::from_iter_values(v)),
        ),
        Primitive::Fixed(length) => of(
            prop::collection::vec(any::<u8>(), length as usize).boxed(),
            rows,
            |v| Arc::new(BinaryArray::from_iter_values(v)),
        ),
        Primitive::Binary => of(
            prop::collection::vec(any::<u8>(), 0..20).boxed(),
            rows,
            |v| Arc::new(BinaryArray::from_iter_values(v)),
        ),
        Primitive::Float | Primitive::Double => unreachable!("no key"),
    }
}

/// A table of one to three key columns, and rows of it.
fn tables() -> impl Strategy<Value = (TableSchema, RecordBatch)> {
    let kind = prop_oneof![8 => prop::sample::select(&KINDS[..]), 1 => (1..20_u32).prop_map(Primitive::Fixed)];
    prop::collection::vec(kind, 1..4).prop_flat_map(|kinds| {
        let schema = table(&kinds);
        let columns: Vec<_> = kinds.iter().map(|kind| column(*kind, 8)).collect();
        columns.prop_map(move |columns| {
            let note: ArrayRef = Arc::new(StringArray::from(vec![Some("x"); 8]));
            let columns = [note].into_iter().chain(columns).collect();
            let batch = RecordBatch::try_new(to_arrow(&schema), columns).unwrap();
            (schema.clone(), batch)
        })
    })
}

fn texts_of(key: &KeyText, rows: &RecordBatch) -> Vec<Vec<u8>> {
    let mut texts = TextColumn::default();
    key.write_rows(rows, &mut texts).unwrap();
    let each: Vec<_> = texts.iter().map(<[u8]>::to_vec).collect();
    assert_eq!(each.len(), texts.len());
    assert!((0..each.len()).all(|index| texts.get(index) == each[index]));
    each
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn canonical_texts_parse_back_to_their_keys((schema, rows) in tables()) {
        let key = KeyText::new(&schema).unwrap().unwrap();
        let texts = texts_of(&key, &rows);
        let mut builder = KeyBuilder::new(&schema).unwrap().unwrap();
        for text in &texts {
            builder.push_text(text).unwrap();
            let mut again = Vec::new();
            builder.append_last(&key, &mut again);
            prop_assert_eq!(&again, text);
        }
        let keys = builder.finish().unwrap();
        prop_assert_eq!(&keys, &rows.project(key.columns()).unwrap());
        prop_assert_eq!(keys.schema_ref(), key.schema());
        let mut again = TextColumn::default();
        key.write_keys(&keys, &mut again).unwrap();
        prop_assert!(again.iter().eq(&texts));
    }

    #[test]
    fn texts_are_what_the_json_encoder_writes((schema, rows) in tables()) {
        let key = KeyText::new(&schema).unwrap().unwrap();
        let keys = rows.project(key.columns()).unwrap();
        for (row, text) in texts_of(&key, &rows).into_iter().enumerate() {
            let mut json = Vec::new();
            write_rows(&keys.slice(row, 1), keys.schema_ref(), &mut json, JsonStyle::Arrays).unwrap();
            let expected = if key.columns().len() > 1 {
                json
            } else {
                match serde_json::from_slice::<serde_json::Value>(&json).unwrap()[0].clone() {
                    serde_json::Value::String(text) => text.into_bytes(),
                    other => other.to_string().into_bytes(),
                }
            };
            prop_assert_eq!(String::from_utf8(text).unwrap(), String::from_utf8(expected).unwrap());
        }
    }

    #[test]
    fn keys_are_read_out_of_whole_rows_and_out_of_growing_columns((schema, rows) in tables()) {
        let key = KeyText::new(&schema).unwrap().unwrap();
        let texts = texts_of(&key, &rows);
        let mut json = Vec::new();
        write_rows(&rows, rows.schema_ref(), &mut json, JsonStyle::Objects).unwrap();
        let mut builder = KeyBuilder::new(&schema).unwrap().unwrap();
        prop_assert_eq!(builder.push_ndjson(&json).unwrap(), rows.num_rows());
        prop_assert_eq!(builder.finish().unwrap(), rows.project(key.columns()).unwrap());
        // Years that only a key may have are refused in records.
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
        for (line, text) in json.split_inclusive(|byte| *byte == b'\n').zip(&texts) {
            if decoder.push_record(line).is_ok() {
                let mut found = Vec::new();
                decoder.append_last_key(key.columns(), &mut found);
                prop_assert_eq!(&found, text);
            }
        }
    }

    #[test]
    fn buckets_are_those_of_the_texts((schema, rows) in tables(), buckets in 1..20_u32) {
        let key = KeyText::new(&schema).unwrap().unwrap();
        let mut found = Vec::new();
        key.row_buckets(&rows, buckets, &mut found).unwrap();
        let keys = rows.project(key.columns()).unwrap();
        key.key_buckets(&keys, buckets, &mut found).unwrap();
        let texts = texts_of(&key, &rows);
        let expected = texts.iter().map(|text| (murmur2(text) & 0x7fff_ffff) % buckets);
        prop_assert!(found.into_iter().eq(expected.clone().chain(expected)));
    }

    #[test]
    fn what_is_read_over_is_taken_exactly_if_it_is_json(
        tokens in prop::collection::vec(prop::sample::select(vec![
            // The space keeps exponents short: the reference refuses numbers beyond a double.
            "{", "}", "[", "]", ",", ":", "\"a\"", "\"a\":", "{\"b\":[1,", "]}", "1", "-0.5e+3 ", "01",
            "true", "nul", "null", " ", "\"\\u00e9\\n\"", "\"\\ud800\"", "\"\\x\"", "\"", "é", "\"é\"",
        ]), 1..6),
    ) {
        let schema = table(&[Primitive::Long]);
        let mut builder = KeyBuilder::new(&schema).unwrap().unwrap();
        let text = tokens.concat();
        let json = format!("{{\"c0\":{text},\"c1\":7}}");
        // Text may close the object and go on with another field.
        let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        let pushed = builder.push_object(json.as_bytes());
        prop_assert_eq!(pushed.is_ok(), is_json, "{} {:?}", json, pushed);
    }

    #[test]
    fn any_bytes_are_a_key_or_refused_and_leave_nothing(
        kind in prop::sample::select(&KINDS[..]),
        several in any::<bool>(),
        text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..30),
            "[\\[\\]\",0-9a-zTZ:.+-]{0,30}".prop_map(String::into_bytes),
        ],
    ) {
        let kinds = if several { vec![Primitive::Int, kind] } else { vec![kind] };
        let schema = table(&kinds);
        let key = KeyText::new(&schema).unwrap().unwrap();
        let mut builder = KeyBuilder::new(&schema).unwrap().unwrap();
        let pushed = builder.push_text(&text);
        prop_assert_eq!(builder.rows(), usize::from(pushed.is_ok()));
        if pushed.is_ok() {
            let mut canonical = Vec::new();
            builder.append_last(&key, &mut canonical);
            builder.push_text(&canonical).unwrap();
            let keys = builder.finish().unwrap();
            prop_assert_eq!(keys.slice(0, 1), keys.slice(1, 1));
        } else {
            prop_assert_eq!(builder.finish().unwrap().num_rows(), 0);
        }
    }
}

fn canonical(kinds: &[Primitive], text: &str) -> Result<String, String> {
    let schema = table(kinds);
    let key = KeyText::new(&schema).unwrap().unwrap();
    let mut builder = KeyBuilder::new(&schema).unwrap().unwrap();
    builder
        .push_text(text.as_bytes())
        .map_err(|rejection| rejection.to_string())?;
    let mut out = Vec::new();
    builder.append_last(&key, &mut out);
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn what_json_takes_for_a_value_is_taken_and_made_canonical() {
    let money = Primitive::Decimal {
        precision: 9,
        scale: 2,
    };
    let cases: [(&[Primitive], &str, &str); 9] = [
        (&[money], "12.5", "12.50"),
        (&[money], "1e3", "1000.00"),
        (&[Primitive::Long], "-0", "0"),
        (
            &[Primitive::TimestampTz],
            "2026-11-21 01:00:00.500000+01:00",
            "2026-11-21T00:00:00.500Z",
        ),
        (
            &[Primitive::Uuid],
            "ABCDEF00-0000-4000-8000-000000000000",
            "abcdef00-0000-4000-8000-000000000000",
        ),
        (&[Primitive::String], "", ""),
        (&[Primitive::String], "\"quoted\"", "\"quoted\""),
        (
            &[Primitive::Long, Primitive::String],
            " [ \"\\u00e9\\/\" , 7 ] ",
            "[\"é/\",7]",
        ),
        (&[Primitive::Long, money], "[12.5,7]", "[\"12.50\",7]"),
    ];
    for (kinds, text, expected) in cases {
        assert_eq!(canonical(kinds, text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn texts_that_are_no_key_are_refused_with_the_reason() {
    let cases: [(&[Primitive], &str, &str); 14] = [
        (&[Primitive::Long], "", "expected a value"),
        (&[Primitive::Long], "7 ", "white space"),
        (&[Primitive::Long], "7,8", "expected nothing more"),
        (&[Primitive::Long], "\"7\"", "expected long, found string"),
        (&[Primitive::Long], "null", "null in a required field"),
        (&[Primitive::Int], "2147483648", "out of range"),
        (&[Primitive::Short], "-32769", "out of range"),
        (&[Primitive::Byte], "128", "out of range"),
        (&[Primitive::Date], "2026-02-30", "no such day"),
        (
            &[Primitive::Date],
            "\\u0032026-01-01",
            "a character that none has",
        ),
        (&[Primitive::Binary], "a", "not base64"),
        (
            &[Primitive::Long, Primitive::String],
            "eu",
            "expected an array of the key's columns in key order",
        ),
        (
            &[Primitive::Long, Primitive::String],
            "[\"eu\"]",
            "expected an array",
        ),
        (
            &[Primitive::Long, Primitive::String],
            "[\"eu\",7,8]",
            "expected ']' behind the key's last column",
        ),
    ];
    for (kinds, text, expected) in cases {
        let refused = canonical(kinds, text).unwrap_err();
        assert!(refused.contains("is no key of this table"), "{refused}");
        assert!(refused.contains(expected), "{text}: {refused}");
    }
    let refused = canonical(&[Primitive::Int, Primitive::String], "[\"eu\",true]").unwrap_err();
    assert_eq!(
        refused,
        "row 0, field \"c1\": \"[\"eu\",true]\" is no key of this table: expected int, found true"
            .replace("\"[\"eu\",true]\"", "\"[\\\"eu\\\",true]\"")
    );
}

#[test]
fn objects_may_have_other_columns_with_anything_in_them_but_no_unknown_ones() {
    let schema = table(&[Primitive::Long]);
    let mut keys = KeyBuilder::new(&schema).unwrap().unwrap();
    let body =
        br#"[{"c0":{"a":[1,null,{"b":"\u00e9"}],"c":true},"c1":1},{"c1":2},{"c0":null,"c1":3}]"#;
    assert_eq!(keys.push_array(body), Ok(3));
    for (json, code) in [
        (r#"{"c0":"x"}"#, "MISSING_FIELD"),
        (r#"{"c1":null}"#, "NULL_IN_REQUIRED"),
        (r#"{"c1":1,"nope":2}"#, "UNKNOWN_FIELD"),
        (r#"{"c1":1,"c1":2}"#, "DUPLICATE_FIELD"),
        (r#"{"c0":{"a":1,},"c1":1}"#, "MALFORMED_JSON"),
        (r#"{"c0":"\ud800","c1":1}"#, "MALFORMED_JSON"),
        (r#"{"c0":nul,"c1":1}"#, "MALFORMED_JSON"),
    ] {
        let refused = keys.push_object(json.as_bytes()).unwrap_err();
        assert_eq!(refused.code(), code, "{json}: {refused}");
    }
    let deep = format!(
        "{{\"c0\":{}1{},\"c1\":1}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    assert_eq!(
        keys.push_object(deep.as_bytes()).unwrap_err().code(),
        "TOO_DEEP"
    );
    let keys = keys.finish().unwrap();
    assert_eq!(keys.num_columns(), 1);
    assert_eq!(keys.column(0).as_ref(), &Int64Array::from(vec![1, 2, 3]));
}

#[test]
fn a_text_has_its_limit_wherever_it_comes_from() {
    let schema = table(&[Primitive::String]);
    let key = KeyText::new(&schema).unwrap().unwrap();
    let mut builder = KeyBuilder::new(&schema).unwrap().unwrap();
    let (fits, large) = (
        "x".repeat(KEY_TEXT_BYTES_MAX),
        "x".repeat(KEY_TEXT_BYTES_MAX + 1),
    );
    builder.push_text(fits.as_bytes()).unwrap();
    let refused = builder.push_text(large.as_bytes()).unwrap_err();
    assert!(matches!(
        refused.reason,
        Reason::TooLarge {
            max: KEY_TEXT_BYTES_MAX,
            ..
        }
    ));
    let batch = |texts: Vec<&str>| {
        let note: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; texts.len()]));
        let columns = vec![note, Arc::new(StringArray::from(texts))];
        RecordBatch::try_new(to_arrow(&schema), columns).unwrap()
    };
    let mut found = Vec::new();
    key.row_buckets(&batch(vec!["a", &fits]), 4, &mut found)
        .unwrap();
    let mut texts = vec!["a"; BLOCK_ROWS + 3];
    texts.push(&large);
    match key.row_buckets(&batch(texts), 4, &mut found) {
        Err(KeyError::Rejected(rejection)) => assert_eq!(rejection.row, BLOCK_ROWS + 3),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_table_without_a_key_has_no_key_text() {
    let mut schema = table(&[Primitive::Long]);
    schema.identifier_field_ids.clear();
    assert!(KeyText::new(&schema).unwrap().is_none());
    assert!(KeyBuilder::new(&schema).unwrap().is_none());
    assert_eq!(key_schema(&schema).fields().len(), 0);
}

/// Other engines write uuids as they like.
#[test]
fn a_uuid_in_capitals_is_the_key_that_it_is_in_lower_case() {
    let lower = "abcdef00-0000-4000-8000-00000000000f";
    let mixed = "aBcDeF00-0000-4000-8000-00000000000f";
    let uuids: ArrayRef = Arc::new(StringArray::from(vec![
        lower.to_uppercase(),
        lower.to_owned(),
        mixed.to_owned(),
    ]));
    let longs: ArrayRef = Arc::new(Int64Array::from(vec![7; 3]));
    for (kinds, columns, expected) in [
        (
            &[Primitive::Uuid][..],
            vec![uuids.clone()],
            lower.to_owned(),
        ),
        (
            &[Primitive::Long, Primitive::Uuid],
            vec![uuids.clone(), longs],
            format!("[\"{lower}\",7]"),
        ),
    ] {
        let text = KeyText::new(&table(kinds)).unwrap().unwrap();
        let keys = RecordBatch::try_new(text.schema().clone(), columns).unwrap();
        let mut texts = TextColumn::default();
        text.write_keys(&keys, &mut texts).unwrap();
        assert!(texts.iter().all(|text| text == expected.as_bytes()));
        let mut buckets = Vec::new();
        text.key_buckets(&keys, 1_000, &mut buckets).unwrap();
        assert!(
            buckets.iter().all(|bucket| *bucket == buckets[0]),
            "{buckets:?}"
        );
    }
}
