//! Relations to tables: pins versions, waits for tokens, reads tails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use futures::future::try_join_all;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_core::{TableId, TableName, TenantId, Token, Watermark};

use super::prepare::{SchemaFingerprint, check_prepared};
use super::session::Tables;
use super::{Engine, Seen};
use crate::admission::Running;
use crate::error::QueryError;
use crate::provider::about;
use crate::provider::changes::Changes;
use crate::provider::history;
use crate::provider::key_history;
use crate::provider::scan::{Candidates, PinnedRows};
use crate::request::{Consistency, Request, Tokens};
use crate::sql::{AsOf, FoldedNames, Point, Query, View};
use crate::table::pinned::Pinned;
use crate::table::stored_keys::StoredKeys;
use crate::tail::View as TailView;
use crate::tail::look;
use crate::tail::{Finder, KeyIndex};
use crate::wait::{Patience, behind, beyond};

/// Tables whose schemas are read at a time for `information_schema.columns`.
const SCHEMAS_IN_FLIGHT_MAX: usize = 8;
/// Names less alike than this are not suggested.
const ALIKE_MIN: f64 = 0.75;

/// Everything a statement reads.
pub(super) struct Resolved {
    pub tables: Tables,
    pub seen: Vec<Seen>,
    pub names: FoldedNames,
    /// What the statement names its rows by, and where they are, if all that is read is one table
    /// whose keys are known.
    pub keyed: Option<(Point, KeyIndex)>,
}

/// One table at one position.
pub(super) struct Position {
    pub pinned: Arc<Pinned>,
    /// What lies behind it, where rows are asked for.
    pub view: Option<Arc<TailView>>,
    pub seen: Seen,
}

