//! The wire form of a dead letter: what a table could not take, on its way to the dead-letter topic.
//!
//! It is named by its source position (key and headers), which is the primary key of the
//! dead-letter table: sent again after a crash, it replaces itself there. [`crate::decode`] reads it
//! back.

use std::borrow::Cow;

use bytes::Bytes;
use tidelake_codec::Rejection;
use tidelake_core::headers::{self, dead_letter as header};
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_core::{Bucket, Offset};

use crate::seen::{Outgoing, OwnedHeaders, Seen};

/// Reasons are for people: long ones are cut.
const TEXT_BYTES_MAX: usize = 1024;
/// What a dead letter's value, key and copied headers may take: what the producer takes, less room
/// for everything else.
const ORIGINAL_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;
/// Code of a record that is larger, decompressed, than a dead letter can be: it can't be replayed.
const CUT_SHORT: &str = "CUT_SHORT";

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub topic: &'a str,
    pub bucket: Bucket,
}

/// The dead letter of a record: what it is refused for stands in its reason and code.
pub fn of(source: Source<'_>, seen: &Seen<'_>, why: &Rejection) -> Outgoing {
    let (bucket, offset) = (source.bucket, seen.offset);
    let mut room = Room::default();
    let mut list = copied(seen, &mut room);
    let value = seen.value.map(|value| room.fitting(value));
    let mut reason = shortened(why.to_string());
    let mut code = why.code();
    if room.cut > 0 {
        let cut = room.cut;
        reason += &format!("; the last {cut} bytes of the record did not fit the dead letter");
        code = CUT_SHORT;
    }
    list.extend([
        (header::REASON, text(reason)),
        (header::CODE, Bytes::from_static(code.as_bytes())),
        (header::ROW, text(why.row.to_string())),
        (
            header::SOURCE_TOPIC,
            Bytes::copy_from_slice(source.topic.as_bytes()),
        ),
        (header::SOURCE_BUCKET, text(bucket.to_string())),
        (header::SOURCE_OFFSET, text(offset.to_string())),
        (
            header::SOURCE_TIMESTAMP,
            text(seen.timestamp_ms.to_string()),
        ),
    ]);
    if let Some(field) = &why.field {
        list.push((header::FIELD, text(shortened(field.clone()))));
    }
    let list = list.into_iter();
    let list = list
        .map(|(name, value)| (Cow::Borrowed(name), value))
        .collect();
    Outgoing {
        bucket: Bucket(0),
        key: Some(text(position(bucket, offset))),
        value,
        headers: OwnedHeaders(list),
        timestamp_ms: None,
    }
}

fn position(bucket: Bucket, offset: Offset) -> String {
    format!("{bucket}/{offset}")
}

fn text(text: String) -> Bytes {
    Bytes::from(text.into_bytes())
}

/// What of the record's own key and headers a dead letter keeps.
fn copied(seen: &Seen<'_>, room: &mut Room) -> Vec<(&'static str, Bytes)> {
    let parts = [
        (headers::ENCODING, seen.header(headers::ENCODING)),
        (headers::OP, seen.header(headers::OP)),
        (headers::SCHEMA, seen.header(headers::SCHEMA)),
        (header::KEY, seen.key),
    ];
    let parts = parts.into_iter();
    parts
        .filter_map(|(name, value)| Some((name, room.fitting(value?))))
        .collect()
}

/// Room for the original.
#[derive(Debug)]
struct Room {
    left: usize,
    cut: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left: ORIGINAL_BYTES_MAX,
            cut: 0,
        }
    }
}

impl Room {
    fn fitting(&mut self, bytes: &[u8]) -> Bytes {
        let kept = bytes.len().min(self.left);
        self.left -= kept;
        self.cut += bytes.len() - kept;
        Bytes::copy_from_slice(&bytes[..kept])
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
    use tidelake_codec::Reason;

    use super::*;
    use crate::decode::{DeadLetter, MessageDecoder, Pushed, WireMessage};
    use tidelake_core::headers::Headers;

    fn encoded() -> OwnedHeaders {
        let arrow = Bytes::from_static(b"arrow");
        OwnedHeaders(vec![(headers::ENCODING.into(), arrow)])
    }

    fn written(list: &OwnedHeaders, value: Option<&[u8]>, why: &Rejection) -> Outgoing {
        let source = Source {
            topic: "tidelake.default.t",
            bucket: Bucket(2),
        };
        let seen = Seen {
            offset: Offset(41),
            timestamp_ms: 1000,
            key: Some(b"k"),
            value,
            headers: list,
        };
        of(source, &seen, why)
    }

    #[test]
    fn a_dead_letter_is_read_back_as_the_row_of_its_source() {
        let mut why = Rejection::of_row(3, Reason::Tombstone);
        why.field = Some("f".repeat(5000));
        let message = written(&encoded(), Some(b"raw"), &why);
        assert_eq!(message.key.as_deref(), Some(&b"2/41"[..]));
        assert_eq!(message.value.as_deref(), Some(&b"raw"[..]));
        let header = |name: &str| Headers::get(&message.headers, name);
        assert_eq!(header(header::FIELD).map(<[u8]>::len), Some(1024));
        let dead_letter = DeadLetter::read(header);
        let mut decoder = MessageDecoder::dead_letters().unwrap();
        let pushed = decoder.push(&WireMessage {
            offset: 0,
            timestamp_ms: 2000,
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            encoding: header(headers::ENCODING),
            op: header(headers::OP),
            dead_letter: Some(&dead_letter),
        });
        assert_eq!(pushed, Ok(Pushed::Rows(1)));
        let batch = decoder.finish().unwrap().rows.remove(0).batch;
        let bucket = batch.column(0).as_primitive::<Int32Type>();
        let offset = batch.column(1).as_primitive::<Int64Type>();
        assert_eq!((bucket.value(0), offset.value(0)), (2, 41));
        let column = |name: &str| batch.column_by_name(name).unwrap();
        assert_eq!(column("code").as_string::<i32>().value(0), "TOMBSTONE");
        assert_eq!(column("key").as_binary::<i32>().value(0), b"k");
        assert_eq!(column("value").as_binary::<i32>().value(0), b"raw");
        assert_eq!(column("encoding").as_string::<i32>().value(0), "arrow");
        let row = column("row").as_primitive::<Int32Type>();
        assert_eq!(row.value(0), 3);
        let at = column("source_timestamp").as_primitive::<TimestampMicrosecondType>();
        assert_eq!(at.value(0), 1_000_000);
    }

    #[test]
    fn a_record_that_no_dead_letter_can_hold_is_cut_and_says_so() {
        let large = vec![b'x'; MESSAGE_BYTES_MAX + 5];
        let why = Rejection::of_row(0, Reason::Tombstone);
        let message = written(&encoded(), Some(&large), &why);
        assert!(message.bytes() < MESSAGE_BYTES_MAX);
        let kept = message.value.as_ref().unwrap().len();
        let header = |message: &Outgoing, name: &str| {
            let value = Headers::get(&message.headers, name).map(<[u8]>::to_vec);
            String::from_utf8(value.unwrap()).unwrap()
        };
        assert_eq!(header(&message, header::CODE), "CUT_SHORT");
        let cut = format!("the last {} bytes", large.len() - kept);
        let reason = header(&message, header::REASON);
        assert!(reason.contains(&cut), "{reason}");
        let message = written(&encoded(), Some(&vec![b'x'; kept]), &why);
        assert_eq!(header(&message, header::CODE), "TOMBSTONE");
        assert_eq!(written(&encoded(), None, &why).value, None);
    }
}
