//! Queries under way: which are open, who may execute, how each can be cancelled, how each ended.
//!
//! Invariants:
//! - a [`Running`] counts against its tenant from its creation to its drop, on every path (answered,
//!   failed, cancelled, client gone), and is listed until it is over;
//! - a [`Turn`] is held only while something executes: not while a token, a topic or a reader is
//!   waited for;
//! - what is told of a tenant's queries, ids and numbers, is told to that tenant only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use serde::Serialize;
use tidelake_core::TenantId;
use tidelake_core::clock::{SharedClock, UnixMillis};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;
use crate::metrics::QueryMetrics;
use crate::moment;
use crate::settings::QuerySettings;

/// Bytes of a client's query id.
const ID_BYTES_MAX: usize = 64;
/// Characters of the SQL that the list of queries shows.
const SQL_SHOWN_MAX: usize = 200;

/// A query's name, unique among those that run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryId(Arc<str>);

impl QueryId {
    /// Checks `[A-Za-z0-9._:-]{1,64}`.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed);
        fits.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for QueryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A query as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueryInfo {
    pub id: String,
    pub sql: String,
    pub started_ms: UnixMillis,
}

/// All queries of this process.
#[derive(Debug)]
pub(crate) struct Queries {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    turns: Arc<Semaphore>,
    settings: QuerySettings,
    metrics: QueryMetrics,
    clock: SharedClock,
    /// By tenant and id: whether another tenant has a query of that id is nobody's business.
    listed: Mutex<HashMap<(TenantId, QueryId), Listed>>,
    /// Of each tenant the queries that are over while something of them still computes.
    abandoned: Mutex<HashMap<TenantId, usize>>,
    /// The process stops.
    closed: CancellationToken,
}

#[derive(Debug)]
struct Listed {
    sql: String,
    started_ms: UnixMillis,
    cancel: CancellationToken,
}

/// The right to execute. Held while something executes, not while somebody waits.
pub(crate) type Turn = OwnedSemaphorePermit;

/// One query from its admission to the end of its execution.
#[derive(Debug)]
pub(crate) struct Running {
    cancel: CancellationToken,
    pub begun: Instant,
    pub timeout: Duration,
    pub ending: Arc<Ending>,
    /// What the query waits for, if it does: tells more than that time is over.
    pub behind: Arc<Mutex<Option<QueryError>>>,
    /// It is listed no more, but still counts.
    is_over: bool,
    named: (TenantId, QueryId),
    inner: Arc<Inner>,
}

/// How a query ended: told once, by whoever knows first.
#[derive(Debug)]
pub(crate) struct Ending {
    metrics: QueryMetrics,
    begun: Instant,
    is_told: AtomicBool,
}

impl Ending {
    pub(crate) fn tell(&self, outcome: &'static str) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            self.metrics.queries.with_label_values(&[outcome]).inc();
            let seconds = moment::age(self.begun).as_secs_f64();
            self.metrics.seconds.observe(seconds);
        }
    }
}

impl Drop for Ending {
    /// Nobody said how: the client went.
    fn drop(&mut self) {
        self.tell("disconnected");
    }
}

