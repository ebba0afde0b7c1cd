//! From a request to a stream of rows.
//!
//! ```text
//!  request ─► open ─► prepare ─► resolve (snapshot, tail) ─► turn ─► run: plan ─► rows ─► a door
//!            admission   sql      table, tail, provider              threads of its own
//! ```
//!
//! Owns the order of these steps and what DataFusion is given: one runtime (memory, spill, our store
//! and no other) for the process, one session for each query that knows the tables it reads and
//! nothing else; keys are looked up beside all this ([`crate::lookup`]), by statements that name
//! whole keys as well ([`point`]). Invariant: a query reads each table at one version and one tail
//! position, however often it names it.

mod calls;
mod check;
mod commands;
mod correlated;
mod describe;
mod exact;
#[cfg(test)]
mod flush_tests;
mod interrupt;
mod merged;
mod plan;
mod planner;
mod point;
mod prepare;
mod pushdown;
mod quiet;
#[cfg(test)]
mod repeated_tests;
mod repeats;
mod resolve;
mod run;
mod session;
#[cfg(test)]
mod slt_tests;
#[cfg(test)]
mod tests;
mod threads;
#[cfg(test)]
mod version_tests;
mod weight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use tidelake_catalog::Catalog;
use tidelake_core::clock::SharedClock;
use tidelake_core::ids::SharedIds;
use tidelake_core::{Bucket, TenantId, Watermark};
use tidelake_manifest::SnapshotCache;
use tidelake_service::Pace;
use tidelake_storage::Store;
use tidelake_table::index::IndexHome;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::interrupt::Interrupt;
use self::point::Keyed;
use self::threads::{Lease, Threads};
use crate::admission::{Lookups, Queries, QueryId, QueryInfo, Running};
use crate::error::QueryError;
use crate::formats::{output_batch, output_schema};
use crate::metrics::QueryMetrics;
use crate::request::Request;
use crate::settings::QuerySettings;
use crate::sql;
use crate::table::pinned::{Pinned, Pins};
use crate::table::readers::{CacheBytes, Readers};
use crate::table::scan_bytes::ScanBytes;
use crate::tail::{TailLog, Tails};

