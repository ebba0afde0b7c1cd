//! Bad records of direct producers, on their way to the table's dead-letter topic.
//!
//! They are sent, and acknowledged, before the commit whose watermark passes them. A crash between
//! the two sends them again: a dead letter is named by its source position (key and headers), so a
//! repetition is recognisable.

use std::sync::Arc;

use bytes::Bytes;
use tidelake_codec::Rejection;
use tidelake_core::Bucket;
use tidelake_log::headers::{self, dead_letter as header};
use tidelake_log::{LogError, Message, Producer, Received};

/// Reasons are for people: long ones are cut.
const REASON_BYTES_MAX: usize = 1024;

/// The message for one bad record.
pub fn dead_letter(
    topic: &Arc<str>,
    source_topic: &str,
    record: &Received<'_>,
    why: &Rejection,
) -> Message {
    let bucket = record.bucket();
    let offset = record.offset();
    let text = |text: String| Bytes::from(text.into_bytes());
    let mut reason = why.to_string();
    if reason.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    let mut list = vec![
        (header::REASON, text(reason)),
        (header::CODE, Bytes::from_static(why.code().as_bytes())),
        (header::ROW, text(why.row.to_string())),
        (
            header::SOURCE_TOPIC,
            Bytes::copy_from_slice(source_topic.as_bytes()),
        ),
        (header::SOURCE_BUCKET, text(bucket.to_string())),
        (header::SOURCE_OFFSET, text(offset.to_string())),
        (
            header::SOURCE_TIMESTAMP,
            text(record.timestamp_ms().to_string()),
        ),
    ];
    if let Some(field) = &why.field {
        list.push((header::FIELD, text(field.clone())));
    }
    for name in [headers::ENCODING, headers::OP, headers::SCHEMA] {
        if let Some(value) = record.header(name) {
            list.push((name, Bytes::copy_from_slice(value)));
        }
    }
    Message {
        topic: topic.clone(),
        bucket: Bucket(0),
        key: Some(text(format!("{bucket}/{offset}"))),
        value: record.value().map(Bytes::copy_from_slice),
        headers: list,
        timestamp_ms: None,
    }
}

/// Memory that a waiting dead letter holds.
pub fn bytes_of(message: &Message) -> usize {
    message.value.as_ref().map_or(0, Bytes::len) + 512
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
