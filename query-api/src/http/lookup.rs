//! The routes of lookups.

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::response::IntoResponse;
use tidelake_service::Problem;

use crate::engine::Engine;
use crate::error::QueryError;
use crate::formats::OddFloats;
use crate::formats::json::write_text;
use crate::http::answer::seen_headers;
use crate::http::routes::{tenant, unread};
use crate::lookup::ask::{Ask, Wanted};
use crate::lookup::serve::Answered;

/// Room for a row, before it is known how large it is.
const ROW_BYTES_GUESS: usize = 256;

const JSON: &str = "application/json";

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// `GET /v1/tables/{table}/rows/{key}`: the row as an object.
pub(crate) async fn row(
    State(engine): State<Engine>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Response<Body> {
    let found = async {
        let Path((table, key)) = read(path)?;
        let tenant = tenant(&headers)?;
        let ask = Ask::of_key(&table, read(pairs)?.0, engine.settings())?;
        let mut found = engine.lookup(&tenant, &ask, &Wanted::Text(&key)).await?;
        if found.rows.batch_of(0).is_none() {
            return Err(QueryError::RowNotFound { table, key });
        }
        let mut out = Vec::with_capacity(ROW_BYTES_GUESS);
        let odd = odd_floats(&headers)?;
        found.write(odd, &mut out, engine.settings().json_bytes_max)?;
        Ok(response(&found, out))
    };
    found.await.unwrap_or_else(refused)
}

/// `POST /v1/tables/{table}/lookup`: rows in the order of their keys.
pub(crate) async fn rows(
    State(engine): State<Engine>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    let found = async {
        let Path(table) = read(path)?;
        let tenant = tenant(&headers)?;
        let (ask, wanted) = Ask::of_body(&table, &body, engine.settings())?;
        let found = engine.lookup(&tenant, &ask, &wanted).await?;
        listed(&engine, found, odd_floats(&headers)?)
    };
    found.await.unwrap_or_else(refused)
}

/// `GET /v1/tables/{table}/rows`: rows in the order of the key.
pub(crate) async fn range(
    State(engine): State<Engine>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Response<Body> {
    let found = async {
        let Path(table) = read(path)?;
        let tenant = tenant(&headers)?;
        let (ask, wanted) = Ask::of_range(&table, read(pairs)?.0, engine.settings())?;
        let found = engine.lookup(&tenant, &ask, &wanted).await?;
        listed(&engine, found, odd_floats(&headers)?)
    };
    found.await.unwrap_or_else(refused)
}

/// `{"rows":[…],"version":{table:N},"next":key}`.
fn listed(
    engine: &Engine,
    mut found: Answered,
    odd: OddFloats,
) -> Result<Response<Body>, QueryError> {
    let bytes_max = engine.settings().json_bytes_max;
    let guess = found.rows.len().saturating_mul(ROW_BYTES_GUESS);
    let mut out = Vec::with_capacity(guess.min(bytes_max));
    out.extend_from_slice(b"{\"rows\":[");
    found.write(odd, &mut out, bytes_max)?;
    out.extend_from_slice(b"],\"version\":{");
    write_text(found.seen.table.table.as_str(), &mut out);
    out.extend_from_slice(format!(":{}}}", found.seen.version).as_bytes());
    if let Some(next) = &found.next {
        out.extend_from_slice(b",\"next\":");
        write_text(next, &mut out);
    }
    out.push(b'}');
    Ok(response(&found, out))
}

/// Rows by key are JSON.
///
/// # Errors
/// [`QueryError::NotAcceptable`] where the client takes anything but that.
fn odd_floats(headers: &HeaderMap) -> Result<OddFloats, QueryError> {
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    // Of formats that a client takes one is enough: a row by key has no other.
    let takes = |accept: &str| {
        let mut ranges = accept.split(',').map(|range| range.split(';').next());
        ranges.any(|media| {
            matches!(
                media.map(str::trim),
                Some("" | "*/*" | "application/*" | JSON)
            )
        })
    };
    match accept {
        Some(accept) if !takes(accept) => Err(QueryError::NotAcceptable(accept.to_owned())),
        accept => Ok(OddFloats::of_accept(accept)),
    }
}

fn response(found: &Answered, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    seen_headers(std::slice::from_ref(&found.seen), headers);
    response
}

fn read<T, E: std::fmt::Display>(part: Result<T, E>) -> Result<T, QueryError> {
    part.map_err(|rejection| QueryError::Query(rejection.to_string()))
}

fn refused(error: QueryError) -> Response<Body> {
    tracing::debug!(%error, "lookup not answered");
    Problem::from(&error).into_response()
}
