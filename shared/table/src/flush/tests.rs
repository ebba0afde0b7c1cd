use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use tidelake_core::{Bucket, Watermark};
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;

use super::*;
use crate::index::{KeySpec, encode_sidecar};
use crate::{Changes, Chunk, FileLayout, Memtable, Positions, encode_newest};

/// Numbers that don't compress.
fn random(seed: i64) -> i64 {
    let mix = |i: i64| (i ^ (i << 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64);
    mix(mix(mix(seed + 1) >> 3) ^ (seed << 21))
}

/// Random rows whose keys come in no order: what encodes worst.
fn sealed(schema: &TableSchema, rows: i64, text: bool, distinct: i64) -> Sealed {
    let mut memtable = Memtable::new(Bucket(0), Watermark(0));
    for first in (0..rows).step_by(1000) {
        let ids = (first..first + 1000).map(|row| random(row % distinct));
        let keys: ArrayRef = if text {
            Arc::new(
                ids.map(|id| Some(format!("user-{id:016x}")))
                    .collect::<StringArray>(),
            )
        } else {
            Arc::new(ids.collect::<Int64Array>())
        };
        let values: ArrayRef = Arc::new((first..first + 1000).map(random).collect::<Int64Array>());
        let batch = RecordBatch::try_new(to_arrow(schema), vec![keys, values]).unwrap();
        let positions = Positions {
            offsets: (first..first + 1000).collect(),
            rows: vec![0; 1000],
            timestamps_ms: vec![0; 1000],
        };
        memtable.push(Chunk::new(batch, positions));
    }
    memtable.seal()
}

#[test]
fn the_estimate_covers_what_a_flush_holds() {
    for (text, distinct) in [
        (false, 50_000),
        (true, 50_000),
        (false, 100),
        (true, 20_000),
    ] {
        let ty = if text { "string" } else { "long" };
        let schema = format!(
            r#"{{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[
                {{"id":1,"name":"k","required":true,"type":"{ty}"}},
                {{"id":2,"name":"v","required":false,"type":"long"}}]}}"#
        );
        let schema = TableSchema::from_iceberg_json(&schema).unwrap();
        let sealed = sealed(&schema, 50_000, text, distinct);
        let spec = KeySpec::of(&schema).unwrap();
        let changes = Changes::newest_of(&spec, &sealed.chunks, &sealed.deletes).unwrap();
        let layout = FileLayout::plain(&schema);
        let settings = FileSettings::default().for_lookups();
        let file = encode_newest(&layout, &sealed, &changes, settings)
            .unwrap()
            .unwrap();
        let sidecar = encode_sidecar(&changes.entries());
        // A buffer that grows holds up to twice its contents; keys are there as they were read,
        // sorted, and as entries.
        let keys = changes.keys().bytes() + sealed.rows * size_of::<u128>();
        let held = 2 * file.bytes.len() + 2 * keys + 2 * sidecar.len();
        let estimate = bytes_while_flushing(&sealed, true);
        assert!(
            held <= estimate,
            "{ty}: {held} bytes are held, {estimate} estimated"
        );
        assert!(
            estimate <= 8 * held,
            "{ty}: {estimate} estimated for {held} bytes"
        );
    }
}
