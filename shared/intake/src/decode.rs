//! Messages of a table's topic to rows, in the order of their offsets.
//!
//! | header | value | gives |
//! | --- | --- | --- |
//! | none | one JSON object | one row |
//! | `tl-encoding: arrow` | one Arrow IPC stream | its rows, all or none |
//! | `tl-op: flush` | any | no row: a marker |
//!
//! Of a table with a primary key also:
//!
//! | header | key | value | gives |
//! | --- | --- | --- | --- |
//! | none | key text | none | a tombstone: the key is deleted |
//! | none | any | one JSON object | one row; its own columns say its key |
//! | `tl-encoding: arrow` | none | one Arrow IPC stream with `__op` | rows and deletes, all or none |
//!
//! All versions of a key must come through one bucket. With a [`Placement`] a single record of
//! another bucket is left out and its bucket told, and a packed batch with a row of another bucket
//! is refused whole.
//!
//! Every message of a dead-letter topic is one row of [`tidelake_schema::dead_letters`], whatever it
//! is; only `tl-op: flush` without a source position is a marker.
//!
//! A JSON record names its columns as they are called when it is read. A packed batch of the gateway
//! says what they are called in the table's files, and is read by that: see
//! [`tidelake_codec::packed::COLUMN_KEY`].
//!
//! Flusher and query tail read the same messages through the same decoder, so both agree on what is
//! a row and what is a dead letter.

mod dead_letters;
mod upsert;

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidelake_core::Bucket;
use tidelake_core::headers::OP_FLUSH;
use tidelake_schema::delta::PhysicalNames;
use tidelake_schema::evolution::Columns;
use tidelake_schema::{SchemaError, TableSchema};

use dead_letters::DeadLetters;
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::key::KeyText;
use tidelake_codec::{CodecError, Reason, Rejection, packed};
use upsert::UpsertMessages;

pub use dead_letters::{DeadLetter, timestamp_ms};

/// The first byte of Confluent's framing: a schema id and Avro follow.
const CONFLUENT_MAGIC: u8 = 0;
/// Decoded dead letters beyond this become a batch of their own.
const DEAD_LETTER_BYTES_MAX: usize = 256 << 20;

/// One message as the log holds it.
#[derive(Debug, Clone, Copy)]
pub struct WireMessage<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    /// Counts only where there is no value.
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Header `tl-encoding`.
    pub encoding: Option<&'a [u8]>,
    /// Header `tl-op`.
    pub op: Option<&'a [u8]>,
    /// The headers of a dead letter; for [`MessageDecoder::dead_letters`].
    pub dead_letter: Option<&'a DeadLetter<'a>>,
}

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// So many records, deletes among them.
    Rows(usize),
    /// It asks for a flush and holds no row.
    Marker,
    /// One record, whose key belongs to this other bucket; nothing was added.
    Elsewhere(Bucket),
}

/// Where the messages of a table with a primary key come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub bucket: Bucket,
    /// Buckets of the table, at least one.
    pub buckets: u32,
}

/// Everything since the last [`MessageDecoder::finish`]. Both lists are in the order of (offset,
/// row); no position stands in both.
#[derive(Debug, Clone, Default)]
pub struct Decoded {
    pub rows: Vec<DecodedRows>,
    pub deletes: Vec<DecodedDeletes>,
}

/// Keys that consecutive messages delete; the vectors are parallel to the keys.
#[derive(Debug, Clone)]
pub struct DecodedDeletes {
    /// The key's columns in key order, as [`tidelake_codec::key::key_schema`] has them.
    pub keys: RecordBatch,
    pub offsets: Vec<i64>,
    /// Row within its message.
    pub rows: Vec<u32>,
    pub timestamps_ms: Vec<i64>,
}

/// Rows of consecutive messages; the vectors are parallel to the rows.
#[derive(Debug, Clone)]
pub struct DecodedRows {
    /// The table's columns, logical types.
    pub batch: RecordBatch,
    pub offsets: Vec<i64>,
    /// Row within its message.
    pub rows: Vec<u32>,
    pub timestamps_ms: Vec<i64>,
}

/// Decodes messages of one bucket.
#[derive(Debug)]
pub struct MessageDecoder {
    schema: TableSchema,
    names: Arc<PhysicalNames>,
    json: JsonDecoder,
    json_offsets: Vec<i64>,
    json_timestamps_ms: Vec<i64>,
    done: Decoded,
    done_rows: usize,
    done_bytes: usize,
    /// Of tables with a primary key.
    upsert: Option<UpsertMessages>,
    /// Of dead-letter tables.
    dead_letters: Option<Box<DeadLetters>>,
    /// No record's fault, so it belongs to [`Self::finish`].
    failed: Option<CodecError>,
}

