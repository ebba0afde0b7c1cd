//! What a statement would answer, without answering it: for doors that describe before they execute.
//!
//! ```text
//!  text ─► read ─► schemas of what it reads ─► logical plan ─► kind, parameters, columns, fingerprint
//! ```
//! Owns [`Prepared`]. Takes no turn and reads no rows and no tail: what it costs is bounded by the
//! statement's length and the number of tables that it names. Where a parameter says which version
//! or which key a relation shows, its value must be there already: the answer's columns depend on it.
//!
//! Invariant: a prepared statement is executed only over schemas that it was prepared with. Any
//! other is an error that says so, never an answer of other columns.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::parser::Statement;
use tidelake_core::{TableId, TenantId};

use super::resolve::committed;
use super::session::Tables;
use super::{Answer, Engine, Read, correlated, plan, planner, run, weight};
use crate::admission::QueryId;
use crate::error::QueryError;
use crate::formats::output_schema;
use crate::provider::{about, key_history};
use crate::request::Request;
use crate::sql::{self, AsOf, Command, FoldedNames, View};
use crate::table::pinned::Pinned;

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    Query,
    Explain,
    CreateSnapshot,
    DropSnapshot,
}

/// The schemas that a statement was prepared with, as one number: equal for equal schemas in all
/// processes of one build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchemaFingerprint(pub u64);

/// A statement that is understood, and may be executed with parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub kind: StatementKind,
    /// Of `$1`, `$2`, …; none where any type will do.
    pub params: Vec<Option<DataType>>,
    /// Of the answer.
    pub schema: SchemaRef,
    pub fingerprint: SchemaFingerprint,
    request: Request,
}

impl Prepared {
    /// What it was prepared of.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

/// Collects which schemas a statement reads.
#[derive(Debug, Default)]
struct Schemas<'a>(BTreeMap<(&'a TableId, &'a AsOf), (&'a str, &'a str)>);

impl<'a> Schemas<'a> {
    fn add(&mut self, id: &'a TableId, as_of: &'a AsOf, pinned: &'a Pinned) {
        let metadata = pinned.snapshot.metadata();
        // The table's id too: one of the name may have been dropped and made anew.
        let known = (metadata.id.as_str(), metadata.schema_string.as_str());
        self.0.insert((id, as_of), known);
    }

    fn fingerprint(&self) -> SchemaFingerprint {
        let mut hasher = DefaultHasher::new();
        for ((id, as_of), schema) in &self.0 {
            (id.to_string(), as_of, schema).hash(&mut hasher);
        }
        SchemaFingerprint(hasher.finish())
    }
}

/// What a statement reads, without its rows.
struct Described {
    tables: Tables,
    names: FoldedNames,
    fingerprint: SchemaFingerprint,
}

impl Engine {
    /// Reads and plans the statement, and executes nothing.
    ///
    /// # Errors
    /// Whatever is wrong with its text or the names in it.
    pub async fn prepare(
        &self,
        tenant: &TenantId,
        id: QueryId,
        request: &Request,
    ) -> Result<Prepared, QueryError> {
        let queries = &self.inner.queries;
        let running = queries.open(id, tenant, &request.sql, request.timeout)?;
        let ending = Arc::clone(&running.ending);
        let prepared = running.bounded(self.described(tenant, request)).await;
        let prepared = prepared.map_err(|error| error.in_text(&request.sql));
        ending.tell(prepared.as_ref().map_or_else(QueryError::outcome, |_| "ok"));
        prepared
    }

    /// Executes a prepared statement, as [`Engine::query`] does.
    ///
    /// # Errors
    /// [`QueryError::SchemaChanged`] where a table that it reads has another schema by now, and as
    /// for [`Engine::query`].
    pub async fn execute(
        &self,
        tenant: &TenantId,
        id: QueryId,
        prepared: &Prepared,
        params: Vec<ScalarValue>,
    ) -> Result<Answer, QueryError> {
        let request = Request {
            params,
            ..prepared.request.clone()
        };
        self.answer(tenant, id, &request, Some(prepared.fingerprint))
            .await
    }

    async fn described(
        &self,
        tenant: &TenantId,
        request: &Request,
    ) -> Result<Prepared, QueryError> {
        let parsed = match self.read(request).await? {
            Read::Query(parsed) => parsed,
            Read::Command(command) => {
                let schema = output_schema(&about::snapshot_rows(&[])?.schema());
                return Ok(Prepared {
                    kind: match command {
                        Command::CreateSnapshot { .. } => StatementKind::CreateSnapshot,
                        Command::DropSnapshot { .. } => StatementKind::DropSnapshot,
                    },
                    params: Vec::new(),
                    schema,
                    fingerprint: Schemas::default().fingerprint(),
                    request: request.clone(),
                });
            }
        };
        let described = self.read_schemas(tenant, request, &parsed).await;
        let described = described.map_err(|error| sql::placed(error, &parsed))?;
        let zone = request.time_zone.as_ref();
        let state = self
            .inner
            .session
            .state_in(tenant, described.tables, zone)?;
        let statement = parsed.statement.clone();
        let kind = match &statement {
            Statement::Explain(_) => StatementKind::Explain,
            _ => StatementKind::Query,
        };
        let names = described.names;
        let planned = async move { planned(state, statement, &names) };
        let parsing = Arc::clone(&self.inner.parsing).acquire_owned().await;
        let parsing = parsing.map_err(|_| QueryError::Closed)?;
        let metrics = self.inner.metrics.clone();
        let (params, schema) = run::aside((parsing, self.lease()?), metrics, planned).await?;
        Ok(Prepared {
            kind,
            params,
            schema,
            fingerprint: described.fingerprint,
            request: request.clone(),
        })
    }