impl Engine {
    /// Pins what the statement reads; where it was prepared, over the schemas that are `expected`.
    pub(super) async fn resolve(
        &self,
        tenant: &TenantId,
        (request, expected): (&Request, Option<SchemaFingerprint>),
        query: &Query,
        running: &Running,
    ) -> Result<Resolved, QueryError> {
        let mut wanted: BTreeMap<(TableId, AsOf), bool> = BTreeMap::new();
        let mut targets = Vec::new();
        for (name, relation) in &query.relations {
            let id = self.table_id(tenant, &relation.table).await?;
            let as_of = relation.shown_as_of(&request.as_of);
            if let View::Changes { from, .. } = &relation.view {
                wanted.entry((id.clone(), from.clone())).or_default();
            }
            let key = (id, as_of);
            *wanted.entry(key.clone()).or_default() |= relation.view == View::Rows;
            targets.push((name, relation, key));
        }
        let tokens = tokens_of(&request.tokens, &wanted)?;
        let point = Point::of(query, &request.params);
        let named = point.as_ref();
        let positions = wanted.iter().map(|(key, rows)| {
            let token = tokens.get(&key.0.table);
            async move {
                let position = self
                    .position(key, (*rows, named), token, request, running)
                    .await?;
                Ok::<_, QueryError>((key.clone(), position))
            }
        });
        let positions: BTreeMap<_, _> = try_join_all(positions).await?.into_iter().collect();

        let mut tables = HashMap::new();
        let mut names = FoldedNames::default();
        let mut keyed = None;
        if let Some(expected) = expected {
            let keys = targets.iter().map(|(_, _, key)| key);
            let read = keys.filter_map(|key| Some((key, positions.get(key)?.pinned.as_ref())));
            check_prepared(expected, read)?;
        }
        for (name, relation, key) in targets {
            let Some(position) = positions.get(&key) else {
                continue;
            };
            let from = match &relation.view {
                View::Changes { from, .. } => positions.get(&(key.0.clone(), from.clone())),
                _ => None,
            };
            let provider: Arc<dyn TableProvider> = match &relation.view {
                View::Rows => {
                    let rows = self.rows(position);
                    keyed = point.clone().zip(rows.index.clone());
                    Arc::new(rows)
                }
                view => self.provider(view, position, from).await?,
            };
            names.add(name, provider.schema().fields());
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
            keyed,
        })
    }

    pub(super) async fn table_id(
        &self,
        tenant: &TenantId,
        reference: &TableReference,
    ) -> Result<TableId, QueryError> {
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
            at: None,
        }
    }

    pub(super) async fn entry(&self, id: &TableId) -> Result<Arc<TableEntry>, QueryError> {
        match self.inner.pins.entry(id).await? {
            Some(entry) => Ok(entry),
            None => Err(self
                .not_found(&id.tenant, &TableReference::bare(id.table.as_str()))
                .await),
        }
    }

    /// The table's entry, perhaps as it was a moment ago.
    pub(crate) async fn entry_soon(&self, id: &TableId) -> Result<Arc<TableEntry>, QueryError> {
        let age = Duration::from_millis(self.inner.settings.catalog_age_ms_max);
        match self.inner.pins.entry_within(id, age).await? {
            Some(entry) => Ok(entry),
            None => Err(self
                .not_found(&id.tenant, &TableReference::bare(id.table.as_str()))
                .await),
        }
    }

    async fn position(
        &self,
        (id, as_of): &(TableId, AsOf),
        (rows, named): (bool, Option<&Point>),
        token: Option<&Token>,
        request: &Request,
        running: &Running,
    ) -> Result<Position, QueryError> {
        if *as_of == AsOf::Latest && !request.exactly.is_empty() {
            // Seldom, and large: it would weigh on every other statement's future.
            return Box::pin(self.exactly(id, rows, request, running)).await;
        }
        let (entry, by_key) = match named {
            Some(point) => {
                // A token may be of a table that was just made.
                let soon = match token {
                    Some(_) => self.entry(id).await?,
                    None => self.entry_soon(id).await?,
                };
                match names_key(point, &soon) {
                    true => (soon, true),
                    false => (self.entry(id).await?, false),
                }
            }
            None => (self.entry(id).await?, false),
        };
        self.check_token(&entry, token).await?;
        if *as_of != AsOf::Latest {
            let pinned = self.inner.pins.past(&entry, as_of).await?;
            return Ok(committed(pinned));
        }
        if request.consistency == Consistency::Committed || !rows {
            let pinned = self.covered(&entry, token, running).await?;
            return Ok(committed(pinned));
        }
        if !by_key && let Some((pinned, ends)) = self.quiet(&entry, token).await {
            let seen = Seen::of(&pinned, ends);
            return Ok(Position {
                pinned,
                view: None,
                seen,
            });
        }
        let patience = Patience::of(running);
        let view = self.latest(&entry, token, &patience).await?;
        Ok(Position {
            pinned: Arc::clone(&view.pinned),
            seen: Seen::of(&view.pinned, view.positions()),
            view: Some(view),
        })
    }

    /// A token names no bucket that the table does not have; the topic of an append table may have
    /// got more.
    pub(crate) async fn check_token(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
    ) -> Result<(), QueryError> {
        let last = token.and_then(|token| token.iter().map(|(bucket, _)| bucket).max());
        let Some(bucket) = last.filter(|bucket| bucket.0 >= entry.buckets) else {
            return Ok(());
        };
        let mut buckets = entry.buckets;
        if entry.mode == TableMode::Append {
            let found = self.inner.tails.source().describe(&entry.topic).await?;
            buckets = found.map_or(buckets, |found| found.buckets);
        }
        if bucket.0 < buckets {
            return Ok(());
        }
        Err(QueryError::Token(format!(
            "the token names bucket {bucket}, table {} has {buckets}; it belongs to another table",
            entry.id
        )))
    }

    /// The newest snapshot, once it covers the token.
    pub(super) async fn covered(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
        running: &Running,
    ) -> Result<Arc<Pinned>, QueryError> {
        let mut patience = Patience::of(running);
        loop {
            let pinned = self.inner.pins.newest(entry, Duration::ZERO).await?;
            let Some(behind) = behind(entry, token, |bucket| pinned.watermark(bucket)) else {
                patience.over();
                return Ok(pinned);
            };
            if patience.is_fresh() {
                self.check_in_log(entry, token).await?;
            }
            patience.wait(behind).await?;
        }
    }

    /// A token of offsets that the log is far from having is none of this table: nobody should wait
    /// for it. A log that does not answer refuses none.
    pub(crate) async fn check_in_log(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
    ) -> Result<(), QueryError> {
        let Ok(ends) = look(self.inner.tails.source(), entry).await else {
            return Ok(());
        };
        beyond(entry, token, |bucket| {
            let end = ends.iter().find(|(found, _)| *found == bucket);
            end.map_or(Watermark(0), |(_, end)| Watermark(end.0))
        })
    }

    /// A snapshot and everything behind it up to the log's end, once that covers the token: at once,
    /// unless the token comes from elsewhere.
    pub(crate) async fn latest(
        &self,
        entry: &Arc<TableEntry>,
        token: Option<&Token>,
        patience: &Patience<'_>,
    ) -> Result<Arc<TailView>, QueryError> {
        let following = self.inner.tails.follow(entry);
        let mut patience = patience.clone();
        let ends = loop {
            let ends = following.ends().await?;
            let reached = |bucket| {
                let end = ends.iter().find(|(found, _)| *found == bucket);
                end.map_or(Watermark(0), |(_, end)| Watermark(end.0))
            };
            let Some(behind) = behind(entry, token, reached) else {
                patience.over();
                break ends;
            };
            beyond(entry, token, reached)?;
            patience.wait(behind).await?;
        };
        let age = Duration::from_millis(self.inner.settings.snapshot_age_ms_max);
        following.view(&ends, age, patience.deadline).await
    }

    pub(super) async fn provider(
        &self,
        view: &View,
        position: &Position,
        from: Option<&Position>,
    ) -> Result<Arc<dyn TableProvider>, QueryError> {
        let inner = &self.inner;
        let pinned = &position.pinned;
        Ok(match view {
            View::Rows => Arc::new(self.rows(position)),
            View::Changes { .. } => {
                let from = from.unwrap_or(position);
                let table = inner.pins.table(&pinned.entry);
                let rows = self.committed_rows(pinned);
                let (from, to) = (&from.pinned.snapshot, &pinned.snapshot);
                Arc::new(Changes::new(rows, table, from, to)?)
            }
            View::KeyHistory { key } => {
                let table = inner.pins.table(&pinned.entry);
                let rows = self.committed_rows(pinned);
                let state = inner.session.state(&pinned.entry.id.tenant, Tables::new());
                let (snapshot, buckets) = (Arc::clone(&pinned.snapshot), pinned.entry.buckets);
                let key = key.clone();
                let history = async move {
                    key_history::table(&state, rows, table, &snapshot, buckets, &key).await
                };
                Arc::new(self.aside(history).await?)
            }
            View::Snapshots => {
                Arc::new(about::snapshots(&self.snapshots_of(&pinned.entry).await?)?)
            }
            View::History => {
                let table = inner.pins.table(&pinned.entry);
                Arc::new(history::table(table.walk_history().await?)?)
            }
            View::Files => Arc::new(about::files(&pinned.files)?),
            View::Columns => Arc::new(about::columns(&pinned.shape)?),
        })
    }

    fn rows(&self, position: &Position) -> PinnedRows {
        let committed = self.committed_rows(&position.pinned);
        match &position.view {
            Some(view) => PinnedRows {
                view: Some(Arc::clone(view)),
                index: Finder::fresh(view).map(KeyIndex::Followed),
                ..committed
            },
            None => committed,
        }
    }

    /// The rows that a version holds, without what lies behind its watermarks.
    pub(crate) fn committed_rows(&self, pinned: &Arc<Pinned>) -> PinnedRows {
        let inner = &self.inner;
        // Who follows the table may know where this version's keys are.
        let followed = inner.tails.followed(&pinned.entry);
        let view = followed.and_then(|followed| followed.view());
        let followed = view.and_then(|view| Finder::committed(&view, pinned));
        let index = match followed {
            Some(finder) => Some(KeyIndex::Followed(finder)),
            None => StoredKeys::of(pinned).map(KeyIndex::Stored),
        };
        PinnedRows {
            shape: Arc::clone(&pinned.shape),
            files: Candidates::Pruned(Arc::clone(&pinned.files)),
            view: None,
            index,
            readers: inner.readers.of_tenant(&pinned.entry.id.tenant),
            store_url: inner.session.store_url().clone(),
            pushdown_filters: inner.settings.pushdown_filters,
            metrics: inner.metrics.clone(),
        }
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
            other => return Err(about::no_information(other)),
        }))
    }

    /// A table whose log can't be understood is left out: it must not hide the others.
    async fn shapes(
        &self,
        entries: &[Arc<TableEntry>],
    ) -> Result<Vec<(String, Arc<crate::table::shape::Shape>)>, QueryError> {
        use futures::{StreamExt, TryStreamExt};
        let age = Duration::from_millis(self.inner.settings.snapshot_age_ms_max);
        let shapes = futures::stream::iter(entries.to_vec()).map(|entry| async move {
            match self.inner.pins.newest(&entry, age).await {
                Ok(pinned) => {
                    let name = entry.id.table.to_string();
                    Ok(Some((name, Arc::clone(&pinned.shape))))
                }
                // The store and what is on the way to it may be back soon.
                Err(error) if error.kind().is_transient() => Err(error),
                Err(error) => {
                    let (table, error) = (&entry.id, tidelake_service::chain(&error));
                    tracing::warn!(%table, error, "the table's columns are not listed");
                    Ok(None)
                }
            }
        });
        let shapes = shapes.buffered(SCHEMAS_IN_FLIGHT_MAX);
        shapes
            .try_filter_map(|found| async { Ok(found) })
            .try_collect()
            .await
    }
}

/// Whether the statement names rows by all columns of the table's key, whatever else it asks.
fn names_key(point: &Point, entry: &TableEntry) -> bool {
    let named = |column: &str| {
        let mut conditions = point.conditions.iter();
        conditions.any(|(name, _)| name.value.eq_ignore_ascii_case(column))
    };
    let key = entry.schema.identifier_fields();
    !key.is_empty() && key.iter().all(|field| named(&field.name))
}

pub(super) fn committed(pinned: Arc<Pinned>) -> Position {
    Position {
        seen: Seen::committed(&pinned),
        view: None,
        pinned,
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
