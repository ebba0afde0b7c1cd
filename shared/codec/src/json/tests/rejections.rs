//! What users read when a record does not fit.

use tidelake_core::ErrorKind;

use super::{decoder, schema_of};
use crate::json::{JsonDecoder, JsonLimits};
use crate::{EXCERPT_CHARS_MAX, Reason};

const POINT: &str = r#"{"type":"struct","fields":[
    {"name":"x","required":true,"type":"int"},{"name":"y","required":false,"type":"int"}]}"#;
const TAGS: &str = r#"{"type":"list","element-required":true,"element":"string"}"#;
const MAP: &str = r#"{"type":"map","key":"string","value-required":false,"value":"int"}"#;
const PAIRS: &str = r#"{"type":"map","key":"int","value-required":false,"value":"int"}"#;

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a list of bad records and what is said of them"
)]
fn messages_name_row_field_and_reason() {
    let schema = schema_of(&[
        ("id", "long!"),
        ("n", "int"),
        ("small", "short"),
        ("tiny", "byte"),
        ("f", "float"),
        ("d", "double"),
        ("m", "decimal(5,2)"),
        ("day", "date"),
        ("t", "time"),
        ("at", "timestamptz"),
        ("ns", "timestamp_ns"),
        ("s", "string"),
        ("u", "uuid"),
        ("fix", "fixed[4]"),
        ("bin", "binary"),
        ("ok", "boolean"),
        ("pt", POINT),
        ("tags", TAGS),
        ("map", MAP),
        ("pairs", PAIRS),
    ]);
    let records: &[&[u8]] = &[
        b"",
        b"[1]",
        b"null",
        b"{\"id\":1",
        b"{\"id\":1,}",
        b"{\"id\" 1}",
        b"{\"id\":1} x",
        b"{id:1}",
        b"{\"id\":}",
        b"{\"id\":nul}",
        b"{\"id\":1 \"n\":2}",
        b"{\"id\":1,\"s\":\"a\nb\"}",
        b"{\"id\":1,\"s\":\"abc",
        b"{\"id\":1,\"s\":\"\\x\"}",
        b"{\"id\":1,\"s\":\"\\ud800 lone\"}",
        b"{\"id\":1,\"s\":\"\\udc00\"}",
        b"{\"id\":1,\"s\":\"ab\xff\"}",
        b"{\"id\":1,\"s\":\"a surrogate in UTF-8 \xed\xa0\x80\"}",
        b"{}",
        b"{\"id\":null}",
        b"{\"id\":1,\"id\":1}",
        b"{\"id\":1,\"user\":1}",
        b"{\"id\":1,\"ID\":1}",
        b"{\"id\":\"abc\"}",
        b"{\"id\":1.0}",
        b"{\"id\":1e3}",
        b"{\"id\":01}",
        b"{\"id\":-}",
        b"{\"id\":+1}",
        b"{\"id\":9223372036854775808}",
        b"{\"id\":true}",
        b"{\"id\":1,\"n\":2147483648}",
        b"{\"id\":1,\"small\":32768}",
        b"{\"id\":1,\"small\":1.5}",
        b"{\"id\":1,\"tiny\":-129}",
        b"{\"id\":1,\"tiny\":99999999999999999999}",
        b"{\"id\":1,\"tiny\":\"1\"}",
        b"{\"id\":1,\"f\":1e39}",
        b"{\"id\":1,\"d\":-1e400}",
        b"{\"id\":1,\"d\":NaN}",
        b"{\"id\":1,\"d\":1.}",
        b"{\"id\":1,\"d\":\"1.5\"}",
        b"{\"id\":1,\"m\":1.005}",
        b"{\"id\":1,\"m\":1000}",
        b"{\"id\":1,\"m\":\"ten\"}",
        b"{\"id\":1,\"day\":\"2026-02-30\"}",
        b"{\"id\":1,\"day\":20260230}",
        b"{\"id\":1,\"t\":\"24:00:00\"}",
        b"{\"id\":1,\"at\":\"2026-11-21T12:34:56\"}",
        b"{\"id\":1,\"at\":\"2026-11-21T12:34:56.7890123Z\"}",
        b"{\"id\":1,\"at\":1763000000}",
        b"{\"id\":1,\"ns\":\"2300-01-01T00:00:00\"}",
        b"{\"id\":1,\"s\":5}",
        b"{\"id\":1,\"s\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        b"{\"id\":1,\"u\":\"not-a-uuid\"}",
        b"{\"id\":1,\"fix\":\"AAAA\"}",
        b"{\"id\":1,\"bin\":\"abc\"}",
        b"{\"id\":1,\"ok\":\"true\"}",
        b"{\"id\":1,\"ok\":1}",
        b"{\"id\":1,\"pt\":[1,2]}",
        b"{\"id\":1,\"pt\":{\"y\":1}}",
        b"{\"id\":1,\"pt\":{\"x\":1,\"z\":1}}",
        b"{\"id\":1,\"pt\":{\"x\":\"abc\"}}",
        b"{\"id\":1,\"tags\":[\"a\",\"b\",null]}",
        b"{\"id\":1,\"tags\":[\"a\",7]}",
        b"{\"id\":1,\"tags\":[\"a\",]}",
        b"{\"id\":1,\"tags\":\"a\"}",
        b"{\"id\":1,\"map\":{\"k\":\"v\"}}",
        b"{\"id\":1,\"map\":{\"k\":1,\"k\":2}}",
        b"{\"id\":1,\"map\":[]}",
        b"{\"id\":1,\"pairs\":[{\"key\":1,\"value\":2},{\"value\":2}]}",
        b"{\"id\":1,\"pairs\":[{\"key\":1},{\"key\":1}]}",
        b"{\"id\":1,\"pairs\":[{\"key\":1,\"v\":2}]}",
        b"{\"id\":1,\"pairs\":{}}",
        b"{\"id\":1,\"n\":\"a text of far more than forty characters, which nobody wants to read\"}",
    ];
    let mut decoder = decoder(&schema);
    let mut messages = Vec::new();
    for record in records {
        let rejection = decoder.push_record(record).unwrap_err();
        let shown = String::from_utf8_lossy(record).replace('\n', "\\n");
        messages.push(format!("{shown}\n    {} {rejection}", rejection.code()));
    }
    assert_eq!(decoder.rows(), 0);
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn rows_are_counted_within_the_call() {
    let mut decoder = decoder(&schema_of(&[("pt", POINT)]));
    decoder.push_record(b"{}").unwrap();
    let lines = b"{}\n\n{}\n{}\n{\"pt\":{\"x\":\"abc\"}}\n{}";
    let rejection = decoder.push_ndjson(lines).unwrap_err();
    assert_eq!(
        rejection.to_string(),
        r#"row 3, field "pt.x": expected int, found string "abc""#
    );
    assert_eq!(rejection.kind(), ErrorKind::Invalid);
    assert_eq!(rejection.shifted(10).row, 13);
    assert_eq!(decoder.rows(), 1);
}

#[test]
fn excerpts_are_short_and_of_one_line() {
    let mut decoder = decoder(&schema_of(&[("a", "int")]));
    for long in ["x".repeat(5000), "é".repeat(5000), "\u{1F600}".repeat(5000)] {
        let rejection = decoder
            .push_record(format!("{{\"a\":\"{long}\"}}").as_bytes())
            .unwrap_err();
        let Reason::WrongType { found, .. } = rejection.reason else {
            panic!("{rejection}")
        };
        assert_eq!(
            found.chars().count(),
            "string \"\"".len() + EXCERPT_CHARS_MAX
        );
        assert!(found.ends_with("…\""), "{found}");
        let field = decoder
            .push_record(format!("{{\"{long}\":1}}").as_bytes())
            .unwrap_err()
            .field;
        assert_eq!(field.unwrap().chars().count(), EXCERPT_CHARS_MAX);
    }
}

#[test]
fn limits_hold_for_depth_and_size() {
    let schema = schema_of(&[("tags", TAGS), ("s", "string")]);
    let limits = JsonLimits {
        record_bytes_max: 20,
        depth_max: 1,
        ..JsonLimits::default()
    };
    let mut decoder = JsonDecoder::new(&schema, limits).unwrap();
    let mut reject = |json: &[u8]| decoder.push_record(json).unwrap_err();
    assert_eq!(
        reject(b"{\"tags\":[]}").to_string(),
        r#"row 0, field "tags": nested deeper than 1 levels"#
    );
    let rejection = reject(b"{\"s\":\"0123456789abcdef\"}");
    assert_eq!(
        rejection.to_string(),
        "row 0: the record is larger than 20 bytes; make it smaller"
    );
    assert_eq!(rejection.kind(), ErrorKind::TooLarge);
    decoder.push_record(b"{\"s\":\"0123456789ab\"}").unwrap();
}
