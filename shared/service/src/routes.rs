//! The routes that every service answers: `/livez`, `/readyz`, `/health`, `/version`, `/metrics`.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::{HealthReport, Runtime};

#[derive(Clone)]
struct Standard {
    service: &'static str,
    runtime: Runtime,
}

/// Merge this into a service's own router.
///
/// `/livez` depends on nothing outside of the process. `/readyz` is 503 while a component is not
/// ready or the process drains; with `?verbose` it lists the components. `/health` is the same as
/// JSON. None asks for credentials, and none shows more than names and reasons.
pub fn standard_routes(service: &'static str, runtime: &Runtime) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(Standard {
            service,
            runtime: runtime.clone(),
        })
}

impl Standard {
    fn report(&self) -> (StatusCode, &'static str, HealthReport) {
        let report = self.runtime.health.report();
        if self.runtime.shutdown.is_requested() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining", report)
        } else if report.ready {
            (StatusCode::OK, "ready", report)
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready", report)
        }
    }
}

async fn readyz(State(standard): State<Standard>, RawQuery(query): RawQuery) -> Response {
    let (status, word, report) = standard.report();
    let mut text = format!("{word}\n");
    if query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose"))) {
        for (name, component) in &report.components {
            let reason = component.reason.as_deref().unwrap_or("ok");
            text.push_str(&format!("{name}: {reason}\n"));
        }
    }
    (status, text).into_response()
}

async fn health(State(standard): State<Standard>) -> Response {
    let (status, word, report) = standard.report();
    let body = json!({
        "status": word,
        "service": standard.service,
        "version": env!("CARGO_PKG_VERSION"),
        "components": report.components,
    });
    (status, Json(body)).into_response()
}

async fn version(State(standard): State<Standard>) -> Response {
    Json(json!({ "service": standard.service, "version": env!("CARGO_PKG_VERSION") }))
        .into_response()
}

async fn metrics(State(standard): State<Standard>) -> Response {
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, media_type)],
        standard.runtime.metrics.render(),
    )
        .into_response()
}