impl Queries {
    pub(crate) fn new(settings: QuerySettings, metrics: QueryMetrics, clock: SharedClock) -> Self {
        let turns = Arc::new(Semaphore::new(settings.running_max.max(1)));
        let listed = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                turns,
                settings,
                metrics,
                clock,
                listed,
                abandoned: Mutex::default(),
                closed: CancellationToken::new(),
            }),
        }
    }

    /// Lists the query, or refuses it.
    pub(crate) fn open(
        &self,
        id: QueryId,
        tenant: &TenantId,
        sql: &str,
        timeout: Duration,
    ) -> Result<Running, QueryError> {
        let begun = moment::now();
        let inner = &self.inner;
        let cancel = inner.closed.child_token();
        let named = (tenant.clone(), id);
        let mut listed = inner.listed.lock();
        let refused = |outcome| inner.metrics.queries.with_label_values(&[outcome]).inc();
        if listed.contains_key(&named) {
            refused("invalid");
            return Err(QueryError::DuplicateId(named.1.to_string()));
        }
        let of_tenant = listed.keys().filter(|(owner, _)| owner == tenant).count();
        let abandoned = inner.abandoned.lock();
        let of_tenant = of_tenant + abandoned.get(tenant).copied().unwrap_or(0);
        let of_all = listed.len() + abandoned.values().sum::<usize>();
        drop(abandoned);
        let settings = &inner.settings;
        if of_tenant >= settings.running_per_tenant_max.max(1) {
            refused("refused");
            return Err(QueryError::Overloaded {
                of_tenant: Some(of_tenant),
            });
        }
        if of_all >= settings.open_max.max(1) {
            refused("refused");
            return Err(QueryError::Overloaded { of_tenant: None });
        }
        let query = Listed {
            sql: sql.chars().take(SQL_SHOWN_MAX).collect(),
            started_ms: inner.clock.now_ms(),
            cancel: cancel.clone(),
        };
        listed.insert(named.clone(), query);
        drop(listed);
        inner.metrics.running.inc();
        Ok(Running {
            cancel,
            begun,
            timeout,
            ending: Arc::new(Ending {
                metrics: inner.metrics.clone(),
                begun,
                is_told: AtomicBool::new(false),
            }),
            behind: Arc::default(),
            is_over: false,
            named,
            inner: Arc::clone(inner),
        })
    }

    /// Waits until something may execute, but no longer than the queue allows.
    pub(crate) async fn turn(&self) -> Result<Turn, QueryError> {
        let inner = &self.inner;
        let queue = moment::now() + Duration::from_millis(inner.settings.queue_ms_max);
        let _waiting = Waiting::begin(&inner.metrics);
        match moment::by(queue, Arc::clone(&inner.turns).acquire_owned()).await {
            Ok(turn) => turn.map_err(|_| QueryError::Closed),
            Err(_) => Err(QueryError::Overloaded { of_tenant: None }),
        }
    }

    /// Where turns are given back to and taken from while an answer's reader makes it wait.
    pub(crate) fn turns(&self) -> &Arc<Semaphore> {
        &self.inner.turns
    }

    /// Cancelled once the process stops.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.inner.closed
    }

    /// Ends all queries, and those that still come.
    pub(crate) fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Cancels a query of the tenant.
    pub(crate) fn cancel(&self, id: &QueryId, tenant: &TenantId) -> Result<(), QueryError> {
        let named = (tenant.clone(), id.clone());
        match self.inner.listed.lock().get(&named) {
            Some(query) => {
                query.cancel.cancel();
                Ok(())
            }
            None => Err(QueryError::QueryNotFound(id.to_string())),
        }
    }

    /// The tenant's queries, oldest first.
    pub(crate) fn list(&self, tenant: &TenantId) -> Vec<QueryInfo> {
        let listed = self.inner.listed.lock();
        let of_tenant = listed.iter().filter(|((owner, _), _)| owner == tenant);
        let mut queries: Vec<_> = of_tenant
            .map(|((_, id), query)| QueryInfo {
                id: id.to_string(),
                sql: query.sql.clone(),
                started_ms: query.started_ms,
            })
            .collect();
        queries.sort_by(|a, b| (a.started_ms, &a.id).cmp(&(b.started_ms, &b.id)));
        queries
    }
}

/// Lookups and key ranges under way, which are too short to be listed.
#[derive(Debug)]
pub(crate) struct Lookups {
    turns: Semaphore,
    per_tenant_max: usize,
    of_tenants: Mutex<HashMap<TenantId, usize>>,
}

/// One lookup, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Looking<'a> {
    lookups: &'a Lookups,
    tenant: &'a TenantId,
}

impl Lookups {
    pub(crate) fn new(settings: &QuerySettings) -> Self {
        Self {
            turns: Semaphore::new(settings.lookups_max.max(1)),
            per_tenant_max: settings.lookups_per_tenant_max.max(1),
            of_tenants: Mutex::default(),
        }
    }

    /// Counts it against its tenant, or refuses it.
    pub(crate) fn begin<'a>(&'a self, tenant: &'a TenantId) -> Result<Looking<'a>, QueryError> {
        let mut of_tenants = self.of_tenants.lock();
        match of_tenants.get_mut(tenant) {
            Some(open) if *open >= self.per_tenant_max => {
                let of_tenant = Some(*open);
                return Err(QueryError::Overloaded { of_tenant });
            }
            Some(open) => *open += 1,
            None => _ = of_tenants.insert(tenant.clone(), 1),
        }
        Ok(Looking {
            lookups: self,
            tenant,
        })
    }
}

impl Looking<'_> {
    /// Waits until it may read rows.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, QueryError> {
        let turn = self.lookups.turns.acquire().await;
        turn.map_err(|_| QueryError::Closed)
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        let mut of_tenants = self.lookups.of_tenants.lock();
        if let Some(open) = of_tenants.get_mut(self.tenant) {
            *open -= 1;
            if *open == 0 {
                of_tenants.remove(self.tenant);
            }
        }
    }
}

/// Counts one that waits, however its wait ends.
struct Waiting(IntGauge);

