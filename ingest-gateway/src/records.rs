//! `POST` and `DELETE /v1/tables/{t}/records`: a body of records or keys into the log, whole or not at
//! all.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{TableId, Token};
use tidelake_service::Problem;

use crate::admission::Place;
use crate::body::{self, Chunks, Coding, Fault};
use crate::decode::{self, BodyError, Decoded, Format, Operation, Room, Work};
use crate::problem::{self, Answer, refuse};
use crate::produce::{self, Destination};
use crate::request::{Query, Table};
use crate::spool::Spool;
use crate::tables::LiveTable;
use crate::{Gateway, Shared};

/// Bodies up to this size are decoded where they arrive: handing them to a thread costs more.
const SMALL_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Places of an Arrow stream among the streams: its batches are held whole.
const ARROW_PLACES: usize = 4;
/// What one batch may become for each place that its stream has.
const PLACE_BYTES: usize = 64 << 20;
/// What rows that wait for others of their bucket add.
const ROUTING_PLACES: usize = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteQuery {
    op: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoQuery {}

/// What the headers say of a body.
#[derive(Debug, Clone, Copy)]
struct Shape {
    format: Format,
    coding: Coding,
    length: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Accepted {
    records: u64,
    token: String,
}

pub(crate) async fn write(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, Answer> {
    accept(gateway, id, query.op.as_deref(), headers, body).await
}

/// `DELETE /v1/tables/{t}/records`: the same as `POST` with `op=delete`.
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, Answer> {
    accept(gateway, id, Some("delete"), headers, body).await
}

async fn accept(
    gateway: Gateway,
    id: TableId,
    op: Option<&str>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, Answer> {
    let _in_flight = gateway.metrics.enter();
    let shape = Shape {
        format: format(&headers)?,
        coding: coding(&headers)?,
        length: content_length(&headers),
    };
    let table = gateway.tables.current(&id).await?;
    table.check_own()?;
    let operation = operation(op, &table)?;
    let logged = gateway.tables.logged(&table).await?;
    let (decoded, _place) = decode_body(&gateway, logged, operation, shape, body).await?;
    // A long body may have outlived its table; its rows must not land in one created anew.
    let now = gateway.tables.current(&id).await?;
    if now.entry.topic_id != table.entry.topic_id {
        return Err(
            Problem::new(409, "TABLE_REPLACED", "the table is another one by now")
                .detail(format!("table {} was dropped and created anew", id.table))
                .hint("nothing was written: send it again")
                .into(),
        );
    }
    let (records, bytes) = (decoded.spool.rows(), decoded.bytes);
    let messages = decoded.spool.messages();
    let token = produce(&gateway, &table, decoded.spool).await?;
    gateway.metrics.accepted(&id, records, bytes, messages);
    Ok(Json(Accepted {
        records,
        token: token.to_string(),
    }))
}

async fn decode_body(
    gateway: &Gateway,
    table: Arc<TableEntry>,
    operation: Operation,
    shape: Shape,
    body: Body,
) -> Result<(Decoded, Place), Answer> {
    let bytes_max = gateway.ingest.body_bytes_max;
    let Shape {
        format,
        coding,
        length,
    } = shape;
    match length {
        Some(0) => return Err(BodyError::Empty.into()),
        Some(length) if length > bytes_max && coding == Coding::Identity => {
            return Err(BodyError::Fault(Fault::TooLarge(bytes_max)).into());
        }
        _ => {}
    }
    let work = |chunks, room| Work {
        chunks,
        coding,
        bytes_max,
        format,
        operation,
        table: Arc::clone(&table),
        room,
        spool: Spool::new(Arc::clone(&gateway.spool)),
    };
    let small = coding == Coding::Identity && length.is_some_and(|n| n <= SMALL_BODY_BYTES_MAX);
    let tenant = &table.id.tenant;
    let whole = if small {
        let place = gateway.admission.small(tenant).await?;
        let pace = gateway.ingest.pace();
        let body = body::whole(body, SMALL_BODY_BYTES_MAX as usize, pace).await;
        let body = body.map_err(BodyError::Fault)?;
        match decode::run(work(Chunks::whole(body.clone()), Room::Small)) {
            // What came small and grew needs the room of a stream.
            Err(error) if error.wants_room() => Source::Whole(body),
            outcome => return spooled(gateway, outcome.map(|decoded| (decoded, place))),
        }
    } else {
        Source::Stream(body)
    };
    let wanted = places(format, table.mode);
    let (place, places) = gateway.admission.stream(tenant, wanted).await?;
    let chunks = match whole {
        Source::Whole(body) => Chunks::whole(body),
        Source::Stream(body) => body::pump(body, gateway.ingest.pace()),
    };
    let work = work(chunks, Room::Stream(places * PLACE_BYTES));
    // The place stays taken until the thread is done, also when the client goes away.
    let outcome =
        tokio::task::spawn_blocking(move || decode::run(work).map(|decoded| (decoded, place)))
            .await
            .unwrap_or_else(|error| Err(BodyError::Worker(error.to_string())));
    spooled(gateway, outcome)
}

/// A body that is decoded on a thread of its own.
enum Source {
    Whole(bytes::Bytes),
    Stream(Body),
}

fn places(format: Format, mode: TableMode) -> usize {
    let places = match format {
        Format::Arrow => ARROW_PLACES,
        Format::Json | Format::Ndjson => 1,
    };
    match mode {
        TableMode::Append => places,
        TableMode::Upsert => places + ROUTING_PLACES,
    }
}

fn spooled(
    gateway: &Gateway,
    outcome: Result<(Decoded, Place), BodyError>,
) -> Result<(Decoded, Place), Answer> {
    gateway
        .metrics
        .spooled(gateway.spool.memory_bytes(), gateway.spool.disk_bytes());
    Ok(outcome?)
}

/// Hands the checked body over. A client that goes away now does not cut it in two.
async fn produce(gateway: &Gateway, table: &LiveTable, spool: Spool) -> Result<Token, Answer> {
    if spool.rows() == 0 {
        return Ok(Token::default());
    }
    let to = gateway.destination(table);
    let shared = Arc::clone(gateway);
    let entry = Arc::clone(&table.entry);
    let written = tokio::spawn(async move {
        let started = Instant::now();
        let token = produce::write(shared.log.as_ref(), spool, &to).await;
        shared.metrics.produced(started.elapsed());
        shared
            .metrics
            .spooled(shared.spool.memory_bytes(), shared.spool.disk_bytes());
        match token {
            Ok(token) => Ok(token),
            Err(error) => Err(shared.tables.not_produced(&entry, &error).await),
        }
    });
    match written.await {
        Ok(outcome) => outcome,
        Err(error) => {
            Err(Problem::from_kind(tidelake_core::ErrorKind::Bug, error.to_string()).into())
        }
    }
}

impl Shared {
    pub(crate) fn destination(&self, table: &LiveTable) -> Destination {
        Destination {
            topic: Arc::clone(&table.topic),
            buckets: table.entry.buckets,
            first_bucket: table.next_turn(),
            in_flight_max: self.ingest.produce_in_flight_max,
            timeout: self.ingest.produce_timeout(),
        }
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
fn operation(op: Option<&str>, table: &LiveTable) -> Result<Operation, Answer> {
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
