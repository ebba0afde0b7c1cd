//! Time in microseconds, years 1 to 9999.
//!
//! Our columns count microseconds; DataFusion's functions, text literals and dates become
//! nanoseconds as soon as they meet a timestamp, and those end in 2262: one `9999-12-31` (every
//! `valid_to`) and the whole query fails. So two steps stand around DataFusion's coercion of types:
//!
//! ```text
//!  sources ─────────► coercion of types ─► casts
//!  what makes nanoseconds                  what was cast to nanoseconds
//!  is cast to microseconds                 is cast to microseconds
//! ```
//! Columns of nanoseconds, which foreign files may have, and values that are asked for in
//! nanoseconds keep them: a statement that has any is left to the coercion as it is.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use tidelake_schema::arrow::UTC;

use super::one_zone;
use super::steps::steps_in;
use super::trunc::zoned_trunc;
use super::zones::{casts_in, has_clocks, session_zone, tables_in};

/// Functions that only take nanoseconds.
const NANOS_ONLY: [&str; 2] = ["range", "generate_series"];

/// 1969-12-29, when a week began.
const MONDAY_US: i64 = -3 * 86_400_000_000;
/// Functions that are asked for nanoseconds by their name or argument.
const NANOS_ASKED: [&str; 5] = [
    "arrow_cast",
    "arrow_try_cast",
    "cast_to_type",
    "to_timestamp_nanos",
    "try_cast_to_type",
];

/// DataFusion's coercion of types, to microseconds.
#[derive(Debug, Default)]
pub(super) struct MicrosCoercion(TypeCoercion);

impl AnalyzerRule for MicrosCoercion {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = series_in_micros(plan)?;
        let zone = session_zone(config);
        let plan = match &zone {
            Some(zone) => {
                let plan = tables_in(plan, zone)?;
                one_zone::check_asked(&plan)?;
                plan
            }
            None => plan,
        };
        let keeps_nanos = has_nanos(&plan)?;
        let plan = rewrite(plan, &|expr, schema| {
            expr.transform_up(|expr| Ok(source(expr, schema, zone.as_ref())))
        })?;
        let mut plan = self.0.analyze(plan, config)?;
        if !keeps_nanos {
            plan = rewrite(plan, &|expr, _| expr.transform_down(|expr| Ok(cast(expr))))?;
        }
        if let Some(zone) = &zone {
            one_zone::check_types(&plan, zone)?;
        } else if !has_zone(&plan)? {
            return Ok(plan);
        }
        casts_in(steps_in(plan)?, zone.as_ref())
    }
}

/// `generate_series(…)` and `range(…)` of dates and timestamps in `FROM` count nanoseconds.
fn series_in_micros(plan: LogicalPlan) -> Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::TableScan(scan) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let name = scan.table_name.clone();
        let of_series = NANOS_ONLY
            .iter()
            .any(|series| name.table().strip_suffix("()").unwrap_or(name.table()) == *series);
        let fields = plan.schema().fields();
        if !of_series
            || !fields
                .iter()
                .any(|field| micros(field.data_type()).is_some())
        {
            return Ok(Transformed::no(plan));
        }
        columns_as(plan, &name, micros)
    });
    Ok(changed?.data)
}

/// A table's columns under other types, where `other` has one: casts above its scan.
pub(super) fn columns_as(
    scan: LogicalPlan,
    name: &TableReference,
    other: impl Fn(&DataType) -> Option<DataType>,
) -> Result<Transformed<LogicalPlan>> {
    let columns = scan.schema().fields().iter().map(|field| {
        let column = Expr::Column(Column::new(Some(name.clone()), field.name()));
        match other(field.data_type()) {
            Some(data_type) => {
                to(column, data_type).alias_qualified(Some(name.clone()), field.name())
            }
            None => column,
        }
    });
    let columns: Vec<_> = columns.collect();
    let cast = LogicalPlanBuilder::from(scan).project(columns)?.build()?;
    // Its input must not be changed again.
    Ok(Transformed::new(cast, true, TreeNodeRecursion::Jump))
}

