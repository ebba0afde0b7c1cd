//! From a parsed statement to a plan that runs: on the query's own threads.

use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::sql::parser;

use super::interrupt::{Interrupt, stoppable};
use super::{correlated, planner, weight};
use crate::error::QueryError;
use crate::sql::{self, FoldedNames};

/// A statement, and everything that it needs to become a plan.
pub(super) struct Statement {
    pub state: SessionState,
    pub parsed: parser::Statement,
    pub names: FoldedNames,
    pub params: Vec<ScalarValue>,
    pub max_rows: Option<usize>,
    pub interrupt: Interrupt,
}

/// Plans the statement and begins to execute it.
pub(super) async fn begin(statement: Statement) -> Result<SendableRecordBatchStream, QueryError> {
    let Statement {
        mut state,
        mut parsed,
        names,
        params,
        max_rows,
        interrupt,
    } = statement;
    sql::fold_columns(&mut parsed, &names)?;
    sql::name_repeated(&mut parsed);
    state.mark_start_execution();
    let is_query = matches!(&parsed, parser::Statement::Statement(_));
    let plan = planner::plan(&state, parsed)?;
    read_only(&plan)?;
    let plan = with_params(plan, &params)?;
    weight::check(&plan)?;
    correlated::check(&plan)?;
    // One row more than is sent: it tells that the answer was cut.
    let plan = match max_rows {
        Some(rows) if is_query => LogicalPlanBuilder::from(plan)
            .limit(0, Some(rows.saturating_add(1).min(ROWS_MAX)))?
            .build()?,
        _ => plan,
    };
    let plan = state.create_physical_plan(&plan).await?;
    let plan = stoppable(plan, &interrupt)?;
    Ok(execute_stream(plan, state.task_ctx())?)
}

/// The largest limit that a plan can have.
const ROWS_MAX: usize = i64::MAX as usize;

/// Parameters of one statement: many more than anybody gives.
const PARAMS_MAX: usize = 65_535;

/// Which parameter the name means, from 1.
pub(super) fn place_of_param(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse().ok()
}

/// The highest parameter that is named.
pub(super) fn highest_param<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<usize, QueryError> {
    names
        .into_iter()
        .try_fold(0, |highest: usize, name| match place_of_param(name) {
            Some(place) if place <= PARAMS_MAX => Ok(highest.max(place)),
            Some(_) => Err(QueryError::Invalid(format!(
                "parameter {name} is beyond ${PARAMS_MAX}"
            ))),
            None => Err(QueryError::Invalid(format!(
                "parameter {name} has no number; write $1, $2, …"
            ))),
        })
}

/// The second lock: whatever the text check let through, the plan only reads.
pub(super) fn read_only(plan: &LogicalPlan) -> Result<(), QueryError> {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(plan)
        .map_err(|error| QueryError::NotAllowed(error.strip_backtrace()))
}

fn with_params(plan: LogicalPlan, params: &[ScalarValue]) -> Result<LogicalPlan, QueryError> {
    let named = plan.get_parameter_names()?;
    let highest = highest_param(named.iter().map(String::as_str))?;
    if highest > params.len() {
        let reason = format!(
            "the statement has parameter ${highest}, params has {} values",
            params.len()
        );
        return Err(QueryError::request("params", reason));
    }
    if named.is_empty() {
        return Ok(plan);
    }
    Ok(plan.with_param_values(ParamValues::from(params.to_vec()))?)
}
