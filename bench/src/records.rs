//! The records that the figures are measured with: 100 bytes of JSON, six fields.

use std::fmt::Write;

use anyhow::Result;
use tidelake_schema::TableSchema;

/// Schema of the records: what a click stream looks like.
pub(crate) const SCHEMA: &str = r#"{"type":"struct","schema-id":0,"fields":[
    {"id":1,"name":"id","required":true,"type":"long"},
    {"id":2,"name":"user","required":true,"type":"string"},
    {"id":3,"name":"amount","required":false,"type":"double"},
    {"id":4,"name":"ts","required":false,"type":"long"},
    {"id":5,"name":"country","required":false,"type":"string"},
    {"id":6,"name":"event","required":false,"type":"string"}]}"#;

pub(crate) const COUNTRIES: [&str; 12] = [
    "DE", "FR", "US", "GB", "NL", "PL", "ES", "IT", "SE", "CH", "AT", "JP",
];
pub(crate) const EVENTS: [&str; 5] = ["page_view", "click", "purchase", "sign_up", "search"];

pub(crate) fn schema() -> Result<TableSchema> {
    Ok(TableSchema::from_iceberg_json(SCHEMA)?)
}

/// Appends record number `id` as JSON, without a line end: about 99 bytes.
pub(crate) fn write_json(out: &mut String, id: u64) {
    // A cheap mix: values vary as real ones do, and every run writes the same bytes.
    let mix = (id ^ 0x5DEE_CE66D).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 17;
    let cents = mix % 50_000;
    // Writing to a string can't fail.
    let _infallible = write!(
        out,
        r#"{{"id":{id},"user":"u{:06}","amount":{}.{:02},"ts":{},"country":"{}","event":"{}"}}"#,
        mix % 500_000,
        cents / 100,
        cents % 100,
        1_790_000_000_000 + id / 3,
        COUNTRIES[(mix >> 9) as usize % COUNTRIES.len()],
        EVENTS[(mix >> 5) as usize % EVENTS.len()],
    );
}

/// Records `from..to` as NDJSON.
pub(crate) fn ndjson(from: u64, to: u64) -> String {
    let mut text = String::with_capacity((to - from) as usize * 104);
    for id in from..to {
        write_json(&mut text, id);
        text.push('\n');
    }
    text
}
