//! Lists and texts of windows: one for every row, of up to every row.
//!
//! `array_agg(x) OVER (ORDER BY x)` over a hundred thousand rows is a hundred thousand lists of fifty
//! thousand items: the pool counts what an accumulator holds, not what it hands out for each row of a
//! batch. Such a window needs a frame that is small by its text.
//!
//! And of what instants are within days of each other, by clocks that are changed: DataFusion makes
//! a frame without an end where such a step ends on a time that the clocks skip.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, WindowFrame, WindowFrameBound, WindowFrameUnits,
};
use datafusion::optimizer::AnalyzerRule;

use super::zones::has_clocks;

/// Aggregates whose value has a part of every row.
const GATHERING: [&str; 2] = ["array_agg", "string_agg"];
/// Rows of a frame: with 8,192 rows in a batch, some MiB of numbers.
const FRAME_ROWS_MAX: u64 = 100;

/// Refuses windows that would gather more than a few rows for each, or go by clocks.
#[derive(Debug)]
pub(super) struct SmallFrames;

impl AnalyzerRule for SmallFrames {
    fn name(&self) -> &'static str {
        "small_frames"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::Window(window) = node {
                for expr in &window.window_expr {
                    expr.apply(|expr| {
                        if let Expr::WindowFunction(function) = expr {
                            check(function)?;
                            check_clocks(function, window.input.schema())?;
                        }
                        Ok(TreeNodeRecursion::Continue)
                    })?;
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }
}

fn check(function: &WindowFunction) -> Result<()> {
    let name = function.fun.name();
    let frame = &function.params.window_frame;
    if !GATHERING.contains(&name) || rows(frame).is_some_and(|rows| rows <= FRAME_ROWS_MAX) {
        return Ok(());
    }
    Err(DataFusionError::NotImplemented(format!(
        "{name} over a window makes a value of many rows for every row: give it a frame of at most \
         {FRAME_ROWS_MAX} rows, such as ROWS BETWEEN {} PRECEDING AND CURRENT ROW, or join the rows \
         with the {name} of their group",
        FRAME_ROWS_MAX - 1
    )))
}

/// Refuses a frame of days or months by the clocks of a zone that changes them.
fn check_clocks(function: &WindowFunction, schema: &DFSchema) -> Result<()> {
    let params = &function.params;
    let frame = &params.window_frame;
    let first = params.order_by.first();
    let by = first.and_then(|first| first.expr.get_type(schema).ok());
    let changes = match &by {
        Some(by @ DataType::Timestamp(_, Some(zone))) => {
            has_clocks(by) && !zone.starts_with(['+', '-'])
        }
        _ => false,
    };
    let steps = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(ScalarValue::IntervalMonthDayNano(Some(step)))
        | WindowFrameBound::Following(ScalarValue::IntervalMonthDayNano(Some(step))) => {
            step.months != 0 || step.days != 0
        }
        _ => false,
    };
    if !changes || frame.units != WindowFrameUnits::Range {
        return Ok(());
    }
    match steps(&frame.start_bound) || steps(&frame.end_bound) {
        true => Err(DataFusionError::NotImplemented(
            "a RANGE of days or months of instants is not supported in a time zone whose clocks are \
             changed: write so many hours (INTERVAL '24 hours'), order by what the clocks show \
             (ORDER BY z::timestamp), or leave time_zone out"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Rows of the frame at most, where its text says so.
fn rows(frame: &WindowFrame) -> Option<u64> {
    if frame.units != WindowFrameUnits::Rows {
        return None;
    }
    let place = |bound: &WindowFrameBound| {
        let distance = |value: &ScalarValue| match value {
            ScalarValue::UInt64(Some(rows)) => i64::try_from(*rows).ok(),
            _ => None,
        };
        match bound {
            WindowFrameBound::Preceding(value) => distance(value).map(|rows| -rows),
            WindowFrameBound::CurrentRow => Some(0),
            WindowFrameBound::Following(value) => distance(value),
        }
    };
    let (start, end) = (place(&frame.start_bound)?, place(&frame.end_bound)?);
    u64::try_from(end.saturating_sub(start).saturating_add(1).max(0)).ok()
}