impl MessageDecoder {
    /// For append tables.
    pub fn append(schema: &TableSchema) -> Result<Self, SchemaError> {
        Ok(Self {
            schema: schema.clone(),
            names: Arc::default(),
            json: JsonDecoder::new(schema, JsonLimits::default())?,
            json_offsets: Vec::new(),
            json_timestamps_ms: Vec::new(),
            done: Decoded::default(),
            done_rows: 0,
            done_bytes: 0,
            upsert: None,
            dead_letters: None,
            failed: None,
        })
    }

    /// For dead-letter tables: never rejects a message.
    pub fn dead_letters() -> Result<Self, SchemaError> {
        let mut decoder = Self::append(tidelake_schema::dead_letters::schema())?;
        decoder.dead_letters = Some(Box::new(DeadLetters::new()));
        Ok(decoder)
    }

    /// For upsert tables; without a primary key the same as [`Self::append`]. Where no `placement` is
    /// given, every row counts as in its place.
    pub fn upsert(schema: &TableSchema, placement: Option<Placement>) -> Result<Self, SchemaError> {
        let mut decoder = Self::append(schema)?;
        if let Some(key) = KeyText::new(schema)? {
            decoder.upsert = Some(UpsertMessages::new(key, schema, placement)?);
        }
        Ok(decoder)
    }

    /// For a table whose columns are called otherwise in its files: packed messages say those names,
    /// and are read by them.
    pub fn named(self, names: Arc<PhysicalNames>) -> Self {
        Self { names, ..self }
    }

    /// Takes one message in. A rejected message adds nothing.
    pub fn push(&mut self, message: &WireMessage<'_>) -> Result<Pushed, Rejection> {
        if let Some(dead) = &mut self.dead_letters {
            let pushed = dead.push(message);
            if dead.bytes() > DEAD_LETTER_BYTES_MAX {
                self.closed(|decoder| decoder.close_dead_letters());
            }
            return Ok(pushed);
        }
        match message.op {
            None => {}
            Some(OP_FLUSH) => return Ok(Pushed::Marker),
            Some(_) => {
                return Err(Rejection::of_row(
                    0,
                    Reason::Unsupported { what: "this tl-op" },
                ));
            }
        }
        let Some(value) = message.value else {
            return match &mut self.upsert {
                None => Err(Rejection::of_row(0, Reason::Tombstone)),
                Some(upsert) => upsert.push_tombstone(message),
            };
        };
        match message.encoding {
            None if value.first() == Some(&CONFLUENT_MAGIC) => {
                Err(Rejection::of_row(0, Reason::Unsupported { what: "avro" }))
            }
            None => {
                self.json.push_record(value)?;
                if let Some(upsert) = &mut self.upsert {
                    let owner = upsert.owner_of_last(&self.json);
                    if !matches!(owner, Ok(None)) {
                        self.json.truncate(self.json.rows() - 1);
                    }
                    if let Some(owner) = owner? {
                        return Ok(Pushed::Elsewhere(owner));
                    }
                }
                self.json_offsets.push(message.offset);
                self.json_timestamps_ms.push(message.timestamp_ms);
                Ok(Pushed::Rows(1))
            }
            Some(encoding) if encoding == packed::ENCODING.as_bytes() => {
                let columns = Columns {
                    schema: &self.schema,
                    names: &self.names,
                };
                let (batch, rows, deletes) = match &mut self.upsert {
                    None => {
                        let batch = packed::decode_into(value, columns)?;
                        let rows = (0..batch.num_rows() as u32).collect();
                        (batch, rows, None)
                    }
                    Some(upsert) => {
                        let packed = packed::decode_upserts_into(value, columns, &upsert.key)?;
                        upsert.check_batch(&packed)?;
                        (packed.rows, packed.row_numbers, packed.deletes)
                    }
                };
                Ok(Pushed::Rows(self.push_batch(batch, rows, deletes, message)))
            }
            Some(_) => Err(Rejection::of_row(
                0,
                Reason::Unsupported {
                    what: "this tl-encoding",
                },
            )),
        }
    }

