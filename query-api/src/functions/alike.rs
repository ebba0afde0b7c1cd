//! Values of two kinds that meet: made one kind before DataFusion's coercion of types does it.
//!
//! Dates become instants beside instants ([`dates`]), and what is compared with an interval becomes
//! how long it is ([`spans`]): in comparisons, lists and cases, in the values that an expression
//! chooses from, between the rows of a `UNION`, the keys of a join and a column of a query.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::logical_plan::Subquery;
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Union};
use datafusion::optimizer::AnalyzerRule;

use super::compared::{change, values_compared, values_united};
use super::micros::{rewrite, to};
use super::{dates, spans};

/// See the module.
#[derive(Debug)]
pub(super) struct AlikeValues;

impl AnalyzerRule for AlikeValues {
    fn name(&self) -> &'static str {
        "alike_values"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = match unites_dates(&plan)? {
            true => {
                let changed = plan.transform_up_with_subqueries(|plan| match plan {
                    LogicalPlan::Union(union) => Ok(Transformed::yes(united(union)?)),
                    other => Ok(Transformed::yes(other.recompute_schema()?)),
                });
                changed?.data
            }
            false => plan,
        };
        let plan = rewrite(plan, &|expr, schema| {
            expr.transform_up(|expr| alike(expr, schema))
        })?;
        let joined = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Join(join) => Ok(joined(join)),
            other => Ok(Transformed::no(other)),
        });
        Ok(joined?.data)
    }
}

fn alike(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::InSubquery(of) = expr {
        return among(of, schema);
    }
    let mut compared = values_compared(&mut expr);
    let mut changed = spans::alike(&mut compared, schema);
    changed |= dates::alike(&mut compared, schema);
    changed |= dates::alike(&mut values_united(&mut expr), schema);
    Ok(Transformed::new_transformed(expr, changed))
}

/// `x IN (SELECT …)`
fn among(mut of: InSubquery, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let found = of.subquery.subquery.schema().field(0).data_type().clone();
    let Ok(asked) = of.expr.get_type(schema) else {
        return Ok(Transformed::no(Expr::InSubquery(of)));
    };
    let both = [asked, found];
    let [asked, found] = &both;
    if spans::are_intervals(&both) {
        change(&mut of.expr, |value| spans::span(value, asked));
        of.subquery = projected(of.subquery, |value| spans::span(value, found))?;
    } else if let Some(instants) = dates::instants_among(both.iter()) {
        if dates::is_date(asked) {
            change(&mut of.expr, |value| to(value, instants));
        } else if dates::is_date(found) {
            of.subquery = projected(of.subquery, |value| to(value, instants))?;
        }
    }
    Ok(Transformed::yes(Expr::InSubquery(of)))
}

/// The query with something made of its one column.
fn projected(query: Subquery, made: impl FnOnce(Expr) -> Expr) -> Result<Subquery> {
    let column = Expr::Column(Column::from(query.subquery.schema().qualified_field(0)));
    let plan = LogicalPlanBuilder::from(query.subquery);
    let plan = plan.project([made(column)])?.build()?;
    Ok(Subquery {
        subquery: Arc::new(plan),
        ..query
    })
}

fn joined(mut join: Join) -> Transformed<LogicalPlan> {
    let mut changed = false;
    for (left, right) in &mut join.on {
        let mut both = DFSchema::clone(join.left.schema());
        both.merge(join.right.schema());
        let mut sides = [left, right];
        changed |= spans::alike(&mut sides, &both);
        changed |= dates::alike(&mut sides, &both);
    }
    Transformed::new_transformed(LogicalPlan::Join(join), changed)
}

/// Whether the statement has a `UNION` of dates and instants.
fn unites_dates(plan: &LogicalPlan) -> Result<bool> {
    let mut any = [false; 3];
    plan.apply_with_subqueries(|node| {
        any[0] |= matches!(node, LogicalPlan::Union(_));
        for field in node.schema().fields() {
            any[1] |= dates::is_date(field.data_type());
            any[2] |= matches!(field.data_type(), DataType::Timestamp(_, Some(_)));
        }
        Ok(match any == [true; 3] {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(any == [true; 3])
}

fn united(union: Union) -> Result<LogicalPlan> {
    let columns = 0..union.schema.fields().len();
    let types = |at: usize| {
        union
            .inputs
            .iter()
            .map(move |of| of.schema().field(at).data_type())
    };
    let instants: Vec<Option<DataType>> =
        columns.map(|at| dates::instants_among(types(at))).collect();
    if instants.iter().all(Option::is_none) {
        return Ok(LogicalPlan::Union(union));
    }
    let inputs = union.inputs.iter().map(|input| {
        let mut changed = false;
        let columns = input.schema().iter().zip(&instants);
        let columns = columns.map(|((table, field), instants)| {
            let column = Expr::Column(Column::from((table, field)));
            match instants {
                Some(instants) if dates::is_date(field.data_type()) => {
                    changed = true;
                    to(column, instants.clone()).alias_qualified(table.cloned(), field.name())
                }
                _ => column,
            }
        });
        let columns: Vec<Expr> = columns.collect();
        if !changed {
            return Ok(Arc::clone(input));
        }
        let plan = LogicalPlanBuilder::from(Arc::clone(input));
        Ok(Arc::new(plan.project(columns)?.build()?))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
}
