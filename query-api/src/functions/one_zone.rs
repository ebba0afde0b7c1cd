//! What a statement in a zone other than UTC may not do yet.
//!
//! Functions go by the zone in the type of their argument. An instant of another zone within the
//! statement would be shown, cut and compared by that zone's clocks, silently: so in a session with a
//! zone all instants bear it, and what brings others in is refused by name.
//!
//! Where such come from: maps of instants; `AT TIME ZONE` of another zone; series of instants, whose
//! days have 24 hours; and the difference of an instant and a time without a zone.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

const SERIES: [&str; 2] = ["range", "generate_series"];

/// Refuses what does not keep to the zone, before types are coerced.
pub(super) fn check_asked(plan: &LogicalPlan) -> Result<()> {
    visit(plan, &mut |expr, schema| {
        let is = |expr: &Expr, of: fn(&DataType) -> bool| {
            expr.get_type(schema).is_ok_and(|data_type| of(&data_type))
        };
        match expr {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Minus,
                right,
            }) => {
                let mixed = is(left, is_instant) && is(right, is_clock)
                    || is(left, is_clock) && is(right, is_instant);
                refused_if(
                    mixed,
                    "the difference of an instant and a time without a zone",
                )?;
            }
            Expr::ScalarFunction(called) if SERIES.contains(&called.name()) => {
                let any = called.args.iter().any(|arg| is(arg, is_instant));
                refused_if(any, "a series of instants")?;
            }
            Expr::ScalarFunction(called) if called.name() == "date_bin" => {
                let origin = called.args.get(2);
                let bins = called.args.get(1).is_some_and(|time| is(time, is_instant));
                let other = origin.is_some_and(|origin| !is(origin, is_instant));
                refused_if(
                    bins && other,
                    "date_bin of an instant from an origin without a zone",
                )?;
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })
}

/// Refuses instants of other zones than the session's, once all types are known.
pub(super) fn check_types(plan: &LogicalPlan, zone: &str) -> Result<()> {
    visit(plan, &mut |expr, schema| {
        // What is moved into the zone at once, such as the columns of tables.
        let (inner, moved) = match expr {
            Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                (Some(expr.as_ref()), in_zone(field.data_type(), zone))
            }
            _ => (None, false),
        };
        if moved && matches!(inner, Some(Expr::Column(_) | Expr::Literal(..))) {
            return Ok(TreeNodeRecursion::Jump);
        }
        let data_type = match expr.get_type(schema) {
            Ok(data_type) => data_type,
            Err(_) => return Ok(TreeNodeRecursion::Continue),
        };
        let foreign = is_instant(&data_type) && !in_zone(&data_type, zone);
        refused_if(
            foreign,
            "an instant of another zone, as maps and AT TIME ZONE make them,",
        )?;
        Ok(TreeNodeRecursion::Continue)
    })
}

fn visit(
    plan: &LogicalPlan,
    look: &mut dyn FnMut(&Expr, &DFSchema) -> Result<TreeNodeRecursion>,
) -> Result<()> {
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan {
            let is_series = SERIES
                .iter()
                .any(|name| scan.table_name.table().starts_with(name));
            let mut fields = plan.schema().fields().iter();
            let any = fields.any(|field| is_instant(field.data_type()));
            refused_if(is_series && any, "a series of instants")?;
        }
        let mut schema = merge_schema(&plan.inputs());
        schema.merge(plan.schema());
        plan.apply_expressions(|expr| {
            expr.apply(|expr| look(expr, &schema))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn is_instant(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, Some(_)))
}

fn is_clock(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64
    )
}

fn in_zone(data_type: &DataType, zone: &str) -> bool {
    matches!(data_type, DataType::Timestamp(_, Some(own)) if **own == *zone)
}

fn refused_if(wrong: bool, what: &str) -> Result<()> {
    match wrong {
        true => Err(DataFusionError::NotImplemented(format!(
            "{what} is not supported in a time zone other than UTC: leave time_zone out, or do that \
             part in a statement of its own"
        ))),
        false => Ok(()),
    }
}