/// Whether the statement reads or asks for nanoseconds.
fn has_nanos(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && !scan.table_name.table().ends_with("()")
        {
            let fields = node.schema().fields();
            found |= fields.iter().any(|field| counts_nanos(field.data_type()));
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found |= match expr {
                    // With a zone, it is an AT TIME ZONE.
                    Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) => {
                        matches!(
                            field.data_type(),
                            DataType::Timestamp(TimeUnit::Nanosecond, None)
                        )
                    }
                    Expr::ScalarFunction(function) => NANOS_ASKED.contains(&function.func.name()),
                    _ => false,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// Whether an `AT TIME ZONE` of the statement names a zone whose clocks are not UTC's.
fn has_zone(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found |= match expr {
                    Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) => {
                        has_clocks(field.data_type())
                    }
                    _ => false,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

fn counts_nanos(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            counts_nanos(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| counts_nanos(field.data_type())),
        _ => false,
    }
}

/// Rewrites every expression of a plan from below; names stay.
pub(super) fn rewrite(
    plan: LogicalPlan,
    change: &dyn Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>,
) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|plan| {
        let mut schema = merge_schema(&plan.inputs());
        if let LogicalPlan::TableScan(scan) = &plan {
            let source = scan.source.schema();
            schema.merge(&DFSchema::try_from_qualified_schema(
                scan.table_name.clone(),
                &source,
            )?);
        }
        let names = NamePreserver::new(&plan);
        let named = |expr: Expr| {
            let name = names.save(&expr);
            let changed = change(expr, &schema)?;
            Ok(changed.update_data(|expr| name.restore(expr)))
        };
        plan.map_expressions(|expr| match expr {
            // The columns of a GROUP BY are what stands in its sets.
            sets @ Expr::GroupingSet(_) => sets.map_children(named),
            other => named(other),
        })?
        .map_data(|plan| plan.recompute_schema())
    });
    Ok(rewritten?.data)
}

fn source(expr: Expr, schema: &DFSchema, zone: Option<&Arc<str>>) -> Transformed<Expr> {
    let Expr::ScalarFunction(function) = &expr else {
        return Transformed::no(expr);
    };
    if let Some(expr) = parsed(function, schema, zone) {
        return Transformed::yes(expr);
    }
    let nanos = |arg: &Expr| arg.get_type(schema).is_ok_and(|of| counts_nanos(&of));
    if NANOS_ASKED.contains(&function.func.name()) || function.args.iter().any(nanos) {
        return Transformed::no(expr);
    }
    // What has no type here is refused by the coercion of types.
    match expr.get_type(schema).ok().as_ref().and_then(micros) {
        Some(data_type) => Transformed::yes(to(expr, data_type)),
        None => Transformed::no(expr),
    }
}

/// What a function makes of its argument without nanoseconds on the way.
fn parsed(function: &ScalarFunction, schema: &DFSchema, zone: Option<&Arc<str>>) -> Option<Expr> {
    use TimeUnit::{Microsecond, Millisecond, Second};
    let name = function.func.name();
    match (name, function.args.as_slice()) {
        ("to_unixtime", [time]) if is_time(time, schema) => {
            // The second that has begun, before 1970, too.
            let begin = zoned_trunc("second")?;
            let args = vec![to(time.clone(), instants(zone))];
            let begun = Expr::ScalarFunction(ScalarFunction { func: begin, args });
            let func = Arc::clone(&function.func);
            let args = vec![begun];
            Some(Expr::ScalarFunction(ScalarFunction { func, args }))
        }
        ("date_trunc", [part, time]) => {
            let zone = match time.get_type(schema).ok()? {
                DataType::Timestamp(TimeUnit::Nanosecond, _) => return None,
                DataType::Timestamp(_, Some(zone)) if *zone == *UTC => Some(zone),
                DataType::Timestamp(_, zone @ Some(_)) => {
                    let Expr::Literal(part, _) = part else {
                        return None;
                    };
                    let func = zoned_trunc(part.try_as_str()??)?;
                    let args = vec![to(time.clone(), DataType::Timestamp(Microsecond, zone))];
                    return Some(Expr::ScalarFunction(ScalarFunction { func, args }));
                }
                DataType::Date32 => None,
                DataType::Timestamp(_, None) if bins_of(part).is_some() => None,
                _ => return None,
            };
            // In UTC the day begins where it begins without a zone.
            let bare = to(time.clone(), DataType::Timestamp(Microsecond, None));
            let bare = match bins_of(part) {
                // The function itself counts days of longer parts in nanoseconds.
                Some((width, origin)) => {
                    let func = super::date_bin();
                    let args = vec![lit(width), bare, lit(origin)];
                    Expr::ScalarFunction(ScalarFunction { func, args })
                }
                None => {
                    let func = Arc::clone(&function.func);
                    let args = vec![part.clone(), bare];
                    Expr::ScalarFunction(ScalarFunction { func, args })
                }
            };
            Some(to(bare, DataType::Timestamp(Microsecond, zone)))
        }
        (
            "to_timestamp" | "to_timestamp_micros" | "to_timestamp_millis" | "to_timestamp_seconds",
            [value],
        ) => {
            let unit = match name {
                "to_timestamp_millis" => Millisecond,
                "to_timestamp_seconds" => Second,
                _ => Microsecond,
            };
            let expr = Expr::ScalarFunction(function.clone());
            let DataType::Timestamp(_, zone) = expr.get_type(schema).ok()? else {
                return None;
            };
            let target = |unit| DataType::Timestamp(unit, zone.clone());
            let found = value.get_type(schema).ok()?;
            if is_text(value, schema) || matches!(found, DataType::Date32 | DataType::Timestamp(..))
            {
                return Some(to(to(value.clone(), target(Microsecond)), target(unit)));
            }
            if found.is_integer() && name == "to_timestamp" {
                let seconds = to(value.clone(), DataType::Int64);
                return Some(to(to(seconds, target(Second)), target(Microsecond)));
            }
            if found.is_floating() && name == "to_timestamp" {
                let micros = to(value.clone(), DataType::Float64) * lit(1e6);
                let func = datafusion::functions::math::round();
                let args = vec![micros];
                let whole = Expr::ScalarFunction(ScalarFunction { func, args });
                return Some(to(to(whole, DataType::Int64), target(Microsecond)));
            }
            None
        }
        _ => None,
    }
}

