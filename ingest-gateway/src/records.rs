//! `POST` and `DELETE /v1/tables/{t}/records`: a body of records or keys into the log, whole or not at
//! all.

mod checked;
mod shape;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use tidelake_core::{TableId, Token};
use tidelake_service::Problem;

use crate::problem::{self, Answer};
use crate::produce::{self, Destination};
use crate::request::{Query, Table};
use crate::spool::Spool;
use crate::tables::LiveTable;
use crate::{Gateway, Shared, moment};
use checked::Unchecked;
use shape::{Shape, operation};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteQuery {
    op: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoQuery {}

#[derive(Debug, Serialize)]
pub(crate) struct Accepted {
    records: u64,
    token: String,
}

pub(crate) async fn write(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, Answer> {
    accept(gateway, id, query.op.as_deref(), headers, body).await
}

/// `DELETE /v1/tables/{t}/records`: the same as `POST` with `op=delete`.
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, Answer> {
    accept(gateway, id, Some("delete"), headers, body).await
}

async fn accept(
    gateway: Gateway,
    id: TableId,
    op: Option<&str>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, Answer> {
    let begun = moment::now();
    let _in_flight = gateway.metrics.enter();
    let shape = Shape::of(&headers)?;
    let table = gateway.tables.current(&id).await?;
    table.check_own()?;
    let operation = operation(op, &table)?;
    // In this order: the topic is compared with the watermarks that the log has.
    let logged = gateway.tables.logged(&table).await?;
    gateway.tables.check_topic(&table).await?;
    let unchecked = Unchecked {
        gateway: &gateway,
        table: &table,
        operation,
        shape,
    };
    let (decoded, place) = unchecked.check(logged, body).await?;
    // A long body may have outlived its table, or its table's topic; its rows must not land in
    // another one.
    let now = gateway.tables.current(&id).await?;
    if now.entry.topic_id != table.entry.topic_id {
        return Err(problem::table_replaced(&id).into());
    }
    gateway.tables.check_topic(&table).await?;
    let (records, bytes) = (decoded.spool.rows(), decoded.bytes);
    let messages = decoded.spool.messages();
    let token = produce(&gateway, &table, decoded.spool).await?;
    gateway.metrics.accepted(&id, records, bytes, messages);
    // Who waits for readers' memory keeps no place from others.
    drop(place);
    gateway.keep_pace(begun).await;
    Ok(Json(Accepted {
        records,
        token: token.to_string(),
    }))
}

/// Hands the checked body over. A client that goes away now does not cut it in two.
async fn produce(gateway: &Gateway, table: &Arc<LiveTable>, spool: Spool) -> Result<Token, Answer> {
    if spool.rows() == 0 {
        return Ok(Token::default());
    }
    let to = gateway.destination(table);
    let shared = Arc::clone(gateway);
    let table = Arc::clone(table);
    let written = tokio::spawn(async move {
        let started = moment::now();
        let writing = produce::write(shared.log.as_ref(), spool, &to);
        let written = shared.tables.acknowledged(&table, writing).await;
        shared.metrics.produced(moment::age(started));
        shared
            .metrics
            .spooled(shared.spool.memory_bytes(), shared.spool.disk_bytes());
        if let Ok(written) = &written {
            shared.metrics.paced(written.held);
        }
        written.map(|written| written.token)
    });
    match written.await {
        Ok(outcome) => outcome,
        Err(error) => {
            Err(Problem::from_kind(tidelake_core::ErrorKind::Bug, error.to_string()).into())
        }
    }
}

impl Shared {
    /// Holds an acknowledgement back where readers of this process have little memory left: a flush
    /// frees it. What is acknowledged is in the log all the while.
    async fn keep_pace(&self, begun: moment::Instant) {
        let took = moment::age(begun);
        let wait = self.pace.wait(took, self.ingest.reader_lag_max());
        if !wait.is_zero() {
            moment::pass(wait).await;
            self.metrics.paced(wait);
        }
    }

    /// True where writers are being held back.
    pub(crate) fn is_paced(&self) -> bool {
        const SOME: Duration = Duration::from_secs(1);
        let lag_max = self.ingest.reader_lag_max();
        self.pace.hold(lag_max).is_some() || !self.pace.wait(SOME, lag_max).is_zero()
    }

    pub(crate) fn destination(&self, table: &LiveTable) -> Destination {
        Destination {
            topic: Arc::clone(&table.topic),
            reached: Arc::clone(&table.reached),
            buckets: table.entry.buckets,
            first_bucket: table.next_turn(),
            in_flight_max: self.ingest.produce_in_flight_max,
            timeout: self.ingest.produce_timeout(),
            pace: self.pace.clone(),
            reader_lag_max: self.ingest.reader_lag_max(),
        }
    }
}
