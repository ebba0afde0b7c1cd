//! The decoder against oracles (serde_json with a slow typed conversion; arrow-json), against
//! arbitrary bytes, and its messages.

mod oracle;
pub(crate) mod random;
mod rejections;
mod splitters;

use arrow::array::RecordBatch;
use proptest::prelude::*;
use tidelake_schema::{Primitive, TableSchema, Type};

use super::encode::{JsonStyle, write_rows};
use super::{JsonDecoder, JsonLimits};
use oracle::canonical;
use random::{Rng, random_record, random_schema};

pub(crate) fn schema_of(columns: &[(&str, &str)]) -> TableSchema {
    let field = |(name, ty): &(&str, &str)| {
        let required = ty.ends_with('!');
        let ty = ty.trim_end_matches('!');
        let ty = if ty.starts_with('{') {
            ty.to_owned()
        } else {
            format!("{ty:?}")
        };
        format!(r#"{{"name":{name:?},"required":{required},"type":{ty}}}"#)
    };
    let fields: Vec<_> = columns.iter().map(field).collect();
    TableSchema::from_iceberg_json(&format!(r#"{{"fields":[{}]}}"#, fields.join(","))).unwrap()
}

fn decoder(schema: &TableSchema) -> JsonDecoder {
    JsonDecoder::new(schema, JsonLimits::default()).unwrap()
}

fn lines_of(batch: &RecordBatch) -> Vec<String> {
    let mut out = Vec::new();
    write_rows(batch, &batch.schema(), &mut out, JsonStyle::Objects).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// One record through the decoder: its canonical text, or none where it was refused.
fn decoded(schema: &TableSchema, json: &[u8]) -> Option<String> {
    let mut decoder = decoder(schema);
    let pushed = decoder.push_record(json);
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.num_rows(), usize::from(pushed.is_ok()));
    pushed.ok().map(|()| lines_of(&batch).remove(0))
}

fn mutated(mut text: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    const SALT: &[u8] = b"\"\\{}[]:,0919.-+eE \n\ttrufalsn\x00\x1f\xc3\xa9\xed\xa0\x80u/=";
    for _ in 0..=rng.below(2) {
        let at = rng.below(text.len() + 1);
        let salt = SALT[rng.below(SALT.len())];
        match rng.below(5) {
            0 if at < text.len() => text[at] ^= 1 << rng.below(8),
            1 if at < text.len() => text[at] = salt,
            2 => text.insert(at, salt),
            3 if at < text.len() => drop(text.remove(at)),
            4 => text.truncate(at),
            _ => {}
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn valid_records_decode_to_what_the_oracle_reads(seed in any::<u64>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        let json = random_record(&schema, &mut rng);
        let expected = canonical(&schema, json.as_bytes());
        prop_assert!(expected.is_some(), "the oracle refuses {json}");
        prop_assert_eq!(decoded(&schema, json.as_bytes()), expected, "{}", json);
    }

    #[test]
    fn mutated_records_are_accepted_exactly_if_the_oracle_accepts(seed in any::<u64>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        for _ in 0..8 {
            let json = mutated(random_record(&schema, &mut rng).into_bytes(), &mut rng);
            let expected = canonical(&schema, &json);
            let shown = String::from_utf8_lossy(&json).into_owned();
            prop_assert_eq!(decoded(&schema, &json), expected, "{}", shown);
        }
    }

    #[test]
    fn rows_survive_encoding_and_decoding(seed in any::<u64>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        let mut decoder = decoder(&schema);
        for _ in 0..5 {
            decoder.push_record(random_record(&schema, &mut rng).as_bytes()).unwrap();
        }
        let batch = decoder.finish().unwrap();
        let mut out = Vec::new();
        write_rows(&batch, &batch.schema(), &mut out, JsonStyle::Objects).unwrap();
        prop_assert_eq!(decoder.push_ndjson(&out).unwrap(), 5);
        prop_assert_eq!(decoder.finish().unwrap(), batch);
    }

    #[test]
    fn arrow_json_agrees_where_its_rules_are_the_same(seed in any::<u64>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        if !schema.fields.iter().all(|field| is_plain(&field.ty)) {
            return Ok(());
        }
        let mut text = String::new();
        for _ in 0..4 {
            text.push_str(&random_record(&schema, &mut rng).replace(['\n', '\r'], " "));
            text.push('\n');
        }
        let mut ours = decoder(&schema);
        prop_assert_eq!(ours.push_ndjson(text.as_bytes()).unwrap(), 4);
        let arrow = tidelake_schema::arrow::to_arrow(&schema);
        let mut theirs = arrow::json::ReaderBuilder::new(arrow)
            .with_strict_mode(true)
            .build_decoder()
            .unwrap();
        theirs.decode(text.as_bytes()).unwrap();
        prop_assert_eq!(ours.finish().unwrap(), theirs.flush().unwrap().unwrap(), "{}", text);
    }

    #[test]
    fn a_refused_call_leaves_nothing_behind(seed in any::<u64>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        let (mut touched, mut clean) = (decoder(&schema), decoder(&schema));
        for _ in 0..6 {
            let good = random_record(&schema, &mut rng);
            touched.push_record(good.as_bytes()).unwrap();
            clean.push_record(good.as_bytes()).unwrap();
            let mut lines: Vec<u8> = Vec::new();
            for _ in 0..rng.below(3) {
                lines.extend(random_record(&schema, &mut rng).replace(['\n', '\r'], " ").bytes());
                lines.push(b'\n');
            }
            lines.extend(mutated(random_record(&schema, &mut rng).into_bytes(), &mut rng));
            let before = touched.rows();
            let mut whole = decoder(&schema);
            match touched.push_ndjson(&lines) {
                Ok(rows) => {
                    prop_assert_eq!(touched.rows(), before + rows);
                    clean.push_ndjson(&lines).unwrap();
                }
                Err(rejection) => {
                    prop_assert_eq!(touched.rows(), before);
                    prop_assert_eq!(whole.push_ndjson(&lines).unwrap_err(), rejection);
                }
            }
        }
        prop_assert_eq!(touched.finish().unwrap(), clean.finish().unwrap());
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        seed in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 0..80)
    ) {
        let schema = random_schema(&mut Rng(seed | 1));
        let mut decoder = decoder(&schema);
        let _ = decoder.push_record(&bytes);
        let _ = decoder.push_ndjson(&bytes);
        let _ = decoder.push_array(&bytes);
        let mut body = b"{\"".to_vec();
        body.extend(bytes);
        let _ = decoder.push_record(&body);
        decoder.finish().unwrap();
    }
}

fn is_plain(ty: &Type) -> bool {
    match ty {
        // Single-precision text is rounded twice there.
        Type::Primitive(primitive) => matches!(
            primitive,
            Primitive::Boolean
                | Primitive::Byte
                | Primitive::Short
                | Primitive::Int
                | Primitive::Long
                | Primitive::String
        ),
        Type::Struct(fields) => fields.iter().all(|field| is_plain(&field.ty)),
        Type::List(list) => is_plain(&list.element),
        Type::Map(_) => false,
    }
}

#[test]
fn fields_may_come_in_any_order_and_change_it() {
    let schema = schema_of(&[("a", "int"), ("b", "int"), ("c", "int")]);
    let mut decoder = decoder(&schema);
    let lines = br#"{"c":1,"a":2,"b":3}
{"c":1,"a":2,"b":3}
{"b":1}
{}
{"\u0061":7,"c":9 , "b" : null}"#;
    assert_eq!(decoder.push_ndjson(lines).unwrap(), 5);
    assert_eq!(
        lines_of(&decoder.finish().unwrap()),
        [
            r#"{"a":2,"b":3,"c":1}"#,
            r#"{"a":2,"b":3,"c":1}"#,
            r#"{"a":null,"b":1,"c":null}"#,
            r#"{"a":null,"b":null,"c":null}"#,
            r#"{"a":7,"b":null,"c":9}"#,
        ]
    );
}

#[test]
fn blank_lines_and_carriage_returns_are_no_records() {
    let schema = schema_of(&[("a", "int")]);
    let mut decoder = decoder(&schema);
    assert_eq!(
        decoder
            .push_ndjson(b"\n \r\n{\"a\":1}\r\n\n\t{\"a\":2}")
            .unwrap(),
        2
    );
    assert_eq!(decoder.push_ndjson(b"").unwrap(), 0);
    let rejection = decoder
        .push_ndjson(b"\n\n{\"a\":1}\n\n{\"a\":x}")
        .unwrap_err();
    assert_eq!(rejection.row, 1);
    assert_eq!(decoder.rows(), 2);
}

#[test]
fn lines_that_are_valid_only_together_are_refused() {
    let list = r#"{"type":"list","element-required":false,"element":"int"}"#;
    let schema = schema_of(&[("a", list), ("b", "string")]);
    let mut decoder = decoder(&schema);
    for lines in [
        "{\"a\":[1\n,2]}",
        "{\"a\":[1]\n}",
        "{\"b\":\"x\ny\"}",
        "{\"a\"\n:[]}",
        "{\n}",
    ] {
        assert!(decoder.push_ndjson(lines.as_bytes()).is_err(), "{lines:?}");
        let joined = lines.replace('\n', if lines.contains("x\n") { "-" } else { "\n" });
        decoder.push_record(joined.as_bytes()).unwrap();
    }
    assert!(decoder.push_ndjson(b"{\"a\":[1]} {\"a\":[1]}").is_err());
    assert!(decoder.push_record(b"{\"a\":[1]}\n{\"a\":[1]}").is_err());
}

#[test]
fn arrays_and_single_objects_are_taken() {
    let schema = schema_of(&[("a", "int")]);
    let mut decoder = decoder(&schema);
    assert_eq!(decoder.push_array(b" [ ] ").unwrap(), 0);
    assert_eq!(decoder.push_array(b"[{\"a\":1},\n{\"a\":2}]\n").unwrap(), 2);
    assert_eq!(decoder.push_array(b"{\"a\":3}").unwrap(), 1);
    for text in [
        "", "[", "[{}", "[{},]", "[,{}]", "[{}]]", "[{}{}]", "[[{}]]", "{},{}", "3",
    ] {
        assert!(decoder.push_array(text.as_bytes()).is_err(), "{text}");
    }
    assert_eq!(
        decoder
            .push_array(b"[{\"a\":1},{\"a\":true}]")
            .unwrap_err()
            .row,
        1
    );
    assert_eq!(decoder.rows(), 3);
}

#[test]
fn doubles_are_the_nearest_and_integers_exact() {
    let schema = schema_of(&[("d", "double"), ("f", "float"), ("l", "long")]);
    for text in [
        "0.1",
        "-0.0",
        "5e-324",
        "2.2250738585072011e-308",
        "9007199254740993",
        "123456789012345678901234567890",
        "1.7976931348623157e308",
        "0.000001",
        "3.4028235e38",
        "16777217",
        "7.038531e-26",
    ] {
        let line = decoded(&schema, format!(r#"{{"d":{text}}}"#).as_bytes()).unwrap();
        let value: f64 = text.parse().unwrap();
        assert_eq!(line, format!(r#"{{"d":{value:?},"f":null,"l":null}}"#));
        let single: f32 = text.parse().unwrap();
        if single.is_finite() {
            let line = decoded(&schema, format!(r#"{{"f":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(line, format!(r#"{{"d":null,"f":{single:?},"l":null}}"#));
        }
    }
    for text in [
        "9223372036854775807",
        "-9223372036854775808",
        "-0",
        "999999999999999999",
    ] {
        let line = decoded(&schema, format!(r#"{{"l":{text}}}"#).as_bytes()).unwrap();
        assert_eq!(
            line,
            format!(
                r#"{{"d":null,"f":null,"l":{}}}"#,
                text.parse::<i64>().unwrap()
            )
        );
    }
}

#[test]
fn memory_is_counted_and_kept() {
    let schema = schema_of(&[("a", "string"), ("b", "long")]);
    let mut decoder = decoder(&schema);
    let empty = decoder.bytes();
    for _ in 0..1000 {
        decoder.push_record(br#"{"a":"0123456789","b":1}"#).unwrap();
    }
    let full = decoder.bytes();
    assert!(full >= empty + 1000 * (10 + 4 + 8), "{full}");
    assert_eq!(decoder.finish().unwrap().num_rows(), 1000);
    assert!(
        decoder.bytes() > full / 4 && decoder.bytes() <= full,
        "{}",
        decoder.bytes()
    );
    decoder.push_record(b"{}").unwrap();
    decoder.clear();
    assert_eq!(
        (decoder.rows(), decoder.finish().unwrap().num_rows()),
        (0, 0)
    );
}

#[test]
fn arrays_style_has_commas_between_rows_only() {
    let schema = schema_of(&[("a", "long"), ("b", "string")]);
    let mut decoder = decoder(&schema);
    decoder
        .push_ndjson(b"{\"a\":1,\"b\":\"\\u0001\\n\\\"\\\\\xc3\xa9\"}\n{}")
        .unwrap();
    let batch = decoder.finish().unwrap();
    let mut out = Vec::new();
    write_rows(&batch, &batch.schema(), &mut out, JsonStyle::Arrays).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"[1,"\u0001\n\"\\é"],[null,null]"#
    );
}