/// How wide a part of more than a day is, and when one began.
fn bins_of(part: &Expr) -> Option<(ScalarValue, ScalarValue)> {
    let Expr::Literal(part, _) = part else {
        return None;
    };
    let (months, days) = match part.try_as_str()??.to_lowercase().as_str() {
        "week" => (0, 7),
        "month" => (1, 0),
        "quarter" => (3, 0),
        "year" => (12, 0),
        _ => return None,
    };
    let origin = match days {
        0 => 0,
        _ => MONDAY_US,
    };
    let width = ScalarValue::new_interval_mdn(months, days, 0);
    Some((width, ScalarValue::TimestampMicrosecond(Some(origin), None)))
}

/// What names an instant: in the session's zone, where it names none itself.
fn is_time(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|found| {
        let dated = matches!(found, DataType::Date32 | DataType::Timestamp(..));
        dated || is_text_type(&found)
    })
}

fn instants(zone: Option<&Arc<str>>) -> DataType {
    let zone = zone.map_or_else(|| UTC.into(), Arc::clone);
    DataType::Timestamp(TimeUnit::Microsecond, Some(zone))
}

fn is_text(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema)
        .is_ok_and(|found| is_text_type(&found))
}

pub(super) fn is_text_type(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

fn cast(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::ScalarFunction(function) if NANOS_ONLY.contains(&function.func.name()) => {
            let expr = Expr::ScalarFunction(function);
            Transformed::new(expr, false, TreeNodeRecursion::Jump)
        }
        Expr::Cast(Cast { expr, field }) => match micros(field.data_type()) {
            Some(data_type) => Transformed::yes(Expr::Cast(Cast {
                expr,
                field: Arc::new(Field::clone(&field).with_data_type(data_type)),
            })),
            None => Transformed::no(Expr::Cast(Cast { expr, field })),
        },
        Expr::TryCast(TryCast { expr, field }) => match micros(field.data_type()) {
            Some(data_type) => Transformed::yes(Expr::TryCast(TryCast {
                expr,
                field: Arc::new(Field::clone(&field).with_data_type(data_type)),
            })),
            None => Transformed::no(Expr::TryCast(TryCast { expr, field })),
        },
        Expr::Literal(ScalarValue::TimestampNanosecond(value, zone), metadata) => {
            let micros = value.map(|value| value.div_euclid(1_000));
            let value = ScalarValue::TimestampMicrosecond(micros, zone);
            Transformed::yes(Expr::Literal(value, metadata))
        }
        other => Transformed::no(other),
    }
}

fn micros(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        DataType::List(item) => {
            let item_type = micros(item.data_type())?;
            let item = Field::clone(item).with_data_type(item_type);
            Some(DataType::List(Arc::new(item)))
        }
        _ => None,
    }
}

pub(super) fn to(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), data_type))
}
