//! Named snapshots over HTTP.
//!
//! | route | body → answer |
//! | --- | --- |
//! | `GET /v1/tables/{t}/snapshots` | → `{"snapshots":[{"name","version","timestamp","created_at"},…]}` by name |
//! | `POST /v1/tables/{t}/snapshots` | `{"name","version":n \| "timestamp":"…"}` → 201 the snapshot; neither: the newest version |
//! | `DELETE /v1/tables/{t}/snapshots/{name}` | → 204 |

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tidelake_core::{SnapshotName, TableId, TableName};
use tidelake_manifest::NamedSnapshot;
use tidelake_service::Problem;

use crate::engine::Engine;
use crate::error::QueryError;
use crate::http::routes::{tenant, unread};
use crate::request;
use crate::sql::{AsOf, parse_timestamp};

pub(crate) async fn list(
    State(engine): State<Engine>,
    Path(table): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let listed = async {
        let id = table_id(&headers, &table)?;
        let snapshots = engine.snapshots(&id).await?;
        let snapshots: Vec<_> = snapshots.iter().map(object).collect();
        Ok(axum::Json(json!({ "snapshots": snapshots })).into_response())
    };
    answer(listed.await)
}

pub(crate) async fn create(
    State(engine): State<Engine>,
    Path(table): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    let created = async {
        let id = table_id(&headers, &table)?;
        let (name, as_of) = wanted(&body)?;
        let named = engine.create_snapshot(&id, name, &as_of).await?;
        Ok((StatusCode::CREATED, axum::Json(object(&named))).into_response())
    };
    answer(created.await)
}

pub(crate) async fn remove(
    State(engine): State<Engine>,
    Path((table, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let dropped = async {
        let id = table_id(&headers, &table)?;
        let name = snapshot_name(&name)?;
        engine.drop_named(&id, &name).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    answer(dropped.await)
}

fn answer(outcome: Result<Response<Body>, QueryError>) -> Response<Body> {
    outcome.unwrap_or_else(|error| Problem::from(&error).into_response())
}

/// A name that no table can have is a table that is not there.
pub(crate) fn table_id(headers: &HeaderMap, table: &str) -> Result<TableId, QueryError> {
    let tenant = tenant(headers)?;
    let name = TableName::new(table).map_err(|_| QueryError::TableNotFound {
        name: table.chars().take(80).collect(),
        nearest: None,
        at: None,
    })?;
    Ok(TableId::new(tenant, name))
}

fn snapshot_name(name: &str) -> Result<SnapshotName, QueryError> {
    SnapshotName::new(name).map_err(|error| QueryError::request("name", error.to_string()))
}

fn wanted(body: &[u8]) -> Result<(SnapshotName, AsOf), QueryError> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| QueryError::Body(error.to_string()))?;
    let Value::Object(fields) = body else {
        return Err(QueryError::Body("it must be a JSON object".into()));
    };
    let (mut name, mut as_of) = (None, AsOf::Latest);
    for (key, value) in fields {
        if value.is_null() {
            continue;
        }
        let asked = match (key.as_str(), value.as_str()) {
            ("name", Some(text)) => {
                name = Some(snapshot_name(text)?);
                continue;
            }
            ("name", None) => return Err(QueryError::request("name", "name must be a string")),
            ("version", _) => request::version("version", &value)?,
            ("timestamp", Some(text)) => parse_timestamp(text)
                .map(AsOf::Timestamp)
                .map_err(|reason| QueryError::request("timestamp", reason))?,
            ("timestamp", None) => {
                let reason = "timestamp must be a string";
                return Err(QueryError::request("timestamp", reason));
            }
            _ => {
                let reason = format!("{key:?} is none of name, version, timestamp");
                return Err(QueryError::Body(reason));
            }
        };
        if as_of != AsOf::Latest {
            let reason = "give version or timestamp, not both";
            return Err(QueryError::request("timestamp", reason));
        }
        as_of = asked;
    }
    let name = name.ok_or_else(|| QueryError::request("name", "name is missing"))?;
    Ok((name, as_of))
}

fn object(named: &NamedSnapshot) -> Value {
    json!({
        "name": named.name,
        "version": named.version.0,
        "timestamp": moment(named.version_ms),
        "created_at": moment(named.created_ms),
    })
}

fn moment(ms: i64) -> Option<String> {
    let at = chrono::DateTime::from_timestamp_millis(ms)?;
    Some(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}
