//! Relations to tables: pins versions, waits for tokens, reads tails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use futures::future::try_join_all;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Offset, TableId, TableName, TenantId, Token, Watermark};

use super::session::Tables;
use super::{Engine, Seen};
use crate::error::QueryError;
use crate::pins::Pinned;
use crate::provider::about;
use crate::provider::scan::PinnedRows;
use crate::queries::Running;
use crate::request::{Consistency, Request, Tokens};
use crate::sql::{AsOf, FoldedNames, Query, Relation, View};
use crate::tail::{self, TailRows};

/// Versions that `table_history` shows.
const HISTORY_MAX: usize = 1000;
/// Tables whose schemas are read at a time for `information_schema.columns`.
const SCHEMAS_IN_FLIGHT_MAX: usize = 8;
/// Back-off while a token is waited for.
const TOKEN_PAUSE_FIRST: Duration = Duration::from_millis(5);
const TOKEN_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Names less alike than this are not suggested.
const ALIKE_MIN: f64 = 0.75;

/// Everything a statement reads.
pub(super) struct Resolved {
    pub tables: Tables,
    pub seen: Vec<Seen>,
    pub names: FoldedNames,
}

/// One table at one position.
struct Position {
    pinned: Arc<Pinned>,
    /// Read only where rows are asked for.
    tail: TailRows,
    seen: Seen,
}

impl Engine {
    pub(super) async fn resolve(
        &self,
        tenant: &TenantId,
        request: &Request,
        query: &Query,
        running: &Running,
    ) -> Result<Resolved, QueryError> {
        let mut wanted: BTreeMap<(TableId, AsOf), bool> = BTreeMap::new();
        let mut targets = Vec::new();
        for (name, relation) in &query.relations {
            let id = self.table_id(tenant, relation).await?;
            let as_of = relation
                .as_of
                .clone()
                .unwrap_or_else(|| request.as_of.clone());
            let key = (id, as_of);
            *wanted.entry(key.clone()).or_default() |= relation.view == View::Rows;
            targets.push((name, relation, key));
        }
        let tokens = tokens_of(&request.tokens, &wanted)?;
        let positions = wanted.iter().map(|(key, rows)| {
            let token = tokens.get(&key.0.table);
            async move {
                let position = self.position(key, *rows, token, request, running).await?;
                Ok::<_, QueryError>((key.clone(), position))
            }
        });
        let positions: BTreeMap<_, _> = try_join_all(positions).await?.into_iter().collect();

        let mut tables = HashMap::new();
        let mut names = FoldedNames::default();
        for (name, relation, key) in targets {
            let Some(position) = positions.get(&key) else {
                continue;
            };
            let provider = self.provider(relation.view, position).await?;
            if relation.view == View::Rows {
                names.add(position.pinned.shape.schema.fields());
            }
            let schema = name.schema().unwrap_or(tenant.as_str());
            tables.insert((schema.to_owned(), name.table().to_owned()), provider);
        }
        for name in &query.information {
            let table = self.information(tenant, name).await?;
            tables.insert((about::INFORMATION_SCHEMA.to_owned(), name.clone()), table);
        }
        let seen = positions
            .into_values()
            .map(|position| position.seen)
            .collect();
        Ok(Resolved {
            tables,
            seen,
            names,
        })
    }

    async fn table_id(
        &self,
        tenant: &TenantId,
        relation: &Relation,
    ) -> Result<TableId, QueryError> {
        let reference = &relation.table;
        let own_catalog = reference
            .catalog()
            .is_none_or(|catalog| catalog == about::CATALOG);
        let own_schema = reference
            .schema()
            .is_none_or(|schema| schema == tenant.as_str());
        if own_catalog
            && own_schema
            && let Ok(name) = TableName::new(reference.table())
        {
            return Ok(TableId::new(tenant.clone(), name));
        }
        Err(self.not_found(tenant, reference).await)
    }

    /// Names only tables of the tenant: another's existence does not show.
    async fn not_found(&self, tenant: &TenantId, reference: &TableReference) -> QueryError {
        let asked = reference.table().to_lowercase();
        let tables = self.inner.pins.catalog().list(tenant);
        let nearest = tables
            .iter()
            .map(|entry| entry.id.table.as_str())
            .map(|name| (strsim::jaro_winkler(name, &asked), name))
            .filter(|(alike, _)| *alike >= ALIKE_MIN)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        QueryError::TableNotFound {
            name: reference.to_string(),
            nearest: nearest.map(|(_, name)| name.to_owned()),
        }
    }

