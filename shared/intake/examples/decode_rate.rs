//! Prints how many records a second one core decodes: `cargo run --release --example decode_rate`.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use arrow::array::RecordBatch;
use bytes::Bytes;
use tidelake_codec::json::encode::{JsonStyle, write_rows};
use tidelake_codec::json::stream::ArraySplitter;
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::key::KeyText;
use tidelake_codec::packed;
use tidelake_core::Bucket;
use tidelake_intake::decode::{MessageDecoder, Placement, WireMessage};
use tidelake_schema::TableSchema;

const RECORDS: usize = 1_000_000;
const ROUNDS: usize = 5;

/// The same table, of which the columns at `key` are the primary key.
fn upsert_schema(key: &[usize]) -> Result<TableSchema, Box<dyn std::error::Error>> {
    let mut schema = schema()?;
    for place in key {
        schema.fields[*place].required = true;
    }
    let id = |place: &usize| schema.fields[*place].id;
    schema.identifier_field_ids = key.iter().map(id).collect();
    Ok(schema)
}

fn schema() -> Result<TableSchema, Box<dyn std::error::Error>> {
    let columns = [
        ("id", "long"),
        ("user", "string"),
        ("amount", "double"),
        ("ts", "long"),
        ("city", "string"),
        ("kind", "string"),
    ];
    let field = |(name, ty)| format!(r#"{{"name":"{name}","required":false,"type":"{ty}"}}"#);
    let fields = columns.map(field).join(",");
    Ok(TableSchema::from_iceberg_json(&format!(
        r#"{{"fields":[{fields}]}}"#
    ))?)
}

/// Lines of about 100 bytes; `gap` stands behind every colon and comma.
fn lines(gap: &str) -> String {
    let cities = ["Berlin", "Paris", "Amsterdam", "Rome", "Lisbon"];
    let kinds = ["click", "view", "purchase"];
    let mut text = String::new();
    for n in 0..RECORDS {
        let (user, cents) = (n * 7919 % 100_000, n * 104_729 % 100_000);
        let _ = writeln!(
            text,
            "{{\"id\":{gap}{n},{gap}\"user\":{gap}\"user-{user:05}\",{gap}\"amount\":{gap}{}.{:02},\
             {gap}\"ts\":{gap}{},{gap}\"city\":{gap}\"{}\",{gap}\"kind\":{gap}\"{}\"}}",
            cents / 100,
            cents % 100,
            1_763_000_000_000_u64 + n as u64,
            cities[n % cities.len()],
            kinds[n % kinds.len()],
        );
    }
    text
}

#[expect(
    clippy::disallowed_methods,
    reason = "this program measures time; nothing depends on it"
)]
fn seconds_of(run: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn report(what: &str, bytes: usize, mut run: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        best = best.min(seconds_of(&mut run));
    }
    let rate = RECORDS as f64 / best / 1e6;
    let megabytes = bytes as f64 / best / 1e6;
    #[expect(
        clippy::print_stdout,
        reason = "the figure is what this program is for"
    )]
    {
        println!("{what:<42} {rate:>6.2} M records/s {megabytes:>7.0} MB/s");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = schema()?;
    let text = lines("");
    let spaced = lines(" ");
    let mut decoder = JsonDecoder::new(&schema, JsonLimits::default())?;
    // One batch for each 1 MiB of lines, as a stream would.
    let pieces = |text: &str| -> Vec<Vec<u8>> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines
            .chunks(10_000)
            .map(|lines| lines.concat().into_bytes())
            .collect()
    };
    for (what, text) in [
        ("push_ndjson", &text),
        ("push_ndjson, a space after : and ,", &spaced),
    ] {
        let pieces = pieces(text);
        report(what, text.len(), || {
            for piece in &pieces {
                decoder.push_ndjson(piece).expect("valid lines");
                black_box(decoder.finish().expect("columns"));
            }
        });
    }
    let records: Vec<&[u8]> = text.split_terminator('\n').map(str::as_bytes).collect();
    report("push_record", text.len(), || {
        for (n, record) in records.iter().enumerate() {
            decoder.push_record(record).expect("a valid record");
            if n % 10_000 == 9_999 {
                black_box(decoder.finish().expect("columns"));
            }
        }
        black_box(decoder.finish().expect("columns"));
    });
    let array = format!("[{}]", text.trim_end().replace('\n', ","));
    report(
        "ArraySplitter, 64 KiB chunks, and push_record",
        text.len(),
        || {
            let mut splitter = ArraySplitter::new(1 << 20);
            for chunk in array.as_bytes().chunks(64 << 10) {
                splitter
                    .feed(chunk, |record| decoder.push_record(record))
                    .expect("an array");
            }
            black_box(decoder.finish().expect("columns"));
        },
    );
    let arrow = tidelake_schema::arrow::to_arrow(&schema);
    let all = pieces(&text);
    report("arrow-json, for comparison", text.len(), || {
        for piece in &all {
            let mut other = arrow::json::ReaderBuilder::new(arrow.clone())
                .with_batch_size(10_000)
                .build_decoder()
                .expect("a decoder");
            other.decode(piece).expect("valid lines");
            black_box(other.flush().expect("columns"));
        }
    });
    let mut batches = Vec::new();
    for piece in text
        .as_bytes()
        .split_inclusive(|byte| *byte == b'\n')
        .collect::<Vec<_>>()
        .chunks(1000)
    {
        decoder.push_ndjson(&piece.concat())?;
        batches.push(decoder.finish()?);
    }
    let mut out = Vec::new();
    report("json::encode::write_rows", text.len(), || {
        for batch in &batches {
            out.clear();
            write_rows(batch, &arrow, &mut out, JsonStyle::Objects).expect("rows");
            black_box(&out);
        }
    });
    let mut messages = Vec::new();
    report("packed::encode, 1000 rows a message", text.len(), || {
        messages.clear();
        messages.extend(
            batches
                .iter()
                .map(|batch| packed::encode(batch).expect("a message")),
        );
    });
    report("packed::decode", text.len(), || {
        for message in &messages {
            black_box(packed::decode(message, &schema).expect("rows"));
        }
    });
    keys(&batches, &messages, &records, text.len())
}

