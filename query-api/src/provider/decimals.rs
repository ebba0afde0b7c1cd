//! Decimals beside floats: `price = 8.61` is to find 8.61.
//!
//! A number with a point is a float, and DataFusion compares a decimal with a float as decimals of 15
//! digits behind the point, where 8.61 has become 8.609999999999999. So a literal becomes the decimal
//! that is written there; any other float is compared as a float, which holds every float and, where a
//! decimal has more digits, is off by less than one in its sixteenth.

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, cast, lit};

/// See the module.
#[derive(Debug)]
pub(crate) struct DecimalsBesideFloats;

impl FunctionRewrite for DecimalsBesideFloats {
    fn name(&self) -> &str {
        "decimals_beside_floats"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
                let mut sides = vec![*left, *right];
                let changed = matched(&mut sides, schema);
                let mut sides = sides.into_iter();
                let (Some(left), Some(right)) = (sides.next(), sides.next()) else {
                    return datafusion::common::internal_err!("a comparison has two sides");
                };
                let expr = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
                Ok(Transformed::new_transformed(expr, changed))
            }
            Expr::Between(mut between) => {
                let sides = [&mut between.expr, &mut between.low, &mut between.high];
                let mut taken: Vec<Expr> = sides.into_iter().map(|side| take(side)).collect();
                let changed = matched(&mut taken, schema);
                let mut taken = taken.into_iter();
                for side in [&mut between.expr, &mut between.low, &mut between.high] {
                    if let Some(value) = taken.next() {
                        **side = value;
                    }
                }
                Ok(Transformed::new_transformed(
                    Expr::Between(between),
                    changed,
                ))
            }
            Expr::InList(mut list) => {
                let mut sides = vec![take(&mut list.expr)];
                sides.append(&mut list.list);
                let changed = matched(&mut sides, schema);
                let rest = sides.split_off(1);
                if let Some(expr) = sides.pop() {
                    *list.expr = expr;
                }
                list.list = rest;
                Ok(Transformed::new_transformed(Expr::InList(list), changed))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(
        op,
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom
    )
}

fn take(side: &mut Expr) -> Expr {
    std::mem::replace(side, lit(ScalarValue::Null))
}

/// Makes values that are compared with each other of one kind: decimals where that loses nothing,
/// else floats. True where something changed.
fn matched(sides: &mut [Expr], schema: &DFSchema) -> bool {
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
            false => Some(side.clone()),
        })
        .collect();
    if let Some(exact) = exact.into_iter().collect::<Option<Vec<_>>>() {
        sides.clone_from_slice(&exact);
        return true;
    }
    for (side, data_type) in sides.iter_mut().zip(&types) {
        if is_decimal(data_type) {
            let value = take(side);
            *side = cast(value, DataType::Float64);
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
