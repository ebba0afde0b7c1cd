//! What every request carries besides its body: a request id, a tenant, a table, query parameters.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use tidelake_core::{TableId, TableName, TenantId};
use tidelake_service::Problem;
use tracing::Instrument;

use crate::Gateway;
use crate::problem::Answer;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;
const TENANT: &str = "x-tidelake-tenant";

/// The code of a refused request, for metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusalCode(pub &'static str);

/// Gives every request an id (the client's, if it sent a usable one), which its log lines and its
/// answer carry, and counts refusals.
pub(crate) async fn identify(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let sent = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| is_usable(id))
        .cloned();
    let id = match sent {
        Some(id) => id,
        None => {
            let id = gateway.ids.next_uuid().to_string();
            HeaderValue::from_str(&id).expect("a UUID's text is a header value")
        }
    };
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
    );
    let mut response = next.run(request).instrument(span).await;
    if let Some(RefusalCode(code)) = response.extensions().get() {
        gateway.metrics.rejected(code);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn is_usable(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= REQUEST_ID_BYTES_MAX
        && bytes.iter().all(u8::is_ascii_graphic)
}

/// The tenant that a request speaks for.
#[derive(Debug, Clone)]
pub(crate) struct Tenant(pub TenantId);

fn tenant(headers: &HeaderMap) -> Result<TenantId, Answer> {
    let Some(value) = headers.get(TENANT) else {
        return Ok(TenantId::default());
    };
    let named = value
        .to_str()
        .map_err(|_| "it is not plain text".to_owned());
    named
        .and_then(|name| TenantId::new(name).map_err(|error| error.to_string()))
        .map_err(|reason| {
            Problem::new(400, "INVALID_TENANT", "the tenant header is not valid")
                .detail(format!("header {TENANT}: {reason}"))
                .into()
        })
}

impl<S: Send + Sync> FromRequestParts<S> for Tenant {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(tenant(&parts.headers)?))
    }
}

/// The table that a request's path names.
#[derive(Debug, Clone)]
pub(crate) struct Table(pub TableId);

impl<S: Send + Sync> FromRequestParts<S> for Table {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let tenant = tenant(&parts.headers)?;
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(400, "INVALID_NAME", "the path names no table"))?;
        let table = TableName::new(&name).map_err(|error| {
            // Such a table can't exist.
            crate::problem::no_table(&name).hint(error.to_string())
        })?;
        Ok(Self(TableId::new(tenant, table)))
    }
}

/// Query parameters; unknown ones are refused, since a misspelt one would be ignored otherwise.
#[derive(Debug)]
pub(crate) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(
                Problem::new(400, "INVALID_QUERY", "a query parameter is wrong")
                    .detail(rejection.body_text())
                    .into(),
            ),
        }
    }
}

/// The same text, shared.
pub(crate) fn shared(text: &str) -> Arc<str> {
    Arc::from(text)
}