impl Waiting {
    fn begin(metrics: &QueryMetrics) -> Self {
        metrics.waiting.inc();
        Self(metrics.waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Running {
    pub(crate) fn deadline(&self) -> Instant {
        self.begun + self.timeout
    }

    /// Queries of all tenants that execute now.
    pub(crate) fn executing(&self) -> usize {
        let free = self.inner.turns.available_permits();
        self.inner.settings.running_max.saturating_sub(free)
    }

    /// Waits until somebody ends it, and says who.
    pub(crate) async fn cancelled(&self) -> QueryError {
        self.cancel.cancelled().await;
        match self.inner.closed.is_cancelled() {
            true => QueryError::Closed,
            false => QueryError::Cancelled,
        }
    }

    pub(crate) fn timed_out(&self) -> QueryError {
        let millis = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        QueryError::Timeout(millis)
    }

    /// Takes it off the list. It counts against its tenant until it is dropped.
    pub(crate) fn over(&mut self) {
        if !self.is_over {
            self.is_over = true;
            let mut abandoned = self.inner.abandoned.lock();
            *abandoned.entry(self.named.0.clone()).or_default() += 1;
            drop(abandoned);
            self.inner.listed.lock().remove(&self.named);
        }
    }

    /// Waits for `work`, but no longer than the query may take or until it is cancelled.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        tokio::select! {
            biased;
            ended = self.cancelled() => Err(ended),
            done = moment::by(self.deadline(), work) => {
                done.unwrap_or_else(|_| {
                    let behind = self.behind.lock().take();
                    Err(behind.unwrap_or_else(|| self.timed_out()))
                })
            }
        }
    }

    /// Waits a while; returns early only by cancellation or the deadline.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<(), QueryError> {
        let deadline = self.deadline();
        let until = deadline.min(moment::now() + pause);
        match moment::by(until, self.cancelled()).await {
            Ok(ended) => Err(ended),
            Err(_) if until == deadline => Err(self.timed_out()),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self.is_over {
            false => _ = self.inner.listed.lock().remove(&self.named),
            true => {
                let mut abandoned = self.inner.abandoned.lock();
                if let Some(left) = abandoned.get_mut(&self.named.0) {
                    *left -= 1;
                    if *left == 0 {
                        abandoned.remove(&self.named.0);
                    }
                }
            }
        }
        self.inner.metrics.running.dec();
    }
}

#[cfg(test)]
mod tests {
    use tidelake_core::clock;
    use tidelake_service::Metrics;

    use super::*;

    fn queries(settings: QuerySettings) -> Queries {
        Queries::new(
            settings,
            QueryMetrics::new(&Metrics::new()),
            clock::system(),
        )
    }

    fn id(text: &str) -> QueryId {
        QueryId::parse(text).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn ids_are_plain() {
        for good in [
            "a",
            "01J:x.y_z-1".replace('_', "-").as_str(),
            &"x".repeat(64),
        ] {
            assert!(QueryId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a\n", "é", &"x".repeat(65)] {
            assert!(QueryId::parse(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn turns_are_given_back_and_tenants_are_bounded() {
        let settings = QuerySettings {
            running_max: 1,
            running_per_tenant_max: 1,
            open_max: 2,
            queue_ms_max: 10,
            ..QuerySettings::default()
        };
        let queries = queries(settings);
        let [a, b, c] = ["a", "b", "c"].map(|name| TenantId::new(name).unwrap());
        let open = |name, tenant| queries.open(id(name), tenant, "SELECT 1", LONG);
        let refused = |refused: Result<Running, QueryError>| match refused.unwrap_err() {
            QueryError::Overloaded { of_tenant } => of_tenant,
            other => panic!("{other}"),
        };
        let first = open("1", &a).unwrap();
        assert_eq!(refused(open("2", &a)), Some(1));
        // Another's query of that id is none of theirs.
        let _same = open("1", &b).unwrap();
        assert_eq!(refused(open("3", &c)), None);
        let turn = queries.turn().await.unwrap();
        assert!(matches!(
            queries.turn().await,
            Err(QueryError::Overloaded { of_tenant: None })
        ));
        drop(turn);
        drop(queries.turn().await.unwrap());
        drop(first);
        drop(open("3", &c).unwrap());
        assert_eq!(queries.list(&c).len(), 0, "an ended query is not listed");
    }

    #[tokio::test]
    async fn an_id_is_unique_within_its_tenant() {
        let queries = queries(QuerySettings::default());
        let tenant = TenantId::default();
        let _first = queries.open(id("1"), &tenant, "SELECT 1", LONG).unwrap();
        let again = queries.open(id("1"), &tenant, "SELECT 1", LONG);
        assert!(matches!(again, Err(QueryError::DuplicateId(_))));
    }

    #[tokio::test]
    async fn only_its_tenant_cancels_a_query() {
        let queries = queries(QuerySettings::default());
        let [a, b] = ["a", "b"].map(|name| TenantId::new(name).unwrap());
        let running = queries.open(id("1"), &a, "SELECT 1", LONG).unwrap();
        assert!(queries.cancel(&id("1"), &b).is_err());
        assert!(!running.cancel.is_cancelled());
        queries.cancel(&id("1"), &a).unwrap();
        let stopped = running
            .bounded(std::future::pending::<Result<(), _>>())
            .await;
        assert!(matches!(stopped, Err(QueryError::Cancelled)));
    }

    #[tokio::test]
    async fn work_ends_at_the_deadline() {
        let queries = queries(QuerySettings::default());
        let tenant = TenantId::default();
        let timeout = Duration::from_millis(5);
        let running = queries.open(id("1"), &tenant, "SELECT 1", timeout).unwrap();
        let stopped = running
            .bounded(std::future::pending::<Result<(), _>>())
            .await;
        assert!(matches!(stopped, Err(QueryError::Timeout(5))));
    }
}
