//! Bodies in chunks give what they give in one piece.

use proptest::prelude::*;

use super::random::{Rng, random_record, random_schema};
use super::{decoder, lines_of, mutated, schema_of};
use crate::Rejection;
use crate::json::JsonDecoder;
use crate::json::stream::{ArraySplitter, LineSplitter};

const BYTES_MAX: usize = 1 << 20;

fn chunks<'a>(text: &'a [u8], rng: &mut Rng) -> Vec<&'a [u8]> {
    let mut rest = text;
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let bound = [1, 3, 40, 400][rng.below(4)];
        let (chunk, tail) = rest.split_at((1 + rng.below(bound)).min(rest.len()));
        chunks.push(chunk);
        rest = tail;
    }
    chunks
}

fn array_in_chunks(decoder: &mut JsonDecoder, chunks: &[&[u8]]) -> Result<usize, Rejection> {
    let mut splitter = ArraySplitter::new(BYTES_MAX);
    let mut row = 0;
    for chunk in chunks {
        splitter.feed(chunk, |record| {
            decoder
                .push_record(record)
                .map_err(|rejection| rejection.shifted(row))?;
            row += 1;
            Ok::<_, Rejection>(())
        })?;
    }
    splitter.finish()
}

fn lines_in_chunks(decoder: &mut JsonDecoder, chunks: &[&[u8]]) -> Result<usize, Rejection> {
    let mut splitter = LineSplitter::new(BYTES_MAX);
    let mut rows = 0;
    let mut sink = |lines: &[u8]| {
        rows += decoder
            .push_ndjson(lines)
            .map_err(|rejection| rejection.shifted(rows))?;
        Ok::<_, Rejection>(())
    };
    for chunk in chunks {
        splitter.feed(chunk, &mut sink)?;
    }
    splitter.finish(sink)?;
    Ok(rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn arrays_in_chunks_are_the_array(seed in any::<u64>(), spoil in any::<bool>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        let records: Vec<_> = (0..rng.below(6)).map(|_| random_record(&schema, &mut rng)).collect();
        let mut text = format!(" [{}]\n", records.join(" ,\n")).into_bytes();
        if spoil {
            text = mutated(text, &mut rng);
        }
        let (mut whole, mut split, mut bytes) =
            (decoder(&schema), decoder(&schema), decoder(&schema));
        let expected = whole.push_array(&text);
        let found = array_in_chunks(&mut split, &chunks(&text, &mut rng));
        let singles: Vec<_> = text.chunks(1).collect();
        let by_byte = array_in_chunks(&mut bytes, &singles);
        prop_assert_eq!(&found, &by_byte);
        let shown = String::from_utf8_lossy(&text).into_owned();
        prop_assert_eq!(expected.is_ok(), found.is_ok(), "{:?} {:?} {}", expected, found, shown);
        if let (Ok(expected), Ok(found)) = (&expected, &found) {
            prop_assert_eq!(expected, found);
            prop_assert_eq!(whole.finish().unwrap(), split.finish().unwrap());
        }
    }

    #[test]
    fn lines_in_chunks_are_the_lines(seed in any::<u64>(), spoil in any::<bool>()) {
        let mut rng = Rng(seed | 1);
        let schema = random_schema(&mut rng);
        let mut text = String::new();
        for _ in 0..rng.below(6) {
            text.push_str(&random_record(&schema, &mut rng).replace(['\n', '\r'], " "));
            text.push_str(["\n", "\r\n", "\n\n"][rng.below(3)]);
        }
        let mut text = text.into_bytes();
        if rng.below(2) == 0 {
            text.pop();
        }
        if spoil {
            text = mutated(text, &mut rng);
        }
        let (mut whole, mut split) = (decoder(&schema), decoder(&schema));
        let expected = whole.push_ndjson(&text);
        let found = lines_in_chunks(&mut split, &chunks(&text, &mut rng));
        match (expected, found) {
            (Ok(expected), Ok(found)) => {
                prop_assert_eq!(expected, found);
                prop_assert_eq!(whole.finish().unwrap(), split.finish().unwrap());
            }
            (Err(expected), Err(found)) => prop_assert_eq!(expected.row, found.row),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn arbitrary_chunks_never_panic(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9)
    ) {
        let schema = schema_of(&[("a", "int")]);
        let chunks: Vec<_> = chunks.iter().map(Vec::as_slice).collect();
        let _ = array_in_chunks(&mut decoder(&schema), &chunks);
        let _ = lines_in_chunks(&mut decoder(&schema), &chunks);
    }
}

#[test]
fn strings_hide_brackets_and_escapes_hide_quotes() {
    let schema = schema_of(&[("a", "string")]);
    let mut decoder = decoder(&schema);
    let text = br#"[{"a":"]},[\\"},{"a":"\"}{"}]"#;
    for size in 1..text.len() {
        let chunks: Vec<_> = text.chunks(size).collect();
        assert_eq!(array_in_chunks(&mut decoder, &chunks).unwrap(), 2);
        assert_eq!(
            lines_of(&decoder.finish().unwrap()),
            [r#"{"a":"]},[\\"}"#, r#"{"a":"\"}{"}"#]
        );
    }
}

#[test]
fn one_object_is_a_body_of_one_record() {
    let mut decoder = decoder(&schema_of(&[("a", "int")]));
    assert_eq!(
        array_in_chunks(&mut decoder, &[b" {\"a\"", b":1", b"} "]).unwrap(),
        1
    );
    let error = array_in_chunks(&mut decoder, &[b"{\"a\":1}", b",{}"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 1: not valid JSON at byte 7 of the record: expected nothing more"
    );
}

#[test]
fn records_that_never_end_are_refused_before_memory_runs_out() {
    let mut splitter = ArraySplitter::new(100);
    splitter
        .feed(b"[{},{\"a\":\"", |_| Ok::<_, Rejection>(()))
        .unwrap();
    let mut fed = 0;
    let error = loop {
        match splitter.feed(&[b'x'; 30], |_| Ok::<_, Rejection>(())) {
            Ok(()) => fed += 30,
            Err(error) => break error,
        }
    };
    assert!(fed <= 100, "{fed}");
    assert_eq!((error.row, error.code()), (1, "TOO_LARGE"));

    let mut splitter = LineSplitter::new(100);
    let mut feed = |bytes: &[u8]| splitter.feed(bytes, |_| Ok::<_, Rejection>(()));
    feed(b"{}\n{}\n{\"a\":").unwrap();
    let error = feed(&[b' '; 200]).unwrap_err();
    assert_eq!((error.row, error.code()), (2, "TOO_LARGE"));
}
