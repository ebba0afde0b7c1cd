//! Statements in a zone of their own.
//!
//! ```text
//!  planner sees ─► casts above ─► coercion of types ─► casts of instants, sums with intervals
//!  tables in the   the tables                          go by the zone's clocks
//!  zone            themselves
//! ```
//! Our columns of instants are in UTC, and DataFusion's functions do what the zone of their argument
//! says. So in a session with another zone every column of instants that a table has is of that zone
//! ([`super::zoned_source`]), which changes no value; parts of dates and texts are then of it. Casts
//! between instants and what has no zone go by its clocks, as SQL has it, and so do days and months
//! that are added ([`super::steps`]). Without such a zone both go by that of `AT TIME ZONE`.
//!
//! Invariant: where nothing names a zone other than UTC, nothing here changes a plan.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use tidelake_schema::arrow::UTC;

use super::clocks::instants_in;
use super::micros::{columns_as, rewrite, to};
use super::zoned_source::{ZonedSource, moved};

/// The session's zone, where it is not UTC.
pub(crate) fn session_zone(config: &ConfigOptions) -> Option<Arc<str>> {
    let zone = config.execution.time_zone.as_deref();
    zone.filter(|zone| *zone != UTC).map(Arc::from)
}

/// Tables that the planner saw in the zone, as they are below casts to it.
pub(super) fn tables_in(plan: LogicalPlan, zone: &Arc<str>) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::TableScan(scan) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let Some(zoned) = scan.source.downcast_ref::<ZonedSource>() else {
            return Ok(Transformed::no(plan));
        };
        let (name, table) = (scan.table_name.clone(), Arc::clone(&zoned.table));
        let columns = scan.projection.clone();
        let table = LogicalPlanBuilder::scan(name.clone(), table, columns)?.build()?;
        columns_as(table, &name, |data_type| moved(data_type, zone))
    });
    Ok(plan?.data)
}

/// Casts between instants and what has no zone, by the clocks of the session's zone, or of the
/// instant's own.
pub(super) fn casts_in(plan: LogicalPlan, zone: Option<&Arc<str>>) -> Result<LogicalPlan> {
    rewrite(plan, &|expr, schema| {
        expr.transform_up(|expr| {
            let (inner, field) = match &expr {
                Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                    (expr, field)
                }
                _ => return Ok(Transformed::no(expr)),
            };
            // What has no type yet is none of ours.
            let Ok(from) = inner.get_type(schema) else {
                return Ok(Transformed::no(expr));
            };
            let by_clock = match (&from, field.data_type()) {
                (DataType::Timestamp(_, Some(own)), target)
                    if has_no_zone(target) && (zone.is_some() || **own != *UTC) =>
                {
                    clock(inner.as_ref().clone(), &from, zone.unwrap_or(own))
                }
                (from, target @ DataType::Timestamp(_, Some(own)))
                    if has_clocks(target) && is_clock(from) =>
                {
                    let shown = DataType::Timestamp(TimeUnit::Microsecond, None);
                    Expr::ScalarFunction(ScalarFunction {
                        func: instants_in(own),
                        args: vec![to(inner.as_ref().clone(), shown)],
                    })
                }
                _ => return Ok(Transformed::no(expr)),
            };
            Ok(Transformed::yes(match expr {
                Expr::TryCast(TryCast { field, .. }) => Expr::TryCast(TryCast {
                    expr: Box::new(by_clock),
                    field,
                }),
                Expr::Cast(Cast { field, .. }) => Expr::Cast(Cast {
                    expr: Box::new(by_clock),
                    field,
                }),
                other => other,
            }))
        })
    })
}

/// Whether instants of this type are shown by other clocks than UTC's.
pub(super) fn has_clocks(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, Some(zone)) if **zone != *UTC)
}

/// True for what a clock shows, in microseconds at most.
fn is_clock(from: &DataType) -> bool {
    match from {
        DataType::Timestamp(unit, None) => *unit != TimeUnit::Nanosecond,
        DataType::Date32 | DataType::Date64 => true,
        _ => false,
    }
}

fn has_no_zone(target: &DataType) -> bool {
    matches!(
        target,
        DataType::Timestamp(_, None)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
    )
}

/// What the zone's clocks show at an instant.
fn clock(instant: Expr, data_type: &DataType, zone: &Arc<str>) -> Expr {
    let instant = match moved(data_type, zone) {
        Some(data_type) => to(instant, data_type),
        None => instant,
    };
    Expr::ScalarFunction(ScalarFunction {
        func: to_local_time(),
        args: vec![instant],
    })
}
