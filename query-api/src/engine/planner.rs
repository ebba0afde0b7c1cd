//! From a checked statement to a logical plan, without looking for its tables again.
//!
//! DataFusion's session first collects the tables that a statement names, and visits each `WITH`
//! query twice for every level that it is nested. Here the tables are there before: a session knows
//! those of its query and no others. Nothing waits for anything.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableFunctionArgs;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, TableReference, plan_datafusion_err};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{
    ContextProvider, ExprPlanner, RelationPlanner, TypePlanner,
};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::{ParserOptions, SqlToRel};

use super::session::{OneCatalog, OurTypes};
use super::{calls, repeats};
use crate::error::{PlanFault, QueryError};
use crate::functions;
use crate::provider::about::CATALOG;

/// Plans a statement over the tables of its session.
pub(super) fn plan(
    state: &SessionState,
    mut statement: Statement,
) -> Result<LogicalPlan, QueryError> {
    calls::check(state, &statement)?;
    let kept = repeats::may_repeat(&mut statement).then(|| statement.clone());
    let refused = match planned(state, statement) {
        Err(refused) if may_be_of_names(&refused) => refused,
        other => return other,
    };
    let Some(statement) = kept else {
        return Err(refused);
    };
    match repeats::renamed(statement, &|statement| planned(state, statement))? {
        Some(renamed) => planned(state, renamed),
        None => Err(refused),
    }
}

/// What two columns of one name are told as.
fn may_be_of_names(refused: &QueryError) -> bool {
    use PlanFault::{AmbiguousColumn, DuplicateColumn, Other};
    matches!(
        refused,
        QueryError::Plan {
            fault: AmbiguousColumn | DuplicateColumn | Other,
            ..
        }
    )
}

fn planned(state: &SessionState, statement: Statement) -> Result<LogicalPlan, QueryError> {
    let names = Names {
        state,
        misses_function: Cell::new(false),
    };
    let options = ParserOptions::from(&state.config_options().sql_parser);
    let planned = SqlToRel::new_with_options(&names, options.with_collect_spans(true))
        .statement_to_plan(statement);
    planned.map_err(|error| match QueryError::from(error) {
        QueryError::Plan {
            fault: PlanFault::Other,
            reason,
            at,
        } if names.misses_function.get() => QueryError::Plan {
            fault: PlanFault::NoFunction,
            reason,
            at,
        },
        other => other,
    })
}

/// What the names of a statement mean.
struct Names<'a> {
    state: &'a SessionState,
    /// The planner has asked for all names, which it does to suggest one for a function that is
    /// not there, and then fails.
    misses_function: Cell<bool>,
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        let tenant = &self.options().catalog.default_schema;
        let schema = name.schema().unwrap_or(tenant).to_owned();
        let catalog: &dyn Any = self.state.catalog_list().as_ref();
        let found = catalog
            .downcast_ref::<OneCatalog>()
            .filter(|_| name.catalog().is_none_or(|catalog| catalog == CATALOG))
            .and_then(|catalog| catalog.0.get(&(schema, name.table().to_owned())));
        match found {
            Some(table) => {
                let source = provider_as_source(Arc::clone(table));
                Ok(match functions::session_zone(self.options()) {
                    Some(zone) => functions::source_in(source, &zone),
                    None => source,
                })
            }
            None => Err(plan_datafusion_err!("table '{name}' not found")),
        }
    }

    fn get_table_function_source(
        &self,
        name: &str,
        args: Vec<Expr>,
    ) -> DfResult<Arc<dyn TableSource>> {
        let function = self.state.table_functions().get(name);
        let function = function.ok_or_else(|| plan_datafusion_err!("no table function {name}"))?;
        let started = self.state.execution_props().query_execution_start_time;
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(started)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let schema = DFSchema::empty();
        let constant = |arg| simplifier.simplify(simplifier.coerce(arg, &schema)?);
        let args = args
            .into_iter()
            .map(constant)
            .collect::<DfResult<Vec<_>>>()?;
        let args = TableFunctionArgs::new(&args, self.state);
        Ok(provider_as_source(
            function.create_table_provider_with_args(args)?,
        ))
    }

    fn create_cte_work_table(
        &self,
        name: &str,
        schema: SchemaRef,
    ) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(
            name, schema,
        ))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        let zone = self.options().execution.time_zone.as_deref();
        Some(Arc::new(OurTypes::in_zone(zone)))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    /// There are no variables.
    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        names_of(self.state.scalar_functions())
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        names_of(self.state.higher_order_functions())
    }

    fn udaf_names(&self) -> Vec<String> {
        self.misses_function.set(true);
        names_of(self.state.aggregate_functions())
    }

    fn udwf_names(&self) -> Vec<String> {
        names_of(self.state.window_functions())
    }
}

fn names_of<T>(functions: &HashMap<String, T>) -> Vec<String> {
    functions.keys().cloned().collect()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;
    use tidelake_core::TenantId;

    use super::*;
    use crate::settings::QuerySettings;
    use crate::sql;
    use crate::testing::World;

    #[tokio::test]
    async fn timestamps_with_a_zone_have_the_sessions() {
        let world = World::new(QuerySettings::default()).await;
        let mut state = world.engine.plain_session(&TenantId::default());
        for zone in ["UTC", "Europe/Berlin"] {
            let options = state.config_mut().options_mut();
            options.execution.time_zone = Some(zone.to_owned());
            let text = "SELECT TIMESTAMPTZ '2026-07-01 12:00:00'";
            let statement = sql::parse(text, &[]).unwrap().statement;
            let plan = plan(&state, statement).unwrap();
            let wanted = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
            assert_eq!(*plan.schema().field(0).data_type(), wanted);
        }
    }
}
