//! Zeros of both signs in lists: `x IN (0.0, 3.0)` is to hold for `-0.0`, as `x = 0.0` does.
//!
//! DataFusion looks values of a list up by their bits. So a list that has a zero and is compared
//! with floats gets the other one, too.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, lit};

/// See the module.
#[derive(Debug)]
pub(crate) struct ZerosOfBothSigns;

impl FunctionRewrite for ZerosOfBothSigns {
    fn name(&self) -> &str {
        "zeros_of_both_signs"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let Expr::InList(mut list) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_float = |data_type: DataType| data_type.is_floating();
        if !list.list.iter().any(is_zero) || !list.expr.get_type(schema).is_ok_and(is_float) {
            return Ok(Transformed::no(Expr::InList(list)));
        }
        list.list.extend([lit(0.0), lit(-0.0)]);
        Ok(Transformed::yes(Expr::InList(list)))
    }
}

/// A literal that is zero as a float, whatever its type and sign.
fn is_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Negative(inner) => is_zero(inner),
        Expr::Cast(cast) => is_zero(&cast.expr),
        Expr::Literal(value, _) => matches!(
            value.cast_to(&DataType::Float64),
            Ok(ScalarValue::Float64(Some(value))) if value == 0.0
        ),
        _ => false,
    }
}
