//! Queries under way: who may run, how each can be cancelled, how each ended.
//!
//! Invariant: a [`Running`] is counted, listed and holds its turn from its creation to its drop, on
//! every path (answered, failed, cancelled, client gone).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tidelake_core::TenantId;
use tidelake_core::clock::{SharedClock, UnixMillis};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    listed: Mutex<HashMap<QueryId, Listed>>,
}

#[derive(Debug)]
struct Listed {
    tenant: TenantId,
    sql: String,
    started_ms: UnixMillis,
    cancel: CancellationToken,
}

/// One query from its admission to its end.
#[derive(Debug)]
pub(crate) struct Running {
    pub id: QueryId,
    pub cancel: CancellationToken,
    pub begun: Instant,
    pub deadline: Instant,
    pub timeout_ms: u64,
    /// What the query waits for, if it does: tells more than that time is over.
    pub behind: Arc<Mutex<Option<QueryError>>>,
    inner: Arc<Inner>,
    turn: Option<OwnedSemaphorePermit>,
    outcome: &'static str,
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
            }),
        }
    }

    /// Lists the query and waits for its turn.
    pub(crate) async fn admit(
        &self,
        id: QueryId,
        tenant: &TenantId,
        sql: &str,
        timeout: Duration,
    ) -> Result<Running, QueryError> {
        let begun = moment::now();
        let inner = &self.inner;
        let cancel = CancellationToken::new();
        {
            let mut listed = inner.listed.lock();
            if listed.contains_key(&id) {
                inner.metrics.queries.with_label_values(&["invalid"]).inc();
                return Err(QueryError::DuplicateId(id.to_string()));
            }
            let running = listed
                .values()
                .filter(|query| query.tenant == *tenant)
                .count();
            if running >= inner.settings.running_per_tenant_max.max(1) {
                inner.metrics.queries.with_label_values(&["refused"]).inc();
                return Err(QueryError::Overloaded {
                    running,
                    of_tenant: true,
                });
            }
            let sql = sql.chars().take(SQL_SHOWN_MAX).collect();
            let started_ms = inner.clock.now_ms();
            let (tenant, cancel) = (tenant.clone(), cancel.clone());
            listed.insert(
                id.clone(),
                Listed {
                    tenant,
                    sql,
                    started_ms,
                    cancel,
                },
            );
        }
        inner.metrics.running.inc();
        let mut running = Running {
            id,
            cancel,
            begun,
            deadline: begun + timeout,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            behind: Arc::default(),
            inner: Arc::clone(inner),
            turn: None,
            outcome: "disconnected",
        };
        let queue = Duration::from_millis(inner.settings.queue_ms_max).min(timeout);
        inner.metrics.waiting.inc();
        let turn = tokio::select! {
            turn = tokio::time::timeout(queue, Arc::clone(&inner.turns).acquire_owned()) => {
                match turn {
                    Ok(Ok(turn)) => Ok(turn),
                    Ok(Err(_)) => Err(QueryError::Closed),
                    Err(_) => Err(QueryError::Overloaded {
                        running: inner.settings.running_max,
                        of_tenant: false,
                    }),
                }
            }
            () = running.cancel.cancelled() => Err(QueryError::Cancelled),
        };
        inner.metrics.waiting.dec();
        match turn {
            Ok(turn) => {
                running.turn = Some(turn);
                Ok(running)
            }
            Err(error) => {
                running.ended(error.outcome());
                Err(error)
            }
        }
    }

    /// Cancels a query of the tenant.
    pub(crate) fn cancel(&self, id: &QueryId, tenant: &TenantId) -> Result<(), QueryError> {
        match self.inner.listed.lock().get(id) {
            Some(query) if query.tenant == *tenant => {
                query.cancel.cancel();
                Ok(())
            }
            _ => Err(QueryError::QueryNotFound(id.to_string())),
        }
    }

    /// The tenant's queries, oldest first.
    pub(crate) fn list(&self, tenant: &TenantId) -> Vec<QueryInfo> {
        let listed = self.inner.listed.lock();
        let of_tenant = listed.iter().filter(|(_, query)| query.tenant == *tenant);
        let mut queries: Vec<_> = of_tenant
            .map(|(id, query)| QueryInfo {
                id: id.to_string(),
                sql: query.sql.clone(),
                started_ms: query.started_ms,
            })
            .collect();
        queries.sort_by(|a, b| (a.started_ms, &a.id).cmp(&(b.started_ms, &b.id)));
        queries
    }
}

impl Running {
    /// Waits for `work`, but no longer than the query may take or until it is cancelled.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(QueryError::Cancelled),
            done = moment::by(self.deadline, work) => {
                done.unwrap_or_else(|_| {
                    let behind = self.behind.lock().take();
                    Err(behind.unwrap_or(QueryError::Timeout(self.timeout_ms)))
                })
            }
        }
    }

    /// Waits a while; returns early only by cancellation or the deadline.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<(), QueryError> {
        let until = self.deadline.min(moment::now() + pause);
        match moment::by(until, self.cancel.cancelled()).await {
            Ok(()) => Err(QueryError::Cancelled),
            Err(_) if until == self.deadline => Err(QueryError::Timeout(self.timeout_ms)),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn ended(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.inner.listed.lock().remove(&self.id);
        let metrics = &self.inner.metrics;
        metrics.running.dec();
        metrics.queries.with_label_values(&[self.outcome]).inc();
        metrics.seconds.observe(self.begun.elapsed().as_secs_f64());
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
            running_max: 2,
            running_per_tenant_max: 1,
            queue_ms_max: 10,
            ..QuerySettings::default()
        };
        let queries = queries(settings);
        let [a, b, c] = ["a", "b", "c"].map(|name| TenantId::new(name).unwrap());
        let first = queries.admit(id("1"), &a, "SELECT 1", LONG).await.unwrap();
        let again = queries
            .admit(id("2"), &a, "SELECT 1", LONG)
            .await
            .unwrap_err();
        assert!(matches!(
            again,
            QueryError::Overloaded {
                of_tenant: true,
                ..
            }
        ));
        let same = queries
            .admit(id("1"), &b, "SELECT 1", LONG)
            .await
            .unwrap_err();
        assert!(matches!(same, QueryError::DuplicateId(_)));
        let _second = queries.admit(id("2"), &b, "SELECT 1", LONG).await.unwrap();
        let full = queries
            .admit(id("3"), &c, "SELECT 1", LONG)
            .await
            .unwrap_err();
        assert!(matches!(
            full,
            QueryError::Overloaded {
                of_tenant: false,
                ..
            }
        ));
        drop(first);
        queries.admit(id("3"), &c, "SELECT 1", LONG).await.unwrap();
        assert_eq!(queries.list(&c).len(), 0, "an ended query is not listed");
    }

    #[tokio::test]
    async fn only_its_tenant_cancels_a_query() {
        let queries = queries(QuerySettings::default());
        let [a, b] = ["a", "b"].map(|name| TenantId::new(name).unwrap());
        let running = queries.admit(id("1"), &a, "SELECT 1", LONG).await.unwrap();
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
        let running = queries
            .admit(id("1"), &tenant, "SELECT 1", timeout)
            .await
            .unwrap();
        let stopped = running
            .bounded(std::future::pending::<Result<(), _>>())
            .await;
        assert!(matches!(stopped, Err(QueryError::Timeout(5))));
    }
}
