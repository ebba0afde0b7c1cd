//! `json_decode`: NDJSON to columns with full validation, on one core.

use anyhow::Result;
use serde_json::json;
use tidelake_codec::json::{JsonDecoder, JsonLimits};

use crate::records;
use crate::report::{Stopwatch, round};

const CHUNK_BYTES: usize = 1 << 20;

/// Decodes `count` records in chunks of whole lines, then one by one as Kafka delivers them.
pub(crate) fn run(count: u64) -> Result<()> {
    let text = records::ndjson(0, count);
    let schema = records::schema()?;
    let mut decoder = JsonDecoder::new(&schema, JsonLimits::default())?;
    let more = json!({ "input_bytes": text.len(), "bytes_per_record": round(text.len() as f64 / count as f64, 1) });

    let mut rows = 0;
    let watch = Stopwatch::start(&[]);
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let cut = rest.len().min(CHUNK_BYTES);
        let end = rest[..cut]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(rest.len(), |n| n + 1);
        decoder.push_ndjson(&rest[..end])?;
        rows += decoder.finish()?.num_rows();
        rest = &rest[end..];
    }
    watch.report("json_decode", rows as u64, Some(3e6), more.clone());

    let mut rows = 0;
    let watch = Stopwatch::start(&[]);
    for line in text
        .as_bytes()
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        decoder.push_record(line)?;
        if decoder.rows() == 64 * 1024 {
            rows += decoder.finish()?.num_rows();
        }
    }
    rows += decoder.finish()?.num_rows();
    watch.report("json_decode_single", rows as u64, None, more);
    Ok(())
}
