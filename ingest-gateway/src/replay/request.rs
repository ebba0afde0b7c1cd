//! The dead letters of a request: rows of a dead-letter table as SQL answers with them in JSON.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tidelake_core::Bucket;
use tidelake_core::headers::{self, dead_letter as names};
use tidelake_intake::decode::timestamp_ms;
use tidelake_log::Message;
use tidelake_schema::dead_letters::NO_BUCKET;
use tidelake_service::Problem;

use crate::problem::{Answer, refuse};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    letters: Vec<Row>,
}

/// What is needed to replay a dead letter; the rest is kept for its row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    source_bucket: i32,
    source_offset: i64,
    key: Option<String>,
    /// Must be said: null deletes.
    #[serde(deserialize_with = "Option::deserialize")]
    value: Option<String>,
    encoding: Option<String>,
    op: Option<String>,
    schema_version: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    field: Option<String>,
    row: Option<i32>,
    source_timestamp: Option<String>,
    dead_at: Option<String>,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeadLetter {
    pub source_bucket: i32,
    pub source_offset: i64,
    /// As the record was produced.
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub encoding: Option<Bytes>,
    pub op: Option<Bytes>,
    schema: Option<Bytes>,
    /// Headers of the dead letter that say what was wrong.
    about: Vec<(&'static str, Bytes)>,
}

/// Reads a request's body.
pub(super) fn parse(body: &[u8], letters_max: usize) -> Result<Vec<DeadLetter>, Answer> {
    let request: Request = serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() {
            "INVALID_REQUEST"
        } else {
            "MALFORMED_JSON"
        };
        Problem::new(400, code, "the body is not a request to replay")
            .detail(error.to_string())
            .hint(r#"send {"letters":[{"source_bucket":0,"source_offset":17,"value":…}]}"#)
    })?;
    if request.letters.len() > letters_max {
        let problem = Problem::new(413, "TOO_MANY_LETTERS", "too many dead letters at a time");
        let detail = format!(
            "{} dead letters; {letters_max} are the limit",
            request.letters.len()
        );
        return refuse(problem.detail(detail).hint("send them in several requests"));
    }
    let letters = request.letters.into_iter().enumerate();
    letters
        .map(|(place, row)| {
            letter(row).map_err(|(field, reason)| {
                Problem::new(400, "INVALID_REQUEST", "a dead letter can't be read")
                    .detail(format!("dead letter {place}, {field}: {reason}"))
                    .field(format!("letters[{place}].{field}"))
                    .into()
            })
        })
        .collect()
}

fn letter(row: Row) -> Result<DeadLetter, (&'static str, String)> {
    if row.source_bucket < NO_BUCKET {
        let reason = format!("{} is no bucket", row.source_bucket);
        return Err(("source_bucket", reason));
    }
    if row.source_offset < 0 {
        let reason = format!("{} is no offset", row.source_offset);
        return Err(("source_offset", reason));
    }
    let bytes = |name, text: Option<String>| {
        let decoded = text.map(|text| STANDARD.decode(text)).transpose();
        match decoded {
            Ok(bytes) => Ok(bytes.map(Bytes::from)),
            Err(error) => Err((name, format!("not base64: {error}"))),
        }
    };
    let time = |name, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => match timestamp_ms(&text) {
            Some(ms) => Ok(Some(ms.to_string())),
            None => Err((
                name,
                "not a timestamp such as 2026-01-31T12:00:00Z".to_owned(),
            )),
        },
    };
    let about = [
        (names::CODE, row.code),
        (names::REASON, row.reason),
        (names::FIELD, row.field),
        (names::ROW, row.row.map(|row| row.to_string())),
        (
            names::SOURCE_TIMESTAMP,
            time("source_timestamp", row.source_timestamp)?,
        ),
        (names::DEAD_AT, time("dead_at", row.dead_at)?),
    ];
    let about = about
        .into_iter()
        .filter_map(|(name, value)| Some((name, text(value?))));
    Ok(DeadLetter {
        source_bucket: row.source_bucket,
        source_offset: row.source_offset,
        key: bytes("key", row.key)?,
        value: bytes("value", row.value)?,
        encoding: row.encoding.map(text),
        op: row.op.map(text),
        schema: row.schema_version.map(text),
        about: about.collect(),
    })
}

fn text(text: String) -> Bytes {
    Bytes::from(text.into_bytes())
}

impl DeadLetter {
    fn source(&self) -> Bytes {
        text(format!("{}/{}", self.source_bucket, self.source_offset))
    }

    fn original_headers(&self) -> Vec<(Cow<'static, str>, Bytes)> {
        let all = [
            (headers::ENCODING, &self.encoding),
            (headers::OP, &self.op),
            (headers::SCHEMA, &self.schema),
        ];
        let given = all.into_iter();
        given
            .filter_map(|(name, value)| Some((name.into(), value.clone()?)))
            .collect()
    }

    /// The record as it was, on its way into the table.
    pub(super) fn record(&self, topic: Arc<str>, bucket: Bucket) -> Message {
        let mut list = self.original_headers();
        list.push((headers::REPLAY.into(), self.source()));
        Message {
            topic,
            bucket,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: list,
            // It is new to the table, and retention must not take it for old.
            timestamp_ms: None,
        }
    }

    /// The dead letter as the dead-letter topic has it.
    pub(super) fn again(&self, topic: Arc<str>, source_topic: &str) -> Message {
        let mut list = self.original_headers();
        let about = self.about.iter();
        list.extend(about.map(|(name, value)| ((*name).into(), value.clone())));
        if let Some(key) = &self.key {
            list.push((names::KEY.into(), key.clone()));
        }
        let source = [
            (names::SOURCE_TOPIC, source_topic.to_owned()),
            (names::SOURCE_BUCKET, self.source_bucket.to_string()),
            (names::SOURCE_OFFSET, self.source_offset.to_string()),
        ];
        list.extend(source.map(|(name, value)| (name.into(), text(value))));
        Message {
            topic,
            bucket: Bucket(0),
            key: Some(self.source()),
            value: self.value.clone(),
            headers: list,
            timestamp_ms: None,
        }
    }
}
