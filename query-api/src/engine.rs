//! From a request to a stream of rows.
//!
//! ```text
//!  request ─► admit ─► parse, check ─► pin tables (snapshot, tail) ─► plan ─► stream
//!             queries     sql              pins, tail, provider        DataFusion
//! ```
//!
//! Owns the order of these steps and what DataFusion is given: one runtime (memory, spill, our store
//! and no other) for the process, one session for each query that knows the tables it reads and
//! nothing else. Invariant: a query reads each table at one version and one tail position, however
//! often it names it.

mod resolve;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use tidelake_catalog::Catalog;
use tidelake_core::clock::SharedClock;
use tidelake_core::ids::SharedIds;
use tidelake_core::{Bucket, TableId, TableVersion, TenantId, Watermark};
use tidelake_storage::Store;

use crate::error::QueryError;
use crate::formats::output_schema;
use crate::metrics::QueryMetrics;
use crate::pins::Pins;
use crate::provider::readers::Readers;
use crate::queries::{Queries, QueryId, QueryInfo, Running};
use crate::request::Request;
use crate::settings::QuerySettings;
use crate::sql;
use crate::tail::{TailSource, Tails};

/// Answers queries over the tables of a store and its log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: QuerySettings,
    pins: Pins,
    tails: Tails,
    readers: Readers,
    queries: Queries,
    ids: SharedIds,
    metrics: QueryMetrics,
    session: session::Template,
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    pub settings: QuerySettings,
    pub store: Store,
    pub catalog: Catalog,
    pub tail: Arc<dyn TailSource>,
    pub clock: SharedClock,
    pub ids: SharedIds,
    pub metrics: QueryMetrics,
}

/// A table as a query saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub table: TableId,
    pub version: TableVersion,
    /// Of each bucket, the offset up to which (exclusive) its rows were seen.
    pub positions: BTreeMap<Bucket, Watermark>,
}

