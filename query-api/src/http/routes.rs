//! The routes of the query API.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode, Version, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use serde_json::json;
use tidelake_core::TenantId;
use tidelake_core::limits::CONTROL_BODY_BYTES_MAX;
use tidelake_service::{Problem, Runtime, method_not_allowed, no_such_route, standard_routes};

use super::check;
use super::compress::compress;
use super::lookup;
use crate::admission::QueryId;
use crate::engine::Engine;
use crate::error::QueryError;
use crate::formats::Format;
use crate::http::answer::{self, QUERY_ID};
use crate::http::{snapshots, tables};
use crate::request::Request;

const TENANT: &str = "x-tidelake-tenant";

/// All routes, the standard ones included.
pub fn router(engine: Engine, runtime: &Runtime) -> Router {
    Router::new()
        .route("/v1/sql", post(post_sql).get(get_sql))
        .route("/v1/tables", get(tables::list))
        .route("/v1/tables/{table}", get(tables::describe))
        .route(
            "/v1/tables/{table}/snapshots",
            get(snapshots::list).post(snapshots::create),
        )
        .route(
            "/v1/tables/{table}/snapshots/{name}",
            delete(snapshots::remove),
        )
        .route("/v1/tables/{table}/rows/{key}", get(lookup::row))
        .route("/v1/tables/{table}/rows", get(lookup::range))
        .route("/v1/tables/{table}/check", post(check::check))
        .route("/v1/tables/{table}/lookup", post(lookup::rows))
        .route("/v1/queries", get(list_queries))
        .route("/v1/queries/{id}", delete(cancel_query))
        .layer(DefaultBodyLimit::max(CONTROL_BODY_BYTES_MAX))
        .layer(middleware::from_fn(compress))
        .with_state(engine)
        .merge(standard_routes("query", runtime))
        .fallback(|| async { no_such_route() })
        .method_not_allowed_fallback(|| async { method_not_allowed() })
}

async fn post_sql(
    State(engine): State<Engine>,
    version: Version,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    run(&engine, (version, &headers), |engine| {
        read_body(engine, &headers, &body)
    })
    .await
}

async fn get_sql(
    State(engine): State<Engine>,
    version: Version,
    headers: HeaderMap,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response<Body> {
    run(&engine, (version, &headers), |engine| match pairs {
        Ok(Query(pairs)) => Request::from_pairs(pairs, engine.settings()),
        Err(rejection) => Err(QueryError::Body(rejection.body_text())),
    })
    .await
}

async fn list_queries(State(engine): State<Engine>, headers: HeaderMap) -> Response<Body> {
    match tenant(&headers) {
        Ok(tenant) => axum::Json(json!({"queries": engine.queries(&tenant)})).into_response(),
        Err(error) => Problem::from(&error).into_response(),
    }
}

async fn cancel_query(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let cancelled = tenant(&headers).and_then(|tenant| match QueryId::parse(&id) {
        Some(id) => engine.cancel(&id, &tenant),
        None => Err(QueryError::QueryNotFound(id)),
    });
    match cancelled {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => Problem::from(&error).into_response(),
    }
}

/// Every answer, good or bad, carries the query's id.
async fn run(
    engine: &Engine,
    (version, headers): (Version, &HeaderMap),
    read: impl FnOnce(&Engine) -> Result<Request, QueryError>,
) -> Response<Body> {
    let id = match query_id(engine, headers) {
        Ok(id) => id,
        Err(error) => return Problem::from(&error).into_response(),
    };
    let answered = async {
        let tenant = tenant(headers)?;
        let format = Format::of_accept(text_of(headers, header::ACCEPT.as_str())?)?;
        if version == Version::HTTP_10 && !format.tells_its_end() {
            let reason = "an answer in this format that ends early would look whole over HTTP/1.0; \
                          use HTTP/1.1, or application/json or application/x-ndjson";
            return Err(QueryError::request("accept", reason));
        }
        let request = read(engine)?;
        let answer = engine.query(&tenant, id.clone(), &request).await?;
        let bytes_max = engine.settings().json_bytes_max;
        answer::respond(answer, format, engine.metrics(), bytes_max).await
    };
    let response = match answered.await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(query = %id, %error, "query not answered");
            Problem::from(&error).into_response()
        }
    };
    answer::with_id(response, &id)
}

fn read_body(engine: &Engine, headers: &HeaderMap, body: &[u8]) -> Result<Request, QueryError> {
    let content_type = text_of(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    let media = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match media.as_str() {
        // A client that says nothing sends JSON; so does curl -d, whatever it claims.
        "" | "application/json" | "application/x-www-form-urlencoded" => {
            Request::from_json(body, engine.settings())
        }
        "application/sql" | "text/plain" => {
            let sql = std::str::from_utf8(body)
                .map_err(|_| QueryError::Body("the statement is not UTF-8".into()))?;
            Ok(Request::new(sql, engine.settings()))
        }
        _ => Err(QueryError::MediaType(media)),
    }
}

fn query_id(engine: &Engine, headers: &HeaderMap) -> Result<QueryId, QueryError> {
    match text_of(headers, QUERY_ID.as_str())? {
        None => Ok(engine.fresh_id()),
        Some(id) => QueryId::parse(id).ok_or_else(|| {
            let reason = "x-query-id must be 1 to 64 letters, digits or any of . _ : -";
            QueryError::request("x-query-id", reason)
        }),
    }
}

pub(crate) fn tenant(headers: &HeaderMap) -> Result<TenantId, QueryError> {
    match text_of(headers, TENANT)? {
        None => Ok(TenantId::default()),
        Some(name) => {
            TenantId::new(name).map_err(|error| QueryError::request(TENANT, error.to_string()))
        }
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, QueryError> {
    match headers.get(name) {
        None => Ok(None),
        Some(value) => value
            .to_str()
            .map(Some)
            .map_err(|_| QueryError::Body(format!("header {name} is not plain text"))),
    }
}

pub(crate) fn unread(rejection: &BytesRejection) -> Response<Body> {
    let problem = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(413, "BODY_TOO_LARGE", "the request is too large")
            .detail(format!("a query may have {CONTROL_BODY_BYTES_MAX} bytes"))
    } else {
        Problem::from(&QueryError::Body(rejection.body_text()))
    };
    problem.into_response()
}