    async fn entry(&self, id: &TableId) -> Result<Arc<TableEntry>, QueryError> {
        match self.inner.pins.entry(id).await? {
            Some(entry) => Ok(entry),
            None => Err(self
                .not_found(&id.tenant, &TableReference::bare(id.table.as_str()))
                .await),
        }
    }

    async fn position(
        &self,
        (id, as_of): &(TableId, AsOf),
        rows: bool,
        token: Option<&Token>,
        request: &Request,
        running: &Running,
    ) -> Result<Position, QueryError> {
        let entry = self.entry(id).await?;
        if let Some((bucket, _)) =
            token.and_then(|token| token.iter().find(|(bucket, _)| bucket.0 >= entry.buckets))
        {
            return Err(QueryError::Token(format!(
                "the token names bucket {bucket}, table {id} has {}; it belongs to another table",
                entry.buckets
            )));
        }
        if *as_of != AsOf::Latest {
            let pinned = self.inner.pins.past(&entry, as_of).await?;
            return Ok(committed(pinned));
        }
        if request.consistency == Consistency::Committed || !rows {
            let pinned = self.covered(&entry, token, running).await?;
            return Ok(committed(pinned));
        }
        let latest = self.latest(
            &entry,
            token,
            self.inner.settings.snapshot_age_ms_max,
            running,
        );
        match latest.await {
            // The log may have let go of rows that are committed by now.
            Err(QueryError::LogGap { .. }) => self.latest(&entry, token, 0, running).await,
            other => other,
        }
    }

    /// The newest snapshot, once it covers the token.
    async fn covered(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
        running: &Running,
    ) -> Result<Arc<Pinned>, QueryError> {
        let mut pause = TOKEN_PAUSE_FIRST;
        loop {
            let pinned = self.inner.pins.newest(entry, Duration::ZERO).await?;
            let Some(behind) = behind(entry, token, |bucket| pinned.watermark(bucket)) else {
                return Ok(pinned);
            };
            wait(running, &mut pause, behind).await?;
        }
    }

    /// The newest snapshot known and the tail up to the log's end, once that covers the token.
    async fn latest(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
        age_ms_max: u64,
        running: &Running,
    ) -> Result<Position, QueryError> {
        let inner = &self.inner;
        let newest = inner.pins.newest(entry, Duration::from_millis(age_ms_max));
        let (pinned, ends) = tokio::try_join!(newest, self.ends(entry, token, running))?;
        let ranges = tail::ranges(|bucket| pinned.watermark(bucket), &ends);
        let known = inner
            .pins
            .known(entry)
            .await
            .unwrap_or_else(|| Arc::clone(&pinned));
        let forget = |bucket| known.watermark(bucket);
        let (schema, shape) = (&pinned.shape.table, pinned.shape.as_ref());
        let tail = inner
            .tails
            .rows(entry, schema, shape, &ranges, forget)
            .await?;
        let positions = ends
            .into_iter()
            .map(|(bucket, end)| (bucket, pinned.watermark(bucket).max(Watermark(end.0))))
            .collect();
        let seen = seen(&pinned, positions);
        Ok(Position { pinned, tail, seen })
    }

    /// The log's ends, once they cover the token: at once, unless the token comes from elsewhere.
    async fn ends(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
        running: &Running,
    ) -> Result<Vec<(Bucket, Offset)>, QueryError> {
        let mut pause = TOKEN_PAUSE_FIRST;
        loop {
            let ends = self
                .inner
                .tails
                .source
                .ends(&entry.topic, entry.buckets)
                .await?;
            let reached = |bucket| {
                let end = ends.iter().find(|(found, _)| *found == bucket);
                end.map_or(Watermark(0), |(_, end)| Watermark(end.0))
            };
            let Some(behind) = behind(entry, token, reached) else {
                return Ok(ends);
            };
            wait(running, &mut pause, behind).await?;
        }
    }

    async fn provider(
        &self,
        view: View,
        position: &Position,
    ) -> Result<Arc<dyn TableProvider>, QueryError> {
        let inner = &self.inner;
        let pinned = &position.pinned;
        Ok(match view {
            View::Rows => Arc::new(PinnedRows {
                shape: Arc::clone(&pinned.shape),
                files: Arc::clone(&pinned.files),
                tail: position.tail.clone(),
                readers: inner.readers.clone(),
                store_url: inner.session.store_url().clone(),
                pushdown_filters: inner.settings.pushdown_filters,
                metrics: inner.metrics.clone(),
            }),
            View::History => {
                let table = inner.pins.table(&pinned.entry);
                let commits = table.history(HISTORY_MAX).await?;
                Arc::new(about::history(&commits)?)
            }
            View::Files => Arc::new(about::files(&pinned.files)?),
            View::Columns => Arc::new(about::columns(&pinned.shape)?),
        })
    }

