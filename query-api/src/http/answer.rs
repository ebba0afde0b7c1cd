//! Rows as an HTTP response: buffered JSON, or a stream.
//!
//! A stream's first bytes are gathered before the status line leaves, so that an error that comes early
//! is a problem with a status of its own. An error that comes later cuts the body off; NDJSON says why
//! in a last line. Whether the answer was cut at the wished number of rows is a header where it is known
//! in time, which is waited for up to some MiB; else trailers say it, NDJSON in a last line, Parquet in
//! its footer.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use bytes::{Bytes, BytesMut};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body::Frame;
use serde_json::json;
use tidelake_core::Token;
use tokio::sync::Semaphore;

use crate::admission::QueryId;
use crate::engine::{self, Answer, Seen};
use crate::error::QueryError;
use crate::formats::{Encoder, End, Format, OddFloats, encoder, json as json_rows};
use crate::metrics::QueryMetrics;
use crate::moment;
use crate::table::type_names::type_name;

pub(crate) const QUERY_ID: HeaderName = HeaderName::from_static("x-query-id");
const TABLE_VERSION: HeaderName = HeaderName::from_static("x-table-version");
const POSITIONS: HeaderName = HeaderName::from_static("x-tidelake-positions");
const ROWS: HeaderName = HeaderName::from_static("x-rows");
const TRUNCATED: HeaderName = HeaderName::from_static("x-truncated");

/// Bytes gathered before a stream's answer begins.
const PREFETCH_BYTES: usize = 64 * 1024;
/// The same where a number of rows is asked for: most such answers are whole by then, and their
/// headers say whether they were cut.
const WHOLE_BYTES: usize = 8 * 1024 * 1024;
/// Answers of which so much is gathered at a time; others begin as those without a number do.
static WHOLE: Semaphore = Semaphore::const_new(16);
/// Bytes of readable positions in a header; beyond, they become tokens.
const POSITIONS_BYTES_MAX: usize = 4 * 1024;

/// The answer's rows, bounded in number.
struct Rows {
    stream: engine::Rows,
    schema: SchemaRef,
    left: Option<usize>,
    sent: u64,
    truncated: bool,
    metrics: QueryMetrics,
}

impl Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        if self.truncated {
            return Ok(None);
        }
        let Some(batch) = self.stream.next().await? else {
            return Ok(None);
        };
        let batch = match &mut self.left {
            Some(left) => {
                self.truncated = batch.num_rows() > *left;
                let kept = batch.num_rows().min(*left);
                *left -= kept;
                batch.slice(0, kept)
            }
            None => batch,
        };
        self.sent += batch.num_rows() as u64;
        self.metrics.rows.inc_by(batch.num_rows() as u64);
        // A cut batch is the last one; it may be empty.
        Ok((batch.num_rows() > 0).then_some(batch))
    }

    fn failed(&self, error: QueryError) -> QueryError {
        self.stream.ended(error.outcome());
        error
    }
}

/// Writes the answer in the format that was asked for.
pub(crate) async fn respond(
    answer: Answer,
    format: Format,
    metrics: &QueryMetrics,
    json_bytes_max: usize,
) -> Result<Response<Body>, QueryError> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(format.media_type()),
    );
    seen_headers(&answer.seen, &mut headers);
    let Answer {
        schema,
        seen,
        max_rows,
        rows: stream,
    } = answer;
    let metrics = metrics.clone();
    let (left, sent, truncated) = (max_rows, 0, false);
    let rows = Rows {
        stream,
        schema,
        left,
        sent,
        truncated,
        metrics,
    };
    let body = match format {
        Format::Json(odd) => buffered(rows, odd, &seen, json_bytes_max, &mut headers).await?,
        _ => streamed(rows, format, &mut headers).await?,
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    Ok(response)
}

