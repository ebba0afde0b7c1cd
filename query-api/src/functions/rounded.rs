//! Casts to whole numbers round, as in PostgreSQL; Arrow's cut the fraction off.
//!
//! A decimal, and a number as it is written, is rounded half away from zero (`2.5` is 3), a float to
//! the even one of two that are as near.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Float32Type, Float64Type,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::compared::change;
use super::micros::to;
use super::single::Single;

/// See the module.
#[derive(Debug)]
pub(crate) struct RoundedCasts;

impl FunctionRewrite for RoundedCasts {
    fn name(&self) -> &'static str {
        "rounded_casts"
    }

    fn rewrite(
        &self,
        mut expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let (Expr::Cast(Cast { expr: value, field })
        | Expr::TryCast(TryCast { expr: value, field })) = &mut expr
        else {
            return Ok(Transformed::no(expr));
        };
        if !field.data_type().is_integer() {
            return Ok(Transformed::no(expr));
        }
        let whole: fn(Expr) -> Expr = match value.get_type(schema) {
            Ok(DataType::Float32 | DataType::Float64) => nearest,
            Ok(DataType::Decimal128(_, 1..)) => {
                |value| to(value, DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))
            }
            Ok(DataType::Decimal256(_, 1..)) => {
                |value| to(value, DataType::Decimal256(DECIMAL256_MAX_PRECISION, 0))
            }
            _ => return Ok(Transformed::no(expr)),
        };
        change(value, whole);
        Ok(Transformed::yes(expr))
    }
}

fn nearest(value: Expr) -> Expr {
    match value {
        Expr::Literal(ScalarValue::Float64(Some(value)), metadata) => {
            Expr::Literal(ScalarValue::Float64(Some(value.round())), metadata)
        }
        Expr::Negative(inner) if matches!(*inner, Expr::Literal(..)) => {
            Expr::Negative(Box::new(nearest(*inner)))
        }
        other => Single::Rounded.of(other),
    }
}

/// Of two whole numbers that are as near the even one.
pub(super) fn rounded(values: &dyn Array) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(f32::round_ties_even))
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(f64::round_ties_even))
        }
        other => return internal_err!("{other} is no float"),
    })
}