pub use self::prepare::{Prepared, SchemaFingerprint, StatementKind};
pub(crate) use self::run::Rows;
pub(crate) use crate::request::Seen;

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
    lookups: Lookups,
    threads: Arc<Threads>,
    /// Statements that are parsed at a time.
    parsing: Arc<Semaphore>,
    statements: sql::Statements,
    ids: SharedIds,
    metrics: QueryMetrics,
    session: session::Template,
    quiet: quiet::Quiet,
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
    /// Where writers of this process see how far the tails are.
    pub pace: Pace,
    pub clock: SharedClock,
    pub ids: SharedIds,
    pub metrics: QueryMetrics,
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
#[derive(Debug)]
pub struct Answer {
    /// Of what clients get.
    pub schema: SchemaRef,
    pub seen: Vec<Seen>,
    /// Rows beyond are not sent.
    pub max_rows: Option<usize>,
    pub(crate) rows: Rows,
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
            pace,
            clock,
            ids,
            metrics,
        } = parts;
        let session = session::Template::new(&settings, store.object_store())?;
        let scans = ScanBytes::new(session.memory_pool(), settings.memory_bytes_max);
        let readers = Readers::new(
            store.object_store(),
            CacheBytes {
                footers_max: settings.metadata_cache_bytes_max,
                pages_max: settings.page_cache_bytes_max,
                vectors_max: settings.vector_cache_bytes_max,
                sidecars_max: settings.key_cache_bytes_max,
            },
            (metrics.clone(), scans),
        );
        let home = Arc::new(indexes.unwrap_or_else(|| index_home(&settings)));
        let seams = (Arc::clone(&clock), Arc::clone(&ids));
        let pins = Arc::new(Pins::new(store, catalog, snapshots, seams.0, seams.1));
        let tails = Tails::new(
            Arc::new(tail),
            Arc::clone(&pins),
            settings.clone(),
            home,
            (metrics.clone(), pace),
        );
        let inner = Inner {
            pins,
            tails,
            lookups: Lookups::new(&settings),
            threads: Threads::new(settings.target_partitions),
            parsing: Arc::new(Semaphore::new(settings.target_partitions.max(1))),
            statements: sql::Statements::default(),
            readers,
            queries: Queries::new(settings.clone(), metrics.clone(), clock),
            ids,
            metrics,
            session,
            quiet: quiet::Quiet::default(),
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

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.inner.lookups
    }

    /// Does work that computes for long on threads apart from those that serve, in a turn.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let turn = self.inner.queries.turn().await?;
        run::aside((turn, self.lease()?), self.inner.metrics.clone(), work).await
    }

    fn lease(&self) -> Result<Lease, QueryError> {
        let failed = |error| QueryError::Store(format!("no threads for a query: {error}"));
        self.inner.threads.lease().map_err(failed)
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

    /// Ends all queries: the process stops.
    pub(crate) fn close(&self) {
        self.inner.queries.close();
    }

    /// Cancelled once the process stops.
    pub(crate) fn closed(&self) -> &CancellationToken {
        self.inner.queries.closed()
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
        self.answer(tenant, id, request, None).await
    }

    /// As [`Engine::query`], over the schemas that are `expected`, if some are.
    async fn answer(
        &self,
        tenant: &TenantId,
        id: QueryId,
        request: &Request,
        expected: Option<SchemaFingerprint>,
    ) -> Result<Answer, QueryError> {
        let queries = &self.inner.queries;
        let running = queries.open(id, tenant, &request.sql, request.timeout)?;
        let ending = Arc::clone(&running.ending);
        // A large future, which every caller's would hold in itself.
        let begun = Box::pin(self.begin(tenant, request, expected, running)).await;
        let begun = begun.map_err(|error| error.in_text(&request.sql));
        if let Err(error) = &begun {
            ending.tell(error.outcome());
        }
        begun
    }

    async fn begin(
        &self,
        tenant: &TenantId,
        request: &Request,
        expected: Option<SchemaFingerprint>,
        running: Running,
    ) -> Result<Answer, QueryError> {
        let read = running.bounded(self.read(request)).await?;
        let parsed = match read {
            Read::Query(parsed) => parsed,
            Read::Command(command) => {
                let done = self.command(tenant, request, command, &running);
                let batch = running.bounded(done).await?;
                let schema = output_schema(&batch.schema());
                let batch = output_batch(&batch, &schema)?;
                return Ok(Answer {
                    schema,
                    seen: Vec::new(),
                    max_rows: request.max_rows,
                    rows: Rows::ready(&running, batch),
                });
            }
        };
        let resolved = self.resolve(tenant, (request, expected), &parsed, &running);
        let resolved = running.bounded(resolved).await;
        let resolved = resolved.map_err(|error| sql::placed(error, &parsed))?;
        let turn = running.bounded(self.inner.queries.turn()).await?;
        if request.time_zone.is_none()
            && let Some(keyed) = keyed(&resolved)
            && let Some(batch) = running.bounded(self.by_key(&keyed)).await?
        {
            return Ok(Answer {
                schema: batch.schema(),
                seen: resolved.seen,
                max_rows: request.max_rows,
                rows: Rows::ready(&running, batch),
            });
        }
        let (session, zone) = (&self.inner.session, request.time_zone.as_ref());
        let state = session.state_in(tenant, resolved.tables, zone)?;
        let interrupt = Interrupt::default();
        let plan = plan::begin(plan::Statement {
            state,
            parsed: Arc::unwrap_or_clone(parsed).statement,
            names: resolved.names,
            params: request.params.clone(),
            max_rows: request.max_rows,
            interrupt: interrupt.clone(),
        });
        let context = run::Context {
            running,
            turn,
            turns: Arc::clone(self.inner.queries.turns()),
            lease: self.lease()?,
            interrupt,
            stall_max: Duration::from_millis(self.inner.settings.stall_ms_max),
            metrics: self.inner.metrics.clone(),
        };
        let (schema, rows) = run::start(context, plan).await?;
        Ok(Answer {
            schema,
            seen: resolved.seen,
            max_rows: request.max_rows,
            rows,
        })
    }

    /// Reads the statement. Takes no turn: what it costs is bounded by its length.
    async fn read(&self, request: &Request) -> Result<Read, QueryError> {
        // Most statements are read sooner than other threads would begin to.
        let statements = &self.inner.statements;
        if let Some(known) = statements.get(&request.sql) {
            return Ok(Read::Query(known));
        }
        if let Some(query) = sql::parse_short(&request.sql, &request.params) {
            let query = Arc::new(query?);
            statements.put(&request.sql, &query);
            return Ok(Read::Query(query));
        }
        let parsing = Arc::clone(&self.inner.parsing).acquire_owned().await;
        let parsing = parsing.map_err(|_| QueryError::Closed)?;
        let (sql, params) = (request.sql.clone(), request.params.clone());
        let read = async move {
            Ok(match sql::command(&sql, &params)? {
                Some(command) => Read::Command(command),
                None => Read::Query(Arc::new(sql::parse(&sql, &params)?)),
            })
        };
        let metrics = self.inner.metrics.clone();
        let done = run::aside((parsing, self.lease()?), metrics, read).await?;
        if let Read::Query(query) = &done {
            statements.put(&request.sql, query);
        }
        Ok(done)
    }
}

/// A statement that was read.
enum Read {
    Query(Arc<sql::Query>),
    Command(sql::Command),
}

/// What the statement asks for, where it names whole keys of a table whose index is at hand.
fn keyed(resolved: &resolve::Resolved) -> Option<Keyed> {
    let (point, index) = resolved.keyed.as_ref()?;
    Keyed::of(point, index)
}

/// A folder that can't be used costs memory, not answers.
fn index_home(settings: &QuerySettings) -> IndexHome {
    let folder = settings.index_folder.clone();
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("tidelake-query-index"));
    let opened = IndexHome::open(&folder, INDEX_RUN_MEMORY_BYTES);
    let home = opened.unwrap_or_else(|error| {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "key indexes are kept in memory");
        IndexHome::memory()
    });
    home.keeping()
}
