//! What a request's headers and query say of its body, where the table takes such.

use http::{HeaderMap, header};
use tidelake_catalog::TableMode;
use tidelake_service::Problem;

use crate::body::Coding;
use crate::decode::{Format, Operation};
use crate::problem::{self, Answer, refuse};
use crate::tables::LiveTable;

/// What the headers say of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) format: Format,
    pub(super) coding: Coding,
    pub(super) length: Option<u64>,
}

impl Shape {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Answer> {
        Ok(Self {
            format: format(headers)?,
            coding: coding(headers)?,
            length: content_length(headers),
        })
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn format(headers: &HeaderMap) -> Result<Format, Answer> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .map_or("(none)", |v| v.to_str().unwrap_or("?"));
    let mut parts = value
        .split(';')
        .map(|part| part.trim().to_ascii_lowercase());
    let format = match parts.next().as_deref() {
        Some("application/json") => Format::Json,
        Some("application/x-ndjson") => Format::Ndjson,
        Some("application/vnd.apache.arrow.stream") => Format::Arrow,
        _ => return refuse(problem::unsupported_type(value)),
    };
    let utf8 = |charset: &str| matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii");
    let foreign = parts.any(|part| part.strip_prefix("charset=").is_some_and(|c| !utf8(c)));
    if foreign {
        refuse(problem::unsupported_type(value))
    } else {
        Ok(format)
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, Answer> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(Coding::Identity);
    };
    let text = value.to_str().unwrap_or("?");
    match text.trim().to_ascii_lowercase().as_str() {
        _ if values.next().is_some() => refuse(problem::unsupported_coding("given twice")),
        "" | "identity" => Ok(Coding::Identity),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "zstd" => Ok(Coding::Zstd),
        _ => refuse(problem::unsupported_coding(text)),
    }
}

/// What the request does, where the table takes it.
pub(super) fn operation(op: Option<&str>, table: &LiveTable) -> Result<Operation, Answer> {
    match (op, table.entry.mode) {
        (None | Some("upsert"), _) => Ok(Operation::Write),
        (Some("delete"), TableMode::Upsert) => Ok(Operation::Delete),
        (Some("delete"), TableMode::Append) => refuse(
            Problem::new(422, "NO_PRIMARY_KEY", "the table takes no deletes")
                .detail(format!(
                    "table {} is an append table: it has no primary key to delete by",
                    table.entry.id.table
                ))
                .hint(
                    "make a table with \"mode\":\"upsert\" and a primary key for rows that change",
                ),
        ),
        (Some(other), _) => refuse(
            Problem::new(400, "INVALID_QUERY", "a query parameter is wrong").detail(format!(
                "op is {:?}; it is upsert or delete",
                excerpt(other)
            )),
        ),
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}
