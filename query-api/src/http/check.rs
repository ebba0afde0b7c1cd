//! `POST /v1/tables/{t}/check[?repair=true]` → what was checked and what is wrong.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;
use tidelake_service::Problem;

use crate::engine::Engine;
use crate::error::QueryError;
use crate::http::snapshots::table_id;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    repair: bool,
}

pub(crate) async fn check(
    State(engine): State<Engine>,
    Path(table): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Response<Body> {
    let checked = async {
        let id = table_id(&headers, &table)?;
        let Query(asked) = asked.map_err(|rejection| QueryError::Query(rejection.body_text()))?;
        engine.check(&id, asked.repair).await
    };
    match checked.await {
        Ok(report) => {
            let answer = json!({"table": table, "sound": report.is_sound(), "report": report});
            axum::Json(answer).into_response()
        }
        Err(error) => Problem::from(&error).into_response(),
    }
}
