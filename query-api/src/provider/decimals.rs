//! Decimals beside floats: `price = 8.61` is to find 8.61.
//!
//! A number with a point is a float, and DataFusion compares a decimal with a float as decimals of 15
//! digits behind the point, where 8.61 has become 8.609999999999999. So a literal becomes the decimal
//! that is written there; any other float is compared as a float, which holds every float and, where a
//! decimal has more digits, is off by less than one in its sixteenth. So it is in sums and products,
//! which are decimals then, as in PostgreSQL.

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::functions::compared::{change, values_compared};

/// See the module.
#[derive(Debug)]
pub(crate) struct DecimalsBesideFloats;

impl FunctionRewrite for DecimalsBesideFloats {
    fn name(&self) -> &str {
        "decimals_beside_floats"
    }

    fn rewrite(
        &self,
        mut expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let changed = matched(&mut values_compared(&mut expr), schema);
        Ok(Transformed::new_transformed(expr, changed))
    }
}

impl ExprPlanner for DecimalsBesideFloats {
    /// A sum, product or rest of a decimal and a literal is a decimal. A quotient would have fewer
    /// digits as one.
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let sides = match operator(&op) {
            Some(operator) => exact_sides(&left, operator, &right, schema),
            None => None,
        };
        let (left, right) = sides.unwrap_or((left, right));
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn operator(op: &BinaryOperator) -> Option<Operator> {
    match op {
        BinaryOperator::Plus => Some(Operator::Plus),
        BinaryOperator::Minus => Some(Operator::Minus),
        BinaryOperator::Multiply => Some(Operator::Multiply),
        BinaryOperator::Modulo => Some(Operator::Modulo),
        _ => None,
    }
}

/// Both sides as decimals, where one is a decimal, the other a literal, and the value fits.
fn exact_sides(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Option<(Expr, Expr)> {
    let is_decimal = |side: &Expr| side.get_type(schema).is_ok_and(|of| of.is_decimal());
    let (left, right) = match (decimal_of(left), decimal_of(right)) {
        (None, Some(right)) if is_decimal(left) => (left.clone(), right),
        (Some(left), None) if is_decimal(right) => (left, right.clone()),
        _ => return None,
    };
    let (of_left, of_right) = (left.get_type(schema).ok()?, right.get_type(schema).ok()?);
    let found = BinaryTypeCoercer::new(&of_left, &op, &of_right).get_result_type();
    found.is_ok().then_some((left, right))
}

/// Makes values that are compared with each other of one kind: decimals where that loses nothing,
/// else floats. True where something changed.
fn matched(sides: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types: Vec<Option<DataType>> = sides
        .iter()
        .map(|side| side.get_type(schema).ok())
        .collect();
    let is_decimal = |data_type: &Option<DataType>| {
        let decimal = data_type.as_ref().map(DataType::is_decimal);
        decimal.unwrap_or(false)
    };
    let is_float = |data_type: &Option<DataType>| {
        let float = data_type.as_ref().map(DataType::is_floating);
        float.unwrap_or(false)
    };
    if !types.iter().any(is_decimal) || !types.iter().any(is_float) {
        return false;
    }
    let exact: Vec<Option<Expr>> = sides
        .iter()
        .zip(&types)
        .map(|(side, data_type)| match is_float(data_type) {
            true => decimal_of(side),
            false => Some(Expr::clone(side)),
        })
        .collect();
    if let Some(exact) = exact.into_iter().collect::<Option<Vec<_>>>() {
        for (side, exact) in sides.iter_mut().zip(exact) {
            **side = exact;
        }
        return true;
    }
    for (side, data_type) in sides.iter_mut().zip(&types) {
        if is_decimal(data_type) {
            change(side, |side| cast(side, DataType::Float64));
        }
    }
    true
}

/// The decimal that a float literal is written as, if it has one.
fn decimal_of(expr: &Expr) -> Option<Expr> {
    let value = match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value,
        Expr::Negative(inner) => match inner.as_ref() {
            Expr::Literal(ScalarValue::Float64(Some(value)), _) => -*value,
            _ => return None,
        },
        _ => return None,
    };
    if !value.is_finite() {
        return None;
    }
    // The shortest text that reads as this float is what was written.
    let text = value.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let unscaled: i128 = format!("{whole}{fraction}").parse().ok()?;
    let digits = unscaled
        .unsigned_abs()
        .to_string()
        .len()
        .max(fraction.len() + 1);
    let precision = u8::try_from(digits).ok()?;
    let scale = i8::try_from(fraction.len()).ok()?;
    // Together with the other side's digits it must still fit.
    (precision <= DECIMAL128_MAX_PRECISION / 2)
        .then(|| lit(ScalarValue::Decimal128(Some(unscaled), precision, scale)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_float_is_the_decimal_that_was_written() {
        for (value, wanted) in [
            (8.61, Some((861, 3, 2))),
            (-0.5, Some((-5, 2, 1))),
            (100.0, Some((100, 3, 0))),
            (0.001, Some((1, 4, 3))),
            (1e300, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            let wanted = wanted.map(|(unscaled, precision, scale)| {
                lit(ScalarValue::Decimal128(Some(unscaled), precision, scale))
            });
            assert_eq!(decimal_of(&lit(value)), wanted, "{value}");
        }
    }
}