/// An answer that begins: rows are computed as they are taken.
pub struct Answer {
    /// Of what clients get.
    pub schema: SchemaRef,
    pub seen: Vec<Seen>,
    /// Rows beyond are not sent.
    pub max_rows: Option<usize>,
    pub(crate) stream: SendableRecordBatchStream,
    pub(crate) running: Running,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// # Errors
    /// When the spill folder can't be used.
    pub fn new(parts: Parts) -> Result<Self, QueryError> {
        let Parts {
            settings,
            store,
            catalog,
            tail,
            clock,
            ids,
            metrics,
        } = parts;
        let session = session::Template::new(&settings, store.object_store())?;
        let readers = Readers::new(
            store.object_store(),
            settings.metadata_cache_bytes_max,
            metrics.clone(),
        );
        let inner = Inner {
            pins: Pins::new(store, catalog, Arc::clone(&clock), Arc::clone(&ids)),
            tails: Tails::new(tail, settings.clone(), metrics.clone()),
            readers,
            queries: Queries::new(settings.clone(), metrics.clone(), clock),
            ids,
            metrics,
            session,
            settings,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub fn settings(&self) -> &QuerySettings {
        &self.inner.settings
    }

    pub(crate) fn metrics(&self) -> &QueryMetrics {
        &self.inner.metrics
    }

    /// An id for a query that brings none.
    pub fn fresh_id(&self) -> QueryId {
        let id = self.inner.ids.next_uuid().to_string();
        QueryId::parse(&id).expect("a UUID's text is a query id")
    }

    /// Stops a query of the tenant.
    ///
    /// # Errors
    /// [`QueryError::QueryNotFound`].
    pub fn cancel(&self, id: &QueryId, tenant: &TenantId) -> Result<(), QueryError> {
        self.inner.queries.cancel(id, tenant)
    }

    /// The tenant's queries under way.
    pub fn queries(&self, tenant: &TenantId) -> Vec<QueryInfo> {
        self.inner.queries.list(tenant)
    }

    /// Plans the query and starts it. Dropping the answer stops it.
    ///
    /// # Errors
    /// Whatever is wrong with the query, or keeps it from running; errors of its rows come with the
    /// rows.
    pub async fn query(
        &self,
        tenant: &TenantId,
        id: QueryId,
        request: &Request,
    ) -> Result<Answer, QueryError> {
        let queries = &self.inner.queries;
        let mut running = queries
            .admit(id, tenant, &request.sql, request.timeout)
            .await?;
        let begun = running.bounded(self.begin(tenant, request, &running)).await;
        match begun {
            Ok((stream, seen)) => {
                let schema = output_schema(&stream.schema());
                Ok(Answer {
                    schema,
                    seen,
                    max_rows: request.max_rows,
                    stream,
                    running,
                })
            }
            Err(error) => {
                running.ended(error.outcome());
                Err(error)
            }
        }
    }

    async fn begin(
        &self,
        tenant: &TenantId,
        request: &Request,
        running: &Running,
    ) -> Result<(SendableRecordBatchStream, Vec<Seen>), QueryError> {
        let parsed = sql::parse(&request.sql, &request.params)?;
        let resolved = self.resolve(tenant, request, &parsed, running).await?;
        let mut statement = parsed.statement;
        sql::fold_columns(&mut statement, &resolved.names);
        let mut state = self.inner.session.state(tenant, resolved.tables);
        state.mark_start_execution();
        let is_query = matches!(&statement, datafusion::sql::parser::Statement::Statement(_));
        let plan = state.statement_to_plan(statement).await?;
        read_only(&plan)?;
        let plan = with_params(plan, request)?;
        // One row more than is sent: it tells that the answer was cut.
        let plan = match request.max_rows {
            Some(rows) if is_query => LogicalPlanBuilder::from(plan)
                .limit(0, Some(rows.saturating_add(1)))?
                .build()?,
            _ => plan,
        };
        let stream = start(&state, &plan).await?;
        Ok((stream, resolved.seen))
    }
}

async fn start(
    state: &SessionState,
    plan: &LogicalPlan,
) -> Result<SendableRecordBatchStream, QueryError> {
    let plan = state.create_physical_plan(plan).await?;
    Ok(execute_stream(plan, state.task_ctx())?)
}

/// The second lock: whatever the text check let through, the plan only reads.
fn read_only(plan: &LogicalPlan) -> Result<(), QueryError> {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(plan)
        .map_err(|error| QueryError::NotAllowed(error.strip_backtrace()))
}

fn with_params(plan: LogicalPlan, request: &Request) -> Result<LogicalPlan, QueryError> {
    let named = plan.get_parameter_names()?;
    let highest = named
        .iter()
        .map(|name| {
            name.strip_prefix('$')
                .and_then(|place| place.parse::<usize>().ok())
                .ok_or_else(|| {
                    QueryError::Invalid(format!("parameter {name} has no number; write $1, $2, …"))
                })
        })
        .try_fold(0, |highest, place| place.map(|place| highest.max(place)))?;
    if highest > request.params.len() {
        let reason = format!(
            "the statement has parameter ${highest}, params has {} values",
            request.params.len()
        );
        return Err(QueryError::request("params", reason));
    }
    if named.is_empty() {
        return Ok(plan);
    }
    let values: Vec<ScalarValue> = request.params.iter().map(scalar).collect();
    Ok(plan.with_param_values(ParamValues::from(values))?)
}

fn scalar(value: &serde_json::Value) -> ScalarValue {
    match value {
        serde_json::Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => ScalarValue::Int64(Some(value)),
            (None, Some(value)) => ScalarValue::UInt64(Some(value)),
            _ => ScalarValue::Float64(number.as_f64()),
        },
        serde_json::Value::String(text) => ScalarValue::Utf8(Some(text.clone())),
        // Arrays and objects were refused with the request.
        _ => ScalarValue::Null,
    }
}