    async fn read_schemas(
        &self,
        tenant: &TenantId,
        request: &Request,
        query: &sql::Query,
    ) -> Result<Described, QueryError> {
        let age = Duration::from_millis(self.inner.settings.snapshot_age_ms_max);
        let mut pinned = Vec::with_capacity(query.relations.len());
        for (name, relation) in &query.relations {
            let id = self.table_id(tenant, &relation.table).await?;
            let entry = self.entry_soon(&id).await?;
            let as_of = relation.shown_as_of(&request.as_of);
            let found = match &as_of {
                AsOf::Latest => self.inner.pins.newest(&entry, age).await?,
                past => self.inner.pins.past(&entry, past).await?,
            };
            pinned.push((name, relation, (id, as_of), found));
        }
        let (mut tables, mut names) = (Tables::new(), FoldedNames::default());
        let mut schemas = Schemas::default();
        for (name, relation, (id, as_of), found) in &pinned {
            schemas.add(id, as_of, found);
            let provider: Arc<dyn TableProvider> = match &relation.view {
                // Its rows would have to be looked for.
                View::KeyHistory { .. } => {
                    let schema = key_history::schema(&found.shape)?;
                    Arc::new(EmptyTable::new(schema))
                }
                // Of itself a version differs in nothing, and in the same columns.
                view => {
                    let position = committed(Arc::clone(found));
                    self.provider(view, &position, None).await?
                }
            };
            names.add(name, provider.schema().fields());
            let schema = name.schema().unwrap_or(tenant.as_str());
            tables.insert((schema.to_owned(), name.table().to_owned()), provider);
        }
        for name in &query.information {
            let table = about::information(tenant, name)?;
            tables.insert((about::INFORMATION_SCHEMA.to_owned(), name.clone()), table);
        }
        Ok(Described {
            tables,
            names,
            fingerprint: schemas.fingerprint(),
        })
    }
}

/// Refuses a statement whose tables are not those that it was prepared over.
pub(super) fn check_prepared<'a>(
    expected: SchemaFingerprint,
    read: impl Iterator<Item = (&'a (TableId, AsOf), &'a Pinned)>,
) -> Result<(), QueryError> {
    let mut schemas = Schemas::default();
    for ((id, as_of), pinned) in read {
        schemas.add(id, as_of, pinned);
    }
    match schemas.fingerprint() == expected {
        true => Ok(()),
        false => Err(QueryError::SchemaChanged),
    }
}

type Columns = (Vec<Option<DataType>>, SchemaRef);

fn planned(
    mut state: SessionState,
    mut statement: Statement,
    names: &FoldedNames,
) -> Result<Columns, QueryError> {
    sql::fold_columns(&mut statement, names)?;
    sql::name_repeated(&mut statement);
    state.mark_start_execution();
    let plan = planner::plan(&state, statement)?;
    plan::read_only(&plan)?;
    let params = params(&plan)?;
    weight::check(&plan)?;
    correlated::check(&plan)?;
    let is_open = params.iter().any(Option::is_none);
    let before = is_open.then(|| output_schema(plan.schema().as_arrow()));
    // The columns of a union have their common types only now.
    let analyzed = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {});
    let schema = match (analyzed, before) {
        (Ok(plan), _) => output_schema(plan.schema().as_arrow()),
        // What a parameter of any type makes of the answer its value will tell.
        (Err(_), Some(before)) => before,
        (Err(error), None) => return Err(error.into()),
    };
    Ok((params, schema))
}

/// The types that the planner expects of parameters. One that stands in places of several types has
/// none: each place reads it as it needs.
fn params(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>, QueryError> {
    let mut found: BTreeMap<String, Option<DataType>> = BTreeMap::new();
    plan.apply_with_subqueries(|plan| -> DfResult<TreeNodeRecursion> {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Placeholder(Placeholder { id, field }) = expr {
                    let ty = field.as_ref().map(|field| field.data_type().clone());
                    let known = found.entry(id.clone()).or_insert_with(|| ty.clone());
                    if *known != ty {
                        *known = None;
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    let highest = plan::highest_param(found.keys().map(String::as_str))?;
    let mut params = vec![None; highest];
    for (name, ty) in found {
        if let Some(place) = plan::place_of_param(&name)
            && let Some(param) = place.checked_sub(1).and_then(|at| params.get_mut(at))
        {
            *param = ty;
        }
    }
    Ok(params)
}