async fn buffered(
    mut rows: Rows,
    odd: OddFloats,
    seen: &[Seen],
    bytes_max: usize,
    headers: &mut HeaderMap,
) -> Result<Body, QueryError> {
    let columns: Vec<_> = rows
        .schema
        .fields()
        .iter()
        .map(|field| json!({"name": field.name(), "type": type_name(field)}))
        .collect();
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(b"{\"columns\":");
    out.extend_from_slice(json!(columns).to_string().as_bytes());
    out.extend_from_slice(b",\"rows\":[");
    let mut first = true;
    while let Some(batch) = rows.next().await? {
        if batch.num_rows() == 0 {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        json_rows::write_arrays(&batch, odd, &mut out)?;
        if out.len() > bytes_max {
            return Err(rows.failed(QueryError::ResultTooLarge { bytes_max }));
        }
    }
    let elapsed = moment::age(rows.stream.begun).as_secs_f64() * 1000.0;
    let rest = json!({
        "version": by_table(seen, |seen| json!(seen.version.0)),
        "positions": by_table(seen, positions_json),
        "truncated": rows.truncated,
        "elapsed_ms": (elapsed * 1000.0).round() / 1000.0,
    });
    out.extend_from_slice(b"],");
    out.extend_from_slice(&rest.to_string().as_bytes()[1..]);
    ended(&mut rows, headers);
    rows.metrics.bytes.inc_by(out.len() as u64);
    Ok(Body::from(out))
}

/// The whole answer is known: its headers too.
fn ended(rows: &mut Rows, headers: &mut HeaderMap) {
    rows.stream.ended("ok");
    headers.insert(ROWS, HeaderValue::from(rows.sent));
    if rows.truncated {
        headers.insert(TRUNCATED, HeaderValue::from_static("true"));
    }
}

/// A connection is broken off with what it has not sent yet: so long it has for the line that says
/// why.
const LAST_LINE_LEAVES_IN: Duration = Duration::from_millis(200);

/// A streamed body on its way.
struct Sending {
    rows: Rows,
    encoder: Box<dyn Encoder>,
    done: bool,
    /// The headers have left.
    late: bool,
}

/// What a streamed body still has to send.
enum Left {
    Rows(Box<Sending>),
    /// The client was told why; now the body must not end as if it were whole.
    Cut(QueryError),
    Nothing,
}

impl Sending {
    /// The next bytes, never empty; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, QueryError> {
        while !self.done {
            let bytes = match self.rows.next().await? {
                Some(batch) => self.encoder.write(&batch),
                None => {
                    self.done = true;
                    self.encoder.finish(End {
                        truncated: self.rows.truncated,
                        rows: self.rows.sent,
                        late: self.late,
                    })
                }
            };
            let bytes = bytes.map_err(|error| self.rows.failed(error))?;
            if self.done {
                self.rows.stream.ended("ok");
            }
            if !bytes.is_empty() {
                self.rows.metrics.bytes.inc_by(bytes.len() as u64);
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

async fn streamed(rows: Rows, format: Format, headers: &mut HeaderMap) -> Result<Body, QueryError> {
    let encoder = encoder(format, &rows.schema)?;
    let mut sending = Sending {
        rows,
        encoder,
        done: false,
        late: false,
    };
    let room = sending.rows.left.and_then(|_| WHOLE.try_acquire().ok());
    let bytes_max = match room {
        Some(_) => WHOLE_BYTES,
        None => PREFETCH_BYTES,
    };
    let mut begun = BytesMut::new();
    loop {
        match sending.next().await? {
            Some(bytes) => begun.extend_from_slice(&bytes),
            None => {
                ended(&mut sending.rows, headers);
                return Ok(Body::from(begun.freeze()));
            }
        }
        if begun.len() >= bytes_max {
            break;
        }
    }
    sending.late = true;
    headers.insert(
        header::TRAILER,
        HeaderValue::from_static("x-rows, x-truncated"),
    );
    let first = futures::stream::once(async {
        drop(room);
        Ok::<_, QueryError>(Frame::data(begun.freeze()))
    });
    let rest = futures::stream::unfold(Left::Rows(Box::new(sending)), |left| async {
        let mut sending = match left {
            Left::Rows(sending) => sending,
            Left::Cut(error) => {
                moment::reach(moment::now() + LAST_LINE_LEAVES_IN).await;
                return Some((Err(error), Left::Nothing));
            }
            Left::Nothing => return None,
        };
        match sending.next().await {
            Ok(None) => Some((Ok(Frame::trailers(trailers(&sending.rows))), Left::Nothing)),
            Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), Left::Rows(sending))),
            Err(error) => match sending.encoder.failed(&error) {
                Some(line) => Some((Ok(Frame::data(line)), Left::Cut(error))),
                None => Some((Err(error), Left::Nothing)),
            },
        }
    });
    Ok(Body::new(Frames(Box::pin(first.chain(rest)))))
}

/// What is known of an answer when all of it was sent.
fn trailers(rows: &Rows) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(ROWS, HeaderValue::from(rows.sent));
    let truncated = if rows.truncated { "true" } else { "false" };
    trailers.insert(TRUNCATED, HeaderValue::from_static(truncated));
    trailers
}

/// A body whose trailers say how it ended.
struct Frames(BoxStream<'static, Result<Frame<Bytes>, QueryError>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = QueryError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, QueryError>>> {
        self.0.as_mut().poll_next(context)
    }
}

/// One member for each table; a table that was read at a second version has `table@version` too.
fn by_table(
    seen: &[Seen],
    value: impl Fn(&Seen) -> serde_json::Value,
) -> serde_json::Map<String, serde_json::Value> {
    let mut members = serde_json::Map::new();
    for seen in seen {
        let name = seen.table.table.to_string();
        let name = match members.contains_key(&name) {
            true => format!("{name}@{}", seen.version),
            false => name,
        };
        members.insert(name, value(seen));
    }
    members
}

fn positions_json(seen: &Seen) -> serde_json::Value {
    let positions: BTreeMap<String, i64> = seen
        .positions
        .iter()
        .map(|(bucket, mark)| (bucket.to_string(), mark.0))
        .collect();
    json!(positions)
}

fn positions_token(seen: &Seen) -> serde_json::Value {
    json!(Token::new(seen.positions.iter().map(|(bucket, mark)| (*bucket, *mark))).to_string())
}

/// One table: its version. Several: `a=3,b=7`.
pub(crate) fn seen_headers(seen: &[Seen], headers: &mut HeaderMap) {
    let version = match seen {
        [] => return,
        [only] => only.version.to_string(),
        several => {
            let each: Vec<_> = several
                .iter()
                .map(|s| format!("{}={}", s.table.table, s.version))
                .collect();
            each.join(",")
        }
    };
    let mut positions = json!(by_table(seen, positions_json)).to_string();
    if positions.len() > POSITIONS_BYTES_MAX {
        positions = json!(by_table(seen, positions_token)).to_string();
    }
    for (name, text) in [(TABLE_VERSION, version), (POSITIONS, positions)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

/// Puts the query's id on any response.
pub(crate) fn with_id(mut response: Response<Body>, id: &QueryId) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(QUERY_ID, value);
    }
    response
}
