//! Bad records of direct producers, on their way to the table's dead-letter topic.
//!
//! They are sent, and acknowledged, before the commit whose watermark passes them. A crash between
//! the two sends them again: a dead letter is named by its source position (key and headers), which
//! is the primary key of the dead-letter table, so a repetition replaces itself there. The flusher
//! reads that topic like a table's ([`tidelake_intake::decode::MessageDecoder::dead_letters`]).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use tidelake_codec::Rejection;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_core::{Bucket, Offset};
use tidelake_log::headers::{self, dead_letter as header};
use tidelake_log::{LogError, Message, Producer, Received};

/// Reasons are for people: long ones are cut.
const TEXT_BYTES_MAX: usize = 1024;
/// What a letter's value, key and copied headers may take: what the producer takes, less room for
/// everything else.
const ORIGINAL_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;
/// Code of a record that is larger, decompressed, than a letter can be: it can't be replayed.
const CUT_SHORT: &str = "CUT_SHORT";

/// A record as its producer sent it, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    topic: &'a str,
    bucket: Bucket,
    offset: Offset,
    timestamp_ms: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    op: Option<&'a [u8]>,
    schema: Option<&'a [u8]>,
}

impl<'a> Original<'a> {
    pub fn of(topic: &'a str, record: &Received<'a>) -> Self {
        Self {
            topic,
            bucket: record.bucket(),
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            key: record.key(),
            value: record.value(),
            encoding: record.header(headers::ENCODING),
            op: record.header(headers::OP),
            schema: record.header(headers::SCHEMA),
        }
    }
}

/// The message for one bad record.
pub fn dead_letter(topic: &Arc<str>, record: &Original<'_>, why: &Rejection) -> Message {
    let (bucket, offset) = (record.bucket, record.offset);
    let text = |text: String| Bytes::from(text.into_bytes());
    let copied = [
        (headers::ENCODING, record.encoding),
        (headers::OP, record.op),
        (headers::SCHEMA, record.schema),
        (header::KEY, record.key),
    ];
    let mut room = ORIGINAL_BYTES_MAX;
    let mut cut = 0;
    let mut fitting = |bytes: &[u8]| {
        let kept = bytes.len().min(room);
        room -= kept;
        cut += bytes.len() - kept;
        Bytes::copy_from_slice(&bytes[..kept])
    };
    let mut list = Vec::new();
    for (name, value) in copied {
        if let Some(value) = value {
            list.push((name, fitting(value)));
        }
    }
    let value = record.value.map(&mut fitting);
    let mut reason = shortened(why.to_string());
    let mut code = why.code();
    if cut > 0 {
        reason += &format!("; the last {cut} bytes of the record did not fit the dead letter");
        code = CUT_SHORT;
    }
    list.extend([
        (header::REASON, text(reason)),
        (header::CODE, Bytes::from_static(code.as_bytes())),
        (header::ROW, text(why.row.to_string())),
        (
            header::SOURCE_TOPIC,
            Bytes::copy_from_slice(record.topic.as_bytes()),
        ),
        (header::SOURCE_BUCKET, text(bucket.to_string())),
        (header::SOURCE_OFFSET, text(offset.to_string())),
        (
            header::SOURCE_TIMESTAMP,
            text(record.timestamp_ms.to_string()),
        ),
    ]);
    if let Some(field) = &why.field {
        list.push((header::FIELD, text(shortened(field.clone()))));
    }
    Message {
        topic: topic.clone(),
        bucket: Bucket(0),
        key: Some(text(format!("{bucket}/{offset}"))),
        value,
        headers: list
            .into_iter()
            .map(|(name, value)| (Cow::Borrowed(name), value))
            .collect(),
        timestamp_ms: None,
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

/// Memory that a waiting dead letter holds.
pub fn bytes_of(message: &Message) -> usize {
    let headers = message.headers.iter().map(|(_, value)| value.len());
    message.value.as_ref().map_or(0, Bytes::len) + headers.sum::<usize>() + 512
}

/// Sends all of them and waits until the log has them.
pub async fn send_all(producer: &Producer, letters: &[Message]) -> Result<(), LogError> {
    let mut waiting = Vec::with_capacity(letters.len());
    for letter in letters {
        waiting.push(producer.enqueue_waiting(letter.clone()).await?);
    }
    for delivery in waiting {
        delivery.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
    use tidelake_codec::Reason;
    use tidelake_intake::decode::{DeadLetter, MessageDecoder, Pushed, WireMessage};

    use super::*;

    fn original(value: Option<&[u8]>) -> Original<'_> {
        Original {
            topic: "tidelake.default.t",
            bucket: Bucket(2),
            offset: Offset(41),
            timestamp_ms: 1000,
            key: Some(b"k"),
            value,
            encoding: Some(b"arrow"),
            op: None,
            schema: None,
        }
    }

    fn written(record: &Original<'_>, why: &Rejection) -> Message {
        dead_letter(&Arc::from("tidelake.default.t.dlq"), record, why)
    }

    fn header<'a>(message: &'a Message, name: &str) -> Option<&'a [u8]> {
        let mut found = message.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_ref())
    }

    #[test]
    fn a_dead_letter_is_read_back_as_the_row_of_its_source() {
        let mut why = Rejection::of_row(3, Reason::Tombstone);
        why.field = Some("f".repeat(5000));
        let message = written(&original(Some(b"raw")), &why);
        assert_eq!(message.key.as_deref(), Some(&b"2/41"[..]));
        assert_eq!(message.value.as_deref(), Some(&b"raw"[..]));
        assert_eq!(header(&message, header::FIELD).map(<[u8]>::len), Some(1024));
        let letter = DeadLetter::read(|name| header(&message, name));
        let mut decoder = MessageDecoder::dead_letters().unwrap();
        let pushed = decoder.push(&WireMessage {
            offset: 0,
            timestamp_ms: 2000,
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            encoding: header(&message, headers::ENCODING),
            op: header(&message, headers::OP),
            dead_letter: Some(&letter),
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
    fn a_record_that_no_letter_can_hold_is_cut_and_says_so() {
        let large = vec![b'x'; MESSAGE_BYTES_MAX + 5];
        let why = Rejection::of_row(0, Reason::Tombstone);
        let message = written(&original(Some(&large)), &why);
        assert!(bytes_of(&message) < MESSAGE_BYTES_MAX);
        let kept = message.value.as_ref().unwrap().len();
        assert_eq!(header(&message, header::CODE), Some(&b"CUT_SHORT"[..]));
        let reason = String::from_utf8_lossy(header(&message, header::REASON).unwrap());
        let cut = format!("the last {} bytes", large.len() - kept);
        assert!(reason.contains(&cut), "{reason}");
        let fits = vec![b'x'; kept];
        let message = written(&original(Some(&fits)), &why);
        assert_eq!(header(&message, header::CODE), Some(&b"TOMBSTONE"[..]));
        assert_eq!(written(&original(None), &why).value, None);
    }
}
