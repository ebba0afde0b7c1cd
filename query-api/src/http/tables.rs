//! `GET /v1/tables` and `GET /v1/tables/{t}`: as the gateway's routes answer.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response};
use axum::response::IntoResponse;
use serde::Deserialize;
use tidelake_catalog::ListPart;
use tidelake_service::Problem;

use crate::engine::Engine;
use crate::error::QueryError;
use crate::http::routes::tenant;
use crate::http::snapshots::table_id;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Asked {
    /// Dead-letter tables too.
    all: bool,
    limit: Option<usize>,
    after: Option<String>,
}

pub(crate) async fn list(
    State(engine): State<Engine>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Response<Body> {
    let listed = async {
        let tenant = tenant(&headers)?;
        let Query(asked) = asked.map_err(|rejection| QueryError::Query(rejection.body_text()))?;
        let part = ListPart {
            limit: asked.limit,
            after: asked.after,
        };
        engine.list(&tenant, &part, asked.all).await
    };
    match listed.await {
        Ok(list) => axum::Json(list).into_response(),
        Err(error) => Problem::from(&error).into_response(),
    }
}

pub(crate) async fn describe(
    State(engine): State<Engine>,
    Path(table): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let described = async { engine.describe(&table_id(&headers, &table)?).await };
    match described.await {
        Ok(described) => axum::Json(described).into_response(),
        Err(error) => Problem::from(&error).into_response(),
    }
}
