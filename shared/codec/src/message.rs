//! Messages of a table's topic to rows, in the order of their offsets.
//!
//! | header | value | gives |
//! | --- | --- | --- |
//! | none | one JSON object | one row |
//! | `tl-encoding: arrow` | one Arrow IPC stream | its rows, all or none |
//! | `tl-op: flush` | any | no row: a marker |
//!
//! Flusher and query tail read the same messages through the same decoder, so both agree on what is
//! a row and what is a dead letter.

use arrow::array::RecordBatch;
use tidelake_schema::{SchemaError, TableSchema};

use crate::json::{JsonDecoder, JsonLimits};
use crate::reject::{Reason, Rejection};
use crate::{CodecError, packed};

/// The first byte of Confluent's framing: a schema id and Avro follow.
const CONFLUENT_MAGIC: u8 = 0;
const OP_FLUSH: &[u8] = b"flush";

/// One message as the log holds it.
#[derive(Debug, Clone, Copy)]
pub struct WireMessage<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub value: Option<&'a [u8]>,
    /// Header `tl-encoding`.
    pub encoding: Option<&'a [u8]>,
    /// Header `tl-op`.
    pub op: Option<&'a [u8]>,
}

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Rows(usize),
    /// It asks for a flush and holds no row.
    Marker,
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
    json: JsonDecoder,
    json_offsets: Vec<i64>,
    json_timestamps_ms: Vec<i64>,
    done: Vec<DecodedRows>,
    done_bytes: usize,
    /// No record's fault, so it belongs to [`Self::finish`].
    failed: Option<CodecError>,
}

impl MessageDecoder {
    pub fn new(schema: &TableSchema) -> Result<Self, SchemaError> {
        Ok(Self {
            schema: schema.clone(),
            json: JsonDecoder::new(schema, JsonLimits::default())?,
            json_offsets: Vec::new(),
            json_timestamps_ms: Vec::new(),
            done: Vec::new(),
            done_bytes: 0,
            failed: None,
        })
    }

    /// Takes one message in. A rejected message adds nothing.
    pub fn push(&mut self, message: &WireMessage<'_>) -> Result<Pushed, Rejection> {
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
            return Err(Rejection::of_row(0, Reason::Tombstone));
        };
        match message.encoding {
            None if value.first() == Some(&CONFLUENT_MAGIC) => {
                Err(Rejection::of_row(0, Reason::Unsupported { what: "avro" }))
            }
            None => {
                self.json.push_record(value)?;
                self.json_offsets.push(message.offset);
                self.json_timestamps_ms.push(message.timestamp_ms);
                Ok(Pushed::Rows(1))
            }
            Some(encoding) if encoding == packed::ENCODING.as_bytes() => {
                let batch = packed::decode(value, &self.schema)?;
                if let Err(error) = self.close_json() {
                    self.failed.get_or_insert(error);
                }
                Ok(Pushed::Rows(self.push_batch(batch, message)))
            }
            Some(_) => Err(Rejection::of_row(
                0,
                Reason::Unsupported {
                    what: "this tl-encoding",
                },
            )),
        }
    }

    fn push_batch(&mut self, batch: RecordBatch, message: &WireMessage<'_>) -> usize {
        let rows = batch.num_rows();
        self.done_bytes += batch.get_array_memory_size() + rows * POSITION_BYTES;
        self.done.push(DecodedRows {
            batch,
            offsets: vec![message.offset; rows],
            rows: (0..rows as u32).collect(),
            timestamps_ms: vec![message.timestamp_ms; rows],
        });
        rows
    }

    /// Rows taken in since the last [`Self::finish`].
    pub fn rows(&self) -> usize {
        self.json.rows()
            + self
                .done
                .iter()
                .map(|rows| rows.batch.num_rows())
                .sum::<usize>()
    }

    /// Memory they hold, about.
    pub fn bytes(&self) -> usize {
        self.json.bytes() + self.json_offsets.len() * POSITION_BYTES + self.done_bytes
    }

    /// Hands over the rows, in order.
    pub fn finish(&mut self) -> Result<Vec<DecodedRows>, CodecError> {
        self.close_json()?;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.done_bytes = 0;
        Ok(std::mem::take(&mut self.done))
    }

    fn close_json(&mut self) -> Result<(), CodecError> {
        if self.json.rows() == 0 {
            return Ok(());
        }
        let batch = self.json.finish()?;
        let rows = batch.num_rows();
        self.done_bytes += batch.get_array_memory_size() + rows * POSITION_BYTES;
        self.done.push(DecodedRows {
            batch,
            offsets: std::mem::take(&mut self.json_offsets),
            rows: vec![0; rows],
            timestamps_ms: std::mem::take(&mut self.json_timestamps_ms),
        });
        Ok(())
    }
}