/// What a primary key costs.
fn keys(
    batches: &[RecordBatch],
    messages: &[Bytes],
    records: &[&[u8]],
    bytes: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    for (what, key) in [("a long", &[0][..]), ("two columns", &[4, 0][..])] {
        let schema = upsert_schema(key)?;
        let text_of = KeyText::new(&schema)?.ok_or("no key")?;
        let mut owners = Vec::new();
        report(&format!("KeyText::row_buckets, {what}"), bytes, || {
            for batch in batches {
                owners.clear();
                text_of.row_buckets(batch, 4, &mut owners).expect("keys");
                black_box(&owners);
            }
        });
        let placement = Placement {
            bucket: Bucket(0),
            buckets: 1,
        };
        let append = MessageDecoder::append(&schema)?;
        let upsert = MessageDecoder::upsert(&schema, Some(placement))?;
        for (how, mut decoder) in [("append", append), ("upsert", upsert)] {
            let message = |offset: usize, value, encoding| WireMessage {
                offset: offset as i64,
                timestamp_ms: 0,
                key: None,
                value: Some(value),
                encoding,
                op: None,
                dead_letter: None,
            };
            report(
                &format!("MessageDecoder, {how}, singles, {what}"),
                bytes,
                || {
                    for (n, record) in records.iter().enumerate() {
                        decoder.push(&message(n, record, None)).expect("a record");
                        if n % 10_000 == 9_999 {
                            black_box(decoder.finish().expect("columns"));
                        }
                    }
                },
            );
            report(
                &format!("MessageDecoder, {how}, packed, {what}"),
                bytes,
                || {
                    for (n, value) in messages.iter().enumerate() {
                        let encoding = Some(&b"arrow"[..]);
                        decoder.push(&message(n, value, encoding)).expect("a batch");
                        black_box(decoder.finish().expect("columns"));
                    }
                },
            );
        }
    }
    Ok(())
}