    fn push_batch(
        &mut self,
        batch: RecordBatch,
        rows: Vec<u32>,
        deletes: Option<(RecordBatch, Vec<u32>)>,
        message: &WireMessage<'_>,
    ) -> usize {
        let (offset, timestamp_ms) = (message.offset, message.timestamp_ms);
        let mut taken = rows.len();
        if !rows.is_empty() {
            self.closed(|decoder| decoder.close_json());
            self.push_rows(DecodedRows {
                batch,
                offsets: vec![offset; rows.len()],
                timestamps_ms: vec![timestamp_ms; rows.len()],
                rows,
            });
        }
        if let Some((keys, rows)) = deletes {
            taken += rows.len();
            self.closed(|decoder| decoder.close_tombstones());
            self.push_deletes(DecodedDeletes {
                keys,
                offsets: vec![offset; rows.len()],
                timestamps_ms: vec![timestamp_ms; rows.len()],
                rows,
            });
        }
        taken
    }

    /// The key text of the record that was last found to belong elsewhere: canonical, whatever the
    /// message's own key was.
    pub fn key_elsewhere(&self) -> &[u8] {
        self.upsert.as_ref().map_or(&[], UpsertMessages::last_text)
    }

    /// Gives back the room that is kept for more records, where none waits.
    pub fn shrink(&mut self) {
        if self.rows() > 0 {
            return;
        }
        // It was built from this schema before: it can be again.
        if let Ok(json) = JsonDecoder::new(&self.schema, JsonLimits::default()) {
            self.json = json;
        }
        self.json_offsets = Vec::new();
        self.json_timestamps_ms = Vec::new();
        if let Some(upsert) = &mut self.upsert {
            upsert.shrink(&self.schema);
        }
    }

    /// Keeps an error that is no record's fault for [`Self::finish`].
    fn closed(&mut self, close: impl FnOnce(&mut Self) -> Result<(), CodecError>) {
        if let Err(error) = close(self) {
            self.failed.get_or_insert(error);
        }
    }

    fn push_rows(&mut self, rows: DecodedRows) {
        self.done_rows += rows.rows.len();
        self.done_bytes += rows.batch.get_array_memory_size() + rows.rows.len() * POSITION_BYTES;
        self.done.rows.push(rows);
    }

    fn push_deletes(&mut self, deletes: DecodedDeletes) {
        let rows = deletes.rows.len();
        self.done_rows += rows;
        self.done_bytes += deletes.keys.get_array_memory_size() + rows * POSITION_BYTES;
        self.done.deletes.push(deletes);
    }

    /// Records taken in since the last [`Self::finish`], deletes among them.
    pub fn rows(&self) -> usize {
        let tombstones = self.upsert.as_ref().map_or(0, UpsertMessages::tombstones);
        let dead = self.dead_letters.as_ref().map_or(0, |dead| dead.rows());
        self.json.rows() + tombstones + dead + self.done_rows
    }

    /// Memory they hold, about.
    pub fn bytes(&self) -> usize {
        let tombstones = self.upsert.as_ref().map_or(0, UpsertMessages::bytes);
        let dead = self.dead_letters.as_ref().map_or(0, |dead| dead.bytes());
        let json = self.json.bytes() + self.json_offsets.len() * POSITION_BYTES;
        json + tombstones + dead + self.done_bytes
    }

    /// Hands over what was taken in, in order.
    pub fn finish(&mut self) -> Result<Decoded, CodecError> {
        self.close_json()?;
        self.close_tombstones()?;
        self.close_dead_letters()?;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.done_rows = 0;
        self.done_bytes = 0;
        Ok(std::mem::take(&mut self.done))
    }

    fn close_json(&mut self) -> Result<(), CodecError> {
        if self.json.rows() == 0 {
            return Ok(());
        }
        let batch = self.json.finish()?;
        let rows = vec![0; batch.num_rows()];
        let offsets = std::mem::take(&mut self.json_offsets);
        let timestamps_ms = std::mem::take(&mut self.json_timestamps_ms);
        self.push_rows(DecodedRows {
            batch,
            offsets,
            rows,
            timestamps_ms,
        });
        Ok(())
    }

    fn close_dead_letters(&mut self) -> Result<(), CodecError> {
        let rows = self.dead_letters.as_mut().map(|dead| dead.finish());
        if let Some(rows) = rows.transpose()?.flatten() {
            self.push_rows(rows);
        }
        Ok(())
    }

    fn close_tombstones(&mut self) -> Result<(), CodecError> {
        let deletes = self
            .upsert
            .as_mut()
            .map(UpsertMessages::take_tombstones)
            .transpose()?;
        if let Some(deletes) = deletes.flatten() {
            self.push_deletes(deletes);
        }
        Ok(())
    }
}

/// Offset, row and timestamp of a row.
const POSITION_BYTES: usize = 20;

#[cfg(test)]
mod tests;
