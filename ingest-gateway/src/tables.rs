//! Tables: the routes that make, list, describe and drop them, and the live view that writes use.
//!
//! What a table is made of is made in this order, so that a crash in between leaves what the next
//! try can take over, and never a table in the catalog that can't be written to:
//!
//! ```text
//!  create: topic ─► Delta log, version 0 ─► the same for dead letters ─► catalog: create_table
//!  adopt:  commit of the table's log ─► catalog: adopt_topic; see adopt.rs
//!  drop:   catalog: drop_table ─► fence ─► topics ─► folders ─► catalog: purged; see also dropped.rs
//! ```

pub(crate) mod adopt;
mod create;
pub(crate) mod dead_letters;
mod describe;
pub(crate) mod dropped;
mod live;
mod purge;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidelake_catalog::{Description, ListPart, Listed, TableList, looked_at};
use tidelake_core::{Bucket, TableName};
use tidelake_service::Problem;

use describe::{describe_for_list, describe_one};
pub(crate) use live::{LiveTable, LoggedTable, Reached, Tables};

use crate::Gateway;
use crate::problem::Answer;
use crate::request::{Query, Table, Tenant};

/// Tables of a list that are looked at at a time.
const LOOKS_IN_FLIGHT_MAX: usize = 8;
/// How old what a list says of a table may be.
const LIST_AGE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
pub(crate) struct DroppedTable {
    name: TableName,
    dropped: bool,
    /// It can be restored until then, while its name is not used; null where it is gone for good.
    kept_until_ms: Option<i64>,
}

/// `POST /v1/tables`
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    Tenant(tenant): Tenant,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Answer> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(413, "BODY_TOO_LARGE", "the body is too large")
                .detail(rejection.body_text())
        }
        _ => Problem::new(400, "BODY_CUT_SHORT", "the body was cut short")
            .detail(rejection.body_text()),
    })?;
    let request = create::parse(&tenant, &body, gateway.tables.settings())?;
    // The rest goes on even if the client goes away: half a table is of no use.
    let tables = Arc::clone(&gateway.tables);
    let made = tokio::spawn(async move { tables.create(request).await }).await;
    let table = made.map_err(died)??;
    Ok((
        StatusCode::CREATED,
        Json(describe_one(&gateway, &table).await?),
    )
        .into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Dead-letter tables too.
    #[serde(default)]
    all: bool,
    /// Tables of this answer; there may be more.
    limit: Option<usize>,
    /// Only tables whose names sort behind this one.
    after: Option<String>,
}

/// `GET /v1/tables[?all=true][&limit=…][&after=…]`
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Tenant(tenant): Tenant,
    Query(query): Query<ListQuery>,
) -> Result<Json<TableList>, Answer> {
    let mut tables = gateway.tables.of_tenant(&tenant, query.all).await?;
    let part = ListPart {
        limit: query.limit,
        after: query.after,
    };
    let next_after = part.cut(&mut tables, |table| &table.entry);
    let looks = looked_at(tables, |table| table.is_known());
    let tables: Vec<_> = futures::stream::iter(looks)
        .map(|(table, looked)| {
            let gateway = gateway.clone();
            async move {
                match looked {
                    true => listed(&gateway, &table).await,
                    false => Listed::named(&table.entry),
                }
            }
        })
        .buffered(LOOKS_IN_FLIGHT_MAX)
        .collect()
        .await;
    Ok(Json(TableList { tables, next_after }))
}

async fn listed(gateway: &Gateway, table: &Arc<LiveTable>) -> Listed {
    match describe_for_list(gateway, table, LIST_AGE_MAX).await {
        Ok(description) => Listed::Described(Box::new(description)),
        Err(Answer(problem)) => Listed::unreadable(&table.entry, problem.code, problem.detail),
    }
}

/// `GET /v1/tables/{t}`
pub(crate) async fn describe(
    State(gateway): State<Gateway>,
    Table(id): Table,
) -> Result<Json<Description>, Answer> {
    let table = gateway.tables.current(&id).await?;
    Ok(Json(describe_one(&gateway, &table).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DropQuery {
    /// Without a grace.
    #[serde(default)]
    purge: bool,
}

/// `POST /v1/tables/{t}/undrop`
pub(crate) async fn undrop(
    State(gateway): State<Gateway>,
    Table(id): Table,
) -> Result<Json<Description>, Answer> {
    let tables = Arc::clone(&gateway.tables);
    let restored = tokio::spawn(async move { tables.undrop(&id).await }).await;
    let table = restored.map_err(died)??;
    Ok(Json(describe_one(&gateway, &table).await?))
}

/// `DELETE /v1/tables/{t}[?purge=true]`
pub(crate) async fn drop_table(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(query): Query<DropQuery>,
) -> Result<Json<DroppedTable>, Answer> {
    if id.dead_letters_of().is_some() {
        gateway.tables.current(&id).await?.check_own()?;
    }
    let tables = Arc::clone(&gateway.tables);
    let name = id.table.clone();
    let dropped = tokio::spawn(async move { tables.drop_table(&id, query.purge).await }).await;
    let kept_until_ms = dropped.map_err(died)??;
    Ok(Json(DroppedTable {
        name,
        dropped: true,
        kept_until_ms,
    }))
}

fn died(error: tokio::task::JoinError) -> Problem {
    Problem::from_kind(tidelake_core::ErrorKind::Bug, error.to_string())
}

/// One value for each bucket.
pub(crate) fn by_bucket<T>(buckets: u32, value: impl Fn(Bucket) -> T) -> BTreeMap<Bucket, T> {
    (0..buckets)
        .map(Bucket)
        .map(|bucket| (bucket, value(bucket)))
        .collect()
}
