//! The table of routes, nothing else.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use tidelake_core::limits::CONTROL_BODY_BYTES_MAX;

use crate::{Gateway, problem, progress, records, replay, request, tables};

pub(crate) fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/tables", get(tables::list).post(tables::create))
        .route(
            "/v1/tables/{table}",
            get(tables::describe).delete(tables::drop_table),
        )
        .route("/v1/tables/{table}/undrop", post(tables::undrop))
        .route(
            "/v1/tables/{table}/adopt-topic",
            post(tables::adopt::adopt_topic),
        )
        .layer(DefaultBodyLimit::max(CONTROL_BODY_BYTES_MAX))
        .route(
            "/v1/tables/{table}/records",
            post(records::write).delete(records::delete),
        )
        .route(
            "/v1/tables/{table}/dead-letters/replay",
            post(replay::replay),
        )
        .route("/v1/tables/{table}/status", get(progress::status))
        .route("/v1/tables/{table}/flush", post(progress::flush))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::no_such_route)
        .layer(middleware::from_fn_with_state(
            gateway.clone(),
            request::identify,
        ))
        .with_state(gateway)
}
