//! From a request to a stream of rows.
//!
//! ```text
//!  request ─► admit ─► parse, check ─► pin tables (snapshot, tail) ─► plan ─► stream
//!             queries     sql              pins, tail, provider        DataFusion
//! ```
//!
//! Owns the order of these steps and what DataFusion is given: one runtime (memory, spill, our store
//! and no other) for the process, one session for each query that knows the tables it reads and
//! nothing else; keys are looked up beside all this ([`crate::lookup`]). Invariant: a query reads each table at one version and one tail position, however
//! often it names it.

mod check;
mod commands;
#[cfg(test)]
mod flush_tests;
mod resolve;
mod session;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod version_tests;

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
use tidelake_manifest::SnapshotCache;
use tidelake_storage::Store;
use tidelake_table::index::IndexHome;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::admission::{Queries, QueryId, QueryInfo, Running};
use crate::error::QueryError;
use crate::formats::output_schema;
use crate::metrics::QueryMetrics;
use crate::request::Request;
use crate::settings::QuerySettings;
use crate::sql;
use crate::table::pinned::{Pinned, Pins};
use crate::table::readers::Readers;
use crate::tail::{TailLog, Tails};

/// Parts of a key index up to this size stay in memory, larger ones become files.
const INDEX_RUN_MEMORY_BYTES: usize = 1 << 20;

/// Answers queries over the tables of a store and its log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: QuerySettings,
    pins: Arc<Pins>,
    tails: Tails,
    readers: Readers,
    queries: Queries,
    /// Turns of lookups, which are too short to be listed as queries.
    lookups: Semaphore,
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
    pub tail: TailLog,
    pub snapshots: SnapshotCache,
    /// Where key indexes live; by the settings where absent.
    pub indexes: Option<IndexHome>,
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

impl Seen {
    pub(crate) fn of(pinned: &Pinned, positions: BTreeMap<Bucket, Watermark>) -> Self {
        Self {
            table: pinned.entry.id.clone(),
            version: pinned.snapshot.version(),
            positions,
        }
    }

    /// A version without what lies behind it.
    pub(crate) fn committed(pinned: &Pinned) -> Self {
        let buckets = (0..pinned.entry.buckets).map(Bucket);
        let mut positions: BTreeMap<_, _> = buckets.map(|bucket| (bucket, Watermark(0))).collect();
        // An append table reads partitions, too, that its topic got later.
        positions.extend(pinned.snapshot.watermarks(&pinned.entry.topic_id));
        Self::of(pinned, positions)
    }
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
            snapshots,
            indexes,
            clock,
            ids,
            metrics,
        } = parts;
        let session = session::Template::new(&settings, store.object_store())?;
        let readers = Readers::new(
            store.object_store(),
            settings.metadata_cache_bytes_max,
            settings.page_cache_bytes_max,
            metrics.clone(),
        );
        let home = Arc::new(indexes.unwrap_or_else(|| index_home(&settings)));
        let seams = (Arc::clone(&clock), Arc::clone(&ids));
        let pins = Arc::new(Pins::new(store, catalog, snapshots, seams.0, seams.1));
        let tails = Tails::new(
            Arc::new(tail),
            Arc::clone(&pins),
            settings.clone(),
            home,
            metrics.clone(),
        );
        let inner = Inner {
            pins,
            tails,
            lookups: Semaphore::new(settings.lookups_max.max(1)),
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

    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.inner.pins
    }

    pub(crate) fn tails(&self) -> &Tails {
        &self.inner.tails
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.inner.readers
    }

    /// Waits until a lookup may run.
    pub(crate) async fn lookup_turn(&self) -> Result<SemaphorePermit<'_>, QueryError> {
        let turn = self.inner.lookups.acquire().await;
        turn.map_err(|_| QueryError::Closed)
    }

    /// A session that knows no table.
    pub(crate) fn plain_session(&self, tenant: &TenantId) -> SessionState {
        self.inner.session.state(tenant, session::Tables::new())
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
        if let Some(command) = sql::command(&request.sql, &request.params)? {
            return self.command(tenant, request, command, running).await;
        }
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

/// A folder that can't be used costs memory, not answers.
fn index_home(settings: &QuerySettings) -> IndexHome {
    let folder = settings.index_folder.clone();
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("tidelake-query-index"));
    IndexHome::open(&folder, INDEX_RUN_MEMORY_BYTES).unwrap_or_else(|error| {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "key indexes are kept in memory");
        IndexHome::memory()
    })
}

pub(crate) async fn start(
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