/// Offset, row and timestamp of a row.
const POSITION_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn schema() -> TableSchema {
        TableSchema::from_iceberg_json(
            r#"{"type":"struct","schema-id":0,"fields":[
                {"id":1,"name":"id","required":true,"type":"long"}]}"#,
        )
        .unwrap()
    }

    fn message(offset: i64, value: &[u8]) -> WireMessage<'_> {
        WireMessage {
            offset,
            timestamp_ms: 7,
            value: Some(value),
            encoding: None,
            op: None,
        }
    }

    fn packed_rows(ids: std::ops::Range<i64>) -> bytes::Bytes {
        let mut decoder = JsonDecoder::new(&schema(), JsonLimits::default()).unwrap();
        for id in ids {
            decoder
                .push_record(format!("{{\"id\":{id}}}").as_bytes())
                .unwrap();
        }
        packed::encode(&decoder.finish().unwrap()).unwrap()
    }

    #[test]
    fn rows_keep_the_order_of_their_messages_and_bad_ones_leave_nothing() {
        let mut decoder = MessageDecoder::new(&schema()).unwrap();
        let packed = packed_rows(10..13);
        assert_eq!(
            decoder.push(&message(0, b"{\"id\":1}")).unwrap(),
            Pushed::Rows(1)
        );
        assert!(decoder.push(&message(1, b"{\"id\":\"x\"}")).is_err());
        let batch = WireMessage {
            encoding: Some(b"arrow"),
            ..message(2, &packed)
        };
        assert_eq!(decoder.push(&batch).unwrap(), Pushed::Rows(3));
        let cut = WireMessage {
            encoding: Some(b"arrow"),
            ..message(3, &packed[..packed.len() / 2])
        };
        assert!(decoder.push(&cut).is_err());
        let marker = WireMessage {
            op: Some(b"flush"),
            value: None,
            ..message(4, b"")
        };
        assert_eq!(decoder.push(&marker).unwrap(), Pushed::Marker);
        assert!(
            decoder
                .push(&WireMessage {
                    value: None,
                    ..message(5, b"")
                })
                .is_err()
        );
        assert!(decoder.push(&message(6, &[0, 0, 0, 0, 1, 2])).is_err());
        assert_eq!(
            decoder.push(&message(7, b"{\"id\":2}")).unwrap(),
            Pushed::Rows(1)
        );
        assert_eq!(decoder.rows(), 5);
        let mut found = Vec::new();
        for rows in decoder.finish().unwrap() {
            let ids = rows.batch.column(0).as_primitive::<Int64Type>();
            for row in 0..rows.batch.num_rows() {
                found.push((ids.value(row), rows.offsets[row], rows.rows[row]));
            }
        }
        assert_eq!(
            found,
            vec![(1, 0, 0), (10, 2, 0), (11, 2, 1), (12, 2, 2), (2, 7, 0)]
        );
        assert_eq!(decoder.rows(), 0);
        assert!(decoder.finish().unwrap().is_empty());
    }
}
