//! How far a write has come: `status` and `flush`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tidelake_core::{Bucket, Token, Watermark};
use tidelake_service::Problem;

use crate::Gateway;
use crate::moment;
use crate::problem::{Answer, refuse};
use crate::produce;
use crate::request::{Query, Table};
use crate::tables::LiveTable;

/// Between two looks at the table's log while somebody waits; those who wait share a look.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
const FLUSH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusQuery {
    token: String,
    wait_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// The log has it on disk.
    accepted: bool,
    /// The table's log covers it.
    committed: bool,
    version: u64,
    watermarks: BTreeMap<Bucket, Watermark>,
    end_offsets: BTreeMap<Bucket, Watermark>,
    /// How far the slowest reader of this process, of any table, is behind what was acknowledged.
    reader_lag_ms: u64,
    /// Acknowledgements are held back for it.
    paced: bool,
}

/// `GET /v1/tables/{t}/status?token=…[&wait_ms=…]`
pub(crate) async fn status(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(query): Query<StatusQuery>,
) -> Result<Json<Status>, Answer> {
    let table = gateway.tables.current(&id).await?;
    let token = parse(&query.token, &table)?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0).min(gateway.tables.wait_ms_max()));
    let committed = wait_committed(&gateway, &table, &token, wait).await?;
    let snapshot = gateway.tables.snapshot(&table, Duration::ZERO).await?;
    let watermarks = table.watermarks(&snapshot);
    let end_offsets = gateway.tables.end_offsets(&table).await?;
    let end = |bucket| end_offsets.get(&bucket).copied().unwrap_or_default();
    let lag = gateway.pace.lag();
    Ok(Json(Status {
        reader_lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
        paced: gateway.is_paced(),
        accepted: committed || token.is_covered_by(end),
        committed,
        version: snapshot.version().0,
        watermarks,
        end_offsets,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlushQuery {
    timeout_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Flushed {
    token: String,
    version: u64,
}

/// `POST /v1/tables/{t}/flush[?timeout_ms=…]`: everything accepted before is committed.
pub(crate) async fn flush(
    State(gateway): State<Gateway>,
    Table(id): Table,
    Query(query): Query<FlushQuery>,
) -> Result<Json<Flushed>, Answer> {
    let table = gateway.tables.current(&id).await?;
    table.check_own()?;
    let timeout = query
        .timeout_ms
        .map_or(FLUSH_TIMEOUT_DEFAULT, Duration::from_millis);
    let timeout = timeout.min(Duration::from_millis(gateway.tables.wait_ms_max()));
    gateway.tables.check_topic(&table).await?;
    let to = gateway.destination(&table);
    let writing = produce::write_flush_markers(gateway.log.as_ref(), &to);
    let token = gateway.tables.acknowledged(&table, writing).await?.token;
    if !wait_committed(&gateway, &table, &token, timeout).await? {
        let snapshot = gateway.tables.snapshot(&table, LOOK_INTERVAL).await?;
        return Err(behind(&token, &table.watermarks(&snapshot), timeout).into());
    }
    let version = gateway
        .tables
        .snapshot(&table, LOOK_INTERVAL)
        .await?
        .version()
        .0;
    Ok(Json(Flushed {
        token: token.to_string(),
        version,
    }))
}

fn parse(text: &str, table: &LiveTable) -> Result<Token, Answer> {
    let invalid = |detail: String| {
        Problem::new(400, "INVALID_TOKEN", "the token is not valid").detail(detail)
    };
    let token = Token::parse(text).map_err(|error| invalid(error.to_string()))?;
    let buckets = table.entry.buckets;
    let foreign = token.iter().find(|(bucket, _)| bucket.0 >= buckets);
    match foreign {
        Some((bucket, _)) => refuse(invalid(format!(
            "it speaks of bucket {bucket}, and table {} has {buckets}: it is another table's",
            table.entry.id.table
        ))),
        None => Ok(token),
    }
}

/// True as soon as the table's log covers the token; false after `wait`.
async fn wait_committed(
    gateway: &Gateway,
    table: &Arc<LiveTable>,
    token: &Token,
    wait: Duration,
) -> Result<bool, Answer> {
    let started = moment::now();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let snapshot = gateway.tables.snapshot(table, LOOK_INTERVAL / 2).await?;
        let marks = table.watermarks(&snapshot);
        if token.is_covered_by(|bucket| marks.get(&bucket).copied().unwrap_or_default()) {
            return Ok(true);
        }
        if moment::age(started) >= wait {
            return Ok(false);
        }
    }
}

fn behind(token: &Token, marks: &BTreeMap<Bucket, Watermark>, timeout: Duration) -> Problem {
    let reached = |bucket| marks.get(&bucket).copied().unwrap_or_default();
    let behind: Vec<String> = token
        .iter()
        .filter(|(bucket, mark)| reached(*bucket) < *mark)
        .map(|(bucket, mark)| format!("bucket {bucket} is at {} of {mark}", reached(bucket)))
        .collect();
    Problem::new(504, "FLUSH_TIMEOUT", "the flush did not finish in time")
        .detail(format!(
            "after {} ms: {}",
            timeout.as_millis(),
            behind.join(", ")
        ))
        .hint("the request stands and goes on; see whether a flusher runs, and ask for the status")
}