    async fn information(
        &self,
        tenant: &TenantId,
        name: &str,
    ) -> Result<Arc<dyn TableProvider>, QueryError> {
        let catalog = self.inner.pins.catalog();
        let entries = async {
            catalog.refresh().await?;
            Ok::<_, QueryError>(catalog.list(tenant))
        };
        Ok(Arc::new(match name {
            "tables" => {
                let names: Vec<_> = entries
                    .await?
                    .iter()
                    .map(|entry| entry.id.table.to_string())
                    .collect();
                about::tables(tenant, &names)?
            }
            "columns" => about::all_columns(tenant, &self.shapes(&entries.await?).await?)?,
            "views" => about::views()?,
            "schemata" => about::schemata(tenant)?,
            other => {
                return Err(QueryError::NotAllowed(format!(
                    "information_schema.{other} is not there; there are {}",
                    about::INFORMATION.join(", ")
                )));
            }
        }))
    }

    async fn shapes(
        &self,
        entries: &[Arc<TableEntry>],
    ) -> Result<Vec<(String, Arc<crate::provider::shape::Shape>)>, QueryError> {
        use futures::{StreamExt, TryStreamExt};
        let age = Duration::from_millis(self.inner.settings.snapshot_age_ms_max);
        let shapes = futures::stream::iter(entries.to_vec()).map(|entry| async move {
            let pinned = self.inner.pins.newest(&entry, age).await?;
            Ok::<_, QueryError>((entry.id.table.to_string(), Arc::clone(&pinned.shape)))
        });
        shapes.buffered(SCHEMAS_IN_FLIGHT_MAX).try_collect().await
    }
}

fn committed(pinned: Arc<Pinned>) -> Position {
    let buckets = (0..pinned.entry.buckets).map(Bucket);
    let positions = buckets
        .map(|bucket| (bucket, pinned.watermark(bucket)))
        .collect();
    let seen = seen(&pinned, positions);
    Position {
        pinned,
        tail: TailRows::default(),
        seen,
    }
}

fn seen(pinned: &Pinned, positions: BTreeMap<Bucket, Watermark>) -> Seen {
    Seen {
        table: pinned.entry.id.clone(),
        version: pinned.snapshot.version(),
        positions,
    }
}

/// The tokens by table; a single one belongs to the only table there is.
fn tokens_of(
    tokens: &Tokens,
    wanted: &BTreeMap<(TableId, AsOf), bool>,
) -> Result<BTreeMap<TableName, Token>, QueryError> {
    let tables: BTreeSet<&TableName> = wanted.keys().map(|(id, _)| &id.table).collect();
    match tokens {
        Tokens::None => Ok(BTreeMap::new()),
        Tokens::Only(token) => {
            let mut only = tables.into_iter();
            match (only.next(), only.next()) {
                (Some(table), None) => Ok(BTreeMap::from([(table.clone(), token.clone())])),
                (None, _) => Ok(BTreeMap::new()),
                (Some(_), Some(_)) => Err(QueryError::Token(
                    "the query reads several tables: write \"token\":{\"table\":\"…\"}".into(),
                )),
            }
        }
        Tokens::ByTable(tokens) => match tokens.keys().find(|table| !tables.contains(table)) {
            Some(table) => Err(QueryError::Token(format!(
                "the query does not read table {table}"
            ))),
            None => Ok(tokens.clone()),
        },
    }
}

/// The first bucket that has not reached the token.
fn behind(
    entry: &TableEntry,
    token: Option<&Token>,
    reached: impl Fn(Bucket) -> Watermark,
) -> Option<QueryError> {
    let (bucket, wanted) = token?
        .iter()
        .find(|(bucket, mark)| reached(*bucket) < *mark)?;
    Some(QueryError::TokenNotCovered {
        table: entry.id.clone(),
        bucket,
        wanted: wanted.0,
        reached: reached(bucket).0,
    })
}

/// Backs off; the time-out of the query is the end of the wait.
async fn wait(
    running: &Running,
    pause: &mut Duration,
    behind: QueryError,
) -> Result<(), QueryError> {
    if running.deadline <= tokio::time::Instant::now() + *pause {
        return Err(behind);
    }
    running.pause(*pause).await?;
    *pause = (*pause * 2).min(TOKEN_PAUSE_MAX);
    Ok(())
}
