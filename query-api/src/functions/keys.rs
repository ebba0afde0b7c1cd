//! What values are ordered and grouped by, where equal ones differ.
//!
//! `-0.0` equals `0.0`, and `INTERVAL '1 month'` equals `'30 days'` ([`super::spans`]); DataFusion
//! groups and joins floats so, but orders them by their bits, and intervals by their parts. So windows
//! and orders take a key for the value. A float that is ordered by last needs none: which of two equal
//! rows comes first is left open.
//!
//! Groups of intervals, `DISTINCT` and the other functions that compare some are refused: the value
//! that stands for a group would have to be chosen.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{
    AggregateFunction, AggregateFunctionParams, NullTreatment, Sort, WindowFunction,
};
use datafusion::logical_expr::{Aggregate, Distinct, DistinctOn, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use super::compared::change;
use super::micros::rewrite;
use super::single::Single;
use super::spans::{is_interval, span};

/// Functions of lists and values that compare what they are given.
const COMPARING: [&str; 18] = [
    "array_distinct",
    "array_except",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_max",
    "array_min",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_sort",
    "array_union",
    "greatest",
    "least",
    "nullif",
];

/// See the module.
#[derive(Debug)]
pub(super) struct EqualKeys;

impl AnalyzerRule for EqualKeys {
    fn name(&self) -> &'static str {
        "equal_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = rewrite(plan, &|expr, schema| {
            expr.transform_up(|expr| keyed(expr, schema))
        })?;
        let ordered = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Sort(mut sort) => {
                let changed = order(&mut sort.expr, sort.input.schema());
                Ok(Transformed::new_transformed(
                    LogicalPlan::Sort(sort),
                    changed,
                ))
            }
            LogicalPlan::Aggregate(aggregate) => {
                check_groups(&aggregate)?;
                Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)))
            }
            LogicalPlan::Distinct(distinct) => {
                check_distinct(&distinct)?;
                Ok(distinct_on(distinct))
            }
            other => Ok(Transformed::no(other)),
        });
        Ok(ordered?.data)
    }
}

