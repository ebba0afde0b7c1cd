//! The promises, one file each.

mod bad_input;
mod bombs;
mod compacted;
mod dead_letters;
mod drops;
mod engines;
mod exactly_once;
mod faults;
mod interop;
mod kafka_clients;
mod key_types;
mod local;
mod log_away;
mod misrouted;
mod others;
mod rebalance;
mod spark;
mod sql_fuzz;
mod time_travel;
mod tokens;
mod topics;
mod two_installations;
mod upsert_load;
mod upserts;
mod versions;
mod whole_messages;

use serde_json::{Value, json};

/// A table of numbered records.
fn numbered() -> Value {
    json!({"type": "struct", "schema-id": 0, "fields": [
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "note", "required": false, "type": "string"},
    ]})
}

/// Records with these ids as NDJSON.
fn lines(ids: impl IntoIterator<Item = u64>) -> String {
    ids.into_iter()
        .map(|id| format!("{{\"id\":{id},\"note\":\"n{}\"}}\n", id % 7))
        .collect()
}