fn keyed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::WindowFunction(mut function) => {
            let changed = window(&mut function, schema)?;
            let expr = Expr::WindowFunction(function);
            Ok(Transformed::new_transformed(expr, changed))
        }
        Expr::AggregateFunction(function) => aggregate(function, schema),
        Expr::ScalarFunction(call) if COMPARING.contains(&call.name()) => {
            let any = call.args.iter().any(|arg| has_intervals(arg, schema));
            refused_if(any, call.name())?;
            Ok(Transformed::no(Expr::ScalarFunction(call)))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn window(function: &mut WindowFunction, schema: &DFSchema) -> Result<bool> {
    let name = function.fun.name().to_owned();
    let params = &mut function.params;
    let compares = params.distinct || matches!(name.as_str(), "min" | "max");
    let any = params.args.iter().any(|arg| has_intervals(arg, schema));
    refused_if(compares && any, &format!("{name} over a window"))?;
    let keys = params.order_by.iter_mut().map(|by| &mut by.expr);
    let mut changed = false;
    for key in keys.chain(&mut params.partition_by) {
        let Ok(data_type) = key.get_type(schema) else {
            continue;
        };
        changed |= match data_type {
            // Windows have no order of these, either.
            DataType::Duration(_) => {
                change(key, |key| span(key, &data_type));
                true
            }
            _ => as_key(key, &data_type),
        };
    }
    Ok(changed)
}

fn aggregate(function: AggregateFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let AggregateFunction { func, mut params } = function;
    let mut changed = order(&mut params.order_by, schema);
    let intervals = params.args.iter().any(|arg| has_intervals(arg, schema));
    match (func.name(), params.args.as_slice()) {
        (extreme @ ("min" | "max"), [of]) if intervals => {
            let is_min = extreme == "min";
            return Ok(Transformed::yes(first(of, is_min, params.filter, schema)?));
        }
        ("count", [_]) if intervals && params.distinct => {
            for of in &mut params.args {
                changed |= as_key(of, &of.get_type(schema)?);
            }
        }
        (name, _) => refused_if(intervals && params.distinct, &format!("{name}(DISTINCT …)"))?,
    }
    let expr = Expr::AggregateFunction(AggregateFunction { func, params });
    Ok(Transformed::new_transformed(expr, changed))
}

/// The shortest interval, or the longest.
fn first(of: &Expr, is_min: bool, filter: Option<Box<Expr>>, schema: &DFSchema) -> Result<Expr> {
    let by = span(of.clone(), &of.get_type(schema)?);
    let params = AggregateFunctionParams {
        args: vec![of.clone()],
        distinct: false,
        filter,
        order_by: vec![Sort::new(by, is_min, false)],
        null_treatment: Some(NullTreatment::RespectNulls),
    };
    let func = first_value_udaf();
    Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
}

/// Puts keys for what is ordered by; true where something changed.
fn order(keys: &mut [Sort], schema: &DFSchema) -> bool {
    let last = keys.len().saturating_sub(1);
    let mut changed = false;
    for (at, Sort { expr, .. }) in keys.iter_mut().enumerate() {
        changed |= match expr.get_type(schema) {
            Ok(data_type) if data_type.is_floating() && at == last => false,
            Ok(data_type) => as_key(expr, &data_type),
            Err(_) => false,
        };
    }
    changed
}

/// Puts the value's key in its place, where equal values differ.
fn as_key(value: &mut Expr, data_type: &DataType) -> bool {
    if is_interval(data_type) {
        change(value, |value| span(value, data_type));
        return true;
    }
    let differ = matches!(data_type, DataType::Float32 | DataType::Float64);
    if differ && !matches!(value, Expr::Literal(..)) {
        change(value, |value| Single::OneZero.of(value));
        return true;
    }
    false
}

fn check_groups(aggregate: &Aggregate) -> Result<()> {
    let schema = aggregate.input.schema();
    let groups = aggregate.group_expr.iter().flat_map(|expr| match expr {
        Expr::GroupingSet(sets) => sets.distinct_expr(),
        expr => vec![expr],
    });
    let any = groups.into_iter().any(|expr| has_intervals(expr, schema));
    refused_if(any, "GROUP BY")
}

fn check_distinct(distinct: &Distinct) -> Result<()> {
    let any = match distinct {
        Distinct::All(input) => {
            let mut fields = input.schema().fields().iter();
            fields.any(|field| holds_intervals(field.data_type()))
        }
        Distinct::On(DistinctOn { on_expr, input, .. }) => {
            let schema = input.schema();
            on_expr.iter().any(|expr| has_intervals(expr, schema))
        }
    };
    refused_if(any, "DISTINCT, or UNION without ALL,")
}

/// Which of its equal rows a `DISTINCT ON` shows goes by the keys, too. It begins its order with
/// what it is of.
fn distinct_on(mut distinct: Distinct) -> Transformed<LogicalPlan> {
    let mut changed = false;
    if let Distinct::On(DistinctOn {
        on_expr,
        sort_expr: Some(keys),
        input,
        ..
    }) = &mut distinct
    {
        let schema = input.schema();
        for (on, key) in on_expr.iter_mut().zip(keys.iter_mut()) {
            if let Ok(data_type) = on.get_type(schema) {
                changed |= as_key(on, &data_type);
                key.expr.clone_from(on);
            }
        }
        let rest = keys.get_mut(on_expr.len()..).unwrap_or_default();
        changed |= order(rest, schema);
    }
    Transformed::new_transformed(LogicalPlan::Distinct(distinct), changed)
}

fn has_intervals(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema)
        .is_ok_and(|data_type| holds_intervals(&data_type))
}

fn holds_intervals(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) => true,
        DataType::List(item) | DataType::LargeList(item) => holds_intervals(item.data_type()),
        DataType::Struct(fields) => fields
            .iter()
            .any(|field| holds_intervals(field.data_type())),
        _ => false,
    }
}

fn refused_if(refused: bool, what: &str) -> Result<()> {
    match refused {
        true => Err(DataFusionError::NotImplemented(format!(
            "{what} of intervals is not supported, as intervals of other parts may be equal ('1 month' \
             and '30 days'): take extract(epoch FROM i), their seconds, or the difference of two \
             timestamps"
        ))),
        false => Ok(()),
    }
}

/// Floats, whose zeros are all positive.
pub(super) fn one_zero(values: &dyn Array) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(|value| value + 0.0))
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(|value| value + 0.0))
        }
        other => return internal_err!("{other} is no float"),
    })
}
